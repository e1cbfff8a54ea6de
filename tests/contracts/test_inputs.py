"""A flow whose tasks change what they are given gives the same values wherever, and however, it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.changing_tasks import changing_flow

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with a timeout": {"timeout": 60},
    "one element a chunk": {"chunksize": 1},
    "in processes": {"isolation": "process"},
    "with retries": {"max_retries": 1},
    "in processes with retries": {"isolation": "process", "max_retries": 1},
}


def differing(view: Any, expected: dict[str, Any]) -> dict[str, Any]:
    """Values that are not as they should be, with what was expected, by slug."""
    found = {slug: view[slug].result if view[slug].is_successful() else view[slug].message for slug in expected}
    return {slug: (found[slug], right) for slug, right in expected.items() if found[slug] != right}


@pytest.mark.parametrize("how", OPTIONS)
def test_no_task_sees_what_another_has_done_to_an_input(executor: Any, how: str) -> None:
    flow, expected = changing_flow(**OPTIONS[how])

    view = flow.run(executor=executor, keep="all")

    assert differing(view, expected) == {}


def test_nor_does_one_that_goes_on_after_a_kill(executor: Any, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    subprocess.run([sys.executable, "-m", "tests.changing_tasks", str(killed)], check=False, timeout=60)
    flow, expected = changing_flow(killed=str(killed))

    view = flow.run(executor=executor, resume=killed.read_text(), keep="all")

    assert differing(view, expected) == {}

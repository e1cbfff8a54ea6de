"""A flow in a package, whose modules import each other: the same by each name, for each command, from any directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = {
    "shop/__init__.py": "",
    "shop/helpers.py": """
import os

def helped(n):
    if os.path.exists(os.environ["BROKEN"]):
        raise ValueError("so it is")
    return n + 1
""",
    "shop/flows/__init__.py": "",
    "shop/flows/names.py": "TITLE = 'title'",
    "shop/flows/etl.py": """
from anabranch import Flow, task
from ..helpers import helped
from . import names

@task
def work(n):
    return helped(n)

@task
def show(n):
    print(names.TITLE, n)

with Flow("etl") as flow:
    show(work.map([1, 2]))
""",
}


@pytest.mark.parametrize(
    ("place", "target", "elsewhere"),
    [
        ("shop/flows", "etl.py:flow", "away"),
        ("away", "{root}/shop/flows/etl.py", "shop"),
        ("", "shop.flows.etl:flow", "shop/flows"),
    ],
)
def test_a_flow_in_a_package_is_the_same_by_each_name(tmp_path: Path, place: str, target: str, elsewhere: str):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "away").mkdir()
    broken = tmp_path / "broken"
    environment = {**os.environ, "BROKEN": str(broken), "ANABRANCH__BACKEND": f"sqlite:///{tmp_path}/runs.db"}
    target = target.format(root=tmp_path)

    def anabranch(directory: str, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "anabranch", *words],
            cwd=tmp_path / directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    broken.touch()
    assert "ValueError: so it is" in anabranch(place, "run", target, code=1)
    (run_id,) = [each["run_id"] for each in json.loads(anabranch(elsewhere, "ls", "--json"))]
    assert "so it is" in anabranch(elsewhere, "replay", run_id, "work[0]", code=1)
    broken.unlink()
    anabranch(elsewhere, "resume", run_id)
    anabranch(place, "register", target)
    assert "title [2, 3]" in anabranch(elsewhere, "run", "etl")

"""What a `DaskExecutor` makes of what a scheduler says."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch.executors.dask import DaskExecutor, slots_of


def worker(status: str, **counts: int) -> dict[str, Any]:
    return {"status": status, "nthreads": 4, "metrics": {"task_counts": counts}}


@pytest.mark.parametrize(
    ("said", "slots"),
    [
        (worker("running", executing=1), 4),
        (worker("paused"), 0),
        (worker("paused", memory=9), 0),
        (worker("paused", executing=1, memory=9), 1),
        (worker("closing_gracefully", executing=1, **{"long-running": 1}), 2),
        ({"status": "paused", "nthreads": 4}, 0),
    ],
)
def test_a_worker_that_begins_nothing_has_the_slots_that_are_busy(said: dict[str, Any], slots: int) -> None:
    assert slots_of(said) == slots


def test_what_there_is_instead_of_slots_is_named() -> None:
    executor = DaskExecutor("tcp://127.0.0.1:8786")
    assert executor.shortage() == ("no workers", "start one with `dask worker`")
    executor._idle = {"tcp://127.0.0.1:1": "paused"}
    found, cure = executor.shortage()
    assert found == "no worker that begins anything: tcp://127.0.0.1:1 is paused"
    assert cure == "a paused worker lacks memory: restart it, or give it more"
    executor._idle = dict.fromkeys(["tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3"], "paused")
    assert executor.shortage()[0].endswith("tcp://127.0.0.1:1 is paused (+2 others)")

"""The nursery: what it is told and tells, and what becomes of runs when it cannot be had."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anabranch import config
from anabranch.runs.store.slots import Slot
from anabranch.service.work.messages import FAILED, Exit
from anabranch.service.work.processes import Processes

SLOT = Slot("run-1", "etl", datetime(2026, 1, 1, tzinfo=UTC), token="t")


def heard(processes: Processes, woken: threading.Event) -> list[Exit]:
    assert woken.wait(60)
    woken.clear()
    return processes.exits()


def test_a_nursery_that_cannot_be_started_is_an_end_of_the_run_and_no_error(monkeypatch: pytest.MonkeyPatch):
    def refuses(*args: Any, **kwargs: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuses)
    woken = threading.Event()
    processes = Processes(woken.set)
    processes.start(SLOT)
    assert heard(processes, woken) == [Exit("run-1", FAILED)]


def test_the_end_of_a_process_is_heard_and_a_nursery_that_died_is_replaced(tmp_path: Path):
    woken = threading.Event()
    processes = Processes(woken.set)
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        try:
            processes.start(SLOT)  # nobody has claimed it, so its process has nothing to do
            assert heard(processes, woken) == [Exit("run-1", 0)]
            first = processes.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            while processes.pid == first:
                processes.start(SLOT)
                heard(processes, woken)
        finally:
            processes.close()

"""The nursery: what it is told and tells, and what becomes of runs when it cannot be had."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anabranch import config
from anabranch.runs.store.slots import Slot
from anabranch.service.work.messages import FAILED, UNBORN, Exit
from anabranch.service.work.processes import NURSERY, Processes, is_process_of_runs

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
    assert heard(processes, woken) == [Exit("run-1", "t", FAILED)]


def test_the_end_of_a_process_is_heard_and_a_nursery_that_died_is_replaced(tmp_path: Path):
    woken = threading.Event()
    processes = Processes(woken.set)
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        try:
            processes.start(SLOT)  # nobody has claimed it, so its process has nothing to do
            assert heard(processes, woken) == [Exit("run-1", "t", 0)]
            first = processes.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            while processes.pid == first:
                processes.start(SLOT)
                heard(processes, woken)
        finally:
            processes.close()


class Nurseries(Processes):
    """Nurseries that are scripts of a test's own."""

    def __init__(self, woken: threading.Event, script: str) -> None:
        super().__init__(woken.set)
        self._command = [sys.executable, "-c", script]


def test_a_nursery_that_ends_before_it_is_ready_is_an_end_of_the_run_that_is_told_of(caplog: pytest.LogCaptureFixture):
    woken = threading.Event()
    processes = Nurseries(woken, "raise SystemExit(3)")
    processes.start(SLOT)
    (end,) = heard(processes, woken)
    assert "the process that starts runs ended before it was ready" in end.words or end.code == FAILED
    while processes.is_well:  # the thread that listens is about to say so
        woken.wait(0.01)
    assert "the process that starts runs ended with 3 before it was ready" in caplog.text
    processes.close()


def test_a_nursery_that_never_is_ready_is_killed(monkeypatch: pytest.MonkeyPatch):
    woken = threading.Event()
    processes = Nurseries(woken, "import time; time.sleep(600)")
    processes.start(SLOT)
    assert processes.is_well
    monkeypatch.setattr("anabranch.service.work.processes.READY_S", 0.0)
    assert not processes.is_well
    assert processes.exits() == []
    assert [end.code for end in heard(processes, woken)] == [UNBORN]
    processes.close()


def test_runs_of_a_nursery_that_was_replaced_are_told_of_as_well(tmp_path: Path):
    woken = threading.Event()
    processes = Processes(woken.set)
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        try:
            processes.open()
            assert processes.pid is not None
            os.kill(processes.pid, signal.SIGSTOP)
            processes.start(SLOT)
            os.kill(processes.pid, signal.SIGKILL)
            processes.start(replace(SLOT, run_id="run-2"))
            found: set[str] = set()
            while found != {"run-1", "run-2"}:
                found |= {end.run_id for end in heard(processes, woken)}
        finally:
            processes.close()


@pytest.mark.parametrize("name", ["email", "queue", "types", "anabranch", "psutil"])
def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    (tmp_path / f"{name}.py").write_text("raise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    woken = threading.Event()
    processes = Processes(woken.set)
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        try:
            processes.start(SLOT)
            assert heard(processes, woken) == [Exit("run-1", "t", 0)]
            assert processes.is_well
        finally:
            processes.close()


def test_a_process_of_runs_is_known_by_its_command_and_host():
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", NURSERY]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            name = f"{socket.gethostname()}:{process.pid}"
            assert is_process_of_runs(name)
            assert not is_process_of_runs(f"elsewhere:{process.pid}")
            assert not is_process_of_runs(f"{socket.gethostname()}:{os.getpid()}")  # of another kind
            assert not is_process_of_runs("no name of a process")
        finally:
            process.kill()
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_process_of_runs(name)  # it has ended, and nobody has asked how

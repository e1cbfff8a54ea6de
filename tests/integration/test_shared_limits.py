"""A limit that drivers in several processes share: counted by what their tasks do, also when one is killed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.limited_driver import LimitedDrivers, ended

from anabranch.runs.store.permit_table import PermitTable
from anabranch.runs.store.sqlite import SQLiteRunStore


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Drivers of a test: those that are left are killed after it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something is so; the process must not end before."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_what_a_killed_driver_held_goes_to_one_that_waits(tmp_path: Path, started: list[subprocess.Popen[str]]):
    drivers = LimitedDrivers(tmp_path, f"sqlite:///{tmp_path}/runs.db", size=1)
    holder = drivers.start(width=1, holds=True, lease_s=3.0)
    started.append(holder)
    wait_for(lambda: drivers.ledger() == [("begin", holder.pid)], holder)

    waiter = drivers.start(width=2)
    started.append(waiter)
    with SQLiteRunStore(tmp_path / "runs.db") as store:
        table = PermitTable(store.database)
        wait_for(lambda: any(limit.waiters for limit in table.all()), waiter)
        assert [word for word, _ in drivers.ledger()] == ["begin"]
        holder.send_signal(signal.SIGKILL)

        assert ended(waiter) == "Success"

        assert drivers.ledger()[1:] == [("begin", waiter.pid), ("end", waiter.pid)] * 2
        assert table.all() == []

"""What limits and rates must do on every executor, in plain and async maps, single tasks and deferred calls."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anabranch
from anabranch import Flow, task, unmapped

HOSTS = ["a", "b", "a", "c"] * 6


THREADS = 4  # of the executor with threads


@pytest.fixture(params=["none", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    url = "none" if request.param == "none" else f"sqlite:///{tmp_path}/runs.db"
    with anabranch.config.set(backend=url):
        yield


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return str(tmp_path / "ledger")


def note(ledger: str, text: str) -> None:
    """One write is one line, whoever else writes."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text} {time.time()}\n".encode())
    os.close(descriptor)


@task(concurrency={"{host}": 1})
def visit(host: str, ledger: str) -> str:
    note(ledger, f"begin {host}")
    note(ledger, f"end {host}")
    return host


@task(concurrency={"{host}": 1})
async def visit_async(host: str, ledger: str) -> str:
    note(ledger, f"begin {host}")
    await asyncio.sleep(0.001)
    note(ledger, f"end {host}")
    return host


@task(concurrency={"{host}": 1}, max_retries=2, retry_delay=0)
def visit_twice(host: str, ledger: str) -> str:
    note(ledger, f"begin {host}")
    note(ledger, f"end {host}")
    if anabranch.context.task_run_count == 1:
        raise OSError
    return host


@task
def as_list(hosts: list[str]) -> list[str]:
    return hosts


@task
def call(host: str, ledger: str) -> Any:
    return [visit(host, ledger), visit(host, ledger)]


def most_at_once(ledger: str) -> Counter[str]:
    now, most = Counter[str](), Counter[str]()
    for line in Path(ledger).read_text().splitlines():
        what, host, _ = line.split()
        now[host] += 1 if what == "begin" else -1
        most[host] = max(most[host], now[host])
    return most


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("visit", [visit, visit_async, visit_twice])
def test_limits_made_of_arguments_hold_by_argument(executor: Any, visit: Any, ledger: str) -> None:
    with Flow("hosts") as flow:
        visits = visit.map(as_list(HOSTS), unmapped(ledger))
        alone = visit("a", ledger)

    state = flow.run(executor=executor)

    assert state.result[visits].result == HOSTS
    assert state.result[alone].result == "a"
    assert most_at_once(ledger) == {"a": 1, "b": 1, "c": 1}


@task(concurrency={"{host}": 3}, chunksize=8)
async def visit_by_three(host: str, ledger: str) -> str:
    note(ledger, f"begin {host}")
    await asyncio.sleep(0.02)
    note(ledger, f"end {host}")
    return host


@task
def call_three(host: str, ledger: str) -> Any:
    return [visit_by_three(host, ledger) for _ in range(8)]


@pytest.mark.usefixtures("backend")
def test_as_many_elements_are_awaited_side_by_side_as_there_are_permits(executor: Any, ledger: str) -> None:
    with Flow("awaited") as flow:
        visits = visit_by_three.map(HOSTS, unmapped(ledger))
        called = call_three.map(["a", "b"], unmapped(ledger))

    state = flow.run(executor=executor)

    assert state.result[visits].result == HOSTS
    assert state.result[called].result == [["a"] * 8, ["b"] * 8]
    most = most_at_once(ledger)
    assert max(most.values()) == 3
    assert most["a"] == 3


@pytest.mark.usefixtures("backend")
def test_deferred_calls_have_limits_made_of_their_arguments(executor: Any, ledger: str) -> None:
    with Flow("calls") as flow:
        calls = call.map(["a", "b", "a"], unmapped(ledger))

    state = flow.run(executor=executor)

    assert state.result[calls].result == [["a", "a"], ["b", "b"], ["a", "a"]]
    assert most_at_once(ledger) == {"a": 1, "b": 1}


@task(rate={"api": (6, 0.3), "{host}": (4, 0.3)}, max_retries=2, retry_delay=0)
def ask(host: str, ledger: str) -> str:
    note(ledger, f"ask {host}")
    if anabranch.context.task_run_count == 1 and host == "b":
        raise OSError
    return host


@task
def call_ask(host: str, ledger: str) -> Any:
    return ask(host, ledger)


@pytest.mark.usefixtures("backend")
def test_rates_hold_for_maps_single_tasks_deferred_calls_and_retries(executor: Any, ledger: str) -> None:
    with Flow("rates") as flow:
        asked = ask.map(HOSTS, unmapped(ledger))
        alone = ask("a", ledger)
        called = call_ask.map(["a", "b"], unmapped(ledger))

    state = flow.run(executor=executor)

    assert state.result[asked].result == HOSTS
    assert (state.result[alone].result, state.result[called].result) == ("a", ["a", "b"])
    lines = [line.split() for line in Path(ledger).read_text().splitlines()]
    assert len(lines) == len(HOSTS) + 3 + HOSTS.count("b") + 1
    for count, times in (
        (6, [float(at) for _, _, at in lines]),
        *((4, [float(at) for _, host, at in lines if host == each]) for each in "abc"),
    ):
        times.sort()
        assert all(later - first >= 0.3 for first, later in zip(times, times[count:], strict=False))

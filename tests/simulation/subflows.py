"""Tasks of simulated worlds that run a flow of their own, in the worker's thread, with a record in the same store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tests import descriptions
from tests.simulation.parts import Doubles, world
from tests.simulation.world import Process

from anabranch import Flow, Parameter, context, task
from anabranch.executors import LocalExecutor
from anabranch.flows.subflows import child_run

ACT = "a flow"
DURATIONS_S = (0.0, 0.4, 1.5, 4.0)


class OwnThread(LocalExecutor):
    """Runs the tasks of a flow in the simulated thread that asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.doubles = Doubles(world(), lambda node: node)


@dataclass
class Ledger:
    """What is seen of the tasks of such flows.

    Parameters
    ----------
    report
        Is told what should not be, and of which task run.
    after_s
        From when on what has ended is not to run again.
    """

    report: Callable[[str, str], None]
    after_s: float
    ended: dict[tuple[str, str, int | None], tuple[float, Process]] = field(default_factory=dict)
    """Task runs that have returned a value: when, and in which process."""
    processes: list[Process] = field(default_factory=list)

    def begin(self, what: tuple[str, str, int | None]) -> None:
        """See a task begin: does it for the first time, as far as that is on record?"""
        here = world()
        assert here.current is not None
        process = here.current.process
        self.processes.append(process)
        ended, where = self.ended.get(what, (here.now, process))
        was_still = any(each.still_until > ended for each in self.processes)
        if not was_still and where.silent_from(ended, here.now) - ended > self.after_s:
            self.report("ran again", f"{what} had ended {here.now - ended:.2f} s before")

    def end(self, what: tuple[str, str, int | None]) -> None:
        """See it return."""
        here = world()
        assert here.current is not None
        if here.current.process.is_alive:
            self.ended.setdefault(what, (here.now, here.current.process))


_OUTER: ContextVar[str] = ContextVar("outer")
"""The task run, and the round of its loop, that runs a flow."""
LEDGERS: list[Ledger] = []
"""Of the world that is played."""


def _watched(run: Callable[[int], Any], n: int) -> Any:
    running = context.current()
    assert running is not None
    what = (_OUTER.get(), running.task_slug, running.map_index)
    LEDGERS[-1].begin(what)
    if seconds := DURATIONS_S[n % len(DURATIONS_S)]:
        world().sleep(seconds)
    value = run(n)
    LEDGERS[-1].end(what)
    return value


def _rows(n: int) -> list[int]:
    return list(range(n, n + n % 4))


def _double(n: int) -> int:
    if n % 5 == 0 and context.task_run_count == 1:
        raise ValueError("first attempt")
    return 2 * n


with Flow("below") as BELOW:
    n = Parameter("n")
    rows = task(lambda n: _watched(_rows, n), name="rows")(n)
    doubled = task(lambda x: _watched(_double, x), name="double", max_retries=1, retry_delay=0.3, chunksize=1).map(rows)
    TOTAL = task(lambda xs: sum(xs), name="total")(doubled)


def _run(n: int, given: Sequence[Any]) -> int:
    """The sum that the flow gives: by the flow in a world, and by itself for who wants to know what is right."""
    if not LEDGERS or world().current is None:
        return 2 * sum(_rows(n))
    outer = context.current()
    assert outer is not None
    token = _OUTER.set(f"{outer.idempotency_key}/{outer.task_loop_count}")
    try:
        total: int = child_run(BELOW, {"n": n}, OwnThread(), raises=True)[TOTAL].result
    finally:
        _OUTER.reset(token)
    return total


descriptions.ACTS[ACT] = _run

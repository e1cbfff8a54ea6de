"""What every chaos case needs: a row to fill, a place to run, a killer, and the check of what ran."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.killable_cluster import KillableCluster, kill, killable_cluster
from tests.ledger import Ledger, Pids, WatchedExecutor, complaints, lost_unreported, repeated

from anabranch import Flow
from anabranch.runs.view import FlowRunView

RECONNECT_S = 60.0
"""In place of 300: a run that hangs must not hold up the table."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    did: str
    expected: str
    found: str
    holds: bool
    kills: int = 0
    executions: int | None = None
    elements: int | None = None
    seconds: float | None = None
    fault_free_s: float | None = None


@dataclass
class Stage:
    """Where cases run."""

    folder: Path
    seed: int
    quick: bool = False
    _count: int = 0

    def chance(self, name: str) -> random.Random:
        """Random numbers of one case, the same each time for a seed."""
        return random.Random(f"{self.seed} {name}")

    def new_folder(self) -> Path:
        """An empty folder."""
        self._count += 1
        found = self.folder / str(self._count)
        found.mkdir()
        return found

    def new_ledger(self) -> Ledger:
        """An empty ledger."""
        return Ledger(self.new_folder() / "ledger")

    @contextmanager
    def cluster(self, **options: Any) -> Iterator[KillableCluster]:
        """A cluster of processes until the block ends."""
        with killable_cluster(self.new_folder(), **options) as made:
            yield made


Case = Callable[[Stage], Iterator[Row]]


@dataclass
class Run:
    """A run in a thread of its own, so that things can be done to it meanwhile."""

    flow: Flow
    executor: Any
    ledger: Ledger
    deaths: list[tuple[float, int]] = field(default_factory=list)
    """When which process was killed, or was found dead."""
    view: FlowRunView | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    notices: list[str] = field(default_factory=list)
    is_done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Run:
        """Begin."""
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self.view = self.flow.run(executor=self.executor, observers=[self._notice])
        except BaseException as error:  # the row says so
            self.error = error
        self.seconds = time.monotonic() - began
        self.is_done.set()

    def _notice(self, event: Any) -> None:
        if hasattr(event, "text"):
            self.notices.append(event.text)

    def wait(self, limit_s: float) -> bool:
        """Wait for its end; whether it came."""
        return self.is_done.wait(limit_s)

    def wait_for_executions(self, number: int, limit_s: float = 120.0) -> None:
        """Wait until so many bodies were begun, or the run is over."""
        pids, end = Pids(self.ledger), time.monotonic() + limit_s
        while sum(pids.counts().values()) < number and not self.is_done.is_set():
            if time.monotonic() > end:
                raise TimeoutError(f"{number} executions did not come within {limit_s:g} s")
            time.sleep(0.02)

    @property
    def state(self) -> str:
        """Name of the run's state, or what happened instead."""
        if self.view is not None:
            return self.view.state.name
        return f"{type(self.error).__name__}: {self.error}" if self.error is not None else "hangs"

    def problems(self, *, allowed: int = 0) -> list[str]:
        """What the ledger says against it."""
        dead = {pid for _, pid in self.deaths}
        return complaints(self.ledger.executions(), dead=dead, reported=self.executor.reported, allowed=allowed)

    def bound(self) -> int:
        """Executions whose end the driver did not know when their process was killed."""
        return lost_unreported(self.ledger.executions(), self.deaths, self.executor.reported)

    def executions(self) -> int:
        """How many bodies were begun."""
        return len(self.ledger.executions())

    def repeated(self) -> int:
        """How many of them were not the first of their attempt."""
        return repeated(self.ledger.executions())


class Killer:
    """Kills a worker that has worked every so often, chosen by chance, until it is told to stop."""

    def __init__(
        self,
        cluster: KillableCluster,
        run: Run,
        chance: random.Random,
        *,
        every_s: float,
        most: int | None = None,
        at_once: int = 1,
    ) -> None:
        self._cluster = cluster
        self._run = run
        self._chance = chance
        self._every_s = every_s
        self._most = most
        self._at_once = at_once
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        pids, kills = Pids(self._run.ledger), 0
        due = time.monotonic() + self._every_s
        while kills != self._most and not self._run.is_done.is_set():
            if self._stop.wait(max(0.02, due - time.monotonic())):
                return
            self._cluster.replace_lost_nannies()
            worked, alive = pids.counts(), self._cluster.worker_pids()
            victims = [pid for pid in alive if worked.get(pid, 0)]
            if len(victims) < self._at_once:
                continue
            for pid in self._chance.sample(victims, self._at_once):
                kill(pid)
                self._run.deaths.append((time.time(), pid))
            kills += 1
            due = max(time.monotonic(), due + self._every_s)


def fault_free_s(cluster: KillableCluster, flow: Flow) -> float:
    """Seconds that a flow takes while nothing happens."""
    began = time.monotonic()
    view = flow.run(executor=WatchedExecutor(cluster.address))
    assert view.is_successful(), view.state
    return time.monotonic() - began


def started(stage: Stage, make: Callable[[Ledger], Flow], executor: Any) -> Run:
    """A run that has begun, with a ledger of its own."""
    ledger = stage.new_ledger()
    return Run(make(ledger), executor, ledger).start()


def verdict(problems: Sequence[str], fine: str) -> tuple[str, bool]:
    """What was found, and whether it holds."""
    return ("; ".join(problems), False) if problems else (fine, True)

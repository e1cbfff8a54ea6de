"""What really ran: a file to which every execution of a task's body adds a line, and what must be true of it."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anabranch import context
from anabranch.base.states import FIRST_FINAL_CODE
from anabranch.engine.driver.compiler import read_report
from anabranch.executors import DaskExecutor
from anabranch.executors.base import Message, Posted

SINGLE = -1
"""Index of a task that is no map."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One time that a body was begun."""

    run: str
    task: str
    index: int
    attempt: int
    pid: int
    time: float


class Ledger:
    """A file of executions. It travels to workers by its path."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        Path(path).touch()

    def note(self) -> None:
        """Add the execution that this is called in: one write, which no death of the process can tear."""
        index = SINGLE if context.map_index is None else context.map_index
        words = (context.run_id, context.task_name, index, context.task_run_count, os.getpid(), time.time())
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, (" ".join(map(str, words)) + "\n").encode())
        finally:
            os.close(file)

    def executions(self, run_id: str | None = None) -> list[Execution]:
        """Everything that was begun, in the order of the file."""
        with open(self.path, encoding="ascii") as file:
            rows = [line.split() for line in file]
        found = [Execution(row[0], row[1], *map(int, row[2:5]), float(row[5])) for row in rows]
        return [each for each in found if run_id in (None, each.run)]


class Pids:
    """Processes that have executed something, read from a ledger as it grows."""

    def __init__(self, ledger: Ledger) -> None:
        self._path = ledger.path
        self._offset = 0
        self._found: dict[int, int] = defaultdict(int)

    def counts(self) -> Mapping[int, int]:
        """Executions so far by process."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                self._offset += len(line)
                self._found[int(line.split()[4])] += 1
        return self._found


class WatchedExecutor(DaskExecutor):
    """Notes when which element was reported to the driver as final."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reported: dict[tuple[str, int], float] = {}
        """By task and index."""

    def next_message(self, timeout_s: float | None) -> Message | None:
        """As it is, noted."""
        message = super().next_message(timeout_s)
        if isinstance(message, Posted):
            report, now = read_report(message.payload), time.time()
            for single in report.singles:
                if single.state.is_finished():
                    self.reported.setdefault((single.slug, SINGLE), now)
            for column in report.columns:
                for index, code in zip(report.indices or (), column.codes, strict=True):
                    if code >= FIRST_FINAL_CODE:
                        self.reported.setdefault((column.slug, index), now)
        return message


def complaints(
    executions: Sequence[Execution],
    *,
    dead: Collection[int],
    reported: Mapping[tuple[str, int], float],
    allowed: int = 0,
) -> list[str]:
    """What is wrong with what ran, as sentences: guarantees G1 and G2.

    Parameters
    ----------
    dead
        Processes that ended while the run went on.
    reported
        When the driver learnt of elements that had ended.
    allowed
        Executions that may be repeated though their process lives: it was cut off.
    """
    found = []
    late = [each for each in executions if each.time > reported.get((each.task, each.index), float("inf"))]
    if late:
        found.append(f"{len(late)} executions after their element's end was reported, first {late[0]}")
    groups: dict[tuple[str, int, int], list[Execution]] = defaultdict(list)
    for each in executions:
        groups[each.task, each.index, each.attempt].append(each)
    needless = [each for group in groups.values() for each in group[:-1] if each.pid not in dead]
    if len(needless) > allowed:
        found.append(f"{len(needless)} executions repeated though their process lives, first {needless[0]}")
    return found


def repeated(executions: Sequence[Execution]) -> int:
    """Executions beyond the first of each attempt."""
    return len(executions) - len({(each.task, each.index, each.attempt) for each in executions})


def lost_unreported(
    executions: Sequence[Execution], deaths: Sequence[tuple[float, int]], reported: Mapping[tuple[str, int], float]
) -> int:
    """Executions that may have to be repeated: their process died before the driver knew of their end."""
    died = {pid: when for when, pid in deaths}
    return sum(
        1
        for each in executions
        if each.pid in died and reported.get((each.task, each.index), float("inf")) > died[each.pid]
    )

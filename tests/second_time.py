"""Flows whose values die with their holders before they are taken, and are made again in other ways than at first."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.killable_cluster import kill_and_wait

from anabranch import Flow, Node, config, task, unmapped
from anabranch.base.events import Event, TaskChanged
from anabranch.executors import DaskExecutor
from anabranch.results import LocalResult

WIDTH = 60
NBYTES = 30_000  # more than travels with a report
SECONDS = ("slower", "retried", "failing", "different", "the same")
"""How a value is made the second time."""
SHAPES = ("join", "reduce", "next map", "list", "single", "calls")
SLOW_S = 0.15  # so that a chunk that is made again would give up
LONGEST_WAIT_S = 10.0  # where nobody dies, a test should fail and not hang


def times(folder: str, name: object, isolation: str = "thread") -> int:
    """How often this was asked for that name, in all processes together; the worker that asks is noted."""
    pid = os.getppid() if isolation == "process" else os.getpid()
    file = os.open(os.path.join(folder, str(name)), os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{pid:>9}\n".encode())
        return os.fstat(file).st_size // 10
    finally:
        os.close(file)


def made(index: int, folder: str, second: str, isolation: str) -> tuple[int, bytes]:
    """A large value with its index; the second time as the case has it."""
    number = times(folder, index, isolation)
    if number > 1 and second == "slower":
        time.sleep(SLOW_S)
    if number == 2 and second == "retried" and index % 10 == 0:
        raise ConnectionError("busy")
    if number > 1 and second == "failing" and index % 10 == 0:
        raise ConnectionError("gone meanwhile")
    time.sleep(0.005)
    return index, (b"x" if number == 1 or second != "different" else b"y") * NBYTES


def made_list(folder: str, second: str, isolation: str) -> list[tuple[int, bytes]]:
    """Such values at once; the second time, perhaps fewer."""
    number = times(folder, "list", isolation)
    if number > 1 and second == "failing":
        raise ConnectionError("gone meanwhile")
    width = WIDTH - 7 if number > 1 and second == "different" else WIDTH
    return [(index, b"x" * NBYTES) for index in range(width)]


def wait_for_deaths(folder: str) -> None:
    """Whatever takes values does so when their holders have died."""
    end = time.monotonic() + LONGEST_WAIT_S
    while not os.path.exists(f"{folder}-died") and time.monotonic() < end:
        time.sleep(0.05)


def passed(pair: tuple[int, bytes], folder: str) -> tuple[int, bytes]:
    """What is given."""
    wait_for_deaths(folder)
    return pair


def beside(pair: tuple[int, bytes], every: list[Any], folder: str) -> tuple[int, bytes]:
    """What is given, if all others are."""
    wait_for_deaths(folder)
    return (pair[0] if len(every) == WIDTH else -1), pair[1]


def merged(parts: list[Any]) -> list[tuple[int, bytes]]:
    """Values, or lists of them, as one list."""
    return [pair for part in parts for pair in (part if isinstance(part, list) else [part])]


def indices_of(values: list[tuple[int, bytes]], folder: str) -> list[int]:
    """What was taken."""
    wait_for_deaths(folder)
    return sorted(index for index, data in values if len(data) == NBYTES)


@dataclass(frozen=True)
class Case:
    """One flow, and what becomes of its values."""

    shape: str
    second: str
    is_stored: bool = False
    isolation: str = "thread"

    def __str__(self) -> str:
        extras = [*(["stored"] if self.is_stored else []), *(["process"] if self.isolation == "process" else [])]
        return ", ".join([self.shape, self.second, *extras])

    def flow(self, marks: Path, kept: Path) -> tuple[Flow, Node]:
        """A flow whose values are made by ``make``, and the node whose value tells what was taken of them."""
        options: dict[str, Any] = {"isolation": self.isolation}
        if self.second == "retried":
            options |= {"max_retries": 2, "retry_delay": 0.5}
        if self.is_stored:
            options["result"] = LocalResult(kept)
        folder = str(marks)
        make, make_list = task(made, name="make", **options), task(made_list, name="make", **options)
        given = {"folder": folder, "second": self.second, "isolation": self.isolation}
        everywhere = {name: unmapped(value) for name, value in given.items()}
        with Flow("values") as flow:
            values: Any
            match self.shape:
                case "single":
                    values = make_list(**given)
                case "list":
                    values = task(passed).map(make_list(**given), unmapped(folder))
                case "calls":
                    values = task(lambda index: make(index, **given), name="call").map(range(WIDTH))
                case "reduce":
                    values = task(merged, reduce=True)(make.map(range(WIDTH), **everywhere))
                case "next map":
                    first = make.map(range(WIDTH), **everywhere)
                    values = task(beside).map(first, unmapped(first), unmapped(folder))
                case _:
                    values = make.map(range(WIDTH), **everywhere)
            # Of another priority, it is a unit of its own, and does not run where the value was made as that is made.
            return flow, task(indices_of, name="take", priority=1)(values, folder)

    def run(self, address: str, folder: Path) -> tuple[str, list[int]]:
        """What came of a run, and the processes that were killed in it; ``wrong: …`` is what must not come."""
        marks = folder / "marks"
        marks.mkdir()
        flow, node = self.flow(marks, folder / "kept")
        dead: list[int] = []
        held = "call" if self.shape == "calls" else "make"

        def strike(event: Event) -> None:
            if not dead and isinstance(event, TaskChanged) and event.slug == held and event.state.is_successful():
                pids = {int(line) for path in marks.iterdir() for line in path.read_text().split()}
                for pid in sorted(pids):
                    kill_and_wait(pid)
                    dead.append(pid)
                Path(f"{marks}-died").touch()

        with config.set(engine__rescued_nbytes=0):
            view = flow.run(executor=DaskExecutor(address), observers=[strike])
        found = view.result[node]
        if view.is_successful():
            return ("right" if found.result == list(range(WIDTH)) else f"wrong: {found.result}"), dead
        in_words = any(words in found.message for words in ("cannot be made again", "elements when it ran again"))
        return ("failed in words" if in_words and self.may_fail else f"wrong: {view.state.message}"), dead

    @property
    def may_fail(self) -> bool:
        """Whether the values cannot all be made again."""
        return self.second == "failing" or (self.second == "different" and self.shape in ("list", "single"))

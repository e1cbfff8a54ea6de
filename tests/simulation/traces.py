"""What a driver hears of its units, in which order: of a real cluster, and of a simulated one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import ClassVar

from anabranch.engine.driver.compiler import read_report
from anabranch.engine.units.units import Key
from anabranch.executors.base import Dropped, Executor, Message, Posted, Region


class Traced(Executor):
    """Notes what is said of each unit; to be put before an executor's class, in a class with a trace of its own."""

    trace: ClassVar[defaultdict[Key, list[str]]]

    def submit(self, region: Region) -> None:
        for key in region.keys if not region.is_data else ():
            self.trace[key].append("submitted")
        super().submit(region)  # type: ignore[safe-super]  # the executor's

    def release(self, keys: Iterable[Key]) -> None:
        keys = tuple(keys)
        for key in keys:
            if key in self.trace:
                self.trace[key].append("let go")
        super().release(keys)  # type: ignore[safe-super]

    def next_message(self, timeout_s: float | None) -> Message | None:
        message = super().next_message(timeout_s)  # type: ignore[safe-super]
        if isinstance(message, Posted):
            report = read_report(message.payload)
            self.trace[report.key].append("tells" if report.part else "has ended")
        elif isinstance(message, Dropped):
            self.trace[message.key].append("lost" if message.is_death else "dropped")
        return message


def stories(trace: defaultdict[Key, list[str]]) -> set[tuple[str, ...]]:
    """How units fared, each kind once; what is said several times in a row counts as once."""
    return {
        tuple(each for place, each in enumerate(said) if not place or said[place - 1] != each)
        for said in trace.values()
    }

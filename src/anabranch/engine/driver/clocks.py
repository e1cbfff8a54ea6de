"""Times that workers tell, by the clock of the driver.

The clock of a worker may be wrong by hours. What it says when it sends a report, and when that arrives, tells by how
much, up to the time that the report was on its way; so the smallest difference counts, and small ones are none. A delay
that begins on a worker is as long as it should be then, and task runs lie within their run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from anabranch.base.states import State
from anabranch.engine.logs.lines import Batch
from anabranch.engine.units.units import Report

AHEAD_S = 0.5  # a report cannot arrive before it was sent: clocks on one network differ by less
BEHIND_S = 2.0  # a report may be on its way that long where driver or scheduler are busy


class Clocks:
    """How far the clocks of workers are behind the driver's.

    Parameters
    ----------
    clock
        Gives the driver's time, in seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._behind: dict[str, float] = {}

    def aligned(self, report: Report) -> Report:
        """A report that has just arrived, with times by the driver's clock."""
        address = report.worker.partition(" ")[0]  # its devices may follow
        if report.sent:
            behind = min(self._behind.get(address, math.inf), self._clock() - report.sent)
            self._behind[address] = behind
        seconds = self._seconds(address)
        if not seconds:
            return report
        late = timedelta(seconds=seconds)
        return replace(
            report,
            started=report.started + seconds,
            singles=tuple(replace(each, state=_later(each.state, late)) for each in report.singles),
            columns=tuple(
                replace(each, records={index: _later(state, late) for index, state in each.records.items()})
                for each in report.columns
            ),
        )

    def aligned_lines(self, batch: Batch) -> Batch:
        """Lines of a worker's log that have just arrived, with times by the driver's clock, if that is known."""
        if not any(map(self._seconds, self._behind)):
            return batch
        lines = [replace(each, time=each.time + self._seconds(each.worker)) for each in batch.lines]
        return replace(batch, lines=type(batch.lines)(lines))

    def _seconds(self, worker: str) -> float:
        """Seconds that a worker's clock is behind, or less than none if it is ahead; none if it is about right."""
        behind = self._behind.get(worker, 0.0)
        return behind if behind < -AHEAD_S or behind > BEHIND_S else 0.0


def _later(state: State, late: timedelta) -> State:
    def moved(time: datetime | None) -> datetime | None:
        return None if time is None else time + late

    attempts = tuple(replace(each, start=moved(each.start), end=moved(each.end)) for each in state.attempts)
    return replace(state, start_time=moved(state.start_time), end_time=moved(state.end_time), attempts=attempts)

"""A recorder whose process ends in the middle of a run."""

from __future__ import annotations

from anabranch.engine.units.units import Report
from anabranch.runs.record.backlog import Rows
from anabranch.runs.record.recorder import Recorder


class Killed(BaseException):
    """The end of a process, for those who live in it."""


class Dying(Recorder):
    """A recorder whose process ends at the k-th report: before it is written, or after."""

    left = 0
    is_after = False

    def write(self, report: Report) -> None:
        self.left -= 1
        if self.left or self.is_after:
            super().write(report)
        if not self.left:
            self._backlog.rows = Rows()
            raise Killed

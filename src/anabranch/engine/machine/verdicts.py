"""Whether a task run kills its workers, or was only there when they were killed.

A worker can die of what it runs, and for a hundred other reasons. Task runs that were on a worker that died run again
alone in their process; those that die alone again and again are guilty, unless so many others died alone too, and then
succeeded, that deaths have to be expected here.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

DOUBT = 1e-5  # of a hundred thousand innocents, one may be convicted
PATIENCE = 10  # times the budget: then it is given up, whatever the others do


@dataclass(slots=True)
class _Record:
    deaths: int = 0
    seconds: float = 0.0


class Verdicts:
    """Deaths of task runs that ran alone.

    Parameters
    ----------
    budget
        Deaths before anything is convicted.
    """

    def __init__(self, budget: int) -> None:
        self.budget = max(1, budget)
        self._records: dict[Hashable, _Record] = {}
        self._innocent = _Record()

    def deaths(self, name: Hashable) -> int:
        """How often it has died alone."""
        record = self._records.get(name)
        return record.deaths if record is not None else 0

    def died(self, name: Hashable, seconds: float) -> bool:
        """Note that a worker died after `name` had run there alone for so long; whether that convicts it."""
        record = self._records.setdefault(name, _Record())
        record.deaths += 1
        record.seconds += seconds
        if record.deaths < self.budget:
            return False
        if record.deaths >= self.budget * PATIENCE:
            return True
        expected = self.deaths_per_s * record.seconds
        return _at_least(record.deaths, expected) < DOUBT

    def survived(self, name: Hashable, seconds: float) -> None:
        """Note that `name` has run alone to its end in so many seconds: what it died of before was not itself."""
        record = self._records.pop(name, None)
        self._innocent.seconds += seconds
        if record is not None:
            self._innocent.deaths += record.deaths
            self._innocent.seconds += record.seconds

    @property
    def deaths_per_s(self) -> float:
        """Deaths of the innocent in a second of running alone."""
        return self._innocent.deaths / self._innocent.seconds if self._innocent.seconds else 0.0


def _at_least(number: int, expected: float) -> float:
    """Chance of `number` events or more where so many are expected: the tail of Poisson's distribution."""
    if expected <= 0:
        return 0.0
    term, below = math.exp(-expected), 0.0
    for k in range(number):
        below += term
        term *= expected / (k + 1)
    return max(0.0, 1.0 - below)

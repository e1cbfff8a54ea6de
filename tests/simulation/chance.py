"""Where every choice of a simulated world comes from: a seed, or a tape of choices that were made before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """Choices, each of which is noted on a tape; 0 is always the plainest one.

    Parameters
    ----------
    seed
        What the choices follow from.
    tape
        Choices to make instead; what comes after its end is 0.
    """

    def __init__(self, seed: int = 0, *, tape: Sequence[int] | None = None) -> None:
        self.tape: list[int] = []
        self._given = tape
        self._random = random.Random(seed).random

    def below(self, n: int) -> int:
        """A whole number from 0 to `n` - 1."""
        if self._given is None:
            found = int(self._random() * n)
        else:
            place = len(self.tape)
            found = min(self._given[place], n - 1) if place < len(self._given) else 0
        self.tape.append(found)
        return found

    def pick(self, options: Sequence[T]) -> T:
        """One of several; the first is the plainest."""
        return options[self.below(len(options))]

    def happens(self, one_in: int) -> bool:
        """Whether something happens that does once in so many times; never on the plainest tape."""
        return self.below(one_in) == 1 if one_in > 1 else True

    def seconds(self, most: float) -> float:
        """A time up to so many seconds, short ones as likely as long ones."""
        return most * (self.below(33) / 32) ** 3

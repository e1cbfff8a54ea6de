"""How much of something may pass: so much at once, and so much a second after that."""

from __future__ import annotations


class Throttle:
    """A token bucket.

    Parameters
    ----------
    burst
        How much may pass at once.
    per_s
        How much may pass each second once that is used up.
    """

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = self._left = burst
        self._per_s = per_s
        self._seen: float | None = None

    def take(self, amount: float, now: float) -> bool:
        """Whether so much may pass at this time, in seconds of any clock that does not go back."""
        if self._seen is not None:
            self._left = min(self._burst, self._left + max(0.0, now - self._seen) * self._per_s)
        self._seen = now
        if amount > self._left:
            return False
        self._left -= amount
        return True

"""Time as pages show it: how much was going on when, and how long things took, in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

BINS = 240  # of a row of the timeline: one is three pixels wide on a large screen
FIRST_BIN_S = 0.02
BUCKETS_PER_DECADE = 5  # of a duration histogram: a bucket is 1.6 times as wide as the one before
SHORTEST_S = 1e-6


@dataclass(slots=True)
class Bins:
    """Busy seconds by time since an origin. When time runs past the last bin, bins are merged two by two."""

    width_s: float = FIRST_BIN_S
    busy: list[float] = field(default_factory=lambda: [0.0] * BINS)
    bad: list[bool] = field(default_factory=lambda: [False] * BINS)
    """Whether something failed in that time."""
    used: int = 0
    """Bins up to the last that has something."""

    def add(self, start: float, end: float, *, is_bad: bool = False) -> None:
        """Note that something went on from `start` to `end`, in seconds since the origin."""
        start, end = max(0.0, start), max(0.0, start, end)
        while end >= self.width_s * BINS:
            self._halve()
        first, last = int(start / self.width_s), int(end / self.width_s)
        self.used = max(self.used, last + 1)
        if is_bad:
            self.bad[last] = True
        for place in range(first, last + 1):
            low = max(start, place * self.width_s)
            self.busy[place] += min(end, (place + 1) * self.width_s) - low

    def _halve(self) -> None:
        pairs = range(0, BINS, 2)
        empty = BINS // 2
        self.busy = [self.busy[i] + self.busy[i + 1] for i in pairs] + [0.0] * empty
        self.bad = [self.bad[i] or self.bad[i + 1] for i in pairs] + [False] * empty
        self.width_s *= 2
        self.used = (self.used + 1) // 2

    def stretches(self, levels: int = 3) -> list[tuple[float, float, int]]:
        """Stretches of equal business: start, end, and level from 1 to `levels` of the busiest.

        Neighbouring bins that look alike are one stretch, so that what went on evenly is one bar.
        """
        top = max(self.busy[: self.used], default=0.0)
        found: list[tuple[float, float, int]] = []
        for place in range(self.used):
            amount = self.busy[place]
            if amount <= 0:
                continue
            level = max(1, math.ceil(amount / top * levels - 1e-9)) if top else 1
            start, end = place * self.width_s, (place + 1) * self.width_s
            if found and found[-1][2] == level and math.isclose(found[-1][1], start):
                found[-1] = (found[-1][0], end, level)
            else:
                found.append((start, end, level))
        return found

    def marks(self) -> list[float]:
        """Times, to a bin, at which something failed."""
        return [(place + 0.5) * self.width_s for place in range(self.used) if self.bad[place]]


@dataclass(slots=True)
class Durations:
    """How often something took how long, in buckets of equal ratio."""

    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Note that something took so long, so many times."""
        bucket = math.floor(math.log10(max(seconds, SHORTEST_S)) * BUCKETS_PER_DECADE)
        self.counts[bucket] = self.counts.get(bucket, 0) + times
        self.total += times
        self.seconds += seconds * times
        self.longest_s = max(self.longest_s, seconds)

    def quantile(self, share: float) -> float:
        """Seconds within which that share was done, to the precision of a bucket; 0 if nothing is known."""
        wanted, seen = share * self.total, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(self.longest_s, float(10 ** ((bucket + 1) / BUCKETS_PER_DECADE)))
        return 0.0

    def bars(self) -> list[tuple[float, float, int]]:
        """Lower and upper bound in seconds, and count, of each bucket that has something."""
        step = 1 / BUCKETS_PER_DECADE
        return [(10 ** (b * step), 10 ** ((b + 1) * step), self.counts[b]) for b in sorted(self.counts)]

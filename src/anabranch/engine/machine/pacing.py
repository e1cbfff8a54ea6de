"""How many elements the next chunk holds: pure arithmetic on measured durations.

What a map costs on Dask is the number of chunks (some milliseconds each), not the elements. So: a small probe per
slot; then chunks of a target duration, smaller as the end comes near, so that slots end together; then a last few per
slot, shorter and shorter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

PROBE_SHARE = 8  # a probe takes at most this part of a slot's share, so that a short map is still spread out
LEFT_SHARE = 4  # a chunk takes at most this part of a slot's share of what is left, so that slots end together
GIVE_UP_TARGETS = 4  # a chunk hands back its rest after so many targets: the pace it was cut for was wrong
SHORTEST_SHARE = 0.2  # the last chunks get shorter, down to this part of the target: below, costs outgrow work
ROUNDS = 8  # a chunk fills its lanes so often, that few are empty for the most of its time
CHUNKS_PER_SECOND = 300  # what a driver looks at with ease; with many slots, chunks get longer


class Pacer:
    """Chunk sizes for one map (or chain of maps), from the pace of the chunks that have come back.

    Parameters
    ----------
    settings
        The ``engine`` settings: `target_chunk_s`, `probe_elements`, `chunk_nbytes`.
    chunksize
        Elements per chunk if that is fixed, or "auto".
    lanes
        Elements of a chunk that run side by side.
    """

    def __init__(
        self, settings: Mapping[str, Any], chunksize: int | Literal["auto"] = "auto", *, lanes: int = 1
    ) -> None:
        self._target_s: float = settings["target_chunk_s"]
        self._probe: int = settings["probe_elements"]
        self._chunk_nbytes: int = settings["chunk_nbytes"]
        self._chunksize = chunksize
        self._lanes = lanes
        self._last: int | None = None
        self.pace_s: float | None = None
        """Seconds per element; None until the first chunk is back."""
        self.element_nbytes = 0.0

    @property
    def is_probing(self) -> bool:
        """Whether nothing has been measured yet."""
        return self.pace_s is None and self._chunksize == "auto"

    def target_s(self, slots: int) -> float:
        """Seconds a chunk should take on so many slots."""
        return max(self._target_s, slots / CHUNKS_PER_SECOND)

    def give_up_s(self, slots: int, width: int | None = None) -> float | None:
        """Seconds after which a chunk (of that width) hands back its rest; None for chunks of a fixed size.

        Four times what it should take, but never less than a target: what it should take is only known so well.
        """
        if self._chunksize != "auto":
            return None
        target = self.target_s(slots)
        if self.pace_s is None:
            return target
        if self._lanes > 1 and width is not None:
            return max(target, GIVE_UP_TARGETS * width * self.pace_s)
        expected = target if width is None else min(target, width * self.pace_s)
        return max(target, GIVE_UP_TARGETS * expected)

    def next_size(self, *, left: int, slots: int) -> int:
        """Number of elements the next chunk should hold, from 1 to `left`.

        Parameters
        ----------
        left
            Elements that have not been handed out, at least 1.
        slots
            Elements that can run at the same time.
        """
        slots = max(1, slots)
        if self._chunksize != "auto":
            return min(self._chunksize, left)
        if self._lanes > 1:
            return self._next_in_lanes(left, slots)
        if self.pace_s is None:
            return max(1, min(self._probe, left // (slots * PROBE_SHARE)))
        target = self.target_s(slots)
        if left * self.pace_s <= target * slots:
            if self._last is None:
                self._last = math.ceil(left / slots)
            shortest = math.ceil(target * SHORTEST_SHARE / self.pace_s) if self.pace_s else left
            size = min(self._last, max(math.ceil(left / (slots * 2)), shortest))
        else:
            size = min(math.ceil(target / self.pace_s), math.ceil(left / (slots * LEFT_SHARE)))
        if self.element_nbytes:
            size = min(size, int(self._chunk_nbytes / self.element_nbytes))
        return min(left, max(1, size))

    def _next_in_lanes(self, left: int, slots: int) -> int:
        """The same where elements run side by side: lanes are empty while a chunk's last elements end.

        So chunks fill the lanes several times, and whole: the last elements would have them to themselves. What is left
        at the end fills the lanes of all slots.
        """
        share = math.ceil(left / slots)
        if self.pace_s is None:
            return min(self._lanes, share)
        size = math.ceil(self.target_s(slots) / self.pace_s) if self.pace_s else left
        size = min(max(size, ROUNDS * self._lanes), math.ceil(share / LEFT_SHARE))
        size = min(math.ceil(size / self._lanes) * self._lanes, share)
        if self.element_nbytes:
            size = min(size, max(self._lanes, int(self._chunk_nbytes / self.element_nbytes)))
        return max(1, size)

    def observe(self, *, width: int, seconds: float, nbytes: int = 0) -> None:
        """Learn from a chunk that is back: `width` elements in `seconds`.

        The pace rises at once and falls by half steps: a chunk that is too small costs little, one that is too large
        holds up the rest.
        """
        if width < 1:
            return
        pace = seconds / width
        if self.pace_s is None or pace > self.pace_s:
            self.pace_s = pace
            self._last = None
        else:
            self.pace_s = (self.pace_s + pace) / 2
        self.element_nbytes = max(self.element_nbytes, nbytes / width)

    def handed_back(self, last_s: float = 0.0) -> None:
        """Elements came back unbegun, the one before them took `last_s`: a slow stretch has begun, so cut it small."""
        self._last = None
        self.pace_s = max(self.pace_s or 0.0, last_s)

"""How long a map takes on a cluster that is arithmetic: the real `Chain` and `Pacer`, simulated slots, no waiting.

A chunk costs `latency_s` beside its elements, a report takes `latency_s` to be answered, chunks wait in one queue for
the next free slot, and a chunk that has run for longer than its deadline hands back what it has not begun.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anabranch.engine.machine.maps import Batch, Chain
from anabranch.engine.machine.pacing import Pacer

SETTINGS = {"target_chunk_s": 0.15, "probe_elements": 64, "chunk_nbytes": 64 << 20, "chunks_per_slot": 3}


@dataclass(frozen=True)
class Simulation:
    """What came out."""

    makespan_s: float
    """From the first chunk sent to the last report."""
    work_s: float
    """Seconds of all elements."""
    longest_s: float
    """Seconds of the longest element: nothing can be faster."""
    slots: int
    sizes: tuple[int, ...] = field(repr=False)
    """Elements begun in each chunk, in the order in which they came back."""
    runs: Counter[int] = field(repr=False)
    """How often each element was begun."""

    @property
    def ideal_s(self) -> float:
        """Seconds that a scheduler would need that costs nothing and knows everything."""
        return max(self.work_s / self.slots, self.longest_s)

    @property
    def efficiency(self) -> float:
        """Ideal time as a part of the time taken."""
        return self.ideal_s / self.makespan_s


def simulate(
    durations_s: Sequence[float],
    *,
    slots: int,
    settings: Mapping[str, Any] = SETTINGS,
    chunksize: Any = "auto",
    latency_s: float = 0.005,
    driver_s: float = 0.0,
) -> Simulation:
    """Run a map whose elements take these times; the driver needs `driver_s` for each report."""
    width = len(durations_s)
    ends = [0.0, *itertools.accumulate(durations_s)]
    pacer = Pacer(settings, chunksize)
    chain = Chain("map", width, pacer)
    chain.make_ready(range(width))
    queue: deque[tuple[int, Batch, float | None]] = deque()
    on_their_way: list[tuple[float, int, Batch, int, float, float]] = []  # reports, by the time of their arrival
    free: list[float] = [0.0] * slots  # when each slot is free
    serial, now, in_flight = itertools.count(), 0.0, 0
    sizes: list[int] = []
    runs: Counter[int] = Counter()

    def send() -> None:
        nonlocal in_flight
        while chain.ready and in_flight < settings["chunks_per_slot"] * slots:
            if pacer.is_probing and in_flight >= slots:
                break
            batch = chain.next_batch(slots)
            queue.append((next(serial), batch, pacer.give_up_s(slots, len(batch.indices))))
            in_flight += 1
        while queue:
            number, batch, deadline_s = queue.popleft()
            begin = max(heapq.heappop(free), now) + latency_s
            begun = _begun(ends, batch.indices, deadline_s)
            seconds = ends[batch.indices.start + begun] - ends[batch.indices.start]
            last_s = durations_s[batch.indices.start + begun - 1]
            heapq.heappush(free, begin + seconds)
            heapq.heappush(on_their_way, (begin + seconds + latency_s, number, batch, begun, seconds, last_s))

    send()
    while on_their_way:
        arrival, _, batch, begun, seconds, last_s = heapq.heappop(on_their_way)
        now = max(now, arrival) + driver_s
        in_flight -= 1
        sizes.append(begun)
        runs.update(batch.indices[:begun])
        pacer.observe(width=begun, seconds=seconds)
        if begun < len(batch.indices):
            chain.hand_back(Batch(batch.indices[begun:]), last_s)
        send()
    return Simulation(now, ends[-1], max(durations_s), slots, tuple(sizes), runs)


def _begun(ends: Sequence[float], indices: Any, deadline_s: float | None) -> int:
    """How many elements a chunk begins: all that begin before the deadline, and at least one."""
    if deadline_s is None:
        return len(indices)
    begun = bisect_right(ends, ends[indices.start] + deadline_s, indices.start + 1, indices.stop) - indices.start
    return min(begun, len(indices))

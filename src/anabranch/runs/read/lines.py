"""All log lines of a run, read once from the first to the last, however many there are."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from anabranch.runs.store.records import LogRow, RunStore

PAGE = 5_000  # lines that are read at a time
WINDOW = 20_000  # lines that are put in order of their times: workers send theirs within seconds, a hundred at a time


def lines_since(
    store: RunStore, run_id: str, place: tuple[int, int], *, slug: str | None, index: int | None, level: int
) -> Iterator[LogRow]:
    """Lines that came after the one at this place, in the order in which they came."""
    while rows := store.logs(run_id, slug, index=index, level=level, limit=PAGE, after=place):
        yield from rows
        place = rows[-1].place


def lines_by_time(
    store: RunStore, run_id: str, *, slug: str | None = None, index: int | None = None, level: int = 0
) -> Iterator[LogRow]:
    """Lines of a run, a task or an element from a level on, by time.

    A line that came more than `WINDOW` lines after a later one is where it came.
    """
    held: list[tuple[float, tuple[int, int], LogRow]] = []
    for row in lines_since(store, run_id, (0, -1), slug=slug, index=index, level=level):
        each = row.time.timestamp(), row.place, row
        if len(held) < WINDOW:
            heapq.heappush(held, each)
        else:
            yield heapq.heappushpop(held, each)[-1]
    while held:
        yield heapq.heappop(held)[-1]

"""What the machine knows of maps: one byte per element, where the elements are, and which of them can run now."""

from __future__ import annotations

import heapq
import math
import sys
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from anabranch.base.states import (
    BY_CODE,
    FIRST_FAILED_CODE,
    FIRST_FINAL_CODE,
    Cached,
    Cancelled,
    Counts,
    Retrying,
    Skipped,
    State,
    Success,
    counts_of,
    map_state,
)
from anabranch.engine.machine.pacing import Pacer
from anabranch.engine.units.indices import Indices, as_range, runs_of
from anabranch.engine.units.units import Column, ColumnReport, Holding, Key, Refs
from anabranch.results.reference import ResultRef


@dataclass(frozen=True, slots=True)
class News:
    """Elements that have ended, for a stream."""

    indices: Indices
    """Of the report."""
    fresh: Indices
    """Those of them that have ended, and had not before."""
    column: ColumnReport
    key: Key | None
    """Unit that has their values, if they did not come with the report."""


_STORED_CODES = (Success.code, Cached.code)
FAILED_CODES = tuple(code for code in BY_CODE if FIRST_FAILED_CODE <= code != Cancelled.code)


class MapRun:
    """The elements of one map: a byte each, and a record for what is not plain Success."""

    def __init__(self, slug: str, width: int, *, max_tracebacks: int, min_success: float | None = None) -> None:
        self.slug = slug
        self._min_success = min_success
        self.width = width
        self.codes = bytearray(width)
        self.records: dict[int, State] = {}
        self.retries: dict[int, Retrying] = {}
        """The last attempt, or round of a loop, of elements that have had one and have not ended."""
        self.values: list[tuple[Indices, bytes]] = []
        """Values that came with reports, as pickled lists."""
        self.names: dict[int, tuple[str, ...]] = {}
        """What the templates of limits make of elements."""
        self.done = 0
        self.failed = 0
        self.settled: dict[int, State] = {}
        """States of elements that are in no chunk."""
        self._ranges: list[tuple[int, int, Key]] = []
        self._places: dict[int, Key] = {}
        self.keys: dict[Key, None] = {}
        """Units whose outcomes hold elements of this map."""
        self.rescued: list[tuple[Indices, bytes]] = []
        """Those of `values` that are nowhere else, by first index: they travel with the units that need them."""
        self.rescued_nbytes = 0
        self.refs: list[tuple[Indices, ResultRef]] = []
        """Where values are stored."""
        self.stored: list[tuple[Indices, ResultRef]] = []
        """Those of `refs` with values that are nowhere else: who needs them reads them there."""
        self._is_stored = bytearray()
        self._n_stored = 0
        self._inline = bytearray(width)
        """Whether the value of an element came with a report, or was given to a stream alone."""
        self._is_scattered = False
        """Whether some of those have gaps."""
        self.valueless: set[int] = set()
        """Elements that have succeeded and whose value is nowhere any more."""
        self.were_lost: dict[int, int] = {}
        """Elements that had ended, and run again because their values were lost, with the codes of their states."""
        self.news: list[News] | None = None
        """What a stream has not been given yet; None if there is none."""
        self.is_fleeting = False
        """Whether nobody wants a value any more once a stream was given it."""
        self.is_enough = False
        """Whether the value of an element makes the others superfluous."""
        self._max_tracebacks = max_tracebacks
        self._described: set[tuple[str, str]] = set()

    def grow(self, width: int) -> None:
        """More elements, none of which has run."""
        self.width += width
        self.codes.extend(bytes(width))
        self._inline.extend(bytes(width))
        if self._is_stored:
            self._is_stored.extend(bytes(width))

    def take(self, key: Key | None, indices: Indices, column: ColumnReport, *, in_one_piece: bool = False) -> Indices:
        """Write down a chunk's report; the elements that are final now and were not before.

        Without a key, the chunk's values are in the report, and nowhere else from now on. What is reduced is there
        `in_one_piece`, with what the chunk had told of before.
        """
        is_plain = isinstance(indices, range) and min(column.codes) >= FIRST_FINAL_CODE
        if isinstance(indices, range) and is_plain and not any(self.codes[indices.start : indices.stop]):
            self.codes[indices.start : indices.stop] = column.codes
            fresh: Indices = indices
            if column.records:
                self.failed += sum(column.codes.count(code) for code in FAILED_CODES)
        else:
            fresh = self._take_each(indices, column)
            self._is_scattered |= len(fresh) < len(indices)  # values of the others are here twice
            self.failed += sum(self.codes[index] in FAILED_CODES for index in fresh)
        self.done += len(fresh)
        if self.retries:
            for index in fresh:
                self.retries.pop(index, None)
        if column.records:
            self._take_records(column.records)
        if max(column.codes, default=0) < FIRST_FINAL_CODE:  # nobody will ask that chunk for anything
            return fresh
        if self.news is not None and len(fresh):
            self.news.append(News(indices, fresh, column, key))
        if self.is_fleeting and column.values is not None:
            key, column = None, replace(column, values=None)
            self._mark_here(fresh)
        if column.values is not None:
            is_final = min(column.codes) >= FIRST_FINAL_CODE
            final = (i for i, code in zip(indices, column.codes, strict=True) if code >= FIRST_FINAL_CODE)
            self._take_values(indices if is_final else tuple(final), column.values)
        for held, ref in column.refs:
            self._note_ref(held, ref)
        if key is None:
            if column.values is None:
                self.stored += column.refs
            elif len(self.values[-1][0]):
                self._rescue(*self.values[-1])
            self.settled.update((i, state) for i, state in column.records.items() if _says_all(state.code))
            return fresh
        if not len(fresh):
            return fresh
        held = fresh
        if in_one_piece and len(fresh) < len(indices):
            held = as_range(index for index in indices if self.codes[index] >= FIRST_FINAL_CODE)
        if isinstance(held, range):
            insort(self._ranges, (held.start, held.stop, key))
        elif isinstance(indices, range):
            for part in runs_of(held):
                insort(self._ranges, (part.start, part.stop, key))
        else:
            self._places.update(dict.fromkeys(held, key))
        self.keys[key] = None
        return fresh

    def _take_values(self, indices: Indices, data: bytes) -> None:
        self.values.append((indices, data))
        self._mark_here(indices)

    def _mark_here(self, indices: Indices) -> None:
        if isinstance(indices, range):
            self._inline[indices.start : indices.stop] = b"\1" * len(indices)
        else:
            for index in indices:
                self._inline[index] = 1

    def drop(self, key: Key) -> None:
        """A stream has been given what a unit's outcome holds: nobody wants it any more."""
        del self.keys[key]
        for start, stop, held in self._ranges:
            if held == key:
                self._mark_here(range(start, stop))
        self._mark_here(tuple(index for index, held in self._places.items() if held == key))
        self._ranges = [each for each in self._ranges if each[2] != key]
        self._places = {index: held for index, held in self._places.items() if held != key}

    @property
    def is_inline(self) -> bool:
        """Whether all values came with reports."""
        return self._inline.count(1) == self.width

    def _take_each(self, indices: Indices, column: ColumnReport) -> tuple[int, ...]:
        fresh = []
        for index, code in zip(indices, column.codes, strict=True):
            if self.codes[index] >= FIRST_FINAL_CODE:
                continue
            self.codes[index] = code
            self.records.pop(index, None)
            if code >= FIRST_FINAL_CODE:
                fresh.append(index)
        return tuple(fresh)

    def _take_records(self, records: Mapping[int, State]) -> None:
        for index, state in records.items():
            if state.code == self.codes[index] and state.code:  # that it has not begun is not worth a record
                self.records[index] = self._bounded(state)
                if isinstance(state, Retrying):
                    self.retries[index] = state

    def _bounded(self, state: State) -> State:
        """The state without its traceback, if there are enough of that kind or of all kinds."""
        failure = state.failure
        if failure is None or not failure.traceback:
            return state
        kind = (failure.type_name, failure.line)
        if kind not in self._described and len(self._described) < self._max_tracebacks:
            self._described.add(kind)
            return state
        return replace(state, failure=replace(failure, traceback="", inputs={}))

    def settle(self, index: int, state: State) -> None:
        """Give an element a final state although no chunk has reported it."""
        self.codes[index] = state.code
        self.records[index] = self.settled[index] = state
        self.done += 1
        self.failed += state.code in FAILED_CODES

    def lose(self, keys: Iterable[Key]) -> Lost:
        """Forget outcomes; the states stay. Tells of all elements whose value is nowhere now."""
        gone = dict.fromkeys(keys)
        indices: dict[int, None] = {}
        for start, stop, key in self._ranges:
            if key in gone:
                indices.update(dict.fromkeys(range(start, stop)))
        indices.update((i, None) for i, key in self._places.items() if key in gone)
        self._ranges = [each for each in self._ranges if each[2] not in gone]
        self._places = {i: key for i, key in self._places.items() if key not in gone}
        for key in gone:
            del self.keys[key]
        lost = [i for i in indices if self.codes[i] >= FIRST_FINAL_CODE]
        for index in lost:
            if _says_all(self.codes[index]):
                self.settled.setdefault(index, self.records[index])
        for held, data in self.values:
            if any(index in indices for index in held):
                self._rescue(held, data)
        for held, ref in self.refs:
            if (held, ref) not in self.stored and any(index in indices for index in held):
                self.stored.append((held, ref))
        held_here = {index for held, _ in (*self.rescued, *self.stored) for index in held}
        self.valueless.update(i for i in lost if i not in self.settled and i not in held_here)
        return Lost(tuple(gone), sorted(self.valueless))

    def _note_ref(self, held: Indices, ref: ResultRef) -> None:
        self.refs.append((held, ref))
        if not self._is_stored:
            self._is_stored = bytearray(self.width)
        for index in held:
            self._n_stored += not self._is_stored[index]
            self._is_stored[index] = 1

    @property
    def is_stored(self) -> bool:
        """Whether all values of elements that have ended can be read from where they are stored."""
        return bool(self.refs) and self._n_stored >= sum(map(self.codes.count, _STORED_CODES))

    def stored_of(self, indices: Indices) -> Refs:
        """Stored values that a unit which needs these elements has to read."""
        if not self.stored or not len(indices):
            return ()
        first, last = indices[0], indices[-1]
        return tuple((held, ref) for held, ref in self.stored if held[0] <= last and held[-1] >= first)

    def _rescue(self, indices: Indices, data: bytes) -> None:
        insort(self.rescued, (indices, data), key=lambda each: each[0][0])
        self.rescued_nbytes += len(data)
        self._is_scattered |= not isinstance(indices, range)

    def reopen(self, indices: Iterable[int]) -> None:
        """Let elements that have ended run again."""
        for index in indices:
            self.were_lost[index] = self.codes[index]
            self.valueless.discard(index)
            self.settled.pop(index, None)
            self.codes[index] = 0
            self.records.pop(index, None)
            self.done -= 1

    def end(self, state: State) -> bool:
        """Give a state to what had not ended; whether there was any. What runs again for its value stays as it was."""
        is_cut = False
        for index, code in enumerate(self.codes):
            if code >= FIRST_FINAL_CODE:
                continue
            if index in self.were_lost:
                self.codes[index] = self.were_lost[index]
                self.records.pop(index, None)
                self.valueless.add(index)
                self.done += 1
            else:
                self.settle(index, state)
                is_cut = True
        return is_cut

    @property
    def n_lost(self) -> int:
        """How many elements had ended, and have not ended again."""
        return sum(self.codes[index] < FIRST_FINAL_CODE for index in self.were_lost)

    def rescued_of(self, indices: Indices) -> tuple[tuple[Indices, bytes], ...]:
        """Values that must travel with a unit that needs these elements."""
        if not self.rescued or not len(indices):
            return ()
        last = bisect_right(self.rescued, indices[-1], key=lambda each: each[0][0])
        found = []
        for held, data in reversed(self.rescued[:last]):
            if held[-1] >= indices[0]:
                found.append((held, data))
            elif not self._is_scattered:  # ranges do not overlap: what begins before has ended before
                break
        return tuple(reversed(found))

    @property
    def is_final(self) -> bool:
        """Whether every element has ended."""
        return self.done == self.width

    def holdings_of(self, indices: Indices) -> tuple[Holding, ...]:
        """What units' outcomes hold of these elements."""
        found: list[tuple[Key, Indices]] = []
        scattered: dict[Key, list[int]] = {}
        if isinstance(indices, range):
            first = max(0, bisect_right(self._ranges, (indices.start, self.width + 1)) - 1)
            last = bisect_left(self._ranges, (indices.stop,))
            for start, stop, key in self._ranges[first:last]:
                if stop > indices.start:
                    found.append((key, range(max(start, indices.start), min(stop, indices.stop))))
        for index in indices if self._places or not isinstance(indices, range) else ():
            key_there = self._key_of(index, only_places=isinstance(indices, range))
            if key_there is not None:
                scattered.setdefault(key_there, []).append(index)
        found += [(key, as_range(each)) for key, each in scattered.items()]
        return tuple(Holding(key, each, self._codes_at(each)) for key, each in found)

    def _key_of(self, index: int, *, only_places: bool = False) -> Key | None:
        key = self._places.get(index)
        if key is None and not only_places:
            at = bisect_right(self._ranges, (index, self.width + 1)) - 1
            key = self._ranges[at][2] if at >= 0 and self._ranges[at][1] > index else None
        return key

    def _codes_at(self, indices: Indices) -> bytes:
        """Codes of elements; nothing if all are plain Success."""
        if isinstance(indices, range):
            codes = bytes(self.codes[indices.start : indices.stop])
        else:
            codes = bytes(self.codes[index] for index in indices)
        return b"" if codes.count(Success.code) == len(codes) else codes

    def has_changed(self, key: Key, indices: Indices, codes: bytes) -> bool:
        """Whether what a unit says that ran a second time is not all that it had said."""
        column = Column(indices, codes, list(indices), {})
        mine = [range(start, stop) for start, stop, held in self._ranges if held == key]
        holdings: list[Indices] = [*mine, tuple(index for index, held in self._places.items() if held == key)]
        return any(column.part(Holding(key, each, self._codes_at(each))) is None for each in holdings if len(each))

    def final_now(self) -> Indices:
        """Elements that have ended so far."""
        if self.is_final:
            return range(self.width)
        return tuple(i for i, code in enumerate(self.codes) if code >= FIRST_FINAL_CODE)

    def state(self) -> State:
        """The map's own state, once all elements have ended."""
        return map_state(self.slug, self.codes, self.records, min_success=self._min_success)

    def counts(self) -> Counts:
        """Counts of what has ended; the rest counts in the total only."""
        return counts_of(self.codes)


@dataclass(frozen=True, slots=True)
class Lost:
    """Outcomes of a map that are gone."""

    keys: tuple[Key, ...]
    indices: list[int]
    """Elements that have succeeded and whose value is nowhere any more."""


@dataclass(slots=True)
class Batch:
    """Elements that can run now."""

    indices: Indices
    first: int = 0
    """Number of the map in the chain at which they begin."""
    is_apart: bool = False
    """Whether only the first of the maps runs: each in a unit of its own, to see which one is to blame."""
    assembles: bool = False
    """Whether they have made deferred calls that have ended, so that their values are put together."""
    names: tuple[str, ...] | None = None
    """What the templates of limits make of each of them, if that is known."""
    is_suspect: bool = False
    """Whether a chunk with these elements was lost: they run as they stand, and alone."""


class Chain:
    """Maps that share an element space and run in the same chunks, one after the other."""

    def __init__(self, slug: str, width: int, pacer: Pacer) -> None:
        self.slugs = [slug]
        self.width = width
        self.pacer = pacer
        self.ready: deque[Batch] = deque()
        self.in_flight: dict[Key, Batch] = {}
        self.due: list[tuple[float, int, int]] = []
        """Retries that wait: time, element, number of the map. A heap."""
        self.missing: bytearray | None = None
        """Per element, how many maps upstream have not finished it, and one more for a retry that waits beside them;
        None where each element misses one map at most."""
        self.has_begun = False
        self.needs: set[str] = set()
        """Maps upstream, outside of the chain."""

    @property
    def left(self) -> int:
        """Elements that are ready and not handed out."""
        return sum(len(batch.indices) for batch in self.ready)

    def make_ready(self, indices: Indices) -> None:
        """Elements of one upstream map have ended: those that miss nothing else can run."""
        if not len(indices):
            return
        if self.missing is None:
            self._append(indices)
            return
        free = []
        for index in indices:
            self.missing[index] -= 1
            if not self.missing[index]:
                free.append(index)
        if free:
            self._append(as_range(free))

    def _append(self, indices: Indices) -> None:
        last = self.ready[-1] if self.ready else None
        if (
            last is not None
            and isinstance(indices, range)
            and isinstance(last.indices, range)
            and last == Batch(last.indices)
        ):
            if last.indices.stop == indices.start:
                indices = range(last.indices.start, indices.stop)
                self.ready.pop()
        self.ready.append(Batch(indices))

    def next_batch(self, slots: int | None, room: int = sys.maxsize) -> Batch:
        """Take the next chunk's elements, of which there is room for so many on all slots together.

        `slots`: None if it takes no time.
        """
        batch = self.ready[0]
        size = len(batch.indices)
        if slots is not None and not batch.is_suspect:
            idle = max(1, slots - len(self.in_flight))
            size = min(self.pacer.next_size(left=max(self.left, 1), slots=slots), math.ceil(room / idle))
        size = min(size, room)
        if size >= len(batch.indices):
            return self.ready.popleft()
        self.ready[0] = replace(batch, indices=batch.indices[size:])
        return replace(batch, indices=batch.indices[:size])

    def hand_back(self, batch: Batch, last_s: float) -> None:
        """Elements that a chunk has not begun run next; `last_s` is what its last one took."""
        self.pacer.handed_back(last_s)
        self.ready.appendleft(batch)

    def wait(self, index: int, number: int, state: State) -> None:
        """An element waits for its next attempt at one of the maps."""
        time = state.start_time.timestamp() if state.start_time else 0.0
        heapq.heappush(self.due, (time, index, number))

    def wake(self, now: float) -> None:
        """Retries that are due can run: together, by the map at which they go on."""
        by_map: dict[int, list[int]] = {}
        while self.due and self.due[0][0] <= now:
            _, index, number = heapq.heappop(self.due)
            if self.missing is not None and self.missing[index]:
                self.missing[index] -= 1
                if self.missing[index]:
                    continue
            by_map.setdefault(number, []).append(index)
        for number, waiting in by_map.items():
            self.ready.append(Batch(tuple(sorted(waiting)), number))


def _says_all(code: int) -> bool:
    """Whether an element with this code has no value, or one that its state can give."""
    return code == Skipped.code or code >= FIRST_FAILED_CODE

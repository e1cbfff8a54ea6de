"""What the machine knows of deferred calls: where their records are, and which elements wait for which.

Numbers only: the states of elements are elsewhere, and nothing of the user's is loaded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from anabranch.base.states import FIRST_FINAL_CODE
from anabranch.engine.units.calls import CALLER, Block, Link, Placed
from anabranch.engine.units.indices import Indices, union


class Waiter(NamedTuple):
    """Elements of a node that wait: as calls for their arguments, or as callers for what they called."""

    slug: str
    is_caller: bool


@dataclass(frozen=True, slots=True)
class _Segment:
    """Elements of a group that came with one placement."""

    base: int
    stop: int
    placed: Placed
    group: int


class CallBook:
    """Callers and calls of one run."""

    def __init__(self) -> None:
        self.caller_of: dict[str, str] = {}
        """Slug of the caller, by that of each group of calls."""
        self.parcels: dict[str, bytes] = {}
        """By digest: what records name that is nowhere else."""
        self.definitions: dict[str, Any] = {}
        """Nodes of groups with their code, as workers take them."""
        self._groups: dict[tuple[str, str], str] = {}
        self._groups_of: dict[str, list[str]] = {}
        self._segments: dict[str, list[_Segment]] = {}
        self._callers: dict[str, dict[int, Placed]] = {}
        """Of elements that have made calls: where these are."""
        self._missing: dict[Waiter, dict[int, int]] = {}
        """Number of calls that an element waits for, where there are any."""

    def __bool__(self) -> bool:
        return bool(self.caller_of)

    def group(self, caller: str, identity: str) -> str | None:
        """Slug of the group with the calls of a caller to a task."""
        return self._groups.get((caller, identity))

    def add_group(self, caller: str, identity: str, slug: str, definition: Any) -> None:
        """Note a new group."""
        self._groups[caller, identity] = slug
        self._groups_of.setdefault(caller, []).append(slug)
        self._segments[slug] = []
        self.caller_of[slug] = caller
        self.definitions[slug] = definition

    def groups_of(self, caller: str) -> tuple[str, ...]:
        """Slugs of the groups that a caller has calls in."""
        return tuple(self._groups_of.get(caller, ()))

    def siblings_of(self, slug: str) -> tuple[str, ...]:
        """Slugs of the groups of a group's caller, which may take values of each other; of another node, its own."""
        return self.groups_of(self.caller_of[slug]) if slug in self.caller_of else (slug,)

    # Placing ----------------------------------------------------------------------------------------------------------

    def place(self, placed: Placed) -> None:
        """Note calls that were made, and who waits for whom. None of them has ended."""
        expansion = placed.expansion
        for digest, data in expansion.parcels.items():
            self.parcels.setdefault(digest, data)
        for number, (slug, base) in enumerate(zip(placed.slugs, placed.bases, strict=True)):
            self._segments[slug].append(_Segment(base, base + expansion.groups[number].width, placed, number))
        callers = [index for index in expansion.indices if index not in placed.void]
        self.forget(expansion.slug, callers)  # what they had called before does not matter any more
        self._callers.setdefault(expansion.slug, {}).update(dict.fromkeys(callers, placed))
        for link in expansion.links:
            self._count(placed, link, lambda slug, low, high: high - low)

    def _count(self, placed: Placed, link: Link, unfinished: Callable[[str, int, int], int]) -> None:
        missing = self._missing.setdefault(self._waiter(placed, link), {})
        slug, base = placed.slugs[link.needed], placed.bases[link.needed]
        for position, waiter in enumerate(link.waiters):
            needed = link.needed_by(position)
            left = unfinished(slug, base + needed.start, base + needed.stop)
            if left and self._holds(placed, link, waiter):
                index = self._element(placed, link, waiter)
                missing[index] = missing.get(index, 0) + left

    def recount(self, codes: Callable[[str], bytearray]) -> None:
        """Count again what is missing, by the codes of the groups' elements."""
        self._missing.clear()

        def unfinished(slug: str, low: int, high: int) -> int:
            return sum(code < FIRST_FINAL_CODE for code in codes(slug)[low:high])

        for placed in self.placements():
            for link in placed.expansion.links:
                self._count(placed, link, unfinished)

    def placements(self) -> list[Placed]:
        """All that was placed, in order."""
        seen: dict[int, Placed] = {}
        for segments in self._segments.values():
            seen.update((id(each.placed), each.placed) for each in segments)
        for callers in self._callers.values():
            seen.update((id(each), each) for each in callers.values())
        return list(seen.values())

    def forget(self, caller: str, indices: Iterable[int]) -> None:
        """Elements will be called again, and make their calls anew."""
        known = self._callers.get(caller, {})
        for index in indices:
            known.pop(index, None)
            self._missing.get(Waiter(caller, True), {}).pop(index, None)

    @staticmethod
    def _waiter(placed: Placed, link: Link) -> Waiter:
        if link.waiting == CALLER:
            return Waiter(placed.expansion.slug, True)
        return Waiter(placed.slugs[link.waiting], False)

    @staticmethod
    def _element(placed: Placed, link: Link, waiter: int) -> int:
        if link.waiting == CALLER:
            return placed.expansion.indices[waiter]
        return placed.bases[link.waiting] + waiter

    def _holds(self, placed: Placed, link: Link, waiter: int) -> bool:
        """Whether an element still waits because of this placement: a caller may have made other calls since."""
        if link.waiting != CALLER:
            return True
        index = placed.expansion.indices[waiter]
        return self._callers.get(placed.expansion.slug, {}).get(index) is placed

    # Asking -----------------------------------------------------------------------------------------------------------

    def has_called(self, slug: str, index: int) -> bool:
        """Whether an element has made calls that are known; -1: a single node."""
        return index in self._callers.get(slug, ())

    def is_waiting(self, waiter: Waiter, index: int) -> bool:
        """Whether an element waits for a call."""
        return index in self._missing.get(waiter, ())

    def ended(self, slug: str, indices: Indices) -> dict[Waiter, list[int]]:
        """Elements of a group have ended: the elements that miss nothing now."""
        free: dict[Waiter, list[int]] = {}
        spans = [(indices.start, indices.stop)] if isinstance(indices, range) else [(i, i + 1) for i in indices]
        for low, high in spans:
            for segment in self._overlapping(slug, low, high):
                placed = segment.placed
                for link in placed.expansion.links:
                    if link.needed != segment.group:
                        continue
                    waiter = self._waiter(placed, link)
                    missing = self._missing.get(waiter, {})
                    for number, count in link.overlapping(low - segment.base, high - segment.base):
                        index = self._element(placed, link, number)
                        if index not in missing or not self._holds(placed, link, number):
                            continue
                        missing[index] -= count
                        if missing[index] <= 0:
                            del missing[index]
                            if waiter.is_caller or not self.has_called(waiter.slug, index):  # else it has run
                                free.setdefault(waiter, []).append(index)
        return free

    def _overlapping(self, slug: str, low: int, high: int) -> Iterator[_Segment]:
        segments = self._segments.get(slug, [])
        first = max(0, bisect_right(segments, low, key=lambda each: each.base) - 1)
        for segment in segments[first:]:
            if segment.base >= high:
                return
            if segment.stop > low:
                yield segment

    def needs(self, waiter: Waiter, indices: Iterable[int]) -> dict[str, Indices]:
        """Elements, by group, whose values these elements take."""
        spans: dict[str, set[tuple[int, int]]] = {}
        for index in indices:
            placed, number, waiting = self._place_of(waiter, index)
            if placed is None:
                continue
            for link in placed.expansion.links:
                if link.waiting != waiting:
                    continue
                base = placed.bases[link.needed]
                for position in link.positions(number):
                    needed = link.needed_by(position)
                    if needed:
                        span = (base + needed.start, base + needed.stop)
                        spans.setdefault(placed.slugs[link.needed], set()).add(span)
        return {slug: union(each) for slug, each in spans.items()}

    def _place_of(self, waiter: Waiter, index: int) -> tuple[Placed | None, int, int]:
        """The placement of an element, its number there, and that of its group."""
        if waiter.is_caller:
            placed = self._callers.get(waiter.slug, {}).get(index)
            return placed, bisect_left(placed.expansion.indices, index) if placed is not None else 0, CALLER
        segment = next(self._overlapping(waiter.slug, index, index + 1), None)
        if segment is None:
            return None, 0, 0
        return segment.placed, index - segment.base, segment.group

    def wanted(self, slug: str, waits: Callable[[Waiter, int], bool]) -> set[int]:
        """Elements of a group whose values somebody takes who has not ended."""
        found: set[int] = set()
        for segment in self._segments[slug]:
            placed = segment.placed
            for link in placed.expansion.links:
                if link.needed != segment.group:
                    continue
                waiter = self._waiter(placed, link)
                for position, number in enumerate(link.waiters):
                    if self._holds(placed, link, number) and waits(waiter, self._element(placed, link, number)):
                        needed = link.needed_by(position)
                        found.update(range(segment.base + needed.start, segment.base + needed.stop))
        return found

    def blocks(self, waiter: Waiter, indices: Indices) -> tuple[Block, ...]:
        """Blocks of records with those of these elements."""
        found: dict[int, Block] = {}
        wanted: Any = indices if isinstance(indices, range) else set(indices)
        if waiter.is_caller:
            callers = self._callers.get(waiter.slug, {})
            placements = {id(callers[index]): callers[index] for index in indices}
            for placed in placements.values():
                low, first, last = 0, indices[0], indices[-1]
                for width, data, *named in placed.expansion.blocks:
                    own = placed.expansion.indices[low : low + width]
                    low += width
                    if own[0] > last or own[-1] < first:
                        continue
                    if any(index in wanted and callers.get(index) is placed for index in own):
                        found[id(data)] = Block(own, data, _places(placed), *named)
            return tuple(found.values())
        spans = [(indices.start, indices.stop)] if isinstance(indices, range) else [(i, i + 1) for i in indices]
        for low, high in spans:
            for segment in self._overlapping(waiter.slug, low, high):
                at = segment.base
                for width, data, *named in segment.placed.expansion.groups[segment.group].blocks:
                    if at < high and at + width > low:
                        found[id(data)] = Block(range(at, at + width), data, _places(segment.placed), *named)
                    at += width
        return tuple(found.values())

    def parcels_of(self, blocks: Iterable[Block]) -> dict[str, bytes]:
        """The parcels that the records in some blocks name."""
        return {digest: self.parcels[digest] for block in blocks for digest in block.parcels}

    def missing(self) -> dict[tuple[Waiter, int], int]:
        """Number of calls that each element waits for, of those that wait."""
        return {(waiter, i): count for waiter, counts in self._missing.items() for i, count in counts.items() if count}


def _places(placed: Placed) -> tuple[tuple[str, int], ...]:
    return tuple(zip(placed.slugs, placed.bases, strict=True))

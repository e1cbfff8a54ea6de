"""Storing the elements of a map in a chunk: as one object, or each for itself, looked for in one go before they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from anabranch.base.errors import ResultError, UnstorableValueError
from anabranch.base.states import Cached, Success
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.units import Note, Outcome, Refs
from anabranch.engine.worker.storage import Errand, Prefetched, Storage, prefetch
from anabranch.engine.worker.task_runner import Environment, TaskRun, inputs_of
from anabranch.results.reference import ResultRef

_WITH_VALUE = frozenset({Success.code, Cached.code})


class ChunkStorage:
    """What is stored, and what is to be stored, of one map in a chunk.

    Parameters
    ----------
    storage
        Of the map.
    indices, codes, values
        Of the chunk's elements; the last two change while it runs.
    looks_back
        Whether elements may have run, and stored their values, on a worker that was lost.
    """

    def __init__(
        self,
        storage: Storage,
        indices: Indices,
        codes: bytearray,
        values: list[Any],
        *,
        looks_back: bool,
        environment: Environment,
    ) -> None:
        self.storage = storage
        self.by_element = storage.goes_by_element
        self._indices, self._codes, self._values = indices, codes, values
        self._looks_back, self._environment = looks_back, environment
        self._refs: dict[int, ResultRef] = {}
        """Of values that have an object of their own, by position."""
        self._notes: dict[int, Note] = {}
        self._objects: list[tuple[tuple[int, ...], ResultRef]] = []
        """Of values that share one, with their indices."""
        self._is_in_object: set[int] = set()
        """Positions of those."""
        self._errands: dict[int, Errand] = {}
        self._prefetched: Prefetched = {}

    def equip(self, run: TaskRun, position: int) -> TaskRun:
        """Let an element's task run store its value, if each has an object of its own."""
        if self.by_element:
            run.storage, run.looks_back = self.storage, self._looks_back
            run.errand, run.prefetched = self._errands.get(position), self._prefetched
        return run

    def look_ahead(self, runs: Iterable[tuple[int, TaskRun]]) -> None:
        """Look for what other runs may have stored of these elements, for all of them in one go."""
        if not self.storage.is_shared:
            return
        self._errands = {}
        for position, run in runs:
            near = [outcome.state for outcome in run.neighbours.values()]
            if not all(state.is_successful() and not state.is_skipped() for state in near):
                continue  # its trigger decides
            try:
                self._errands[position] = self.storage.errand(inputs_of(run), self._indices[position])
            except BaseException as error:  # the element's own affair, which it will be told of
                self._environment.reraise_interrupt(error)
        try:
            self._prefetched = prefetch(self._errands.values(), self.storage.result)
        except ResultError:  # elements will find out for themselves
            self._prefetched = {}

    def note(self, position: int, outcome: Outcome) -> None:
        """An element has ended, for now."""
        if outcome.ref is not None:
            self._refs[position] = outcome.ref
        if outcome.note is not None:
            self._notes[position] = outcome.note

    def store(self, reached: int, serial: int, whole: Callable[[], Mapping[str, Any]]) -> dict[int, BaseException]:
        """Store the values as one object, if they go by chunk; why not, by position of those that could not be.

        Parameters
        ----------
        reached
            Positions below were begun.
        serial
            Of the unit.
        whole
            Gives the inputs that are the same for all elements.
        """
        refused: dict[int, BaseException] = {}
        if self.by_element:
            return refused
        while True:
            done = self._is_in_object
            positions = [
                p for p in range(reached) if self._codes[p] in _WITH_VALUE and p not in refused and p not in done
            ]
            if not positions:
                return refused
            try:
                self.store_some(positions, serial, whole)
            except UnstorableValueError as error:
                reasons = {p: self.storage.unstorable(self._values[p]) for p in positions}
                guilty = {p: why for p, why in reasons.items() if why is not None}
                refused.update(guilty or dict.fromkeys(positions, error))
            except BaseException as error:
                self._environment.reraise_interrupt(error)
                return {**refused, **dict.fromkeys(positions, error)}
            else:
                return refused

    def store_some(self, positions: Sequence[int], serial: int, whole: Callable[[], Mapping[str, Any]]) -> None:
        """Store the values at some positions as one object.

        Raises
        ------
        UnstorableValueError, ResultError
            They cannot be stored.
        """
        indices = tuple(self._indices[position] for position in positions)
        ref, stored = self.storage.commit_chunk(indices, [self._values[p] for p in positions], serial, whole)
        for position, value in zip(positions, stored or (), strict=False):
            self._values[position] = value
        self._objects.append((indices, ref))
        self._is_in_object.update(positions)

    def refs_at(self, positions: Sequence[int], serial: int, whole: Callable[[], Mapping[str, Any]]) -> Refs:
        """Where the values at some positions are stored, which have ended since others were asked for.

        Raises
        ------
        UnstorableValueError, ResultError
            They cannot be stored.
        """
        with_value = [position for position in positions if self._codes[position] in _WITH_VALUE]
        if not self.by_element:
            if with_value:
                self.store_some(with_value, serial, whole)
            return (_as_ref(*self._objects[-1]),) if with_value else ()
        return tuple(
            (range(self._indices[position], self._indices[position] + 1), self._refs[position])
            for position in with_value
            if position in self._refs
        )

    def refs(self, reached: int) -> Refs:
        """Where the values are stored."""
        if self._objects:
            return tuple(_as_ref(indices, ref) for indices, ref in self._objects)
        return tuple(
            (range(self._indices[position], self._indices[position] + 1), ref)
            for position, ref in sorted(self._refs.items())
            if position < reached and self._codes[position] in _WITH_VALUE
        )

    def notes_at(self, positions: Sequence[int]) -> list[tuple[int, Note]]:
        """What looking for values came to, by position."""
        return [(position, self._notes[position]) for position in positions if position in self._notes]

    def notes(self, reached: int) -> dict[int, Note]:
        """What looking for values came to, by element."""
        return {self._indices[position]: note for position, note in self._notes.items() if position < reached}


def _as_ref(indices: tuple[int, ...], ref: ResultRef) -> tuple[Indices, ResultRef]:
    whole = range(indices[0], indices[-1] + 1)
    return (whole if len(whole) == len(indices) else indices), ref

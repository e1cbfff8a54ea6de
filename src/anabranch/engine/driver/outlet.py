"""Gives a stream what has ended in a run: task run by task run, with values, as soon as the machine knows.

Who takes it, and where it waits for them, is no affair of the run: see `anabranch.flows.stream`.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anabranch.base.observers import Recipient
from anabranch.base.states import FIRST_FINAL_CODE, Mapped, Skipped, State
from anabranch.definition.frozen import FrozenNode
from anabranch.engine.machine.knowledge import NodeRun
from anabranch.engine.machine.machine import Machine
from anabranch.engine.machine.maps import MapRun, News
from anabranch.engine.machine.stimuli import Command
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import Key, Refs
from anabranch.engine.worker.arrival import opened_outcome
from anabranch.executors.base import Executor

BLOCK = 4_096  # elements that did not run, given at a time

_log = logging.getLogger("anabranch.driver")


@dataclass(frozen=True, slots=True)
class Given:
    """Task runs of a node that have ended: elements of a map, or the node itself."""

    slug: str
    indices: Indices
    """Elements; of a node that has none, -1."""
    codes: bytes
    """Their states, one byte each; 0 of an element that is not given."""
    records: Mapping[int, State]
    """States of those that are more than plain Success."""
    values: Sequence[Any] | bytes | None = None
    """Values in that order, or the pickled list of them; None if they are not here."""
    refs: Refs = ()
    """Where the values are stored, if they are."""
    nbytes: int = 0
    """About what the values weigh."""


class Tap(Recipient):
    """Takes what has ended of some nodes.

    Parameters
    ----------
    slugs
        Of the nodes.
    """

    def __init__(self, slugs: Iterable[str]) -> None:
        self.slugs = frozenset(slugs)

    @abstractmethod
    def begin(self, nodes: Mapping[str, FrozenNode]) -> None:
        """A run begins, with these nodes by slug."""

    @abstractmethod
    def wants_end(self) -> str:
        """Asked now and then: why the run should be cancelled; nothing as long as it should not."""

    @abstractmethod
    def give(self, given: Given) -> None:
        """Take something; returns at once."""


class Outlet:
    """Gives a tap each task run once."""

    def __init__(self, tap: Tap, machine: Machine, executor: Executor, parameters: Mapping[str, Any]) -> None:
        self.tap = tap
        self._machine = machine
        self._executor = executor
        self._parameters = parameters
        self._given: dict[str, bytearray] = {}
        """By map: whether each element was given."""
        self._ended: set[str] = set()
        """Nodes that have ended, and of which all was given that was there to be given."""
        self._waiting: dict[Key, dict[str, list[Indices]]] = {}
        """By unit, which may have to end first, and map: elements whose values its outcome has."""
        tap.begin({slug: machine.runs[slug].node for slug in tap.slugs})

    def pour(self) -> list[Command]:
        """Give what has ended since the last time; what is to be done because of that."""
        for slug in self.tap.slugs:
            run = self._machine.runs[slug]
            if run.elements is not None:
                news, run.elements.news = run.elements.news or [], []
                for each in news:
                    self._take(slug, run.elements, each)
            if run.is_final and slug not in self._ended:
                if run.elements is not None:
                    self._ended.add(slug)
                    self._give_rest(slug, run.elements, Skipped.code)
                else:
                    self._give_single(run)
        there = [key for key in self._waiting if not self._machine.expects(key)]
        return self._fetch(there) if there else []

    def pour_rest(self, outcomes: Mapping[Key, UnitOutcome]) -> None:
        """The run has ended: give what was not given; `outcomes` are here."""
        for run in map(self._machine.runs.__getitem__, self.tap.slugs):
            if run.elements is not None:
                for key, outcome in outcomes.items() if 0 in self._flags(run.node.slug, run.elements) else ():
                    self._give_held(run.node.slug, run.elements, key, outcome, range(run.elements.width))
                self._give_rest(run.node.slug, run.elements, FIRST_FINAL_CODE)
            elif run.is_final and run.node.slug not in self._ended:
                self._give_single(run, outcomes)

    def _take(self, slug: str, elements: MapRun, news: News) -> None:
        indices, column = news.indices, news.column
        if column.values is None and not column.refs and news.key is not None:
            self._waiting.setdefault(news.key, {}).setdefault(slug, []).append(news.fresh)
            return
        codes = column.codes
        if min(codes) < FIRST_FINAL_CODE:  # the values are those of what has ended
            indices = tuple(i for i, code in zip(indices, codes, strict=True) if code >= FIRST_FINAL_CODE)
            codes = bytes(code for code in codes if code >= FIRST_FINAL_CODE)
        nbytes = len(column.values or b"")
        self._give(elements, Given(slug, indices, codes, column.records, column.values, column.refs, nbytes))

    def _give(self, elements: MapRun, given: Given) -> None:
        """Give what was not given before, and still stands: what was lost with its value comes again."""
        flags, now = self._flags(given.slug, elements), elements.codes
        codes = bytes(
            0 if flags[index] or now[index] < FIRST_FINAL_CODE else code
            for index, code in zip(given.indices, given.codes, strict=True)
        )
        if any(codes):
            for index, code in zip(given.indices, codes, strict=True):
                flags[index] |= code > 0
            self.tap.give(replace(given, codes=codes))

    def _flags(self, slug: str, elements: MapRun) -> bytearray:
        return self._given.setdefault(slug, bytearray(elements.width))

    def _fetch(self, keys: list[Key]) -> list[Command]:
        """Give elements whose values are in outcomes of units; one that is lost comes later, when it is made again."""
        commands: list[Command] = []
        for key, outcome in self._gathered(keys).items():
            for slug, held in self._waiting.pop(key).items():
                elements = self._machine.runs[slug].elements
                assert elements is not None
                are_there = [self._give_held(slug, elements, key, outcome, each) for each in held]
                if all(are_there):
                    commands += self._machine.was_given(slug, key)
        return commands

    def _gathered(self, keys: list[Key]) -> dict[Key, UnitOutcome]:
        """Outcomes of units, brought here; those that are not there are left to the end of the run, which tells why."""
        found: dict[Key, UnitOutcome] = {}
        try:
            outcomes = self._executor.gather(keys)
        except Exception:
            _log.debug("values for a stream cannot be brought here", exc_info=True)
            return found
        for key, outcome in outcomes.items():
            try:
                found[key] = opened_outcome(outcome)
            except Exception:
                _log.debug("values for a stream cannot be loaded", exc_info=True)
                found[key] = UnitOutcome()
        return found

    def _give_held(self, slug: str, elements: MapRun, key: Key, outcome: UnitOutcome, indices: Indices) -> bool:
        """Give elements that an outcome has; whether it has them all as they were reported."""
        column = outcome.columns.get(slug)
        if column is None:
            return False
        parts = [column.part(each) for each in elements.holdings_of(indices) if each.key == key]
        for part in parts:
            if part is not None:
                given = Given(slug, part.indices, part.codes, part.records, part.values, nbytes=outcome.nbytes)
                self._give(elements, given)
        return None not in parts

    def _give_rest(self, slug: str, elements: MapRun, least: int) -> None:
        """Give elements in states from `least` on that no report has told of, or whose values are gone."""
        flags, codes, start = self._flags(slug, elements), elements.codes, 0
        while (first := flags.find(0, start)) >= 0:
            start = min(first + BLOCK, elements.width)
            states = bytes(code if code >= least else 0 for code in codes[first:start])
            records = {i: state for i in range(first, start) if (state := elements.records.get(i)) is not None}
            self._give(elements, Given(slug, range(first, start), states, records))

    def _give_single(self, run: NodeRun, outcomes: Mapping[Key, UnitOutcome] | None = None) -> None:
        """Give a node; `outcomes`: at the end of the run, whether its value is there or not."""
        slug, state = run.node.slug, run.state
        values: Sequence[Any] | bytes | None = run.value
        if run.node.kind == "parameter":
            values = [self._parameters[slug]]
        elif state.is_failed() and state.counts is None:
            pass  # the state says all
        elif values is None and run.ref is None and run.key is not None:
            outcome = (self._gathered([run.key]) if outcomes is None else outcomes).get(run.key)
            found = outcome.singles.get(slug) if outcome is not None else None
            if found is not None and found.seal == run.seal:
                values = [found.value]
            elif outcomes is None:
                return  # it is lost, and runs again
        self._ended.add(slug)
        if run.node.is_map and isinstance(state, Mapped):
            return  # it has no elements
        refs: Refs = (((-1,), run.ref),) if run.ref is not None else ()
        self.tap.give(Given(slug, (-1,), bytes([state.code]), {-1: state}, values, refs))

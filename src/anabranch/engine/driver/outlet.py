"""Gives a stream what has ended in a run: task run by task run, with values, as soon as the machine knows.

Who takes it, and where it waits for them, is no affair of the run: see `anabranch.flows.stream`.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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

    @property
    def is_full(self) -> bool:
        """Whether one that came while the run went on takes nothing for now."""
        return False


class Readers(Recipient):
    """Taps that come and go while a run goes on."""

    @abstractmethod
    def present(self) -> Collection[Tap]:
        """Those that there are now."""

    @abstractmethod
    def end(self, served: Iterable[Tap]) -> None:
        """The run has ended; those who were `served` have been given all of it."""


class Outlet:
    """Gives a tap each task run once.

    Parameters
    ----------
    gather
        Brings the outcomes of units here, as that of an executor does.
    """

    def __init__(
        self,
        tap: Tap,
        runs: Mapping[str, NodeRun],
        parameters: Mapping[str, Any],
        gather: Callable[[Iterable[Key]], Mapping[Key, Any]],
    ) -> None:
        self.tap = tap
        self._runs = runs
        self._parameters = parameters
        self._gather = gather
        self._given: dict[str, bytearray] = {}
        """By map: whether each element was given."""
        self._ended: set[str] = set()
        """Nodes that have ended, and of which all was given that was there to be given."""
        self._waiting: dict[Key, dict[str, list[Indices]]] = {}
        """By unit, which may have to end first, and map: elements whose values its outcome has."""
        tap.begin({slug: runs[slug].node for slug in tap.slugs if slug in runs})

    def pour(self, machine: Machine) -> list[Command]:
        """Give what has ended since the last time; what is to be done because of that."""
        for run in self._tapped():
            if run.elements is not None:
                news, run.elements.news = run.elements.news or [], []
                for each in news:
                    self._take(run.node.slug, run.elements, each)
            self._look(run)
        given = self._fetch([key for key in self._waiting if not machine.expects(key)])
        return [command for slug, key in given for command in machine.was_given(slug, key)]

    def _tapped(self) -> list[NodeRun]:
        return [self._runs[slug] for slug in self.tap.slugs if slug in self._runs]

    def _look(self, run: NodeRun) -> None:
        """Give what is left of a node that has ended."""
        slug = run.node.slug
        if run.is_final and slug not in self._ended:
            if run.elements is not None:
                self._ended.add(slug)
                self._give_rest(slug, run.elements, Skipped.code)
            else:
                self._give_single(run)

    def pour_rest(self, outcomes: Mapping[Key, UnitOutcome]) -> None:
        """The run has ended: give what was not given; `outcomes` are here."""
        for run in self._tapped():
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

    def _fetch(self, keys: list[Key]) -> list[tuple[str, Key]]:
        """Give elements whose values are in outcomes of units: maps and units of which all is given.

        One that is lost comes later, when it is made again.
        """
        given: list[tuple[str, Key]] = []
        for key, outcome in self._gathered(keys).items() if keys else ():
            for slug, held in self._waiting.pop(key).items():
                elements = self._runs[slug].elements
                assert elements is not None
                are_there = [self._give_held(slug, elements, key, outcome, each) for each in held]
                if all(are_there):
                    given.append((slug, key))
        return given

    def _gathered(self, keys: list[Key]) -> dict[Key, UnitOutcome]:
        """Outcomes of units, brought here; those that are not there are left to the end of the run, which tells why."""
        found: dict[Key, UnitOutcome] = {}
        try:
            outcomes = self._gather(keys)
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


class Recap(Outlet):
    """Gives a tap that has come while a run goes on, or after it, what is known of it; nothing is kept for the tap."""

    def __init__(
        self,
        tap: Tap,
        runs: Mapping[str, NodeRun],
        parameters: Mapping[str, Any],
        gather: Callable[[Iterable[Key]], Mapping[Key, Any]],
    ) -> None:
        super().__init__(tap, runs, parameters, gather)
        self._seen: dict[str, tuple[int, int]] = {}
        """By map: how many of the reported values, and of the references to stored ones, were looked at."""
        self._keys: set[tuple[str, Key]] = set()
        """Maps and units of which the outcomes were asked for."""

    def recall(self, expects: Callable[[Key], bool]) -> None:
        """Give what has ended and was not given; `expects` tells whether a unit is still on its way."""
        if self.tap.is_full:
            return
        for run in self._tapped():
            if run.elements is not None:
                self._recall(run.node.slug, run.elements, expects)
            self._look(run)
        self._fetch([key for key in self._waiting if not expects(key)])

    def recall_rest(self, outcomes: Mapping[Key, UnitOutcome]) -> None:
        """The run has ended: give what was not given; `outcomes` are here."""
        for run in self._tapped():
            if run.elements is not None:
                self._recall(run.node.slug, run.elements, outcomes.__contains__)
        self._fetch(list(self._waiting))
        self.pour_rest(outcomes)

    def _recall(self, slug: str, elements: MapRun, expects: Callable[[Key], bool]) -> None:
        n_values, n_refs = self._seen.get(slug, (0, 0))
        self._seen[slug] = len(elements.values), len(elements.refs)
        for indices, data in elements.values[n_values:]:
            self._give(elements, replace(_known(slug, elements, indices), values=data, nbytes=len(data)))
        for indices, ref in elements.refs[n_refs:]:
            self._give(elements, replace(_known(slug, elements, indices), refs=((indices, ref),)))
        new = {key for key in elements.keys if (slug, key) not in self._keys and not expects(key)}
        if new:
            self._keys.update((slug, key) for key in new)
            flags = self._flags(slug, elements)
            for each in elements.holdings_of(range(elements.width)):
                if each.key in new and each.indices and not all(flags[index] for index in each.indices):
                    self._waiting.setdefault(each.key, {}).setdefault(slug, []).append(each.indices)


def _known(slug: str, elements: MapRun, indices: Indices) -> Given:
    """Elements as they stand."""
    records = {index: elements.records[index] for index in indices if index in elements.records}
    return Given(slug, indices, bytes(elements.codes[index] for index in indices), records)

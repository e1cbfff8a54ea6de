"""What pages show of a run beside how it stands: its shape, what went on when, and failures by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anabranch.base.events import Event, TaskChanged, UnitEnded
from anabranch.base.run_model import NodeModel, RunModel
from anabranch.base.states import FIRST_FAILED_CODE, Attempt, State, add_attempts
from anabranch.definition.shape import Shape
from anabranch.monitoring.pages.failure_groups import FailureGroups
from anabranch.monitoring.pages.spans import Bins, Durations

MAX_RETRIED = 100  # task runs whose earlier attempts are listed; what the record lists, too
MAX_WORKERS = 200  # lanes; work of others is counted with the last one


@dataclass(slots=True)
class PageNode(NodeModel):
    """A node, and when it was busy."""

    groups: tuple[str, ...] = ()
    """Names of the nested flows that it is in, outermost first."""
    durations: Durations = field(default_factory=Durations)
    """Of elements: their mean within each chunk."""
    busy: Bins = field(default_factory=Bins)


class PageModel(RunModel[PageNode]):
    """A run as pages show it.

    Parameters
    ----------
    shape
        Of the flow; without it, nodes are known and edges are not.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__(PageNode)
        self.shape = shape or Shape()
        self.nodes = {
            each.slug: PageNode(each.slug, each.kind, each.is_map, groups=each.groups) for each in self.shape.nodes
        }
        self.parameters: Mapping[str, Any] = {}
        self.workers: dict[str, Bins] = {}
        self.worker_units: Counter[str] = Counter()
        self.failures = FailureGroups()
        self.attempts: dict[str, tuple[Attempt, ...]] = {}
        """Attempts that were followed by another, by ``parse[777]``: of the first `MAX_RETRIED` task runs."""
        self.is_incomplete = False
        """Whether events were lost on the way here."""
        self.quiet_since: float | None = None
        """When something in it last began, ended or was logged, where only the record tells that; seconds."""
        self._origin: float | None = None

    def take(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, UnitEnded):
            self._note_unit(event)
        super().take(event)
        if isinstance(event, TaskChanged):
            node, state = self.node(event.slug), self._note_attempts(event.slug, event.state)
            if state.is_failed() and not node.is_map and not node.width:  # it may have had no unit of its own
                self.failures.note(node.slug, None, state)

    def _note_attempts(self, name: str, state: State) -> State:
        """The state, with all attempts that are known."""
        known = self.attempts.get(name)
        if not state.attempts or (known is None and len(self.attempts) >= MAX_RETRIED):
            return state if known is None else replace(state, attempts=known)
        self.attempts[name] = add_attempts(known or (), state.attempts)
        return replace(state, attempts=self.attempts[name])

    def _note_unit(self, unit: UnitEnded) -> None:
        for slug, each in unit.singles.items():
            state = self._note_attempts(slug, each)
            if state.start_time is not None and state.end_time is not None and not self.node(slug).is_done:
                self.node(slug).durations.add(state.duration_s or 0.0)
            if state.is_failed():
                self.failures.note(slug, None, state, worker=unit.worker)
        for slug, codes in unit.codes.items():
            node = self.node(slug)
            ended = frozenset(node.ends(unit.indices, codes)[0])
            states = {i: self._note_attempts(f"{slug}[{i}]", s) for i, s in unit.records.get(slug, {}).items()}
            failed = {i: state for i, state in states.items() if state.is_failed()}
            for index, state in failed.items():
                if index in ended:
                    self.failures.note(slug, index, state, worker=unit.worker)
            if unit.started and unit.seconds and codes:
                share = unit.seconds / len(unit.codes)  # nobody has timed the links of a chain
                node.durations.add(share / len(codes), len(codes))
                self._note_span(node.busy, unit, is_bad=bool(failed))
        if unit.started and unit.seconds and (unit.codes or unit.singles):
            bad = any(code >= FIRST_FAILED_CODE for codes in unit.codes.values() for code in set(codes))
            bad = bad or any(state.is_failed() for state in unit.singles.values())
            self._note_span(self._lane(unit.worker), unit, is_bad=bad)

    def _note_span(self, bins: Bins, unit: UnitEnded, *, is_bad: bool) -> None:
        if self._origin is None:
            self._origin = min(unit.started, self.began or unit.started)
        start = self.between_s(self._origin, unit.started)
        bins.add(start, start + unit.seconds, is_bad=is_bad)

    @property
    def origin(self) -> float:
        """The time, in seconds since the epoch, from which all bins count."""
        return self._origin if self._origin is not None else self.began or 0.0

    def _lane(self, worker: str) -> Bins:
        if worker not in self.workers and len(self.workers) >= MAX_WORKERS:
            worker = "others"
        self.worker_units[worker] += 1
        return self.workers.setdefault(worker, Bins())

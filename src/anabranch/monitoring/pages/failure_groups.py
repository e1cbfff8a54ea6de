"""Failures grouped by what was raised where: the first of each described, the rest counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from anabranch.base.states import Attempt, State

MAX_GROUPS = 50  # the others are counted together
MAX_EXAMPLES = 5  # described, of each group
MAX_TEXT = 4_000  # characters of a traceback or message
MAX_INPUTS = 12
MAX_SAID = 10_000  # single task runs remembered, so that none is counted twice


@dataclass(frozen=True, slots=True)
class Example:
    """A task run that failed."""

    name: str
    """``parse[777]``."""
    state: str
    attempt: int
    worker: str
    message: str
    inputs: tuple[tuple[str, str], ...] = ()
    traceback: str = ""
    start: datetime | None = None
    end: datetime | None = None
    attempts: tuple[Attempt, ...] = ()
    """Attempts before it."""


@dataclass(slots=True)
class FailureGroup:
    """Task runs that failed alike."""

    exception: str
    line: str
    """``file:line in function`` of the user's."""
    count: int = 0
    slugs: dict[str, int] = field(default_factory=dict)
    """How many of each node."""
    examples: list[Example] = field(default_factory=list)


class FailureGroups:
    """What failed by itself in a run; what failed because something above it did is left out."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str], FailureGroup] = {}
        self.total = 0
        self.ungrouped = 0
        """Failures of kinds that came when there were `MAX_GROUPS` already."""
        self._said: set[str] = set()

    def note(self, slug: str, index: int | None, state: State, *, worker: str = "") -> None:
        """Take note of a task run, or element, that failed."""
        failure = state.failure
        if state.name == "TriggerFailed" or (failure is not None and failure.type_name.endswith("UpstreamFailure")):
            return
        if index is None:
            if slug in self._said:  # the engine tells of a single task twice: its report, and its state
                return
            if len(self._said) < MAX_SAID:
                self._said.add(slug)
        self.total += 1
        key = (failure.type_name if failure else state.name, failure.line if failure else "")
        group = self.groups.get(key)
        if group is None:
            if len(self.groups) >= MAX_GROUPS:
                self.ungrouped += 1
                return
            group = self.groups[key] = FailureGroup(*key)
        group.count += 1
        group.slugs[slug] = group.slugs.get(slug, 0) + 1
        if len(group.examples) < MAX_EXAMPLES:
            group.examples.append(_make_example(slug, index, state, worker))

    def ordered(self) -> list[FailureGroup]:
        """The groups, largest first."""
        return sorted(self.groups.values(), key=lambda group: -group.count)


def _make_example(slug: str, index: int | None, state: State, worker: str) -> Example:
    failure = state.failure
    inputs = tuple((failure.inputs or {}).items())[:MAX_INPUTS] if failure is not None else ()
    return Example(
        name=slug if index is None else f"{slug}[{index}]",
        state=state.name,
        attempt=state.attempt,
        worker=state.worker or worker,
        message=(failure.message if failure is not None else state.message)[:MAX_TEXT],
        inputs=tuple((str(name), str(value)[:500]) for name, value in inputs),
        traceback=failure.traceback[-MAX_TEXT:] if failure is not None else "",
        start=state.start_time,
        end=state.end_time,
        attempts=state.attempts,
    )

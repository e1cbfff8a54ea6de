"""Rules on upstream states that decide whether a node may run.

A trigger is a function of `Upstreams`, a mapping of edges to states. It returns a truth value or raises a signal. A map
is in the mapping with its own state, and in the counts with its elements, so triggers cost the same for a million
elements as for one. For a trigger of the user's, the result of a state is the value that its edge carries: the
exception of what failed, and the list of a map's elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from anabranch.base.errors import OptionError
from anabranch.base.names import short
from anabranch.base.signals import PAUSE, SKIP, TRIGGERFAIL, Signal
from anabranch.base.states import Counts, Skipped, State, Success, TriggerFailed, tally
from anabranch.base.texts import headline_of


@dataclass(frozen=True, slots=True)
class EdgeName:
    """An edge as a trigger sees it."""

    upstream: str
    """Slug of the upstream node."""
    kind: str
    """``data``, ``order`` or ``gate``."""
    key: str | None = None
    """Argument that gets the value, if it is a data edge."""
    mapped: bool = False
    """Whether it carries one element."""


class Upstreams(Mapping[EdgeName, State]):
    """States of everything upstream of a node, by edge."""

    def __init__(self, states: Mapping[EdgeName, State]) -> None:
        self._states = states

    def __getitem__(self, edge: EdgeName) -> State:
        return self._states[edge]

    def __iter__(self) -> Iterator[EdgeName]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    @cached_property
    def counts(self) -> Counts:
        """Counts over all upstream task runs, with a node counted once and a map as its elements."""
        by_node = {(edge.upstream, edge.mapped): state for edge, state in self._states.items()}
        return tally(by_node.values())


Trigger: TypeAlias = Callable[[Upstreams], object]


def all_successful(upstreams: Upstreams) -> bool:
    """Run if nothing upstream failed."""
    failed = upstreams.counts.failed
    if failed:
        word = "failed or were cancelled" if upstreams.counts.cancelled else "failed"
        raise TRIGGERFAIL(f"{failed:,} of {upstreams.counts.total:,} upstream task runs {word}")
    return True


def all_failed(upstreams: Upstreams) -> bool:
    """Run if everything upstream failed."""
    return _require(upstreams.counts.failed == upstreams.counts.total, "all_failed", upstreams)


def any_successful(upstreams: Upstreams) -> bool:
    """Run if something upstream succeeded, or there is nothing upstream."""
    counts = upstreams.counts
    return _require(not counts.total or counts.successful + counts.skipped > 0, "any_successful", upstreams)


def any_failed(upstreams: Upstreams) -> bool:
    """Run if something upstream failed, or there is nothing upstream."""
    counts = upstreams.counts
    return _require(not counts.total or counts.failed > 0, "any_failed", upstreams)


def all_finished(upstreams: Upstreams) -> bool:
    """Run when everything upstream has finished, in any state."""
    return True


always_run = all_finished


def none_failed(upstreams: Upstreams) -> bool:
    """Run if nothing upstream failed; another name for `all_successful`."""
    return all_successful(upstreams)


def not_all_skipped(upstreams: Upstreams) -> bool:
    """Run if nothing upstream failed and something was not skipped; skip if everything was skipped."""
    all_successful(upstreams)
    if upstreams.counts.skipped == upstreams.counts.total:
        raise SKIP("everything upstream was skipped")
    return True


def manual_only(upstreams: Upstreams) -> bool:
    """Run only after an approval."""
    raise PAUSE("waits for an approval (trigger manual_only)")


def some_failed(at_least: float | None = None, at_most: float | None = None) -> Trigger:
    """Run if this many upstream task runs failed, or there is nothing upstream.

    1 and more are counts, less is a share; bounds are included.
    """
    return _some("some_failed", at_least, at_most, lambda counts: counts.failed)


def some_successful(at_least: float | None = None, at_most: float | None = None) -> Trigger:
    """Run if this many upstream task runs succeeded, or there is nothing upstream.

    1 and more are counts, less is a share; bounds are included.
    """
    return _some("some_successful", at_least, at_most, lambda counts: counts.successful + counts.skipped)


@dataclass(frozen=True)
class _Some:
    """A trigger with bounds; a class, so that it can be pickled and has a readable repr."""

    name: str
    at_least: float | None
    at_most: float | None
    number: Callable[[Counts], int]

    def __call__(self, upstreams: Upstreams) -> bool:
        counts = upstreams.counts
        found = self.number(counts)
        low = _bound(self.at_least, counts.total, 0)
        high = _bound(self.at_most, counts.total, counts.total)
        return _require(not counts.total or low <= found <= high, repr(self), upstreams)

    def __repr__(self) -> str:
        return f"{self.name}(at_least={self.at_least}, at_most={self.at_most})"


def _some(name: str, at_least: float | None, at_most: float | None, number: Callable[[Counts], int]) -> Trigger:
    for bound in (at_least, at_most):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, (int, float)) or not bound >= 0):
            raise OptionError(f"{name}: expected a count or a part of all, 0 or more, found {bound!r}")
    return _Some(name, at_least, at_most, number)


def _bound(value: float | None, total: int, default: int) -> float:
    if value is None:
        return default
    return value * total if 0 < value < 1 else value


def _require(holds: bool, name: str, upstreams: Upstreams) -> bool:
    if not holds:
        raise TRIGGERFAIL(f"trigger {name} did not hold: {upstreams.counts}".replace("elements", "upstream task runs"))
    return True


def is_ready_made(trigger: Trigger) -> bool:
    """Whether it is one of those here, which look at nothing but counts."""
    return getattr(trigger, "__module__", None) == __name__


def verdict(
    upstreams: Upstreams, *, trigger: Trigger, skip_on_upstream_skip: bool, is_approved: bool = False
) -> State | None:
    """What becomes of a node, seen from its upstream states alone: None if it may run, otherwise its state.

    A closed gate skips, always. Otherwise, if anything upstream failed, the trigger decides; if nothing did, the skip
    rule comes first: skipped if a data upstream was, or if all order upstreams (one or more) were.
    """
    if trigger is all_successful and all(type(s) is Success and s.counts is None for s in upstreams.values()):
        return None  # what most task runs find, without a count
    for edge, state in upstreams.items():
        if edge.kind == "gate" and isinstance(state, Skipped):
            return Skipped(message=f"{edge.upstream} is closed")
    if skip_on_upstream_skip and not upstreams.counts.failed:
        message = _skip_rule(upstreams)
        if message:
            return Skipped(message=message)
    if is_approved and trigger is manual_only:
        return None
    try:
        holds = trigger(upstreams)
        is_open = bool(holds)
    except Signal as signal:
        return signal.state
    except BaseException as error:  # a trigger is the user's code: whatever it raises is its task's failure
        return TriggerFailed(message=f"trigger {short(trigger)} raised {headline_of(error)}")
    if not is_open:
        return TriggerFailed(message=f"trigger {short(trigger)} gave {short(holds)}")
    return None


def _skip_rule(upstreams: Upstreams) -> str:
    order = []
    for edge, state in upstreams.items():
        if edge.kind == "order":
            order.append(isinstance(state, Skipped))
        elif isinstance(state, Skipped):
            return f"upstream {edge.upstream} was skipped"
    return "everything it follows was skipped" if order and all(order) else ""

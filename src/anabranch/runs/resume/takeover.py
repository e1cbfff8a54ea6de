"""Going on with a recorded run: it is taken over, what holds of its record is put into the plan, and the rest runs."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from anabranch.base.errors import ParameterError, ResumeError, listed
from anabranch.base.names import short
from anabranch.base.twins import of_this_process
from anabranch.definition.fingerprints import changes, fingerprints, unknown_changes
from anabranch.definition.frozen import FrozenGraph
from anabranch.engine.driver.plan import RunPlan
from anabranch.runs.read.lookup import date_of, facts_of, find
from anabranch.runs.record.calls import with_calls
from anabranch.runs.record.recorder import SERIALS_OF_AN_OWNER, Recorder
from anabranch.runs.resume.choice import Choice, Recorded, held
from anabranch.runs.resume.recorded import load
from anabranch.runs.store.owners import is_dead
from anabranch.runs.store.records import Ownership, RunRecord, RunStore

_MAX_NAMES = 8

_log = logging.getLogger("anabranch.history")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which run is to go on, and what of it is to run again; nodes by slug."""

    run_id: str
    """Or a beginning of it, or ``last``: the flow's run that began last."""
    only_failed: bool = False
    start: frozenset[str] = frozenset()
    element: tuple[str, int] | None = None
    rerun_changed: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)
    """Values of parameters, by name: those that were not recorded because they are secret, or do not pickle."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A recorded run that this process owns now."""

    store: RunStore
    record: RunRecord
    """As it was before."""
    ownership: Ownership
    parameters: Mapping[str, Any]
    """Values by name, as far as they are recorded."""

    def give_back(self) -> None:
        """Put the run down as it was; one whose driver was lost still has to be gone on with."""
        before = self.record
        if before.lease_until is not None:  # ours ends in the past, as its did
            self.store.heartbeat(self.ownership, now=before.start - timedelta(seconds=self.store.lease_s))
            return
        self.store.finish_run(self.ownership, before.state, end=before.end, message=before.message)


_CLAIMS: ContextVar[Mapping[str, int]] = ContextVar("anabranch_claims", default={})  # noqa: B039  # never changed


@contextmanager
def claimed(run_id: str, epoch: int) -> Iterator[None]:
    """Within it, that run is gone on with only if it has had so many owners: else somebody has had it meanwhile."""
    before = _CLAIMS.set({run_id: epoch})
    try:
        yield
    finally:
        _CLAIMS.reset(before)


def take(request: Request, flow_name: str) -> Taken:
    """Take a run over, to go on with it.

    Raises
    ------
    ResumeError
        It is a run of another flow.
    RunHeld
        It goes on elsewhere.
    """
    store, record = find(request.run_id, flow_name)
    if record.flow_name != flow_name:
        raise ResumeError(
            f"run {record.run_id} is one of flow {record.flow_name!r}, found flow {flow_name!r}; "
            "resume it with its own flow"
        )
    now = record.lease_until if record.lease_until is not None and is_dead(record.owner, record.born) else None
    parameters = _parameters(record, request.given)
    epoch = _CLAIMS.get().get(record.run_id)
    return Taken(store, record, store.take_over(record.run_id, epoch=epoch, now=now), parameters)


def _parameters(record: RunRecord, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a run had, with those given that were not recorded."""
    values: dict[str, Any] = {}
    broken: dict[str, str] = {}
    data = record.details.parameters_pickle if record.details is not None else None
    for name, pickled in (pickle.loads(data) if data is not None else {}).items():
        try:
            values[name] = of_this_process(pickle.loads(pickled))
        except Exception as error:  # a class that is not here any more
            broken[name] = f"{name}: its recorded value does not load here, give it again ({error})"
    problems = [text for name, text in broken.items() if name not in given]
    shown = record.details.parameters if record.details is not None else {}
    by_default = facts_of(record).get("by_default", ())
    problems += [
        f"{name}: was {short(values[name])} and cannot be changed, found {short(value)}"
        for name, value in given.items()
        if name in values and not _is_same(values[name], value)
    ]
    problems += [
        f"{name}: its value was not recorded, give it again"
        for name in shown
        if name not in values and name not in given and name not in broken and name not in by_default
    ]
    if problems:
        raise ParameterError(f"the parameters do not fit run {record.run_id}", problems)
    return {**values, **{name: value for name, value in given.items() if name not in values}}


def _is_same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other) or str(one) == str(other)  # from the command line, a date is a text
    except Exception:  # an array, say
        return False


def go_on(taken: Taken, plan: RunPlan, request: Request) -> tuple[RunPlan, Recorder]:
    """The plan of what is left of a run, and its recorder.

    Raises
    ------
    ResumeError
        The record cannot be used like this.
    """
    from anabranch.runs.resume.check import checked  # every run loads this module, and few go on with one
    from anabranch.runs.resume.outdated import outdated
    from anabranch.runs.stored_values import going_on

    start = request.start | _changed(taken.record, plan.graph, rerun=request.rerun_changed)
    choice = Choice(
        only_failed=request.only_failed,
        start=start,
        element=request.element,
        approved=plan.approved,
        keep=plan.keep,
    )
    recorded = load(taken.store, taken.record.run_id, plan.graph)
    if request.element is not None:
        _check_element(recorded, *request.element)
    graph = with_calls(plan.graph, recorded.calls)
    is_foreign = _python_of(taken.record) != sys.version_info[:2]
    recorded = checked(graph, recorded, repairs=not request.only_failed, loads=is_foreign)
    kept = held(graph, recorded, choice)
    first_serial = taken.ownership.epoch * SERIALS_OF_AN_OWNER
    plan = replace(
        plan,
        graph=going_on(plan.graph),
        calls=replace(plan.calls, is_resumed=True),
        run_id=taken.record.run_id,
        date=plan.date or date_of(taken.record),
        first_serial=first_serial,
        recorded=kept.reports(),
        widths={slug: kept.widths[slug] for slug in kept.columns if slug in kept.widths},
        began=taken.record.start.timestamp(),
        rests=taken.store.get_run(taken.record.run_id).rests,
    )
    known = {slug: single.state for slug, single in kept.singles.items()}
    rows = outdated(graph, recorded, kept, first_serial)
    recorder = Recorder(taken.store, taken.ownership, plan.graph, known=known, before=taken.record, outdated=rows)
    return plan, recorder


def _python_of(record: RunRecord) -> tuple[int, ...]:
    """Version of the Python that began a run, in two numbers."""
    text = record.details.versions.get("python", "") if record.details is not None else ""
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _changed(record: RunRecord, graph: FrozenGraph, *, rerun: bool) -> frozenset[str]:
    """Nodes to run again because their code is not what it was; without that wish, a warning that names them."""
    before = record.details.code if record.details is not None else {}
    now = fingerprints(graph)
    changed = changes(before, now)
    if rerun and (unknown := unknown_changes(before, now)):
        _log.warning(
            "whether the code of %s has changed since run %s began cannot be told, as it holds what has no "
            "fingerprint: it runs again, with all below it",
            listed(unknown[:_MAX_NAMES]),
            record.run_id,
        )
        changed += unknown
    if changed and not rerun:
        more = f" and {len(changed) - _MAX_NAMES:,} more" if len(changed) > _MAX_NAMES else ""
        _log.warning(
            "since run %s began the code of %s%s has changed, or values that it names; what had finished is kept all "
            "the same: rerun_changed=True (--rerun-changed) runs it again, with all below it",
            record.run_id,
            listed(changed[:_MAX_NAMES]),
            more,
        )
    return frozenset(changed) if rerun else frozenset()


def _check_element(recorded: Recorded, slug: str, index: int) -> None:
    width = recorded.widths.get(slug)
    if width is None or not 0 <= index < width:
        known = f"it has {width:,} elements" if width is not None else "no elements of it are recorded"
        raise ResumeError(f"{slug}[{index}] is no element of the run: {known}")

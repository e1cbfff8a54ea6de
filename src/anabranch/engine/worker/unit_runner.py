"""Runs a unit where it is placed: finds its inputs, runs its nodes, makes the outcome and the report."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import replace

from anabranch.base.errors import ResultError, UnmappableError
from anabranch.base.states import Cached, Deferred, Finished, Pending, State, Success
from anabranch.definition.expressions import evaluate
from anabranch.definition.frozen import FrozenNode, reduced_argument
from anabranch.engine.units.calls import Expansion
from anabranch.engine.units.columns import (
    OutcomesChanged,
    counted,
    flat,
    gather_parts,
    stored_value,
    unreported_seals,
    whole_outcome,
    without_states,
)
from anabranch.engine.units.elements import read, width_of
from anabranch.engine.units.failures import revive
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.reducing import gathered_partials
from anabranch.engine.units.units import Key, Outcome, Program, Report, SingleReport, Unit
from anabranch.engine.units.values import measured
from anabranch.engine.worker import chunk_runner
from anabranch.engine.worker.call_storing import with_code
from anabranch.engine.worker.calls_in import Called
from anabranch.engine.worker.calls_out import expanded, loaded, things_there
from anabranch.engine.worker.interim import Ongoing, telling
from anabranch.engine.worker.task_runner import (
    Environment,
    TaskRun,
    consult_trigger,
    failed_state,
    limit_names_of,
    run_assembly,
    run_task,
)
from anabranch.results.reference import ResultRef


def run_unit(unit: Unit, environment: Environment, outcomes: Mapping[Key, UnitOutcome]) -> tuple[UnitOutcome, Report]:
    """Run a unit, given the outcomes it needs by key."""
    if unit.indices is not None:
        try:
            return chunk_runner.run_chunk(unit, environment, outcomes)
        except OutcomesChanged as changed:
            return UnitOutcome(), Report(unit.key, indices=(), worker=environment.worker, changed=changed.keys)
        except BaseException as error:  # of an input that is read or loaded: the rest is dealt with by element
            environment.reraise_interrupt(error)
            return chunk_runner.failed_chunk(unit, environment, error)
    return run_singles(unit, environment, outcomes)


def learn(program: Program, unit: Unit) -> None:
    """Take the nodes that deferred calls have added into the program; loading them may raise anything."""
    for slug, definition in (unit.calls.definitions if unit.calls is not None else {}).items():
        known = program.definitions.get(slug)
        if known is None or (known is not definition and known != definition):
            program.add(with_code(loaded(definition, slug), program))
            program.definitions[slug] = definition


def run_singles(
    unit: Unit, environment: Environment, outcomes: Mapping[Key, UnitOutcome]
) -> tuple[UnitOutcome, Report]:
    """Run the nodes of a unit, one after the other."""
    line = _Line(unit, environment, outcomes)
    with telling(unit, environment.program, environment.channel, line.look) as ongoing:
        for place, slug in enumerate(unit.nodes):
            line.run(place, slug, ongoing)
    return line.outcome()


class _Line:
    """The nodes of a unit, as far as they have been run."""

    def __init__(self, unit: Unit, environment: Environment, outcomes: Mapping[Key, UnitOutcome]) -> None:
        self._unit = unit
        self._environment = environment
        self._outcomes = outcomes
        self._began = environment.clock()
        self._done: dict[str, Outcome] = {}
        self._reports: list[SingleReport] = []
        self._expansions: list[Expansion] = []
        self._changed: set[Key] = set()
        self._elsewhere = unit.before.unfinished if unit.before is not None else {}
        self._ended = unit.before.ended if unit.before is not None else {}
        self._names: tuple[tuple[str, ...], ...] = ()
        self._told = 0
        """Reports that were told already."""
        self._at: tuple[str, float] | None = None
        """Node that runs now, and when it began by the stopwatch."""
        self._told_at: str | None = None
        self._ongoing: State | None = None
        """What the node that runs now has come to, a round of its loop or an attempt that failed; until it is told."""

    def look(self) -> Iterator[Report]:
        """A report of what has ended since this was last asked, and of what runs now if that is another node."""
        at, fresh, is_safe = self._at, self._reports[self._told :], not self._changed
        self._told += len(fresh)
        ended = [each for each in fresh if isinstance(each.state, Finished)]
        state, self._ongoing = self._ongoing, None
        if state is not None and at is not None:
            ended.append(SingleReport(at[0], state))
        if not is_safe or not (ended or (at is not None and at[0] != self._told_at)):
            return
        now = None
        if at is not None and at[0] != self._told_at:
            self._told_at = at[0]
            now = (at[0], -1, self._environment.stopwatch() - at[1])
        yield Report(
            self._unit.key,
            singles=tuple(ended),
            worker=self._environment.worker,
            started=self._began,
            taken=unreported_seals(self._unit, self._outcomes),
            at=now,
        )

    def run(self, place: int, slug: str, ongoing: Ongoing) -> None:
        """Run the next node."""
        unit, environment = self._unit, self._environment
        node = environment.program.nodes[slug]
        if not place:
            self._began = environment.clock()
        is_late = unit.give_up_s is not None and environment.clock() - self._began > unit.give_up_s
        if place and (is_late or ongoing.is_over):
            self._reports.append(SingleReport.handed_back(slug))
            return
        if slug in self._elsewhere:
            self._done[slug] = Outcome(Pending(message="ends elsewhere"))
            self._reports.append(SingleReport.handed_back(slug))
            return
        self._at = slug, environment.stopwatch()
        try:
            if self._take_reported(slug):
                return
            called = None
            if place == 0 and unit.calls is not None and unit.calls.assembles:
                called = Called(slug, unit, environment.program, self._outcomes)
            upstreams = {} if called is not None else {up: self._upstream(node, up) for up in node.whole_upstreams}
        except OutcomesChanged as found:
            self._changed |= found.keys
            self._done[slug] = Outcome(Pending(message="waits for values that were lost"))
            self._reports.append(SingleReport.handed_back(slug))
            return
        except BaseException as error:  # reducing runs the task's function, loading runs the user's classes
            environment.reraise_interrupt(error)
            state = replace(failed_state(error, root=slug), worker=environment.worker)
            self._conclude(node, Outcome(state, revive(state.failure)))
            return
        attempt = unit.attempts.get(-1, 1) if place == 0 else 1
        is_approved = slug in unit.approved
        run = TaskRun(
            node,
            upstreams,
            {},
            environment.task_context(node, attempt=attempt, is_approved=is_approved, names=unit.names),
            environment,
            wait_s=0.0 if unit.give_up_s is not None else environment.longest_wait_s(unit),
            is_approved=is_approved,
            storage=environment.storage(node),
            looks_back=unit.is_suspect or unit.before is not None,
            note=self._note,
            is_over=ongoing.ends,
        )
        if unit.asks_names:
            self._names = (limit_names_of(run),)
            self._at = None
            self._reports.append(SingleReport.handed_back(slug))
            return
        if place == 0 and -1 in unit.loops:
            run.go_on(unit.loops[-1])
        if called is not None:
            outcome = run_assembly(run, called, -1)
        else:
            outcome = run_collection(run) if node.kind in ("collect", "flatten") else run_task(run)
        if isinstance(outcome.state, Deferred):
            outcome = _expand(run, outcome, self._expansions, unit)
        self._conclude(node, outcome, loop_count=run.context.task_loop_count)

    def _take_reported(self, slug: str) -> bool:
        """Whether all of a node was reported, or stored, when the unit ran before: nothing of it is made again."""
        report = self._ended.get(slug)
        if not isinstance(report, SingleReport) or not isinstance(report.state, Finished):
            return False
        state = report.state
        if report.value is not None:
            self._done[slug] = Outcome(state, pickle.loads(report.value), nbytes=len(report.value))
        elif state.counts is None and (state.is_failed() or state.is_skipped()):
            self._done[slug] = Outcome(state, revive(state.failure) if state.is_failed() else state.result)
        elif report.ref is not None:
            try:
                value = stored_value(self._environment.program, slug, report.ref)
            except ResultError:  # it is not there any more
                return False
            self._done[slug] = Outcome(state, value, nbytes=report.ref.nbytes)
        else:
            return False
        self._reports.append(report)
        return True

    def _note(self, state: State) -> None:
        self._ongoing = state

    def _upstream(self, node: FrozenNode, up: str) -> Outcome:
        if up in self._done:
            return taken(node, self._environment.program.nodes[up], self._done[up])
        return upstream_outcome(node, up, self._unit, self._environment.program, self._outcomes)

    def _conclude(self, node: FrozenNode, outcome: Outcome, *, loop_count: int = 1) -> None:
        self._done[node.slug] = outcome
        report = report_single(node, outcome, self._environment, loop_count=loop_count)
        self._ongoing, self._at = None, None
        self._reports.append(report)

    def outcome(self) -> tuple[UnitOutcome, Report]:
        """What stays here, and what the driver learns."""
        unit, environment = self._unit, self._environment
        nbytes = sum(outcome.nbytes for outcome in self._done.values())
        report = Report(
            unit.key,
            singles=tuple(self._reports),
            seconds=max(0.0, environment.clock() - self._began),  # a clock may be put back meanwhile
            nbytes=nbytes,
            worker=environment.worker,
            started=self._began,
            expansions=tuple(self._expansions),
            names=self._names,
            taken={} if self._changed else unreported_seals(unit, self._outcomes),
            changed=frozenset(self._changed),
        )
        seals = {each.slug: each.seal for each in self._reports}
        kept = {slug: Outcome(each.state, each.value, seal=seals[slug]) for slug, each in self._done.items()}
        return UnitOutcome(singles=kept, nbytes=nbytes), report


def _expand(run: TaskRun, outcome: Outcome, expansions: list[Expansion], unit: Unit) -> Outcome:
    """Take the deferred calls out of what a task returned; its failure if they cannot travel."""
    environment = run.environment
    name = run.context.task_full_name
    try:
        expansions.append(
            expanded(
                run.node,
                (-1,),
                [(name, outcome.value)],
                environment.program,
                there=things_there(run.node, run.upstreams, unit, environment.program),
                in_process=environment.in_process,
            )
        )
    except BaseException as error:  # pickling runs the user's code
        environment.reraise_interrupt(error)
        state = replace(failed_state(error, root=name), worker=environment.worker)
        return Outcome(state, revive(state.failure))
    return Outcome(outcome.state)


def taken(node: FrozenNode, upstream: FrozenNode, outcome: Outcome) -> Outcome:
    """The outcome of an earlier node of the unit, as this one takes it."""
    return outcome if node.kind == "flatten" else without_states(upstream, outcome)


def upstream_outcome(
    node: FrozenNode, slug: str, unit: Unit, program: Program, outcomes: Mapping[Key, UnitOutcome]
) -> Outcome:
    """Outcome of something upstream of a node, from outside of the unit."""
    reduce = None
    argument = reduced_argument(node)
    if argument is not None and argument[1] == slug:
        reduce = lambda source: gathered_partials(node, slug, source, program, outcomes)  # noqa: E731  # one use, below
    return whole_outcome(slug, unit, program, outcomes, carrying=node.kind == "flatten", reduce=reduce)


def run_collection(run: TaskRun) -> Outcome:
    """Run a node that puts a list together from upstream states and values."""
    waiting = next((slug for slug, up in run.upstreams.items() if not up.state.is_finished()), None)
    if waiting is not None:
        return Outcome(Pending(message=f"waits for {waiting}"))
    refused = consult_trigger(run)
    if refused is not None:
        return Outcome(refused)
    try:
        return _collected(run)
    except BaseException as error:  # the user's collections are put together, read and pickled here
        run.environment.reraise_interrupt(error)
        state = replace(failed_state(error, root=run.node.slug), worker=run.environment.worker)
        return Outcome(state, revive(state.failure))


def _collected(run: TaskRun) -> Outcome:
    node, reraise = run.node, run.environment.reraise_interrupt
    if node.kind == "collect":
        values = gather_parts(node, run.upstreams)
    else:
        source = next((run.upstreams[edge.upstream] for edge in node.edges if edge.key == "parts"), None)
        if source is not None and source.state.counts is None and not _has_value(source.state):
            return source
        nested = (
            source.value if source is not None else evaluate(node.arguments["parts"], run.environment.program.values)
        )
        values = flat(read(nested, range(width_of(nested, reraise)), reraise), reraise)
    state = counted(values) or Success(message="done")
    values, pickled, nbytes = measured(values)
    return Outcome(replace(state, worker=run.environment.worker), values, pickled, nbytes)


def _has_value(state: State) -> bool:
    return state.is_successful() and not state.is_skipped()


def report_single(node: FrozenNode, outcome: Outcome, environment: Environment, *, loop_count: int = 1) -> SingleReport:
    """The report of one node; its value rides along where that is small."""
    state: State = outcome.state
    limit: int = environment.setting("inline_nbytes")
    value = outcome.pickled if outcome.pickled is not None and len(outcome.pickled) <= limit else None
    width, reason = None, ""
    if node.feeds_map and (state.is_successful() or state.counts is not None):
        try:
            width = width_of(outcome.value, environment.reraise_interrupt)
        except UnmappableError as error:
            reason = str(error)
    seal = _seal_of(state, width, value, outcome.ref)
    return SingleReport(node.slug, state, value, width, reason, outcome.ref, outcome.note, loop_count, seal)


def _seal_of(state: State, width: int | None, value: bytes | None, ref: ResultRef | None) -> bytes:
    """A digest of what others know of an outcome: not of a large value, which is nowhere else."""
    code = Success.code if isinstance(state, Cached) else state.code
    known = f"{code} {width} {ref.checksum if ref is not None else ''} ".encode()
    return hashlib.blake2b(known + (value or b""), digest_size=16).digest()

"""Runs a unit where it is placed: finds its inputs, runs its nodes, makes the outcome and the report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from anabranch.base.errors import ExtraMissing, ResultError, UnmappableError
from anabranch.base.states import Cached, Deferred, Pending, State, Success
from anabranch.definition.expressions import evaluate
from anabranch.definition.frozen import FrozenNode, reduced_argument
from anabranch.engine.units.calls import Expansion
from anabranch.engine.units.columns import (
    OutcomesChanged,
    counted,
    flat,
    gather_parts,
    unreported_seals,
    whole_outcome,
    without_states,
)
from anabranch.engine.units.failures import revive
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.reducing import gathered_partials
from anabranch.engine.units.units import Key, Outcome, Program, Report, SingleReport, Unit
from anabranch.engine.units.values import measured, width_of
from anabranch.engine.worker import chunk_runner
from anabranch.engine.worker.calls_in import Called
from anabranch.engine.worker.calls_out import expanded, loaded
from anabranch.engine.worker.task_runner import (
    Environment,
    TaskRun,
    consult_trigger,
    failed_state,
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
        except (ResultError, ExtraMissing) as error:  # of an input: what is written is dealt with by element
            return chunk_runner.failed_chunk(unit, environment, error)
    return run_singles(unit, environment, outcomes)


def learn(program: Program, unit: Unit) -> None:
    """Take the nodes that deferred calls have added into the program; loading them may raise anything."""
    for slug, definition in (unit.calls.definitions if unit.calls is not None else {}).items():
        known = program.definitions.get(slug)
        if known is None or (known is not definition and known != definition):
            program.add(loaded(definition, slug))
            program.definitions[slug] = definition


def run_singles(
    unit: Unit, environment: Environment, outcomes: Mapping[Key, UnitOutcome]
) -> tuple[UnitOutcome, Report]:
    """Run the nodes of a unit, one after the other."""
    began = environment.clock()
    done: dict[str, Outcome] = {}
    reports = []
    expansions: list[Expansion] = []
    changed: set[Key] = set()
    elsewhere = unit.before.unfinished if unit.before is not None else {}
    for place, slug in enumerate(unit.nodes):
        node = environment.program.nodes[slug]
        if place and unit.give_up_s is not None and environment.clock() - began > unit.give_up_s:
            reports.append(SingleReport.handed_back(slug))
            continue
        if slug in elsewhere:
            done[slug] = Outcome(Pending(message="ends elsewhere"))
            reports.append(SingleReport.handed_back(slug))
            continue
        assembles = place == 0 and unit.calls is not None and unit.calls.assembles
        try:
            called = Called(slug, unit, environment.program, outcomes) if assembles else None
            upstreams = (
                {}
                if assembles
                else {
                    up: taken(node, environment.program.nodes[up], done[up])
                    if up in done
                    else upstream_outcome(node, up, unit, environment.program, outcomes)
                    for up in node.whole_upstreams
                }
            )
        except OutcomesChanged as found:
            changed |= found.keys
            done[slug] = Outcome(Pending(message="waits for values that were lost"))
            reports.append(SingleReport.handed_back(slug))
            continue
        except BaseException as error:  # reducing runs the task's function, loading runs the user's classes
            environment.reraise_interrupt(error)
            state = replace(failed_state(error, root=slug), worker=environment.worker)
            done[slug] = Outcome(state, revive(state.failure))
            reports.append(report_single(node, done[slug], environment))
            continue
        attempt = unit.attempts.get(-1, 1) if place == 0 else 1
        run = TaskRun(
            node,
            upstreams,
            {},
            environment.task_context(node, attempt=attempt),
            environment,
            wait_s=0.0 if unit.give_up_s is not None else environment.longest_wait_s(unit),
            is_approved=slug in unit.approved,
            storage=environment.storage(node),
            looks_back=unit.is_suspect or unit.before is not None,
        )
        if place == 0 and -1 in unit.loops:
            run.context.task_loop_count, run.context.task_loop_result = unit.loops[-1]
        if called is not None:
            done[slug] = run_assembly(run, called, -1)
        else:
            done[slug] = run_collection(run) if node.kind in ("collect", "flatten") else run_task(run)
        if isinstance(done[slug].state, Deferred):
            done[slug] = _expand(run, done[slug], expansions)
        reports.append(replace(report_single(node, done[slug], environment), loop_count=run.context.task_loop_count))
    nbytes = sum(outcome.nbytes for outcome in done.values())
    report = Report(
        unit.key,
        singles=tuple(reports),
        seconds=max(0.0, environment.clock() - began),  # a clock may be put back meanwhile
        nbytes=nbytes,
        worker=environment.worker,
        started=began,
        expansions=tuple(expansions),
        taken={} if changed else unreported_seals(unit, outcomes),
        changed=frozenset(changed),
    )
    seals = {each.slug: each.seal for each in reports}
    kept = {slug: Outcome(outcome.state, outcome.value, seal=seals[slug]) for slug, outcome in done.items()}
    return UnitOutcome(singles=kept, nbytes=nbytes), report


def _expand(run: TaskRun, outcome: Outcome, expansions: list[Expansion]) -> Outcome:
    """Take the deferred calls out of what a task returned; its failure if they cannot travel."""
    environment = run.environment
    name = run.context.task_full_name
    try:
        expansions.append(
            expanded(
                run.node,
                (-1,),
                [(name, outcome.value)],
                in_process=environment.in_process,
                settings=environment.program.settings,
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
    node = run.node
    waiting = next((slug for slug, up in run.upstreams.items() if not up.state.is_finished()), None)
    if waiting is not None:
        return Outcome(Pending(message=f"waits for {waiting}"))
    refused = consult_trigger(run)
    if refused is not None:
        return Outcome(refused)
    if node.kind == "collect":
        values = gather_parts(node, run.upstreams)
    else:
        source = next((run.upstreams[edge.upstream] for edge in node.edges if edge.key == "parts"), None)
        if source is not None and source.state.counts is None and not _has_value(source.state):
            return source
        nested = (
            source.value if source is not None else evaluate(node.arguments["parts"], run.environment.program.values)
        )
        try:
            width_of(nested)
        except UnmappableError as error:
            state = failed_state(error, root=node.slug)
            return Outcome(state, revive(state.failure))
        values = flat(nested)
    state = counted(values) or Success(message="done")
    values, pickled, nbytes = measured(values)
    return Outcome(replace(state, worker=run.environment.worker), values, pickled, nbytes)


def _has_value(state: State) -> bool:
    return state.is_successful() and not state.is_skipped()


def report_single(node: FrozenNode, outcome: Outcome, environment: Environment) -> SingleReport:
    """The report of one node; its value rides along where that is small."""
    state: State = outcome.state
    limit: int = environment.setting("inline_nbytes")
    value = outcome.pickled if outcome.pickled is not None and len(outcome.pickled) <= limit else None
    width, reason = None, ""
    if (node.feeds_map and outcome.value is not None) or (node.feeds_map and state.is_successful()):
        try:
            width = width_of(outcome.value) if not state.is_failed() or state.counts is not None else None
        except UnmappableError as error:
            reason = str(error)
    seal = _seal_of(state, width, value, outcome.ref)
    return SingleReport(node.slug, state, value, width, reason, ref=outcome.ref, note=outcome.note, seal=seal)


def _seal_of(state: State, width: int | None, value: bytes | None, ref: ResultRef | None) -> bytes:
    """A digest of what others know of an outcome: not of a large value, which is nowhere else."""
    code = Success.code if isinstance(state, Cached) else state.code
    known = f"{code} {width} {ref.checksum if ref is not None else ''} ".encode()
    return hashlib.blake2b(known + (value or b""), digest_size=16).digest()

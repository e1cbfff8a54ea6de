"""The loop of a flow run: take a message, let the machine think, carry out its commands. The only place that waits."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from anabranch.bindings import Build, Const, Expression
from anabranch.context import RunInfo
from anabranch.engine.compiler import compile_program, compile_units, pickled_program, read_report
from anabranch.engine.interrupts import interrupts_later
from anabranch.engine.knowledge import NodeRun
from anabranch.engine.machine import Machine
from anabranch.engine.stimuli import (
    CancelAsked,
    Command,
    Finish,
    Lost,
    Release,
    Reported,
    SlotsChanged,
    Started,
    Stimulus,
    Submit,
    Tell,
    WakeAt,
)
from anabranch.engine.stimuli import Woke as WokeUp
from anabranch.engine.units import Key, Printed, Program, Sealed, Unit, UnitOutcome
from anabranch.engine.values import copied, width_of
from anabranch.errors import UnmappableError
from anabranch.events import Event, Observer, RunFinished, RunStarted
from anabranch.executors.base import Executor, Posted
from anabranch.frozen import FrozenGraph, FrozenNode
from anabranch.states import State

_log = logging.getLogger("anabranch.driver")

SMALL_PROGRAM_NBYTES = 65_536  # travels with each unit: few are on their way at a time, and any worker may take them
TICK_S = 1.0  # how often slots are counted while nothing happens


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What is to be run."""

    graph: FrozenGraph
    name: str
    run_id: str
    parameters: Mapping[str, Any]
    """Values of the flow's parameters, by slug."""
    settings: Mapping[str, Any]
    """The ``engine`` settings."""
    keep: frozenset[str] = frozenset()
    """Slugs of nodes whose values are wanted afterwards, beside the reference and terminal ones."""
    approved: frozenset[str] = frozenset()
    date: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What is known when a run has ended."""

    plan: RunPlan
    state: State
    runs: Mapping[str, NodeRun]
    outcomes: Mapping[Key, UnitOutcome]
    """Outcomes that were brought here because somebody may ask for their values."""
    started: datetime
    ended: datetime
    was_interrupted: bool = False
    notes: tuple[str, ...] = field(default=())


def run_flow(
    plan: RunPlan, executor: Executor, observers: Sequence[Observer] = (), *, clock: Callable[[], float] = time.time
) -> FinishedRun:
    """Run a flow to its end.

    Raises
    ------
    ExecutorError
        The executor cannot run anything. Whatever happens later is in the states.
    """
    executor.start(plan.run_id)
    try:
        return Driver(plan, executor, observers, clock).run()
    finally:
        executor.stop()


class Driver:
    """One flow run: an inbox, a machine, and one method per command."""

    def __init__(
        self, plan: RunPlan, executor: Executor, observers: Sequence[Observer], clock: Callable[[], float]
    ) -> None:
        self._plan = plan
        self._executor = executor
        self._observers = list(observers)
        self._clock = clock
        self._graph = _private(plan.graph) if executor.in_process else plan.graph
        self._machine = Machine(
            self._graph,
            name=plan.name,
            token=plan.run_id,
            settings=plan.settings,
            slots=executor.slots(),
            widths=_parameter_widths(plan),
            keep=plan.keep,
            approved=plan.approved,
            fuses=not executor.is_sequential,
        )
        self._wake_at: float | None = None
        self._is_finished = False
        self._was_interrupted = False
        self._program: Program | bytes | None = None

    def run(self) -> FinishedRun:
        """Run until the machine says that nothing is left to do."""
        started = self._now()
        nodes = {slug: node.kind for slug, node in self._graph.nodes.items()}
        self._tell(RunStarted(self._clock(), self._plan.name, self._plan.run_id, nodes))
        self._ship_program(started)
        stimulus: Stimulus = Started(self._clock())
        while True:
            try:
                with interrupts_later():
                    self._carry_out(self._machine.handle(stimulus))
                if self._is_finished:
                    break
                stimulus = self._next_stimulus()
            except KeyboardInterrupt as interrupt:
                if self._was_interrupted:
                    raise
                self._was_interrupted = True
                if not self._is_finished:
                    stimulus = CancelAsked(self._clock(), f"interrupted by {str(interrupt) or 'Ctrl-C'}")
        outcomes = self._fetch_kept()
        ended = self._now()
        state = replace(self._machine.flow_state(), start_time=started, end_time=ended)
        self._tell(RunFinished(self._clock(), state))
        return FinishedRun(
            plan=replace(self._plan, graph=self._graph),
            state=state,
            runs=self._machine.runs,
            outcomes=outcomes,
            started=started,
            ended=ended,
            was_interrupted=self._was_interrupted,
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _ship_program(self, started: datetime) -> None:
        plan = self._plan
        parameters = {plan.graph.nodes[slug].name: value for slug, value in plan.parameters.items()}
        info = RunInfo(plan.name, plan.run_id, parameters, plan.date or started)
        if self._executor.in_process:
            self._program = Program(info, self._graph.nodes, plan.parameters, plan.settings)
        else:
            nodes = {slug: _without_elements(node) for slug, node in self._graph.nodes.items()}
            data = pickled_program(Program(info, nodes, plan.parameters, plan.settings))
            if len(data) <= SMALL_PROGRAM_NBYTES:
                self._program = data
            else:
                self._executor.submit(compile_program(data, plan.run_id))

    # Waiting ----------------------------------------------------------------------------------------------------------

    def _next_stimulus(self) -> Stimulus:
        """The next thing that happens: a message, a time that was asked for, or another number of slots."""
        while True:
            now = self._clock()
            if self._wake_at is not None and now >= self._wake_at:
                self._wake_at = None
                return WokeUp(now)
            slots = self._executor.slots()
            if slots != self._machine.slots:
                return SlotsChanged(now, slots)
            timeout = TICK_S if self._wake_at is None else min(TICK_S, self._wake_at - now)
            message = self._executor.next_message(timeout)
            if isinstance(message, Posted):
                report = read_report(message.payload)
                self._show(report.prints)
                return Reported(self._clock(), report)
            if message is not None:
                return Lost(self._clock(), message.key, message.reason)
            if self._executor.is_sequential and self._wake_at is not None:
                # Nothing is queued, and nothing will be before that time.
                time.sleep(max(0.0, self._wake_at - self._clock()))

    def _show(self, prints: Sequence[Printed]) -> None:
        """Print what tasks printed elsewhere, or log it where the task asks for that."""
        for line in prints:
            node = self._graph.nodes.get(line.slug)
            if node is not None and node.policies.log_stdout:
                logging.getLogger(f"anabranch.task.{node.name}").info("%s", line.text)
            else:
                sys.stdout.write(f"{line.text}\n")

    # Commands ---------------------------------------------------------------------------------------------------------

    def _carry_out(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Submit(units):
                    self._submit(units)
                case Release(keys):
                    self._executor.release(keys)
                case WakeAt(when):
                    self._wake_at = when
                case Tell(event):
                    self._tell(event)
                case Finish():
                    self._is_finished = True

    def _submit(self, units: tuple[Unit, ...]) -> None:
        regions = compile_units(
            units,
            self._plan.run_id,
            program=self._program,
            resources=lambda unit: dict(self._graph.nodes[unit.nodes[0]].policies.resources),
            priority=lambda unit: self._graph.nodes[unit.nodes[0]].policies.priority,
            is_main=self._executor.is_sequential,
        )
        for region in regions:
            self._executor.submit(region)

    def _tell(self, event: Event) -> None:
        for observer in list(self._observers):
            try:
                observer(event)
            except Exception:  # an observer never changes the run; it is told nothing more
                self._observers.remove(observer)
                _log.exception("an observer failed and is told nothing more: %r", observer)

    def _fetch_kept(self) -> dict[Key, UnitOutcome]:
        """Bring here the outcomes that callers may ask for and that did not come with the reports."""
        keys: dict[Key, None] = {}
        for slug in self._machine.keep:
            run = self._machine.runs[slug]
            if run.elements is not None:
                if sum(len(indices) for indices, _ in run.elements.values) < run.elements.width:
                    keys.update(run.elements.keys)
            elif run.key is not None and run.value is None and run.state.is_finished():
                keys[run.key] = None
        outcomes = {}
        for key, outcome in (self._executor.gather(keys) if keys else {}).items():
            try:
                outcomes[key] = outcome.open() if isinstance(outcome, Sealed) else outcome
            except BaseException:  # a class that only the workers have; who asks for the value is told
                _log.warning("values of %s cannot be loaded here", key[0], exc_info=True)
        return outcomes


def _private(graph: FrozenGraph) -> FrozenGraph:
    """The graph with copies of its constants: a task that changes one must not change it for the next run."""

    def own(node: FrozenNode) -> FrozenNode:
        return replace(node, arguments={name: _own_constants(each) for name, each in node.arguments.items()})

    return FrozenGraph({slug: own(node) for slug, node in graph.nodes.items()}, graph.reference)


def _own_constants(expression: Expression) -> Expression:
    if isinstance(expression, Const):
        return Const(copied(expression.value))
    if isinstance(expression, Build):
        return replace(expression, parts=tuple(map(_own_constants, expression.parts)))
    return expression


def _without_elements(node: FrozenNode) -> FrozenNode:
    """The node as workers need it: elements of constant arguments travel in the chunks."""
    arguments = {
        name: Const(None) if name in node.mapped and isinstance(expression, Const) else expression
        for name, expression in node.arguments.items()
    }
    return replace(node, arguments=arguments)


def _parameter_widths(plan: RunPlan) -> dict[str, int | str]:
    """Of parameters that maps take elements from: the width, or why there is none."""
    widths: dict[str, int | str] = {}
    for slug, value in plan.parameters.items():
        if plan.graph.nodes[slug].feeds_map:
            try:
                widths[slug] = width_of(value)
            except UnmappableError as error:
                widths[slug] = str(error)
    return widths

"""The loop of a flow run: take a message, let the machine think, carry out its commands. The only place that waits."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from anabranch.base.context import RunInfo
from anabranch.base.errors import ExecutorError, UnmappableError, listed
from anabranch.base.events import (
    ElementBegan,
    Event,
    Noticed,
    Observer,
    RunFinished,
    RunStarted,
    TaskChanged,
    UnitEnded,
)
from anabranch.base.masking import mask
from anabranch.base.states import Paused, Pending, Retrying, Running, State
from anabranch.definition.expressions import Build, Const, Expression
from anabranch.definition.frozen import FrozenGraph, FrozenNode
from anabranch.engine.driver.clocks import Clocks
from anabranch.engine.driver.compiler import (
    compile_program,
    compile_units,
    handed_back,
    read_report,
    unfit_worker,
    wants_code,
)
from anabranch.engine.driver.deadline import Deadline, Overdue
from anabranch.engine.driver.handlers import NO_HANDLERS, FlowHandlers, not_run
from anabranch.engine.driver.interrupts import InterruptsLater
from anabranch.engine.driver.outlet import Outlet, Readers, Recap, Tap
from anabranch.engine.driver.permit_desk import PermitDesk
from anabranch.engine.driver.plan import FinishedRun, HandOver, Journal, RunPlan
from anabranch.engine.driver.reach import check_reach
from anabranch.engine.driver.rest import rest_of
from anabranch.engine.driver.waiting import Patience, Watchdog
from anabranch.engine.logs import capture
from anabranch.engine.logs.book import LogBook
from anabranch.engine.logs.lines import loads
from anabranch.engine.machine.knowledge import NodeRun
from anabranch.engine.machine.machine import Machine
from anabranch.engine.machine.permits import Permits
from anabranch.engine.machine.stimuli import (
    CancelAsked,
    Claim,
    Command,
    Finish,
    GivenUp,
    Lost,
    Permitted,
    Release,
    Reported,
    SlotsChanged,
    Started,
    Stimulus,
    Submit,
    Tell,
    Uprooted,
    WakeAt,
)
from anabranch.engine.machine.stimuli import Woke as WokeUp
from anabranch.engine.units.copies import copied
from anabranch.engine.units.elements import Elements, width_of
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.shipment import HOME, Shipment, have_code, pack, probe_call
from anabranch.engine.units.units import Key, Program, Report, Unit
from anabranch.engine.worker import interim
from anabranch.engine.worker.arrival import opened_outcome
from anabranch.engine.worker.masked import masked_report
from anabranch.executors.base import CancelWanted, Disconnected, Executor, Logged, Message, Posted
from anabranch.executors.entry import Sourced

_log = logging.getLogger("anabranch.driver")

MAX_NAMED = 3  # tasks that run while nothing is heard
KILL_S = 5.0  # for all workers together to kill what runs there
UNTOLD_S = 2.0  # for all workers together to say what has ended in units that they are at
MOST_AT_ONCE = 100  # units that are sent together: a driver takes some 50 ms for as many reports
MOST_NAMED = 10
ROOM_S = 600.0  # after which a run that was put down for want of room looks for itself, should nobody have called it
TICK_S = 1.0  # how often slots are counted while nothing happens


def run_flow(
    plan: RunPlan,
    executor: Executor,
    observers: Sequence[Observer] = (),
    *,
    handlers: FlowHandlers = NO_HANDLERS,
    journal: Journal | None = None,
    logs: LogBook | None = None,
    permits: Permits | None = None,
    wants_end: Callable[[], str] = str,
    settle: Callable[[FinishedRun], FinishedRun] = lambda done: done,
    clock: Callable[[], float] | None = None,
) -> FinishedRun:
    """Run a flow to its end, with its handlers around it; whatever they do, the states known are returned.

    Parameters
    ----------
    handlers
        The flow's own.
    journal
        Is given each report before anything is done about it.
    logs
        Is given what the code of tasks logs; default: one that shows it.
    permits
        Where permits of named limits come from; None: the limits hold within this run.
    wants_end
        Asked between two messages: why the run should be cancelled; nothing as long as it should not.
    settle
        Says how the run stands when nothing is left to do here, before handlers hear of that.
    clock
        Gives the time, in seconds since the epoch; default: the plan's.

    Raises
    ------
    ExecutorError
        The executor cannot run anything. Whatever happens later is in the states.
    """
    began = handlers.tell(Pending(), Running())
    if not began.is_running():
        return not_run(plan, began)
    steady = clock or (time.monotonic if plan.doubles is None else plan.clock)
    deadline = Deadline(_left_s(plan), steady)
    executor.start(plan.run_id)
    try:
        told = (plan, executor, observers, journal, clock or plan.clock, logs, permits, wants_end, deadline)
        with deadline.armed() if executor.is_sequential else nullcontext():
            done = Driver(*told).run()
    finally:
        executor.stop()
    done = settle(done)
    return done if done.is_handed_over else replace(done, state=handlers.tell_end(done))


def _left_s(plan: RunPlan) -> float | None:
    """Seconds that a run may still take."""
    rest = rest_of(plan.run_id)
    return plan.timeout_s if plan.timeout_s is None or rest is None else plan.timeout_s - rest.spent_s


def _nap(seconds: float) -> None:
    """Sleep, but not past the next time to ask whether the run should end."""
    time.sleep(min(seconds, TICK_S))


class Driver:
    """One flow run: an inbox, a machine, and one method per command."""

    def __init__(
        self,
        plan: RunPlan,
        executor: Executor,
        observers: Sequence[Observer],
        journal: Journal | None,
        clock: Callable[[], float],
        logs: LogBook | None = None,
        permits: Permits | None = None,
        wants_end: Callable[[], str] = str,
        deadline: Deadline | None = None,
    ) -> None:
        self._wants_end = wants_end
        self._wish = ""
        self._deadline = deadline or Deadline(None)
        self._is_late = False
        """Whether the wish is that of the deadline."""
        self._plan = plan
        self._logs = logs or LogBook(plan.settings.get("log_level", logging.INFO))
        self._executor = executor
        self._journal = journal
        self._observers = list(observers)
        self._clock = clock
        self._sleep = _nap if plan.doubles is None else plan.doubles.sleep
        self._graph = _private(plan.graph) if executor.in_process else plan.graph
        tap = next((each for each in observers if isinstance(each, Tap)), None)
        self._machine = Machine(
            _readable(self._graph),
            name=plan.name,
            token=plan.run_id,
            settings=plan.settings,
            slots=max(1, executor.slots()),  # without a worker, the first is waited for
            widths={**plan.widths, **_parameter_widths(plan)},
            keep=plan.keep,
            keeps_ends=plan.keeps_ends,
            approved=plan.approved,
            is_sequential=executor.is_sequential,
            first_serial=plan.first_serial,
            shares_limits=permits is not None,
            limits_outside=permits.outside if permits is not None else frozenset(),
            streamed=tap.slugs if tap is not None else frozenset(),
        )
        self._outlet = Outlet(tap, self._machine.runs, plan.parameters, executor.gather) if tap is not None else None
        self._readers = next((each for each in observers if isinstance(each, Readers)), None)
        self._recaps: dict[Tap, Recap] = {}
        self._clocks = Clocks(clock)
        self._started = self._now()
        self._patience = Patience(plan.settings["no_workers_timeout_s"], self._say, executor.shortage)
        self._watchdog = Watchdog(plan.settings["watchdog_s"], self._situation, self._say_silent)
        self._desk = PermitDesk(permits, self._say, keeps=not executor.is_sequential) if permits is not None else None
        self._unfit: set[str] = set()
        """Workers that refuse whatever they get."""
        self._rest = rest_of(plan.run_id) if journal is not None else None
        self._resting: State | None = None
        """How the run stands, if it is put down."""
        self._stands_since: float | None = None
        """Since when it has only waited for room."""
        self._wake_at: float | None = None
        self._heard: deque[Report] = deque()
        """Interim reports of units that run in this process, which the machine has not seen yet."""
        self._hearing = threading.RLock()
        """Held while a report is told of: what has ended is not said to run by another thread."""
        self._whole: Key | None = None
        """The unit whose own report was heard last; the machine may not have seen it yet."""
        self._unsent: list[Unit] = []
        """Units that go out when no message is waiting: a cluster takes many of them together at the cost of one."""
        self._is_finished = False
        self._was_interrupted = False
        self._is_handed_over = False
        self._program: Program | Shipment

    def run(self) -> FinishedRun:
        """Run until the machine says that nothing is left to do."""
        plan, started = self._plan, self._started
        if self._executor.in_process:
            capture.open_sink(plan.run_id, lambda: self._logs)
            if plan.doubles is None:  # their time passes as a test wants it
                interim.open_channel(plan.run_id, interim.FunctionChannel(self._hear_beside, self._is_wanted))
        try:
            nodes = {slug: node.kind for slug, node in self._graph.nodes.items()}
            self._tell(RunStarted(self._clock(), plan.name, plan.run_id, nodes, plan.began, plan.rests))
            for entry in plan.recorded:
                if isinstance(entry, Report):
                    self._tell_report(entry, is_recorded=True)
            self._ship_program(started)
            self._loop(Started(self._clock(), plan.recorded))
            outcomes, lost = self._fetch_kept()
            for _ in range(plan.settings["max_losses"]):
                if not lost or not self._machine.reopen(lost):
                    break
                self._is_finished = False
                self._loop(WokeUp(self._clock()))
                outcomes, lost = self._fetch_kept()
            if self._outlet is not None:
                self._outlet.pour_rest(outcomes)
            for recap in self._recaps.values():
                recap.recall_rest(outcomes)
            if self._readers is not None:
                self._readers.end(self._recaps)
            ended = self._now()
            state = replace(self._resting or self._machine.flow_state(), start_time=started, end_time=ended)
            self._tell(RunFinished(self._clock(), state))
        finally:
            if self._desk is not None:
                if self._resting is not None:
                    self._desk.rest()
                self._desk.close(self._machine.spent(self._clock()))
            interim.close_channel(plan.run_id)
            capture.close_sink(plan.run_id)  # of a cluster in this process, too
            self._logs.close()
        return FinishedRun(
            plan=replace(plan, graph=self._graph),
            state=state,
            runs=self._machine.runs,
            outcomes=outcomes,
            started=started,
            ended=ended,
            was_interrupted=self._was_interrupted,
            is_handed_over=self._is_handed_over,
        )

    def _loop(self, stimulus: Stimulus) -> None:
        """Have the machine think about one stimulus after the other, and carry out what it says."""
        while True:
            try:
                grant = self._desk.look() if self._desk is not None else None
                with InterruptsLater():
                    if grant is not None:
                        self._handle(Permitted(self._clock(), grant.may_use, grant.lost))
                    is_end = isinstance(stimulus, (CancelAsked, GivenUp))
                    if is_end:
                        self._hear_untold()
                    if isinstance(stimulus, CancelAsked) and stimulus.is_late:
                        stimulus = replace(stimulus, reason=f"{stimulus.reason}{self._at_work()}")
                    self._handle(stimulus)
                    if is_end:
                        self._kill_attempts()
                if self._is_finished or self._may_rest():
                    break
                stimulus = self._next_stimulus()
            except Overdue:
                if not self._deadline.is_over:  # it is that of a run around this one
                    raise
                stimulus = self._ending(self._why_end())
            except KeyboardInterrupt as interrupt:
                if self._was_interrupted:
                    raise
                self._was_interrupted = True
                self._is_handed_over = isinstance(interrupt, HandOver)
                if not self._is_finished:
                    stimulus = CancelAsked(self._clock(), f"interrupted by {str(interrupt) or 'Ctrl-C'}")

    def _may_rest(self) -> bool:
        """Whether to put the run down, because it only waits for a time that is far enough."""
        rest, wake, desk, now = self._rest, self._wake_at, self._desk, self._clock()
        if rest is None or self._heard or (wake is not None and wake - now < rest.least_s):
            return False
        if desk is not None and (lacks := desk.lacks) and self._machine.waits_for_room:
            self._stands_since = self._stands_since or now
            if now - self._stands_since < rest.least_s or self._why_end():
                return False
            wake = min(wake or math.inf, now + ROOM_S)
            text = f"waits for room in a limit: {lacks}"
        else:
            self._stands_since = None
            if wake is None or not self._machine.only_waits or self._why_end():
                return False
            if desk is not None and desk.due_s is not None:
                return False
            text = f"waits until {datetime.fromtimestamp(wake, UTC):%Y-%m-%d %H:%M:%S} UTC for a retry"
        left_s = self._deadline.left_s
        rest.until = wake if left_s is None else min(wake, now + left_s)
        self._resting = Paused(message=text)
        return True

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _ship_program(self, started: datetime) -> None:
        plan = self._plan
        parameters = {plan.graph.nodes[slug].name: value for slug, value in plan.parameters.items()}
        info = RunInfo(plan.name, plan.run_id, parameters, plan.date or started)
        if self._executor.in_process:
            if plan.doubles is not None:
                info.clock = plan.doubles.time
            self._program = Program(info, {}, plan.parameters, plan.settings, plan.calls, doubles=plan.doubles)
            for node in self._graph.nodes.values():
                self._program.add(node)
        else:
            nodes = {slug: _without_elements(node) for slug, node in self._graph.nodes.items()}
            program = Program(info, nodes, plan.parameters, plan.settings, plan.calls)
            is_elsewhere = self._executor.is_elsewhere
            if any(node.policies.storing is not None for node in self._graph.nodes.values()):
                check_reach(self._graph.nodes.values(), self._executor)
            has_code = not is_elsewhere or have_code(self._executor)
            shipment = pack(program, is_elsewhere=is_elsewhere, has_code=has_code)
            self._check_place(shipment)
            self._send_program(shipment)

    def _check_place(self, shipment: Shipment) -> None:
        """Have the cluster looked at before anything is sent to it."""
        from anabranch.executors.fitness import Needs

        wanted = {node.name: dict(node.policies.resources) for node in self._graph.nodes.values()}
        needs = Needs(
            resources={name: amounts for name, amounts in wanted.items() if amounts},
            payload_nbytes=len(shipment.program),
        )
        if (
            self._executor.is_elsewhere and shipment.is_inline
        ):  # what is large goes by Dask's own ways, and is looked at there
            probe, data = probe_call(shipment, self._plan.run_id)
            needs = replace(needs, probe=probe, probe_data=data)
        self._executor.check(needs)

    def _send_program(self, shipment: Shipment) -> None:
        """Units need this from now on; what is too large to travel with each of them goes ahead."""
        self._program = shipment
        if not shipment.is_inline:
            self._executor.submit(compile_program(shipment, self._plan.run_id))

    # Waiting ----------------------------------------------------------------------------------------------------------

    def _next_stimulus(self) -> Stimulus:
        """The next thing that happens: a message, a time that was asked for, or another number of slots."""
        while True:
            self._serve_readers()
            now = self._clock()
            if self._heard:
                return Reported(now, self._heard.popleft())
            if reason := self._why_end():
                return self._ending(reason)
            if self._wake_at is not None and now >= self._wake_at:
                self._wake_at = None
                return WokeUp(now)
            slots = self._executor.slots()
            if max(1, slots) != self._machine.slots:
                return SlotsChanged(now, slots)
            if self._patience.is_over(slots, now):
                return GivenUp(now, self._patience.reason)
            look_s = self._desk.due_s if self._desk is not None else None
            if look_s == 0.0:
                return WokeUp(now)
            times = (look_s, self._wake_s(now), self._deadline.left_s)
            timeout = min((TICK_S, *(each for each in times if each is not None)))
            message = self._next_message(0.0 if self._unsent else timeout)
            if message is None and self._unsent:
                with InterruptsLater():
                    self._submit()
                continue
            if message is None:
                self._watchdog.look(self._clock())
            else:
                self._watchdog.calm()
            if isinstance(message, Posted):
                if wants_code(message.payload) and isinstance(self._program, Shipment) and not self._program.archive:
                    self._send_program(self._program.with_code())
                return Reported(self._clock(), self._hear(read_report(self._sent_elsewhere(message.payload))))
            if isinstance(message, Logged):
                self._logs.take_batch(self._clocks.aligned_lines(loads(message.payload)))
                continue
            if isinstance(message, CancelWanted):
                return CancelAsked(self._clock(), mask(message.reason))
            if isinstance(message, Disconnected):
                return self._reconnect(message.reason)
            if message is not None:
                reason = mask(message.reason)
                return Lost(self._clock(), message.key, reason, message.is_death, message.ran_s, message.is_vain)
            if self._executor.is_sequential and (self._wake_at is not None or look_s is not None):
                # Nothing is queued, and nothing will be before that time.
                wake_s = self._wake_s(self._clock())
                if look_s is None or (wake_s is not None and wake_s <= look_s):
                    self._sleep(max(0.0, wake_s or 0.0))
                else:
                    time.sleep(look_s)

    def _serve_readers(self) -> None:
        """Give those what has ended who have come since the run began."""
        if self._readers is None:
            return
        runs, parameters, gather = self._machine.runs, self._plan.parameters, self._executor.gather
        present = self._readers.present()
        self._recaps = {tap: self._recaps.get(tap) or Recap(tap, runs, parameters, gather) for tap in present}
        for recap in self._recaps.values():
            recap.recall(self._machine.expects)

    def _next_message(self, timeout_s: float) -> Message | None:
        if not self._executor.is_sequential:
            return self._executor.next_message(timeout_s)
        with self._deadline.interrupting():
            return self._executor.next_message(timeout_s)

    # Reports ----------------------------------------------------------------------------------------------------------

    def _hear(self, report: Report) -> Report:
        """Have a report written down and told, before anything is done about it; as the machine is to have it."""
        report = report if self._executor.in_process else self._clocks.aligned(masked_report(report))
        report = self._machine.vet(report)
        with self._hearing:
            if not report.part:
                self._whole = report.key
            elif report.key == self._whole:  # told beside, too late: all of it has been told
                return report
            self._note_down(report)
        return report

    def _note_down(self, report: Report) -> None:
        if self._machine.expects(report.key):  # what was made again is no news
            if self._journal is not None and (report.singles or report.columns):
                # What is made of expansions is told as `CallsMade`.
                self._journal(replace(report, expansions=()) if report.expansions else report)
            if report.singles or report.columns:
                self._tell_report(report)
            if report.at is not None:
                self._tell_running(report, *report.at)

    def _tell_running(self, report: Report, slug: str, index: int, seconds: float) -> None:
        """Tell that a worker is at a task run, for so many seconds by now."""
        now, run = self._clock(), self._machine.runs[slug]
        state = Running(start_time=datetime.fromtimestamp(now - seconds, UTC), worker=report.worker)
        if index >= 0:
            self._tell(ElementBegan(now, slug, replace(state, map_index=index)))
        elif not run.is_final:
            self._machine.note_begun(slug)
            attempt, loop = run.attempt, run.loop
            for single in report.singles:  # which the machine does not know yet
                if single.slug == slug and isinstance(single.state, Retrying):
                    attempt, loop = single.state.attempt + 1, single.state.result
            self._tell(TaskChanged(now, slug, replace(state, attempt=attempt, result=loop)))

    def _hear_beside(self, report: Report) -> None:
        """Hear an interim report from a unit that runs in this process, from another thread: this one may be busy."""
        self._heard.append(self._hear(report))

    def _is_wanted(self, key: Key) -> bool:
        """Whether a unit that runs in this process should go on."""
        return self._machine.expects(key) and not self._why_end()

    def _why_end(self) -> str:
        """Why the run should be cancelled; nothing if it should not. Whoever wants that may say so once only."""
        wish = self._outlet.tap.wants_end() if self._outlet is not None else ""
        self._wish = self._wish or wish or self._wants_end()
        if not self._wish and self._deadline.is_over:
            self._is_late = True
            self._wish = f"the run took longer than its timeout of {self._plan.timeout_s:g} s"
        return self._wish

    def _at_work(self) -> str:
        runs = self._machine.runs
        busy = [slug for slug, run in runs.items() if isinstance(run.state, Running)]
        busy = busy or [slug for slug in self._machine.on_their_way() if not runs[slug].is_final]
        busy = busy[: 1 if self._executor.is_sequential else MOST_NAMED]
        return f"; at work: {listed(busy)}" if busy else ""

    def _ending(self, reason: str) -> CancelAsked:
        return CancelAsked(self._clock(), reason, self._is_late)

    def _hear_untold(self) -> None:
        """Take what has ended in units that run, before the run ends without them."""
        ask = Sourced("call_loaded", (HOME, "untold", self._plan.run_id))
        for answer in self._executor.ask_workers(ask, UNTOLD_S):
            self._heard.extend(self._hear(read_report(each)) for each in answer or ())
        while self._heard:
            self._handle(Reported(self._clock(), self._heard.popleft()))

    def _wake_s(self, now: float) -> float | None:
        """Seconds until the time that the machine asked for."""
        return None if self._wake_at is None else self._wake_at - now

    def _reconnect(self, reason: str) -> Stimulus:
        """The executor has lost its place; that is its loss and not the run's, if there is another within bounds."""
        self._say(f"run {self._plan.run_id} is interrupted: {reason}")
        try:
            self._executor.recover(self._say)
            self._ship_program(self._started)
        except ExecutorError as error:
            return GivenUp(self._clock(), f"{reason}, and there is no other to go on with: {error}")
        return Uprooted(self._clock())

    def _sent_elsewhere(self, payload: Any) -> Any:
        """What a worker says; a unit that it refused, as it will refuse any, goes to others if there are any."""
        address = unfit_worker(payload)
        if address is None or not self._executor.avoid(address):
            return payload
        if address not in self._unfit:  # what was on its way to it comes back too
            self._unfit.add(address)
            self._say(f"{payload['refused']}; that worker, {address}, gets nothing of this run")
        return handed_back(payload)

    def _kill_attempts(self) -> None:
        """End the attempts of a run that is over, where they have processes of their own: others cannot be ended."""
        if all(node.policies.isolation == "thread" for node in self._machine.graph.nodes.values()):
            return
        kill = Sourced("call_loaded", ("anabranch.engine.isolation.calling", "kill_all", self._plan.run_id))
        self._executor.ask_workers(kill, KILL_S)

    def _say(self, text: str) -> None:
        """Tell the user something about the run that is no state of a task."""
        self._notice(text, {})

    def _situation(self) -> Sequence[str]:
        """What is expected: as the executor sees it, or what runs in this process and says nothing."""
        sent = self._machine.on_their_way()
        names = [f"{slug} ({number:,})" if number > 1 else slug for slug, number in list(sent.items())[:MAX_NAMED]]
        more = f" and {len(sent) - MAX_NAMED:,} more" if len(sent) > MAX_NAMED else ""
        return self._executor.situation() or ([f"still running here: {', '.join(names)}{more}"] if sent else [])

    def _say_silent(self, text: str) -> None:
        """Tell the user that nothing has been heard for long."""
        self._notice(text, self._machine.on_their_way())

    def _notice(self, text: str, silent: Mapping[str, int]) -> None:
        text = mask(text)
        _log.warning("%s", text)
        self._logs.note(text)
        self._tell(Noticed(self._clock(), text, silent))

    # Commands ---------------------------------------------------------------------------------------------------------

    def _handle(self, stimulus: Stimulus) -> None:
        """Have the machine think about something, give the stream what has ended by it, and carry out what it says."""
        commands = self._machine.handle(stimulus)
        if self._outlet is not None:
            commands += self._outlet.pour(self._machine)
        self._carry_out(commands)

    def _carry_out(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Submit(units) if not self._why_end():  # else the next stimulus is the end
                    self._unsent += units
                    if self._executor.in_process or len(self._unsent) >= MOST_AT_ONCE:
                        self._submit()
                case Release(keys):
                    if self._unsent:
                        gone = set(keys)
                        self._unsent = [unit for unit in self._unsent if unit.key not in gone]
                    self._executor.release(keys)
                case WakeAt(when):
                    self._wake_at = when
                case Tell(event):
                    self._tell(event)
                case Claim() as claim if self._desk is not None:
                    self._desk.take(claim)
                case Finish():
                    self._is_finished = True

    def _submit(self) -> None:
        units, self._unsent = self._unsent, []
        regions = compile_units(
            units,
            self._plan.run_id,
            program=self._program,
            resources=lambda unit: dict(self._machine.graph.nodes[unit.nodes[0]].policies.resources),
            priority=lambda unit: self._machine.graph.nodes[unit.nodes[0]].policies.priority,
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

    def _tell_report(self, report: Report, *, is_recorded: bool = False) -> None:
        if not self._observers:
            return
        event = UnitEnded(
            now=self._clock(),
            worker=report.worker,
            started=report.started,
            seconds=report.seconds,
            singles={each.slug: each.state for each in report.singles},
            indices=report.indices if report.indices is not None else (),
            codes={each.slug: each.codes for each in report.columns},
            records={each.slug: each.records for each in report.columns if each.records},
            is_recorded=is_recorded,
        )
        self._tell(event)

    def _fetch_kept(self) -> tuple[dict[Key, UnitOutcome], list[Key]]:
        """Bring here the outcomes that callers may ask for and that did not come with the reports.

        And which of them are not there any more, or are not what was reported, because a worker died at the end.
        """
        kept: dict[Key, list[str]] = {}
        for slug in self._machine.keep:
            run = self._machine.runs[slug]
            if run.elements is not None:
                if not run.elements.is_inline and not run.elements.is_stored:
                    for key in run.elements.keys:
                        kept.setdefault(key, []).append(slug)
            elif run.key is not None and run.value is None and run.ref is None and run.state.is_finished():
                kept.setdefault(run.key, []).append(slug)
        found = self._executor.gather(kept) if kept else {}
        outcomes, lost = {}, [key for key in kept if key not in found]
        for key, outcome in found.items():
            try:
                outcomes[key] = opened_outcome(outcome)
            except BaseException:  # a class that only the workers have; who asks for the value is told
                _log.warning("values of %s cannot be loaded here", key[0], exc_info=True)
            else:
                if not all(_holds(outcomes[key], key, self._machine.runs[slug]) for slug in kept[key]):
                    lost.append(key)
        return outcomes, lost


def _private(graph: FrozenGraph) -> FrozenGraph:
    """The graph with copies of its constants: a task that changes one must not change it for the next run."""

    def own(node: FrozenNode) -> FrozenNode:
        return replace(node, arguments={name: _own_constants(each) for name, each in node.arguments.items()})

    return FrozenGraph({slug: own(node) for slug, node in graph.nodes.items()}, graph.reference)


def _holds(outcome: UnitOutcome, key: Key, run: NodeRun) -> bool:
    """Whether an outcome has all of a node that was reported to be there, as it was reported."""
    slug = run.node.slug
    if run.elements is None:
        return slug in outcome.singles and outcome.singles[slug].seal == run.seal
    column = outcome.columns.get(slug)
    mine = [each for each in run.elements.holdings_of(range(run.elements.width)) if each.key == key]
    return not mine or (column is not None and all(column.part(each) is not None for each in mine))


def _readable(graph: FrozenGraph) -> FrozenGraph:
    """The graph with constants to map over that can be read without running the user's code."""

    def wrap(node: FrozenNode) -> FrozenNode:
        found = {
            name: Const(Elements(expression.value))
            for name in node.mapped
            if isinstance(expression := node.arguments[name], Const)
            and type(expression.value) not in (list, tuple, range)
        }
        return replace(node, arguments={**node.arguments, **found}) if found else node

    return FrozenGraph({slug: wrap(node) for slug, node in graph.nodes.items()}, graph.reference)


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
                widths[slug] = mask(str(error))
    return widths

"""Runs one task run where it should run: `run_task`, read from top to bottom, is what a task means.

Trigger → inputs → attempt → state. Nothing the user's code does gets out of here as an exception: it becomes a state.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from anabranch.base import context
from anabranch.base.context import TaskContext
from anabranch.base.errors import NodeValueError, ProcessDied, TaskFailure, TaskTimeout, UpstreamFailure
from anabranch.base.names import short
from anabranch.base.secret import revealed
from anabranch.base.signals import FAIL, LOOP, RETRY, Signal
from anabranch.base.states import (
    Attempt,
    Cached,
    Crashed,
    Deferred,
    Failed,
    Failure,
    Finished,
    Looped,
    Pending,
    Retrying,
    Running,
    Skipped,
    State,
    Success,
    TimedOut,
    TriggerFailed,
    add_attempts,
)
from anabranch.base.texts import clean, headline_of, message_of, type_name
from anabranch.base.times import plain_time
from anabranch.base.triggers import EdgeName, Upstreams, is_ready_made, verdict
from anabranch.definition.expressions import Build, evaluate
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.limit_names import made_of
from anabranch.definition.signature import STAR
from anabranch.engine.isolation.calling import call_in_process
from anabranch.engine.isolation.devices import NOTHING, Share
from anabranch.engine.units.blame import CallbackRaised, asking, blamed, noted
from anabranch.engine.units.copies import copied
from anabranch.engine.units.elements import Unread
from anabranch.engine.units.failures import describe, revive
from anabranch.engine.units.units import Outcome, Program, Progress, Unit
from anabranch.engine.units.values import materialised, measured
from anabranch.engine.worker import slots
from anabranch.engine.worker.attempts import call_within
from anabranch.engine.worker.calls_in import Called
from anabranch.engine.worker.calls_out import makes_calls, refuse_hidden_calls
from anabranch.engine.worker.interim import Channel

if TYPE_CHECKING:
    from anabranch.engine.worker.storage import Errand, Storage


T = TypeVar("T")

MAX_REASON = 300  # characters of what ended an attempt that was followed by another
MADE_AGAIN_WAIT_S = 60.0  # a longer wait is better made by the driver, which takes the value for lost then


@dataclass(frozen=True, slots=True)
class Environment:
    """What running a task needs besides the task."""

    program: Program
    worker: str = "local"
    is_main: bool = False
    """Whether this is the user's own process and thread, where a KeyboardInterrupt is theirs."""
    in_process: bool = True
    """Whether this is the driver's process, which shares its code with the tasks."""
    share: Share = NOTHING
    """Devices that its code has."""
    channel: Channel | None = None
    """The way to the driver, for what it is told before a unit has ended."""
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    stopwatch: Callable[[], float] = time.perf_counter
    """By which chunks are measured, and give up."""

    def now(self) -> datetime:
        """The time, aware."""
        return datetime.fromtimestamp(self.clock(), UTC)

    def reraise_interrupt(self, error: BaseException) -> None:
        """Raise the Ctrl-C of this process's user; whatever else a task's code raises is the task's failure."""
        if self.is_main and isinstance(error, KeyboardInterrupt):
            raise error

    def setting(self, name: str) -> Any:
        """One of the driver's ``engine`` settings."""
        return self.program.settings[name]

    def longest_wait_s(self, unit: Unit) -> float:
        """Longest delay before a retry that is waited for in place; of a lost value, no driver sees to one."""
        if any(self.program.nodes[slug].policies.rate for slug in unit.nodes):
            return -math.inf  # each attempt needs a permit
        return MADE_AGAIN_WAIT_S if unit.before is not None else float(self.setting("inplace_retry_delay_s"))

    def storage(self, node: FrozenNode) -> Storage | None:
        """Where the values of a node go; None if they are not stored. Loads what that takes for those only."""
        if node.policies.storing is None:
            return None
        from anabranch.engine.worker.storage import Storage

        return Storage(node, self.program.run, self.program.values)

    def task_context(
        self,
        node: FrozenNode,
        *,
        map_index: int | None = None,
        attempt: int = 1,
        is_approved: bool = False,
        names: tuple[str, ...] = (),
    ) -> TaskContext:
        """A context for the task's code; `names`: those that the templates of its limits make."""
        policies = node.policies
        made = dict(zip(policies.templates, names, strict=False))
        limits = frozenset(made.get(name, name) for name in policies.concurrency)
        return TaskContext(
            self.program.run,
            node.name,
            node.slug,
            policies.tags,
            map_index=map_index,
            task_run_count=attempt,
            limits=limits,
            is_approved=is_approved,
            devices=self.share.names,
        )


def _always(error: BaseException) -> bool:
    return True


def is_never_over() -> bool:
    """What a task run asks whose run nobody ends."""
    return False


def _ignored(state: State) -> None:
    pass


@dataclass(slots=True)
class TaskRun:
    """One task run: a node, or one element of a map."""

    node: FrozenNode
    upstreams: Mapping[str, Outcome]
    """Outcomes of what is upstream as a whole, by slug."""
    elements: Mapping[str, Any]
    """Values of mapped arguments that do not come from another map."""
    context: TaskContext
    environment: Environment
    wait_s: float
    """Longest delay before a retry that is waited for here; a longer one is the driver's."""
    neighbours: Mapping[str, Outcome] = field(default_factory=dict)
    """Outcomes of this element upstream, by slug."""
    is_approved: bool = False
    check_value: bool = True
    is_new: Callable[[BaseException], bool] = _always
    """Whether a failure is worth its traceback: the thousandth of a kind is not."""
    attempts: tuple[Attempt, ...] = ()
    """Attempts before, as far as they were made here."""
    asked: int = 0
    """Attempts that asked for another by RETRY, in this round of a loop; they use up no retries."""
    note: Callable[[State], None] = _ignored
    """Is given what a task run has come to that goes on: a round of its loop, an attempt that failed."""
    is_over: Callable[[], bool] = is_never_over
    """Whether nothing more should begin."""
    own_value: Callable[[Any, int], Any] | None = None
    """What the attempt of this number gets of a value; None: a copy, if it is not too large for that."""
    storage: Storage | None = None
    """Where the value goes, if it has an object of its own."""
    errand: Errand | None = None
    """What is to be done there, once that is known."""
    prefetched: Mapping[str, bytes | None] | None = None
    """What was looked for there already."""
    looks_back: bool = False
    """Whether it may have run, and stored its value, on a worker that was lost."""

    def go_on(self, progress: Progress) -> None:
        """Go on where a state between two attempts has left off."""
        self.context.task_loop_count, self.context.task_loop_result, self.asked = progress

    def next_round(self, result: Any) -> State:
        """Begin the next round of a loop, which gets `result`; the state in between."""
        ctx = self.context
        ctx.task_loop_count, ctx.task_loop_result, ctx.task_run_count, self.asked = (
            ctx.task_loop_count + 1,
            result,
            1,
            0,
        )
        return Retrying(
            message=f"round {ctx.task_loop_count - 1} has ended",
            attempt=0,
            start_time=_LONG_AGO,
            result=(ctx.task_loop_count, result, 0),
            map_index=ctx.map_index,
            worker=self.environment.worker,
        )


def run_task(run: TaskRun) -> Outcome:
    """State and value of a task run; Pending if something upstream is not final, Retrying if it is due later."""
    if not run.node.is_awaited:
        return finish(perform(run))
    from anabranch.engine.units.loops import run_in_loop, unless

    with slots.shared(run.node.lanes(run.environment.program.settings) - 1):
        outcome = run_in_loop(unless(run.is_over, perform(run)))
    return outcome if outcome is not None else Outcome(Pending(message="its run is over"))


def finish(steps: Coroutine[Any, Any, T]) -> T:
    """The result of steps in which nothing is waited for on a loop."""
    try:
        steps.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("a plain task has awaited something")


async def perform(run: TaskRun) -> Outcome:
    """The same as `run_task`, on a loop that others may run on; of a plain task it awaits nothing."""
    for slug, upstream in (*run.upstreams.items(), *run.neighbours.items()):
        if not isinstance(upstream.state, Finished):
            return Outcome(Pending(message=f"waits for {slug}"))
    state = consult_trigger(run)
    if state is not None:
        return _concluded(run, Pending(), state)
    try:
        inputs = inputs_of(run)
    except BaseException as error:  # collections of the user's are put together here, by their own classes
        run.environment.reraise_interrupt(error)
        return _concluded(run, Pending(), failed_state(error, root=run.context.task_full_name))
    if run.storage is None:
        return await run_attempts(run, inputs)
    return await _perform_stored(run, run.storage, inputs)


async def _perform_stored(run: TaskRun, storage: Storage, inputs: dict[str, Any]) -> Outcome:
    """The attempts, and their value stored; or a value that is there and will do."""
    try:
        errand = run.errand = run.errand or storage.errand(inputs, run.context.map_index)
        found = None
        if errand.is_shared:
            found = await errand.look(inputs, partial(_pause, run), run.prefetched)
        elif run.looks_back:
            found = errand.look_for_own()
    except _Over:
        return Outcome(Pending(message="its run is over"))
    except BaseException as error:
        reraise(run, error)
        run.errand = None
        return _concluded(run, Pending(), failed_state(error, inputs, root=run.context.task_full_name))
    try:
        if found is not None:
            outcome = _concluded(run, Pending(), found.state, found.value, ref=found.ref)
        else:
            outcome = await run_attempts(run, inputs)
    finally:
        errand.close()
    return replace(outcome, note=errand.note)


def consult_trigger(run: TaskRun) -> State | None:
    """None if the task may run, otherwise the state it gets from its upstreams."""
    node = run.node
    outcomes = {
        EdgeName(e.upstream, e.kind, e.key, e.mapped): (run.neighbours if e.mapped else run.upstreams)[e.upstream]
        for e in node.edges
    }
    states = {edge: outcome.state for edge, outcome in outcomes.items()}
    is_users = not is_ready_made(node.policies.trigger)
    if is_users:
        states |= {e: replace(each.state, result=each.value) for e, each in outcomes.items() if e.kind == "data"}
    with context.entered(run.context) if is_users else nullcontext():
        state = verdict(
            Upstreams(states),
            trigger=node.policies.trigger,
            skip_on_upstream_skip=node.policies.skip_on_upstream_skip,
            is_approved=run.is_approved,
        )
    if isinstance(state, TriggerFailed):
        return blamed(state, {edge.upstream: each for edge, each in states.items()})
    return state


def inputs_of(run: TaskRun) -> dict[str, Any]:
    """Arguments of the call by name, as all who are given them have them."""
    node = run.node
    whole, near = _values_of(run)
    for check in node.checks:
        evaluate(check, whole)
    inputs = {
        name: run.elements[name] if name in run.elements else evaluate(each, near if name in node.mapped else whole)
        for name, each in node.arguments.items()
    }
    for value in inputs.values():
        if type(value) is Unread:
            raise value.error
    return inputs


def _values_of(run: TaskRun) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values by slug that arguments are made of, and those for arguments that take elements."""
    whole = dict(run.environment.program.values)
    whole.update((slug, outcome.value) for slug, outcome in run.upstreams.items())
    return whole, {slug: outcome.value for slug, outcome in run.neighbours.items()}


def limit_names_of(run: TaskRun) -> tuple[str, ...]:
    """What the templates of the node's limits make of a task run's arguments; what makes none stands for itself."""
    names, inputs = [], {}
    try:
        parameters = run.node.signature.parameters or {}
        inputs = {**{name: each.default for name, each in parameters.items()}, **inputs_of(run)}
    except BaseException as error:  # it will not run, or fail
        run.environment.reraise_interrupt(error)
    for template in run.node.policies.templates:
        try:
            names.append(made_of(template, inputs))
        except BaseException as error:  # values of the user's are made texts
            run.environment.reraise_interrupt(error)
            names.append(template)
    return tuple(names)


def own_inputs(run: TaskRun, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one attempt, with copies of what it could change.

    Of what is large only a task with retries gets copies: a next attempt must not see what this one has done to it.
    """
    attempt = run.context.task_run_count
    limit = copied_nbytes(run.node, run.environment)

    def take(value: Any) -> Any:
        return copied(value, limit) if run.own_value is None else run.own_value(value, attempt)

    own: dict[str, Any] = {}
    for name, value in inputs.items():
        expression = run.node.arguments[name]
        if type(expression) is Build and name not in run.elements:
            whole, near = _values_of(run)
            own[name] = evaluate(expression, near if name in run.node.mapped else whole, take)
        else:
            own[name] = tuple(map(take, value)) if name == STAR else take(value)
    return own


def copied_nbytes(node: FrozenNode, environment: Environment) -> int | None:
    """Bytes up to which attempts of a task have copies of what they are given; None: any number."""
    policies = node.policies
    if policies.retry.max_retries and policies.isolation == "thread":  # a child process has its own copies
        return None
    nbytes: int = environment.setting("inline_nbytes")
    return nbytes


def reraise(run: TaskRun, error: BaseException) -> None:
    """Raise what ends a task run without a state: the user's Ctrl-C, and the cancel of what nobody waits for."""
    run.environment.reraise_interrupt(error)
    if run.node.is_awaited:
        from anabranch.engine.units.loops import is_ours

        if is_ours(error):
            raise error


class _Over(Exception):
    """The run of a task has ended while that waited."""


async def _pause(run: TaskRun, seconds: float) -> None:
    """Let time pass, for others too if they run on the same loop."""
    if run.is_over():
        raise _Over
    if not run.node.is_awaited:
        run.environment.sleep(seconds)
        return
    import asyncio

    await asyncio.sleep(seconds)


async def run_attempts(run: TaskRun, inputs: dict[str, Any], outcome: Outcome | None = None) -> Outcome:
    """Attempts, loops and short waits between them, until there is a state that lasts; `outcome`: of the first one."""
    state: State = Pending()
    while True:
        if outcome is None:
            state = change(run, state, Running(start_time=run.environment.now()))
            if isinstance(state, Finished):
                return _concluded(run, state, state, announced=True)
            outcome = await _attempt(run, state, inputs)
        state = outcome.state
        ctx = run.context
        if isinstance(state, Looped):
            ended = run.next_round(state.result)
            run.note(ended)
            if run.is_over() or run.node.policies.rate:  # the next round needs a permit, as an attempt does
                return Outcome(ended)
        elif isinstance(state, Retrying):
            run.attempts = state.attempts
            wait = (state.start_time.timestamp() - run.environment.clock()) if state.start_time else 0.0
            if wait > run.wait_s or run.is_over() or run.node.policies.rate:
                return outcome
            run.note(state)
            run.environment.sleep(max(0.0, wait))
            if run.is_over():
                return outcome
            ctx.task_run_count += 1
        else:
            return outcome
        outcome = None


async def _attempt(run: TaskRun, running: State, inputs: dict[str, Any]) -> Outcome:
    """One call of the function; Retrying if there will be another."""
    function, policies = run.node.signature.function, run.node.policies
    max_width: int = run.environment.setting("max_width")
    run.context.calls = None
    try:
        args, kwargs = run.node.signature.split(own_inputs(run, inputs))
        with context.entered(run.context), _own_loop_result(run):
            args, kwargs = revealed(args, kwargs)
            if policies.isolation == "process":
                value = call_in_process(
                    function,
                    args,
                    kwargs,
                    context=run.context,
                    timeout_s=policies.timeout_s,
                    memory_limit=policies.memory_limit,
                    max_width=max_width,
                    log_stdout=policies.log_stdout,
                    share=run.environment.share,
                )
            elif run.node.is_awaited:
                from anabranch.engine.units.loops import value_of

                returned = function(*args, **kwargs)
                value = materialised(await value_of(returned, policies.timeout_s, max_width), max_width)
            else:
                value = call_within(policies.timeout_s, function, args, kwargs)
            value = materialised(value, max_width, is_lazy=policies.lazy)
        if has_deferred(run.context, value):
            return deferring(run, running, value)
        if run.check_value:
            value, pickled, nbytes = measured(value)
        else:
            pickled, nbytes = None, 0
        measures: dict[str, Any] = {"pickled": pickled, "nbytes": nbytes}
        if run.errand is not None and not policies.state_handlers:  # they may yet decide that it is a failure
            stored, measures["ref"] = run.errand.commit(value)
            if stored is not value:  # whoever ran it first, and was lost, had another
                value, measures["pickled"], measures["nbytes"] = measured(stored)
    except BaseException as error:
        reraise(run, error)
        return conclude_exception(run, running, error, inputs)
    return _concluded(run, running, Success(message="done"), value, **measures)


@contextmanager
def _own_loop_result(run: TaskRun) -> Iterator[None]:
    """Until the block ends, the task has a copy of what the round before gave; a next attempt gets another one."""
    ctx, original = run.context, run.context.task_loop_result
    try:
        ctx.task_loop_result = copied(original, copied_nbytes(run.node, run.environment))
        yield
    finally:
        ctx.task_loop_result = original


def conclude_exception(run: TaskRun, running: State, error: BaseException, inputs: Mapping[str, Any]) -> Outcome:
    """What becomes of an attempt that raised: the state a signal asks for, a retry, or a failure."""
    if isinstance(error, Signal) and not isinstance(error, (FAIL, RETRY)):
        state = error.state
        if isinstance(error, LOOP):
            try:
                is_deferred = has_deferred(run.context, error.result)
            except NodeValueError as hidden:
                return _concluded(run, running, failed_state(hidden, inputs, root=run.context.task_full_name))
            if is_deferred:
                return deferring(run, running, error.result)
            return Outcome(change(run, running, state))
        if not isinstance(state, State):
            state = Failed(message=f"ENDRUN takes a state, found {type(state).__name__}")
        if state.is_failed() or state.is_cancelled():
            failure = describe(error, inputs, in_full=run.is_new(error), root=run.context.task_full_name)
            state = replace(state, failure=failure)
        return _concluded(run, running, state, state.result)
    if isinstance(error, RETRY):
        return _retry_as_asked(run, running, error.state)
    policies, root = run.node.policies, run.context.task_full_name
    try:
        delay_s = _retry_delay_s(run, error)
    except BaseException as problem:  # retry_on and retry_delay may be functions of the user's
        run.environment.reraise_interrupt(problem)
        failed = failed_state(error, inputs, in_full=run.is_new(error), root=root, result=error)
        return _concluded(run, running, _not_tried_again(failed, problem))
    if delay_s is not None and not policies.state_handlers and policies.on_failure is None:
        # Nobody is shown the state of an attempt that is repeated, so it is not described at length.
        failure = Failure(type_name(error), clean(message_of(error), 300), root=root)
        return _retry(run, running, running, Failed(message=failure.headline(), failure=failure), delay_s)
    failed = failed_state(error, inputs, in_full=run.is_new(error), root=root, result=error)
    if delay_s is None:
        return _concluded(run, running, failed)
    handled = change(run, running, failed)
    if isinstance(handled, Retrying):
        return _retry_as_asked(run, running, handled, announced=True)
    if not handled.is_failed():
        return _concluded(run, running, handled, handled.result, announced=True)
    return _retry(run, running, handled, failed, delay_s)


def _retry_delay_s(run: TaskRun, error: BaseException) -> float | None:
    """Seconds until the attempt after one that failed so; None if there is none."""
    retry, failures = run.node.policies.retry, run.context.task_run_count - run.asked
    with context.entered(run.context):
        with asking("retry_on"):
            again = retry.wants(error, failures)
        with asking("retry_delay"):
            return retry.delay_s(failures, random.random()) if again else None


def _not_tried_again(failed: State, problem: BaseException) -> State:
    """The state of an attempt after which nobody could say whether another follows."""
    name, error = "retry_on or retry_delay", problem
    if isinstance(problem, CallbackRaised):
        name, error = problem.name, problem.error
    return noted(failed, f"not tried again: {name} raised {headline_of(error)}")


def _retry(run: TaskRun, running: State, handled: State, failed: State, delay_s: float) -> Outcome:
    """Have another attempt follow one that failed, after handlers have seen its end as `handled`."""
    _call_on_failure(run, handled)
    attempt, most = run.context.task_run_count, run.node.policies.retry.max_retries + 1 + run.asked
    state = Retrying(message=f"attempt {attempt} of {most} failed with {failed.message}", failure=failed.failure)
    due = run.environment.now() + timedelta(seconds=delay_s)
    return _retrying(run, running, state, due, handled=handled)


def _retry_as_asked(run: TaskRun, running: State, state: State, *, announced: bool = False) -> Outcome:
    """Have another attempt follow, as the task or a handler asks; it uses up no retries."""
    run.asked += 1
    due = state.start_time or run.environment.now()
    due = plain_time(due if due.tzinfo is not None else due.replace(tzinfo=UTC))
    return _retrying(run, running, state, due, handled=None if announced else running)


def has_deferred(ctx: TaskContext, value: Any) -> bool:
    """Whether a value holds deferred calls that the task has made; a warning if it made some and they are lost."""
    if not ctx.calls:
        return False
    calls, ctx.calls = ctx.calls, None
    refuse_hidden_calls(value)
    if makes_calls(value):
        return True
    names = ", ".join(sorted({call.name for call in calls}))
    ctx.logger.warning(
        "%s made %d deferred calls (%s) and did not return them, so they are not run; return them, or call .run(…)",
        ctx.task_full_name,
        len(calls),
        names,
    )
    return False


def deferring(run: TaskRun, before: State, value: Any) -> Outcome:
    """The outcome of a task that has made deferred calls: what it returned, with the calls in it."""
    ctx = run.context
    count = f"round {ctx.task_loop_count} " if ctx.task_loop_count > 1 else ""
    state = Deferred(
        message=f"{count}made deferred calls",
        start_time=before.start_time,
        attempt=ctx.task_run_count,
        map_index=ctx.map_index,
        worker=run.environment.worker,
    )
    return Outcome(change(run, before, state), value)


def run_assembly(run: TaskRun, called: Called, index: int) -> Outcome:
    """State and value of a task whose deferred calls have ended: what it returned, with their values in it."""
    running = Deferred(start_time=run.environment.now())
    try:
        refused = called.refusal(index, run.node)
        if refused is not None:
            return _concluded(run, running, refused)
        value = called.value_of(index)
    except BaseException as error:  # values are loaded and collections put together here, by their own classes
        run.environment.reraise_interrupt(error)
        return _concluded(run, running, failed_state(error, root=run.context.task_full_name))
    return _concluded(run, running, Success(message="done"), value)


_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)  # it is due at once, by any clock


def failed_state(
    error: BaseException, inputs: Mapping[str, Any] | None = None, *, in_full: bool = True, root: str = "", **about: Any
) -> State:
    """The Failed state of an exception; `about`: other fields of it."""
    if isinstance(error, CallbackRaised):
        return noted(failed_state(error.error, inputs, in_full=in_full, root=root, **about), f"raised by {error.name}")
    failure = describe(error, inputs, in_full=in_full, root=root)
    cls = TimedOut if isinstance(error, TaskTimeout) else Crashed if isinstance(error, ProcessDied) else Failed
    said = error.message if isinstance(error, Signal) else ""
    return cls(message=clean(said) or failure.headline(), failure=failure, **about)


def _retrying(run: TaskRun, running: State, state: State, due: datetime, *, handled: State | None) -> Outcome:
    """The outcome of an attempt that another one follows; `handled`: what handlers have seen last, if not `state`."""
    ctx = run.context
    progress = (ctx.task_loop_count, ctx.task_loop_result, run.asked) if ctx.task_loop_count > 1 or run.asked else None
    ended = Attempt(
        ctx.task_run_count,
        _word_of(state.failure),
        (state.failure.headline() if state.failure is not None else state.message)[:MAX_REASON],
        run.environment.worker,
        running.start_time,
        run.environment.now(),
    )
    attempts = add_attempts(run.attempts, [ended])
    state = replace(state, start_time=due, attempt=ctx.task_run_count, map_index=ctx.map_index, result=progress)
    state = replace(state, attempts=attempts)
    return Outcome(state if handled is None else change(run, handled, state))


def _word_of(failure: Failure | None) -> str:
    """How an attempt ended that is followed by another."""
    if failure is None:
        return Retrying.__name__
    return TimedOut.__name__ if failure.type_name.endswith(TaskTimeout.__name__) else Failed.__name__


def _concluded(
    run: TaskRun, before: State, state: State, value: Any = None, *, announced: bool = False, **measures: Any
) -> Outcome:
    """The outcome of a final state, after handlers and `on_failure` have seen it."""
    is_value = isinstance(state, Success) and type(before) is Running and not announced
    if not announced:
        is_shown = isinstance(state, Success) and run.node.policies.state_handlers
        shown = replace(state, result=value) if is_shown else state
        handled = change(run, before, shown)
        if isinstance(handled, Retrying):
            return _retry_as_asked(run, before, handled, announced=True)
        if handled is not shown:
            if is_value and type(handled) in (Failed, TimedOut):
                return _failed_by_handler(run, before, handled)
            state, value, measures = handled, handled.result, {}
    error = state.result
    state = replace(
        state,
        result=None,
        attempt=run.context.task_run_count,
        map_index=run.context.map_index,
        worker=run.environment.worker,
        start_time=before.start_time,
        end_time=run.environment.now(),
        attempts=run.attempts,
    )
    if run.context.calls is not None and not (state.is_failed() or state.is_cancelled()):
        run.context.calls = None
        try:
            refuse_hidden_calls(value, hider=f"the result of {type(state).__name__}")
        except NodeValueError as hidden:
            return _concluded(run, before, failed_state(hidden, root=run.context.task_full_name), announced=True)
    if not isinstance(state, Success):
        if isinstance(state, Finished):
            state = _with_failure(state, error)
            _call_on_failure(run, state, error)
            return Outcome(state, revive(state.failure, state.message))
        return Outcome(state)
    try:
        if isinstance(state, Skipped):
            value = measured(value)[0] if value is not None else None
            return Outcome(replace(state, result=value), value)
        if "nbytes" not in measures and run.check_value and value is not None:
            value, pickled, nbytes = measured(value)
            measures |= {"pickled": pickled, "nbytes": nbytes}
        if run.errand is not None and "ref" not in measures and not isinstance(state, Cached):
            value, measures["ref"] = run.errand.commit(value)
    except BaseException as error:
        run.environment.reraise_interrupt(error)
        if is_value:  # as if the attempt had ended so: it may be repeated
            return conclude_exception(run, before, error, {})
        return _concluded(run, before, failed_state(error, root=run.context.task_full_name), announced=True)
    return Outcome(state, value, **measures)


def _failed_by_handler(run: TaskRun, running: State, failed: State) -> Outcome:
    """What becomes of an attempt that succeeded, and that a handler takes for a failure."""
    failed = _with_failure(failed, failed.result)
    try:
        delay_s = _retry_delay_s(run, _exception_of(failed))
    except BaseException as problem:
        run.environment.reraise_interrupt(problem)
        failed, delay_s = _not_tried_again(failed, problem), None
    if delay_s is None:
        return _concluded(run, running, failed, announced=True)
    return _retry(run, running, failed, failed, delay_s)


def _with_failure(state: State, error: object = None) -> State:
    """A state that is no success, with a failure that says why: `error`, if that is an exception."""
    if state.failure is not None:
        return state
    if not isinstance(error, BaseException):
        error = (TaskFailure if type(state) is Failed else UpstreamFailure)(state.message)
    return replace(state, failure=describe(error, in_full=False))


def _exception_of(state: State) -> BaseException:
    """The exception of a state that is no success."""
    return state.result if isinstance(state.result, BaseException) else revive(state.failure, state.message)


def _with_exception(state: State) -> State:
    """A state as handlers see it: the result of a failure is its exception."""
    if not (state.is_failed() or state.is_cancelled()) or state.result is not None:
        return state
    state = _with_failure(state)
    return replace(state, result=_exception_of(state))


def change(run: TaskRun, old: State, new: State) -> State:
    """The state after the task's handlers have seen the change from `old` to `new`."""
    for handler in run.node.policies.state_handlers:
        new = _with_exception(new)
        try:
            with context.entered(run.context):
                answer = handler(run.node, old, new)
        except Signal as signal:
            answer = signal.state
        except BaseException as error:
            run.environment.reraise_interrupt(error)
            text = f"state handler {short(handler)} raised {headline_of(error)}"
            if new.failure is not None:
                failed = new if new.is_failed() else Failed(message=new.failure.headline(), failure=new.failure)
                answer = noted(failed, text)
            else:
                failed = failed_state(error, root=run.context.task_full_name)
                answer = replace(failed, message=clean(text), result=error)
        if isinstance(answer, State):
            new = answer
    return new


def _call_on_failure(run: TaskRun, state: State, error: Any = None) -> None:
    callback = run.node.policies.on_failure
    if callback is None or not (state.is_failed() or state.is_cancelled()):
        return
    try:
        with context.entered(run.context):
            callback(run.node, _with_exception(replace(state, result=error) if error is not None else state))
    except BaseException as error:
        run.environment.reraise_interrupt(error)
        run.context.logger.error("on_failure of %s raised %s", run.node.slug, headline_of(error))

"""One map in a chunk: runs its elements, and keeps their states and values.

What is ordinary (a plain task, inputs that are there) takes a short way, a loop around the call; everything else goes
through `run_task`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from anabranch.base import context
from anabranch.base.signals import Signal
from anabranch.base.states import (
    FIRST_FINAL_CODE,
    Attempt,
    Cached,
    Deferred,
    Failed,
    Running,
    State,
    Success,
    add_attempts,
)
from anabranch.base.texts import message_of, type_name
from anabranch.definition.frozen import FrozenNode
from anabranch.engine.units.blame import asking
from anabranch.engine.units.columns import stored_columns
from anabranch.engine.units.failures import revive
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import SUCCESS, Before, ColumnReport, Key, Outcome, Unit
from anabranch.engine.units.values import ATOMS, materialised
from anabranch.engine.worker.stage_inputs import StageInputs
from anabranch.engine.worker.task_runner import (
    MAX_REASON,
    Environment,
    TaskRun,
    conclude_exception,
    deferring,
    failed_state,
    finish,
    has_deferred,
    is_never_over,
    limit_names_of,
    perform,
    reraise,
    run_assembly,
    run_attempts,
)

if TYPE_CHECKING:
    from anabranch.base.context import TaskContext
    from anabranch.engine.worker.chunk_storage import ChunkStorage

LOOK_S = 0.25  # how often elements look whether their run is over


class Stage:
    """One map in a chunk, and what becomes of its elements.

    Parameters
    ----------
    before
        The maps of the chunk above this one, by slug.
    is_first
        Whether it is the chunk's first map.
    """

    def __init__(
        self,
        node: FrozenNode,
        unit: Unit,
        environment: Environment,
        outcomes: Mapping[Key, UnitOutcome],
        before: Mapping[str, Stage],
        *,
        is_first: bool,
    ) -> None:
        assert unit.indices is not None
        self.node = node
        self.environment = environment
        self.indices = unit.indices
        self.attempts = unit.attempts if is_first else {}
        self.loops = unit.loops if is_first else {}
        self.approved = node.slug in unit.approved
        width = len(unit.indices)
        self.codes = bytearray(width)
        self.values: list[Any] = [None] * width
        self.records: dict[int, State] = {}
        """States of what is not plain Success, by position."""
        self.reached = 0
        self.last_s = 0.0
        """Seconds that the last element took before the deadline passed."""
        self.lanes = unit.lanes or (1 if node.policies.concurrency else node.lanes(environment.program.settings))
        """Elements of an async map that run side by side."""
        self.names = unit.names
        """What the templates of limits make of all elements."""
        self.context = environment.task_context(node, is_approved=self.approved, names=unit.names)
        self.stored = self._chunk_storage(unit)
        self._seen: dict[object, int] = {}
        """Position of the first failure of each kind."""
        self.is_followed = False
        """Whether another map of the chunk takes the values."""
        self.deferring: dict[int, Any] = {}
        """What elements returned that made deferred calls, by position."""
        self.is_running = False
        self.begun = 0
        """Of an async map: position below which all has begun."""
        self.under_way: dict[int, float] = {}
        """Of an async map: when its elements began that are awaited now, by position and the stopwatch."""
        self.ended_at: list[float] = []
        """By the stopwatch: when elements ended, of a map with a rate."""
        self.is_over: Callable[[], bool] = is_never_over
        """Whether nothing more of the chunk should begin."""
        self.is_enough = False
        """Whether an element has ended the map."""
        self.ongoing: dict[int, State] = {}
        """What elements have come to that go on, by position, until it is told."""
        self.told = 0
        """Position below which all that has ended was told in interim reports, but for `untold`."""
        self.untold: list[int] = []
        self.told_attempts: dict[int, int] = {}
        """By position: number of the last attempt that was told to have failed."""
        self._elsewhere: frozenset[int] = frozenset()
        """Positions that do not run: they were begun before, when the unit was, and end in another."""
        is_by_element = self.stored is not None and self.stored.by_element
        self.inputs = StageInputs(
            node,
            unit,
            environment,
            outcomes,
            before,
            is_first=is_first,
            is_plain=node.policies.is_plain and not is_by_element,
        )
        self._call: Callable[[int], Any] | None = None
        """The short way; None where it is closed."""
        self._name_calls()
        if unit.before is not None:
            self._remember(unit.before)

    def _remember(self, before: Before) -> None:
        """Take what was reported, or stored, when the unit ran before, and leave out what ends elsewhere."""
        places = {index: position for position, index in enumerate(self.indices)}
        unfinished = {places[index] for index in before.unfinished.get(self.node.slug, ()) if index in places}
        ended = before.ended.get(self.node.slug)
        known = set(self._take_reported(ended)) if isinstance(ended, ColumnReport) else set()
        for column in stored_columns(self.node, ended.refs if isinstance(ended, ColumnReport) else (), self.indices):
            for index, value in zip(column.indices, column.values, strict=True):
                if places[index] not in known:
                    self.values[places[index]], self.codes[places[index]] = value, SUCCESS
                    known.add(places[index])
        self._elsewhere = frozenset(unfinished | known)
        self.inputs.busy |= self._elsewhere

    def _take_reported(self, column: ColumnReport) -> Iterator[int]:
        """Positions of elements of which all was reported: nothing of them is to be made again."""
        final = [position for position, code in enumerate(column.codes) if code >= FIRST_FINAL_CODE]
        values = pickle.loads(column.values) if column.values is not None else None
        for number, position in enumerate(final):
            state = column.records.get(self.indices[position])
            if state is not None and state.is_failed():
                self.values[position] = revive(state.failure)
            elif values is not None:
                self.values[position] = values[number]
            else:
                continue
            self.codes[position] = column.codes[position]
            if state is not None:
                self.records[position] = state
            yield position

    def _chunk_storage(self, unit: Unit) -> ChunkStorage | None:
        """Where the values go; None if they are not stored."""
        storage = self.environment.storage(self.node)
        if storage is None:
            return None
        from anabranch.engine.worker.chunk_storage import ChunkStorage

        return ChunkStorage(
            storage,
            self.indices,
            self.codes,
            self.values,
            looks_back=unit.is_suspect or unit.before is not None,
            environment=self.environment,
        )

    def _name_calls(self) -> None:
        """Let deferred calls know what they are called."""
        called = self.inputs.called
        records = called.records if called is not None and self.node.depth else {}
        if self.inputs.assembles:  # what is put together has the record of a caller
            named = {index: record.called.rpartition("[") for index, record in records.items()}
            names = {index: (called, int(number[:-1])) for index, (called, _, number) in named.items()}
        else:
            names = {index: (record.called, record.number) for index, record in records.items()}
        self.context.names = names or None

    # Running ----------------------------------------------------------------------------------------------------------

    def open_short_way(self) -> None:
        """Let elements be called at once, if running the function and keeping its value is all there is to do."""
        usual = self.inputs.is_plain and not (self.inputs.has_stand_ins or self.attempts or self.loops)
        self._call = self.inputs.caller() if usual else None

    def run(self, low: int, high: int, deadline: float) -> None:
        """Run the elements at positions from `low` to `high`, or to where the deadline has passed; at least one."""
        self.open_short_way()
        inputs, call = self.inputs, self._call
        is_gated, is_followed, busy = inputs.is_gated, self.is_followed, inputs.busy
        is_lazy = self.node.policies.lazy
        max_width: int = self.environment.setting("max_width")
        codes, values, ctx, indices = self.codes, self.values, self.context, self.indices
        clock = self.environment.stopwatch
        positions = iter(range(low, high))
        position = low - 1
        raised: BaseException | None = None
        took_s = 0.0
        self.look_ahead(range(low, high))
        self.is_running = True
        before = clock()
        until = min(deadline, before + LOOK_S)
        with context.entered(ctx):
            while True:
                if raised is not None:  # outside of the handler: a next attempt has nothing to do with this exception
                    self._raised(position, raised, took_s)
                    raised, call = None, self._call
                    now = clock()
                    if now > deadline or self.is_over():
                        self.last_s = now - before
                        break
                    before = now
                try:
                    for position in positions:
                        if call is None or (is_gated and not inputs.is_open(position)) or (busy and position in busy):
                            self._long_way(position)
                            if self.is_enough:
                                break
                        else:
                            ctx.map_index = indices[position]
                            value = call(position)
                            if ctx.calls is not None and has_deferred(ctx, value):
                                self._defer(position, value)
                            else:
                                if is_followed and type(value) not in ATOMS:
                                    value = materialised(
                                        value, max_width, is_lazy=is_lazy
                                    )  # a map below and the join see the same
                                values[position] = value
                                codes[position] = SUCCESS
                        now = clock()
                        if now > until:
                            if now > deadline or self.is_over():
                                self.last_s = now - before
                                break
                            until = min(deadline, now + LOOK_S)
                        before = now
                    break
                except BaseException as error:
                    self.environment.reraise_interrupt(error)
                    raised, took_s = error, clock() - before
        self.is_running = False
        self.reached = position + 1

    def look_ahead(self, positions: range) -> None:
        """Look for what other runs may have stored of some elements."""
        if self.stored is not None and not self.inputs.assembles:  # what is put together has no inputs to go by
            self.stored.look_ahead((position, self._run_at(position)) for position in positions)

    def ends(self) -> bool:
        """Whether nothing more of the map should begin, and nobody waits for what has."""
        first_n = self.node.policies.first_n  # a driver in this thread cannot say that there are as many
        is_enough = self.is_enough or (first_n is not None and self.codes.count(SUCCESS) >= first_n)
        return is_enough or self.is_over()

    @property
    def at(self) -> tuple[str, int] | None:
        """Slug and index of the element that runs now, as seen from another thread."""
        if not self.is_running:
            return None
        position = self.codes.find(0, self.told)
        return (self.node.slug, self.indices[position]) if position >= 0 else None

    def _run_at(self, position: int) -> TaskRun:
        """The task run of an element, for the long way."""
        index = self.indices[position]
        node, neighbours, elements = self.inputs.at(position)
        attempt = self.attempts.get(index, 1)
        run = TaskRun(
            node,
            self.inputs.whole,
            elements,
            self._context_at(index, attempt),
            self.environment,
            wait_s=0.0,
            neighbours=neighbours,
            is_approved=self.approved,
            check_value=False,
            note=partial(self.ongoing.__setitem__, position),
            is_over=self.ends if self.node.is_awaited else self.is_over,
            is_new=partial(self._is_new, position),
            own_value=self.inputs.own_value,
        )
        if index in self.loops:
            run.go_on(self.loops[index])
        return run if self.stored is None else self.stored.equip(run, position)

    def _context_at(self, index: int, attempt: int = 1) -> TaskContext:
        ctx = self.environment.task_context(
            self.node, map_index=index, attempt=attempt, is_approved=self.approved, names=self.names
        )
        ctx.names = {index: self.context.names[index]} if self.context.names is not None else None
        return ctx

    def limit_names(self) -> tuple[tuple[str, ...], ...]:
        """What the templates of the node's limits make of each element."""
        known: dict[tuple[str, ...], tuple[str, ...]] = {}
        found = (limit_names_of(self._run_at(position)) for position in range(len(self.indices)))
        return tuple(known.setdefault(names, names) for names in found)

    def _long_way(self, position: int) -> None:
        finish(self.perform(position))

    async def perform(self, position: int, before: State | None = None) -> None:
        """Run an element through all that a task run may mean; `before`: its state, if it goes on after that."""
        if position in self._elsewhere:
            return
        run = self._run_at(position)
        if before is not None:
            run.context.task_run_count, run.attempts = before.attempt + 1, before.attempts
            if before.result is not None:
                run.go_on(before.result)
        if self.inputs.assembles and self.inputs.called is not None:
            self._record(position, run_assembly(run, self.inputs.called, self.indices[position]))
        else:
            self._record(position, await perform(run))
        if self.node.policies.rate:
            self.ended_at.append(self.environment.stopwatch())

    async def run_awaited(self, position: int, before: State | None) -> None:
        """Run an element of an async map, on the short way where that is open."""
        from anabranch.engine.units.loops import value_of

        call, inputs = self._call, self.inputs
        is_shut = before is not None or position in inputs.busy or (inputs.is_gated and not inputs.is_open(position))
        if call is None or is_shut:
            await self.perform(position, before)
            return
        ctx, value, raised = self._context_at(self.indices[position]), None, None
        try:
            with context.entered(ctx):
                value = self.materialised(await value_of(call(position), None, self.environment.setting("max_width")))
                is_deferred = has_deferred(ctx, value)
        except BaseException as error:
            raised = error
        else:
            if not is_deferred:
                self.values[position], self.codes[position] = value, SUCCESS
                return
        run = self._run_at(position)
        run.context = ctx
        took = timedelta(seconds=self.environment.stopwatch() - self.under_way[position])
        running = Running(start_time=self.environment.now() - took)
        if raised is None:
            self._record(position, deferring(run, running, value))
            return
        reraise(run, raised)
        inputs.renew()
        given = inputs.arguments(position)
        outcome = conclude_exception(run, running, raised, given)
        self._record(position, await run_attempts(run, given, outcome))

    def _look_for_enough(self, position: int, outcome: Outcome) -> Outcome:
        """Ask whether the value of an element is enough; its failure, if that cannot be said."""
        stop_when = self.node.policies.stop_when
        if stop_when is None or type(outcome.state) is not Success:
            return outcome
        try:
            with asking("stop_when"):
                self.is_enough |= bool(stop_when(outcome.value))
        except BaseException as error:  # the user's
            self.environment.reraise_interrupt(error)
            state = failed_state(error, root=self.name(position))
            state = replace(state, map_index=self.indices[position], worker=self.environment.worker)
            return Outcome(state, revive(state.failure))
        return outcome

    def _defer(self, position: int, value: Any) -> None:
        """An element on the short way has made deferred calls."""
        run = self._run_at(position)
        self._record(position, deferring(run, Running(start_time=self.environment.now()), value))

    def name(self, position: int) -> str:
        """What the task run of an element is called."""
        self.context.map_index = self.indices[position]
        return self.context.task_full_name

    def _raised(self, position: int, error: BaseException, took_s: float) -> None:
        """An attempt on the short way raised: settle it, and go on with it where that is due at once."""
        ctx, began = self.context, self.environment.now() - timedelta(seconds=took_s)
        calls, ctx.calls = ctx.calls, None
        attempts: tuple[Attempt, ...] = ()
        try:
            while self._call is not None and self._is_repeated_at_once(error, ctx.task_run_count):
                reason, end = f"{type_name(error)}: {message_of(error)}"[:MAX_REASON], self.environment.now()
                ended = Attempt(ctx.task_run_count, Failed.__name__, reason, self.environment.worker, began, end)
                attempts = add_attempts(attempts, [ended])
                began = end
                ctx.task_run_count += 1
                self.inputs.renew()
                try:
                    value = self.materialised(self._call(position))
                    is_deferred = has_deferred(ctx, value)
                except BaseException as again:
                    self.environment.reraise_interrupt(again)
                    error, calls, ctx.calls = again, ctx.calls, None
                else:
                    if is_deferred:
                        self._defer(position, value)
                        return
                    state: State = replace(self._late_success(position, began), attempts=attempts)
                    self._record(position, Outcome(state, value))
                    return
            attempt = ctx.task_run_count
        finally:
            ctx.task_run_count = 1
        self.inputs.renew()
        if self._is_one_more(position, error, attempt):
            state = failed_state(
                error,
                in_full=False,
                root=self.name(position),
                attempt=attempt,
                map_index=self.indices[position],
                worker=self.environment.worker,
                start_time=began,
                end_time=self.environment.now(),
                attempts=attempts,
            )
            self._record(position, Outcome(state, revive(state.failure)))
            return
        run = self._run_at(position)
        run.context.task_run_count, run.context.calls, run.attempts = attempt, calls, attempts
        inputs = self.inputs.arguments(position)
        outcome = conclude_exception(run, Running(start_time=began), error, inputs)
        self._record(position, finish(run_attempts(run, inputs, outcome)))

    def _is_repeated_at_once(self, error: BaseException, attempt: int) -> bool:
        """Whether a next attempt follows without delay, and without anybody being told of the one that failed."""
        retry = self.node.policies.retry
        if retry.delay != 0 or retry.jitter or isinstance(error, Signal) or self.is_over():
            return False
        try:
            return retry.wants(error, attempt)
        except BaseException as problem:  # of the user's: the long way asks again, and says what it raised
            self.environment.reraise_interrupt(problem)
            return False

    def _is_one_more(self, position: int, error: BaseException, attempt: int) -> bool:
        """Whether it is a last attempt that failed in the way of another element: there may be very many of these."""
        is_last = attempt > self.node.policies.retry.max_retries and not isinstance(error, Signal)
        return is_last and not self._is_new(position, error)

    def materialised(self, value: Any) -> Any:
        """The value of an element, as others can have it."""
        return materialised(value, self.environment.setting("max_width"), is_lazy=self.node.policies.lazy)

    def _late_success(self, position: int, began: datetime) -> State:
        return Success(
            message="done",
            attempt=self.context.task_run_count,
            map_index=self.indices[position],
            worker=self.environment.worker,
            start_time=began,
            end_time=self.environment.now(),
        )

    def _is_new(self, position: int, error: BaseException) -> bool:
        """Whether to describe a failure in full: the first element with one of its kind is, in each of its attempts."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        kind = (type(error), *((trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ()))
        if kind not in self._seen and len(self._seen) < self.environment.setting("max_tracebacks"):
            self._seen[kind] = position
        return self._seen.get(kind) == position

    def _record(self, position: int, outcome: Outcome) -> None:
        outcome = self._look_for_enough(position, outcome)
        state = outcome.state
        if isinstance(state, Deferred):
            self.deferring[position] = outcome.value
            outcome = Outcome(state)
        self.values[position] = outcome.value
        if self.stored is not None:
            self.stored.note(position, outcome)
        if type(state) in (Success, Cached) and state.attempt == 1:
            self.records.pop(position, None)
        else:
            self.records[position] = state
        self.codes[position] = state.code  # last: an interim report takes what has its code

    def again(self, position: int) -> None:
        """Run an element's next attempt."""
        finish(self.perform(position, self.records.pop(position)))

    def rerun(self, position: int) -> None:
        """Run an element that had waited for the map above."""
        if self.codes[position] < FIRST_FINAL_CODE:
            self.records.pop(position, None)
            self._long_way(position)

    def forget(self, position: int) -> None:
        """Decide anew about an element whose value was made of one that could not travel, or be stored."""
        self.records.pop(position, None)
        self._long_way(position)

    # Afterwards -------------------------------------------------------------------------------------------------------

    def fail_all(self, positions: Sequence[int], error: BaseException) -> None:
        """Give elements that one fault has befallen one failure: thousands of descriptions would say the same."""
        first = self.indices[positions[0]]
        state = failed_state(error, root=f"{self.node.slug}[{first}]")
        exception = revive(state.failure)
        for position in positions:
            own = replace(state, map_index=self.indices[position], worker=self.environment.worker)
            self._record(position, Outcome(own, exception))

    def fail(self, position: int, error: BaseException) -> None:
        """Give an element, whatever became of it before, a failure."""
        index = self.indices[position]
        state = failed_state(error, root=self.name(position))
        state = replace(state, map_index=index, worker=self.environment.worker)
        self._record(position, Outcome(state, revive(state.failure)))

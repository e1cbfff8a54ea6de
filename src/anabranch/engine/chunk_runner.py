"""Runs a chunk: a range of elements through one or more maps that share an element space, as one Dask task.

Elements go through in blocks, each block through all maps, so that values between two maps live for a block only. What
is ordinary (a plain task, inputs that are there) takes a short way; everything else goes through `run_task`.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial as partial_function
from typing import TYPE_CHECKING, Any

from anabranch import context
from anabranch.bindings import Const, Ref, evaluate
from anabranch.engine.carried import Carried
from anabranch.engine.columns import Aligned, single_outcome, stored_columns, whole_outcome
from anabranch.engine.cutting import cut
from anabranch.engine.failures import revive
from anabranch.engine.reducing import partial
from anabranch.engine.task_runner import (
    Environment,
    TaskRun,
    conclude_exception,
    failed_state,
    run_attempts,
    run_task,
)
from anabranch.engine.units import (
    SUCCESS,
    Column,
    ColumnReport,
    CutFrom,
    Held,
    Indices,
    Key,
    Outcome,
    Pieces,
    Report,
    Sent,
    Stored,
    Unit,
    UnitOutcome,
)
from anabranch.engine.values import ATOMS, copied, dumps, materialised, measured
from anabranch.frozen import FrozenNode
from anabranch.secret import Secret
from anabranch.signals import LOOP, Signal
from anabranch.states import BY_CODE, FIRST_FAILED_CODE, FIRST_FINAL_CODE, Cached, Retrying, Running, State, Success

if TYPE_CHECKING:
    from anabranch.engine.chunk_storage import ChunkStorage

FIRST_BLOCK = 1
LONGEST_BLOCK = 1024
BLOCK_S = 0.01  # a block of several maps should take no longer, so that a chunk can give up soon after its deadline


def run_chunk(unit: Unit, environment: Environment, outcomes: Mapping[Key, UnitOutcome]) -> tuple[UnitOutcome, Report]:
    """Run the elements of a unit through its maps; past `give_up_s`, hand back those not begun."""
    indices = unit.indices
    assert indices is not None
    began, clock = environment.clock(), time.perf_counter
    start = clock()
    deadline = start + unit.give_up_s if unit.give_up_s is not None else float("inf")
    stages: list[Stage] = []
    for place, slug in enumerate(unit.nodes):
        before = {stage.node.slug: stage for stage in stages}
        stages.append(Stage(environment.program.nodes[slug], unit, environment, outcomes, before, is_first=place == 0))
    for stage in stages[:-1]:
        stage.is_followed = True
    reached = _run_blocks(stages, len(indices), deadline)
    seconds = clock() - start  # without waits: it is what the next chunk is cut by
    _wait_for_retries(stages, environment)
    done = indices[:reached]
    nbytes = 0
    columns: dict[str, Column] = {}
    partials: dict[str, tuple[range, Any]] = {}
    reports = []
    for place, stage in enumerate(stages):
        data, size = stage.check_values(reached)
        refused = stage.store(reached, unit.key[1])
        if refused:
            data, size = stage.check_values(reached)
            for position in refused:
                for below in stages[place + 1 :]:
                    below.forget(position)
        nbytes += size if stage.node.slug in unit.keep else 0
        codes = bytes(stage.codes[:reached])
        records = {indices[position]: state for position, state in stage.records.items()}
        if min(codes) < FIRST_FINAL_CODE:  # the values of the others come with their last attempt
            data = dumps([value for value, code in zip(stage.values, codes, strict=False) if code >= FIRST_FINAL_CODE])
        small = data is not None and len(data) <= environment.setting("inline_nbytes")
        column = ColumnReport(stage.node.slug, codes, records, data if small else None)
        if stage.stored is not None:
            column = replace(column, refs=stage.stored.refs(reached), notes=stage.stored.notes(reached))
        reports.append(column)
        reducers = unit.reduces.get(stage.node.slug, ())
        is_reduced = _reduce(stage, reducers, done, environment, partials)
        if stage.node.slug in unit.keep or not is_reduced:
            columns[stage.node.slug] = Column(done, codes, stage.values[:reached], records)
        else:
            carried = _unfinished_below(stages, stage, reached)
            if carried:
                columns[stage.node.slug] = _sparse(stage, carried, indices)
    report = Report(
        unit.key,
        columns=tuple(reports),
        indices=done,
        seconds=seconds,
        last_s=max(stage.last_s for stage in stages),
        nbytes=nbytes,
        worker=environment.worker,
        started=began,
    )
    return UnitOutcome(columns=columns, partials=partials, nbytes=nbytes), report


def failed_chunk(unit: Unit, environment: Environment, error: Exception) -> tuple[UnitOutcome, Report]:
    """The outcome of a chunk whose inputs are not to be had: all its elements have failed."""
    indices = unit.indices
    assert indices is not None
    columns, reports, began = {}, [], environment.clock()
    for slug in unit.nodes:
        state = replace(failed_state(error, root=f"{slug}[{indices[0]}]"), worker=environment.worker)
        records: dict[int, State] = {index: replace(state, map_index=index) for index in indices}
        codes = bytes([state.code]) * len(indices)
        columns[slug] = Column(indices, codes, [revive(state.failure)] * len(indices), records)
        reports.append(ColumnReport(slug, codes, records))
    report = Report(unit.key, columns=tuple(reports), indices=indices, worker=environment.worker, started=began)
    return UnitOutcome(columns=columns), report


def _reduce(
    stage: Stage,
    reducers: tuple[str, ...],
    done: Indices,
    environment: Environment,
    partials: dict[str, tuple[range, Any]],
) -> bool:
    """Reduce a map's values for the nodes that take them; whether the values themselves are not needed for that."""
    if not reducers:
        return True
    if not isinstance(done, range) or min(stage.codes[: len(done)]) < FIRST_FINAL_CODE:
        return False
    try:
        for slug in reducers:
            node = environment.program.nodes[slug]
            value, _, _ = measured(partial(node, stage.values[: len(done)], environment.program))
            partials[slug] = (done, value)
    except BaseException as error:  # the task itself, given the values, will fail in the same way and say so
        if environment.is_main and isinstance(error, KeyboardInterrupt):
            raise
        return False
    return True


def _run_blocks(stages: list[Stage], width: int, deadline: float) -> int:
    """Run elements in blocks until all are done or the deadline has passed; at least one. Number begun."""
    clock = time.perf_counter
    if len(stages) == 1:
        stages[0].run(0, width, deadline)
        return stages[0].reached
    low, size = 0, FIRST_BLOCK
    while low < width:
        began = clock()
        if began > deadline and low:
            break
        stages[0].run(low, min(low + size, width), deadline if low else float("inf"))
        high = stages[0].reached
        for stage in stages[1:]:
            stage.run(low, high, float("inf"))
        low = high
        size = min(size * 2, LONGEST_BLOCK) if clock() - began < BLOCK_S else max(size // 2, 1)
    return low


def _wait_for_retries(stages: list[Stage], environment: Environment) -> None:
    """Run again, here, what failed and is due soon; then the maps below it."""
    horizon = environment.setting("inplace_retry_delay_s")
    while True:
        now = environment.clock()
        due = [
            (state.start_time.timestamp(), number, position)
            for number, stage in enumerate(stages)
            for position, state in stage.records.items()
            if isinstance(state, Retrying) and state.start_time and state.start_time.timestamp() - now <= horizon
        ]
        if not due:
            return
        first, number, position = min(due)
        environment.sleep(max(0.0, first - now))
        stages[number].again(position)
        for stage in stages[number + 1 :]:
            stage.rerun(position)


def _unfinished_below(stages: list[Stage], stage: Stage, reached: int) -> list[int]:
    """Positions whose value here is needed once more, because a map below has not finished them."""
    below = stages[stages.index(stage) + 1 :]
    return [
        position
        for position in range(reached)
        if stage.codes[position] >= FIRST_FINAL_CODE and any(s.codes[position] < FIRST_FINAL_CODE for s in below)
    ] if any(min(s.codes[:reached], default=FIRST_FINAL_CODE) < FIRST_FINAL_CODE for s in below) else []  # fmt: skip


def _sparse(stage: Stage, positions: list[int], indices: Indices) -> Column:
    return Column(
        tuple(indices[position] for position in positions),
        bytes(stage.codes[position] for position in positions),
        [stage.values[position] for position in positions],
        {indices[position]: stage.records[position] for position in positions if position in stage.records},
    )


class Stage:
    """One map in a chunk: its inputs lined up with the chunk, and what becomes of its elements."""

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
        self.context = environment.task_context(node)
        self.stored = self._chunk_storage(unit)
        self._seen: dict[object, int] = {}
        """Position of the first failure of each kind."""
        self.whole = {slug: whole_outcome(slug, unit, environment.program, outcomes) for slug in node.whole_upstreams}
        self.lined: dict[str, Aligned | Stage] = {}
        self.elements: dict[str, Sequence[Any]] = {}
        """Elements that do not come from a map, by argument, in the order of the indices."""
        self.lists: dict[str, str] = {}
        """Slug of the upstream node for those of these arguments that have one."""
        self.has_carried = False
        """Whether an element there carries a state."""
        self.is_followed = False
        """Whether another map of the chunk takes the values."""
        self._line_up(unit, outcomes, before)
        is_by_element = self.stored is not None and self.stored.by_element
        self.is_plain = (not is_by_element and node.policies.is_plain) and all(
            outcome.state.is_successful() and not outcome.state.is_skipped() and not _has_failures(outcome.state)
            for outcome in self.whole.values()
        )
        self._prepare_calls()

    def _chunk_storage(self, unit: Unit) -> ChunkStorage | None:
        """Where the values go; None if they are not stored."""
        storage = self.environment.storage(self.node)
        if storage is None:
            return None
        from anabranch.engine.chunk_storage import ChunkStorage

        return ChunkStorage(
            storage,
            self.indices,
            self.codes,
            self.values,
            looks_back=unit.is_suspect,
            is_main=self.environment.is_main,
        )

    def _line_up(self, unit: Unit, outcomes: Mapping[Key, UnitOutcome], before: Mapping[str, Stage]) -> None:
        lists: dict[str, Sequence[Any]] = {}
        for slug in self.node.element_upstreams:
            if slug in before:
                self.lined[slug] = before[slug]
            elif isinstance(source := unit.elements.get(slug), Pieces):
                stored = stored_columns(self.environment.program.nodes[slug], source.stored, self.indices)
                self.lined[slug] = Aligned(slug, source, outcomes, self.indices, stored)
            elif isinstance(source, CutFrom):
                held = outcomes[source.key]
                lists[slug] = held.cut if held.cut is not None else self._cut(held.singles[slug].value)
            elif isinstance(source, (Held, Sent, Stored)):
                lists[slug] = self._cut(single_outcome(slug, source, outcomes, self.environment.program).value)
            else:
                lists[slug] = self._cut(self.environment.program.values[slug])
        for name in self.node.mapped:
            expression = self.node.arguments[name]
            if isinstance(expression, Const):
                given = unit.slices.get((self.node.slug, name))
                self.elements[name] = given if given is not None else self._cut(expression.value)
            elif isinstance(expression, Ref) and expression.node in lists:
                self.elements[name] = lists[expression.node]
                self.lists[name] = expression.node
                self.has_carried |= any(type(value) is Carried for value in lists[expression.node])

    def _cut(self, values: Sequence[Any]) -> Sequence[Any]:
        return cut(values, self.indices)

    def _prepare_calls(self) -> None:
        """Arguments of a call with places left open for the elements."""
        values = dict(self.environment.program.values)
        values.update((slug, outcome.value) for slug, outcome in self.whole.items())
        self.template: dict[str, Any] = {}
        self.open: list[tuple[str, Sequence[Any]]] = []
        self.gates: list[bytearray] = [source.codes for source in self.lined.values()]
        """Codes of the elements upstream: where one is not a plain Success, the short way is closed."""
        self._call: Callable[[int], Any] | None = None
        self._snapshots: dict[str, _Snapshot] = {}
        """Whole arguments that an attempt could change before the next, by name."""
        if self.node.policies.retry.max_retries:
            self._note_whole_arguments(values)
        if not self.is_plain:
            return
        try:
            for check in self.node.checks:
                evaluate(check, values)
            for name, expression in self.node.arguments.items():
                if name in self.elements:
                    self.open.append((name, self.elements[name]))
                elif name in self.node.mapped and isinstance(expression, Ref):
                    self.open.append((name, self.lined[expression.node].values))
                self.template[name] = None if name in self.node.mapped else evaluate(expression, values)
            self.template.update((name, snapshot.own) for name, snapshot in self._snapshots.items())
            self.is_plain = not any(type(value) is Secret for value in self.template.values())
        except BaseException:  # the long way makes it each element's failure, with its message
            self.is_plain = False

    def _note_whole_arguments(self, values: Mapping[str, Any]) -> None:
        """Pickle, once for all elements, the whole arguments that an attempt which is repeated could change."""
        for name, expression in self.node.arguments.items():
            if name in self.node.mapped or not isinstance(expression, (Const, Ref)):
                continue
            try:
                value = evaluate(expression, values)
                if type(value) not in ATOMS and not callable(value):
                    self._snapshots[name] = _Snapshot(value)
            except Exception:  # the long way says what is wrong with it; what does not pickle cannot be copied either
                continue

    # Running ----------------------------------------------------------------------------------------------------------

    def run(self, low: int, high: int, deadline: float) -> None:
        """Run the elements at positions from `low` to `high`, or to where the deadline has passed; at least one."""
        # With retries to come, an attempt must work on copies of what it could change: that is the long way's business.
        retries = self.node.policies.retry.max_retries > 0 and not self._has_atoms_only()
        usual = self.is_plain and not self.has_carried and not self.attempts and not self.loops
        call = self._call = self._caller() if usual else None
        is_gated, is_followed = bool(self.gates), self.is_followed
        max_width: int = self.environment.setting("max_width")
        clock, codes, values, ctx, indices = time.perf_counter, self.codes, self.values, self.context, self.indices
        positions = iter(range(low, high))
        position = low - 1
        raised: BaseException | None = None
        if self.stored is not None:
            self.stored.look_ahead((position, self._run_at(position)) for position in range(low, high))
        before = clock()
        with context.entered(ctx):
            while True:
                if raised is not None:  # outside of the handler: a next attempt has nothing to do with this exception
                    self._raised(position, raised)
                    raised, call = None, self._call
                try:
                    for position in positions:
                        if (
                            call is None
                            or (is_gated and not self._is_open(position))
                            or (retries and self._is_mutable(position))
                        ):
                            self._long_way(position)
                        else:
                            ctx.map_index = indices[position]
                            value = call(position)
                            if is_followed and type(value) not in ATOMS:
                                value = materialised(value, max_width)  # a map below and the join must see the same
                            values[position] = value
                            codes[position] = SUCCESS
                        now = clock()
                        if now > deadline:
                            self.last_s = now - before
                            break
                        before = now
                    break
                except BaseException as error:
                    if self.environment.is_main and isinstance(error, KeyboardInterrupt):
                        raise
                    raised = error
        self.reached = position + 1

    def _caller(self) -> Callable[[int], Any]:
        """A function of the position that calls the task's function; positional arguments are the quickest."""
        function = self.node.signature.function
        args, kwargs = self.node.signature.split(self.template)
        names = list(self.template)
        opened = [(names.index(name), name, column) for name, column in self.open]
        if len(opened) == 1 and opened[0][0] == 0 and len(args) == 1 and not kwargs:
            column = opened[0][2]
            return lambda position: function(column[position])
        if kwargs or len(args) != len(names):

            def call_by_name(position: int) -> Any:
                arguments = dict(self.template)
                for _, name, column in opened:
                    arguments[name] = column[position]
                positional, keywords = self.node.signature.split(arguments)
                return function(*positional, **keywords)

            return call_by_name

        def call_by_position(position: int) -> Any:
            positional = args[:]
            for place, _, column in opened:
                positional[place] = column[position]
            return function(*positional)

        return call_by_position

    def _is_open(self, position: int) -> bool:
        return all(codes[position] == SUCCESS for codes in self.gates)

    def _has_atoms_only(self) -> bool:
        """Whether all elements are known to be immutable."""
        columns = [column for _, column in self.open]
        given = {id(column) for column in self.elements.values()}  # those of other maps are not filled in yet
        return all(isinstance(c, range) or (id(c) in given and set(map(type, c)) <= ATOMS) for c in columns)

    def _is_mutable(self, position: int) -> bool:
        return any(type(column[position]) not in ATOMS for _, column in self.open)

    def _run_at(self, position: int) -> TaskRun:
        """The task run of an element, for the long way."""
        index = self.indices[position]
        neighbours = {slug: _outcome_at(source, position, index) for slug, source in self.lined.items()}
        elements = {name: column[position] for name, column in self.elements.items()}
        for name, slug in self.lists.items():
            element = elements[name]
            neighbours[slug] = element.outcome if isinstance(element, Carried) else Outcome(Success(), element)
            elements[name] = neighbours[slug].value
        ctx = self.environment.task_context(self.node, map_index=index, attempt=self.attempts.get(index, 1))
        if index in self.loops:
            ctx.task_loop_count, ctx.task_loop_result = self.loops[index]
        run = TaskRun(
            self.node,
            self.whole,
            elements,
            ctx,
            self.environment,
            wait_s=0.0,
            neighbours=neighbours,
            is_approved=self.approved,
            check_value=False,
            is_new=partial_function(self._is_new, position),
            copied=self._copied,
        )
        return run if self.stored is None else self.stored.equip(run, position)

    def _long_way(self, position: int) -> None:
        self._record(position, run_task(self._run_at(position)))

    def _raised(self, position: int, error: BaseException) -> None:
        """An attempt on the short way raised: settle it, and go on with it where that is due at once."""
        ctx, began = self.context, self.environment.now()
        try:
            while self._call is not None and self._is_repeated_at_once(error, ctx.task_run_count):
                ctx.task_run_count += 1
                self._restore_inputs()
                try:
                    value = materialised(self._call(position), self.environment.setting("max_width"))
                except BaseException as again:
                    if self.environment.is_main and isinstance(again, KeyboardInterrupt):
                        raise
                    error = again
                else:
                    self._record(position, Outcome(self._late_success(position, began), value))
                    return
            attempt = ctx.task_run_count
        finally:
            ctx.task_run_count = 1
        run = self._run_at(position)
        run.context.task_run_count = attempt
        self._restore_inputs()
        inputs = {**self.template, **{name: column[position] for name, column in self.open}}
        running = Running(start_time=self.environment.now())
        outcome = conclude_exception(run, running, error, inputs)
        state = outcome.state
        if isinstance(error, LOOP):
            run.context.task_loop_count, run.context.task_loop_result = 2, state.result
        elif (
            isinstance(state, Retrying)
            and state.start_time
            and state.start_time.timestamp() <= self.environment.clock()
        ):
            run.context.task_run_count += 1
        else:
            self._record(position, outcome)
            return
        self._record(position, run_attempts(run, *self.node.signature.split(inputs), inputs))

    def _is_repeated_at_once(self, error: BaseException, attempt: int) -> bool:
        """Whether a next attempt follows without delay, and without anybody being told of the one that failed."""
        retry = self.node.policies.retry
        if retry.delay != 0 or retry.jitter or isinstance(error, Signal):
            return False
        try:
            return retry.wants(error, attempt)
        except BaseException:  # a predicate of the user's: the long way asks it again, and says what it raised
            return False

    def _late_success(self, position: int, began: datetime) -> State:
        return Success(
            message="done",
            attempt=self.context.task_run_count,
            map_index=self.indices[position],
            worker=self.environment.worker,
            start_time=began,
            end_time=self.environment.now(),
        )

    def _restore_inputs(self) -> None:
        """Give the next attempt the whole arguments as they were before the last one."""
        if self._call is not None and self._snapshots:
            self.template.update((name, snapshot.renewed()) for name, snapshot in self._snapshots.items())
            self._call = self._caller()

    def _copied(self, value: Any, attempt: int) -> Any:
        """What an attempt may work on: a copy; of whole arguments the chunk's own, new for every second attempt."""
        for snapshot in self._snapshots.values():
            if snapshot.original is value:
                return snapshot.own if attempt == 1 else snapshot.renewed()
        return copied(value)

    def _is_new(self, position: int, error: BaseException) -> bool:
        """Whether to describe a failure in full: the first element with one of its kind is, in each of its attempts."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        kind = (type(error), trace.tb_lineno if trace is not None else None)
        if kind not in self._seen and len(self._seen) < self.environment.setting("max_tracebacks"):
            self._seen[kind] = position
        return self._seen.get(kind) == position

    def _record(self, position: int, outcome: Outcome) -> None:
        state = outcome.state
        self.codes[position] = state.code
        self.values[position] = outcome.value
        if self.stored is not None:
            self.stored.note(position, outcome)
        if type(state) in (Success, Cached) and state.attempt == 1:
            self.records.pop(position, None)
        else:
            self.records[position] = state

    def again(self, position: int) -> None:
        """Run an element's next attempt."""
        state = self.records.pop(position)
        run = self._run_at(position)
        run.context.task_run_count = state.attempt + 1
        if state.result is not None:
            run.context.task_loop_count, run.context.task_loop_result = state.result
        self._record(position, run_task(run))

    def rerun(self, position: int) -> None:
        """Run an element that had waited for the map above."""
        if self.codes[position] < FIRST_FINAL_CODE:
            self.records.pop(position, None)
            self._long_way(position)

    def forget(self, position: int) -> None:
        """Decide anew about an element whose value was made of one that could not be stored."""
        self.records.pop(position, None)
        self._long_way(position)

    # Afterwards -------------------------------------------------------------------------------------------------------

    def check_values(self, reached: int) -> tuple[bytes | None, int]:
        """Make sure that all values can travel; those that cannot are their elements' failures. Pickle and size."""
        values = self._travelling(reached)
        kinds = set(map(type, values))
        if not kinds <= ATOMS:
            self._materialise(values, kinds)
            values = self._travelling(reached)
            samples = {type(value): value for value in values}
            try:
                for sample in samples.values():
                    measured(sample)
                _, data, nbytes = measured(values)
                return data, nbytes
            except BaseException:  # some element is guilty: the loop finds out which
                for position, value in enumerate(values):
                    self._check_value(position, value)
                values = self._travelling(reached)
        data = pickle.dumps(values, protocol=5)
        return data, len(data)

    def store(self, reached: int, serial: int) -> list[int]:
        """Store the values, if they go by chunk; positions of those that could not be, and have failed.

        Parameters
        ----------
        serial
            Of the unit.
        """
        if self.stored is None:
            return []
        refused = self.stored.store(reached, serial, self._whole_inputs)
        errors = {id(error): error for error in refused.values()}
        if len(errors) == 1:
            self._fail_all(list(refused), next(iter(errors.values())))
        else:
            for position, error in refused.items():
                self._fail(position, error)
        return list(refused)

    def _whole_inputs(self) -> dict[str, Any]:
        """Arguments that are the same for all elements."""
        values = {**self.environment.program.values, **{slug: each.value for slug, each in self.whole.items()}}
        names = (name for name in self.node.arguments if name not in self.node.mapped)
        return {name: evaluate(self.node.arguments[name], values) for name in names}

    def _travelling(self, reached: int) -> list[Any]:
        """The values, without the exceptions: these are pickled in the states already."""
        values = self.values[:reached]
        for position, state in self.records.items():
            if state.code >= FIRST_FAILED_CODE:
                values[position] = None
        return values

    def _materialise(self, values: list[Any], kinds: set[type]) -> None:
        if not any(hasattr(kind, "__next__") for kind in kinds):
            return
        for position, value in enumerate(values):
            try:
                self.values[position] = materialised(value, self.environment.setting("max_width"))
            except BaseException as error:
                self._fail(position, error)

    def _check_value(self, position: int, value: Any) -> None:
        try:
            measured(value)
        except BaseException as error:
            self._fail(position, error)

    def _fail_all(self, positions: Sequence[int], error: BaseException) -> None:
        """Give elements that one fault has befallen one failure: thousands of descriptions would say the same."""
        first = self.indices[positions[0]]
        state = failed_state(error, root=f"{self.node.slug}[{first}]")
        exception = revive(state.failure)
        for position in positions:
            own = replace(state, map_index=self.indices[position], worker=self.environment.worker)
            self._record(position, Outcome(own, exception))

    def _fail(self, position: int, error: BaseException) -> None:
        index = self.indices[position]
        state = failed_state(error, root=f"{self.node.slug}[{index}]")
        state = replace(state, map_index=index, worker=self.environment.worker)
        self._record(position, Outcome(state, revive(state.failure)))


class _Snapshot:
    """A value of which each attempt gets a copy that no failed attempt has changed."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self._data = dumps(original)
        self.own = self.renewed()

    def renewed(self) -> Any:
        self.own = pickle.loads(self._data)
        return self.own


def _outcome_at(source: Aligned | Stage, position: int, index: int) -> Outcome:
    state = source.records.get(position)
    if state is None:
        state = BY_CODE[source.codes[position]](map_index=index)
    return Outcome(state, source.values[position])


def _has_failures(state: State) -> bool:
    return state.counts is not None and state.counts.failed > 0

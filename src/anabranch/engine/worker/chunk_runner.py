"""Runs a chunk: a range of elements through one or more maps that share an element space, as one Dask task.

Elements go through in blocks, each block through all maps, so that values between two maps live for a block only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

from anabranch.base.states import (
    FIRST_FINAL_CODE,
    Retrying,
    State,
)
from anabranch.engine.units.failures import revive
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.reducing import reduced
from anabranch.engine.units.units import Column, ColumnReport, Key, Partial, Report, Unit
from anabranch.engine.units.values import dumps, measured
from anabranch.engine.worker.interim import EVERY_S, telling
from anabranch.engine.worker.stage import Stage
from anabranch.engine.worker.stage_outputs import check_values, expansion, news, store
from anabranch.engine.worker.task_runner import (
    Environment,
    failed_state,
)

FIRST_BLOCK = 1
LONGEST_BLOCK = 1024
BLOCK_S = 0.01  # a block of several maps should take no longer, so that a chunk can give up soon after its deadline


def run_chunk(unit: Unit, environment: Environment, outcomes: Mapping[Key, UnitOutcome]) -> tuple[UnitOutcome, Report]:
    """Run the elements of a unit through its maps; past `give_up_s`, hand back those not begun."""
    indices = unit.indices
    assert indices is not None
    began, clock = environment.clock(), environment.stopwatch
    start = clock()
    stages: list[Stage] = []
    for place, slug in enumerate(unit.nodes):
        before = {stage.node.slug: stage for stage in stages}
        stages.append(Stage(environment.program.nodes[slug], unit, environment, outcomes, before, is_first=place == 0))
    if unit.asks_names:
        names = stages[0].limit_names()
        return UnitOutcome(), Report(unit.key, indices=(), names=names, worker=environment.worker, started=began)
    for stage in stages[:-1]:
        stage.is_followed = True
    telltale = _News(unit, stages, environment, began)
    ready = clock()
    with telling(unit, environment.program, environment.channel, telltale.look) as ongoing:
        start += clock() - ready  # a thread may have been started: that is not the chunk's time
        deadline = start + unit.give_up_s if unit.give_up_s is not None else float("inf")
        for stage in stages:
            stage.is_over = ongoing.ends
        horizon = environment.longest_wait_s(unit)
        if stages[0].node.is_awaited:
            start += _run_lanes(stages[0], deadline, horizon)
            seconds, reached = clock() - start, stages[0].reached
        else:
            reached = _run_blocks(stages, len(indices), deadline)
            seconds = clock() - start  # without waits: it is what the next chunk is cut by
            _wait_for_retries(stages, environment, horizon)
    expansions = [each for stage in stages if (each := expansion(stage)) is not None]
    done = indices[:reached]
    nbytes = 0
    columns: dict[str, Column] = {}
    partials: dict[str, Partial] = {}
    reports = []
    for place, stage in enumerate(stages):
        data, size, homebound = check_values(stage, reached)
        refused = store(stage, reached, unit.key[1])
        if refused:
            data, size, _ = check_values(stage, reached)
        for position in (*homebound, *refused):
            for below in stages[place + 1 :]:
                below.forget(position)
        nbytes += size if stage.node.slug in unit.keep else 0
        codes = bytes(stage.codes[:reached])
        records = {indices[position]: state for position, state in stage.records.items()}
        if min(codes, default=FIRST_FINAL_CODE) < FIRST_FINAL_CODE:  # values of others come with the last attempt
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
        enough=tuple(stage.node.slug for stage in stages if stage.is_enough),
        expansions=tuple(expansions),
        ended_s=tuple(clock() - end for end in stages[0].ended_at),
    )
    return UnitOutcome(columns=columns, partials=partials, nbytes=nbytes), report


class _News:
    """What a chunk that goes on has to tell."""

    def __init__(self, unit: Unit, stages: list[Stage], environment: Environment, began: float) -> None:
        self._began = began
        self._unit = unit
        self._stages = stages
        self._environment = environment
        self._at: tuple[str, int] | None = None
        self._since = environment.stopwatch()
        self._told: Set[int] = frozenset()
        """Positions of async elements that were told to be under way."""

    def look(self) -> Iterator[Report]:
        """Reports of what has ended since this was last asked, and of what runs now if that is another element."""
        report = Report(self._unit.key, worker=self._environment.worker, started=self._began)
        for stage in self._stages:
            found = news(stage, self._unit.key[1])
            if found is not None:
                yield replace(report, columns=(found[1],), indices=found[0])
        at = next((at for stage in self._stages if (at := stage.at) is not None), None)
        if at is not None and at != self._at:
            seconds = self._environment.stopwatch() - self._since if self._at is None else 0.0
            self._at = at
            yield replace(report, indices=(), at=(*at, seconds))
        yield from self._look_at_lanes(report)

    def _look_at_lanes(self, report: Report) -> Iterator[Report]:
        """Reports of async elements that were begun a while ago and go on: what is quick is told when it ends."""
        stage, now = self._stages[0], self._environment.stopwatch()
        slow = {place: now - began for place, began in stage.under_way.copy().items() if now - began > EVERY_S}
        for position in slow.keys() - self._told:
            yield replace(report, indices=(), at=(stage.node.slug, stage.indices[position], slow[position]))
        self._told = slow.keys()


def _run_lanes(stage: Stage, deadline: float, horizon_s: float) -> float:
    """Run the elements of an async map; seconds in which all of them waited."""
    from anabranch.engine.worker.lanes import run_side_by_side  # asyncio takes a while to load

    stage.look_ahead(range(len(stage.indices)))
    return run_side_by_side(stage, deadline, horizon_s)


def failed_chunk(unit: Unit, environment: Environment, error: BaseException) -> tuple[UnitOutcome, Report]:
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
    partials: dict[str, Partial],
) -> bool:
    """Reduce a map's values for the nodes that take them; whether the values themselves are not needed for that."""
    if not reducers:
        return True
    if not isinstance(done, range) or min(stage.codes[: len(done)]) < FIRST_FINAL_CODE:
        return False
    try:
        for slug in reducers:
            node = environment.program.nodes[slug]
            value, _, _ = measured(reduced(node, stage.values[: len(done)], environment.program))
            partials[slug] = Partial(done, bytes(stage.codes[: len(done)]), value)
    except BaseException as error:  # the task itself, given the values, will fail in the same way and say so
        environment.reraise_interrupt(error)
        return False
    return True


def _run_blocks(stages: list[Stage], width: int, deadline: float) -> int:
    """Run elements in blocks until all are done, the deadline has passed or the run is over; at least one.

    Returns the number begun.
    """
    clock = stages[0].environment.stopwatch
    if len(stages) == 1:
        stages[0].run(0, width, deadline)
        return stages[0].reached
    low, size = 0, FIRST_BLOCK
    while low < width:
        began = clock()
        if low and (began > deadline or stages[0].is_over()):
            break
        stages[0].run(low, min(low + size, width), deadline if low else float("inf"))
        high = stages[0].reached
        for stage in stages[1:]:
            if stage.is_over():  # nothing begins after the end, in the maps below neither
                break
            stage.run(low, high, float("inf"))
        low = high
        size = min(size * 2, LONGEST_BLOCK) if clock() - began < BLOCK_S else max(size // 2, 1)
    return low


def _wait_for_retries(stages: list[Stage], environment: Environment, horizon: float) -> None:
    """Run again, here, what failed and is due within so many seconds; then the maps below it."""
    while not stages[0].is_over():
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

"""What a map of a chunk gives away: values, where they are stored, and deferred calls.

What cannot travel is its element's failure.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from anabranch.base.states import FIRST_FAILED_CODE, FIRST_FINAL_CODE, Retrying, State
from anabranch.definition.dask_objects import holds_dask
from anabranch.engine.units.calls import Expansion
from anabranch.engine.units.indices import Indices, as_range
from anabranch.engine.units.units import ColumnReport, Refs
from anabranch.engine.units.values import ATOMS, measured
from anabranch.engine.worker.calls_out import expanded

if TYPE_CHECKING:
    from anabranch.engine.worker.stage import Stage


def check_values(stage: Stage, reached: int) -> tuple[bytes | None, int, list[int]]:
    """Make sure that all values can travel: their pickle and size, and positions of what cannot, and has failed."""
    values = _travelling(stage, reached)
    kinds = set(map(type, values))
    if kinds <= ATOMS:
        data = pickle.dumps(values, protocol=5)
        return data, len(data), []
    _materialise(stage, values, kinds)
    values = _travelling(stage, reached)
    samples = {type(value): value for value in values}
    try:
        for sample in samples.values():
            measured(sample)
        return *measured(values)[1:], []
    except BaseException:  # some element is guilty: the loop finds out which
        refused = [position for position, value in enumerate(values) if not _travels(stage, position, value)]
    return *measured(_travelling(stage, reached))[1:], refused


def store(stage: Stage, reached: int, serial: int) -> list[int]:
    """Store the values, if they go by chunk; positions of those that could not be, and have failed.

    Parameters
    ----------
    serial
        Of the unit.
    """
    if stage.stored is None:
        return []
    refused = stage.stored.store(reached, serial, stage.inputs.evaluated)
    errors = {id(error): error for error in refused.values()}
    if len(errors) == 1:
        stage.fail_all(list(refused), next(iter(errors.values())))
    else:
        for position, error in refused.items():
            stage.fail(position, error)
    return list(refused)


def news(stage: Stage, serial: int) -> tuple[Indices, ColumnReport] | None:
    """What has ended of a map since this was last asked, in a chunk that goes on; None if nothing has.

    What cannot travel, or be stored, is told at the end.
    """
    positions = _ended(stage)
    if not (positions or stage.untold or stage.ongoing):
        return None
    try:
        values = [
            stage.values[position] if stage.codes[position] < FIRST_FAILED_CODE else None for position in positions
        ]
        if any(hasattr(kind, "__next__") for kind in set(map(type, values))) or any(map(holds_dask, values)):
            return None
        data = measured(values)[1] if values else None
        refs: Refs = ()
        if stage.stored is not None:
            refs = stage.stored.refs_at(positions, serial, stage.inputs.evaluated)
    except BaseException:  # of the user's code, or of a store; an interrupt is not for this thread
        return None
    rounds = {**_retries(stage), **_rounds(stage)}
    if not positions and not rounds:
        return None
    places = sorted((*positions, *rounds))
    indices = as_range(stage.indices[position] for position in places)
    records = {stage.indices[p]: stage.records[p] for p in positions if p in stage.records}
    records.update((stage.indices[p], state) for p, state in rounds.items())
    codes = bytes(Retrying.code if position in rounds else stage.codes[position] for position in places)
    small = data is not None and len(data) <= stage.environment.setting("inline_nbytes")
    notes = {stage.indices[p]: note for p, note in stage.stored.notes_at(positions)} if stage.stored else {}
    return indices, ColumnReport(stage.node.slug, codes, records, data if small else None, refs, notes)


def _ended(stage: Stage) -> list[int]:
    """Positions of what has ended and was not told."""
    codes, records, width = stage.codes, stage.records, len(stage.codes)
    high = stage.begun if stage.node.is_awaited else codes.find(0, stage.told)
    while not stage.node.is_awaited and high >= 0 and high in records:  # it waits for a map above
        high = codes.find(0, high + 1)
    high = width if high < 0 else high
    candidates = [*stage.untold, *range(stage.told, high)]
    stage.told = high
    ended = [position for position in candidates if codes[position] >= FIRST_FINAL_CODE]
    if len(ended) < len(candidates):
        stage.untold = [position for position in candidates if codes[position] < FIRST_FINAL_CODE]
    else:
        stage.untold = []
    return ended


def _retries(stage: Stage) -> dict[int, State]:
    """Elements that wait here for another attempt, by position, each once an attempt."""
    waiting = ((position, stage.records.get(position)) for position in stage.untold)
    found: dict[int, State] = {position: state for position, state in waiting if isinstance(state, Retrying)}
    fresh = {position: state for position, state in found.items() if stage.told_attempts.get(position) != state.attempt}
    stage.told_attempts.update((position, state.attempt) for position, state in fresh.items())
    return fresh


def _rounds(stage: Stage) -> dict[int, State]:
    """What elements have come to that go on, by position."""
    noted = {position: stage.ongoing.pop(position) for position in list(stage.ongoing)}
    return {position: state for position, state in noted.items() if stage.codes[position] < FIRST_FINAL_CODE}


def expansion(stage: Stage) -> Expansion | None:
    """The deferred calls of all elements; what cannot travel is its element's failure."""
    try:
        return _expanded(stage, sorted(stage.deferring))
    except BaseException as error:  # pickling runs the user's code
        stage.environment.reraise_interrupt(error)
        for position in sorted(stage.deferring):  # some element is guilty: this finds out which
            try:
                _expanded(stage, [position])
            except BaseException as guilty:
                del stage.deferring[position]
                stage.fail(position, guilty)
    try:
        return _expanded(stage, sorted(stage.deferring))
    except BaseException as error:  # each alone would do, and all together do not
        for position in stage.deferring:
            stage.fail(position, error)
        return None


def _expanded(stage: Stage, positions: list[int]) -> Expansion | None:
    if not positions:
        return None
    return expanded(
        stage.node,
        as_range(stage.indices[position] for position in positions),
        [(stage.name(position), stage.deferring[position]) for position in positions],
        stage.environment.program,
        there=stage.inputs.there(),
        in_process=stage.environment.in_process,
    )


def _travelling(stage: Stage, reached: int) -> list[Any]:
    """The values, without the exceptions: these are pickled in the states already."""
    values = stage.values[:reached]
    for position, state in stage.records.items():
        if state.code >= FIRST_FAILED_CODE:
            values[position] = None
    return values


def _materialise(stage: Stage, values: list[Any], kinds: set[type]) -> None:
    is_plain = stage.node.policies.lazy or not any(map(holds_dask, values))
    if is_plain and not any(hasattr(kind, "__next__") for kind in kinds):
        return
    for position, value in enumerate(values):
        try:
            stage.values[position] = stage.materialised(value)
        except BaseException as error:
            stage.fail(position, error)


def _travels(stage: Stage, position: int, value: Any) -> bool:
    try:
        measured(value)
    except BaseException as error:
        stage.fail(position, error)
        return False
    return True

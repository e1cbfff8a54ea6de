"""Outcomes of units: what stays where it was made, and how it travels when Dask moves it, sealed until it is opened."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from anabranch.base.states import (
    FIRST_FAILED_CODE,
)
from anabranch.engine.units.failures import revive
from anabranch.engine.units.units import Column, Outcome, Partial, Report
from anabranch.engine.units.values import dumps, dumps_with_buffers
from anabranch.executors.entry import Parcel, Sourced


def _without_exceptions(column: Column) -> Column:
    """The same without the exceptions that the records can give back: pickled once is enough."""
    if not column.records:
        return column
    values = column.values[:]
    for index in _failed(column):
        values[column.indices.index(index)] = None
    return Column(column.indices, column.codes, values, column.records)


def _revive_exceptions(column: Column) -> None:
    """Put back what `_without_exceptions` left out."""
    for index in _failed(column):
        state = column.records[index]
        column.values[column.indices.index(index)] = revive(state.failure, state.message)


def _failed(column: Column) -> Iterator[int]:
    return (index for index, state in column.records.items() if state.code >= FIRST_FAILED_CODE)


@dataclass(slots=True)
class UnitOutcome:
    """What stays under a unit's key."""

    singles: dict[str, Outcome] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    nbytes: int = 0
    """Size of the values, as far as it was measured."""
    partials: dict[str, Partial] = field(default_factory=dict)
    """By reducing node: what values were reduced to."""
    cut: list[Any] | None = None
    """Elements cut from a list, in the order of the chunk they are for."""
    report: Report | bytes | None = None
    """Kept beside the values, for a driver that the report did not reach; pickled once it has travelled."""

    def __sizeof__(self) -> int:
        return 512 + self.nbytes

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Dask moves outcomes between workers and loads them there. What does not load must not do so in Dask's hands,
        # where it would be fetched again for ever: it stays closed until a unit opens it.
        buffers: list[pickle.PickleBuffer] = []
        columns = {slug: _without_exceptions(column) for slug, column in self.columns.items()}
        parts = (self.singles, columns, self.partials, self.cut)
        data = dumps_with_buffers(parts, buffers)
        kept = buffers if protocol >= 5 else [buffer.raw().tobytes() for buffer in buffers]
        report = self.report if isinstance(self.report, bytes | None) else dumps(self.report)
        return Sourced("Parcel"), (self.nbytes, data, kept, report)


def open_parcel(parcel: Parcel) -> UnitOutcome:
    """The outcome in it; whatever loading the user's values raises comes out."""
    if not isinstance(parcel.opened, UnitOutcome):  # or not of the code that is loaded now
        singles, columns, partials, cut = pickle.loads(parcel.data, buffers=parcel.buffers)
        for column in columns.values():
            _revive_exceptions(column)
        parcel.opened = UnitOutcome(singles, columns, parcel.nbytes, partials, cut, parcel.report)
    return parcel.opened

"""Where the inputs of a recorded task run are found again: in the record of what was upstream of it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from anabranch.base.settings import config
from anabranch.base.states import BY_CODE, FIRST_FAILED_CODE, FIRST_FINAL_CODE, Skipped, Success
from anabranch.base.twins import of_this_process
from anabranch.definition.expressions import Const, Ref, evaluate
from anabranch.definition.frozen import FrozenNode
from anabranch.engine.units.failures import restore
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.units import ColumnReport
from anabranch.runs.resume.choice import Recorded


class InputMissing(Exception):
    """An input that cannot be had; its text says why."""


class _Values(Mapping[str, Any]):
    """Values of upstream nodes, found when they are asked for."""

    def __init__(self, recorded: Recorded, parameters: Mapping[str, Any], lost: Mapping[str, str]) -> None:
        self._recorded = recorded
        self._parameters = parameters
        self._lost = lost

    def __getitem__(self, slug: str) -> Any:
        if slug in self._lost:
            raise InputMissing(self._lost[slug])
        if slug in self._parameters:
            return self._parameters[slug]
        if slug in self._recorded.singles:
            return self._single(slug)
        width = self._recorded.widths.get(slug)
        if width is None:
            raise InputMissing(f"{slug} had not ended")
        return [self.element(slug, index) for index in range(width)]

    def _single(self, slug: str) -> Any:
        report = self._recorded.singles[slug]
        state = report.state
        if state.is_skipped():
            return state.result
        if report.value is not None:
            return loaded(report.value, slug)
        if not state.is_successful() and state.is_finished():
            return restore(state.failure, state.message)
        raise InputMissing(_too_large(slug) if state.is_finished() else f"{slug} had not ended")

    def element(self, slug: str, index: int) -> Any:
        """Value of one element of a map, or of what a map takes its elements from."""
        if slug not in self._recorded.columns:
            values = self[slug]
            try:
                return list(values)[index]
            except IndexError:
                raise InputMissing(f"{slug} has {len(values):,} elements") from None
        for report in self._recorded.columns[slug]:
            if report.indices is not None and index in report.indices:
                return self._of_column(report.columns[0], report.indices, index)
        raise InputMissing(f"{slug}[{index}] had not ended")

    def _of_column(self, column: ColumnReport, indices: Indices, index: int) -> Any:
        position = indices.index(index)
        code, name = column.codes[position], f"{column.slug}[{index}]"
        if code == Skipped.code:
            return column.records[index].result if index in column.records else None
        if code >= FIRST_FAILED_CODE:
            state = column.records.get(index) or BY_CODE[code]()
            return restore(state.failure, state.message)
        if code < FIRST_FINAL_CODE:
            raise InputMissing(f"{name} had not ended")
        if column.values is None:
            raise InputMissing(_too_large(name))
        before = sum(each >= Success.code for each in column.codes[:position])
        return loaded(column.values, name)[before]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._parameters, *self._recorded.singles, *self._recorded.columns))

    def __len__(self) -> int:
        return len(self._parameters) + len(self._recorded.singles) + len(self._recorded.columns)


def inputs_of(
    node: FrozenNode, index: int | None, recorded: Recorded, parameters: Mapping[str, Any], lost: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Inputs of a task run by name, and for those that cannot be had, why.

    This is where inputs are found, whatever they are kept in.

    Parameters
    ----------
    recorded
        What is recorded of the nodes upstream.
    parameters, lost
        Values of the flow's parameters by slug, and for the others why they are not there.
    """
    values = _Values(recorded, parameters, lost)
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, expression in node.arguments.items():
        try:
            if index is not None and name in node.mapped:
                if isinstance(expression, Const):
                    found[name] = list(expression.value)[index]
                elif isinstance(expression, Ref):
                    found[name] = values.element(expression.node, index)
                else:
                    found[name] = list(evaluate(expression, values))[index]
            else:
                found[name] = evaluate(expression, values)
        except InputMissing as reason:
            missing[name] = str(reason)
        except Exception as error:  # the user's classes put it together
            missing[name] = f"it cannot be put together here: {type(error).__name__}: {error}"
    return found, missing


def _too_large(name: str) -> str:
    limit = config.engine.inline_nbytes
    return f"the value of {name} was not recorded: larger than engine.inline_nbytes ({limit:,}) or with a secret in it"


def loaded(data: bytes, name: str) -> Any:
    """A recorded value.

    Raises
    ------
    InputMissing
        It does not load here.
    """
    try:
        return of_this_process(pickle.loads(data))
    except Exception as error:
        raise InputMissing(
            f"the recorded value of {name} does not load here: {type(error).__name__}: {error}"
        ) from None

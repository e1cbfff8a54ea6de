"""Reports without the secrets that the process knows in which they were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anabranch.base.masking import holds_secret, knows_any, mask
from anabranch.base.states import Failure, State
from anabranch.engine.units.units import ColumnReport, Report, SingleReport


def masked_report(report: Report) -> Report:
    """The report with masks in its texts; a value with a secret inside stays where it is, as large ones do."""
    if not knows_any():
        return report
    singles = tuple(_single(each) for each in report.singles)
    return replace(report, singles=singles, columns=tuple(_column(each) for each in report.columns))


def _single(report: SingleReport) -> SingleReport:
    return replace(
        report, state=masked_state(report.state), value=_value(report.value), unmappable=mask(report.unmappable)
    )


def _column(report: ColumnReport) -> ColumnReport:
    records: Mapping[int, State] = {index: masked_state(state) for index, state in report.records.items()}
    return replace(report, records=records, values=_value(report.values))


def _value(data: bytes | None) -> bytes | None:
    return None if data is None or holds_secret(data) else data


def masked_state(state: State) -> State:
    """The state with masks in its texts."""
    failure = state.failure
    if failure is not None:
        failure = _failure(failure)
    return replace(state, message=mask(state.message), failure=failure)


def _failure(failure: Failure) -> Failure:
    return replace(
        failure,
        message=mask(failure.message),
        traceback=mask(failure.traceback),
        inputs={name: mask(text) for name, text in failure.inputs.items()},
        exception=_value(failure.exception),
    )

"""Reports without the secrets that a process knows, for whoever reads them: pages, terminals, the run store."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from anabranch.base.masking import MASK, knows_any, mask, without_secrets
from anabranch.base.states import Failure, State
from anabranch.definition.expressions import Build, Const, Expression
from anabranch.engine.units.units import ColumnReport, Note, Program, Report, SingleReport

Names = frozenset[str]
"""Names of arguments that are made of secret parameters."""


def masked_report(report: Report, program: Program | None = None) -> Report:
    """The report with masks in its texts; a value with a secret inside stays where it is, as large ones do.

    It is masked where it is made, so that no secret gets onto the network; and once more, without a program, where a
    driver takes it in that may know secrets which its workers do not.

    Parameters
    ----------
    program
        What was run: arguments that are made of secret parameters are masked as a whole, and so are their digests, of
        which a short secret could be found out.
    """
    secret: Collection[str] = program.settings.get("secret_parameters", ()) if program is not None else ()
    if not secret and not knows_any():
        return report

    def hidden(slug: str) -> Names:
        if program is None or not secret:
            return frozenset()
        arguments = program.nodes[slug].arguments
        return frozenset(name for name, each in arguments.items() if _mentions(each, secret))

    parts = {f"parameter {program.nodes[slug].name}" for slug in secret} if program is not None else set()
    singles = tuple(_single(each, hidden(each.slug), parts) for each in report.singles)
    columns = tuple(_column(each, hidden(each.slug), parts) for each in report.columns)
    return replace(report, singles=singles, columns=columns)


def _single(report: SingleReport, hidden: Names, parts: Collection[str]) -> SingleReport:
    return replace(
        report,
        state=masked_state(report.state, hidden),
        value=without_secrets(report.value),
        unmappable=mask(report.unmappable),
        note=None if report.note is None else _note(report.note, hidden, parts),
    )


def _column(report: ColumnReport, hidden: Names, parts: Collection[str]) -> ColumnReport:
    return replace(
        report,
        records={index: masked_state(state, hidden) for index, state in report.records.items()},
        values=without_secrets(report.values),
        notes={index: _note(note, hidden, parts) for index, note in report.notes.items()},
    )


def _note(note: Note, hidden: Names, parts: Collection[str]) -> Note:
    verdict, digests = note
    gone = {*parts, *(f"input {name}" for name in hidden)}
    return verdict, {part: text for part, text in digests.items() if part not in gone}


def masked_state(state: State, hidden: Names = frozenset()) -> State:
    """The state with masks in its texts, and in place of these inputs."""
    failure = state.failure
    if failure is not None:
        failure = _failure(failure, hidden)
    attempts = tuple(replace(each, reason=mask(each.reason)) for each in state.attempts)
    return replace(state, message=mask(state.message), failure=failure, attempts=attempts)


def _failure(failure: Failure, hidden: Names) -> Failure:
    return replace(
        failure,
        message=mask(failure.message),
        traceback=mask(failure.traceback),
        inputs={name: MASK if name in hidden else mask(text) for name, text in failure.inputs.items()},
        exception=without_secrets(failure.exception),
    )


def _mentions(expression: Expression, slugs: Collection[str]) -> bool:
    if isinstance(expression, Build):
        return any(_mentions(part, slugs) for part in expression.parts)
    return not isinstance(expression, Const) and expression.node in slugs

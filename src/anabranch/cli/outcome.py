"""The outcome of a run, for standard output and the last lines: counts, values, JSON."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from anabranch.base.masking import mask
from anabranch.base.names import Shortener
from anabranch.base.states import State, TriggerFailed, counts_of
from anabranch.base.texts import printable, shortened

if TYPE_CHECKING:
    from anabranch.runs.view import FlowRunView

MAX_FAILURES = 100  # in JSON; all of them are counted
MAX_NAMES = 8
MAX_RESULT = 500  # characters


def counts_text(view: FlowRunView) -> str:
    """Tasks and elements, counted.

    A map counts as one task, which has failed if one of its elements has. What could not run because of a failure
    upstream is counted as held up, not as failed.
    """
    runs = [run for run in view._whole.runs.values() if run.node.kind == "task"]
    states = [run.state for run in runs]
    skipped = sum(state.is_skipped() for state in states)
    held_up = sum(state.is_failed() and is_consequence(state) for state in states)
    words = {
        "successful": sum(state.is_successful() for state in states) - skipped,
        "failed": sum(state.is_failed() for state in states) - held_up,
        "held up": held_up,
        "cancelled": sum(state.is_cancelled() for state in states),
        "skipped": skipped,
    }
    text = f"{len(states):,} task{'s' if len(states) != 1 else ''}{_list_counts(words)}"
    maps = [run.elements.codes for run in runs if run.elements is not None]
    if maps:
        counts = functools.reduce(operator.add, map(counts_of, maps))
        held_up = sum(codes.count(TriggerFailed.code) for codes in maps)
        told = counts.by_word()
        words = {
            "successful": counts.successful,
            "failed": told["failed"] - held_up,
            "held up": held_up,
            "cancelled": counts.cancelled,
            "skipped": counts.skipped,
        }
        text += f"; {counts.total:,} elements{_list_counts(words)}"
    return text


def is_consequence(state: State) -> bool:
    """Whether it failed only because something upstream did."""
    return state.failure is not None and state.failure.type_name == "UpstreamFailure"


def _list_counts(words: Mapping[str, int]) -> str:
    parts = [f"{count:,} {word}" for word, count in words.items() if count]
    return f": {', '.join(parts)}" if parts else ""


def salvage_lines(view: FlowRunView) -> list[str]:
    """What a cancelled run had finished, and how to continue it."""
    runs = [(slug, run) for slug, run in view._whole.runs.items() if run.node.kind == "task"]
    done = [slug for slug, run in runs if run.state.is_finished() and not run.state.is_cancelled()]
    parts = [
        f"{run.state.counts.successful:,} of {run.state.counts.total:,} elements of {printable(slug)}"
        for slug, run in runs
        if run.state.is_cancelled() and run.state.counts is not None and run.state.counts.successful
    ]
    more = f" and {len(done) - MAX_NAMES:,} more" if len(done) > MAX_NAMES else ""
    names = f" ({', '.join(map(printable, done[:MAX_NAMES]))}{more})" if done else ""
    lines = [f"  finished: {len(done):,} of {len(runs):,} tasks{names}{''.join(f', {part}' for part in parts)}"]
    from anabranch.base.settings import config

    if config.backend != "none":
        lines.append(f"  continue with: anabranch resume {view.run_id}")
    return lines


def wanted(view: FlowRunView) -> list[str]:
    """Slugs of the nodes whose values are kept: terminal and reference nodes, and those that were named."""
    plan = view._whole.plan
    kept = {*plan.graph.reference, *plan.graph.terminal, *plan.keep}
    return [slug for slug, run in view._whole.runs.items() if slug in kept and run.node.kind != "parameter"]


def result_lines(view: FlowRunView) -> list[str]:
    """One line for each value that is not None, shortened."""
    lines = []
    for slug in wanted(view):
        state = view[slug]
        if state.is_successful() and not state.is_skipped():
            value = _take_value(state)
            if value is not None:
                lines.append(f"{printable(slug)} = {shortened(_repr(value), MAX_RESULT)}")
    return lines


def _take_value(state: Any) -> Any:  # a TaskRunView
    try:
        return state.result
    except Exception as error:  # lost with its worker, or its class does not load here
        return error


class _Repr(Shortener):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 12
        self.maxstring = self.maxother = 400
        self.maxlevel = 4


def _repr(value: object) -> str:
    try:
        return _Repr().repr(value)
    except Exception as error:  # a user's __repr__ may do anything
        return f"<repr of {type(value).__name__} failed with {type(error).__name__}>"


def as_data(view: FlowRunView) -> dict[str, Any]:
    """The outcome as plain data that JSON can hold."""
    state, failures, runs = view.state, view.failures(), view._whole.runs
    return {
        "flow": view._whole.plan.name,
        "run_id": view.run_id,
        "state": state.name,
        "message": state.message,
        "started": _write_time(state.start_time),
        "ended": _write_time(state.end_time),
        "duration_s": state.duration_s,
        "tasks": {slug: _data_of_task(run.state) for slug, run in runs.items() if run.node.kind != "parameter"},
        "failures_total": len(failures),
        "failures": [_failure_data(name, each) for name, each in failures[:MAX_FAILURES]],
        "results": {slug: _simplify(_take_value(view[slug])) for slug in wanted(view) if view[slug].is_successful()},
    }


def _data_of_task(state: State) -> dict[str, Any]:
    counts = state.counts
    data: dict[str, Any] = {
        "state": state.name,
        "message": state.message,
        "duration_s": state.duration_s,
        "attempt": state.attempt,
    }
    if counts is not None:
        data["elements"] = {"total": counts.total, **counts.by_word()}
    return data


def _failure_data(name: str, state: State) -> dict[str, Any]:
    failure = state.failure
    data: dict[str, Any] = {"task_run": name, "state": state.name, "attempt": state.attempt, "worker": state.worker}
    if failure is not None:
        data |= {"exception": failure.type_name, "message": failure.message, "where": failure.line}
        data["inputs"] = dict(failure.inputs)
    return data


def _write_time(value: datetime | None) -> str | None:
    return value.isoformat() if value is not None else None


def _mask_texts(data: Any) -> Any:
    """Plain data without secrets in its texts."""
    if isinstance(data, dict):
        return {mask(name) if isinstance(name, str) else name: _mask_texts(each) for name, each in data.items()}
    return list(map(_mask_texts, data)) if isinstance(data, list) else mask(data) if isinstance(data, str) else data


def _simplify(value: Any) -> Any:
    """The value in JSON's types; its repr where it has none."""
    from pydantic_core import to_jsonable_python

    try:
        return _mask_texts(to_jsonable_python(value, inf_nan_mode="null", bytes_mode="base64", fallback=_repr))
    except Exception:  # it contains itself, is too deep, or cannot be encoded
        return _repr(value)

"""Two recorded runs beside each other: what explains that they differ comes first. Nothing of the user's is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.base.texts import seconds
from anabranch.runs.read.run import RecordedRun, RecordedTask

LEAST_S = 0.05  # seconds by which tasks differ: less is noise
LEAST_SHARE = 0.2  # of the longer one


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not the same in two runs."""

    kind: str
    """``code``, ``parameters``, ``versions``, ``host``, ``states`` or ``seconds``."""
    name: str
    """Of the task, parameter or library; nothing for the host and the whole run."""
    before: str
    """In the first run; nothing if it was not there."""
    after: str


def compare(first: RecordedRun, second: RecordedRun) -> list[Difference]:
    """What differs: causes first (code, parameters, versions, host), then states, then seconds, the most first."""
    return [
        *_differ("code", _code(first), _code(second)),
        *_differ("parameters", _texts(_details(first, "parameters")), _texts(_details(second, "parameters"))),
        *_differ("versions", _details(first, "versions"), _details(second, "versions")),
        *_differ("host", {"": _host(first)}, {"": _host(second)}),
        *_differ("states", _states(first), _states(second)),
        *_seconds(first, second),
    ]


def _details(run: RecordedRun, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(run.record.details, name) if run.record.details is not None else {}
    return found


def _code(run: RecordedRun) -> Mapping[str, str]:
    return {slug: text[:8] for slug, text in _details(run, "code").items()}


def _texts(values: Mapping[str, Any]) -> Mapping[str, str]:
    return {name: repr(value) for name, value in values.items()}


def _host(run: RecordedRun) -> str:
    return run.record.owner.rpartition(":")[0]


def _states(run: RecordedRun) -> Mapping[str, str]:
    return {"": run.record.state, **{task.slug: _state(task) for task in run.tasks}}


def _state(task: RecordedTask) -> str:
    return task.state if task.counts is None else f"{task.state}, {task.counts}"


def _differ(kind: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            yield Difference(kind, name, before.get(name, ""), after.get(name, ""))


def _seconds(first: RecordedRun, second: RecordedRun) -> Sequence[Difference]:
    """Tasks that took longer or shorter, those first in which most of it was; and the runs as wholes before them."""
    before, after = _took(first), _took(second)
    both = {slug: (before[slug], after[slug]) for slug in before if slug in after}
    other = {slug: (a, b) for slug, (a, b) in both.items() if abs(b - a) > max(LEAST_S, LEAST_SHARE * max(a, b))}
    ordered = sorted(other, key=lambda slug: (slug != "", -abs(other[slug][1] - other[slug][0])))
    return [Difference("seconds", slug, *map(seconds, other[slug])) for slug in ordered]


def _took(run: RecordedRun) -> Mapping[str, float]:
    """Seconds by task; those of the whole run without a name."""
    record = run.record
    whole = {"": record.took_s} if record.took_s is not None else {}
    return {**whole, **{task.slug: task.seconds for task in run.tasks if task.seconds is not None}}

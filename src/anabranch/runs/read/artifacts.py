"""What tasks have shown, in words: a line each, of a map one for all of its elements."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from anabranch.runs.store.records import ArtifactRow, RunStore

_LARGE = ("data", "html", "rows", "points")  # what is left out where JSON is printed
PAGE = 32  # artifacts that are read at once: they may be images of half a megabyte


def short_artifacts(store: RunStore, run_id: str) -> Iterator[ArtifactRow]:
    """What the tasks of a run have shown, without what is large; of a metric, the last point is kept."""
    page = store.artifacts(run_id, limit=PAGE)
    while page:
        for row in page:
            body = body_of(row)
            small = {key: value for key, value in body.items() if key not in _LARGE}
            last = {"points": points_of(body)[-1:]} if row.kind == "metric" else {}
            yield replace(row, body=json.dumps({**small, **last}))
        page = store.artifacts(run_id, after=page[-1], limit=PAGE)


def last_attempts(rows: Iterable[ArtifactRow]) -> list[ArtifactRow]:
    """Those of each task run's last attempt that has shown something."""
    rows = list(rows)
    last: dict[tuple[str, int | None], int] = {}
    for row in rows:
        last[row.slug, row.index] = max(row.attempt, last.get((row.slug, row.index), 0))
    return [row for row in rows if row.attempt == last[row.slug, row.index]]


def artifact_lines(rows: Iterable[ArtifactRow]) -> list[str]:
    """What was shown, in lines such as ``train: loss 0.27 (300 values)``."""
    groups: dict[tuple[str, str, str], list[tuple[ArtifactRow, dict[str, Any]]]] = {}
    for row in last_attempts(rows):
        body = body_of(row)
        name = str(body.get("name") or "")
        own = "" if row.index is not None or name else str(row.number)  # what has no name is one thing each
        groups.setdefault((row.slug, row.kind, name or own), []).append((row, body))
    return [f"{slug}: {_told(kind, group)}" for (slug, kind, _), group in groups.items()]


def artifact_data(row: ArtifactRow) -> dict[str, Any]:
    """An artifact for JSON, without what is large."""
    body = {key: value for key, value in body_of(row).items() if key not in _LARGE}
    name = row.slug if row.index is None else f"{row.slug}[{row.index}]"
    return {"task_run": name, "attempt": row.attempt, "kind": row.kind, "time": row.time.isoformat(), **body}


def body_of(row: ArtifactRow) -> dict[str, Any]:
    """What an artifact's JSON says; nothing if it is damaged."""
    try:
        found = json.loads(row.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def last_value(body: dict[str, Any]) -> float:
    """The last value of a metric."""
    points = points_of(body)
    return points[-1][1] if points else math.nan


def points_of(body: dict[str, Any]) -> list[tuple[float, float]]:
    """Steps and values of a metric."""
    try:
        return [(float(step), float(value)) for step, value in body.get("points") or ()]
    except (TypeError, ValueError, OverflowError):  # nobody who keeps artifacts writes that
        return []


def number_of(body: dict[str, Any], key: str) -> float:
    """A number, 0 where there is none."""
    found = body.get(key)
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else 0.0


def number_text(value: float) -> str:
    """A number to be read.

    Examples
    --------
    >>> [number_text(value) for value in (1200.0, 0.123456, float("nan"))]
    ['1,200', '0.1235', 'nan']
    """
    is_whole = math.isfinite(value) and value == int(value) and abs(value) < 1e9
    return f"{value:,.0f}" if is_whole else f"{value:.4g}"


def _told(kind: str, group: Sequence[tuple[ArtifactRow, dict[str, Any]]]) -> str:
    bodies = [body for _, body in group]
    body, many = bodies[-1], f" of {len(group):,} elements" if len(group) > 1 else ""
    name = str(body.get("name") or "")
    if kind == "progress":
        done, of = (sum(number_of(each, key) for each in bodies) for key in ("done", "of"))
        return f"{name} {number_text(done)} of {number_text(of)}{many}"
    if kind == "metric" and many:
        values = sorted(value for value in map(last_value, bodies) if math.isfinite(value)) or [math.nan]
        low, half, high = values[0], values[(len(values) - 1) // 2], values[-1]
        return f"{name}{many}: {number_text(low)} to {number_text(high)}, half at most {number_text(half)}"
    if kind == "metric":
        return f"{name} {number_text(last_value(body))} ({int(number_of(body, 'count')):,} values)"
    if many:
        return f"{kind} {name}".strip() + many
    text = str(body.get("text") or "").partition("\n")[0]
    match kind:
        case "link":
            return f"{text} {body.get('url', '')}".strip()
        case "markdown" | "cut":
            return text
        case "table":
            total = body.get("total")
            return f"table {name}".strip() + (f", {total:,} rows" if isinstance(total, int) else "")
        case _:
            return f"{kind} {name}".strip()

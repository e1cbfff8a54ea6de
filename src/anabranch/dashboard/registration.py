"""What the registry says of a flow, as its page shows it. Nothing is loaded: no code of a user's, and no pickle."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from anabranch.dashboard.flows_page import bare
from anabranch.dashboard.looks import safe
from anabranch.errors import AnabranchError
from anabranch.runs.flow_table import FlowRecord
from anabranch.sealing import schedule_of

TIMES = 5


def registration(flow: FlowRecord, now: datetime | None = None) -> str:
    """Version, schedule and next times of a registered flow, as HTML.

    Parameters
    ----------
    now
        After which times are told; None is this machine's clock.
    """
    facts = [("version", f"{flow.version:,}" + (f" (registered {_time(flow.changed)})" if flow.changed else ""))]
    if flow.schedule_text:
        facts.append(("schedule", bare(flow.schedule_text) + (", which rests" if flow.paused else "")))
        facts.append(("next", _next(flow, now or datetime.now(UTC))))
    if flow.overlap != "allow":
        facts.append(("overlap", flow.overlap))
    if flow.max_runs is not None:
        facts.append(("runs at a time", f"{flow.max_runs:,}"))
    if flow.labels:
        facts.append(("labels", ", ".join(flow.labels)))
    if flow.project:
        facts.append(("project", flow.project))
    facts.append(("code", flow.source or ("in the registry" if flow.storage is None else "in flow storage")))
    return _table(facts)


def _next(flow: FlowRecord, now: datetime) -> str:
    if flow.paused:
        return "none, while the schedule rests"
    try:
        schedule = schedule_of(flow, may_load=False)
        times = schedule.next(TIMES, after=now) if schedule is not None else []
    except AnabranchError as error:
        return str(error)
    return ", ".join(map(_time, times)) or "none any more"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def _table(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><td><b>{safe(name)}</b></td><td>{safe(text, 1_000)}</td></tr>" for name, text in facts)
    return f'<table style="max-width:900px"><tbody>{rows}</tbody></table>'

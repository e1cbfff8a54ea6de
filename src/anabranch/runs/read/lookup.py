"""Recorded runs by their ids: which one is meant, whether its driver lives, and what was noted of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from anabranch.base.errors import ResumeError
from anabranch.runs.store.opening import current_store
from anabranch.runs.store.owners import is_dead
from anabranch.runs.store.records import INTERRUPTED, LAST, RunQuery, RunRecord, RunStore

# ---------------------------------------------------------------------------------------------------------------------
# Runs that were


def find(run_id: str, flow_name: str | None = None) -> tuple[RunStore, RunRecord]:
    """A recorded run, by its id or a beginning of it, or by ``last``: of a flow, if one is named.

    Raises
    ------
    RunStoreError
        There is none, or several, or no run store.
    """
    store = current_store()
    if store is None:
        raise ResumeError(
            f"run {run_id}: config.backend is 'none', so no runs are recorded; name the run store that it is in"
        )
    if run_id == LAST and flow_name is not None:
        latest = store.list_runs(RunQuery(flow_name=flow_name, limit=1))
        run_id = latest[0].run_id if latest else LAST
    return store, store.get_run(run_id)


def as_it_stands(record: RunRecord) -> RunRecord:
    """A run whose driver is known to be gone is interrupted, whatever its lease says."""
    if record.state == "Running" and is_dead(record.owner, record.born):
        return replace(record, state=INTERRUPTED, message=f"its driver {record.owner} is gone")
    return record


def source_of(record: RunRecord) -> str:
    """Where the flow of a recorded run was, as ``file:name``; nothing if that is not known or not there any more."""
    source = str(facts_of(record).get("source", ""))
    file = source.rpartition(":")[0]
    return source if file and Path(file).is_file() else ""


def date_of(record: RunRecord) -> datetime:
    """What a run is for, in the zone in which that was said; by default its start."""
    try:
        text, zone = facts_of(record)["date"]
        date = datetime.fromisoformat(text)
        return date.astimezone(ZoneInfo(zone)) if zone else date
    except (KeyError, ValueError, TypeError, OSError):  # there is none; or no such zone here
        return record.start


def facts_of(record: RunRecord) -> Mapping[str, Any]:
    """What was noted of a run for resuming it, beside its parameters."""
    data = record.details.plan if record.details is not None else None
    try:
        found = json.loads(data or b"{}")
    except ValueError:  # what another version wrote
        return {}
    return found if isinstance(found, dict) else {}


def run_data(record: RunRecord) -> dict[str, Any]:
    """A run as a list has it."""
    return {
        "run_id": record.run_id,
        "flow": record.flow_name,
        "state": record.state,
        "message": record.message,
        "started": record.start.isoformat(),
        "ended": record.end.isoformat() if record.end else None,
        "owner": record.owner,
        "epoch": record.epoch,
        "parent_run_id": record.parent_run_id,
    }

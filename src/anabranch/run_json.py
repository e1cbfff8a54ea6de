"""Recorded runs as JSON has them: for ``--json``, and for the service's API."""

from __future__ import annotations

from typing import Any

from anabranch.recorded import RecordedRun, RecordedTask
from anabranch.runs import RunRecord


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
    }


def detail_data(run: RecordedRun) -> dict[str, Any]:
    """A run with its tasks and failures."""
    details = run.record.details
    return {
        **run_data(run.record),
        "parameters": dict(details.parameters) if details is not None else {},
        "versions": dict(details.versions) if details is not None else {},
        "tasks": {task.slug: _task_data(task) for task in run.tasks},
        "slowest": [
            {"elements": each.name, "width": each.width, "seconds": each.seconds, "worker": each.worker}
            for each in run.slowest
        ],
        "failed": run.failed,
        "failures": [
            {
                "task_run": each.name,
                "state": each.state,
                "attempt": each.attempt,
                "worker": each.worker,
                "exception": each.failure.type_name,
                "message": each.failure.message,
                "where": each.failure.line,
                "inputs": dict(each.failure.inputs),
                "traceback": each.failure.traceback,
            }
            for each in run.failures
        ],
    }


def _task_data(task: RecordedTask) -> dict[str, Any]:
    data: dict[str, Any] = {
        "state": task.state,
        "message": task.message,
        "attempt": task.attempt,
        "seconds": task.seconds,
        "worker": task.worker,
    }
    if task.counts is not None:
        counts = task.counts
        data["elements"] = {
            "total": counts.total,
            "successful": counts.successful,
            "failed": counts.failed,
            "skipped": counts.skipped,
        }
    return data

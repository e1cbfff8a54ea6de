"""Runs that are cancelled, and the end of those whose own processes cannot record it any more."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from datetime import datetime

from anabranch.base.errors import RunNotFound, RunOver, RunStoreError
from anabranch.runs.registry.registration import read_clock
from anabranch.runs.store.owners import is_dead
from anabranch.runs.store.records import INTERRUPTED, RunRecord, RunStore
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import RUNNING, WAITING, Slot

_log = logging.getLogger("anabranch.service")


def cancel(store: RelationalRunStore, queue: SlotQueue, run_id: str, *, by: str = "") -> Slot | RunRecord:
    """Cancel a run that waits or goes on; gives it as it was before: of a service its slot, of others the record.

    Raises
    ------
    RunNotFound
        There is no such run.
    RunOver
        It has ended, or nobody is there to end it.
    """
    try:
        slot = queue.cancel(run_id, by=by, now=read_clock(store))
    except RunNotFound:
        return _ask_driver(store, run_id, by)
    if slot.state in (WAITING, RUNNING):
        return _recorded(store, [slot], by)[0]
    try:
        return _ask_driver(store, run_id, by)  # somebody else may have gone on with it
    except RunNotFound:
        raise RunOver(f"run {run_id} has ended: {slot.state}") from None


def cancel_group(store: RelationalRunStore, queue: SlotQueue, group: str, *, by: str = "") -> list[Slot]:
    """Cancel all runs of a group that wait or run; gives their slots as they were before."""
    return _recorded(store, queue.cancel_group(group, by=by, now=read_clock(store)), by)


def _recorded(store: RelationalRunStore, slots: list[Slot], by: str) -> list[Slot]:
    """End the records of those that had begun and waited, or ask who goes on with them meanwhile."""
    text = f"cancelled{f' by {by}' if by else ''} before it went on"
    for slot in slots:
        end_parts(store, slot.run_id)
        if slot.state == WAITING:
            try:
                _ask_driver(store, slot.run_id, by)
            except (RunNotFound, RunOver):
                record_end(store, slot.run_id, "Cancelled", text, now=read_clock(store))
    return slots


def end_parts(store: RelationalRunStore, run_id: str) -> None:
    """Cancel the runs that tasks of a cancelled run have asked for, if they are to end with it."""
    queue = SlotQueue(store.database)
    for slot in queue.parts(run_id):
        with suppress(RunNotFound, RunOver):
            cancel(store, queue, slot.run_id, by=f"run {run_id}, which was cancelled")


def _ask_driver(store: RunStore, run_id: str, by: str) -> RunRecord:
    """Ask whoever drives a run to end it."""
    by = f"by {by}" if by else f"from the service on {socket.gethostname()}"
    record = store.ask_end(run_id, f"cancelled {by}")
    if record.lease_until is None:
        raise RunOver(f"run {run_id} {'does not go on' if record.end is None else 'has ended'}: {record.state}")
    if is_dead(record.owner, record.born):
        raise RunOver(f"run {run_id} does not go on: its driver {record.owner} is gone")
    if record.state == INTERRUPTED:
        raise RunOver(f"run {run_id}: {record.message}; should its driver come back, it ends the run as Cancelled")
    return record


def record_end(store: RunStore, run_id: str, state: str, message: str, *, now: datetime) -> None:
    """Record how a run has ended, unless it never began, has ended already, or somebody holds it."""
    try:
        record = store.get_run(run_id)
        if record.run_id != run_id or (record.lease_until is None and record.state != "Paused"):
            return
        is_gone = is_dead(record.owner, record.born)
        ownership = store.take_over(run_id, now=record.lease_until if is_gone else None)
        store.finish_run(ownership, state, end=now, message=message)
    except RunNotFound:
        return
    except RunStoreError as error:
        _log.warning("the record of run %s was left as it was: %s", run_id, error)

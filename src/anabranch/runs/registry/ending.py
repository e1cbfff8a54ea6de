"""Runs of services that are cancelled, and the end of those whose own processes cannot record it any more."""

from __future__ import annotations

import logging
from datetime import datetime

from anabranch.base.errors import RunNotFound, RunStoreError
from anabranch.runs.read.lookup import is_dead
from anabranch.runs.registry.registration import read_clock
from anabranch.runs.store.records import RunStore
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import WAITING, Slot

_log = logging.getLogger("anabranch.service")


def cancel(store: RelationalRunStore, queue: SlotQueue, run_id: str, *, by: str = "") -> list[Slot]:
    """Cancel a run of a service that waits or runs; gives its slot as it was before.

    Raises
    ------
    RunNotFound
        No service was asked for it.
    """
    return _recorded(store, [queue.cancel(run_id, by=by, now=read_clock(store))], by)


def cancel_group(store: RelationalRunStore, queue: SlotQueue, group: str, *, by: str = "") -> list[Slot]:
    """Cancel all runs of a group that wait or run; gives their slots as they were before."""
    return _recorded(store, queue.cancel_group(group, by=by, now=read_clock(store)), by)


def _recorded(store: RelationalRunStore, slots: list[Slot], by: str) -> list[Slot]:
    """End the records of those that had begun and waited."""
    text = f"cancelled{f' by {by}' if by else ''} before it went on"
    for slot in slots:
        if slot.state == WAITING:
            record_end(store, slot.run_id, "Cancelled", text, now=read_clock(store))
    return slots


def record_end(store: RunStore, run_id: str, state: str, message: str, *, now: datetime, is_gone: bool = False) -> None:
    """Record how a run has ended, unless it never began, has ended already, or somebody holds it.

    Parameters
    ----------
    is_gone
        Whether its process is known to be gone, so that its lease need not be waited for.
    """
    try:
        record = store.get_run(run_id)
        if record.run_id != run_id or (record.lease_until is None and record.state != "Paused"):
            return
        is_gone = is_gone or is_dead(record.owner, record.held_since)
        ownership = store.take_over(run_id, now=record.lease_until if is_gone else None)
        store.finish_run(ownership, state, end=now, message=message)
    except RunNotFound:
        return
    except RunStoreError as error:
        _log.warning("the record of run %s was left as it was: %s", run_id, error)

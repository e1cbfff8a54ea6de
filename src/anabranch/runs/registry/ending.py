"""The end of a run that its own process cannot record any more."""

from __future__ import annotations

import logging
from datetime import datetime

from anabranch.base.errors import RunNotFound, RunStoreError
from anabranch.runs.read.lookup import is_dead
from anabranch.runs.store.records import RunStore

_log = logging.getLogger("anabranch.service")


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

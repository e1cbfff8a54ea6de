"""What the service can do for people: show flows and runs, and start, cancel, resume and approve them.

For the API and the forms; what is refused is raised, with its status.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from anabranch.base.errors import AnabranchError, RunNotFound
from anabranch.runs import RunQuery, RunRecord
from anabranch.runs.read.lookup import as_it_stands, run_data
from anabranch.runs.read.run import detail_data, read_run
from anabranch.runs.registry.ending import cancel, cancel_group
from anabranch.runs.registry.registration import parameter_problems, read_clock
from anabranch.runs.registry.seal import schedule_of
from anabranch.runs.store.deeds import deeds, note
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import RUNNING, WAITING, Slot, slot_id
from anabranch.service.web.models import (
    ApproveAsked,
    DeedsAsked,
    FlowsAsked,
    PauseAsked,
    Refused,
    RunsAsked,
    StartAsked,
    WaitingAsked,
)


class Actions:
    """All that the API can do.

    Parameters
    ----------
    store
        The run store, with the registry in it.
    """

    def __init__(self, store: RelationalRunStore) -> None:
        self._store = store
        self._flows = FlowTable(store.database)
        self._queue = SlotQueue(store.database)

    # Flows ------------------------------------------------------------------------------------------------------------

    def flows(self, asked: FlowsAsked) -> dict[str, Any]:
        """Registered flows, by name."""
        found = self._flows.all(project=asked.project)
        part = found[asked.offset : asked.offset + asked.limit]
        return {"flows": [flow_data(each) for each in part], "total": len(found)}

    def flow(self, name: str) -> dict[str, Any]:
        """A flow with its graph and parameters, and when it is due next."""
        record = self._flows.get(name)
        times: list[str] = []
        problem = ""
        if record.schedule is not None and not record.paused:
            try:
                schedule = schedule_of(record)
                assert schedule is not None
                times = [each.isoformat() for each in schedule.next(5, after=read_clock(self._store))]
            except Exception as error:  # of filters, and of schedules of another environment
                problem = str(error) if isinstance(error, AnabranchError) else f"{type(error).__name__}: {error}"
        return {**flow_data(record), "graph": record.graph, "next": times, "problem": problem}

    def remove(self, name: str) -> dict[str, Any]:
        """Take a flow out of the registry, with what waits to run of it."""
        record = self._flows.get(name)
        self._flows.remove(name)
        self._note("unregister", name)
        return flow_data(record)

    def start(self, name: str, asked: StartAsked) -> dict[str, Any]:
        """Start a run of a flow, as soon as a service is free for it."""
        record = self._flows.get(name)
        self._check_parameters(record, asked.parameters)
        now, key = read_clock(self._store), asked.idempotency_key
        run_id = secrets.token_hex(8) if key is None else slot_id(name, _EPOCH, {}, salt=f"key {key}")
        slot = Slot(run_id, name, asked.due or now, asked.parameters, labels=record.labels)
        is_new = bool(self._queue.add([slot], now=now))
        if is_new:
            self._note("run", run_id, f"flow {name}")
        return {"run_id": run_id, "is_new": is_new}

    def pause(self, name: str, asked: PauseAsked) -> dict[str, Any]:
        """Pause a flow's schedule, or continue it."""
        self._flows.pause(name, asked.paused, now=read_clock(self._store))
        self._note("pause" if asked.paused else "continue", name)
        return flow_data(self._flows.get(name))

    def _check_parameters(self, record: FlowRecord, parameters: Mapping[str, Any]) -> None:
        """Check names, which needs no code of the flow. Values are checked when the run begins."""
        problems = parameter_problems(record, parameters)
        if problems:
            raise Refused(422, f"the parameters do not fit flow {record.name!r}: {'; '.join(problems)}")

    # Runs -------------------------------------------------------------------------------------------------------------

    def runs(self, asked: RunsAsked) -> dict[str, Any]:
        """Recorded runs, newest first."""
        query = RunQuery(flow_name=asked.flow, state=asked.state, limit=asked.limit, offset=asked.offset)
        return {"runs": [run_data(as_it_stands(each)) for each in self._store.list_runs(query)]}

    def waiting(self, asked: WaitingAsked) -> dict[str, Any]:
        """Runs that wait to begin, in the order of their due times."""
        slots = self._queue.all(flow_name=asked.flow, state=WAITING, limit=asked.limit)
        return {"waiting": [_slot_data(slot) for slot in slots], "counts": self._queue.counts()}

    def run(self, run_id: str) -> dict[str, Any]:
        """A run with its tasks; of a run that has not begun, its slot."""
        slot = self._queue.get(run_id)
        try:
            return {**detail_data(read_run(self._store, run_id)), "slot": _slot_data(slot) if slot else None}
        except RunNotFound:
            if slot is None:
                raise
            return {**_describe(slot), "slot": _slot_data(slot)}

    def cancel(self, run_id: str) -> dict[str, Any]:
        """Cancel a run that waits or goes on, whoever drives it."""
        try:
            found = cancel(self._store, self._queue, run_id)
        except RunNotFound:
            self._run(run_id)  # names the run that begins so
            raise
        self._note("cancel", run_id, f"flow {found.flow_name}")
        return _describe(found, "Cancelled" if found.state == WAITING else "Cancelling")

    def cancel_group(self, group: str) -> dict[str, Any]:
        """Cancel all runs of a group, such as those of a backfill, that wait or run."""
        found = cancel_group(self._store, self._queue, group)
        if not found:
            raise Refused(404, f"no run of group {group!r} waits or runs")
        self._note("cancel", group, f"{len(found):,} runs")
        waited = sum(slot.state == WAITING for slot in found)
        return {"group": group, "cancelled": waited, "cancelling": len(found) - waited}

    def resume(self, run_id: str, approve: Sequence[str] = ()) -> dict[str, Any]:
        """Resume a run that failed, was stopped or waits for an approval."""
        record = self._run(run_id)
        if record.state in ("Success", "Running"):
            raise Refused(409, f"run {run_id} is {record.state}; there is nothing to resume")
        self._flows.get(record.flow_name)
        now, before = read_clock(self._store), self._queue.get(run_id)
        approved = tuple(dict.fromkeys((*(before.approve if before else ()), *approve)))
        slot = Slot(run_id, record.flow_name, before.due if before else now, origin="resume", approve=approved)
        until = time.monotonic() + _CLOSING_S
        while not self._queue.again(slot, now=now):
            standing = self._queue.get(run_id)
            if standing is None or standing.state != RUNNING or time.monotonic() >= until:
                raise Refused(409, f"run {run_id} waits or runs already")
            time.sleep(0.05)
        self._note(*(("approve", run_id, ", ".join(approve)) if approve else ("resume", run_id)))
        return _describe(slot)

    def approve(self, run_id: str, asked: ApproveAsked) -> dict[str, Any]:
        """Approve tasks that wait for it, and resume their run."""
        return self.resume(run_id, asked.tasks)

    def deeds(self, asked: DeedsAsked) -> dict[str, Any]:
        """Who did what, the latest first."""
        found = deeds(self._store.database, subject=asked.subject, limit=asked.limit, offset=asked.offset)
        return {"deeds": [{**asdict(each), "at": each.at.isoformat()} for each in found]}

    def _note(self, verb: str, subject: str, detail: str = "") -> None:
        note(self._store.database, verb, subject, detail)

    def _run(self, run_id: str) -> RunRecord:
        record = self._store.get_run(run_id)
        if record.run_id != run_id:  # what changes something is given in full
            raise Refused(404, f"there is no run {run_id!r}; did you mean {record.run_id!r}?")
        return as_it_stands(record)


_CLOSING_S = 3.0  # in which the process of a run that has ended lets go of it: people see the end before that
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def flow_data(record: FlowRecord) -> dict[str, Any]:
    """A registered flow, as JSON has it."""
    return {
        "name": record.name,
        "project": record.project,
        "version": record.version,
        "fingerprint": record.fingerprint,
        "source": record.source or ("the registry" if record.storage is None else "flow storage"),
        "schedule": record.schedule_text,
        "overlap": record.overlap,
        "max_runs": record.max_runs,
        "timeout_s": record.timeout_s,
        "labels": list(record.labels),
        "paused": record.paused,
        "parameters": record.parameters,
    }


def _describe(run: Slot | RunRecord, state: str | None = None) -> dict[str, Any]:
    return {"run_id": run.run_id, "flow": run.flow_name, "state": state or run.state}


def _slot_data(slot: Slot) -> dict[str, Any]:
    return {
        **_describe(slot),
        "due": slot.due.isoformat(),
        "origin": slot.origin,
        "group": slot.group,
        "message": slot.message,
        "tries": slot.tries,
        "owner": slot.owner,
        "is_cancelling": slot.cancel,
    }

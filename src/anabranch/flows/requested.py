"""Runs of registered flows that tasks ask for: `run_flow`, and what Prefect 1's names for it are made of.

In a run of a service they are runs of services, too: the task is tried again until its run has ended, and while a run
only waits for others, it is put down and holds no place. In a run by hand, the task drives its run itself. Either way
its id is made of the task run's, so that it is one run, whatever becomes of processes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from anabranch.base import context
from anabranch.base.errors import ParameterError, RegistryError
from anabranch.base.signals import FAIL, RETRY
from anabranch.definition.task import task
from anabranch.engine.worker.slots import given_up
from anabranch.flows.flow import Flow
from anabranch.flows.subflows import child_run, id_of, is_recorded
from anabranch.runs.store.flows import FlowRecord
from anabranch.runs.store.slots import RUNNING, WAITING, Slot

LOOK_S = 0.2
"""Seconds between looks at a run that may end soon."""
SOON_S = 2.0
"""Seconds in which a run may end soon; then the task waits elsewhere."""
LEAST_S, MOST_S = 6.0, 60.0
"""Seconds until the next try; between them, a tenth of the time for which the run has been there. The least is enough
for a service to put a run down."""
_GOES_ON = (WAITING, RUNNING, "Paused")

_LOADING = threading.Lock()


@task
def run_flow(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    wait: bool = True,
    cancel: bool = True,
    project: str = "",
) -> str:
    """Run a registered flow, and give the id of the run.

    Parameters
    ----------
    name
        Of the flow.
    parameters
        Of the run, by name.
    wait
        Whether to wait for its end: a run that fails is a failure of this task. If it is tried again, or its run is
        resumed, the run of the flow goes on where it was.
    cancel
        Whether the run is cancelled with the one that this task is part of.
    project
        In which the flow must be registered; empty: any.
    """
    run_id = start(name, parameters, project=project, is_bound=cancel)
    if wait:
        check_success(run_id)
    return run_id


def start(name: str, parameters: Mapping[str, Any] | None, *, project: str = "", is_bound: bool = True) -> str:
    """Ask for the run of a registered flow that the task run here stands for; in a run by hand, it has ended then.

    Raises
    ------
    RegistryError
        The registry has no such flow, or it is of another project.
    ParameterError
        The parameters do not fit it.
    """
    from anabranch.runs.registry.registration import jsonify, parameter_problems, read_clock, registry

    store, _, queue = registry()
    record, outer = _record(name, project), context.current()
    above = queue.get(outer.run_id) if outer is not None else None
    if outer is None or above is None or above.state != RUNNING:
        run_id: str = child_run(load(record), dict(parameters or {})).run_id
        return run_id
    try:
        given = jsonify(parameters or {})
    except ValueError as error:
        raise ParameterError(f"the parameters do not fit flow {name!r}: {error}", []) from None
    if problems := parameter_problems(record, given):
        raise ParameterError(f"the parameters do not fit flow {name!r}: {'; '.join(problems)}", [])
    run_id, now = id_of(outer, given), read_clock(store)
    slot = Slot(
        run_id,
        name,
        outer.date or now,
        given,
        ready=now,
        labels=record.labels,
        origin="flow",
        parent=outer.run_id,
        bond=is_bound,
    )
    before = queue.get(run_id)
    if before is None and not is_recorded(run_id):
        queue.add([slot], now=now)
    elif _state(run_id, before) not in (*_GOES_ON, "Success") and (before is None or before.told):
        queue.again(slot, now=now)
    return run_id


def _record(name: str, project: str = "") -> FlowRecord:
    from anabranch.runs.registry.registration import registry

    record = registry()[1].get(name)
    if project and record.project != project:
        raise RegistryError(f"flow {name!r} is registered in project {record.project!r}, not in {project!r}")
    return record


def load(record: FlowRecord | str) -> Flow:
    """A registered flow."""
    from anabranch.flows.registered import load_registered

    with _LOADING:
        return load_registered(_record(record) if isinstance(record, str) else record).flow


def wait_for(run_id: str) -> tuple[str, str]:
    """State and message of a run that has ended; the task is tried again if that may take long.

    Raises
    ------
    RETRY
        It goes on.
    """
    from anabranch.runs.registry.registration import registry

    queue, is_over = registry()[2], context.over()
    until = time.monotonic() + SOON_S
    with given_up():
        while (slot := queue.get(run_id)) is not None and slot.state in _GOES_ON:
            if time.monotonic() >= until or is_over():
                raise RETRY(_waiting_text(slot), start_time=datetime.now(UTC) + timedelta(seconds=_delay_s(slot)))
            time.sleep(LOOK_S)
    state = _state(run_id, slot)
    return state, slot.message if slot is not None and slot.message else _message(run_id)


def check_success(run_id: str) -> None:
    """Wait for the end of a run, and have it be the failure of this task if it has failed.

    Raises
    ------
    FAIL, RETRY
        It has not succeeded, or goes on.
    """
    from anabranch.runs.registry.registration import registry

    state, message = wait_for(run_id)
    if state not in ("Success", "Skipped"):
        queue = registry()[2]
        slot = queue.get(run_id)
        queue.note_told(run_id)
        name = slot.flow_name if slot is not None else _recorded(run_id).flow_name
        raise FAIL(f"flow {name!r}, run {run_id}: {state}: {message}")


def _waiting_text(slot: Slot) -> str:
    how = {WAITING: "waits to begin or to go on", RUNNING: "goes on"}.get(slot.state, "waits for an approval")
    return f"waits for run {slot.run_id} of flow {slot.flow_name!r}, which {how}"


def _delay_s(slot: Slot) -> float:
    there_s = (datetime.now(UTC) - slot.created).total_seconds() if slot.created is not None else 0.0
    return min(MOST_S, max(LEAST_S, there_s / 10))


def _state(run_id: str, slot: Slot | None) -> str:
    return slot.state if slot is not None else str(_recorded(run_id).state)


def _message(run_id: str) -> str:
    return str(_recorded(run_id).message) if is_recorded(run_id) else ""


def _recorded(run_id: str) -> Any:
    from anabranch.runs.read.lookup import find

    return find(run_id)[1]

"""The process of one run: it checks its claim, loads the flow, begins or resumes the run, and closes the slot.

It needs nobody while it runs: the lease on the run is renewed here, so a service that dies takes no run with it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from anabranch.base.context import current, part_of
from anabranch.base.errors import AnabranchError, RunHeld, RunNotFound, RunStoreDamaged, RunStoreError, StaleOwner
from anabranch.base.settings import config
from anabranch.base.states import Failed, State
from anabranch.engine.driver.handlers import FlowHandlers
from anabranch.engine.driver.plan import HandOver
from anabranch.engine.driver.rest import may_rest
from anabranch.engine.isolation.trees import kill_below
from anabranch.engine.worker.attempts import telling_overdue
from anabranch.flows.kept_files import are_in_use
from anabranch.flows.news import tell
from anabranch.flows.registered import load_registered
from anabranch.monitoring.bulletins import telling_of
from anabranch.runs import RunRecord
from anabranch.runs.registry.ending import end_parts
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.resume.takeover import claimed
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot, wanted_since
from anabranch.service.work.messages import AGAIN, LAST, Job
from anabranch.service.work.spool import Counted

CANCEL_POLL_S = 1.0
"""Seconds between looks whether a run is to be cancelled."""
REST_S = 5.0
"""Seconds that a run must have to wait to be put down: more than another process and reading its record cost."""
TELL_S = 10.0
"""Seconds that the handlers of a flow have whose process is to be killed."""
_MOST_RECORDS = 500

Tell = Callable[[State], object]
"""Tells who asked for it of the state in which a run has ended."""

_log = logging.getLogger("anabranch.service")


def run_job(job: Job, *, metrics: str = "", is_new: bool = True) -> int:
    """Run the slot of a job to its end; gives its exit code, 0 and `LAST` if the slot is closed or given back.

    Parameters
    ----------
    metrics
        Directory for what the run counts; empty for none.
    is_new
        Whether the process has had no run before. If it had, and the flow does not load, that may be for what the run
        before has left: `AGAIN` is given.
    """
    counted = Counted(metrics, job.run_id)
    try:
        return _run_job(job, counted, is_new=is_new)
    finally:
        counted.close()


def _run_job(job: Job, counted: Counted, *, is_new: bool) -> int:
    store, flows, queue = registry()
    now = read_clock(store)
    try:
        begun = queue.begin(job.run_id, job.token, now=now, lease_s=store.lease_s)
    except StaleOwner:
        return 0
    slot = begun.slot
    if slot.tries == 1:
        counted.metrics.note_lateness(slot.flow_name, (now - wanted_since(slot)).total_seconds())
    if begun.run_state == "Success":  # who had it died before saying so
        return _finish(store, queue, slot, begun.run_state, begun.run_message)
    is_first = begun.run_state is None
    if slot.cancel:
        return _finish(store, queue, slot, "Cancelled", f"cancelled before it {'began' if is_first else 'went on'}")
    if slot.damage:
        problem = RunStoreDamaged(f"its {slot.damage} in the queue cannot be read; start it again")
        return _fail(store, queue, slot, problem, counted, is_first=is_first, tell=partial(tell, flows, slot.flow_name))
    try:
        loaded = load_registered(_find_flow(flows, slot.flow_name, begun.flow_changed))
    except RunStoreError:
        raise  # as below
    except (AnabranchError, RecursionError) as error:
        if not is_new:
            return AGAIN
        kept_told = partial(tell, flows, slot.flow_name, loads=False)
        return _fail(store, queue, slot, error, counted, is_first=is_first, tell=kept_told)
    told = FlowHandlers(loaded.flow, loaded.flow.state_handlers, loaded.flow.on_failure).tell_last
    with (
        _Interruptible(queue, slot) as interruption,
        may_rest(slot.run_id, REST_S, spent_s=slot.spent / timedelta(seconds=1)) as rest,
        claimed(slot.run_id, slot.run_epoch),
        telling_overdue(config.service.cancel_grace_s, lambda text: _end_by_force(store, queue, slot, text, told)),
    ):
        try:
            state, message = _run_slot(loaded, slot, counted, is_first=is_first)
        except KeyboardInterrupt:
            state, message = "Cancelled", "it was interrupted"
        except RunHeld as error:
            queue.release(slot, str(error), now=read_clock(store), not_before=begun.run_lease, is_try=False)
            return 0
        except RunStoreError:
            raise  # the process ends badly, and the slot is tried again
        except Exception as error:  # parameters that do not fit, an executor that cannot start, a handler of the flow's
            return _fail(store, queue, slot, error, counted, is_first=_is_unknown(store, slot), tell=told)
    if interruption.is_handed_over:
        queue.release(slot, "handed over by a service that ended", now=read_clock(store), is_try=False)
        return LAST
    if state == "Paused" and rest.until is not None:
        now = read_clock(store)
        due = now + timedelta(seconds=rest.until - time.time())
        queue.release(slot, message, now=now, not_before=due, is_try=False)
        return 0
    if state != "Success" and queue.leave(slot, now=read_clock(store)):
        return 0
    ended = _finish(store, queue, slot, state, message)
    return LAST if state in ("Cancelled", "TimedOut") else ended


_records: dict[str, FlowRecord] = {}
"""Flows that this process has had: they rarely change."""


def _find_flow(flows: FlowTable, name: str, changed: datetime | None) -> FlowRecord:
    """A flow of the registry, read again if it has changed."""
    record = _records.get(name)
    if record is None or changed is None or record.changed != changed:
        record = flows.get(name)
        if len(_records) >= _MOST_RECORDS:
            _records.clear()
        _records[name] = record
    return record


def _run_slot(loaded: Any, slot: Slot, counted: Counted, *, is_first: bool) -> tuple[str, str]:
    from anabranch.flows.loading import shipped_by_value

    place, schedule = loaded.flow.executor, loaded.flow.schedule
    options: dict[str, Any] = {"run_id": slot.run_id} if is_first else {"resume": slot.run_id}
    known = {node.slug for node in loaded.flow.tasks} | {node.name for node in loaded.flow.tasks}
    approve = [name for name in slot.approve if name in known]
    # What is recorded cannot be changed; only what was not, because it is secret, may be given again.
    parameters = slot.parameters if is_first or slot.origin == "resume" else {}
    due = slot.due
    if schedule is not None and slot.origin == "manual" and due.tzinfo is UTC:  # nobody has named a zone
        due = due.astimezone(schedule.zone_at(due))
    is_elsewhere = place is not None and place.is_elsewhere
    with shipped_by_value(loaded, with_neighbours=is_elsewhere or are_in_use()), part_of(slot.parent or None):
        view = loaded.flow.run(
            parameters, approve=approve, run_date=due if is_first else None, observers=counted.observers, **options
        )
    return view.state.name, view.state.message


def _is_unknown(store: RelationalRunStore, slot: Slot) -> bool:
    """Whether nobody has begun the run."""
    try:
        return store.get_run(slot.run_id).run_id != slot.run_id
    except RunNotFound:
        return True


def _finish(store: RelationalRunStore, queue: SlotQueue, slot: Slot, state: str, message: str) -> int:
    if queue.finish(slot, state, message, now=read_clock(store)) and state in ("Cancelled", "TimedOut"):
        end_parts(store, slot.run_id)
    return 0


def _fail(
    store: RelationalRunStore,
    queue: SlotQueue,
    slot: Slot,
    error: Exception,
    counted: Counted,
    *,
    is_first: bool,
    tell: Tell,
) -> int:
    """Record and tell that a run could not begin, or not go on."""
    counted.metrics.note_end(slot.flow_name, "Failed")
    text = str(error) if isinstance(error, AnabranchError) else f"{type(error).__name__}: {error}"
    _log.error("run %s of flow %s: %s", slot.run_id, slot.flow_name, text)
    if is_first:
        began = datetime.now(UTC)
        try:
            ownership = store.create_run(RunRecord(slot.run_id, slot.flow_name, began))
            store.finish_run(ownership, "Failed", end=began, message=text)
        except RunStoreError as problem:
            _log.warning("the run could not be recorded: %s", problem)
    now = read_clock(store)
    if not queue.leave(slot, now=now) and queue.finish(slot, "Failed", text, now=now):
        with telling_of(slot.run_id):
            tell(Failed(text))
    return 0


def _end_by_force(store: RelationalRunStore, queue: SlotQueue, slot: Slot, why: str, tell: Tell) -> None:
    """Fail a run whose task cannot be ended otherwise, and this process with all below it; in a thread of its own."""
    task = current()
    text = f"{task.task_full_name if task is not None else 'a task'} {why}; its process was killed"

    def tell_of(state: State) -> None:
        with telling_of(slot.run_id):
            tell(state)

    def end() -> None:
        _log.error("run %s of flow %s: %s", slot.run_id, slot.flow_name, text)
        try:
            now = read_clock(store)
            if not queue.leave(slot, now=now) and queue.finish(slot, "Failed", text, now=now):
                telling = threading.Thread(target=tell_of, args=(Failed(text),), name="anabranch-telling", daemon=True)
                telling.start()
                telling.join(TELL_S)
        except RunStoreError as error:  # it is tried again, by a service
            _log.warning("the end of run %s could not be recorded: %s", slot.run_id, error)
        kill_own()

    threading.Thread(target=end, name="anabranch-end", daemon=True).start()


def kill_own() -> None:
    """Kill this process, all below it, and what it has started that has lost its parent."""
    kill_below(os.getpid())
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class _Asked(KeyboardInterrupt):
    """A request to cancel a run; who made it is looked up when that is to be told, which is not in a signal handler."""

    def __init__(self, queue: SlotQueue, slot: Slot) -> None:
        super().__init__()
        self._queue = queue
        self._slot = slot

    def __str__(self) -> str:
        try:
            found = self._queue.get(self._slot.run_id)
        except RunStoreError:
            found = None
        return (found.message if found is not None and found.cancel else "") or "a request to cancel it"


class _Interruptible:
    """Within it, SIGTERM asks that the run be put down for another process, and a cancelled slot ends it."""

    def __init__(self, queue: SlotQueue, slot: Slot) -> None:
        self._queue = queue
        self._slot = slot
        self._over = threading.Event()
        self.is_handed_over = False
        self._is_asked = False
        self._thread = threading.Thread(target=self._watch, name="anabranch-cancel", daemon=True)

    def __enter__(self) -> _Interruptible:
        signal.signal(signal.SIGTERM, self._hand_over)
        signal.signal(signal.SIGINT, self._cancel)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # what is left is short
        self._thread.join()

    def _hand_over(self, number: int, frame: object) -> None:
        if not self._over.is_set():
            self.is_handed_over = True
            raise HandOver("a service that ended")

    def _cancel(self, number: int, frame: object) -> None:
        if not self._over.is_set() and not self._is_asked:  # by the service, or by the thread
            self._is_asked = True
            raise _Asked(self._queue, self._slot)

    def _watch(self) -> None:
        number, why = signal.SIGINT, "was cancelled"
        while not self._over.wait(CANCEL_POLL_S):
            try:
                if not self._queue.is_cancelled(self._slot):
                    continue
            except StaleOwner:  # its end is told by who has it now
                number, why = signal.SIGTERM, "is another process's"
            except RunStoreError as error:
                _log.debug("whether run %s is cancelled was not told: %s", self._slot.run_id, error)
                continue
            if not self._over.is_set():
                os.kill(os.getpid(), number)
            break
        if not self._over.wait(config.service.cancel_grace_s):
            _log.warning("run %s %s and does not end: its process is killed", self._slot.run_id, why)
            kill_own()  # what becomes of the run is decided by a service

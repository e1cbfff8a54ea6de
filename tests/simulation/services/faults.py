"""Faults that are put into the library, one at a time, to see that towns find them; those at the end had been there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from tests.simulation.services import staff

from anabranch.base.errors import FlowNotRegistered, RunStoreError
from anabranch.runs.resume.takeover import Taken
from anabranch.runs.store import permit_rules, slot_queue
from anabranch.runs.store.codec import to_microseconds
from anabranch.runs.store.flows import FlowTable
from anabranch.runs.store.heart import Heart
from anabranch.runs.store.permit_table import PermitTable
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.run_permits import RunPermits
from anabranch.runs.store.schema import SLOTS
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot, slot_row
from anabranch.schedules import catch_up
from anabranch.service.work import dispatcher, one_run
from anabranch.service.work.dispatcher import Dispatcher
from anabranch.service.work.timetable import Timetable

Change = tuple[object, str, Any]
FAULTS: dict[str, Callable[[], list[Change]]] = {}
"""By name: what is put in the place of which attribute."""


def _fault(make: Callable[[], list[Change]]) -> Callable[[], list[Change]]:
    FAULTS[make.__name__.replace("_", "-")] = make
    return make


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Within the block, the library has a fault; None: it has none of these."""
    with ExitStack() as stack:
        for where, attribute, what in FAULTS[name]() if name is not None else ():
            stack.enter_context(patch.object(where, attribute, what))
        yield


def _nothing(*args: Any, **options: Any) -> None:
    """Stands for what is left out."""


@_fault
def the_lease_is_not_renewed() -> list[Change]:
    return [(Heart, "beat", lambda self: True), (SlotQueue, "renew", _nothing)]


@_fault
def claims_are_not_told_apart() -> list[Change]:
    def loose(name: str) -> Change:
        return slot_queue, name, getattr(slot_queue, name).replace("token = ?", "coalesce(?, '') <> '-'")

    return [loose("_BEGIN"), loose("_FINISH"), loose("_RELEASE")]


@_fault
def stale_owners_may_write() -> list[Change]:
    return [(RelationalRunStore, "_refuse_stale", _nothing)]


@_fault
def permits_are_not_given_back() -> list[Change]:
    return [(RunPermits, "close", _nothing)]


@_fault
def who_was_put_down_is_not_called() -> list[Change]:
    return [(PermitTable, "_call", lambda *args: set())]


@_fault
def there_is_always_room() -> list[Change]:
    return [(permit_rules._View, "have_room", lambda self, held, place: True)]


@_fault
def a_time_is_dealt_with_before_its_slot_is_written() -> list[Change]:
    def plan(self: FlowTable, names: Any, due: Any, now: Any) -> tuple[set[str], list[Slot]]:
        kept: list[Slot] = []

        def later(name: str, since: Any) -> Iterable[Slot] | None:
            found = due(name, since)
            kept.extend(found or ())
            return None if found is None else []

        done, _ = usual(self, names, later, now)
        rows = [slot_row(each, now=to_microseconds(now)) for each in kept]
        if rows:
            self._database.write(lambda transaction: transaction.execute_many(SLOTS.insert(), rows))
        return done, kept

    usual = FlowTable._plan
    return [(FlowTable, "_plan", plan)]


@_fault
def times_are_forgotten_when_the_store_is_away() -> list[Change]:
    def make_slots(self: Timetable, now: Any) -> list[Slot]:
        try:
            return usual(self, now)
        except RunStoreError:
            self._next.clear()
            raise

    usual = Timetable.make_slots
    return [(Timetable, "make_slots", make_slots)]


@_fault
def a_time_is_missed_at_once() -> list[Change]:
    return [(catch_up, "GRACE_S", 0.0)]


@_fault
def services_trust_the_clock() -> list[Change]:
    return [(dispatcher, "BLIND_S", 1e9)]


@_fault
def own_processes_are_not_looked_for() -> list[Change]:
    return [(staff, "lives", lambda town, name, host: False)]


@_fault
def a_wish_to_cancel_is_lost_when_a_run_is_put_down() -> list[Change]:
    return [(slot_queue, "_RELEASE", slot_queue._RELEASE.replace("cancel = 1", "cancel = 2"))]


@_fault
def nobody_looks_for_wishes_to_cancel() -> list[Change]:
    return [(one_run._Interruptible, "_watch", _nothing), (Dispatcher, "_end_cancelled", _nothing)]


@_fault
def what_is_cancelled_goes_on_in_another_process() -> list[Change]:
    usual = SlotQueue.begin

    def begin(self: SlotQueue, *args: Any, **options: Any) -> Any:
        begun = usual(self, *args, **options)
        return replace(begun, slot=replace(begun.slot, cancel=False))

    return [(SlotQueue, "begin", begin), (SlotQueue, "is_cancelled", lambda self, slot: False)]


@_fault
def runs_may_overlap() -> list[Change]:
    return [(slot_queue._Policy, "most", property(lambda self: self.max_runs))]


@_fault
def flows_have_as_many_runs_as_are_due() -> list[Change]:
    usual = slot_queue._Policy.__init__

    def init(self: Any, max_runs: int | None, overlap: str, catch_up: str) -> None:
        usual(self, max_runs and 9, overlap, catch_up)

    return [(slot_queue._Policy, "__init__", init)]


@_fault
def backfills_have_no_bound() -> list[Change]:
    usual = SlotQueue._verdict

    def verdict(self: SlotQueue, transaction: Any, slot: Slot, *args: Any) -> Any:
        return usual(self, transaction, replace(slot, group_most=None), *args)

    return [(SlotQueue, "_verdict", verdict)]


@_fault
def what_kills_its_process_is_never_given_up() -> list[Change]:
    return [(slot_queue, "MAX_TRIES", 10**9)]


@_fault
def what_has_succeeded_is_gone_on_with() -> list[Change]:
    usual, settle = SlotQueue.begin, slot_queue._settle_dead

    def begin(self: SlotQueue, *args: Any, **options: Any) -> Any:
        begun = usual(self, *args, **options)
        return replace(begun, run_state="Failed") if begun.run_state == "Success" else begun

    def settle_dead(transaction: Any, row: Any, *args: Any, **options: Any) -> Any:
        epoch, state, lease = row[-3:]
        return settle(transaction, (*row[:-3], 0 if state == "Success" else epoch, state, lease), *args, **options)

    return [(SlotQueue, "begin", begin), (slot_queue, "_settle_dead", settle_dead)]


# Such as there had been -----------------------------------------------------------------------------------------------


@_fault
def a_lost_run_is_put_down_as_running() -> list[Change]:
    def give_back(self: Taken) -> None:
        before = self.record
        self.store.finish_run(self.ownership, before.state, end=before.end, message=before.message)

    return [(Taken, "give_back", give_back)]


@_fault
def a_run_that_rests_ends_with_its_process() -> list[Change]:
    usual = slot_queue._settle_dead

    def settle(transaction: Any, row: Any, moment: int, **options: Any) -> Any:
        slot, (epoch, state, lease) = slot_queue.slot_of(row[:-3]), row[-3:]
        if epoch is not None and epoch > slot.run_epoch and lease is None and state == "Paused":
            transaction.execute(slot_queue._CLOSE, (state, "", moment, slot.run_id))
            return None
        return usual(transaction, row, moment, **options)

    return [(slot_queue, "_settle_dead", settle)]


@_fault
def the_end_of_a_slot_is_not_recorded() -> list[Change]:
    return [(slot_queue, "_end_runs", _nothing)]


@_fault
def a_silent_store_has_no_flows() -> list[Change]:
    usual = one_run._find_flow

    def find(*args: Any) -> Any:
        try:
            return usual(*args)
        except RunStoreError as error:
            raise FlowNotRegistered(str(error)) from error

    return [(one_run, "_find_flow", find)]

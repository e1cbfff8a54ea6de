"""What waits to run: claimed once, bound by the policies of its flow, given back, taken from the dead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.postgres_server import PostgresServer, postgres  # noqa: F401

from anabranch.base.settings import config
from anabranch.errors import FlowLoadError, FlowNotRegistered, RunNotFound, StaleOwner
from anabranch.flows.registered import load_registered
from anabranch.runs import RunRecord, open_store
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.owners import name_process
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import MAX_TRIES, SlotQueue
from anabranch.runs.store.slots import Slot, slot_id
from anabranch.service.work.messages import Job
from anabranch.service.work.one_run import run_job

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LEASE_S = 30.0


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RelationalRunStore]:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/runs.db"}.get(request.param)
    if url is None:
        url = request.getfixturevalue("postgres").fresh_url()
    with open_store(url) as opened:
        assert isinstance(opened, RelationalRunStore)
        yield opened


@pytest.fixture
def queue(store: RelationalRunStore) -> SlotQueue:
    return SlotQueue(store.database)


def put_flow(store: RelationalRunStore, name: str = "etl", **options: object) -> FlowRecord:
    return FlowTable(store.database).put(FlowRecord(name, "code-1", **options), now=NOON)


def slots(count: int, *, flow: str = "etl", origin: str = "schedule", **options: object) -> list[Slot]:
    times = [NOON + number * SECOND for number in range(count)]
    return [Slot(slot_id(flow, time, {}), flow, time, origin=origin, **options) for time in times]


def claim(queue: SlotQueue, most: int = 10, *, at: int = 60) -> list[str]:
    return [slot.run_id for slot in queue.claim("me:1", most, now=NOON + at * SECOND, lease_s=LEASE_S)]


def states(queue: SlotQueue) -> list[str]:
    return [slot.state for slot in queue.all()]


def test_a_slot_waits_once_however_often_it_is_added(queue: SlotQueue):
    assert len(queue.add(slots(3), now=NOON)) == 3
    assert queue.add(slots(4), now=NOON) == [slots(4)[3].run_id]
    assert queue.counts() == {"Waiting": 4}


def test_what_is_due_is_claimed_in_order_and_once(queue: SlotQueue):
    queue.add(slots(5), now=NOON)
    assert claim(queue, 2, at=3) == [slot.run_id for slot in slots(2)]
    assert claim(queue, 9, at=3) == [slot.run_id for slot in slots(4)[2:]]
    assert claim(queue, 9, at=3) == []
    assert queue.next_due() == NOON + 4 * SECOND


def test_many_threads_claim_each_slot_once(queue: SlotQueue):
    queue.add(slots(60), now=NOON)
    claimed: list[str] = []

    def work() -> None:
        while found := claim(queue, 7):
            claimed.extend(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while found := claim(queue, 7):  # a thread may have found all that was left locked by another
        claimed.extend(found)
    assert sorted(claimed) == sorted(slot.run_id for slot in slots(60))


def test_a_flow_has_no_more_runs_than_it_allows_and_does_not_hold_up_others(
    store: RelationalRunStore, queue: SlotQueue
):
    put_flow(store, max_runs=2)
    queue.add([*slots(30), *(late := slots(2, flow="other"))], now=NOON)
    first = claim(queue, 4)
    assert set(first) == {each.run_id for each in (*slots(2), *late)}
    assert claim(queue) == []
    running = queue.get(slots(1)[0].run_id)
    assert running is not None
    queue.finish(running, "Success", now=NOON)
    assert len(claim(queue)) == 1


@pytest.mark.parametrize(
    ("overlap", "claimed", "expected"),
    [
        ("allow", 3, ["Running", "Running", "Running"]),
        ("skip", 1, ["Running", "Skipped", "Skipped"]),
        ("queue", 1, ["Running", "Waiting", "Waiting"]),
    ],
)
def test_times_that_come_while_a_run_goes_on(
    store: RelationalRunStore, queue: SlotQueue, overlap: str, claimed: int, expected: list[str]
):
    put_flow(store, overlap=overlap)
    queue.add(slots(3), now=NOON)
    assert len(claim(queue)) == claimed
    assert states(queue) == expected


@pytest.mark.parametrize(
    ("catch_up", "overlap", "at", "expected"),
    [
        ("all", "allow", 600, ["Running", "Running", "Running"]),
        ("latest", "allow", 600, ["Skipped", "Skipped", "Running"]),
        ("skip", "allow", 600, ["Skipped", "Skipped", "Skipped"]),
        ("latest", "allow", 60, ["Running", "Running", "Running"]),
        ("skip", "allow", 60, ["Running", "Running", "Running"]),
        ("skip", "allow", 61, ["Skipped", "Running", "Running"]),
        ("latest", "queue", 600, ["Running", "Waiting", "Waiting"]),
        ("skip", "cancel_previous", 600, ["Skipped", "Skipped", "Skipped"]),
    ],
)
def test_times_that_have_waited_too_long_are_those_that_were_missed(
    store: RelationalRunStore, queue: SlotQueue, catch_up: str, overlap: str, at: int, expected: list[str]
):
    put_flow(store, catch_up=catch_up, overlap=overlap)
    queue.add(slots(3), now=NOON)
    claim(queue, at=at)
    assert states(queue) == expected


@pytest.mark.parametrize("catch_up", ["latest", "skip"])
def test_what_was_asked_for_otherwise_or_has_begun_is_never_left_out(
    store: RelationalRunStore, queue: SlotQueue, catch_up: str
):
    put_flow(store, catch_up=catch_up)
    begun, again, newer = slots(3)
    queue.add([begun, again], now=NOON)
    for slot in queue.claim("me:1", 2, now=NOON + SECOND, lease_s=LEASE_S):
        queue.begin(slot.run_id, slot.token, now=NOON + SECOND, lease_s=LEASE_S)
        if slot.run_id == again.run_id:
            store.create_run(RunRecord(again.run_id, "etl", NOON), now=NOON)
        queue.release(slot, "handed over", now=NOON + SECOND, is_try=False)
    for slot in queue.claim("me:1", 2, now=NOON + SECOND, lease_s=LEASE_S):  # for which there was no process
        if slot.run_id == again.run_id:
            queue.give_back([slot], now=NOON + SECOND)
        else:
            queue.bury(slot, "its service died", now=NOON + SECOND)
    queue.add([newer, Slot("by-hand", "etl", NOON), Slot("back", "etl", NOON, origin="backfill")], now=NOON)
    found = claim(queue, at=600)
    assert {again.run_id, "by-hand", "back"} <= set(found)


def test_a_new_time_cancels_the_run_before_and_waits_for_its_end(store: RelationalRunStore, queue: SlotQueue):
    put_flow(store, overlap="cancel_previous")
    first, second, third = slots(3)
    queue.add([first], now=NOON)
    (claimed,) = queue.claim("me:1", 9, now=NOON, lease_s=LEASE_S)
    queue.add([second, third], now=NOON)
    assert claim(queue) == []
    assert queue.is_cancelled(claimed)
    queue.finish(claimed, "Cancelled", now=NOON)
    assert claim(queue) == [third.run_id]
    assert states(queue) == ["Cancelled", "Skipped", "Running"]


def rest(queue: SlotQueue, *, until_s: int) -> Slot:
    """Let the first slot begin, and wait for a retry."""
    (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    queue.begin(slot.run_id, slot.token, now=NOON, lease_s=LEASE_S)
    later = NOON + until_s * SECOND
    assert queue.release(slot, "waits", now=NOON, not_before=later, is_try=False)
    return slot


def spent_s(queue: SlotQueue) -> float:
    (slot,) = queue.all()
    return slot.spent / SECOND


def test_time_that_a_run_has_used_is_counted_with_its_waits(store: RelationalRunStore, queue: SlotQueue):
    put_flow(store, timeout_s=90.0)
    queue.add(slots(1), now=NOON)
    (claimed,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    assert claimed.timeout_s == 90.0
    queue.give_back([claimed], now=NOON + SECOND)  # there was no process for it
    assert spent_s(queue) == 0
    # It has begun, and waits for a retry
    (claimed,) = queue.claim("me:1", 1, now=NOON + 10 * SECOND, lease_s=LEASE_S)
    queue.begin(claimed.run_id, claimed.token, now=NOON + 10 * SECOND, lease_s=LEASE_S)
    queue.release(claimed, now=NOON + 20 * SECOND, not_before=NOON + 30 * SECOND, is_try=False)
    assert spent_s(queue) == 20
    # Then its process dies
    (claimed,) = queue.claim("me:1", 1, now=NOON + 100 * SECOND, lease_s=LEASE_S)
    queue.begin(claimed.run_id, claimed.token, now=NOON + 100 * SECOND, lease_s=LEASE_S)
    queue.bury(claimed, "it died", now=NOON + 105 * SECOND)
    assert spent_s(queue) == 25
    # And once more, with its machine: nobody knows how long it went on, beyond its lease
    (claimed,) = queue.claim("me:1", 1, now=NOON + 200 * SECOND, lease_s=LEASE_S)
    queue.begin(claimed.run_id, claimed.token, now=NOON + 200 * SECOND, lease_s=LEASE_S)
    queue.recover(now=NOON + 9_000 * SECOND, lease_s=LEASE_S)
    assert spent_s(queue) == 25 + LEASE_S
    # Somebody lets it go on
    (claimed,) = queue.claim("me:1", 1, now=NOON + 9_000 * SECOND, lease_s=LEASE_S)
    queue.finish(claimed, "TimedOut", now=NOON + 9_000 * SECOND)
    assert queue.again(Slot(claimed.run_id, "etl", NOON, origin="resume"), now=NOON + 9_000 * SECOND)
    assert spent_s(queue) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"overlap": "allow"}, ["Waiting", "Running", "Running"]),
        ({"max_runs": 1}, ["Waiting", "Waiting", "Waiting"]),
        ({"overlap": "queue"}, ["Waiting", "Waiting", "Waiting"]),
        ({"overlap": "skip"}, ["Waiting", "Skipped", "Skipped"]),
    ],
)
def test_a_run_that_rests_keeps_its_place_in_its_flow_and_goes_on_when_it_is_due(
    store: RelationalRunStore, queue: SlotQueue, options: dict[str, object], expected: list[str]
):
    put_flow(store, **options)
    queue.add(slots(1), now=NOON)
    resting = rest(queue, until_s=3_600)
    queue.add(slots(3), now=NOON)
    claim(queue)
    assert states(queue) == expected
    assert resting.run_id in claim(queue, at=3_600)
    (found,) = (slot for slot in queue.all() if slot.run_id == resting.run_id)
    assert (found.state, found.tries) == ("Running", 1)


def test_a_new_time_ends_a_run_that_rests(store: RelationalRunStore, queue: SlotQueue):
    put_flow(store, overlap="cancel_previous")
    queue.add(slots(1), now=NOON)
    resting = rest(queue, until_s=3_600)
    queue.add(slots(2), now=NOON)
    (again,) = queue.claim("me:1", 9, now=NOON + 60 * SECOND, lease_s=LEASE_S)
    begun = queue.begin(again.run_id, again.token, now=NOON + 60 * SECOND, lease_s=LEASE_S)
    assert (begun.slot.run_id, begun.slot.cancel) == (resting.run_id, True)
    queue.finish(again, "Cancelled", now=NOON)
    assert claim(queue) == [slots(2)[1].run_id]


def test_a_group_runs_so_many_at_a_time(store: RelationalRunStore, queue: SlotQueue):
    put_flow(store)
    queue.add(slots(5, origin="backfill", group="g", group_most=2), now=NOON)
    assert len(claim(queue)) == 2
    queue.add([Slot("by-hand", "etl", NOON)], now=NOON)
    assert claim(queue) == ["by-hand"]


def test_a_stale_claim_cannot_begin_finish_or_release(queue: SlotQueue):
    queue.add(slots(1), now=NOON)
    (old,) = queue.claim("me:1", 1, now=NOON, lease_s=1)
    assert queue.recover(now=NOON + 2 * SECOND, lease_s=LEASE_S) == []
    (new,) = queue.claim("you:2", 1, now=NOON + 2 * SECOND, lease_s=1)
    with pytest.raises(StaleOwner, match="is somebody else's"):
        queue.begin(old.run_id, old.token, now=NOON, lease_s=1)
    assert not queue.finish(old, "Success", now=NOON)
    assert not queue.release(old, now=NOON)
    with pytest.raises(StaleOwner, match="is somebody else's"):
        queue.is_cancelled(old)
    assert queue.begin(new.run_id, new.token, now=NOON, lease_s=1).slot.tries == 1  # no process had begun the first


def test_a_slot_whose_run_lives_is_left_alone_and_one_whose_run_ended_is_closed(
    store: RelationalRunStore, queue: SlotQueue
):
    queue.add(slots(2), now=NOON)
    alive, ended = queue.claim("me:1", 2, now=NOON + SECOND, lease_s=1)
    now = NOON + 60 * SECOND
    store.create_run(RunRecord(alive.run_id, "etl", now), now=now)
    store.finish_run(store.create_run(RunRecord(ended.run_id, "etl", now), now=now), "Failed", end=now)
    assert queue.recover(now=now, lease_s=LEASE_S) == []
    assert states(queue) == ["Running", "Failed"]
    after = now + timedelta(seconds=store.lease_s + 1)
    queue.recover(now=after, lease_s=LEASE_S)
    assert states(queue) == ["Waiting", "Failed"]


def test_what_kills_its_process_again_and_again_is_given_up(queue: SlotQueue):
    queue.add(slots(1), now=NOON)
    for _ in range(MAX_TRIES - 1):
        (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
        assert queue.bury(slot, "its process was killed by signal 11", now=NOON) is None
    (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    given_up = queue.bury(slot, "its process was killed by signal 11", now=NOON)
    assert given_up is not None
    assert given_up.message == f"given up after {MAX_TRIES} tries: its process was killed by signal 11"
    assert states(queue) == ["Crashed"]


def test_what_its_own_service_has_killed_is_no_try(queue: SlotQueue):
    queue.add(slots(1), now=NOON)
    for _ in range(2 * MAX_TRIES):
        (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
        assert queue.bury(slot, "its process was killed by signal 9", now=NOON, is_try=False) is None
    assert queue.all()[0].tries == 0


def test_leases_of_slots_and_their_runs_are_renewed_together_and_those_of_others_are_not(
    store: RelationalRunStore, queue: SlotQueue
):
    queue.add(slots(4), now=NOON)
    claimed = queue.claim("me:1", 4, now=NOON + 3 * SECOND, lease_s=LEASE_S)
    mine, ended, taken, given_back = claimed
    for slot in (mine, ended, taken):
        store.create_run(RunRecord(slot.run_id, "etl", NOON), now=NOON)
    store.finish_run(store.take_over(ended.run_id, now=NOON + 60 * SECOND), "Failed", end=NOON)
    store.take_over(taken.run_id, now=NOON + 60 * SECOND)  # by somebody beside the services
    queue.release(given_back, now=NOON)
    queue.renew(claimed, now=NOON + 600 * SECOND, lease_s=LEASE_S)
    until = NOON + 630 * SECOND
    assert [slot.lease_until for slot in queue.all()] == [until, until, until, None]
    leases = [store.get_run(slot.run_id, now=NOON).lease_until for slot in (mine, ended, taken)]
    assert leases == [until, None, NOON + (60 + store.lease_s) * SECOND]
    queue.renew([], now=NOON, lease_s=LEASE_S)


def test_a_lease_that_is_over_takes_nothing_from_a_process_that_is_seen_to_live(
    store: RelationalRunStore, queue: SlotQueue
):
    queue.add(slots(2), now=NOON)
    begun, waiting = queue.claim("service:1", 2, now=NOON + SECOND, lease_s=1)
    queue.begin(begun.run_id, begun.token, now=NOON + SECOND, lease_s=1)
    store.create_run(RunRecord(begun.run_id, "etl", NOON), now=NOON)
    later = NOON + 600 * SECOND
    asked: list[str] = []
    assert queue.recover(now=later, lease_s=LEASE_S, lives=lambda owner: not asked.append(owner)) == []
    assert asked == [name_process()]  # who has begun it; a service that lives may have lost its claim
    assert states(queue) == ["Running", "Waiting"]
    assert store.get_run(begun.run_id, now=later).state == "Running"
    assert claim(queue, at=601) == [waiting.run_id]


HANDS = {
    "released": lambda queue, slot, now: queue.release(slot, "handed over", now=now, is_try=False),
    "given back": lambda queue, slot, now: queue.give_back([slot], now=now),
    "its process died": lambda queue, slot, now: queue.bury(slot, "its process was killed by signal 9", now=now),
    "killed by its service": lambda queue, slot, now: queue.bury(slot, "killed", now=now, is_try=False),
    "its machine was lost": lambda queue, slot, now: queue.recover(now=now + 600 * SECOND, lease_s=LEASE_S),
}


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("how", HANDS)
def test_what_is_to_be_cancelled_never_waits_again(
    store: RelationalRunStore, queue: SlotQueue, how: str, has_begun: bool
):
    queue.add(slots(1), now=NOON)
    (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    if has_begun:
        queue.begin(slot.run_id, slot.token, now=NOON, lease_s=LEASE_S)
        store.create_run(RunRecord(slot.run_id, "etl", NOON), now=NOON)
    queue.cancel(slot.run_id, now=NOON)
    assert queue.cancelled() == [(slot.run_id, slot.token)]
    HANDS[how](queue, slot, NOON)
    (found,) = queue.all()
    assert (found.state, found.ended is not None, found.lease_until) == ("Cancelled", True, None)
    assert "cancel" in found.message
    assert queue.cancelled() == []
    assert claim(queue, at=10_000) == []


@pytest.mark.parametrize(("state", "message"), [("Cancelled", "interrupted by a service that ended"), ("Paused", "")])
def test_a_run_that_was_put_down_for_others_waits_though_its_process_died_before_it_could_say_so(
    store: RelationalRunStore, queue: SlotQueue, state: str, message: str
):
    queue.add(slots(1), now=NOON)
    (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    queue.begin(slot.run_id, slot.token, now=NOON, lease_s=LEASE_S)
    ownership = store.create_run(RunRecord(slot.run_id, "etl", NOON), now=NOON)
    store.finish_run(ownership, state, end=NOON, message=message)
    assert queue.bury(slot, "its process was killed by signal 9", now=NOON) is None
    assert claim(queue) == [slot.run_id]


def take_up(store: RelationalRunStore, queue: SlotQueue) -> Slot:
    (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    begun = queue.begin(slot.run_id, slot.token, now=NOON, lease_s=LEASE_S)
    store.take_over(slot.run_id, now=NOON)
    return begun.slot


def cancelled(queue: SlotQueue, slot: Slot) -> Slot:
    queue.cancel(slot.run_id, now=NOON)
    return slot


ENDS = {
    "while it waits": lambda store, queue, run_id: queue.cancel(run_id, now=NOON),
    "with others": lambda store, queue, run_id: queue.cancel_group("dates", now=NOON),
    "when it is put down": lambda store, queue, run_id: queue.release(
        cancelled(queue, take_up(store, queue)), now=NOON + 60 * SECOND
    ),
    "when its claim is given back": lambda store, queue, run_id: queue.give_back(
        [cancelled(queue, queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)[0])], now=NOON
    ),
    "with its process": lambda store, queue, run_id: queue.bury(
        cancelled(queue, take_up(store, queue)), "killed", now=NOON
    ),
    "when its lease is over": lambda store, queue, run_id: queue.recover(
        now=cancelled(queue, take_up(store, queue)).due + 60 * SECOND, lease_s=LEASE_S
    ),
    "as one that does not load": lambda store, queue, run_id: queue.finish(
        queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)[0], "Failed", now=NOON
    ),
    "though its end could not be recorded": lambda store, queue, run_id: queue.finish(
        take_up(store, queue), "Failed", now=NOON
    ),
}


@pytest.mark.parametrize("way", ENDS)
def test_a_run_that_has_begun_ends_with_its_slot(store: RelationalRunStore, queue: SlotQueue, way: str):
    queue.add(slots(1, group="dates"), now=NOON)
    (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    queue.begin(slot.run_id, slot.token, now=NOON, lease_s=LEASE_S)
    ownership = store.create_run(RunRecord(slot.run_id, "etl", NOON), now=NOON)
    store.finish_run(ownership, "Paused", end=None, message="waits for a retry")
    queue.release(slot, now=NOON, is_try=False)
    ENDS[way](store, queue, slot.run_id)
    found, record = queue.get(slot.run_id), store.get_run(slot.run_id, now=NOON)
    assert found is not None
    assert found.state in ("Cancelled", "Failed")
    assert (record.state, record.message, record.lease_until) == (found.state, found.message, None)
    assert record.end is not None
    with pytest.raises(StaleOwner):
        store.finish_run(ownership, "Success", end=NOON)


def test_nobody_waits_for_the_lease_of_a_process_that_is_known_to_be_dead(store: RelationalRunStore, queue: SlotQueue):
    queue.add(slots(1), now=NOON)
    (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    queue.begin(slot.run_id, slot.token, now=NOON, lease_s=LEASE_S)
    store.create_run(RunRecord(slot.run_id, "etl", NOON), now=NOON)
    queue.bury(slot, "its process was killed by signal 9", now=NOON)
    assert store.get_run(slot.run_id, now=NOON).state == "Interrupted"
    assert store.take_over(slot.run_id, owner="another:1", now=NOON).epoch == 2


def test_what_is_handed_over_is_no_try(queue: SlotQueue):
    queue.add(slots(1), now=NOON)
    for _ in range(2 * MAX_TRIES):
        (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
        assert queue.release(slot, "handed over", now=NOON, is_try=False)
    assert queue.all()[0].tries == 0


def test_a_claim_that_ran_out_is_a_try_only_if_a_process_had_begun_it(queue: SlotQueue):
    queue.add(slots(2), now=NOON)
    for number in range(2 * MAX_TRIES):
        now = NOON + (60 + number) * SECOND
        claimed = {slot.run_id: slot for slot in queue.claim("me:1", 2, now=now, lease_s=0)}
        begun = claimed[slots(1)[0].run_id]
        if number < MAX_TRIES:
            assert queue.begin(begun.run_id, begun.token, now=now, lease_s=0).slot.started == now
        given_up = queue.recover(now=now, lease_s=LEASE_S)
        assert [slot.run_id for slot in given_up] == [begun.run_id] * (number == MAX_TRIES - 1)
        if given_up:
            queue.again(slots(1)[0], now=now)
    assert [(slot.state, slot.tries) for slot in queue.all()] == [("Waiting", 0), ("Waiting", 0)]


def test_a_process_is_told_of_the_run_and_the_flow_when_it_begins(store: RelationalRunStore, queue: SlotQueue):
    queue.add(slots(1), now=NOON)
    (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    first = queue.begin(slot.run_id, slot.token, now=NOON, lease_s=LEASE_S)
    assert (first.run_state, first.run_lease, first.flow_changed) == (None, None, None)
    flow = put_flow(store)
    ownership = store.create_run(RunRecord(slot.run_id, "etl", NOON), now=NOON)
    assert queue.begin(slot.run_id, slot.token, now=NOON, lease_s=LEASE_S).run_lease == NOON + timedelta(
        seconds=store.lease_s
    )
    store.finish_run(ownership, "Failed", end=NOON, message="why")
    again = queue.begin(slot.run_id, slot.token, now=NOON + SECOND, lease_s=LEASE_S)
    assert (again.run_state, again.run_message, again.run_lease) == ("Failed", "why", None)
    assert again.flow_changed == flow.changed
    assert again.slot.started == NOON


def test_cancelling(queue: SlotQueue):
    queue.add(slots(2), now=NOON)
    (running,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    for slot in queue.all():
        queue.cancel(slot.run_id, now=NOON)
    assert queue.is_cancelled(running)
    assert states(queue) == ["Running", "Cancelled"]
    with pytest.raises(RunNotFound, match="no run 'x' waits or runs here"):
        queue.cancel("x", now=NOON)


def test_a_group_is_cancelled_as_one_and_who_has_asked_for_it_is_told(queue: SlotQueue):
    queue.add(slots(4, origin="backfill", group="g", group_most=4), now=NOON)
    rests = rest(queue, until_s=60)
    done, running = queue.claim("me:1", 2, now=NOON + 2 * SECOND, lease_s=LEASE_S)
    queue.finish(done, "Success", now=NOON)
    queue.add(slots(1, flow="other", group="h"), now=NOON)
    found = queue.cancel_group("g", by="ann@host", now=NOON)
    assert [(slot.run_id, slot.state) for slot in found] == [
        (rests.run_id, "Waiting"),
        (running.run_id, "Running"),
        (slots(4)[3].run_id, "Waiting"),
    ]
    told = {slot.run_id: (slot.state, slot.message) for slot in queue.all(group="g")}
    assert told == {
        done.run_id: ("Success", ""),
        running.run_id: ("Running", "a request of ann@host to cancel it"),
        rests.run_id: ("Cancelled", "cancelled by ann@host before it went on"),
        slots(4)[3].run_id: ("Cancelled", "cancelled by ann@host before it began"),
    }
    assert queue.cancelled() == [(running.run_id, running.token)]
    assert queue.cancel_group("g", now=NOON)
    assert queue.cancel_group("", now=NOON) == queue.cancel_group("x", now=NOON) == []
    assert queue.counts(group="h") == {"Waiting": 1}


def test_a_run_that_is_over_may_wait_again_and_one_that_is_not_may_not(queue: SlotQueue):
    (slot,) = slots(1)
    assert queue.again(slot, now=NOON)
    assert not queue.again(slot, now=NOON)
    (claimed,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    assert not queue.again(slot, now=NOON)
    queue.finish(claimed, "Failed", now=NOON)
    assert queue.again(slot, now=NOON)


# The registry ---------------------------------------------------------------------------------------------------------


def test_a_version_changes_with_the_fingerprint_only(store: RelationalRunStore):
    flows = FlowTable(store.database)
    assert [put_flow(store).version, put_flow(store, labels=("a",)).version] == [1, 1]
    assert flows.put(FlowRecord("etl", "code-2"), now=NOON).version == 2
    assert flows.get("etl").fingerprint == "code-2"


def test_each_change_is_seen(store: RelationalRunStore):
    flows = FlowTable(store.database)
    before = flows.revision()
    for change in (
        lambda: put_flow(store),
        lambda: put_flow(store),  # within the same microsecond, for all that is known
        lambda: flows.pause("etl", True, now=NOON),
        lambda: flows.pause("etl", False, now=NOON),
        lambda: flows.remove("etl"),
    ):
        change()
        assert flows.revision() != before
        before = flows.revision()


def test_an_unknown_flow_is_told_with_those_that_there_are(store: RelationalRunStore):
    flows = FlowTable(store.database)
    with pytest.raises(FlowNotRegistered, match="it has none; `anabranch register FILE` adds them"):
        flows.get("etl")
    put_flow(store, "daily")
    with pytest.raises(FlowNotRegistered, match="no flow 'dayly'; did you mean 'daily'"):
        flows.remove("dayly")


def test_names_of_users_are_only_ever_values(store: RelationalRunStore, queue: SlotQueue):
    name = "x'; DROP TABLE anabranch_flows; -- %s ? {text}"
    put_flow(store, name, max_runs=1)
    queue.add(slots(2, flow=name), now=NOON)
    assert len(claim(queue)) == 1
    assert [each.name for each in FlowTable(store.database).all()] == [name]


# Damaged rows ---------------------------------------------------------------------------------------------------------

BROKEN = ["", "{", "[1", "5", "null", '"text"', "\\u0000", "[" * 5_000]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_a_slot_that_cannot_be_read_is_its_own_problem(store: RelationalRunStore, queue: SlotQueue, broken: str):
    # given
    first, second = slots(2)
    queue.add([first, second], now=NOON)
    assignments = "parameters = ?, labels = ?, approve = ?"
    store.database.write(
        lambda transaction: transaction.execute(
            f"UPDATE anabranch_slots SET {assignments} WHERE run_id = ?", (broken, broken, broken, first.run_id)
        )
    )
    # then
    assert claim(queue) == [first.run_id, second.run_id]
    assert [each.damage for each in queue.all()] == ["parameters, labels, approve", ""]


def test_a_run_whose_slot_cannot_be_read_fails_and_says_why(tmp_path: Path):
    with config.set(backend=f"sqlite:///{tmp_path}/runs.db"):
        store, _, queue = registry()
        put_flow(store)
        queue.add(slots(1), now=NOON)
        store.database.write(lambda transaction: transaction.execute("UPDATE anabranch_slots SET parameters = '{'"))
        (claimed,) = queue.claim("me:1", 1, now=read_clock(store), lease_s=LEASE_S)

        run_job(Job(claimed.run_id, claimed.token))

        (found,) = queue.all()
    assert (found.state, found.message) == ("Failed", "its parameters in the queue cannot be read; start it again")


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_a_flow_that_cannot_be_read_is_its_own_problem(store: RelationalRunStore, broken: str):
    # given
    for name in ("bad", "good"):
        put_flow(store, name)
    store.database.write(
        lambda transaction: transaction.execute(
            "UPDATE anabranch_flows SET parameters = ?, labels = ?, graph = ? WHERE flow_name = 'bad'", (broken,) * 3
        )
    )
    # then
    table = FlowTable(store.database)
    assert [(each.name, each.damage) for each in table.all()] == [("bad", "parameters, labels"), ("good", "")]
    with pytest.raises(FlowLoadError, match="flow 'bad': its parameters, labels in the registry cannot be read"):
        load_registered(table.get("bad"))


def test_labels_of_a_run_that_cannot_be_read_hide_no_other_run(store: RelationalRunStore):
    # given
    for name in ("bad", "good"):
        store.create_run(RunRecord(name, "etl", NOON))
    store.database.write(
        lambda transaction: transaction.execute("UPDATE anabranch_runs SET labels = '{' WHERE run_id = 'bad'")
    )
    # then
    assert {each.run_id for each in store.list_runs()} == {"bad", "good"}


@pytest.mark.parametrize("policies", [{}, {"max_runs": 3}, {"overlap": "cancel_previous"}, {"overlap": "skip"}])
def test_slots_that_have_ended_cost_a_turn_nothing(policies: dict[str, object]):
    def steps(ended: int) -> int:
        """What SQLite does for a turn with so many slots that have ended, in its own instructions."""
        with open_store("memory://") as store:
            queue = SlotQueue(store.database)  # type: ignore[attr-defined]
            put_flow(store, **policies)  # type: ignore[arg-type]
            past = [replace(slot, run_id=f"past-{n}", state="Success") for n, slot in enumerate(slots(ended))]
            queue.add([*past, *slots(2)], now=NOON)
            count = 0

            def note() -> None:
                nonlocal count
                count += 1

            store.database._connection.set_progress_handler(note, 1)  # type: ignore[attr-defined]
            queue.next_due()
            assert queue.claim("me:1", 10, now=NOON + 50 * SECOND, lease_s=LEASE_S)
            queue.renew([], now=NOON, lease_s=LEASE_S)
            queue.recover(now=NOON + 50 * SECOND, lease_s=LEASE_S)
            queue.cancelled()
            queue.cancel_group("nightly", now=NOON)
            queue.parts("run-1")
            return count

    assert steps(1_000) < 1.5 * steps(10)


@pytest.mark.parametrize("ask", ["add", "again"])
def test_who_listens_hears_at_once_of_what_is_asked_for(
    ask: str, request: pytest.FixtureRequest, store: RelationalRunStore, queue: SlotQueue
):
    if store.database.describe()["kind"] == "memory":
        return  # who shares it is in this process
    queue.counts()  # which makes the tables
    news, heard = store.database.news(0.01), threading.Event()
    next(news)  # it listens
    while next(news):
        pass

    def listen() -> None:
        while not next(news):
            pass
        heard.set()

    listening = threading.Thread(target=listen)
    listening.start()
    if ask == "add":
        assert queue.add(slots(1), now=NOON)
    else:
        assert queue.again(slots(1)[0], now=NOON)
    listening.join(60)
    assert heard.is_set()
    news.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("ended", "state"), [(None, "Waiting"), ("Paused", "Waiting"), ("Failed", "Failed")])
def test_a_run_that_others_have_taken_over_is_left_to_them(
    store: RelationalRunStore, queue: SlotQueue, ended: str | None, state: str
):
    queue.add(slots(1), now=NOON)
    (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
    assert not queue.leave(slot, now=NOON)
    store.create_run(RunRecord(slot.run_id, "etl", NOON), now=NOON)
    assert not queue.leave(slot, now=NOON)  # it is its own
    later = NOON + 3_600 * SECOND
    theirs = store.take_over(slot.run_id, owner="desk:1", now=later)
    if ended is not None:
        store.finish_run(theirs, ended, end=None if ended == "Paused" else later, message="by them")
    assert queue.leave(slot, now=later)
    found = queue.get(slot.run_id)
    assert found is not None
    assert found.state == state
    assert found.tries == (0 if state == "Waiting" else 1)
    lease = store.get_run(slot.run_id).lease_until
    assert (ended is None) == (lease is not None)
    assert lease is None or found.ready == lease
    assert not queue.finish(slot, "Cancelled", now=NOON)


def test_a_run_that_others_hold_does_not_end_with_a_process_that_has_lost_it(
    store: RelationalRunStore, queue: SlotQueue
):
    queue.add(slots(1), now=NOON)
    for number in range(MAX_TRIES):
        (slot,) = queue.claim("me:1", 1, now=NOON, lease_s=LEASE_S)
        queue.begin(slot.run_id, slot.token, now=NOON, lease_s=LEASE_S)
        if number < MAX_TRIES - 1:
            assert queue.bury(slot, "its process died", now=NOON) is None
    store.create_run(RunRecord(slot.run_id, "etl", NOON), now=NOON)
    later = NOON + 3_600 * SECOND
    store.take_over(slot.run_id, owner="desk:1", now=later)
    assert queue.bury(slot, "its process died", now=later) is None
    found = queue.get(slot.run_id)
    assert found is not None
    assert (found.state, found.lease_until) == ("Running", store.get_run(slot.run_id).lease_until)

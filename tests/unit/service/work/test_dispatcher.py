"""A service's turns with a clock and processes of the test's own: days of it in milliseconds."""

from __future__ import annotations

import pickle
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from anabranch.errors import RunStoreUnavailable
from anabranch.runs import RunRecord
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.slot_queue import MAX_TRIES, SlotQueue
from anabranch.runs.store.slots import Slot
from anabranch.runs.store.sqlite import InMemoryRunStore
from anabranch.schedules import CronSchedule, IntervalSchedule, Schedule
from anabranch.service.work.dispatcher import Dispatcher
from anabranch.service.work.messages import RETURNED, Exit

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class World:
    """A store, a clock, and processes that end when they are told to."""

    def __init__(self) -> None:
        self.store = InMemoryRunStore()
        self.flows = FlowTable(self.store.database)
        self.queue = SlotQueue(self.store.database)
        self.now = MIDNIGHT
        self.jumped = timedelta(0)
        """By how much the clock was put forward."""
        self.ran: list[tuple[str, datetime]] = []
        self.problems: list[str] = []
        self.services: list[Dispatcher] = []
        self.launchers: list[Instant] = []

    def register(self, name: str, schedule: object, **options: object) -> None:
        pickled = pickle.dumps(schedule)
        text = repr(schedule)
        self.flows.put(FlowRecord(name, "code", schedule=pickled, schedule_text=text, **options), now=self.now)

    def service(self, capacity: int = 100) -> Dispatcher:
        launcher = Instant(self)
        name = f"host:{len(self.services) + 1}"
        self.launchers.append(launcher)
        service = Dispatcher(
            self.store,
            launcher,
            owner=name,
            capacity=capacity,
            clock=lambda: self.now,
            steady=lambda: (self.now - MIDNIGHT - self.jumped).total_seconds(),
            on_problem=lambda name, why: self.problems.append(name),
        )
        self.services.append(service)
        return service

    def until(self, end: datetime, step: timedelta = timedelta(minutes=1)) -> None:
        """Let all services take turns until then."""
        while self.now < end:
            self.now = min(end, self.now + step)
            self.turn()

    def turn(self) -> None:
        for service in self.services:
            service.turn()

    def times(self, name: str = "etl") -> list[datetime]:
        return [due for flow, due in self.ran if flow == name]


class Instant:
    """Processes that have run as soon as they are started, unless the test holds them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._exits: list[Exit] = []
        self.held: list[Slot] = []
        self.holds = False
        self.stopped: list[str] = []
        self.interrupted: list[str] = []
        self.killed: list[str] = []

    def start(self, slot: Slot) -> None:
        if self.holds:
            self.held.append(slot)
            return
        self._world.ran.append((slot.flow_name, slot.due))
        assert self._world.queue.finish(slot, "Success", now=self._world.now)
        self._exits.append(Exit(slot.run_id, slot.token, 0))

    def end(self, slot: Slot, code: int) -> None:
        self.held.remove(slot)
        self._exits.append(Exit(slot.run_id, slot.token, code))

    def exits(self) -> list[Exit]:
        found, self._exits = self._exits, []
        return found

    def give_back(self) -> None:
        """Let all end that was held, as a nursery does that had no process for it."""
        for slot in list(self.held):
            self.end(slot, RETURNED)

    def stop(self, run_id: str) -> None:
        self.stopped.append(run_id)

    def interrupt(self, run_id: str) -> None:
        self.interrupted.append(run_id)

    def kill(self, run_id: str) -> None:
        self.killed.append(run_id)


@pytest.fixture
def world() -> World:
    return World()


def hourly(policy: str = "latest", **options: object) -> Schedule:
    return IntervalSchedule(3_600, catch_up=policy, **options)


def hours(*numbers: int) -> list[datetime]:
    return [MIDNIGHT + number * HOUR for number in numbers]


def test_each_time_runs_once_though_three_services_look(world: World):
    world.register("etl", hourly())
    for _ in range(3):
        world.service()
    world.until(MIDNIGHT + DAY)
    assert world.times() == hours(*range(1, 25))


def test_a_service_that_is_started_anew_across_a_due_time_runs_it_once(world: World):
    world.register("etl", hourly())
    world.service()
    world.until(MIDNIGHT + HOUR - timedelta(seconds=30))
    world.services.clear()
    world.now += timedelta(seconds=60)
    world.service()
    world.turn()
    world.services.clear()
    world.service()
    world.until(world.now + HOUR / 2)
    assert world.times() == hours(1)


@pytest.mark.parametrize(("policy", "expected"), [("all", range(4, 28)), ("latest", [27]), ("skip", [])])
def test_a_service_that_was_down_for_a_day(world: World, policy: str, expected: list[int]):
    world.register("etl", hourly(policy))
    world.service()
    world.until(MIDNIGHT + 3 * HOUR)
    world.services.clear()
    world.now += DAY + HOUR / 2
    world.service()
    world.until(world.now + HOUR)
    assert world.times() == hours(1, 2, 3, *expected, 28)


@pytest.mark.parametrize(("policy", "expected"), [("all", range(4, 28)), ("latest", [27]), ("skip", [])])
def test_a_clock_that_jumps_a_day_ahead_is_like_a_service_that_was_down(world: World, policy: str, expected: list[int]):
    world.register("etl", hourly(policy))
    world.service()
    world.until(MIDNIGHT + 3 * HOUR)
    world.now += DAY + HOUR / 2
    world.until(world.now + HOUR)
    assert world.times() == hours(1, 2, 3, *expected, 28)


@pytest.mark.parametrize("policy", ["all", "latest", "skip"])
def test_a_clock_that_goes_back_an_hour_repeats_nothing_and_loses_nothing(world: World, policy: str):
    world.register("etl", IntervalSchedule(1_800, catch_up=policy))
    world.service()
    world.until(MIDNIGHT + 3 * HOUR)
    world.now -= HOUR
    world.until(MIDNIGHT + 4 * HOUR)
    assert world.times() == [MIDNIGHT + number * HOUR / 2 for number in range(1, 9)]


def test_a_night_in_which_the_clocks_change_runs_a_daily_job_once(world: World):
    world.now = datetime(2026, 3, 28, 12, tzinfo=UTC)
    world.register("etl", CronSchedule("30 2 * * *", timezone="Europe/Berlin"))
    world.service()
    world.until(datetime(2026, 3, 30, 12, tzinfo=UTC), timedelta(minutes=10))
    assert [f"{each.astimezone(UTC):%d %H:%M}" for each in world.times()] == ["29 01:00", "30 00:30"]
    world.now = datetime(2026, 10, 24, 12, tzinfo=UTC)
    world.turn()  # half a year has passed: the latest of it
    world.ran.clear()
    world.until(datetime(2026, 10, 26, 12, tzinfo=UTC), timedelta(minutes=10))
    assert [f"{each.astimezone(UTC):%d %H:%M}" for each in world.times()] == ["25 00:30", "26 01:30"]


def test_flows_may_come_change_pause_and_go_while_it_serves(world: World):
    world.service()
    world.turn()
    world.register("etl", hourly())
    world.until(MIDNIGHT + 2 * HOUR)
    world.flows.pause("etl", True, now=world.now)
    world.until(MIDNIGHT + 4 * HOUR)
    world.flows.pause("etl", False, now=world.now)
    world.until(MIDNIGHT + 5 * HOUR)
    world.register("etl", IntervalSchedule(2 * 3_600))
    world.until(MIDNIGHT + 8 * HOUR)
    world.flows.remove("etl")
    world.until(MIDNIGHT + 9 * HOUR)
    world.until(MIDNIGHT + 12 * HOUR)
    assert world.times() == hours(1, 2, 5, 6, 8)


def test_a_flow_that_is_registered_again_unchanged_loses_no_time(world: World):
    world.register("etl", hourly("all"))
    world.now += 3 * HOUR + HOUR / 2
    world.register("etl", hourly("all"))
    world.service()
    world.turn()
    assert world.times() == hours(1, 2, 3)


CALENDAR = {"open": True}


def is_open(moment: datetime) -> bool:
    return CALENDAR["open"]


def refuses(moment: datetime) -> bool:
    raise LookupError("no such calendar")


def test_a_schedule_that_breaks_is_told_of_and_the_others_go_on(world: World, caplog: pytest.LogCaptureFixture):
    world.register("broken", b"no pickle of a schedule")
    world.register("filtered", IntervalSchedule(60))
    world.flows.put(
        FlowRecord("raises", "code", schedule=pickle.dumps(hourly(filters=[refuses])), schedule_text="x"), now=world.now
    )
    world.register("seconds", IntervalSchedule(1, catch_up="all"))
    world.register("etl", hourly())
    world.service()
    world.now += DAY
    world.turn()
    assert world.times() == hours(24)
    problems = world.services[0].timetable.problems
    assert sorted(problems) == ["broken", "raises", "seconds"]
    assert "expected a schedule, found a bytes" in problems["broken"]
    assert "LookupError" in problems["raises"]
    assert "more than 10,000 times were missed" in problems["seconds"]
    assert caplog.text.count("its schedule cannot be followed, and is tried again") == 3
    world.until(world.now + HOUR)
    assert caplog.text.count("and is tried again") == 3  # once each
    assert sorted(world.problems) == ["broken", "raises", "seconds"]


@pytest.mark.parametrize(("policy", "expected"), [("all", range(4, 7)), ("latest", [6]), ("skip", [])])
def test_a_schedule_that_cannot_be_followed_for_a_while_goes_on(
    world: World, policy: str, expected: list[int], caplog: pytest.LogCaptureFixture
):
    record = FlowRecord("etl", "code", schedule=pickle.dumps(hourly(policy, filters=[is_open])), schedule_text="x")
    world.flows.put(record, now=world.now)
    service = world.service()
    world.until(MIDNIGHT + 3 * HOUR)
    CALENDAR.clear()
    world.until(MIDNIGHT + 6 * HOUR + HOUR / 2)
    assert "KeyError" in service.timetable.problems["etl"]
    assert world.times() == hours(1, 2, 3)
    CALENDAR["open"] = True
    world.until(MIDNIGHT + 8 * HOUR)
    assert world.times() == hours(1, 2, 3, *expected, 7, 8)
    assert service.timetable.problems == {}
    assert "flow etl: its schedule is followed again" in caplog.text


def test_a_schedule_whose_modules_come_later_is_followed_then(world: World, monkeypatch: pytest.MonkeyPatch):
    def fails(record: FlowRecord) -> None:
        raise ModuleNotFoundError("No module named 'calendar_of_ours'")

    world.register("etl", hourly())
    service = world.service()
    with monkeypatch.context() as patched:
        patched.setattr("anabranch.service.work.timetable.schedule_of", fails)
        world.until(MIDNIGHT + HOUR / 2)
        assert "calendar_of_ours" in service.timetable.problems["etl"]
    world.until(MIDNIGHT + 2 * HOUR)
    assert world.times() == hours(1, 2)


def test_a_problem_of_a_flow_that_was_removed_is_forgotten(world: World):
    world.register("broken", b"no pickle of a schedule")
    service = world.service()
    world.turn()
    assert set(service.timetable.problems) == {"broken"}
    world.flows.remove("broken")
    world.until(MIDNIGHT + HOUR)
    assert service.timetable.problems == {}
    assert service.next_turn() is None


def test_no_more_runs_than_the_capacity_go_on(world: World):
    world.register("etl", IntervalSchedule(60, catch_up="all"))
    service = world.service(capacity=3)
    world.launchers[0].holds = True
    world.now += 10 * timedelta(minutes=1)
    world.turn()
    world.turn()
    assert len(service.running) == 3
    world.launchers[0].end(world.launchers[0].held[0], 1)
    world.turn()
    assert len(service.running) == 3


def test_a_process_that_dies_has_its_run_tried_again_and_given_up_in_the_end(world: World):
    world.queue.add([Slot("r", "etl", MIDNIGHT)], now=MIDNIGHT)
    world.service()
    launcher = world.launchers[0]
    launcher.holds = True
    for _ in range(MAX_TRIES):
        world.turn()
        (slot,) = launcher.held
        if slot.tries == 1:
            world.store.create_run(RunRecord("r", "etl", MIDNIGHT), now=MIDNIGHT)
        launcher.end(slot, -11)
    world.turn()
    assert launcher.held == []
    record = world.store.get_run("r", now=world.now)
    assert (record.state, record.message) == (
        "Crashed",
        f"given up after {MAX_TRIES} tries: its process was killed by signal 11",
    )


def test_a_process_that_ends_late_takes_nothing_from_the_one_that_has_its_run_now(world: World):
    # given a process that has put its run down, and another that has it since
    world.queue.add([Slot("r", "etl", MIDNIGHT)], now=MIDNIGHT)
    service = world.service()
    launcher = world.launchers[0]
    launcher.holds = True
    world.turn()
    world.queue.give_back(launcher.held, now=world.now)
    world.turn()
    late, mine = launcher.held
    assert late.token != mine.token
    # when the first ends
    launcher.end(late, -9)
    service.turn()
    # then
    assert service.running == {"r": mine}
    assert service.deaths == 0
    launcher.end(mine, -9)
    service.turn()
    assert service.deaths == 1


def test_a_service_that_dies_has_its_runs_taken_over_when_their_leases_are_over(world: World):
    world.register("etl", hourly())
    world.service()
    world.launchers[0].holds = True
    world.until(MIDNIGHT + HOUR)
    assert len(world.launchers[0].held) == 1
    world.services.clear()
    world.service()
    world.turn()
    assert world.times() == []
    world.until(world.now + timedelta(seconds=world.store.lease_s + 10), timedelta(seconds=1))
    assert world.times() == hours(1)


def test_a_service_takes_no_run_from_its_own_processes_nor_from_those_of_others(world: World):
    world.queue.add([Slot("r", "etl", MIDNIGHT)], now=MIDNIGHT)
    world.service()
    world.launchers[0].holds = True
    world.turn()
    (slot,) = world.launchers[0].held
    world.queue.begin("r", slot.token, now=world.now, lease_s=world.store.lease_s)
    world.store.create_run(RunRecord("r", "etl", MIDNIGHT), now=world.now)
    world.services.insert(0, world.service())
    del world.services[-1]  # it looks first
    for step in (
        timedelta(seconds=1),
        DAY,
        timedelta(minutes=10),
        -HOUR,
        DAY,
    ):  # a clock that jumps, a machine that sleeps
        world.now += step
        world.turn()
        world.until(world.now + 3 * timedelta(seconds=world.store.lease_s), timedelta(seconds=1))
    assert world.ran == []
    (slot,) = world.queue.all()
    assert (slot.state, slot.tries) == ("Running", 1)
    assert world.store.get_run("r", now=world.now).state == "Running"


def test_what_was_lost_is_taken_up_a_lease_after_a_clock_has_jumped(world: World):
    world.queue.add([Slot("r", "etl", MIDNIGHT)], now=MIDNIGHT)
    world.service()
    world.launchers[0].holds = True
    world.turn()
    world.service()
    world.turn()
    del world.services[0]
    world.now += DAY
    world.turn()
    assert world.ran == []
    world.until(world.now + timedelta(seconds=world.store.lease_s + 10), timedelta(seconds=1))
    assert world.times() == [MIDNIGHT]


def test_a_cancelled_run_is_interrupted_and_its_process_is_killed_if_it_does_not_end(world: World):
    world.register("etl", hourly(), overlap="cancel_previous")
    service = world.service()
    launcher = world.launchers[0]
    launcher.holds = True
    world.until(MIDNIGHT + HOUR)
    (slot,) = launcher.held
    world.queue.begin(slot.run_id, slot.token, now=world.now, lease_s=30)
    world.store.create_run(RunRecord(slot.run_id, "etl", world.now), now=world.now)
    world.until(MIDNIGHT + 2 * HOUR)
    world.until(world.now + timedelta(seconds=14), timedelta(seconds=1))
    assert (launcher.interrupted, launcher.killed) == ([slot.run_id], [])
    world.until(world.now + timedelta(seconds=3), timedelta(seconds=1))
    assert launcher.interrupted == [slot.run_id]
    assert set(launcher.killed) == {slot.run_id}
    launcher.end(slot, -9)
    world.turn()
    record = world.store.get_run(slot.run_id, now=world.now)
    assert (record.state, record.message) == (
        "Cancelled",
        "interrupted by a later time; its process was killed by signal 9",
    )
    assert service.deaths == 1
    world.until(world.now + timedelta(seconds=2), timedelta(seconds=1))
    assert [each.due for each in launcher.held] == hours(2)


def late(world: World, timeout_s: float, **options: object) -> tuple[Slot, Instant]:
    """A run that has begun, of a flow with a timeout, whose process does not end by itself."""
    world.flows.put(FlowRecord("etl", "code", timeout_s=timeout_s), now=MIDNIGHT)
    world.queue.add([Slot("r", "etl", MIDNIGHT, **options)], now=MIDNIGHT)
    world.service()
    (launcher,) = world.launchers
    launcher.holds = True
    world.turn()
    (slot,) = launcher.held
    world.queue.begin("r", slot.token, now=world.now, lease_s=30)
    world.store.create_run(RunRecord("r", "etl", world.now), now=world.now)
    return slot, launcher


def test_a_run_that_does_not_end_after_its_timeout_is_killed_and_is_not_tried_again(world: World):
    slot, launcher = late(world, 60)
    world.until(MIDNIGHT + timedelta(seconds=74), timedelta(seconds=1))
    assert launcher.killed == []
    world.until(MIDNIGHT + timedelta(seconds=77), timedelta(seconds=1))
    assert set(launcher.killed) == {"r"}
    launcher.end(slot, -9)
    world.turn()
    (ended,) = world.queue.all()
    record = world.store.get_run("r", now=world.now)
    assert ended.state == record.state == "TimedOut"
    text = "the run took longer than its timeout of 60 s and did not end; its process was killed"
    assert ended.message == record.message == text
    world.until(world.now + HOUR)
    assert launcher.held == []


def test_a_run_that_ends_by_itself_at_the_last_moment_is_what_it_says(world: World):
    slot, launcher = late(world, 60)
    world.until(MIDNIGHT + timedelta(seconds=77), timedelta(seconds=1))
    world.queue.finish(slot, "Success", now=world.now)
    launcher.end(slot, -9)
    world.turn()
    assert [each.state for each in world.queue.all()] == ["Success"]


def test_a_clock_that_jumps_takes_no_time_from_a_run(world: World):
    _, launcher = late(world, 60)
    world.jumped = DAY
    world.now += DAY
    world.until(world.now + timedelta(seconds=70), timedelta(seconds=1))
    assert launcher.killed == []


def test_what_earlier_processes_of_a_run_have_used_of_its_time_is_not_there_again(world: World):
    _, launcher = late(world, 60, spent=timedelta(seconds=50))
    world.until(MIDNIGHT + timedelta(seconds=27), timedelta(seconds=1))
    assert set(launcher.killed) == {"r"}


def test_processes_that_a_draining_service_kills_are_no_tries(world: World):
    world.queue.add([Slot("r", "etl", MIDNIGHT)], now=MIDNIGHT)
    for _ in range(MAX_TRIES + 1):
        service = world.service()
        launcher = world.launchers[-1]
        launcher.holds = True
        world.turn()
        (slot,) = launcher.held
        world.queue.begin("r", slot.token, now=world.now, lease_s=30)
        service.drain()
        service.kill()
        assert launcher.killed == ["r"]
        launcher.end(slot, -9)
        world.turn()
        world.services.clear()
    (slot,) = world.queue.all()
    assert (slot.state, slot.tries) == ("Waiting", 0)


def test_a_store_that_does_not_answer_for_a_while_costs_no_time(world: World, monkeypatch: pytest.MonkeyPatch):
    world.register("etl", hourly("all"))
    world.service()
    world.turn()

    def down(*args: object, **kwargs: object) -> None:
        raise RunStoreUnavailable("the database does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(FlowTable, "_plan", down)
        world.now += HOUR
        with pytest.raises(RunStoreUnavailable):
            world.turn()
    world.until(MIDNIGHT + 3 * HOUR)
    assert world.times() == hours(1, 2, 3)


@pytest.mark.parametrize(("policy", "left_out"), [("all", 0), ("latest", 10), ("skip", 10)])
def test_what_waited_while_no_service_was_there_follows_the_policy(world: World, policy: str, left_out: int):
    world.register("etl", IntervalSchedule(10, catch_up=policy), catch_up=policy, max_runs=1)
    world.service(capacity=1)
    world.launchers[0].holds = True
    world.until(MIDNIGHT + timedelta(seconds=110), timedelta(seconds=10))
    (slot,) = world.launchers[0].held
    assert world.queue.finish(slot, "Success", now=world.now)
    assert len(world.queue.all(state="Waiting")) == 10
    world.services.clear()
    world.now += HOUR
    world.service()
    for _ in range(20):
        world.turn()
    assert world.queue.counts().get("Skipped", 0) == left_out
    assert all(each > MIDNIGHT + HOUR for each in world.times()) or policy == "all"


def test_draining_claims_nothing_and_hands_over(world: World):
    world.register("etl", hourly())
    service = world.service()
    world.launchers[0].holds = True
    world.until(MIDNIGHT + HOUR)
    world.launchers[0].give_back = lambda: None  # type: ignore[method-assign]  # it has begun
    service.drain()
    world.until(MIDNIGHT + 3 * HOUR)
    service.hand_over()
    (slot,) = world.launchers[0].held
    assert world.launchers[0].stopped == [slot.run_id]
    world.launchers[0].end(slot, 0)
    world.turn()
    assert service.running == {}


def test_clocks_give_their_parameters(world: World):
    schedule = hourly(parameter_defaults={"day": "2026-01-01"}, labels=["x"])
    world.register("etl", schedule)
    world.service()
    world.launchers[0].holds = True
    world.until(MIDNIGHT + HOUR)
    (slot,) = world.launchers[0].held
    assert (dict(slot.parameters), slot.labels, slot.origin) == ({"day": "2026-01-01"}, ("x",), "schedule")


def test_thousands_of_flows_share_a_turn(world: World):
    schedule = pickle.dumps(CronSchedule("*/5 * * * *"))
    for number in range(300):
        world.flows.put(FlowRecord(f"flow-{number}", "code", schedule=schedule, schedule_text="x"), now=MIDNIGHT)
    world.service(capacity=1_000)
    world.service(capacity=1_000)
    world.until(MIDNIGHT + HOUR / 2)
    counts = Counter(name for name, _ in world.ran)
    assert set(counts.values()) == {6}
    assert len(counts) == 300


def test_draining_lets_others_have_what_no_process_has_begun(world: World):
    world.register("etl", hourly())
    service = world.service()
    world.launchers[0].holds = True
    world.until(MIDNIGHT + HOUR)
    service.drain()
    world.turn()
    world.turn()
    assert service.running == {}
    assert [(slot.state, slot.tries) for slot in world.queue.all()] == [("Waiting", 0)]
    world.service()
    world.turn()
    assert world.times() == hours(1)


def hundred_a_second(world: World, seconds: int) -> Dispatcher:
    """A service with two processes that has run a hundred a second for so long, and now holds what it starts."""
    world.queue.add([Slot(f"{number:06}", "etl", MIDNIGHT) for number in range(100 * (seconds + 3))], now=MIDNIGHT)
    service = world.service(capacity=2)
    while len(world.ran) < 100 * seconds:
        world.now += timedelta(milliseconds=20)
        world.turn()
    world.launchers[0].holds = True
    return service


def test_as_many_more_are_claimed_as_begin_soon_at_the_pace_there_is(world: World):
    service = hundred_a_second(world, 2)
    world.now += timedelta(milliseconds=20)
    world.turn()
    assert 2 + 10 < len(service.running) < 2 + 50  # a quarter of a second is 25; the pace rises with what is ahead
    world.launchers[0].give_back()
    world.now += timedelta(milliseconds=20)
    world.turn()
    assert len(service.running) == 2
    waiting = world.queue.all(state="Waiting")
    assert waiting
    assert {slot.tries for slot in waiting} == {0}


def test_after_a_pause_no_more_are_claimed_than_there_are_processes_for(world: World):
    service = hundred_a_second(world, 2)
    world.now += timedelta(minutes=1)
    world.turn()
    assert len(service.running) == 2


def test_a_service_that_cannot_keep_up_says_so_once_a_minute(world: World, caplog: pytest.LogCaptureFixture):
    world.queue.add([Slot(f"{number:06}", "etl", MIDNIGHT) for number in range(500)], now=MIDNIGHT)
    world.service(capacity=3)
    world.until(MIDNIGHT + timedelta(seconds=10), timedelta(seconds=1))
    assert caplog.text == ""
    world.until(MIDNIGHT + timedelta(seconds=50), timedelta(seconds=1))
    assert [record.getMessage()[:58] for record in caplog.records] == [
        "runs begin 11 s late: all 3 processes of this service are "
    ]
    assert "--runs-per-process" in caplog.text

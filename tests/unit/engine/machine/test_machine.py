"""What the machine commands when something happens: stimuli in, commands out, on a cluster that is a dictionary."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.fake_cluster import FakeCluster
from tests.machine_checks import check

from anabranch import Flow, context, signals, task, triggers, unmapped
from anabranch.base.events import MapAdvanced, TaskChanged, UnitLost
from anabranch.engine.machine.stimuli import Finish, Lost, Release, Reported, Submit, Tell, Uprooted, WakeAt
from anabranch.engine.units.units import Unit
from anabranch.states import Cancelled, Crashed, Paused


@task
def one() -> int:
    return 1


@task
def increment(x: int) -> int:
    return x + 1


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task(trigger=triggers.all_finished)
def kinds(xs: Any) -> Any:
    """What a task sees, with the names of exceptions in their place."""
    seen = [type(x).__name__ if isinstance(x, BaseException) else x for x in (xs if isinstance(xs, list) else [xs])]
    return seen if isinstance(xs, list) else seen[0]


def value_of(cluster: FakeCluster, node: Any) -> Any:
    """The value of a single node, wherever it is kept."""
    run = cluster.machine.runs[node.slug]
    if run.value is not None:
        return pickle.loads(run.value)
    assert run.key is not None
    return cluster.outcomes[run.key].singles[node.slug].value


def submitted(commands: list[Any]) -> list[Unit]:
    """Units that are sent by some commands."""
    return [unit for command in commands if isinstance(command, Submit) for unit in command.units]


def indices_of(units: list[Unit]) -> list[int]:
    """All elements in some chunks, in order."""
    return sorted(index for unit in units for index in unit.indices or ())


def run_until_done(cluster: FakeCluster, kills: Callable[[Unit], bool]) -> Counter[int]:
    """Go on to the end; units that `kills` names take their worker with them. How often each element was begun."""
    begun: Counter[int] = Counter()
    while not cluster.is_finished:
        if not cluster.runnable():
            cluster.wake()
            continue
        unit = cluster.runnable()[0]
        begun.update(unit.indices or ())
        if kills(unit):
            cluster.crash(unit)
        else:
            cluster.go(unit)
    return begun


# Regions --------------------------------------------------------------------------------------------------------------


def test_what_is_known_at_the_start_goes_out_in_one_submit_upstreams_first() -> None:
    with Flow("diamond") as flow:
        a = one()
        b, c = increment(a), task(lambda x: x, name="same")(a)
        task(lambda x, y: x + y, name="add")(b, c)
    cluster = FakeCluster(flow)

    commands = cluster.start()

    assert len([command for command in commands if isinstance(command, Submit)]) == 1
    sent = [slug for unit in submitted(commands) for slug in unit.nodes]
    assert sorted(sent) == ["add", "increment", "one", "same"]
    assert sent[0] == "one"
    assert sent[-1] == "add"


def test_a_line_of_single_tasks_is_one_unit_and_each_has_its_state() -> None:
    with Flow("line") as flow:
        node = one()
        for _ in range(499):
            node = increment(node)
    cluster = FakeCluster(flow)

    first = submitted(cluster.start())
    cluster.finish()

    # Until a call of the task has told how long it takes, none is behind another.
    assert [unit.nodes for unit in first] == [("one",), ("increment",)]
    sizes = [len(unit.nodes) for unit in cluster.units]
    assert sum(sizes) == 500
    assert len(sizes) < 10
    assert {run.state.name for run in cluster.machine.runs.values()} == {"Success"}


@pytest.mark.parametrize("options", [{"resources": {"GPU": 1}}, {"priority": 5}])
def test_tasks_that_ask_different_things_of_a_worker_are_not_fused(options: dict[str, Any]) -> None:
    with Flow("line") as flow:
        increment(task(lambda: 1, name="first", **options)())
    cluster = FakeCluster(flow)

    units = submitted(cluster.start())

    assert [unit.nodes for unit in units] == [("first",), ("increment",)]


def test_maps_one_after_the_other_share_chunks() -> None:
    with Flow("chain") as flow:
        increment.map(increment.map(increment.map([1, 2, 3])))
    cluster = FakeCluster(flow)

    units = submitted(cluster.start())

    assert {unit.nodes for unit in units} == {("increment", "increment-1", "increment-2")}


# Independent branches never wait for each other -----------------------------------------------------------------------


def test_a_slow_task_beside_a_map_of_unknown_width_delays_nothing() -> None:
    with Flow("branches") as flow:
        slow = one()
        mapped = increment.map(numbers(8))
        after = increment(total(mapped))
    cluster = FakeCluster(flow)
    cluster.start()

    # when all is run that can be, but for the slow task
    while others := [unit for unit in cluster.runnable() if slow.slug not in unit.nodes]:
        cluster.go(others[0])

    # then the other branch has ended
    assert cluster.state(mapped).name == "Mapped"
    assert cluster.state(after).name == "Success"
    assert cluster.state(slow).name == "Pending"
    assert value_of(cluster, after) == 37


def test_an_element_goes_on_when_its_own_upstream_element_is_done() -> None:
    with Flow("elements") as flow:
        first = task(lambda x: x, name="first", chunksize=2).map(list(range(6)))
        task(lambda x: x, name="second", chunksize=1).map(first)
    cluster = FakeCluster(flow, slots=1)
    cluster.start()

    cluster.go(next(unit for unit in cluster.runnable() if unit.indices == range(2, 4)))

    second = [unit for unit in cluster.submitted.values() if unit.nodes == ("second",)]
    assert indices_of(second) == [2]


def test_a_map_of_two_maps_waits_for_both_elements() -> None:
    with Flow("elements") as flow:
        left = task(lambda x: x, name="left", chunksize=1).map(list(range(2)))
        right = task(lambda x: x, name="right", chunksize=1).map(list(range(2)))
        task(lambda x, y: x + y, name="both").map(left, right)
    cluster = FakeCluster(flow, slots=4)
    cluster.start()

    def go(name: str, index: int) -> list[Unit]:
        return submitted(cluster.go(next(u for u in cluster.runnable() if u.nodes == (name,) and index in u.indices)))

    assert [go("left", 0), go("right", 1)] == [[], []]
    assert indices_of(go("right", 0)) == [0]
    assert indices_of(go("left", 1)) == [1]


# The window -----------------------------------------------------------------------------------------------------------


def test_the_first_chunks_are_one_small_probe_for_each_slot() -> None:
    with Flow("wide") as flow:
        increment.map(list(range(100_000)))
    cluster = FakeCluster(flow, slots=4, engine={"probe_elements": 64})

    probes = submitted(cluster.start())

    assert [len(unit.indices or ()) for unit in probes] == [64] * 4
    assert indices_of(probes) == list(range(256))


def test_a_probe_of_a_short_map_is_a_small_part_of_a_slots_share() -> None:
    with Flow("short") as flow:
        increment.map(list(range(64)))
    cluster = FakeCluster(flow, slots=4)

    probes = submitted(cluster.start())

    assert len(probes) == 4
    assert max(len(unit.indices or ()) for unit in probes) == 2  # an eighth of 64 / 4


def test_never_more_chunks_are_in_flight_than_the_window_has_places() -> None:
    with Flow("wide") as flow:
        task(lambda x: x, name="each", chunksize=10).map(list(range(500)))
    cluster = FakeCluster(flow, slots=3, engine={"chunks_per_slot": 3})
    cluster.start()
    most = 0

    while not cluster.is_finished:
        most = max(most, len(cluster.submitted))
        cluster.go(cluster.runnable()[0])

    assert most == 9
    assert len(cluster.units) == 50


def test_more_slots_make_the_window_wider_at_once() -> None:
    with Flow("wide") as flow:
        task(lambda x: x, name="single", chunksize=1).map(list(range(100)))
    cluster = FakeCluster(flow, slots=1, engine={"chunks_per_slot": 3})
    cluster.start()

    commands = cluster.change_slots(4)

    assert len(submitted(commands)) == 9
    assert len(cluster.submitted) == 12


def test_fewer_slots_let_the_window_drain() -> None:
    with Flow("wide") as flow:
        task(lambda x: x, name="single", chunksize=1).map(list(range(100)))
    cluster = FakeCluster(flow, slots=4, engine={"chunks_per_slot": 3})
    cluster.start()
    cluster.change_slots(1)

    sent = [len(submitted(cluster.go(cluster.runnable()[0]))) for _ in range(10)]

    assert sent == [0] * 9 + [1]


def test_what_a_chunk_hands_back_goes_out_next_and_nothing_is_run_twice() -> None:
    with Flow("hand-back") as flow:
        node = increment.map(list(range(100)))
    cluster = FakeCluster(flow, slots=1, engine={"probe_elements": 10})
    (probe,) = submitted(cluster.start())
    assert probe.indices == range(10)

    chunks = submitted(cluster.go(probe, only=3))

    assert min(indices_of(chunks)) == 3
    cluster.finish()
    assert cluster.element_states(node) == ["Success"] * 100
    reported = [index for report in cluster.delivered for index in report.indices or ()]
    assert sorted(reported) == list(range(100))


# Retries --------------------------------------------------------------------------------------------------------------


def failing_once(*elements: int) -> Any:
    """A task whose first attempt at some elements fails; the second is due after half a minute."""

    def flaky(x: int) -> int:
        if x in elements and context.task_run_count == 1:
            raise ValueError(f"{x} is not ready")
        return x

    return task(flaky, max_retries=1, retry_delay=30, chunksize=10)


def test_retried_elements_come_back_when_they_are_due_and_travel_together() -> None:
    with Flow("retries") as flow:
        node = failing_once(5, 27, 38).map(list(range(40)))
    cluster = FakeCluster(flow, slots=4)
    cluster.start()
    began = cluster.now

    # when everything has run once
    while cluster.runnable():
        cluster.go(cluster.runnable()[0])

    # then nothing is in flight and the machine waits for the time when they are due
    assert [i for i, name in enumerate(cluster.element_states(node)) if name == "Retrying"] == [5, 27, 38]
    assert cluster.wake_at == pytest.approx(began + 30)
    # and one chunk takes all three along
    (unit,) = submitted(cluster.wake())
    assert unit.indices == (5, 27, 38)
    assert unit.attempts == {5: 2, 27: 2, 38: 2}
    assert isinstance(cluster.go(unit)[-1], Finish)
    assert cluster.element_states(node) == ["Success"] * 40


def test_neighbours_of_a_retried_element_do_not_wait_for_it() -> None:
    with Flow("retries") as flow:
        first = failing_once(1).map([0, 1, 2])
        second = task(lambda x: x, name="second").map(first)
    cluster = FakeCluster(flow, slots=1)
    cluster.start()

    while cluster.runnable():
        cluster.go(cluster.runnable()[0])

    names = cluster.element_states(second)
    assert [names[0], names[2]] == ["Success", "Success"]
    assert cluster.state(first).name == "Running"


def test_a_single_task_is_retried_when_it_is_due() -> None:
    with Flow("retries") as flow:
        node = failing_once(3)(3)
    cluster = FakeCluster(flow)
    began = cluster.now
    (unit,) = submitted(cluster.start())

    commands = cluster.go(unit)

    assert WakeAt(pytest.approx(began + 30)) in commands
    assert cluster.state(node).name == "Retrying"
    (again,) = submitted(cluster.wake())
    assert again.attempts == {-1: 2}
    cluster.go(again)
    assert cluster.state(node).name == "Success"
    assert cluster.state(node).attempt == 2


def states_told(cluster: FakeCluster, node: Any) -> list[str]:
    return [each.state.name for each in cluster.events if isinstance(each, TaskChanged) and each.slug == node.slug]


def test_a_task_is_submitted_once_it_waits_for_a_worker_only() -> None:
    # given a task below two others; Dask is given all three at once
    with Flow("two") as flow:
        first, second = one(), increment(1)
        last = kinds([first, second])
    cluster = FakeCluster(flow)
    units = submitted(cluster.start())
    assert len(units) == 3
    assert [states_told(cluster, node) for node in (first, second, last)] == [["Submitted"], ["Submitted"], []]
    # when the first has ended
    cluster.go(units[0])
    assert states_told(cluster, last) == []
    # when both have
    cluster.go(units[1])
    assert states_told(cluster, last) == ["Submitted"]
    cluster.finish()
    assert states_told(cluster, last) == ["Submitted", "Success"]


def test_a_task_of_which_a_worker_has_told_is_not_submitted_again() -> None:
    with Flow("late") as flow:
        last = increment(one())
    cluster = FakeCluster(flow)
    first, _ = submitted(cluster.start())
    # when its worker is heard before the report of what it waited for
    cluster.machine.note_begun(last.slug)
    cluster.go(first)
    # then
    assert states_told(cluster, last) == []


def test_a_task_whose_upstream_is_tried_again_is_pending() -> None:
    with Flow("retries") as flow:
        last = kinds(failing_once(3)(3))
    cluster = FakeCluster(flow)
    unit, *_ = submitted(cluster.start())

    cluster.go(unit)
    cluster.finish()

    assert states_told(cluster, last) == ["Pending", "Submitted", "Success"]


def test_waking_too_early_starts_nothing() -> None:
    with Flow("retries") as flow:
        failing_once(3)(3)
    cluster = FakeCluster(flow)
    (unit,) = submitted(cluster.start())
    cluster.go(unit)

    from anabranch.engine.machine.stimuli import Woke

    commands = cluster.tell(Woke(cluster.now + 29))

    assert submitted(commands) == []
    assert any(isinstance(command, WakeAt) for command in commands)


# Losses ---------------------------------------------------------------------------------------------------------------


def test_a_lost_chunk_comes_back_in_halves() -> None:
    with Flow("lost") as flow:
        task(lambda x: x, name="each", chunksize=8).map(list(range(8)))
    cluster = FakeCluster(flow, slots=2)
    (unit,) = submitted(cluster.start())

    halves = submitted(cluster.crash(unit))

    assert [half.indices for half in halves] == [range(4), range(4, 8)]
    assert all(half.give_up_s is None for half in halves)


def test_the_element_that_ends_its_worker_is_convicted_and_its_neighbours_are_unharmed() -> None:
    with Flow("poison") as flow:
        node = task(lambda x: x, name="each").map(list(range(200)))
        seen = kinds(node)
    cluster = FakeCluster(flow, slots=2, engine={"max_losses": 3})
    cluster.start()

    begun = run_until_done(cluster, lambda unit: 77 in (unit.indices or ()))

    states = cluster.element_states(node)
    assert states[77] == "Crashed"
    assert states.count("Success") == 199
    assert cluster.state(node).name == "Failed"
    # alone, it was lost once more often than it may be
    assert sum(unit.indices is not None and tuple(unit.indices) == (77,) for unit in cluster.units) == 4
    # and no neighbour was begun more often than a chunk of so many elements can be halved, and once more
    assert max(count for index, count in begun.items() if index != 77) <= 9
    assert value_of(cluster, seen)[76:79] == [76, "WorkerLost", 78]


def test_a_crash_says_how_often_and_why() -> None:
    with Flow("poison") as flow:
        node = task(lambda x: x, name="each").map([0, 1])
    cluster = FakeCluster(flow, engine={"max_losses": 1})
    cluster.start()

    run_until_done(cluster, lambda unit: 1 in (unit.indices or ()))

    elements = cluster.machine.runs[node.slug].elements
    assert elements is not None
    state = elements.records[1]
    assert isinstance(state, Crashed)
    assert "it was lost 2 times while each[1] ran" in state.message
    assert "KilledWorker" in state.message
    assert "each[1]" in cluster.machine.flow_state().message


def test_what_can_run_nowhere_is_given_up_at_once_and_the_rest_goes_on() -> None:
    reason = "no worker has offered GPU = 1 for 300 s"
    with Flow("gpu") as flow:
        alone = task(lambda: 1, name="alone", resources={"GPU": 1})()
        each = task(lambda x: x, name="each", resources={"GPU": 1}).map([0, 1, 2])
        below = task(lambda x: x, name="below").map(each)
        plain = task(lambda: 2, name="plain")()
    cluster = FakeCluster(flow)
    cluster.start()

    while any(unit.nodes[0] in ("alone", "each") for unit in cluster.submitted.values()):
        unit = next(unit for unit in cluster.submitted.values() if unit.nodes[0] in ("alone", "each"))
        del cluster.submitted[unit.key]
        cluster.tell(Lost(cluster.now, unit.key, reason, is_vain=True))
    run_until_done(cluster, lambda unit: False)

    assert cluster.state(alone).name == "Crashed"
    assert cluster.state(alone).message == reason
    assert cluster.element_states(each) == ["Crashed"] * 3
    assert cluster.element_states(below) == ["TriggerFailed"] * 3
    assert cluster.state(plain).name == "Success"


def test_losing_a_worker_is_not_an_attempt() -> None:
    with Flow("lost") as flow:
        node = failing_once(1).map([0, 1])
    cluster = FakeCluster(flow, slots=1)
    (unit,) = submitted(cluster.start())
    cluster.crash(unit)
    while cluster.runnable():
        cluster.go(cluster.runnable()[0])

    (again,) = submitted(cluster.wake())
    (once_more,) = submitted(cluster.crash(again))
    cluster.go(once_more)

    assert once_more.attempts == {1: 2}
    elements = cluster.machine.runs[node.slug].elements
    assert elements is not None
    assert elements.records[1].attempt == 2
    assert cluster.element_states(node) == ["Success", "Success"]


def test_a_loss_is_told_with_the_tasks_and_how_many_runs_of_each() -> None:
    with Flow("lost") as flow:
        first = task(lambda x: x, name="first").map(range(100))
        task(lambda x: x, name="second").map(first)
    cluster = FakeCluster(flow, slots=1)
    (unit, *_) = submitted(cluster.start())
    assert unit.indices is not None

    way = cluster.machine.on_their_way()
    cluster.crash(unit)

    assert way["first"] == way["second"] == sum(len(each.indices or ()) for each in cluster.batches[0])
    (lost,) = [event for event in cluster.events if isinstance(event, UnitLost)]
    assert (lost.nodes, lost.elements, lost.indices) == (("first", "second"), len(unit.indices), unit.indices)


def test_what_was_on_its_way_when_the_cluster_went_is_told_as_lost() -> None:
    with Flow("uprooted") as flow:
        task(lambda x: x, name="each").map(range(100))
    cluster = FakeCluster(flow, slots=1)
    cluster.start()
    way = cluster.machine.on_their_way()["each"]

    commands = cluster.machine.handle(Uprooted(cluster.now))

    told = [each.event for each in commands if isinstance(each, Tell) and isinstance(each.event, UnitLost)]
    assert sum(event.elements for event in told) == way > 0


def test_fused_tasks_that_are_lost_run_apart_and_only_the_guilty_one_crashes() -> None:
    with Flow("line") as flow:
        first = increment(increment(one()))
        guilty = task(lambda x: x, name="guilty")(first)
        last = kinds(guilty)
    cluster = FakeCluster(flow, engine={"max_losses": 2})
    cluster.start()

    run_until_done(cluster, lambda unit: "guilty" in unit.nodes)

    assert ("increment-1", "guilty") in [unit.nodes for unit in cluster.units]

    assert cluster.state(first).name == "Success"
    assert isinstance(cluster.state(guilty), Crashed)
    assert cluster.state(last).name == "Success"
    assert value_of(cluster, last) == "WorkerLost"


@pytest.mark.parametrize("max_losses", [0, 3])
@pytest.mark.parametrize("order", ["upstream first", "downstream first"])
def test_what_waits_for_a_lost_task_is_lost_with_it_and_not_blamed(order: str, max_losses: int) -> None:
    with Flow("blame") as flow:
        guilty, other = one(), one()
        both = task(lambda xs: len(xs), name="both", trigger=triggers.all_finished)([guilty, other])
    cluster = FakeCluster(flow, engine={"max_losses": max_losses})
    cluster.start()

    cluster.go(cluster.unit_of(other.slug))
    while not cluster.is_finished:
        unit = cluster.runnable()[0]
        if guilty.slug in unit.nodes:
            cluster.lose(unit)
            while cluster.lost:
                cluster.deliver_loss(cluster.lost[0 if order == "upstream first" else -1])
        else:
            cluster.go(unit)

    assert isinstance(cluster.state(guilty), Crashed)
    assert cluster.state(other).name == "Success"
    assert cluster.state(both).name == "Success"


def test_a_map_below_a_crashed_element_goes_on_with_the_others() -> None:
    with Flow("poison") as flow:
        first = task(lambda x: x, name="first", chunksize=2).map([0, 1, 2, 3])
        second = task(lambda x: x, name="second", chunksize=1).map(first)
        third = task(kinds.run, name="third", chunksize=4, trigger=triggers.all_finished).map(first)
    cluster = FakeCluster(flow, slots=1, engine={"max_losses": 0})
    cluster.start()

    run_until_done(cluster, lambda unit: "first" in unit.nodes and 2 in (unit.indices or ()))

    assert cluster.element_states(first) == ["Success", "Success", "Crashed", "Success"]
    assert cluster.element_states(second) == ["Success", "Success", "TriggerFailed", "Success"]
    assert cluster.element_states(third) == ["Success"] * 4


def test_a_map_in_the_chunks_of_a_crashed_element_has_the_say_of_its_trigger() -> None:
    with Flow("poison") as flow:
        first = task(lambda x: x, name="first").map([0, 1])
        second = task(kinds.run, name="second", trigger=triggers.all_finished).map(first)
    cluster = FakeCluster(flow, slots=1, engine={"max_losses": 0})
    cluster.start()

    run_until_done(cluster, lambda unit: "first" in unit.nodes and 1 in (unit.indices or ()))

    assert cluster.element_states(first) == ["Success", "Crashed"]
    assert cluster.element_states(second) == ["Success", "Success"]


def test_a_later_map_in_the_same_chunks_that_ends_its_worker_leaves_the_earlier_one_unharmed() -> None:
    with Flow("poison") as flow:
        first = task(lambda x: x, name="first").map([0, 1])
        second = task(lambda x: x, name="second").map(first)
        seen = kinds(first)
    cluster = FakeCluster(flow, slots=1, engine={"max_losses": 1})
    cluster.start()

    run_until_done(cluster, lambda unit: "second" in unit.nodes and 1 in (unit.indices or ()))

    assert cluster.element_states(second) == ["Success", "Crashed"]
    assert cluster.element_states(first) == ["Success", "Success"]
    assert value_of(cluster, seen) == [0, 1]


def test_each_map_of_an_element_has_its_own_losses() -> None:
    with Flow("poison") as flow:
        first = task(lambda x: x, name="first").map([0])
        second = task(lambda x: x, name="second").map(first)
    cluster = FakeCluster(flow, slots=1, engine={"max_losses": 1})
    cluster.start()
    killed: list[tuple[str, ...]] = []

    def kills_each_once(unit: Unit) -> bool:
        is_new = unit.nodes not in killed
        killed.append(unit.nodes)
        return is_new

    run_until_done(cluster, kills_each_once)

    assert cluster.element_states(first) == ["Success"]
    assert cluster.element_states(second) == ["Success"]


# Ends before the end --------------------------------------------------------------------------------------------------


def test_cancelling_lets_go_of_what_is_in_flight_and_keeps_what_is_done() -> None:
    with Flow("cancel") as flow:
        single = one()
        node = task(lambda x: x, name="each", chunksize=2).map(list(range(10)))
        join = total(node)
    cluster = FakeCluster(flow, slots=1)
    cluster.start()
    cluster.go(cluster.unit_of(single.slug))
    cluster.go(next(unit for unit in cluster.runnable() if unit.indices == range(2)))
    in_flight = set(cluster.submitted)

    commands = cluster.cancel("stopped by hand")

    released = {key for command in commands if isinstance(command, Release) for key in command.keys}
    assert in_flight <= released
    assert isinstance(commands[-1], Finish)
    assert cluster.state(single).name == "Success"
    assert cluster.element_states(node) == ["Success"] * 2 + ["Cancelled"] * 8
    assert isinstance(cluster.state(join), Cancelled)
    assert cluster.machine.flow_state() == Cancelled()
    assert "stopped by hand" in cluster.machine.flow_state().message


def test_nothing_that_arrives_after_the_end_matters() -> None:
    with Flow("cancel") as flow:
        node = one()
    cluster = FakeCluster(flow)
    (unit,) = submitted(cluster.start())
    report = cluster.run(unit)
    cluster.cancel()

    commands = cluster.tell(Reported(cluster.now, report))

    assert commands == []
    assert isinstance(cluster.state(node), Cancelled)


def test_cancelling_ends_waiting_for_retries() -> None:
    with Flow("cancel") as flow:
        node = failing_once(1).map([0, 1])
    cluster = FakeCluster(flow, slots=1)
    cluster.start()
    while cluster.runnable():
        cluster.go(cluster.runnable()[0])

    commands = cluster.cancel()

    assert isinstance(commands[-1], Finish)
    assert not any(isinstance(command, WakeAt) for command in commands)
    assert cluster.element_states(node) == ["Success", "Cancelled"]


def test_a_run_that_waits_for_an_approval_only_ends_as_paused() -> None:
    with Flow("pause") as flow:
        before = one()
        gate = task(lambda x: x, name="gate", trigger=triggers.manual_only)(before)
        after = increment(gate)
        beside = increment(before)
    cluster = FakeCluster(flow)
    cluster.start()

    cluster.finish()

    assert isinstance(cluster.state(gate), Paused)
    assert cluster.state(after).name == "Pending"
    assert cluster.state(beside).name == "Success"
    assert cluster.machine.flow_state() == Paused()
    assert "gate" in cluster.machine.flow_state().message


def test_an_approval_lets_a_task_run() -> None:
    with Flow("pause") as flow:
        gate = task(lambda x: x, name="gate", trigger=triggers.manual_only)(one())
        after = increment(gate)
    cluster = FakeCluster(flow, approve=["gate"])
    cluster.start()

    cluster.finish()

    assert cluster.state(after).name == "Success"


def test_paused_elements_pause_the_run_and_their_neighbours_finish() -> None:
    @task
    def pause_odd(x: int) -> int:
        if x % 2:
            raise signals.PAUSE("look at it first")
        return x

    with Flow("pause") as flow:
        node = pause_odd.map([0, 1, 2])
        join = total(node)
    cluster = FakeCluster(flow)
    cluster.start()

    cluster.finish()

    assert cluster.element_states(node) == ["Success", "Paused", "Success"]
    assert cluster.state(join).name == "Pending"
    assert cluster.machine.flow_state().name == "Paused"


# Reports that come twice ----------------------------------------------------------------------------------------------


def test_a_second_report_of_a_unit_changes_nothing() -> None:
    with Flow("twice") as flow:
        node = task(lambda x: x, name="each", chunksize=1).map([0, 1, 2])
        join = total(node)
    cluster = FakeCluster(flow, slots=1)
    cluster.start()
    report = cluster.run(cluster.runnable()[0])
    cluster.deliver(report)

    commands = cluster.tell(Reported(cluster.now, report))

    assert not any(isinstance(command, (Submit, Release, Finish, Tell)) for command in commands)
    cluster.finish()
    assert value_of(cluster, join) == 3


def test_the_report_of_a_unit_that_was_given_up_changes_nothing() -> None:
    with Flow("late") as flow:
        node = one()
    cluster = FakeCluster(flow)
    (unit,) = submitted(cluster.start())
    report = cluster.run(unit)
    cluster.reports.clear()
    (again,) = submitted(cluster.crash(unit))

    commands = cluster.tell(Reported(cluster.now, report))

    assert not any(isinstance(command, (Submit, Release, Finish, Tell)) for command in commands)
    assert cluster.state(node).name == "Pending"
    cluster.go(again)
    assert cluster.state(node).name == "Success"


# Letting go of values -------------------------------------------------------------------------------------------------


def test_a_value_is_released_when_the_last_task_that_needs_it_has_ended() -> None:
    with Flow("release") as flow:
        source = one()
        first, second = increment(source), increment(source)
    cluster = FakeCluster(flow, engine={"inline_nbytes": 0})
    cluster.start()
    cluster.go(cluster.unit_of(source.slug))
    key = cluster.machine.runs[source.slug].key

    cluster.go(cluster.unit_of(first.slug))
    assert key in cluster.held

    commands = cluster.go(cluster.unit_of(second.slug))
    assert Release((key,)) in commands
    assert key not in cluster.outcomes


def test_at_the_end_only_large_values_of_kept_nodes_are_held() -> None:
    with Flow("release") as flow:
        xs = numbers(50)
        doubled = increment.map(increment.map(xs), upstream_tasks=[one()])
        wanted = increment.map(doubled)
        last = total(wanted)
    cluster = FakeCluster(flow, slots=2, engine={"inline_nbytes": 0, "target_chunk_s": 1e-6}, keep=[wanted.slug])
    cluster.start()

    cluster.finish()

    wanted_run = cluster.machine.runs[wanted.slug]
    assert wanted_run.elements is not None
    assert cluster.held == {*wanted_run.elements.keys, cluster.machine.runs[last.slug].key}
    assert set(cluster.outcomes) == cluster.held


def test_at_the_end_nothing_is_held_of_small_values() -> None:
    with Flow("release") as flow:
        total(increment.map(increment.map(numbers(50))))
        increment.map([1, 2, 3], upstream_tasks=[one()])
    cluster = FakeCluster(flow, slots=2)
    cluster.start()

    cluster.finish()

    assert cluster.held == set()


def test_a_whole_value_for_every_element_is_held_until_the_map_has_ended() -> None:
    with Flow("release") as flow:
        source = one()
        node = task(lambda x, y: x + y, name="add", chunksize=1).map([1, 2], unmapped(source))
    cluster = FakeCluster(flow, slots=1, engine={"inline_nbytes": 0, "chunks_per_slot": 1})
    cluster.start()
    cluster.go(cluster.unit_of(source.slug))
    key = cluster.machine.runs[source.slug].key

    cluster.go(cluster.unit_of(node.slug))
    assert key in cluster.held

    cluster.go(cluster.unit_of(node.slug))
    assert key not in cluster.held


# Being told -----------------------------------------------------------------------------------------------------------


def test_observers_are_told_how_far_a_map_is_and_once_that_it_has_ended() -> None:
    @task(chunksize=2)
    def fail_odd(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    with Flow("told") as flow:
        fail_odd.map([0, 1, 2, 3])
    cluster = FakeCluster(flow, slots=1)
    cluster.start()

    cluster.finish()

    advanced = [event for event in cluster.events if isinstance(event, MapAdvanced)]
    changed = [event for event in cluster.events if isinstance(event, TaskChanged)]
    assert [(event.done, event.failed, event.width) for event in advanced[:2]] == [(0, 0, 4), (2, 1, 4)]
    assert [event.state.name for event in changed] == ["Failed"]


def test_the_flow_names_the_task_run_that_failed_first_and_counts_the_others() -> None:
    @task
    def fail_odd(x: int) -> int:
        if x % 2:
            raise ConnectionError(f"no route to {x}")
        return x

    with Flow("told") as flow:
        total(increment.map(fail_odd.map(list(range(6)))))
    cluster = FakeCluster(flow, slots=1)
    cluster.start()

    cluster.finish()

    message = cluster.machine.flow_state().message
    assert message.startswith("fail_odd[1] failed with ConnectionError: no route to 1")
    assert "(+2 others)" in message


def test_an_error_of_the_machine_tells_the_story() -> None:
    with Flow("story") as flow:
        one()
    cluster = FakeCluster(flow)
    cluster.start()
    cluster.machine.runs["one"].is_flying = False

    with pytest.raises(AssertionError, match=r"(?s)one: flying, and in no unit.*story:\nStarted"):
        check(cluster.machine)

"""What runs again when outcomes are gone."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from tests.fake_cluster import FakeCluster

from anabranch import Flow, task, unmapped
from anabranch.base.events import TaskChanged
from anabranch.engine.machine.stimuli import CancelAsked, Command, GivenUp, Reported, Tell
from anabranch.engine.units.units import ColumnReport, Report, SingleReport
from anabranch.states import Retrying, Success

LARGE = {"inline_nbytes": 0}  # no value comes with its report: each is on the cluster only


def _counted() -> tuple[Counter[str], Flow]:
    """A flow a → b → c, whose calls are counted."""
    calls: Counter[str] = Counter()

    @task
    def a() -> int:
        calls["a"] += 1
        return 1

    @task
    def b(x: int) -> int:
        calls["b"] += 1
        return x + 1

    @task
    def c(x: int) -> int:
        calls["c"] += 1
        return x + 1

    with Flow("line") as flow:
        first = a()
        second = b(first)
        c(second).set_upstream(a(task_args={"name": "other"}))
    return calls, flow


def test_a_value_that_nobody_takes_any_more_is_not_made_again() -> None:
    calls, flow = _counted()
    cluster = FakeCluster(flow, engine=LARGE)
    cluster.start()
    cluster.go(cluster.runnable()[0])

    cluster.uproot()
    cluster.finish()

    assert all(run.state.is_successful() for run in cluster.machine.runs.values())
    assert calls["c"] == 1


def test_what_is_left_out_of_a_unit_that_dask_has_made_again_runs_in_another() -> None:
    # given: a unit that had handed everything back, lost with that news, and made again as it was
    calls, flow = _counted()
    cluster = FakeCluster(flow)
    cluster.start()
    unit = cluster.runnable()[0]
    cluster.run(unit.again(Report(unit.key, singles=tuple(map(SingleReport.handed_back, unit.nodes))).as_before()))

    # when
    cluster.deliver(cluster.reports[-1])
    cluster.finish()

    # then
    assert all(run.state.is_successful() for run in cluster.machine.runs.values())
    assert set(calls) == {"a", "b", "c"}


def test_values_that_came_with_reports_survive_the_cluster() -> None:
    calls, flow = _counted()
    cluster = FakeCluster(flow)
    cluster.start()
    while not all(run.is_final for slug, run in cluster.machine.runs.items() if slug != "c"):
        cluster.go(cluster.runnable()[0])
    before = Counter(calls)

    cluster.uproot()
    cluster.finish()

    assert (calls["a"], calls["b"], calls["c"]) == (before["a"], before["b"], 1)


def test_of_a_map_only_the_elements_run_again_that_somebody_needs() -> None:
    seen: Counter[int] = Counter()

    @task
    def grow(x: int) -> int:
        seen[x] += 1
        return x + 1

    @task
    def shrink(x: int) -> int:
        return x - 1

    with Flow("map") as flow:
        shrink.map(grow.map(list(range(8))))
    cluster = FakeCluster(flow, engine={**LARGE, "probe_elements": 1, "target_chunk_s": 1e-6})
    cluster.start()
    done = cluster.go(cluster.runnable()[0])

    cluster.uproot()
    cluster.finish()

    assert done
    assert cluster.element_states("shrink") == ["Success"] * 8
    assert set(seen) == set(range(8))
    assert max(seen.values()) <= 2


def test_what_needs_no_lost_value_stays_where_it_is() -> None:
    started: Counter[str] = Counter()

    @task
    def give(x: int) -> list[int]:
        started["give"] += 1
        return [x, x + 1]

    @task(chunksize=1)
    def one(x: int) -> int:
        return x

    @task
    def add(xs: list[int]) -> int:
        return sum(xs)

    with Flow("two sides") as flow:
        left, right = give(1, task_args={"name": "left"}), give(3, task_args={"name": "right"})
        total = add(one.map(left, task_args={"name": "mine"}), task_args={"name": "total"})
        add(one.map(right, task_args={"name": "theirs"}), task_args={"name": "other"})
        add([1, 2], task_args={"name": "alone"})
    cluster = FakeCluster(flow, engine=LARGE)
    cluster.start()
    lost = cluster.unit_of("left")
    for slug in ("left", "right"):
        cluster.go(cluster.unit_of(slug))
    before = dict(cluster.submitted)
    # When the value is lost that some units take
    cluster.lose_value(lost.key)
    # Then these are called back, and the others go on
    stayed = {key: unit.nodes for key, unit in before.items() if key in cluster.submitted}
    assert sorted(stayed.values()) == [("alone",), ("theirs",), ("theirs",)]
    cluster.finish()
    assert cluster.machine.flow_state().is_successful()
    assert cluster.machine.runs[total.slug].state.is_successful()
    assert started["give"] == 3
    assert len([unit for unit in cluster.units if "theirs" in unit.nodes]) == 2


def test_a_call_that_has_made_calls_does_not_run_again_when_what_it_took_is_made_again() -> None:
    started: Counter[str] = Counter()

    @task
    def give() -> int:
        started["give"] += 1
        return 1

    @task
    def add(x: int) -> int:
        return x + 1

    @task
    def relay(x: int) -> object:
        started["relay"] += 1
        return add(x)

    @task
    def call() -> object:
        return relay(give())

    with Flow("calls") as flow:
        call()
    cluster = FakeCluster(flow, engine=LARGE | {"rescued_nbytes": 0})
    cluster.start()
    cluster.go(cluster.unit_of("call"))
    given = cluster.unit_of("call/give")
    cluster.go(given)
    cluster.go(cluster.unit_of("call/relay"))

    cluster.lose_value(given.key)
    cluster.finish()

    assert cluster.machine.flow_state().is_successful()
    assert started["relay"] == 1


def test_the_state_of_what_has_ended_stays_and_is_told_to_what_follows() -> None:
    @task
    def fail_some(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    @task(trigger=lambda upstreams: True)
    def kinds(xs: list[object]) -> list[str]:
        return [type(x).__name__ for x in xs]

    with Flow("states") as flow:
        mapped = fail_some.map([0, 1, 2, 3])
        kinds(mapped)
    cluster = FakeCluster(flow, engine=LARGE, keep=["kinds"])
    cluster.start()
    while not cluster.machine.runs["fail_some"].is_final:
        cluster.go(cluster.runnable()[0])

    cluster.uproot()
    assert cluster.element_states("fail_some") == ["Pending", "Failed", "Pending", "Failed"]
    cluster.finish()

    assert cluster.element_states("fail_some") == ["Success", "Failed", "Success", "Failed"]
    (outcome,) = [each for each in cluster.outcomes.values() if "kinds" in each.singles]
    assert outcome.singles["kinds"].value == ["int", "ValueError", "int", "ValueError"]


def test_a_list_that_changes_its_width_when_it_is_made_again_fails_the_map_below() -> None:
    widths = iter([3, 4])

    @task
    def numbers() -> list[int]:
        return list(range(next(widths)))

    @task
    def same(x: int, other: int) -> int:
        return x

    with Flow("width") as flow:
        same.map(numbers(), unmapped(1))
    cluster = FakeCluster(flow, engine={**LARGE, "probe_elements": 1, "target_chunk_s": 1e-6})
    cluster.start()
    cluster.go(cluster.runnable()[0])

    cluster.uproot()
    cluster.finish()

    assert "numbers gave 4 elements when it ran again, and 3 before" in cluster.state("same").message


def test_attempts_and_times_of_retries_are_kept() -> None:
    attempts: list[int] = []

    @task(max_retries=2, retry_delay=100)
    def flaky(x: int) -> int:
        from anabranch import context

        attempts.append(context.task_run_count)
        if context.task_run_count < 3:
            raise ValueError(x)
        return x

    with Flow("retries") as flow:
        flaky.map([1])
    cluster = FakeCluster(flow, engine=LARGE)
    cluster.start()
    cluster.go(cluster.runnable()[0])

    cluster.uproot()
    due = cluster.wake_at
    cluster.finish()

    assert due is not None
    assert due >= 1_100
    assert attempts == [1, 2, 3]


def test_a_clock_that_is_put_back_again_and_again_makes_no_duration_negative() -> None:
    with Flow("f") as flow:
        one = task(lambda: 1, name="one")()
        found = task(abs, name="abs").map([one, one])
    cluster = FakeCluster(flow, call_s=-600.0)
    cluster.start()
    while units := cluster.runnable():
        report = cluster.run(units[0])
        assert report.seconds >= 0.0
        cluster.deliver(report)
    assert cluster.is_finished
    assert cluster.state(one).duration_s == 0.0
    assert cluster.state(found).name == "Mapped"


@pytest.mark.parametrize("is_due", [False, True])
def test_an_element_that_waits_for_its_retry_waits_for_what_it_takes_too(is_due: bool) -> None:
    attempts: list[int] = []

    @task(chunksize=1)
    def give(x: int) -> int:
        return x

    @task(max_retries=1, retry_delay=100)
    def add(x: int, y: int) -> int:
        from anabranch import context

        attempts.append(context.task_run_count)
        if context.task_run_count < 2:
            raise ValueError(x)
        return x + y

    with Flow("retries") as flow:
        total = add.map(give.map([1], task_args={"name": "one"}), give.map([2], task_args={"name": "other"}))
    cluster = FakeCluster(flow, engine=LARGE | {"rescued_nbytes": 0})
    cluster.start()
    other = cluster.unit_of("other")
    for slug in ("one", "other", "add"):
        cluster.go(cluster.unit_of(slug))
    # Given that its retry waits, when a value is lost that it takes
    cluster.lose_value(other.key)
    if is_due:
        cluster.wake()
    # Then it waits until that has been made again, and for its time
    assert [unit.nodes for unit in cluster.submitted.values()] == [("other",)]
    began = cluster.now
    cluster.finish()
    assert attempts == [1, 2]
    assert cluster.element_states(total) == ["Success"]
    assert cluster.now >= (began if is_due else began + 100)


def test_an_attempt_keeps_its_number_while_what_it_takes_is_made_again() -> None:
    attempts: list[int] = []

    @task(chunksize=1)
    def give(x: int) -> int:
        return x

    @task(max_retries=1, retry_delay=100)
    def fail(x: int) -> int:
        from anabranch import context

        attempts.append(context.task_run_count)
        raise ValueError(x)

    with Flow("retries") as flow:
        failed = fail.map(give.map([1]))
    cluster = FakeCluster(flow, engine=LARGE | {"rescued_nbytes": 0})
    cluster.start()
    given = cluster.unit_of("give")
    cluster.go(given)
    cluster.go(cluster.unit_of("fail"))
    cluster.wake()

    cluster.lose_value(given.key)
    cluster.finish()

    assert attempts == [1, 2]
    assert cluster.element_states(failed) == ["Failed"]


# Maps that end early --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [{"first_n": 2}, {"stop_when": lambda x: x == 1}], ids=["first_n", "stop_when"])
@pytest.mark.parametrize("death", [FakeCluster.replace_driver, FakeCluster.uproot], ids=["driver", "cluster"])
def test_what_counted_of_a_map_that_had_enough_counts_when_it_is_made_again(
    option: dict[str, Any], death: Callable[[FakeCluster], Any]
) -> None:
    with Flow("enough") as flow:
        found = task(lambda x: x, name="each", chunksize=1, **option).map([0, 1, 2, 3, 4])
        task(lambda xs: xs, name="after")(found)
    cluster = FakeCluster(flow, engine=LARGE)
    cluster.start()
    while cluster.element_states(found).count("Success") < 2:
        cluster.go(cluster.runnable()[0])
    decided = cluster.element_states(found)

    death(cluster)
    cluster.finish()

    assert decided == ["Success", "Success", "Skipped", "Skipped", "Skipped"]
    assert cluster.element_states(found) == decided


def test_what_was_lost_before_a_map_had_enough_is_made_again() -> None:
    with Flow("enough") as flow:
        found = task(lambda x: x, name="each", chunksize=1, first_n=2).map([0, 1, 2, 3, 4])
    cluster = FakeCluster(flow, engine=LARGE)
    cluster.start()
    cluster.go(cluster.runnable()[0])
    cluster.uproot()
    assert cluster.element_states(found)[0] != "Success"

    last = [unit for unit in cluster.runnable() if unit.indices != range(1)]
    cluster.go(last[0])
    cluster.finish()

    assert cluster.element_states(found).count("Success") == 2
    assert cluster.element_states(found)[0] == "Success"


def test_a_chunk_that_is_at_the_maps_below_goes_on_when_a_map_had_enough() -> None:
    begun: list[int] = []
    with Flow("enough") as flow:
        found = task(lambda x: x, name="each", chunksize=1, first_n=1).map([0, 1, 2])
        below = task(lambda x: begun.append(x), name="below", chunksize=1).map(found)
    cluster = FakeCluster(flow)
    cluster.start()

    cluster.tell_part(cluster.runnable()[0], 1)
    cluster.finish()

    assert cluster.element_states(found) == ["Success", "Skipped", "Skipped"]
    assert cluster.element_states(below) == ["Success", "Skipped", "Skipped"]
    assert set(begun) == {0}


def _of_no_elements() -> tuple[Flow, Any]:
    with Flow("above") as flow:
        above = task(lambda x: x, name="above").map([])
        return flow, task(lambda x, y: x, name="each", chunksize=2).map([0, 1], unmapped(above))


def _of_enough() -> tuple[Flow, Any]:
    with Flow("above") as flow:
        above = task(lambda x: x, name="above", first_n=1, chunksize=1).map([0, 1, 2])
        return flow, task(lambda x, y: x, name="each", chunksize=2).map([0, 1], unmapped(above))


@pytest.mark.parametrize("make", [_of_no_elements, _of_enough])
def test_elements_on_record_do_not_run_again_below_a_map_that_has_no_more_on_record(
    make: Callable[[], tuple[Flow, Any]],
) -> None:
    flow, each = make()
    cluster = FakeCluster(flow)
    cluster.start()
    while cluster.machine.runs[each.slug].elements is None or "Success" not in cluster.element_states(each):
        cluster.go(cluster.runnable()[0])

    cluster.replace_driver()

    assert cluster.element_states(each) == ["Success", "Success"]
    assert not cluster.runnable()


@pytest.mark.parametrize("is_reduced", [False, True])
def test_an_attempt_of_which_a_chunk_had_told_is_counted_when_it_is_lost(is_reduced: bool) -> None:
    with Flow("attempts") as flow:
        each = task(lambda x: x, name="each", max_retries=2, retry_delay=0).map([0, 1])
        task(sum, name="total", reduce=is_reduced)(each)
    cluster = FakeCluster(flow)
    cluster.start()
    unit = cluster.runnable()[0]
    tried = Retrying(message="once", attempt=1, start_time=datetime.fromtimestamp(0, UTC))

    column = ColumnReport("each", bytes([Retrying.code]), {0: tried})
    cluster.tell(Reported(cluster.now, Report(unit.key, columns=(column,), indices=range(1), part=1)))
    cluster.crash(unit)

    assert {index: n for unit in cluster.runnable() for index, n in unit.attempts.items()} == {0: 2}


def test_a_chunk_that_is_made_again_hands_back_what_waits_for_its_retry_without_ending_the_wait() -> None:
    with Flow("patient") as flow:
        task(lambda x: x, name="each", max_retries=2, retry_delay=100, chunksize=2).map([0, 1])
    cluster = FakeCluster(flow)
    cluster.start()
    (unit,) = cluster.runnable()
    tried = Retrying(message="once", attempt=1, start_time=datetime.fromtimestamp(cluster.now + 100, UTC))
    waits = ColumnReport("each", bytes([Retrying.code]), {0: tried})
    cluster.tell(Reported(cluster.now, Report(unit.key, columns=(waits,), indices=range(1), part=1)))

    untouched = ColumnReport("each", bytes(2), {})
    cluster.tell(Reported(cluster.now, Report(unit.key, columns=(untouched,), indices=range(2))))

    assert [list(each.indices or ()) for each in cluster.runnable() if each.key != unit.key] == [[1]]


def test_what_a_chunk_had_told_of_is_not_in_what_is_handed_back() -> None:
    with Flow("handed back") as flow:
        task(lambda x: x, name="each", chunksize=3).map([0, 1, 2])
    cluster = FakeCluster(flow)
    cluster.start()
    (unit,) = cluster.runnable()
    cluster.tell_part(unit, 1)

    cluster.tell(Reported(cluster.now, Report(unit.key, indices=())))

    assert [list(each.indices or ()) for each in cluster.runnable() if each.key != unit.key] == [[1, 2]]


def test_a_chunk_of_one_map_is_called_back_if_all_that_it_has_told_is_here() -> None:
    with Flow("enough") as flow:
        found = task(lambda x: x, name="each", chunksize=3, first_n=1).map([0, 1, 2])
    cluster = FakeCluster(flow)
    cluster.start()
    (unit,) = cluster.runnable()

    cluster.tell_part(unit, 1)

    assert cluster.element_states(found) == ["Success", "Skipped", "Skipped"]
    assert not cluster.machine.expects(unit.key)


def test_a_reduced_chunk_that_is_lost_keeps_what_it_had_told_of() -> None:
    begun: Counter[int] = Counter()

    def each(x: int) -> int:
        begun[x] += 1
        return x

    with Flow("reduced") as flow:
        total = task(sum, name="total", reduce=True)(task(each, chunksize=3).map([1, 2, 3]))
    cluster = FakeCluster(flow)
    cluster.start()
    (unit,) = cluster.runnable()
    cluster.tell_part(unit, 2)
    told = begun.copy()

    cluster.crash(unit)
    cluster.finish()

    assert pickle.loads(cluster.machine.runs[total.slug].value or b"") == 6
    assert set(begun - told) == {3}


def test_a_reduced_chunk_is_taken_in_one_piece_with_what_it_had_told_of() -> None:
    with Flow("reduced") as flow:
        total = task(sum, name="total", reduce=True)(task(lambda x: x, name="each", chunksize=3).map(range(9)))
    cluster = FakeCluster(flow, engine={"rescued_nbytes": 30})
    cluster.start()
    while not cluster.machine.runs["each"].is_final:
        unit = cluster.runnable()[0]
        cluster.tell_part(unit, 2)
        cluster.go(unit)

    cluster.finish()

    assert pickle.loads(cluster.machine.runs[total.slug].value or b"") == sum(range(9))


def _line() -> Flow:
    return _counted()[1]


def _maps() -> Flow:
    each = task(lambda x, y: x + y, name="each", chunksize=2)
    with Flow("maps") as flow:
        found = each.map(each.map(list(range(5)), unmapped(1)), unmapped(task(lambda: 1, name="one")()))
        task(sum, name="total")(found)
    return flow


def _early() -> Flow:
    with Flow("early") as flow:
        found = task(lambda x: x, name="each", chunksize=1, first_n=3).map(list(range(5)))
        task(sum, name="total")(found)
    return flow


def _calls() -> Flow:
    add = task(lambda x: x + 1, name="add")
    relay = task(lambda x: [add(x), add(x + 1)], name="relay", chunksize=1)
    with Flow("calls") as flow:
        found = relay.map([1, 2, 3])
        task(lambda xs, y: xs, name="after")(found, relay(4))
    return flow


def _succeeded(cluster: FakeCluster) -> set[tuple[str, int]]:
    """What has succeeded: nodes, as element -1, and elements."""
    found = {(slug, -1) for slug, run in cluster.machine.runs.items() if run.state.is_successful()}
    for slug, run in cluster.machine.runs.items():
        codes = run.elements.codes if run.elements is not None else b""
        found |= {(slug, index) for index, code in enumerate(codes) if code == Success.code}
    return found


def _go_on(cluster: FakeCluster, n_units: int) -> None:
    for _ in range(n_units):
        if runnable := cluster.runnable():
            cluster.go(runnable[0])


@pytest.mark.parametrize("make", [_line, _maps, _early, _calls])
@pytest.mark.parametrize("loses", [FakeCluster.uproot, FakeCluster.replace_driver])
def test_what_had_succeeded_stays_so_where_a_run_is_ended_while_a_value_is_made_again(
    make: Callable[[], Flow], loses: Callable[[FakeCluster], list[Command]]
) -> None:
    n_lost = 0
    for before, after in product(range(12), range(3)):
        # given: some units have ended, their values are lost, and some run again
        cluster = FakeCluster(make(), engine=LARGE)
        cluster.start()
        _go_on(cluster, before)
        had = _succeeded(cluster)
        loses(cluster)
        n_lost += bool(had - _succeeded(cluster))
        _go_on(cluster, after)
        had |= _succeeded(cluster)

        # when
        end = GivenUp(cluster.now, "no worker comes") if after == 1 else CancelAsked(cluster.now, "asked for")
        told = cluster.tell(end)

        # then
        assert had <= _succeeded(cluster), (before, after)
        changes = [each.event for each in told if isinstance(each, Tell) and isinstance(each.event, TaskChanged)]
        assert not {(each.slug, -1) for each in changes if not each.state.is_successful()} & had
        assert cluster.machine.is_finished
    assert n_lost

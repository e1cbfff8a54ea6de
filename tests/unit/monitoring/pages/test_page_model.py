"""What pages know of a run: that it equals the run's states, live and from the record, and stays small."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch import SKIP, Flow, Parameter, task
from anabranch.base.events import Event, MapAdvanced, RunStarted, UnitEnded
from anabranch.base.run_model import STEPS
from anabranch.base.states import BY_CODE, Attempt, Failed, Failure, Retrying, Success
from anabranch.definition.shape import shape_from, shape_of
from anabranch.executors import LocalDaskExecutor, LocalExecutor
from anabranch.executors.base import Executor
from anabranch.monitoring.pages.failure_groups import MAX_EXAMPLES, MAX_GROUPS
from anabranch.monitoring.pages.live_run import LiveRun
from anabranch.monitoring.pages.page_model import MAX_RETRIED, MAX_WORKERS, PageModel
from anabranch.monitoring.pages.recorded_run import read_model
from anabranch.monitoring.pages.spans import BINS, Bins, Durations
from anabranch.runs.read.run import read_run
from anabranch.runs.store.opening import current_store
from anabranch.runs.view import FlowRunView
from anabranch.triggers import all_finished


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task(max_retries=1, retry_delay=0.0)
def parse(x: int) -> int:
    if x % 100 == 7:
        raise ValueError(f"bad {x}")
    if x % 100 == 8:
        raise SKIP("not today")
    return x


@task
def double(x: int) -> int:
    return 2 * x


@task(trigger=all_finished)
def total(xs: list[int]) -> int:
    return len(xs)


@task
def broken(x: int) -> int:
    raise KeyError("no")


@task
def below(x: int) -> int:
    return x


def flow_of_all_kinds() -> Flow:
    with Flow("kinds") as flow:
        n = Parameter("n", default=500)
        with Flow("inner"):
            parsed = parse.map(numbers(n))
        total(double.map(parsed))
        below(broken(n))
    return flow


def states_of(view: FlowRunView) -> Counter[str]:
    """Task runs and elements of a run by state, mere steps left out."""
    found: Counter[str] = Counter()
    for node in view.result:
        run = view.result[node]
        if node.kind in STEPS:
            continue
        found.update([each.name for each in run.map_states] or [run.name])
    return found


def named(model: PageModel) -> Counter[str]:
    return Counter({BY_CODE[code].__name__: n for code, n in model.counts().items()})


@pytest.mark.parametrize(
    "executor", [LocalExecutor, lambda: LocalDaskExecutor(num_workers=2)], ids=["local", "threads"]
)
def test_counts_equal_the_states_of_the_run_live_and_from_the_record(executor: Callable[[], Executor]):
    # given
    flow = flow_of_all_kinds()
    live = LiveRun(PageModel(shape_of(flow.graph)))
    # when
    view = flow.run(executor=executor(), observers=[live])
    live.refresh()
    store = current_store()
    assert store is not None
    _, recorded = read_model(store, view.run_id)
    # then
    expected = states_of(view)
    assert expected["Failed"] == 6  # five elements and `broken`
    assert named(live.model) == expected
    assert named(recorded) == expected
    assert live.model.failures.total == recorded.failures.total == 6
    assert {g.exception: g.count for g in live.model.failures.ordered()} == {"ValueError": 5, "KeyError": 1}
    assert {g.exception: g.count for g in recorded.failures.ordered()} == {"ValueError": 5, "KeyError": 1}
    assert recorded.shape == live.model.shape
    assert recorded.state.name == live.model.state.name == "Failed"
    assert live.model.nodes["parse"].retries == 5


@pytest.mark.parametrize(
    "executor", [LocalExecutor, lambda: LocalDaskExecutor(num_workers=2)], ids=["local", "threads"]
)
def test_attempts_are_listed_live_as_the_record_has_them(executor: Callable[[], Executor]):
    # given elements and a single task of which each needs two attempts
    seen = set[int]()

    @task(max_retries=2, retry_delay=0.0)
    def flaky(x: int) -> int:
        if x % 2 and x not in seen:
            seen.add(x)
            raise ValueError(f"bad {x}")
        return x

    with Flow("tried") as flow:
        flaky.map([0, 1, 2, 3])
        flaky(101)
    live = LiveRun(PageModel(shape_of(flow.graph)))
    # when
    view = flow.run(executor=executor(), observers=[live])
    live.refresh()
    store = current_store()
    assert store is not None
    _, recorded = read_model(store, view.run_id)
    # then
    expected = {each.name: tuple(each.attempts) for each in read_run(store, view.run_id).retried}
    assert {name: [each.reason for each in found] for name, found in expected.items()} == {
        "flaky[1]": ["ValueError: bad 1"],
        "flaky[3]": ["ValueError: bad 3"],
        "flaky-1": ["ValueError: bad 101"],
    }
    assert live.model.attempts == recorded.attempts == expected
    assert [node.retries for node in live.model.nodes.values()] == [2, 1]


def test_attempts_that_come_one_by_one_are_kept_together_and_are_part_of_the_failure():
    # given an attempt that a unit told, and a failure that another one tells
    first, second = Attempt(1, "Failed", "no", "w1"), Attempt(2, "TimedOut", "late", "w2")
    model = PageModel()
    model.take(RunStarted(0.0, "f", "r", {"parse": "task"}))
    for code, state in (
        (Retrying.code, Retrying(attempt=1, map_index=0, attempts=(first,))),
        (Retrying.code, Retrying(attempt=2, map_index=0, attempts=(second,))),
        (Failed.code, Failed(attempt=3, map_index=0, failure=Failure("ValueError", "no"))),
    ):
        model.take(
            UnitEnded(1.0, "w", 0.0, 1.0, indices=(0,), codes={"parse": bytes([code])}, records={"parse": {0: state}})
        )
    # then
    assert model.attempts == {"parse[0]": (first, second)}
    (group,) = model.failures.ordered()
    assert group.examples[0].attempts == (first, second)


def test_attempts_of_so_many_task_runs_are_kept_and_no_more():
    model = PageModel()
    model.take(RunStarted(0.0, "f", "r", {"parse": "task"}))
    width = MAX_RETRIED + 50
    for number in (1, 2):
        records = {
            i: Retrying(attempt=number, map_index=i, attempts=(Attempt(number, "Failed", "no"),)) for i in range(width)
        }
        codes = {"parse": bytes([Retrying.code]) * width}
        model.take(UnitEnded(1.0, "w", 0.0, 1.0, indices=range(width), codes=codes, records={"parse": records}))
    assert list(model.attempts) == [f"parse[{i}]" for i in range(MAX_RETRIED)]
    assert {len(each) for each in model.attempts.values()} == {2}


def test_a_chain_of_maps_takes_its_time_once_live_and_from_the_record():
    # given three maps that run in the same chunks
    with Flow("chain") as flow:
        double.map(double.map(double.map(numbers(200))))
    live = LiveRun(PageModel(shape_of(flow.graph)))
    # when
    view = flow.run(executor=LocalDaskExecutor(num_workers=2), observers=[live])
    live.refresh()
    store = current_store()
    assert store is not None
    _, recorded = read_model(store, view.run_id)
    # then
    busy = {name: sum(lane.busy) for name, lane in live.model.workers.items()}
    assert {name: sum(lane.busy) for name, lane in recorded.workers.items()} == pytest.approx(busy, rel=0.5)
    assert recorded.worker_units == live.model.worker_units
    for slug in ("double", "double-1", "double-2"):
        node = live.model.nodes[slug]
        assert recorded.nodes[slug].durations.seconds == pytest.approx(node.durations.seconds, rel=0.01)


def test_a_run_that_is_resumed_shows_what_it_had_done_before():
    # given a run that failed once
    failing = [True]

    @task
    def once(x: int) -> int:
        if x == 3 and failing:
            raise OSError("down")
        return x

    with Flow("resumed") as flow:
        once.map(numbers(10))
    first = flow.run()
    assert first.is_failed()
    failing.clear()
    # when
    live = LiveRun(PageModel(shape_of(flow.graph)))
    view = flow.run(resume=first.run_id, observers=[live])
    live.refresh()
    # then
    assert view.is_successful()
    assert named(live.model) == states_of(view) == Counter(Success=10 + 1)


def test_what_is_told_while_a_chunk_goes_on_counts_once_live_and_from_the_record():
    # given a chunk whose last element waits until the others were told
    others_told = threading.Event()

    @task(chunksize=4, max_retries=1, retry_delay=0.0)
    def slow(x: int) -> int:
        if x == 2:
            raise ValueError(x)
        assert x < 3 or others_told.wait(30)
        return x

    def see(event: Event) -> None:
        if isinstance(event, UnitEnded) and 2 in event.indices:
            others_told.set()

    with Flow("slow") as flow:
        slow.map(numbers(4))
    live = LiveRun(PageModel(shape_of(flow.graph)))
    # when
    view = flow.run(observers=[live, see])
    live.refresh()
    store = current_store()
    assert store is not None
    _, recorded = read_model(store, view.run_id)
    # then
    for model in (live.model, recorded):
        node = model.nodes["slow"]
        assert (node.retries, node.durations.total, model.failures.total) == (1, 4, 1)
        assert sum(model.worker_units.values()) == 2  # with `numbers`


def test_what_a_shape_says_survives_its_data():
    # given
    shape = shape_of(flow_of_all_kinds().graph)
    # when / then
    assert shape_from(shape.as_data()) == shape
    assert any(node.groups == ("inner",) for node in shape.nodes)


@pytest.mark.parametrize(
    "data", [None, [], {"nodes": 3}, {"nodes": [["a"]], "edges": []}, {"nodes": [], "edges": [[0, 1]]}]
)
def test_a_shape_of_another_version_is_empty_and_no_error(data: object):
    assert shape_from(data).nodes == ()


# Sizes ----------------------------------------------------------------------------------------------------------------


def unit(slug: str, indices: range, code: int = Success.code, *, at: float = 1000.0, worker: str = "w") -> UnitEnded:
    return UnitEnded(at, worker, at, 0.15, indices=indices, codes={slug: bytes([code]) * len(indices)})


def test_a_map_costs_a_byte_an_element():
    # given
    model, width, size = PageModel(), 1_000_000, 1_000
    model.take(RunStarted(1000.0, "wide", "r", {"parse": "task"}))
    # when
    model.take(MapAdvanced(1000.0, "parse", width, 0, 0, 0))
    for place in range(0, width, size):
        model.take(unit("parse", range(place, place + size), at=1000.0 + place / 1e4, worker=f"w{place % 7}"))
    # then
    node = model.nodes["parse"]
    assert node.counts() == {Success.code: width}
    assert len(node.codes) == width
    assert len(node.busy.busy) == BINS
    assert len(model.workers) == 7
    assert len(node.durations.counts) < 5


def test_workers_that_come_and_go_do_not_add_up():
    model = PageModel()
    for n in range(3 * MAX_WORKERS):
        model.take(unit("parse", range(n, n + 1), worker=f"tcp://10.0.0.{n}:1"))
    assert len(model.workers) == MAX_WORKERS + 1
    assert model.worker_units.total() == 3 * MAX_WORKERS


def test_failures_are_grouped_and_only_the_first_are_described():
    # given failures of more kinds than are shown, ten of each
    model, index = PageModel(), 0
    # when
    for kind in range(MAX_GROUPS + 5):
        for _ in range(10):
            state = Failed(failure=Failure(f"Error{kind}", "text" * 5_000, traceback="t" * 50_000, line=f"a.py:{kind}"))
            model.take(
                UnitEnded(1.0, "w", 1.0, 0.1, indices=(index,), codes={"a": b"\x14"}, records={"a": {index: state}})
            )
            index += 1
    # then
    assert len(model.failures.groups) == MAX_GROUPS
    assert model.failures.total == 10 * (MAX_GROUPS + 5)
    assert model.failures.ungrouped == 50
    assert all(len(group.examples) == MAX_EXAMPLES for group in model.failures.ordered())
    assert sum(sys.getsizeof(each.traceback) for g in model.failures.ordered() for each in g.examples) < 2_000_000


def test_what_failed_because_something_above_it_did_is_no_failure_of_its_own():
    model = PageModel()
    state = Failed(failure=Failure("anabranch.errors.UpstreamFailure", "a failed"))
    model.take(UnitEnded(1.0, "w", 1.0, 0.1, singles={"b": state}))
    assert model.failures.total == 0


@pytest.mark.parametrize("executor", [LocalExecutor, lambda: LocalDaskExecutor(num_workers=2)])
def test_secrets_do_not_get_into_the_model(executor: Callable[[], Executor]):
    # given tasks that tell a secret in all the ways there are
    @task
    def refuse(password: str) -> None:
        raise ValueError(f"{password}!")

    @task
    def skip(password: str) -> None:
        raise SKIP(f"no {password}")

    with Flow("secretive") as flow:
        password = Parameter("password")
        refuse(password)
        skip(password)
    live = LiveRun(PageModel(shape_of(flow.graph)))
    # when
    flow.run(password="hunter2-hunter2", executor=executor(), observers=[live])
    live.refresh()
    # then
    (group,) = live.model.failures.ordered()
    seen = [repr(group), repr(live.model.state), *(repr(node) for node in live.model.nodes.values())]
    assert not [text for text in seen if "hunter2" in text]
    assert group.examples[0].message == "***!"
    assert group.examples[0].inputs == (("password", "***"),)


def test_events_that_nobody_takes_are_dropped_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch):
    # given
    monkeypatch.setattr("anabranch.monitoring.pages.live_run.MAX_WAITING", 5)
    live = LiveRun(PageModel())
    # when
    for n in range(9):
        live(unit("parse", range(n, n + 1)))
    live.refresh()
    # then
    assert live.model.is_incomplete
    assert live.model.nodes["parse"].counts() == {Success.code: 5}


# Time -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 100)), max_size=30))
def test_bins_lose_no_time(spans: list[tuple[float, float]]):
    bins = Bins()
    for start, length in spans:
        bins.add(start, start + length)
    assert sum(bins.busy) == pytest.approx(sum(length for _, length in spans), abs=1e-3)
    assert len(bins.busy) == BINS
    assert all(start < end for start, end, _ in bins.stretches())


def test_what_went_on_evenly_is_one_bar():
    bins = Bins()
    bins.add(0.0, bins.width_s * 100)
    assert len(bins.stretches()) == 1
    assert bins.stretches()[0][:2] == pytest.approx((0.0, bins.width_s * 100))


@given(st.lists(st.floats(1e-5, 1e4), min_size=1, max_size=50))
def test_the_median_is_right_to_a_bucket(values: list[float]):
    durations = Durations()
    for value in values:
        durations.add(value)
    median = sorted(values)[(len(values) - 1) // 2]
    assert median * 0.99 <= durations.quantile(0.5) <= median * 1.6
    assert sum(n for _, _, n in durations.bars()) == len(values)

"""Runs on a fake clock: hours of waiting in no time, and the same each time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.refusals import refused

from anabranch import LOOP, RETRY, Flow, Parameter, context, task
from anabranch.definition.caching import inputs
from anabranch.results import LocalResult
from anabranch.runs import open_store
from anabranch.testing import FakeClock, FlowTester, assert_failed, assert_success, states

START = datetime(2026, 1, 1, tzinfo=UTC)


def started_at(start: datetime = START) -> FlowTester:
    return FlowTester(clock=FakeClock(start))


def test_an_hour_of_retries_passes_on_the_clock_alone() -> None:
    @task(max_retries=6, retry_delay=600)
    def fetch() -> str:
        return "page"

    with Flow("retries") as flow:
        page = fetch()
    tester = started_at()
    began = time.process_time()

    state = tester.fail(fetch, attempts=6, with_=ConnectionError("refused")).run(flow)

    assert state.result[page].result == "page"
    assert tester.clock.elapsed_s == 3600
    assert [call.start - START for call in tester.calls(fetch)] == [timedelta(minutes=10 * n) for n in range(7)]
    assert time.process_time() - began < 600


def test_elements_of_a_map_wait_for_their_own_delays() -> None:
    @task(max_retries=3, retry_delay=[10, 100, 1000])
    def fetch(page: int) -> int:
        return page * 10

    with Flow("map") as flow:
        pages = fetch.map(list(range(5)))
    tester = started_at().fail(fetch, index=[1, 3], attempts=2, with_=OSError)

    state = tester.run(flow)

    assert state.result[pages].result == [0, 10, 20, 30, 40]
    assert [(call.start - START).total_seconds() for call in tester.calls(fetch, index=3)] == [0, 10, 110]
    assert [each.attempt for each in state.result[pages].map_states] == [1, 3, 1, 3, 1]


def test_a_task_ends_at_its_timeout_when_it_sleeps_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(time, "sleep", clock.sleep)

    @task(timeout=30)
    def wait_for_file() -> None:
        while True:
            try:
                time.sleep(7)
            except Exception:
                pytest.fail("the deadline is no business of the task's handlers")

    with Flow("waiting") as flow:
        wait_for_file()

    state = FlowTester(clock=clock).run(flow)

    assert states(state, wait_for_file) == ["TimedOut"]
    assert "longer than its timeout of 30 s" in state.result[wait_for_file].message
    assert clock.elapsed_s == 30


def test_a_task_that_sleeps_less_than_its_timeout_goes_on() -> None:
    clock = FakeClock()

    @task(timeout=30)
    def poll() -> float:
        clock.sleep(timedelta(seconds=29))
        return clock.elapsed_s

    with Flow("waiting") as flow:
        polled = poll()

    state = FlowTester(clock=clock).run(flow)

    assert state.result[polled].result == 29
    assert state.result[polled].duration_s == 29


def test_the_context_shows_the_time_of_the_clock() -> None:
    @task(max_retries=1, retry_delay=86400)
    def now() -> tuple[datetime, str]:
        if context.task_run_count == 1:
            raise OSError
        return context.now, context.today

    with Flow("times") as flow:
        seen = now()

    state = started_at().run(flow)

    assert state.result[seen].result == (START + timedelta(days=1), "2026-01-01")
    assert state.start_time == START
    assert state.end_time == START + timedelta(days=1)


def test_the_context_has_the_time_without_a_fake_clock() -> None:
    @task
    def now() -> datetime:
        return context.now

    with Flow("times") as flow:
        seen = now()
    before = datetime.now(UTC)

    state = flow.run()

    assert before <= state.result[seen].result <= datetime.now(UTC)


def test_a_retry_at_a_time_and_a_run_date_are_kept() -> None:
    @task
    def open_at_nine() -> str:
        if context.now.hour < 9:
            raise RETRY("closed", start_time=context.now.replace(hour=9))
        return context.today

    with Flow("opening") as flow:
        opened = open_at_nine()
    tester = started_at()

    state = tester.run(flow, run_date=datetime(2025, 12, 31, tzinfo=UTC))

    assert state.result[opened].result == "2025-12-31"
    assert tester.clock.now() == START.replace(hour=9)


def test_a_cached_value_expires_on_the_clock(anabranch_home: Path) -> None:
    @task(cache_for=3600, cache_key=inputs, result=LocalResult(anabranch_home / "values"))
    def fetch(page: int) -> datetime:
        return context.now

    with Flow("caching") as flow:
        fetch(7)
    tester = started_at()
    seen = []

    for _ in range(3):
        state = tester.run(flow)
        seen += states(state, fetch)
        tester.clock.advance(3000)

    assert seen == ["Success", "Cached", "Success"]
    assert state.result[fetch].result == START + timedelta(seconds=6000)


def test_cached_elements_expire_on_the_clock(anabranch_home: Path) -> None:
    @task(cache_for=60, cache_key=inputs, result=LocalResult(anabranch_home / "values"))
    def fetch(page: int) -> int:
        return page

    with Flow("caching") as flow:
        fetch.map([1, 2, 3])
    tester = started_at()

    assert_success(tester.run(flow))
    tester.clock.advance(59)
    assert states(tester.run(flow), fetch) == ["Cached"] * 3
    tester.clock.advance(2)
    assert states(tester.run(flow), fetch) == ["Success"] * 3


def test_a_loop_and_the_calls_of_a_running_task_are_on_the_clock(fake_clock: FakeClock) -> None:
    @task(max_retries=1, retry_delay=30)
    def fetch(page: int) -> int:
        return page

    @task
    def crawl() -> object:
        if context.task_loop_count < 3:
            fake_clock.sleep(100)
            raise LOOP(result=context.task_loop_count)
        return fetch.map([1, 2, 3])

    with Flow("crawl") as flow:
        crawled = crawl()
    tester = FlowTester(clock=fake_clock).fail(fetch, attempts=1, with_=OSError)

    state = tester.run(flow)

    assert state.result[crawled].result == [1, 2, 3]
    assert fake_clock.elapsed_s == 230
    assert len(tester.calls(fetch)) == 6


def test_a_flow_that_runs_as_a_task_is_on_the_same_clock_with_the_same_failures() -> None:
    @task(max_retries=1, retry_delay=3600)
    def fetch(page: int) -> int:
        return page

    with Flow("inner") as inner:
        fetch(Parameter("page"))
    with Flow("outer") as outer:
        fetched = inner.as_task()(page=5)
    tester = started_at().fail(fetch, attempts=1)

    state = tester.run(outer)

    assert state.result[fetched].result == 5
    assert tester.clock.elapsed_s == 3600


def test_runs_do_the_same_each_time() -> None:
    @task(max_retries=2, retry_delay=5)
    def first(x: int) -> int:
        return x

    @task(max_retries=2, retry_delay=0.1)
    def second(x: int) -> int:
        sum(range(x * 2000))  # so that elements take different times on the wall
        return x

    with Flow("chain") as flow:
        second.map(first.map(list(range(60))))

    def story() -> list[tuple[str, int | None, int, datetime]]:
        tester = started_at().fail(first, index=range(0, 60, 7), attempts=1).fail(second, index=range(0, 60, 11))
        tester.run(flow)
        return [(call.task, call.index, call.attempt, call.start) for call in tester.calls()]

    assert story() == story()


def test_a_recorded_run_has_the_times_of_the_clock_and_can_be_resumed(flow_tester: FlowTester) -> None:
    @task
    def fetch(page: int) -> int:
        return page

    with Flow("resumed") as flow:
        fetched = fetch.map([1, 2, 3])
    flow_tester.fail(fetch, index=1, with_=OSError("gone"))

    failed = flow_tester.run(flow)
    flow_tester.clock.advance(60)
    later = FlowTester(clock=flow_tester.clock, recorded=True)
    state = later.run(flow, resume=failed.run_id)
    with open_store(read_only=True) as store:
        record = store.get_run(failed.run_id)

    assert_failed(failed, fetch, index=1, with_=OSError, match="gone")
    assert_success(state)
    assert [call.index for call in later.calls(fetched)] == [1]
    assert (record.start, record.end) == (START, START + timedelta(seconds=60))


def test_a_start_without_a_zone_is_refused() -> None:
    with refused(ValueError, "a start with its zone", "datetime.datetime(2026, 1, 1, 0, 0)", at=""):
        FakeClock(datetime(2026, 1, 1))  # noqa: DTZ001  # that is the mistake


def test_other_threads_sleep_and_leave_it_alone() -> None:
    clock = FakeClock()

    other = threading.Thread(target=clock.sleep, args=(0.001,))
    other.start()
    other.join()

    assert clock.elapsed_s == 0


def test_a_task_that_runs_in_a_thread_of_its_own_sleeps_on_it() -> None:
    clock = FakeClock()

    @task(timeout=100, max_retries=1, retry_delay=3600)
    def poll() -> None:
        clock.sleep(50)

    with Flow("polling") as flow:
        poll()
    with ThreadPoolExecutor(1) as pool:
        state = pool.submit(FlowTester(clock=clock).fail(poll, attempts=1).run, flow).result()

    assert_success(state)
    assert clock.elapsed_s == 3650


def test_time_does_not_go_back() -> None:
    clock = FakeClock()

    with refused(ValueError, "seconds, none or more", "-1", at=""):
        clock.sleep(-1)

    assert clock.elapsed_s == 0

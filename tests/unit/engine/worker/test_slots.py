"""Slots of a worker: a thread that Dask does not know gives one up, and the pool has as many afterwards as before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import threadpoolexecutor as pools
from distributed.threadpoolexecutor import ThreadPoolExecutor, rejoin, secede
from distributed.utils import set_thread_state

from anabranch.base.errors import TaskTimeout
from anabranch.engine.worker import slots
from anabranch.engine.worker.attempts import call_within


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """A worker's pool of one thread."""
    made = ThreadPoolExecutor(1)
    yield made
    made.shutdown(wait=False)


def run_unit(pool: ThreadPoolExecutor, function: Callable[[], Any]) -> Any:
    """What a unit gives, run as a worker runs a task."""

    def unit() -> Any:
        with set_thread_state(start_time=time.time(), execution_state={}, key="unit"), slots.held():
            return function()

    return pool.submit(unit).result(timeout=20)


def is_free(pool: ThreadPoolExecutor) -> bool:
    """Whether the pool has one thread, which takes tasks."""
    thread = pool.submit(threading.current_thread).result(timeout=20)
    return pool._threads == {thread} and not pool._rejoin_list


def other(pool: ThreadPoolExecutor) -> str:
    """What another task of the pool gives, while this one waits for it."""
    return pool.submit(lambda: "other").result(timeout=20)


@pytest.mark.parametrize("timeout_s", [None, 20.0])
def test_code_in_an_attempt_gives_up_its_slot_and_takes_it_back(pool, timeout_s):
    def attempt():
        secede()
        value = other(pool)
        rejoin()
        return value, threading.current_thread() in pool._threads or timeout_s is not None

    assert run_unit(pool, lambda: call_within(timeout_s, attempt, [], {})) == ("other", True)
    assert is_free(pool)


@pytest.mark.parametrize("timeout_s", [None, 20.0])
def test_each_element_of_a_chunk_may_give_the_slot_up(pool, timeout_s):
    def attempt():
        secede()
        return other(pool)

    assert run_unit(pool, lambda: [call_within(timeout_s, attempt, [], {}) for _ in range(3)]) == ["other"] * 3
    assert is_free(pool)


@pytest.mark.parametrize("timeout_s", [None, 20.0])
def test_a_wait_within_a_wait_does_not_take_the_slot_from_what_is_waited_for(pool, timeout_s):
    def attempt():
        secede()  # as worker_client does it
        secede()  # as dask.compute does it within
        inner = other(pool)
        rejoin()
        outer = other(pool)
        rejoin()
        return inner, outer, threading.current_thread() in pool._threads or timeout_s is not None

    assert run_unit(pool, lambda: call_within(timeout_s, attempt, [], {})) == ("other", "other", True)
    assert is_free(pool)


def test_a_wait_gives_the_slot_to_what_is_waited_for_at_any_depth(pool, monkeypatch):
    def inner():
        with slots.given_up(), slots.given_up():
            return other(pool)

    def unit():
        with slots.given_up():
            return other(pool), call_within(20.0, inner, [], {})

    monkeypatch.setattr("distributed.secede", secede)  # without the word to the worker, which is not there
    assert run_unit(pool, unit) == ("other", "other")
    assert is_free(pool)


def test_where_dask_runs_nothing_there_is_no_slot():
    with slots.held(), slots.given_up(), slots.lent() as take:
        take()
        assert not hasattr(pools.thread_state, "executor")


@pytest.mark.parametrize("begins_to_rejoin", ["before the deadline", "after it", "never"])
def test_an_attempt_that_is_abandoned_takes_no_slot_with_it(pool, begins_to_rejoin):
    is_over, is_done = threading.Event(), threading.Event()

    def attempt():
        try:
            secede()
            if begins_to_rejoin == "before the deadline":
                blocker.set()
                rejoin()  # the pool's other thread is busy
            while not is_over.wait(0.01):
                pass
        finally:
            if begins_to_rejoin == "after it":
                is_over.wait(20)
                rejoin()
            is_done.set()

    blocker = threading.Event()

    def unit():
        pool.submit(is_over.wait, 20)
        try:
            call_within(0.2, attempt, [], {})
        except TaskTimeout:
            return "late"

    assert run_unit(pool, unit) == "late"
    is_over.set()
    assert is_done.wait(20)
    assert is_free(pool)


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_so_many_units_share_a_slot_as_may_and_the_pool_is_whole_afterwards(pool, monkeypatch, allowed):
    monkeypatch.setattr("distributed.secede", secede)  # without the word to the worker, which is not there
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(state=SimpleNamespace(nthreads=1)))
    begun, may_end = threading.Semaphore(0), threading.Event()

    def unit():
        state = set_thread_state(start_time=time.time(), execution_state={}, key="unit")
        with state, slots.held(), slots.shared(allowed):
            begun.release()
            may_end.wait(20)

    sent = [pool.submit(unit) for _ in range(6)]
    beside = sum(begun.acquire(timeout=20) for _ in range(allowed + 1))
    last = begun.acquire(timeout=0.05)  # the one more, which holds the slot, keeps others waiting
    may_end.set()
    for each in sent:
        each.result(timeout=20)

    assert (beside, last) == (allowed + 1, False)
    assert slots._sharers == 0
    assert is_free(pool)

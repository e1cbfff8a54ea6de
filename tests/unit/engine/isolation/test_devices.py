"""Devices of a worker: no two have the same one unless both asked for a part, and what is given comes back."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.engine.isolation.devices import NOTHING, VARIABLES, WHOLE, Devices, Share, choose, devices_of

CUDA, HIP = VARIABLES


@pytest.mark.parametrize(
    ("environ", "total", "names"),
    [
        ({}, 2, ["0", "1"]),
        ({}, 0.5, ["0"]),
        ({}, 0, []),
        ({CUDA: "5,7"}, 2, ["5", "7"]),
        ({CUDA: "1,2,3,0"}, 1, ["1"]),  # as those who start a worker for each device order them
        ({CUDA: " GPU-8932f937-d72c , MIG-GPU-8932f937/1/0"}, 2, ["GPU-8932f937-d72c", "MIG-GPU-8932f937/1/0"]),
        ({CUDA: "3,-1,4"}, 3, ["3"]),  # what comes after it is not seen
        ({CUDA: ""}, 2, []),
        ({CUDA: "-1"}, 2, []),
        ({HIP: "2,3"}, 2, ["2", "3"]),
        ({CUDA: "4", HIP: "2,3"}, 1, ["4"]),
        ({"ROCR_VISIBLE_DEVICES": "6,7"}, 2, ["0", "1"]),  # numbers among those
    ],
)
def test_a_worker_has_the_devices_that_it_was_shown(environ: dict[str, str], total: float, names: list[str]):
    assert devices_of(environ, total)[0] == names


def test_a_worker_that_says_it_has_more_than_it_is_shown_has_several_tasks_on_a_device():
    names, room = devices_of({CUDA: "5"}, 2)
    first = choose({}, names, room, 1)
    assert first is not None
    assert choose(dict(first.parts), names, room, 1) == first
    assert choose({"5": 2 * WHOLE}, names, room, 1) is None
    assert choose({}, names, room, 2) == first


def test_parts_go_to_a_device_that_others_have_parts_of():
    assert choose({"1": WHOLE // 2}, ["0", "1"], WHOLE, 0.5) == Share((("1", WHOLE // 2),))
    assert choose({"1": WHOLE // 2}, ["0", "1"], WHOLE, 0.6) == Share((("0", 600_000),))
    assert choose({}, ["0", "1", "2"], WHOLE, 1.5) == Share((("0", WHOLE), ("1", WHOLE // 2)))


def test_a_share_is_told_in_the_variables_of_cuda_and_hip():
    assert Share((("GPU-1", WHOLE), ("3", 5))).environ == {CUDA: "GPU-1,3", HIP: "GPU-1,3"}
    assert NOTHING.environ == {}


AMOUNTS = st.one_of(
    st.sampled_from([1.0, 0.5, 1 / 3, 0.25, 2.0, 1.5, 1e-9]),
    st.floats(1e-9, 4, allow_subnormal=False),
)


@given(
    shown=st.integers(1, 4),
    total=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, 4.0]),
    steps=st.lists(st.one_of(AMOUNTS, st.integers(0, 5)), max_size=30),
)
def test_whatever_comes_and_goes_no_device_is_given_twice(shown: int, total: float, steps: list[float | int]):
    names, room = devices_of({CUDA: ",".join(f"GPU-{number}" for number in range(shown))}, total)
    held: list[tuple[float, Share]] = []
    for step in steps:
        if isinstance(step, int):
            del held[step : step + 1]
            continue
        if sum(amount for amount, _ in held) + step > total:
            continue  # Dask does not begin it
        taken = Counter[str]()
        for _, share in held:
            taken.update(dict(share.parts))
        share = choose(taken, names, room, step)
        if share is None:
            assert held, "a worker on which nothing runs has room for all that Dask begins there"
            continue
        assert 1 <= len(share.names) == len(set(share.names)) <= len(names)
        taken.update(dict(share.parts))
        assert all(taken[name] <= room for name in names)
        others = {name for _, each in held for name in each.names}
        alone = {name for name, size in share.parts if size == WHOLE}
        alone_before = {name for _, each in held for name, size in each.parts if size == WHOLE}
        if room == WHOLE:
            assert alone.isdisjoint(others)
            assert alone_before.isdisjoint(share.names)
        held.append((step, share))


@given(total=st.integers(1, 5), parts=st.integers(1, 7), ends=st.lists(st.integers(0, 40), max_size=60))
def test_equal_parts_of_devices_never_wait_for_each_other(total: int, parts: int, ends: list[int]):
    names, room = devices_of({}, total)
    held: list[Share] = []
    for end in ends:
        if len(held) == total * parts:
            del held[end % len(held)]
        taken = Counter[str]()
        for share in held:
            taken.update(dict(share.parts))
        found = choose(taken, names, room, 1 / parts)
        assert found is not None
        held.append(found)


# Held and waited for --------------------------------------------------------------------------------------------------


def held(devices: Devices, amount: float, total: float = 1, **options: Any) -> Any:
    options = {"is_over": lambda: False, "is_alone": False, "clear": lambda share, held: None, **options}
    return devices.held(amount, total, **options)


def in_thread(function: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_who_waits_gets_what_is_given_back_however_that_ended():
    devices, got, waits = Devices(), [], threading.Event()

    def is_over() -> bool:
        waits.set()
        return False

    def run() -> None:
        with held(devices, 1, is_over=is_over) as share:
            got.append(share)

    def fail() -> None:
        with held(devices, 1):
            thread.append(in_thread(run))
            assert waits.wait(20)
            assert not got
            raise RuntimeError("it failed")

    thread: list[threading.Thread] = []
    with pytest.raises(RuntimeError, match="it failed"):
        fail()
    thread[0].join(20)
    assert [share.names for share in got] == [("0",)]


def test_who_came_first_is_served_first_though_another_would_fit():
    devices, order, waits = Devices(), [], [threading.Event(), threading.Event()]

    def run(number: int, amount: float) -> None:
        with held(devices, amount, is_over=lambda: waits[number].set() is not None):
            order.append(number)

    with held(devices, 0.5):
        first = in_thread(lambda: run(0, 1))
        assert waits[0].wait(20)
        second = in_thread(lambda: run(1, 0.5))
        assert waits[1].wait(20)
        assert not order
    first.join(20)
    second.join(20)
    assert order == [0, 1]


def test_who_need_not_run_any_more_gets_nothing_and_keeps_nobody_waiting():
    devices = Devices()
    with held(devices, 1), held(devices, 1, is_over=lambda: True) as share:
        assert share is None
    with held(devices, 1) as share:
        assert share.names == ("0",)


def test_the_environment_shows_the_devices_where_one_task_runs_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CUDA, "6,7")
    monkeypatch.delenv(HIP, raising=False)
    devices = Devices()
    with held(devices, 1, 2, is_alone=True):
        assert (os.environ[CUDA], os.environ[HIP]) == ("6", "6")
        with held(devices, 1, 2, is_alone=True) as other:  # the first one has given up its slot for a while
            assert other.names == ("7",)
            assert os.environ[CUDA] == "6"
    assert (os.environ[CUDA], os.environ.get(HIP)) == ("6,7", None)
    with held(devices, 1, 2) as share:
        assert share.names == ("6",)
        assert os.environ[CUDA] == "6,7"


def test_workers_of_one_process_leave_its_environment_as_it_was(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CUDA, "6")
    first, second = held(Devices(), 1, is_alone=True), held(Devices(), 1, is_alone=True)
    monkeypatch.delenv(CUDA)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert CUDA not in os.environ


def test_what_is_held_is_told_before_the_block_begins():
    devices, told = Devices(), []

    def clear(share: Share, all_held: list[Share]) -> None:
        told.append((share, all_held))

    with held(devices, 0.5, clear=clear) as first, held(devices, 0.25, clear=clear) as second:
        assert told == [(first, [first]), (second, [first, second])]

"""What waits for who reads a stream, and how its run learns that nobody does."""

from __future__ import annotations

import asyncio
import pickle
import threading
import tracemalloc
from typing import Any

import pytest

from anabranch import Flow, task
from anabranch.base.errors import ResultReleased
from anabranch.engine.driver.outlet import Given
from anabranch.flows.stream import Backlog, Inflow, Stream
from anabranch.states import Failed, Success


@task
def increment(x: int) -> int:
    return x + 1


def given(start: int, values: Any) -> Given:
    return Given("m", range(start, start + 1), bytes([Success.code]), {}, values, nbytes=1_000)


def stream_of(*found: Given, graph: Any = None) -> Stream:
    with Flow("one") as flow:
        increment.map([1])
    (node,) = flow.graph.freeze().nodes.values()
    inflow = Inflow(["m"], "run")
    inflow.begin({"m": node})
    for each in found:
        inflow.give(each)
    return Stream(inflow, graph, "continue")


def test_what_is_too_much_for_the_memory_waits_in_a_file_in_its_order() -> None:
    backlog = Backlog(max_nbytes=2_500)
    for start in range(5):
        backlog.put(given(start, [start]))
    first = [backlog.get().values for _ in range(3)]
    backlog.put(given(5, [5]))
    rest = []
    while backlog:
        rest.append(backlog.get().values)
    backlog.put(given(6, [6]))

    given_back = [*first, *rest, backlog.get().values]
    assert [pickle.loads(each) if isinstance(each, bytes) else each for each in given_back] == [[i] for i in range(7)]
    assert not backlog
    backlog.clear()


def test_what_cannot_be_written_waits_in_memory() -> None:
    backlog = Backlog(max_nbytes=0)
    lock = threading.Lock()
    backlog.put(given(0, [0]))
    backlog.put(given(1, [lock]))

    assert sorted((backlog.get().indices[0], backlog.get().indices[0])) == [0, 1]


class Unloadable:
    """Raises when it is loaded."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise SystemExit("not here")


class Unpicklable:
    """Raises when it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit("not at all")


def test_values_that_do_not_load_or_pickle_are_no_affair_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.flows.stream.MEMORY_NBYTES", 0)
    stream = stream_of(given(0, [0]), given(1, [Unloadable()]), given(2, [Unpicklable()]), given(3, [3]))

    states = {state.map_index: state for state in (next(stream) for _ in range(4))}

    with pytest.raises(SystemExit, match="not here"):
        _ = states[1].result
    assert isinstance(states[2].result, Unpicklable)
    assert [states[0].result, states[3].result] == [0, 3]


def test_a_full_disk_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    backlog = Backlog(max_nbytes=0)

    backlog.put(given(0, [0]))

    assert backlog.get().values == [0]


def test_a_value_that_is_gone_is_said_to_be() -> None:
    state = next(stream_of(given(4, None)))

    with pytest.raises(
        ResultReleased, match=r"the value of m\[4\] is not there any more: it was lost, or nothing kept it"
    ):
        _ = state.result


def test_states_say_what_they_are_of() -> None:
    failed = Given("m", (7,), bytes([Failed.code]), {7: Failed(message="no")}, None)
    stream = stream_of(given(4, [5]), failed)

    one, two = next(stream), next(stream)

    assert repr(one) == "<m[4]: Success: done>"
    assert (one.map_index, one.result, isinstance(one, Success)) == (4, 5, True)
    assert (two.map_index, two.node, two.is_failed()) == (7, "m", True)
    assert repr(stream) == "<stream of m of run run>"


def test_ctrl_c_while_a_stream_waits_ends_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of()

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream._inflow.changed, "wait_for", interrupt)

    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert stream._inflow.wants_end() == "interrupted by Ctrl-C"


def test_a_run_ends_with_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    inflow = Inflow(["m"], "run")
    assert inflow.wants_end() == ""

    monkeypatch.setattr(threading.main_thread(), "is_alive", lambda: False)

    assert inflow.wants_end() == "the program has ended before its run: wait for that with Stream.wait()"


def test_who_left_is_given_nothing_more() -> None:
    stream = stream_of(given(0, [0]))
    stream._leave()
    stream._inflow.give(given(1, [1]))

    assert list(stream) == []
    assert not stream._inflow.backlog


def test_a_loop_that_has_gone_holds_up_nothing() -> None:
    stream = stream_of()

    async def look() -> None:
        waits = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waits.cancel()

    asyncio.run(look())
    stream._inflow.give(given(0, [0]))

    assert next(stream).result == 0


def test_other_coroutines_have_their_turn_while_there_is_much_to_take() -> None:
    stream = stream_of(*(given(i, [i]) for i in range(50)))
    stream._inflow.end(None, RuntimeError("the end"))
    turns = []

    async def count() -> None:
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    async def read() -> None:
        counting = asyncio.ensure_future(count())
        with pytest.raises(RuntimeError, match="the end"):
            async for _ in stream:
                pass
        counting.cancel()

    asyncio.run(read())
    assert len(turns) >= 50


@pytest.mark.timeout(300)
def test_memory_does_not_grow_with_what_was_read() -> None:
    @task
    def text(x: int) -> str:
        return f"{x:0200d}"

    with Flow("memory") as flow:
        texts = text.map(range(40_000))
    tracemalloc.start()
    try:
        with flow.stream(texts) as stream:
            for count, state in enumerate(stream, 1):
                assert len(state.result) == 200
                if count == 5_000:
                    before = tracemalloc.get_traced_memory()[0]
                if count == 35_000:
                    grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 3_000_000  # the values alone have 6 MB

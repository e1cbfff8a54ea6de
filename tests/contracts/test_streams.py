"""What streams give wherever a run is executed: each task run once, in its final state, with its value, as it ends."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, Parameter, flatten, signals, task, unmapped
from anabranch.base.errors import OptionError, ParameterError, ResultReleased, UnknownNodeError
from anabranch.results import LocalResult


@task
def increment(x: int) -> int:
    return x + 1


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task
def large(x: int) -> str:
    return str(x) * 20_000


@task
def picky(x: int) -> int:
    if x % 3 == 1:
        raise ValueError(f"not {x}")
    if x % 3 == 2:
        raise signals.SKIP(f"without {x}", result=-x)
    return x


THREADS = 3  # of the executor with threads


@pytest.mark.parametrize("width", [0, 1, 5_000])
def test_each_element_of_a_map_is_given_once_with_its_value(executor: Any, width: int) -> None:
    with Flow("each") as flow:
        mapped = increment.map(numbers(Parameter("n")))

    states = list(flow.stream(mapped, parameters={"n": width}, executor=executor))

    assert sorted((state.map_index, state.result) for state in states) == [(i, i + 1) for i in range(width)]
    assert all(state.is_successful() and state.node is mapped for state in states)


def test_large_values_are_given_and_are_not_kept(executor: Any) -> None:
    with Flow("large") as flow:
        mapped = large.map(range(6))

    stream = flow.stream(mapped, executor=executor)
    values = {state.map_index: state.result for state in stream}

    assert values == {x: str(x) * 20_000 for x in range(6)}
    view = stream.wait()
    assert view.is_successful()
    with pytest.raises(ResultReleased, match="given to the stream of the run and not kept"):
        _ = view.result[mapped].result
    with pytest.raises(ResultReleased, match=r"large\[2\] was given to the stream"):
        _ = view.result[mapped].map_states[2].result


def test_what_keep_names_is_there_afterwards_too(executor: Any) -> None:
    with Flow("kept") as flow:
        mapped, other = increment.map(range(100)), large.map(range(3))

    stream = flow.stream(mapped, other, executor=executor, keep=[mapped, other])
    assert len(list(stream)) == 103

    assert stream.wait().result[mapped].result == list(range(1, 101))
    assert stream.wait().result[other].result[2] == "2" * 20_000


def test_failed_and_skipped_elements_are_given_with_their_states(executor: Any) -> None:
    with Flow("picky") as flow:
        mapped = picky.map(range(9))

    states = {state.map_index: state for state in flow.stream(mapped, executor=executor)}

    assert [states[i].name for i in range(9)] == ["Success", "Failed", "Skipped"] * 3
    assert [states[i].result for i in (0, 2, 3)] == [0, -2, 3]
    assert isinstance(states[4].result, ValueError)
    assert str(states[4].result) == "not 4"


def test_what_did_not_run_is_given_as_it_was_left_out(executor: Any) -> None:
    @task(first_n=2, chunksize=1)
    def some(x: int) -> int:
        return x

    with Flow("first") as flow:
        mapped = some.map(range(50))

    states = {state.map_index: state for state in flow.stream(mapped, executor=executor)}

    counts = Counter(state.name for state in states.values())
    assert sorted(states) == list(range(50))
    assert counts["Success"] >= 2
    assert counts["Success"] + counts["Skipped"] == 50
    assert all(state.map_index == index for index, state in states.items())
    assert any("were enough (first_n)" in state.message for state in states.values())


@pytest.mark.parametrize("delay_s", [0.0, 1.0])
def test_of_attempts_the_last_state_is_given(executor: Any, delay_s: float, tmp_path: Path) -> None:
    @task(max_retries=1, retry_delay=delay_s)
    def second(x: int, place: Path) -> int:
        if x % 2 and not (place / str(x)).exists():
            (place / str(x)).touch()
            raise ValueError("once")
        return x

    with Flow("second") as flow:
        mapped = second.map(range(6), unmapped(tmp_path))

    states = list(flow.stream(mapped, executor=executor))

    assert sorted((state.map_index, state.result, state.attempt) for state in states) == [
        (x, x, 1 + x % 2) for x in range(6)
    ]


def test_nodes_that_are_no_maps_have_one_state_each(executor: Any) -> None:
    with Flow("nodes") as flow:
        n = Parameter("n", default=4)
        listed = numbers(n)
        mapped = increment.map(listed)
        joined, text = total(mapped), large(7)

    states = list(flow.stream(n, listed, mapped, joined, text, executor=executor))

    given = {(state.node, state.map_index): state.result for state in states}
    assert given[n, None] == 4
    assert given[listed, None] == [0, 1, 2, 3]
    assert [given[mapped, i] for i in range(4)] == [1, 2, 3, 4]
    assert given[joined, None] == 10
    assert given[text, None] == "7" * 20_000
    assert len(states) == 8


def test_a_map_without_elements_has_a_state_only_if_it_was_refused(executor: Any) -> None:
    @task
    def broken() -> list[int]:
        raise ValueError("no list")

    with Flow("refused") as flow:
        mapped, empty = increment.map(broken()), increment.map(numbers(0))

    (state,) = flow.stream(mapped, empty, executor=executor)

    assert (state.node, state.name, state.map_index) == (mapped, "TriggerFailed", None)
    assert isinstance(state.result, Exception)


def test_maps_of_maps_and_lists_of_them(executor: Any) -> None:
    with Flow("nested") as flow:
        flat = flatten(numbers.map([3, 0, 2]))
        mapped = increment.map(flat)

    states = list(flow.stream(flat, mapped, executor=executor))

    assert sorted(state.result for state in states if state.node is not mapped) == [[], [0, 1], [0, 1, 2]]
    values = {state.map_index: state.result for state in states if state.node is mapped}
    assert [values[i] for i in range(5)] == [1, 2, 3, 1, 2]


def test_elements_that_make_calls_are_given_with_what_became_of_them(executor: Any) -> None:
    @task
    def calls(x: int) -> Any:
        return [increment(x), increment(x + 1)]

    with Flow("calls") as flow:
        mapped = calls.map(range(5))

    values = {state.map_index: state.result for state in flow.stream(mapped, executor=executor)}

    assert values == {x: [x + 1, x + 2] for x in range(5)}


def test_stored_values_are_read_when_they_are_asked_for(executor: Any, tmp_path: Path) -> None:
    @task(result=LocalResult(str(tmp_path)))
    def stored(x: int) -> str:
        return str(x) * 20_000

    @task(result=LocalResult(str(tmp_path)))
    def alone() -> str:
        return "a" * 20_000

    with Flow("stored") as flow:
        mapped, single = stored.map(range(4)), alone()

    stream = flow.stream(mapped, single, executor=executor)
    values = {state.map_index: state.result for state in stream}

    assert values == {None: "a" * 20_000, **{x: str(x) * 20_000 for x in range(4)}}
    assert stream.wait().result[mapped].result[3] == "3" * 20_000


def test_elements_come_while_the_run_goes_on(executor: Any, tmp_path: Path) -> None:
    @task(chunksize=1)
    def all_but_one_wait(x: int, place: Path) -> int:
        import time
        from contextlib import suppress

        with suppress(FileExistsError):
            (place / "first").mkdir()
            return x
        while not (place / "heard").exists():
            time.sleep(0.01)
        return x

    with Flow("live") as flow:
        mapped = all_but_one_wait.map([0, 1, 2], unmapped(tmp_path))

    with flow.stream(mapped, executor=executor) as stream:
        first = next(stream).result
        (tmp_path / "heard").touch()
        assert sorted([first, *(state.result for state in stream)]) == [0, 1, 2]


def test_who_breaks_off_cancels_the_run(executor: Any) -> None:
    with Flow("broken off") as flow:
        mapped = increment.map(numbers(200_000))

    with flow.stream(mapped, executor=executor) as stream:
        for _state in stream:
            break

    view = stream.wait()
    assert (view.state.name, view.state.message) == ("Cancelled", "its stream was left")
    assert list(stream) == []


def test_who_breaks_off_may_let_the_run_go_on(executor: Any) -> None:
    with Flow("goes on") as flow:
        mapped = increment.map(range(1_000))
        joined = total(mapped)

    with flow.stream(mapped, executor=executor, on_break="continue") as stream:
        next(stream)

    assert stream.wait().result[joined].result == sum(range(1, 1_001))


def test_a_stream_that_nobody_has_any_more_ends_its_run(executor: Any) -> None:
    ended = threading.Event()
    with Flow("dropped", state_handlers=[lambda flow, old, new: ended.set() if new.is_cancelled() else None]) as flow:
        mapped = increment.map(numbers(300_000))

    for _state in flow.stream(mapped, executor=executor):
        break

    assert ended.wait(60)


def test_an_exception_of_the_consumer_is_its_own(executor: Any) -> None:
    with Flow("raises") as flow:
        mapped = increment.map(numbers(200_000))

    with pytest.raises(KeyError, match="mine"), flow.stream(mapped, executor=executor) as stream:
        raise KeyError(f"mine: {next(stream)}")

    assert stream.wait().state.is_cancelled()


def test_what_a_run_raises_is_raised_where_it_is_read(executor: Any) -> None:
    with Flow("raises") as flow:
        mapped = picky.map(range(3))
        Parameter("n")

    with pytest.raises(ParameterError):
        next(flow.stream(mapped, executor=executor))
    stream = flow.stream(mapped, parameters={"n": 1}, executor=executor, raise_on_failure=True)
    states = []
    with pytest.raises(ValueError, match="not 1"):
        states.extend(stream)
    with pytest.raises(ValueError, match="not 1"):
        stream.wait()


def test_a_resumed_run_gives_what_is_on_record_too(executor: Any, tmp_path: Path) -> None:
    @task
    def fails_once(x: int, place: Path) -> int:
        if x == 3 and not (place / "seen").exists():
            (place / "seen").touch()
            raise ValueError("once")
        return x

    with Flow("resumed") as flow:
        mapped = fails_once.map(range(6), unmapped(tmp_path))

    first = flow.stream(mapped, executor=executor)
    names = {state.map_index: state.name for state in first}
    again = flow.stream(mapped, executor=executor, resume=first.run_id)
    states = {state.map_index: state for state in again}

    assert names[3] == "Failed"
    assert {index: state.result for index, state in states.items()} == {x: x for x in range(6)}
    assert again.run_id == first.run_id


def test_a_stream_is_read_by_several_threads(executor: Any) -> None:
    with Flow("threads") as flow:
        mapped = increment.map(range(2_000))
    found: list[int] = []

    with flow.stream(mapped, executor=executor) as stream:

        def read() -> None:
            found.extend(state.result for state in stream)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    assert sorted(found) == list(range(1, 2_001))


def test_streams_are_read_where_a_loop_runs(executor: Any) -> None:
    with Flow("loops") as flow:
        mapped = increment.map(range(2_000))

    async def read() -> list[int]:
        return [state.result async for state in flow.stream(mapped, executor=executor)]

    async def both() -> list[list[int]]:
        return await asyncio.gather(read(), read())

    for found in asyncio.run(both()):
        assert sorted(found) == list(range(1, 2_001))


def test_who_breaks_off_in_a_loop_cancels_the_run(executor: Any) -> None:
    with Flow("loop broken off") as flow:
        mapped = increment.map(numbers(200_000))

    async def read() -> Any:
        async with flow.stream(mapped, executor=executor) as stream:
            async for _state in stream:
                break
        return stream.wait()

    assert asyncio.run(read()).state.is_cancelled()


def test_what_is_far_behind_comes_all_the_same(executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.flows.stream.MEMORY_NBYTES", 5_000)
    with Flow("behind") as flow:
        mapped, texts = increment.map(range(3_000)), large.map(range(5))

    stream = flow.stream(mapped, texts, executor=executor)
    stream.wait()

    states = list(stream)
    assert sorted(state.result for state in states if state.node is mapped) == list(range(1, 3_001))
    assert sorted(state.result for state in states if state.node is texts) == [str(x) * 20_000 for x in range(5)]


def test_what_cannot_be_streamed_is_refused_in_words() -> None:
    with Flow("one") as flow:
        mapped = increment.map(range(3))
    with Flow("other"):
        other = increment.map(range(3))

    with pytest.raises(UnknownNodeError):
        flow.stream(other)
    with pytest.raises(OptionError, match=r"stream\(\) takes the nodes to be given, found none"):
        flow.stream()
    with pytest.raises(OptionError, match="on_break: expected 'cancel' or 'continue', found 'stop'"):
        flow.stream(mapped, on_break="stop")  # type: ignore[arg-type]


def test_a_stream_is_waited_for_so_long() -> None:
    go_on = threading.Event()

    @task
    def wait() -> bool:
        return go_on.wait(60)

    with Flow("long") as flow:
        node = wait()

    with flow.stream(node) as stream:
        with pytest.raises(TimeoutError, match="has not ended after 0 s; it goes on"):
            stream.wait(timeout=0)
        go_on.set()
        assert next(stream).result is True

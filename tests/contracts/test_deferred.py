"""What must hold of deferred calls wherever they run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, Parameter, config, task, triggers, unmapped
from anabranch.base.events import CallsMade, Event
from anabranch.executors import DaskExecutor
from anabranch.results import LocalResult


@task
def number(x: int) -> int:
    if x == 13:
        raise ValueError("thirteen")
    return x


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task
def many(n: int) -> Any:
    return total([number(x + 14) for x in range(n)])


@task
def tree(n: int, depth: int) -> Any:
    return number(n) if not depth else [tree(2 * n + i, depth - 1) for i in range(2)]


@task(trigger=triggers.all_finished)
def tolerant(numbers: list[int]) -> Any:
    return [number(x) for x in numbers]


@task
def text(n: int) -> str:
    return "x" * n


@task
def texts(n: int) -> Any:
    return [text(n), {"more": [text(n + 1)]}]


THREADS = 3  # of the executor with threads


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stop_when": bool}, "1 successful, 59 skipped"),
        ({"first_n": 1}, "1 successful, 59 skipped"),
        ({"min_success": 0.99}, "0 successful, 1 failed, 59 cancelled"),
    ],
    ids=["stop_when", "first_n", "min_success"],
)
def test_calls_that_nobody_needs_any_more_do_not_begin(executor: Any, options: dict[str, Any], told: str) -> None:
    @task(chunksize=1)
    def work(k: Any, i: int) -> int:
        if "min_success" in options:
            raise ValueError(i)
        return i

    @task(chunksize=1)
    def inner(i: int) -> Any:
        return work(0, i)

    @task(chunksize=1, **options)
    def trial(i: int) -> Any:
        return [work(0, i), inner(i), work(work(1, i), i)]

    with Flow("trials") as flow:
        node = trial.map(list(range(60)))

    state = flow.run(executor=executor)

    assert f"60 elements: {told}" in state[node].message
    calls = [state[slug] for slug in ("trial/work", "trial/inner", "trial/inner/work")]
    ran = [each for call in calls for each in call.map_states if each.is_successful() or each.name == "Failed"]
    assert 1 <= len(ran) <= 75, "of 300: those of the first elements, and what was on its way"
    assert all(each.is_finished() for call in calls for each in call.map_states)


def test_trees_grow_from_single_tasks_and_from_elements(executor: Any) -> None:
    with Flow("f") as flow:
        single = tree(1, 4)
        each = tree.map([1, 2, 3], unmapped(2))
    state = flow.run(executor=executor)

    assert state.result[single].result[0] == [[[16, 17], [18, 19]], [[20, 21], [22, 23]]]
    assert state.result[each].result[:2] == [[[4, 5], [6, 7]], [[8, 9], [10, 11]]]
    assert [each.name for each in state.result[each].map_states] == ["Success", "Success", "TriggerFailed"]
    assert state.message.startswith("tree-1[2]/tree[0]/tree[1]/number[0] failed with ValueError: thirteen")
    assert state.result[each].map_states[2].failure.root == "tree-1[2]/tree[0]/tree[1]/number[0]"


def test_many_calls_of_a_task_are_run_in_chunks(executor: Any) -> None:
    with Flow("f") as flow:
        node = many(20_000)
    events: list[Event] = []
    with config.set(engine__inline_nbytes=1000):  # most of the values stay where they are made
        state = flow.run(executor=executor, observers=[events.append])

    assert state.result[node].result == sum(range(14, 20_014))
    assert len([event for event in events if isinstance(event, CallsMade)]) == 1
    assert len(state._whole.runs["many/number"].elements.keys) < 200


def test_a_caller_that_bears_failures_sees_them(executor: Any) -> None:
    with Flow("f") as flow:
        node = tolerant([12, 13])
    found = flow.run(executor=executor).result[node].result

    assert found[0] == 12
    assert isinstance(found[1], ValueError)


def test_large_values_take_their_places_without_the_driver(executor: Any) -> None:
    with Flow("f") as flow:
        node = texts(100_000)
    state = flow.run(executor=executor)

    assert state.result[node].result == ["x" * 100_000, {"more": ["x" * 100_001]}]
    assert state._whole.runs["texts/text"].value is None
    assert not state._whole.runs["texts/text"].elements.values


@task
def load(n: int) -> list[int]:
    return list(range(n))


@task
def count(i: int, data: list[int]) -> int:
    return i + len(data)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_calls_share_what_their_caller_was_given_or_has_made(executor: Any, isolation: Any) -> None:
    n = 50_000  # of which one copy is within the limit, and two are not

    def all_kinds(i: int, data: list[int], constant: list[int], parameter: list[int]) -> Any:
        own = list(range(n))
        shares = [count(i, each) for each in (data, constant, parameter, own, own)]
        return {"shares": shares, "map": count.map([0, 1], unmapped(data)), "below": further(i, data), "held": [data]}

    @task
    def further(i: int, data: list[int]) -> Any:
        return [count(i, data), count(i + 1, [*data, 1])]

    with Flow("f") as flow:
        given = load(n), unmapped(list(range(n)))
        options: dict[str, Any] = {"isolation": isolation, "name": "caller"}
        node = task(all_kinds, **options).map(
            [0, 1, 2], unmapped(given[0]), given[1], unmapped(Parameter("p", default=list(range(n))))
        )
    with config.set(engine__calls_nbytes=900_000):
        view = flow.run(executor=executor)

    assert view.is_successful(), view.result[node].message
    for i, value in enumerate(view.result[node].result):
        assert value["shares"] == [i + n] * 5
        assert value["map"] == [n, n + 1]
        assert value["below"] == [i + n, i + n + 2]
        assert value["held"] == [list(range(n))]


def test_calls_of_elements_in_processes_of_their_own_are_one_map(executor: Any) -> None:
    with Flow("f") as flow:
        node = task(lambda x: number(x), name="caller", isolation="process", chunksize=4).map(list(range(20, 32)))
    view = flow.run(executor=executor)

    assert view.result[node].result == list(range(20, 32))
    assert [each.map_index for each in view["caller/number"].map_states] == list(range(12))


def test_a_resumed_run_has_what_calls_were_given(executor: Any, tmp_path: Path) -> None:
    mended = tmp_path / "mended"

    @task
    def weigh(i: int, *data: list[int]) -> int:
        if i == 1 and not mended.exists():
            raise ValueError(i)
        return i + sum(map(len, data))

    @task
    def caller(i: int, data: list[int]) -> Any:
        return [weigh(i, data, own := [i] * 40_000), weigh(i + 1, own)]

    with Flow("f") as flow:
        node = caller.map([0, 1], unmapped(load(40_000)))
    before = flow.run(executor=executor)
    assert before.is_failed()
    mended.touch()
    view = flow.run(executor=executor, resume=before.run_id)

    assert view.result[node].result == [[80_000, 40_001], [80_001, 40_002]]


@pytest.mark.parametrize("options", [{"cache_for": 60}, {"target": "{x}"}])
def test_calls_use_values_that_the_block_has_stored_and_store_for_it(
    executor: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    def noted(x: int) -> str:
        (tmp_path / f"ran {x} {os.urandom(4).hex()}").touch()
        return str(x) * 20_000

    child = task(noted, name="child", **options)

    def flow(*, is_called: bool) -> Flow:
        with Flow("f", result=LocalResult(tmp_path / "store")) as made:
            task(lambda: child.map([1, 2]), name="parent")() if is_called else child.map([1, 2])
        return made

    for is_called in (True, False, True):
        view = flow(is_called=is_called).run(executor=executor)
        assert view.is_successful(), view.state
        assert view.result["parent" if is_called else "child"].result == ["1" * 20_000, "2" * 20_000]
    assert len(list(tmp_path.glob("ran *"))) == 2


@pytest.mark.parametrize("options", [{}, {"cache_for": 60}, {"target": "{n}"}])
@pytest.mark.parametrize("chunksize", [1, 2, "auto"])
def test_callers_with_values_to_be_stored_have_their_own(
    executor: Any, tmp_path: Path, options: dict[str, Any], chunksize: Any
) -> None:
    with Flow("f", result=LocalResult(tmp_path)) as flow:
        parents = task(lambda n: number(n), name="parent", chunksize=chunksize, **options).map([1, 2, 3])
        total(parents)

    for _ in range(2):
        view = flow.run(executor=executor, keep="all")
        assert [view.result["parent"].result, view.result["total"].result] == [[1, 2, 3], 6]


def test_a_run_goes_on_in_the_middle_of_an_expansion(executor: Any, tmp_path: Path) -> None:
    ran, mended = tmp_path / "ran", tmp_path / "mended"

    @task
    def leaf(n: int) -> int:
        with ran.open("a") as file:
            file.write(f"{n}\n")
        if n == 5 and not mended.exists():
            raise ValueError(n)
        return n

    @task
    def grow(n: int, depth: int) -> Any:
        with ran.open("a") as file:
            file.write(f"grow {n}\n")
        return leaf(n) if not depth else [grow(2 * n + i, depth - 1) for i in range(2)]

    with Flow("f") as flow:
        single = grow(1, 2)
        each = grow.map([2, 10], unmapped(1))
    before = flow.run(executor=executor)
    assert before.is_failed()
    ran.write_text("")
    mended.touch()
    state = flow.run(executor=executor, resume=before.run_id)

    assert state.result[single].result == [[4, 5], [6, 7]]
    assert state.result[each].result == [[4, 5], [20, 21]]
    assert ran.read_text().splitlines() == ["5", "5"]


@pytest.mark.cluster
def test_a_call_whose_worker_dies_runs_again_and_its_caller_never_notices(address: str, tmp_path: Path) -> None:
    died = tmp_path / "died"

    @task
    def deadly(n: int) -> int:
        if n == 3 and not died.exists():
            died.touch()
            os._exit(1)
        return n

    @task
    def caller(n: int) -> Any:
        return [deadly(i) for i in range(n)]

    with Flow("f") as flow:
        node = caller.map([2, 5])
    state = flow.run(executor=DaskExecutor(address))

    assert state.result[node].result == [[0, 1], [0, 1, 2, 3, 4]]
    assert died.exists()

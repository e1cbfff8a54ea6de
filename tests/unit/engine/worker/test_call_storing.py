"""Values of deferred calls are stored, and found, as they are in the flow's block."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, config, task
from anabranch.base.context import RunInfo
from anabranch.base.files import data_directory
from anabranch.definition.caching import inputs
from anabranch.engine.units.units import CallStoring, Program
from anabranch.engine.worker.call_storing import choose_storing
from anabranch.errors import FlowValidationError, OptionError
from anabranch.executors import LocalDaskExecutor
from anabranch.results import InMemoryResult, JSONSerializer, LocalResult

LARGE = 20_000  # more than is kept in the record


class Ran:
    """What ran; it is no part of the code that notes it."""

    def __init__(self) -> None:
        self.names: list[Any] = []

    def note(self, name: Any) -> None:
        self.names.append(name)

    def __dask_tokenize__(self) -> str:
        return "ran"


def flow_of(child: Any, values: Any, *, is_called: bool = True, store: Any = None, **options: Any) -> Flow:
    """A flow that maps a task, or calls it once, in its block or in another task."""
    make: Callable[[], Any] = (lambda: child.map(values)) if isinstance(values, list) else (lambda: child(values))
    with Flow("f", result=store) as flow:
        task(make, name="parent", **options)() if is_called else make()
    return flow


def files(place: Path) -> list[str]:
    return sorted(Path(root, name).relative_to(place).as_posix() for root, _, names in os.walk(place) for name in names)


STORED = {
    "a target by inputs": {"target": "{task_name}/{x}.pkl"},
    "a target by index": {"target": "{task_name}-{map_index}"},
    "a target by function": {"target": lambda x, **_: f"made/{x}"},
    "a cache": {"cache_for": 60},
    "a cache by inputs": {"cache_key": inputs("x")},
    "a cache that tasks share": {"cache_key": "all"},
    "a validator": {"cache_validator": lambda value, inputs, parameters: True},
}


@pytest.mark.parametrize("options", STORED.values(), ids=STORED)
@pytest.mark.parametrize("values", [1, [1, 2], [3]])
@pytest.mark.parametrize("first", [False, True])
def test_a_call_and_a_task_in_the_block_find_the_value_of_each_other(
    tmp_path: Path, options: dict[str, Any], values: Any, first: bool
):
    if values == 1 and "{map_index}" in str(options):
        options = {"target": "{task_name}"}
    ran = Ran()
    child = task(lambda x: ran.note(x) or "v" * LARGE, name="child", **options)

    one = flow_of(child, values, is_called=first, store=LocalResult(tmp_path)).run()
    before, found = list(ran.names), files(tmp_path)
    other = flow_of(child, values, is_called=not first, store=LocalResult(tmp_path)).run()

    assert one.is_successful(), one.state
    assert other.is_successful(), other.state
    assert ran.names == before
    assert [name for name in files(tmp_path) if "parent" not in name] == [
        name for name in found if "parent" not in name
    ]


@pytest.mark.parametrize("is_map", [False, True])
def test_calls_of_calls_find_values_too(is_map: bool):
    ran, result = Ran(), InMemoryResult()
    leaf = task(lambda x: ran.note(x) or 2 * x, name="leaf", cache_for=60)

    def middle(x: int) -> Any:
        return [leaf(x), leaf.map([x + 1, x + 2])]

    def flow() -> Flow:
        return flow_of(task(middle), [1, 1] if is_map else 1, store=result)

    first, second = flow().run(), flow().run()

    assert first.result["parent"].result == second.result["parent"].result
    assert sorted(set(ran.names)) == [1, 2, 3]
    assert len(ran.names) <= (6 if is_map else 3)


# Where ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [None, LocalDaskExecutor(num_workers=1)])
def test_the_result_of_the_task_is_used_or_that_of_its_caller_or_that_of_the_flow(tmp_path: Path, executor: Any):
    places = [tmp_path / name for name in ("own", "caller", "flow")]
    own, near, far = map(LocalResult, places)
    for options, given, place in (
        ({"result": own}, {"result": near}, places[0]),
        ({}, {"result": near}, places[1]),
        ({}, {}, places[2]),
        ({}, {"checkpoint": False}, places[2]),
    ):
        child = task(lambda x: "v" * LARGE, name="child", **options)
        before = {each: files(each) for each in places}
        view = flow_of(child, [1], store=far, **given).run(executor=executor)
        assert view.is_successful(), view.state
        assert [each for each in places if any("child" in name for name in set(files(each)) - set(before[each]))] == [
            place
        ]


def test_the_serializer_of_the_flow_reaches_calls(tmp_path: Path):
    child = task(lambda x: {"x": x}, name="child", target="{x}")
    flow_of(child, 1, store=LocalResult(tmp_path, serializer=JSONSerializer())).run()
    assert b'{"x"' in (tmp_path / "1").read_bytes().replace(b'": ', b'":')


@pytest.mark.parametrize(
    "options", [{"cache_for": 60}, {"target": "{x}"}, {"location": "{x}-{run_id}"}, {"checkpoint": True}]
)
def test_without_a_result_values_go_where_those_of_the_block_go(options: dict[str, Any]):
    ran = Ran()
    child = task(lambda x: ran.note(x) or "v" * LARGE, name="child", **options)
    view = flow_of(child, 1).run()
    assert view.is_successful(), view.state
    if {"cache_for", "target"} & options.keys():
        assert flow_of(child, 1, is_called=False).run().is_successful()
        assert ran.names == [1]


@pytest.mark.parametrize("is_on", [False, True])
def test_checkpointing_holds_for_calls(is_on: bool):
    place = data_directory() / "results"
    child = task(lambda x: "v" * LARGE, name="child")
    before = files(place)
    with config.set(checkpointing=is_on):
        flow_of(child, [1, 2]).run()
    assert any("child" in name for name in set(files(place)) - set(before)) == is_on


def test_a_call_that_stores_nothing_says_so(tmp_path: Path):
    child = task(lambda x: "v" * LARGE, name="child", checkpoint=False)
    assert flow_of(child, [1], store=LocalResult(tmp_path), checkpoint=False).run().is_successful()
    assert files(tmp_path) == []


def test_a_run_that_goes_on_finds_the_values_of_its_calls(tmp_path: Path):
    ran = Ran()
    broken = tmp_path / "broken"
    broken.touch()

    def use(text: str) -> int:
        if broken.exists():
            raise ValueError("later")
        return len(text)

    child = task(lambda x: ran.note(x) or "v" * LARGE, name="child")

    def both() -> Any:
        return task(use)(child(1))

    with Flow("f", result=LocalResult(tmp_path)) as flow:
        task(both)()
    first = flow.run()
    broken.unlink()
    second = flow.run(resume=first.run_id)

    assert first.is_failed()
    assert second.result["both"].result == LARGE
    assert ran.names == [1]


# What cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (
            {"target": "one"},
            [1, 2],
            r"child, which parent calls: target 'one': all elements .* would have the same target",
        ),
        ({"target": "{nothing}"}, 1, r"child, which parent calls: .*nothing"),
        ({"location": "{nothing}"}, [1], r"child, which parent calls: .*nothing"),
        ({"cache_key": inputs("z")}, 1, r"child, which parent calls: cache_key: the task has no input 'z'"),
    ],
)
def test_what_would_be_refused_in_the_block_fails_the_caller(options: dict[str, Any], values: Any, message: str):
    child = task(lambda x: x, name="child", **options)
    view = flow_of(child, values, store=InMemoryResult()).run()
    assert re.search(f"OptionError: {message}", view.result["parent"].message)
    with pytest.raises(FlowValidationError):
        flow_of(child, values, is_called=False, store=InMemoryResult()).run()


def test_where_no_result_says_where_another_machine_refuses():
    child = task(lambda x: x, name="child", cache_for=60)
    caller = flow_of(child, 1).graph.freeze().nodes["parent"]
    run = RunInfo("f", "r1", {}, datetime(2026, 1, 2, tzinfo=UTC))
    program = Program(run, {}, {}, {}, CallStoring(directory="/results", host="somewhere else"))

    with pytest.raises(OptionError, match=r"child, which parent calls, .*, and no result says where"):
        choose_storing(child._anabranch.policies.storing, "child", ["x"], caller, program, is_many=False)
    assert choose_storing(None, "child", ["x"], caller, program, is_many=False) is None

"""What a type checker makes of a flow. Checked by mypy, never run; a `type: ignore` that is not needed is an error.

A call of a task is typed as the value it will have, so that wiring is checked as calls of the plain functions would be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from anabranch import (
    Dependency,
    Flow,
    FlowRunner,
    Parameter,
    Switch,
    Task,
    apply_map,
    case,
    flatten,
    flow,
    mapped,
    merge,
    resource_manager,
    task,
    unmapped,
    when,
)
from anabranch.definition.frozen import Edge
from anabranch.definition.gates import Gate
from anabranch.definition.node import Node
from anabranch.definition.resources import ResourceManager
from anabranch.runs.view import ElementView, FlowRunView, TaskRunView


@task
def parse(path: str, encoding: str = "utf-8") -> dict[str, int]:
    return {path: len(encoding)}


@task(max_retries=3, retry_delay=[1, 2.5], retry_on=(OSError, ValueError), timeout=60, tags=["io"], nout=2)
def total(records: list[dict[str, int]]) -> int:
    return len(records)


@task(isolation="process", memory_limit="500 MB", timeout=2.5)
def convert(path: str) -> bytes:
    return path.encode()


@task
def paths(root: str) -> list[str]:
    return [root]


@task
def pair() -> tuple[int, str]:
    return 1, "a"


@task
async def fetched(url: str) -> bytes:
    return url.encode()


@task(timeout=5, concurrency_per_slot=10)
async def counted(page: bytes) -> int:
    return len(page)


class Scale(Task[[float], float]):
    def __init__(self, factor: float) -> None:
        self.factor = factor
        super().__init__(name="scale", max_retries=1)

    def run(self, x: float) -> float:
        return self.factor * x


def what_a_task_is() -> None:
    plain: Task[[list[dict[str, int]]], int] = total
    assert_type(plain.run([{"a": 1}]), int)
    assert_type(total.run([{"a": 1}]), int)
    assert_type(parse.run("a", encoding="ascii"), dict[str, int])
    assert_type(Scale(2.0).run(1.0), float)
    total.run("a")  # type: ignore[arg-type]


async def what_an_async_task_is() -> None:
    assert_type(fetched("a"), bytes)
    assert_type(counted(fetched("a")), int)
    assert_type(await fetched.run("a"), bytes)
    plain: Task[[bytes], int] = counted
    assert_type(plain(b""), int)
    counted("a")  # type: ignore[call-overload]
    await fetched.run(1)  # type: ignore[arg-type]


def what_a_call_is() -> None:
    assert_type(paths("."), list[str])
    assert_type(total([parse("a"), parse("b", encoding="ascii")]), int)
    assert_type(Scale(2.0)(1.0), float)
    first, second = pair()
    assert_type(first, int)
    assert_type(second, str)


def what_a_map_is() -> None:
    records = parse.map(paths("."), encoding=unmapped("utf-8"))
    assert_type(records, list[dict[str, int]])
    assert_type(total(records), int)
    assert_type(parse(mapped(["a", "b"])), dict[str, int])
    assert_type(parse(["a", "b"], mapped=True), list[dict[str, int]])
    total(flatten([records]))


def what_the_reserved_keywords_are() -> None:
    before = pair()
    assert_type(paths(".", upstream_tasks=[before, pair]), list[str])
    assert_type(paths(".", task_args={"name": "listing"}), list[str])
    assert_type(paths(".", flow=Flow("other")), list[str])
    assert_type(paths(".", upstream_tasks=[before], flow=Flow("other")), list[str])


def wrong_wiring_is_an_error() -> None:
    total(parse("a"))  # type: ignore[call-overload]  # a dict, not a list of them
    total(paths("."))  # type: ignore[arg-type]
    parse(pair())  # type: ignore[call-overload]
    parse("a", "b", "c")  # type: ignore[call-overload]
    parse(pth="a")  # type: ignore[call-overload]
    parse()  # type: ignore[call-overload]
    number: str = total([])  # type: ignore[assignment]
    print(number)


def wrong_options_are_errors() -> None:
    @task(max_retry=3)  # type: ignore[call-overload, untyped-decorator]
    def misspelt() -> None: ...

    @task(timeout="5")  # type: ignore[call-overload, untyped-decorator]
    def no_number() -> None: ...

    task(5)  # type: ignore[call-overload]


def a_parameter_stands_for_any_value() -> None:
    root = Parameter("root", default=".", type=str)
    assert_type(root, Parameter)
    assert_type(root.required, bool)
    paths(root)
    total([root, parse(root)])
    Parameter("limit", defalt=3)  # type: ignore[call-arg]


def a_dependency_is_declared_on_a_task() -> None:
    assert_type(total.depends_on(paths, Dependency(pair, key=0)).run([]), int)
    paths.set_upstream(pair).set_downstream(total)


def blocks() -> None:
    with Flow("f") as f:
        assert_type(f, Flow)
        assert_type(case(pair(), (1, "a")), Gate)
        assert_type(when(True), Gate)
        with Switch(total([])) as s:
            assert_type(s, Switch)
            with s.case(1):
                left = paths(".")
            with s.default():
                right = paths("..")
        total(merge(left, right))
        total(apply_map(parse_again, paths(".")))


def parse_again(path: str) -> dict[str, int]:
    return parse(path)


class Etl:
    @task
    def fetch(self, day: str, limit: int = 0) -> dict[str, int]:
        return {day: limit}

    @classmethod
    @task
    def kind(cls, x: int) -> str:
        return cls.__name__ * x

    @staticmethod
    @task
    def twice(x: int) -> int:
        return 2 * x


def what_a_method_is(etl: Etl) -> None:
    assert_type(etl.fetch("mon"), dict[str, int])
    assert_type(etl.fetch.map(["mon"]), list[dict[str, int]])
    assert_type(Etl.fetch(etl, "mon", limit=1), dict[str, int])
    etl.fetch(1)  # type: ignore[call-overload]
    assert_type(etl.kind(1), str)
    assert_type(Etl.twice(1), int)


class Lock:
    def __init__(self, path: str) -> None:
        self.path = path

    def cleanup(self, held: object) -> None: ...


def a_resource_is_a_block() -> None:
    lock = resource_manager(Lock)  # mypy does not see what a decorator makes of a class
    assert_type(lock, ResourceManager)
    with lock("a") as held:
        paths(held)


def what_a_run_gives() -> None:
    with Flow("f") as f:
        n = total(parse.map(paths(".")))
    view = f.run(root="/data", parameters={"limit": 3}, raise_on_failure=True)
    assert_type(view, FlowRunView)
    assert_type(FlowRunner(f).run(), FlowRunView)
    assert_type(view.is_successful(), bool)
    assert_type(view.run_id, str)
    assert_type(view.result[n], TaskRunView)
    assert_type(view["total"].message, str)
    assert_type(view.result[parse].map_states[3], ElementView)
    assert_type(view.result[parse].map_states[3].is_failed(), bool)
    value: Any = view.result[n].result
    print(value)
    assert_type(f.tasks, list[Node])
    assert_type(f.edges, list[Edge])
    assert_type(f.parameters(), set[Parameter])
    assert_type(f.parameters(by_name=True), dict[str, Parameter])


def a_flow_from_a_function() -> None:
    @flow
    def daily(limit: int = 3) -> None:
        paths(str(limit))

    @flow(name="nightly")
    def nightly() -> None: ...

    assert_type(daily, Flow)
    assert_type(nightly, Flow)


def a_function_of_tasks(step: Callable[[str], list[str]]) -> None:
    """A task may stand wherever a function of its signature is wanted."""
    a_function_of_tasks(paths)
    a_function_of_tasks(total)  # type: ignore[arg-type]

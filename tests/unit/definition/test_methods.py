"""Tasks on methods bind as functions do."""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

import cloudpickle
import pytest

from anabranch import Flow, Task, config, task
from anabranch.definition.fingerprints import describe_code
from anabranch.errors import CallError, OutsideFlowError
from anabranch.results import InMemoryResult


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class Etl:
    def __init__(self, name: str = "etl") -> None:
        self.name = name

    @task
    def fetch(self, day: str = "mon", *, hour: int = 0) -> tuple[str, str, int]:
        """Fetch a day."""
        return self.name, day, hour

    @task(max_retries=2, name="other")
    def named(self, x: int) -> tuple[str, int]:
        return self.name, x

    @task
    @decorated
    def wrapped(self, x: int) -> tuple[str, int]:
        return self.name, x

    @classmethod
    @task
    def kind(cls, x: int = 1) -> tuple[str, int]:
        return cls.__name__, x

    @task
    @classmethod
    def kind_below(cls, x: int = 1) -> tuple[str, int]:
        return cls.__name__, x

    @staticmethod
    @task
    def twice(x: int) -> int:
        return 2 * x

    @task
    @staticmethod
    def twice_below(x: int) -> int:
        return 2 * x

    @task
    def spread(self, xs: list[int]) -> Any:
        return [self.named(x) for x in xs], self.named.map(xs)

    bound = task(lambda self, x, y: (self.name, x, y)).bind(y=7)
    size = task(len)
    made = task(functools.partial(pow, 2))


class Child(Etl):
    @task
    def fetch(self, day: str = "mon") -> Any:
        return super().fetch.run(f"child's {day}")


@dataclass(frozen=True)
class Frozen:
    n: int

    @task
    def add(self, x: int) -> int:
        return self.n + x


@dataclass
class Unhashable:
    n: int

    @task
    def add(self, x: int) -> int:
        return self.n + x


class Slots:
    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n

    @task
    def add(self, x: int) -> int:
        return self.n + x


class Pair(NamedTuple):
    n: int

    @task
    def add(self, x: int) -> int:
        return self.n + x


CALLS = {
    "a method": (lambda: Etl().fetch("tue"), ("etl", "tue", 0)),
    "a method without arguments": (lambda: Etl().fetch(), ("etl", "mon", 0)),
    "a method by keyword": (lambda: Etl().fetch(day="wed", hour=3), ("etl", "wed", 3)),
    "a method with options": (lambda: Etl("b").named(1, task_args={"name": "c"}), ("b", 1)),
    "a method of the class": (lambda: Etl.fetch(Etl("b"), "tue"), ("b", "tue", 0)),
    "a map": (lambda: Etl().named.map([1, 2]), [("etl", 1), ("etl", 2)]),
    "a map over objects": (lambda: Etl.named.map([Etl("a"), Etl("b")], [1, 2]), [("a", 1), ("b", 2)]),
    "what is bound to an argument": (lambda: Etl().fetch.bind("thu")(), ("etl", "thu", 0)),
    "a bound task": (lambda: Etl().bound(3), ("etl", 3, 7)),
    "a decorated method": (lambda: Etl().wrapped(1), ("etl", 1)),
    "a child's": (lambda: Child().fetch("tue"), ("etl", "child's tue", 0)),
    "an inherited one": (lambda: Child("b").named(1), ("b", 1)),
    "a class method": (lambda: Etl.kind(7), ("Etl", 7)),
    "a class method of an object": (lambda: Child().kind(7), ("Child", 7)),
    "a map of a class method": (lambda: Etl.kind.map([7, 8]), [("Etl", 7), ("Etl", 8)]),
    "a class method below": (lambda: Etl.kind_below(7), ("Etl", 7)),
    "a class method below of an object": (lambda: Child().kind_below(), ("Child", 1)),
    "a map of a class method below": (lambda: Child.kind_below.map([7]), [("Child", 7)]),
    "a static method": (lambda: Etl().twice(4), 8),
    "a map of a static method": (lambda: Etl.twice.map([4]), [8]),
    "a static method below": (lambda: Etl().twice_below(4), 8),
    "a map of a static method below": (lambda: Etl.twice_below.map([4, 5]), [8, 10]),
    "deferred calls": (lambda: Etl("b").spread([1, 2]), ([("b", 1), ("b", 2)],) * 2),
    "a builtin": (lambda: Etl().size([1, 2]), 2),
    "a frozen dataclass": (lambda: Frozen(1).add(2), 3),
    "an object without a hash": (lambda: Unhashable(1).add.map([2, 3]), [3, 4]),
    "an object with slots": (lambda: Slots(1).add(2), 3),
    "a named tuple": (lambda: Pair(1).add(2), 3),
}


if sys.version_info >= (3, 13):  # where @classmethod over a task gives a call only, see below
    del CALLS["a map of a class method"]


@pytest.mark.parametrize(("call", "value"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("travels", [False, True])
def test_a_call_of_a_method_has_its_object(call: Any, value: Any, travels: bool):
    with Flow("f") as flow:
        node = call()
    slug = node.slug
    if travels:
        flow = cloudpickle.loads(cloudpickle.dumps(flow))
    assert flow.run().result[slug].result == value


def test_a_method_is_its_function_outside_of_flows():
    assert Etl("b").fetch.run("tue") == ("b", "tue", 0)
    assert Etl.kind_below.run(3) == ("Etl", 3)
    assert Etl.twice.run(3) == Etl.twice_below.run(3) == 6
    assert Etl("b").bound.run(1) == ("b", 1, 7)
    assert Etl("b").fetch.__doc__ == "Fetch a day."
    assert Etl("b").named.name == "other"
    assert Etl("b").named.max_retries == Etl.named.max_retries == 2
    with pytest.raises(OutsideFlowError):
        Etl().fetch()


def test_calls_of_two_objects_are_two_nodes():
    one, other = Etl("a"), Etl("b")
    with Flow("f") as flow:
        nodes = one.named(1), other.named(1), one.named(2)
    view = flow.run()
    assert [view.result[node].result for node in nodes] == [("a", 1), ("b", 1), ("a", 2)]


def test_the_task_of_an_object_stands_for_its_calls():
    etl, other = Etl("a"), Etl("b")
    with Flow("f") as flow:
        etl.fetch()
        task(lambda: 1, name="first").set_downstream(etl.fetch)
    assert etl.fetch is etl.fetch
    assert flow.run().result[etl.fetch].result == ("a", "mon", 0)
    assert etl.fetch in flow
    assert other.fetch not in flow


def test_objects_are_let_go():
    etl = Etl()
    etl.fetch.run()
    seen = weakref.ref(etl)
    del etl
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("is_map", [False, True])
def test_the_object_is_part_of_the_key_of_a_cache(is_map: bool):
    class Cached:
        def __init__(self, n: int) -> None:
            self.n = n

        @task(cache_for=60)
        def add(self, x: int) -> int:
            return self.n + x

    store = InMemoryResult()

    def run(n: int) -> Any:
        with Flow("f", result=store) as flow:
            Cached(n).add.map([1]) if is_map else Cached(n).add(1)
        view = flow.run().result["add"]
        state = view.map_states[0] if is_map else view
        return state.name, state.result

    assert [run(1), run(2), run(1)] == [("Success", 2), ("Success", 3), ("Cached", 2)]
    assert describe_code(Cached(1).add.function) != describe_code(Cached(2).add.function)


def test_a_resumed_run_keeps_the_objects_of_deferred_calls(tmp_path: Any):
    broken = tmp_path / "broken"
    broken.touch()

    class Part:
        def __init__(self, n: int) -> None:
            self.n = n

        @task
        def add(self, x: int) -> int:
            if broken.exists():
                raise ValueError("later")
            return self.n + x

    @task
    def parent() -> Any:
        return [Part(1).add(1), Part(2).add(1)]

    with Flow("f") as flow, config.set(progress="never"):
        parent()
        Part(100).add(1)
    first = flow.run()
    broken.unlink()
    second = flow.run(resume=first.run_id)

    assert first.is_failed()
    assert second.result["parent"].result == [2, 3]


def test_values_in_the_place_of_a_class_are_refused():
    # What @classmethod over a task gives from Python 3.13.
    kind: Any = MethodType(vars(Etl)["kind"].__func__, Etl)
    with Flow("f") as flow:
        node = kind(3)
        with pytest.raises(CallError, match=r"kind\(\) is a class method of Etl, .*: write @task above @classmethod"):
            kind.map([3])
        with pytest.raises(CallError, match="write @task above @classmethod"):
            kind.bind(3)
    assert flow.run().result[node].result == ("Etl", 3)


# Task classes ---------------------------------------------------------------------------------------------------------


class Still(Task[..., Any]):
    @staticmethod
    def run(x: int) -> int:
        return x


class Named(Task[..., Any]):
    @classmethod
    def run(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x


class Plain(Task[..., Any]):
    def run(self, x: int) -> tuple[str, int]:
        return self.name, x


class Partial(Task[..., Any]):
    run = functools.partial(pow, 2)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Still, 4),
        (Named, ("Named", 4)),
        (Plain, ("Plain", 4)),
        pytest.param(
            *(Partial, 16),
            marks=pytest.mark.skipif(sys.version_info >= (3, 14), reason="there, it is a method, and gets the object"),
        ),
    ],
    ids=str,
)
def test_run_of_a_task_class_may_be_any_kind_of_method(kind: Any, value: Any):
    made = kind()
    with Flow("f") as flow:
        single, each = made(4), made.map([4])
        fixed = made.bind(4)() if kind is not Partial else single
    view = flow.run()
    assert [view.result[node].result for node in (single, each, fixed)] == [value, [value], value]
    assert made.run(4) == value

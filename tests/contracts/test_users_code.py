"""What the engine calls of the user's outside of a task's function may raise whatever it likes, on every executor.

It is the state of the element or task that it belongs to; others, and the run, are as ever.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch import Flow, apply_map, case, context, flatten, merge, signals, task, triggers, unmapped
from anabranch.executors import LocalExecutor

# Elements that cannot be read -----------------------------------------------------------------------------------------


class Images:
    """A folder of five images, of which the fourth is damaged."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> int:
        if index == 3:
            raise self.error
        if index >= 5:
            raise IndexError(index)
        return index * 10


class NoWidth:
    def __len__(self) -> int:
        raise SystemExit(3)

    def __getitem__(self, index: int) -> int:
        return index


@task
def folder(error: BaseException | None) -> Any:
    return Images(error) if error is not None else NoWidth()


@task
def size(x: int, y: int = 0) -> int:
    return x + y


@task
def total(*sizes: int) -> int:
    return sum(sizes)


@task
def beside() -> str:
    return "beside"


@task
def caller(error: BaseException) -> Any:
    return size.map(Images(error))


ERRORS = [OSError("image 3 is truncated"), KeyError("image 3"), IndexError("image 3"), SystemExit("image 3")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_element_that_cannot_be_read_has_failed_and_no_other(executor: Any, error: BaseException) -> None:
    with Flow("images") as flow:
        images, ones = folder(error), [1] * 5
        nodes = {
            "a value": size.map(images),
            "a constant": size.map(Images(error)),
            "with others": size.map(Images(error), images),
            "before others": size.map(ones, images),
            "a chain": size.map(size.map(images)),
            "of any number": total.map(images, ones),
            "a flat list": size.map(flatten(images)),
            "in an apply_map": apply_map(lambda image: size(size(image)), images),
            "whatever the trigger": task(size.run, name="always", trigger=triggers.always_run).map(images),
            "with retries": task(size.run, name="again", max_retries=2).map(images),
        }
        called, other = caller(error), beside()

    view = flow.run(executor=executor, keep="all")

    seen = {what: [each.is_successful() for each in view.result[node].map_states] for what, node in nodes.items()}
    assert seen == {what: [True, True, True, False, True] for what in nodes}
    assert [each.is_successful() for each in view["caller/size"].map_states] == [True, True, True, False, True]
    messages = {what: view.result[node].message for what, node in {**nodes, "called": called}.items()}
    text = f"{type(error).__name__}: {error}"
    assert {what: message for what, message in messages.items() if text not in message} == {}
    assert type(view.result[nodes["a value"]].map_states[3].result) is type(error)
    assert view.result[nodes["a value"]].map_states[4].result == 40
    assert view.result[other].result == "beside"


def test_a_width_that_cannot_be_told_is_the_failure_of_the_map(executor: Any) -> None:
    with Flow("images") as flow:
        over, flat, other = size.map(folder(None)), size.map(flatten(folder(None))), beside()

    view = flow.run(executor=executor)

    for node in (over, flat):
        assert view.result[node].is_failed()
        assert "cannot map over a NoWidth: len() failed with SystemExit: 3" in view.result[node].message
    assert view.result[other].is_successful()


# Values that raise ----------------------------------------------------------------------------------------------------

METHODS = (
    "__getattr__",
    "__len__",
    "__iter__",
    "__getitem__",
    "__eq__",
    "__hash__",
    "__bool__",
    "__reduce_ex__",
    "__getstate__",
    "__repr__",
    "__format__",
    "__sizeof__",
)


class Untold(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


RAISED = (OSError("x"), SystemExit(3), GeneratorExit(), StopIteration(), AttributeError("a"), Untold())


def hostile(methods: frozenset[str], error: BaseException) -> Any:
    """An object of which these methods raise."""

    def method(self: object, *args: object, **kwargs: object) -> Any:
        raise error

    return type("Hostile", (), dict.fromkeys(methods, method))()


def hostile_flow(methods: frozenset[str], error: BaseException) -> Flow:
    """A flow in which such objects go wherever values can go."""

    @task
    def give() -> Any:
        return hostile(methods, error)

    @task
    def give_list() -> list[Any]:
        return [1, hostile(methods, error), 3]

    @task
    def take(x: Any, y: Any = None) -> Any:
        return x

    @task(max_retries=1)
    def take_again(x: Any) -> int:
        if context.task_run_count == 1:
            raise ValueError("again")
        return 1

    @task(max_retries=1)
    def fail(x: Any) -> None:
        raise ValueError(f"not {type(x).__name__}")

    @task
    def fail_with_it() -> None:
        raise ValueError(hostile(methods, error))

    @task
    def signal() -> None:
        raise signals.SUCCESS(result=hostile(methods, error))

    @task(max_retries=1)
    def go_round() -> int:
        if context.task_loop_count == 1:
            raise signals.LOOP(result=hostile(methods, error))
        if context.task_run_count == 1:
            raise ValueError("again")
        return 1

    @task
    def call() -> Any:
        return [take(hostile(methods, error)), take.map([hostile(methods, error), 1])]

    @task
    def call_over() -> Any:
        return take.map(hostile(methods, error))

    @task(cache_for=60)
    def keep(x: Any) -> int:
        return 1

    @task(reduce=True)
    def join(xs: Any) -> int:
        return 1

    with Flow("hostile") as flow:
        value, values = give(), give_list()
        take([value, {"a": value}])
        take(value["a"])
        take(values[1])
        take.map(value)
        take.map([1, 2], unmapped(value))
        echoes = take.map(take.map(values))
        take(echoes)
        join(echoes)
        for each in (take_again, fail, keep):
            each(value)
            each.map(values)
        for other in (fail_with_it, go_round, call, call_over):
            other()
        take(signal())
        take.map(flatten(values))
        take.map(flatten([[1], value, values]))
        branches = []
        for answer in (1, True):
            with case(value, answer):
                branches.append(take(answer))
        merge(*branches)
        with value:
            take(1)
        task(lambda: "beside", name="beside")()
    return flow


def assert_that_nothing_else_happened(flow: Flow, executor: Any) -> None:
    """That the run ends, no worker is said to have died, and who has nothing to do with it is a success."""
    view = flow.run(executor=executor)

    assert view["beside"].result == "beside"
    lost = {
        slug: view[slug].message
        for slug in view.states()
        if view[slug].name == "Crashed" or any(each.name == "Crashed" for each in view[slug].map_states or ())
    }
    assert lost == {}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.frozensets(st.sampled_from(METHODS), min_size=1), st.sampled_from(RAISED))
def test_values_whose_methods_raise_fail_what_needs_them(methods: frozenset[str], error: BaseException) -> None:
    assert_that_nothing_else_happened(hostile_flow(methods, error), LocalExecutor())


@pytest.mark.parametrize(
    ("methods", "error"),
    [
        (METHODS, KeyboardInterrupt("k")),
        (("__getattr__",), SystemExit(3)),
        (("__len__", "__getitem__", "__bool__"), KeyboardInterrupt("k")),
        (("__reduce_ex__",), SystemExit(1)),
        (("__eq__", "__hash__", "__repr__"), OSError("x")),
    ],
    ids=["all", "attributes", "elements", "pickles", "comparisons"],
)
def test_nor_does_a_worker_end_by_them(executor: Any, methods: tuple[str, ...], error: BaseException) -> None:
    if isinstance(executor, LocalExecutor) and isinstance(error, KeyboardInterrupt):
        error = GeneratorExit()  # there, it would be the Ctrl-C of whoever has started the run
    error = type(error)(*error.args)  # one that was raised in another run holds what was there
    assert_that_nothing_else_happened(hostile_flow(frozenset(methods), error), executor)

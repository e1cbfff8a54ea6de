"""Tasks: what they are made of, what calling one does, what stands for its calls, what is declared in advance."""

import copy
import dataclasses
import functools
import gc
import pickle
from collections import namedtuple
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import cloudpickle
import pytest
from tests.refusals import refused

from anabranch import Dependency, Flow, Parameter, Task, case, tags, task, triggers, unmapped
from anabranch.definition.policies import Policies
from anabranch.errors import (
    AmbiguousTaskError,
    CallError,
    DefinitionError,
    FlowValidationError,
    MappingError,
    OptionError,
    OutsideFlowError,
)


@task
def value(x=1):
    return x


@task
def add(x, y=1):
    return x + y


@task
def needs(x):
    return x


@task
def greet(name, greeting="Hello"):
    return f"{greeting} {name}"


@task
def fetch():
    return {"output": 5, "rows": [1, 2, 3]}


def results(flow, *nodes, **parameters):
    view = flow.run(parameters)
    return [view.result[node].result for node in nodes]


def slugs(nodes):
    return [node.slug for node in nodes]


# What a task is -------------------------------------------------------------------------------------------------------


def test_decorating_a_function_changes_nothing_about_it():
    def load(path: str) -> str:
        """Read it."""
        return path

    decorated = task(load)
    assert decorated.run is load
    assert decorated.__wrapped__ is load
    assert (decorated.name, decorated.__doc__, decorated.__name__) == ("load", "Read it.", "load")
    assert repr(decorated) == "<Task 'load'>"


def test_options_can_be_read():
    decorated = task(max_retries=3, retry_delay=timedelta(seconds=2), timeout=60, tags=["io"], name="read")(len)
    assert (decorated.max_retries, decorated.retry_delay, decorated.timeout, decorated.tags) == (3, 2, 60, {"io"})
    assert (decorated.name, decorated.slug, decorated.retry_backoff, decorated.trigger) == (
        "read", None, 1, triggers.all_successful
    )  # fmt: skip
    assert decorated.retry_kwargs["max_retries"] == 3
    stored = task(target="{date}.csv", checkpoint=True)(len)
    assert (stored.target, stored.checkpoint, stored.result, decorated.target) == ("{date}.csv", True, None, None)
    assert all(hasattr(decorated, option) for option in Policies.options())


@pytest.mark.parametrize("option", ["max_retries", "trigger", "timeout", "target", "name", "slug", "retry_kwargs"])
@pytest.mark.parametrize("made", [lambda: task(len), lambda: Scale(2), lambda: task(len).bind([1])])
def test_an_option_that_is_assigned_is_refused_with_the_way(option, made):
    with refused(OptionError, f"{option} is an option of tasks", f"@task({option}=…)", f"task_args={{'{option}': …}}"):
        setattr(made(), option, 5)


def test_a_name_that_is_no_option_is_refused_with_the_nearest():
    with refused(
        OptionError,
        "task 'len' has no option 'max_retry'",
        "options are written as @task(option=…)",
        "did you mean 'max_retries'",
    ):
        task(len).max_retry = 5


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("name", ["where", "fixed", "policies", "signature", "dependencies", "function", "_policies"])
def test_attributes_of_a_class_of_tasks_are_its_own(name, is_before):
    class Query(Task):
        def __init__(self, of_name):
            if is_before:
                setattr(self, name, of_name)
            super().__init__(max_retries=1, depends_on=[value])
            if not is_before:
                setattr(self, name, of_name)

        def run(self, x):
            return getattr(self, name), x

    query = Query("mine")
    with Flow("f") as flow:
        value(1)
        nodes = query(1), query.bind(2)(), copy.copy(query)(3), query.map([4])
    assert results(flow, *nodes) == [("mine", 1), ("mine", 2), ("mine", 3), [("mine", 4)]]
    assert len(flow.upstream_tasks(nodes[2])) == 1
    assert query.max_retries == 1


def test_parts_of_a_class_of_tasks_may_have_names_of_the_library():
    class Query(Task):
        policies = "strict"

        @property
        def where(self):
            return "age > 3"

        def signature(self):
            return self.policies

        def run(self, fixed, dependencies=1):
            return self.where, self.signature(), fixed, dependencies

    with Flow("f") as flow:
        node = Query()(2)
    assert results(flow, node) == [("age > 3", "strict", 2, 1)]


@pytest.mark.parametrize("name", ["map", "bind", "set_upstream", "case", "_call", "_anabranch"])
def test_an_attribute_that_is_what_tasks_have_themselves_is_refused(name):
    with refused(
        DefinitionError,
        f"Scale.{name} is what tasks have themselves, and cannot be assigned",
        "give the attribute another",
    ):
        setattr(Scale(2), name, 5)


def test_a_method_in_place_of_one_that_tasks_need_is_refused():
    with refused(DefinitionError, "Query._call is what tasks have themselves (", "): give it another name"):
        type("Query", (Task,), {"_call": lambda self: 1})


def test_a_wrong_option_names_the_task_and_its_line():
    with refused(OptionError, "task 'lambda'", "retry_delay given without max_retries"):
        task(retry_delay=5)(lambda: 1)


class Callable:
    def __call__(self, x):
        return x * 2

    def method(self, x):
        return x + 1


@pytest.mark.parametrize(
    ("function", "args", "expected", "name"),
    [
        (lambda x: x, (1,), 1, "lambda"),
        (functools.partial(max, 3), (1,), 3, "max"),
        (Callable(), (4,), 8, "Callable"),
        (Callable().method, (4,), 5, "method"),
        (len, ([1, 2],), 2, "len"),
        (int, ("5",), 5, "int"),
        (dict, (), {}, "dict"),
    ],
)
def test_any_callable_can_be_a_task(function, args, expected, name):
    with Flow("f") as flow:
        node = task(function)(*args)
    assert node.slug == name
    assert results(flow, node) == [expected]


class Scale(Task):
    """A task with state of its own."""

    def __init__(self, factor, **options):
        self.factor = factor
        super().__init__(**options)

    def run(self, x, *, plus=0):
        return self.factor * x + plus


def test_a_class_of_tasks_has_a_run_method():
    scale = Scale(3, max_retries=2)
    with Flow("f") as flow:
        a, b = scale(2, plus=1), scale.map([1, 2])
    assert (scale.name, scale.max_retries) == ("Scale", 2)
    assert scale.run(5) == 15
    assert results(flow, a, b) == [7, [3, 6]]


def test_a_class_that_forgets_its_base_says_so():
    class Forgetful(Task):
        def __init__(self):
            self.path = "a"

        def run(self):
            return 1

    with Flow("f"), refused(DefinitionError, "Forgetful.__init__ does not call super().__init__()"):
        Forgetful()()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: task(5), "@task needs a function, found 5"),
        (lambda: task("load"), "@task needs a function, found 'load'"),
        (lambda: task(value), "'value' is a task already: @task was applied twice"),
        (lambda: task(name="")(len), "task name: expected a name of 1 to 200 characters, found 0"),
        (lambda: task(slug=5)(len), "task slug: expected a name as a string, found 5"),
        (lambda: task(parameters="x")(lambda x: x), "parameters takes a dict of arguments, or a list of names"),
        (lambda: task(parameters={"y": 1})(lambda x: x), "has no parameter 'y'; it has: 'x'"),
        (lambda: task(parameters=["y"])(lambda x: x), "has no parameter 'y'; it has: 'x'"),
        (lambda: task(lambda mapped: mapped), "a parameter cannot be named 'mapped'"),
        (lambda: task(depends_on=5)(len), "Dependency: expected a task or a node, found 5"),
        (lambda: task(depends_on=len)(len), "Dependency: expected a task or a node, found len"),
    ],
)
def test_what_cannot_be_a_task_is_refused(make, words):
    with refused(DefinitionError, words):
        make()


async def load(x: int) -> int:
    return x


class Loader:
    async def __call__(self, x: int) -> int:
        return x

    async def method(self, x: int) -> int:
        return x


async def rows(x: int) -> AsyncIterator[int]:
    yield x


class LoadTask(Task[..., Any]):
    async def run(self, x: int) -> int:
        return x


@pytest.mark.parametrize("function", [load, functools.partial(load, 1), Loader(), Loader().method, rows])
def test_all_kinds_of_async_functions_are_awaited(function):
    assert task(function, name="load")._anabranch.signature.is_async
    assert LoadTask()._anabranch.signature.is_async


@pytest.mark.parametrize("function", [len, str, Loader, lambda x: x, functools.partial(max, 1)])
def test_others_are_not(function):
    assert not task(function, name="load")._anabranch.signature.is_async


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduce": True}, "reduce needs a plain function, and this one is async"),
        ({"concurrency_per_slot": 0}, "concurrency_per_slot: expected a whole number from 1, found 0"),
        ({"concurrency_per_slot": True}, "concurrency_per_slot: expected a whole number from 1, found True"),
        *(
            ({"max_retries": 1, option: [load] if option == "state_handlers" else load}, f"{option}: expected a plain")
            for option in ("state_handlers", "on_failure", "trigger", "stop_when", "retry_on", "retry_delay")
        ),
    ],
)
def test_what_does_not_go_with_async_functions_is_refused(options, words):
    with refused(OptionError, "task 'load'", words):
        task(load, **options)
    with refused(OptionError, words), Flow("options"):
        task(load)(1, task_args=options)


def test_plain_functions_do_not_run_side_by_side():
    with refused(OptionError, "task 'len'", "concurrency_per_slot needs an async function"):
        task(len, concurrency_per_slot=4)


def test_tasks_travel():
    bound = greet.bind(name="Alice")
    twin = pickle.loads(cloudpickle.dumps(bound))
    assert twin.run() == "Hello Alice"
    with Flow("f") as flow:
        node = twin()
    assert results(flow, node) == ["Hello Alice"]


# Calls ----------------------------------------------------------------------------------------------------------------


def test_a_call_adds_a_node():
    with Flow("f") as flow:
        node = add(1, y=2)
    assert flow.tasks == [node]
    assert results(flow, node) == [3]


def test_a_call_with_no_flow_open_names_both_ways_on():
    with refused(
        OutsideFlowError, "open one (`with Flow(…) as flow:`)", "use value.run(…) to call the function itself"
    ):
        value(1)


def test_a_call_can_name_its_flow():
    flow = Flow("f")
    node = value(1, flow=flow)
    assert flow.tasks == [node]
    with refused(OptionError, "value(): flow= takes a Flow, found 'f'"):
        value(1, flow="f")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: needs(), "needs() is missing 'x'"),
        (
            lambda: needs(1, 2),
            "needs() takes 1 arguments by position (x), found 2; add a parameter to the function, or",
        ),
        (lambda: needs(z=1), "needs() has no parameter 'z'; it has: 'x'"),
        (lambda: needs(1, x=2), "needs() got two values for 'x'"),
        (lambda: fetch(1), "order the tasks with upstream_tasks=[…]"),
    ],
)
def test_arguments_are_checked_at_once_and_both_places_are_named(call, words):
    with Flow("f") as flow, refused(CallError, words, "task of "):
        call()
    assert flow.tasks == []


Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Pair:
    left: object
    right: object = None


def test_collections_may_hold_nodes_at_any_depth():
    with Flow("f") as flow:
        a, b = value(1), value("b")
        node = needs({"k": [a, (b, {a}), Pair(a, Point(b, [a]))], "plain": 5})
    assert results(flow, node) == [{"k": [1, ("b", {1}), Pair(1, Point("b", [1]))], "plain": 5}]
    assert set(map(id, flow.upstream_tasks(node))) == {id(a), id(b)}


def test_arguments_keep_their_order_beyond_ten():
    with Flow("f") as flow:
        node = needs([value(i) for i in range(15)])
    assert results(flow, node) == [list(range(15))]


@task
def variadic(*args, **kwargs):
    return args, kwargs


def test_a_function_may_take_any_arguments():
    with Flow("f") as flow:
        node = variadic(value(1), 2, k=value(3))
    assert results(flow, node) == [((1, 2), {"k": 3})]


def test_upstream_tasks_only_order():
    with Flow("f") as flow:
        a = value(1)
        b = value(2, upstream_tasks=[a, [fetch]])
    assert slugs(flow.upstream_tasks(b)) == ["value", "fetch"]
    assert [edge.kind for edge in flow.edges] == ["order", "order"]


def test_task_args_change_one_call():
    with Flow("f") as flow:
        node = value(1, task_args={"name": "first", "slug": "one", "max_retries": 2, "tags": ["x"]})
        other = value(1)
    assert (node.name, node.slug, node.policies.retry.max_retries, node.policies.tags) == ("first", "one", 2, {"x"})
    assert (other.name, other.policies.retry.max_retries) == ("value", 0)
    assert slugs(flow.tasks) == ["one", "value"]


@pytest.mark.parametrize(
    ("task_args", "words"),
    [
        ({"max_retrie": 1}, "value(task_args=…): unknown task option 'max_retrie'"),
        ({"max_retries": -1}, "value(task_args=…): max_retries: expected a whole number"),
        ({"retry_delay": 5}, "value(task_args=…): retry_delay given without max_retries"),
        ({"name": ""}, "task name: expected a name of 1 to 200 characters"),
    ],
)
def test_task_args_are_checked_as_options_are(task_args, words):
    with Flow("f") as flow, refused(OptionError, words):
        value(1, task_args=task_args)
    assert flow.tasks == []


def test_a_thousand_calls_share_one_signature_and_one_set_of_policies():
    with Flow("f") as flow:
        for i in range(1000):
            value(i)
    assert len({id(node.signature) for node in flow.tasks}) == 1
    assert len({id(node.policies) for node in flow.tasks}) == 1


def test_tags_are_added_inside_their_block():
    with Flow("f") as flow:
        with tags("a", "b"):
            x = task(tags=["own"])(len)([1])
            with tags("c"):
                y = x + 1
                p = Parameter("p", default=1)
        z = value(1)
    assert [node.policies.tags for node in (x, y, p, z)] == [{"a", "b", "own"}, {"a", "b", "c"}, {"a", "b", "c"}, set()]
    assert flow.get_tasks(tags=["a", "c"]) == [y, p]


def test_tags_are_words():
    with refused(OptionError, "tags: expected strings, as in tags('a', 'b'), found 5"):
        tags("a", 5)


# bind and parameters= -------------------------------------------------------------------------------------------------


def test_bound_arguments_hold_for_calls_and_for_run():
    # given
    alice = greet.bind(name="Alice")

    # when
    with Flow("f") as flow:
        nodes = alice(), alice(greeting="Hi"), alice("Bob"), alice.map(greeting=["a", "b"])

    # then
    assert (alice.run(), alice.run(greeting="Hi"), alice.run(name="Bob")) == ("Hello Alice", "Hi Alice", "Hello Bob")
    assert results(flow, *nodes) == ["Hello Alice", "Hi Alice", "Hello Bob", ["a Alice", "b Alice"]]
    assert greet.run("Eve") == "Hello Eve"


def test_arguments_bound_by_position_come_before_those_of_the_call():
    first = add.bind(10)
    both = first.bind(5)
    assert (first.run(1), both.run(), first.run(x=0)) == (11, 15, 1)
    with Flow("f") as flow:
        node = first(1)
    assert results(flow, node) == [11]


def test_star_arguments_can_be_bound():
    bound = variadic.bind(1, k=2)
    assert bound.run(3, j=4) == ((1, 3), {"k": 2, "j": 4})
    with Flow("f") as flow:
        node = bound(3)
    assert results(flow, node) == [((1, 3), {"k": 2})]


def test_in_an_open_flow_binding_nodes_is_a_call():
    with Flow("f") as flow:
        node = greet.bind(name=value("Alice"))
    assert results(flow, node) == ["Hello Alice"]
    assert len(flow.tasks) == 2


def test_what_is_bound_to_elements_is_a_map():
    with Flow("f") as flow:
        node = greet.bind(["Alice", "Bob"], mapped=True)
    assert results(flow, node) == [["Hello Alice", "Hello Bob"]]


def test_a_bound_task_of_an_open_flow_is_called_at_the_end_of_the_block_if_nobody_has_called_it():
    # given
    called = greet.bind(name="Dan")
    with Flow("f") as flow:
        greet.bind("Alice")
        greet.bind(name="Bob").bind(greeting="Hi")
        greet.bind("Carol")()
        called.bind()
        with Flow("inner") as inner, case(value(1), 2):
            greet.bind("Eve")

    # when
    view = flow.run()

    # then
    found = {node.slug: view.result[node] for node in flow.tasks if node.name == "greet"}
    assert [each.result for each in found.values()] == ["Hello Carol", "Hello Alice", "Hi Bob", "Hello Dan", None]
    assert found["greet-4"].is_skipped()
    assert inner.graph.find("greet") in flow.graph


def test_edges_of_a_task_are_those_of_what_it_was_bound_to_be():
    with Flow("f") as flow:
        greet.bind(name="Alice")
        greet.set_upstream(value)
    greet.set_downstream(fetch, flow=flow)
    node = flow.get_tasks("greet")[0]
    assert [edge.upstream.name for edge in flow.edges_to(node)] == ["value"]
    assert [edge.downstream.name for edge in flow.edges_from(node)] == ["fetch"]
    assert len(flow.tasks) == 3


def test_what_is_bound_to_part_of_its_arguments_can_be_called_later():
    with Flow("f") as flow:
        add_one = add.bind(1)
        nodes = add_one(2), add_one.map([1, 2])
    assert results(flow, *nodes) == [3, [2, 3]]


def test_a_task_can_be_bound_in_a_flow_that_is_not_open():
    flow = Flow("f")
    node = greet.bind(name="Alice", flow=flow)
    assert results(flow, node) == ["Hello Alice"]


@pytest.mark.parametrize(
    "make", [lambda: task(greet.run), lambda: greet.bind(greeting="Hi"), lambda: task(name="x")(len)]
)
def test_a_task_that_is_made_in_a_block_and_not_called_is_warned_about(make):
    with (
        pytest.warns(
            UserWarning, match=r"task '\w+' was (made|bound) in the block of flow 'f' and never called"
        ) as told,
        Flow("f"),
    ):
        make()
    assert told[0].filename == __file__


def test_a_task_that_others_call_while_they_run_is_not_warned_about():
    with Flow("f") as flow:

        @task
        def double(x):
            return 2 * x

        bound = greet.bind("Alice")

        @task
        def parent():
            return [double(1), bound()]

        node = parent()
    assert results(flow, node) == [[2, "Hello Alice"]]
    assert flow.tasks == [node]


def test_an_argument_that_cannot_be_bound_is_refused():
    with refused(CallError, "greet() has no parameter 'nam'; it has: 'name', 'greeting'; did you mean 'name'"):
        greet.bind(nam="Alice")


def test_parameters_can_be_given_in_advance():
    decorated = task(parameters={"name": "Alice"})(lambda name: name)
    with Flow("f") as flow:
        node = decorated()
    assert decorated.run() == "Alice"
    assert results(flow, node) == ["Alice"]


def test_parameters_can_be_names_of_parameters_of_the_flow():
    decorated = task(parameters=["day"])(lambda day: day)
    with Flow("f") as flow:
        a, b = decorated(), decorated()
        c = decorated(day="fixed")
    assert [parameter.name for parameter in flow.parameters()] == ["day"]
    assert results(flow, a, b, c, day="today") == ["today", "today", "fixed"]
    assert decorated.run(day=1) == 1


def test_a_fixed_value_is_the_same_for_all_elements():
    pair = task(parameters={"right": [1, 2]})(lambda left, right: (left, right))
    with Flow("f") as flow:
        node = pair.map(["a", "b", "c"])
    assert results(flow, node) == [[("a", [1, 2]), ("b", [1, 2]), ("c", [1, 2])]]


# A task stands for its calls ------------------------------------------------------------------------------------------


def test_a_task_with_one_call_stands_for_that_call():
    with Flow("f") as flow:
        a = fetch()
        b = needs(fetch)
        value(2, upstream_tasks=[fetch])
    assert slugs(flow.tasks) == ["fetch", "needs", "value"]
    assert flow.upstream_tasks(b) == [a]


def test_a_task_without_calls_is_called_once():
    with Flow("f") as flow:
        b = needs(fetch)
        c = needs([fetch, {"again": fetch}])
    assert slugs(flow.tasks) == ["fetch", "needs", "needs-1"]
    assert results(flow, b, c) == [fetch.run(), [fetch.run(), {"again": fetch.run()}]]


def test_a_task_that_cannot_be_called_without_arguments_is_refused_by_name():
    with (
        Flow("f"),
        refused(DefinitionError, "task 'needs' is named as a dependency but not called in flow 'f'", "arguments 'x'"),
    ):
        value(1, upstream_tasks=[needs])


def test_a_task_with_several_calls_stands_for_all_of_them_in_order_and_for_none_as_a_value():
    with Flow("f") as flow:
        value(1), value(2)
        c = fetch(upstream_tasks=[value])
        with refused(AmbiguousTaskError, "value stands for 2 nodes in flow 'f': 'value', 'value-1'"):
            needs(value)
    assert slugs(flow.upstream_tasks(c)) == ["value", "value-1"]


def test_edges_can_be_written_between_tasks():
    # given
    transform, load = task(name="transform")(lambda: 2), task(name="load")(lambda: 3)

    # when
    with Flow("f") as flow:
        node = load()
        load.set_dependencies(upstream_tasks=[transform])
        transform.set_upstream(fetch)
        fetch.set_downstream(value)

    # then
    assert slugs(flow.upstream_tasks(node)) == ["transform"]
    assert len(flow.tasks) == 4
    assert slugs(flow.sorted_tasks()) == ["fetch", "transform", "load", "value"]


def test_edges_between_tasks_can_be_written_once_the_block_has_closed():
    one, two = task(name="one")(lambda: 1), task(name="two")(lambda: 2)
    with Flow("f") as flow:
        a, b = one(), two()
    two.set_upstream(one)
    assert flow.upstream_tasks(b) == [a]


def test_a_flow_that_was_written_again_does_not_make_a_task_ambiguous():
    one, two = task(name="one")(lambda: 1), task(name="two")(lambda: 2)

    def write():
        with Flow("f") as flow:
            one(), two()
        return flow

    gc.disable()  # as if nobody had looked yet
    try:
        write()
        flow = write()
        two.set_upstream(one)
    finally:
        gc.enable()
    assert len(flow.edges) == 1


def test_a_task_that_is_called_in_two_flows_asks_which_one_is_meant():
    one = task(name="one")(lambda: 1)
    with Flow("a") as a:
        one()
    with Flow("b") as b:
        one()
        other = value(1)
    with refused(AmbiguousTaskError, "task 'one' is called in 2 flows, 'a', 'b'", "say which one with flow=…"):
        one.set_upstream(value)
    one.set_upstream(other)
    one.set_upstream(value, flow=a)
    assert (len(a.edges), len(b.edges)) == (1, 1)


def test_a_task_can_be_a_condition():
    decide = task(name="decide")(lambda: "b")
    with Flow("f") as flow:
        with decide.case("a"):
            a = value("a")
        with decide.default():
            b = value("b")
        with decide:
            c = value("c")
    assert results(flow, a, b, c) == [None, "b", "c"]
    assert len(flow.get_tasks("decide")) == 1


def test_a_bar_between_tasks_orders_their_calls():
    one, two, three = (task(name=name)(lambda: 1) for name in ("one", "two", "three"))
    with Flow("f") as flow:
        one | two | three
    assert [(edge.upstream.name, edge.downstream.name) for edge in flow.edges] == [("one", "two"), ("two", "three")]


# Declared dependencies ------------------------------------------------------------------------------------------------


def test_a_dependency_is_declared_once_for_every_flow():
    # given
    first = task(name="first")(lambda: 1)
    second = task(name="second", depends_on=[first])(lambda: 2)

    # then
    for _ in range(2):
        with Flow("f") as flow:
            second()
            second()
        assert sorted(slugs(flow.tasks)) == ["first", "second", "second-1"]
        assert all(edge.kind == "order" and edge.upstream.name == "first" for edge in flow.edges)
        assert len(flow.edges) == 2


@pytest.mark.parametrize("written_first", [True, False])
def test_it_does_not_matter_which_of_the_two_is_called_first(written_first):
    first = task(name="first")(lambda: 1)
    second = task(name="second", depends_on=first)(lambda: 2)
    with Flow("f") as flow:
        nodes = [first(), second()] if written_first else [second(), first()]
    assert len(flow.tasks) == 2
    assert len(flow.edges) == 1
    assert flow.edges[0].downstream in nodes


def test_a_data_edge_is_all_the_order_there_has_to_be():
    use = task(name="use")(lambda data: data)
    use.depends_on(fetch)
    with Flow("f") as flow:
        use(fetch())
    assert [edge.kind for edge in flow.edges] == ["data"]


def test_a_dependency_can_be_declared_inside_the_flow():
    use = task(name="use")(lambda: 1)
    with Flow("f") as flow:
        before = use()
        use.depends_on(fetch)
        after = use()
    assert [slugs(flow.upstream_tasks(node)) for node in (before, after)] == [["fetch"], ["fetch"]]


def test_a_dependency_of_a_map_is_not_zipped_with_it():
    use = task(name="use", depends_on=[fetch])(lambda x: x)
    with Flow("f") as flow:
        node = use.map([1, 2, 3])
    assert results(flow, node) == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("function", "dependency", "args", "expected"),
    [
        (lambda output: output, {"key": "output"}, (), 5),
        (lambda data: data, {"key": "output"}, (), 5),
        (lambda x, y: (x, y), {"key": "output", "arg": "y"}, (1,), (1, 5)),
        (lambda x, output: (x, output), {"key": "output"}, (1,), (1, 5)),
        (lambda x, y: (x, y), {"key": "output"}, (1,), (1, 5)),
        (lambda data: data, {"key": "output"}, (7,), 7),
        (lambda data=0: data, {"key": "output"}, (), 5),
    ],
)
def test_an_output_goes_to_its_argument_or_to_the_one_that_is_free(function, dependency, args, expected):
    use = task(name="use")(function)
    use.depends_on(Dependency(fetch, **dependency))
    with Flow("f") as flow:
        node = use(*args)
    assert results(flow, node) == [expected]
    assert len(flow.tasks) == 2


def test_two_outputs_can_come_from_one_task():
    use = task(name="use")(lambda a, b: (a, b))
    use.depends_on(Dependency(fetch, "output", "a"), Dependency(fetch, "rows", "b"))
    with Flow("f") as flow:
        node = use()
    assert results(flow, node) == [(5, [1, 2, 3])]


def test_an_output_is_given_whole_to_each_element():
    use = task(name="use")(lambda x, rows: (x, rows))
    use.depends_on(Dependency(fetch, key="rows"))
    with Flow("f") as flow:
        node = use.map([1, 2])
    assert results(flow, node) == [[(1, [1, 2, 3]), (2, [1, 2, 3])]]


def test_an_output_that_is_missing_fails_the_task_and_names_those_there_are():
    use = task(name="use")(lambda data: data)
    use.depends_on(Dependency(fetch, key="outptu"))
    with Flow("f") as flow:
        node = use(1)
    state = flow.run().result[node]
    assert state.is_failed()
    assert state.message == "MissingOutputError: fetch has no output 'outptu'; it has: 'output', 'rows'"


def test_a_dependency_can_be_on_a_class_of_tasks():
    class Extract(Task):
        def run(self):
            return {"n": 3}

    use = task(name="use")(lambda n: n)
    use.depends_on(Dependency(Extract, key="n"))
    with Flow("f") as flow:
        node = use()
    assert results(flow, node) == [3]


def test_outputs_that_more_than_one_argument_could_take_are_refused():
    use = task(name="use")(lambda a, b, c=0: a)
    use.depends_on(Dependency(fetch, "output"), Dependency(fetch, "rows"))
    flow = Flow("f")
    with refused(FlowValidationError, "Dependency(key='rows') does not say which of 'a', 'b' takes", at=__file__), flow:
        use()


@pytest.mark.parametrize(
    ("dependency", "args", "words"),
    [
        ({"key": "output", "arg": "z"}, (1,), "use() has no parameter 'z'; it has: 'x'"),
        ({"key": "output", "arg": "x"}, (1,), "Dependency(arg='x') names an argument that the call has bound"),
    ],
)
def test_an_argument_that_cannot_take_an_output_is_refused_when_the_flow_closes(dependency, args, words):
    use = task(name="use")(lambda x: x)
    use.depends_on(Dependency(fetch, **dependency))
    flow = Flow("f")
    with refused(CallError, words, "use (written at ", at=__file__), flow:
        use(*args)
    with refused(FlowValidationError, words, at=""):
        flow.validate()


def test_all_dependencies_that_cannot_be_are_told_at_once():
    a = task(name="a", depends_on=[needs])(lambda: 1)
    b = task(name="b", depends_on=[greet])(lambda: 1)
    flow = Flow("f")
    with refused(FlowValidationError, "2 problems", "task 'needs' is named", "task 'greet' is named", at=""), flow:
        a(), b()


def test_an_output_of_a_task_with_several_calls_is_refused():
    use = task(name="use")(lambda output: output)
    use.depends_on(Dependency(fetch, "output"))
    flow = Flow("f")
    with refused(AmbiguousTaskError, "use (written at ", "fetch stands for 2 nodes in flow 'f'", at=__file__), flow:
        fetch(), fetch()
        use()


def test_a_task_cannot_depend_on_itself():
    with refused(DefinitionError, "task 'fetch' cannot depend on itself"):
        fetch.depends_on(fetch)


def test_an_argument_needs_an_output():
    with refused(DefinitionError, "Dependency(arg='x') without a key"):
        Dependency(fetch, arg="x")


# Inside a running task ------------------------------------------------------------------------------------------------


def test_a_call_inside_a_running_task_is_checked_where_it_is_written():
    calls = task(name="calls")(lambda: needs())
    with Flow("f") as flow:
        node = calls()
    state = flow.run().result[node]
    assert state.is_failed()
    assert "needs() is missing" in state.message


def test_marks_belong_around_whole_arguments():
    with Flow("f"), refused(MappingError, "needs: unmapped(1) inside a collection; mark the whole argument"):
        needs([unmapped(1)])


def test_a_block_is_a_condition_for_what_is_written_in_it_only():
    with Flow("f") as flow:
        flag = value(False)
        with case(flag, True):
            a = value(1)
        b = value(2)
    assert results(flow, a, b) == [None, 2]

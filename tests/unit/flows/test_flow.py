"""Flows: how they are written, asked, changed, nested, kept and run."""

import logging
import os
import subprocess
import sys
import threading
import traceback
from datetime import timedelta

import dask
import pytest
from tests.cells import run_cell
from tests.refusals import refused

from anabranch import LOOP, Dependency, Flow, FlowRunner, Parameter, Task, case, config, flow, states, task
from anabranch.definition import scope
from anabranch.definition.frozen import Edge
from anabranch.errors import (
    AmbiguousTaskError,
    DefinitionError,
    FlowLoadError,
    FlowValidationError,
    OptionError,
    ParameterError,
    ResultReleased,
    UnknownNodeError,
)
from anabranch.executors import LocalDaskExecutor, LocalExecutor
from anabranch.results import LocalResult
from anabranch.signals import FAIL, SKIP


@task
def value(x=1):
    return x


@task
def add(x, y=1):
    return x + y


@task
def fail():
    raise ZeroDivisionError("no")


def slugs(nodes):
    return [node.slug for node in nodes]


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_flow_can_be_written_without_a_block():
    # given
    f = Flow("f")
    a = f.add_task(value)
    b = f.add_task(add)

    # when
    f.set_dependencies(b, upstream_tasks=[task(name="first")(lambda: 1)], keyword_tasks={"x": a, "y": 41})
    f.add_edge(b, value.bind(x=7))

    # then
    assert f.run().result[b].result == 42
    assert slugs(f.sorted_tasks()) == ["value", "first", "add", "value-1"]


@pytest.mark.parametrize("is_backward", [False, True])
def test_a_flow_can_be_written_edge_by_edge(is_backward):
    # given
    @task
    def plus(x, y):
        return x + y

    first, second, third = task(name="first")(lambda: 40), task(name="second")(lambda x: x + 1), plus
    f = Flow("f")
    edges = [
        lambda: second.set_upstream(first, key="x", flow=f),
        lambda: second.set_downstream(third, key="x", flow=f),
        lambda: third.set_dependencies(f, keyword_tasks={"y": 1}, upstream_tasks=[first]),
        lambda: f.add_edge(upstream_task=third, downstream_task=value, key="x"),
    ]

    # when
    for edge in reversed(edges) if is_backward else edges:
        edge()

    # then
    assert f.run().result[value].result == 42
    assert len(f.tasks) == 4


def test_an_argument_that_no_edge_brings_is_told_when_the_flow_is_validated():
    f = Flow("f")
    add.set_upstream(value, flow=f)
    with refused(FlowValidationError, "argument 'x' is not bound", at=""):
        f.validate()


def test_a_flow_can_be_given_all_it_has():
    one, two = task(name="one")(lambda: 1), task(name="two")(lambda x: x)
    f = Flow("f", tasks=[one], edges=[Edge(one, two, "data", "x")], reference_tasks=[one])
    assert f.run().result["two"].result == 1
    assert slugs(f.reference_tasks()) == ["one"]


def test_adding_a_task_twice_does_nothing():
    f = Flow("f")
    p = Parameter("p", default=1)
    assert f.add_task(value) is f.add_task(value)
    assert f.add_task(p) is f.add_task(p)
    assert len(f.tasks) == 2


def test_edges_of_every_kind_can_be_added():
    f = Flow("f")
    lists = f.add_task(task(name="lists")(lambda: [[1], [2, 3]]))
    each = f.add_edge(lists, add, key="x", mapped=True, flattened=True).downstream
    f.add_edge(value, each)
    assert f.run().result[each].result == [2, 3, 4]


def test_a_chain_is_a_sequence_of_stages():
    with Flow("f") as f:
        a, b, c, d, e = (value(i) for i in range(5))
        f.chain(a, [b, (c,)], [d], e)
    assert [(edge.upstream.slug, edge.downstream.slug) for edge in f.edges] == [
        ("value", "value-1"),
        ("value", "value-2"),
        ("value-1", "value-3"),
        ("value-2", "value-3"),
        ("value-3", "value-4"),
    ]


def test_a_chain_calls_the_tasks_in_it():
    one, two, three = (task(name=name)(lambda: 1) for name in ("one", "two", "three"))
    f = Flow("f")
    f.chain(one, [two, three])
    assert slugs(f.sorted_tasks()) == ["one", "two", "three"]


def test_a_stage_with_nothing_in_it_does_not_break_a_chain():
    with Flow("f") as f:
        a, b = value(1), value(2)
        f.chain(a, [], b)
    assert f.upstream_tasks(b) == [a]


def test_a_plain_function_may_end_the_block_with_the_nodes_it_made():
    def create():
        made = [value(i) for i in range(3)]
        raise LOOP(result={"made": made})

    with Flow("f") as f:
        f.chain(create())
    assert len(f.tasks) == 3
    assert f.run().is_successful()
    assert scope.current() == scope.Scope()


def test_another_loop_signal_is_not_swallowed():
    def write(result):
        with Flow("f"):
            value(1)
            raise LOOP(result=result)

    with Flow("other"):
        stranger = value(1)
    for result in (None, 5, [], stranger):
        with pytest.raises(LOOP):
            write(result)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda f: f.add_task(5), "add_task: expected a node or a task, found 5"),
        (lambda f: f.chain(5), "expected a node or a task, found 5"),
        (lambda f: f.set_dependencies(5), "expected a node or a task, found 5"),
        (lambda f: f.chain(add, value), "cannot be called without its arguments 'x'"),
        (lambda f: f.set_reference_tasks([add]), "flow 'f' does not have add as a task that is called"),
        (lambda f: f.upstream_tasks("nope"), "flow 'f' does not have 'nope'; it has: 'value'"),
    ],
)
def test_what_cannot_be_written_is_refused(write, words):
    f = Flow("f")
    f.add_task(value)
    with refused(DefinitionError, words):
        write(f)


def test_a_node_of_another_flow_is_refused_with_the_way_out():
    with Flow("one"):
        a = value(1)
    with refused(UnknownNodeError, "belongs to flow 'one', not to flow 'two'", "flow.update(other)"):
        Flow("two").add_task(a)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ""}, "flow name: expected a name of 1 to 200 characters"),
        ({"name": "f", "state_handlers": print}, "state_handlers takes a list of functions, found print"),
        ({"name": "f", "state_handlers": [5]}, "state_handlers and on_failure take functions, found 5"),
        ({"name": "f", "on_failure": "x"}, "state_handlers and on_failure take functions, found 'x'"),
        (
            {"name": "f", "schedule": "daily"},
            "schedule: expected a schedule such as CronSchedule('0 6 * * *'), found 'da",
        ),
        (
            {"name": "f", "executor": "dask"},
            "executor: expected an executor such as anabranch.executors.DaskExecutor()",
        ),
        ({"name": "f", "executor": LocalExecutor}, "executor: expected an object, found the class LocalExecutor"),
        ({"name": "f", "max_runs": 0}, "max_runs: expected a number of runs, 1 or more, found 0"),
        ({"name": "f", "max_runs": True}, "max_runs: expected a number of runs, 1 or more, found True"),
        ({"name": "f", "timeout": 0}, "timeout: expected more than 0 to 316,224,000 seconds, found 0"),
        ({"name": "f", "timeout": -1.5}, "timeout: expected more than 0 to"),
        ({"name": "f", "timeout": 1e-9}, "timeout: expected at least a millisecond, found 1e-09 s"),
        ({"name": "f", "timeout": float("nan")}, "timeout: expected more than 0 to"),
        ({"name": "f", "timeout": float("inf")}, "timeout: expected more than 0 to"),
        ({"name": "f", "timeout": True}, "timeout: expected seconds as a number or a timedelta, found True"),
        ({"name": "f", "timeout": "1h"}, "timeout: expected seconds as a number or a timedelta, found '1h'"),
        ({"name": "f", "timeout": timedelta(0)}, "timeout: expected more than 0 to"),
        ({"name": "f", "result": "results"}, "result"),
    ],
)
def test_what_cannot_be_a_flow_is_refused(options, words):
    with refused(OptionError, words):
        Flow(**options)
    name = options.pop("name")
    for option, found in options.items():
        with refused(OptionError, f"flow {name!r}: ", words):
            setattr(Flow(name), option, found)


def test_a_result_is_given_once():
    with refused(OptionError, "flow 'f': result and result_handler are both given; give one"):
        Flow("f", result=LocalResult("a"), result_handler=LocalResult("b"))


def test_options_that_are_assigned_apply():
    # given
    with Flow("f") as f:
        value(task(lambda: threading.current_thread() is threading.main_thread(), name="where")())
    told = []

    # when
    f.executor = LocalDaskExecutor(num_workers=1)
    f.state_handlers = [lambda flow, old, new: told.append(new.name)]
    f.max_runs, f.schedule = 2, None

    # then
    assert f.run().result["value"].result is False
    assert told == ["Running", "Success"]
    f.executor = f.state_handlers = None
    assert (f.run().result["value"].result, len(told), f.max_runs) == (True, 2, 2)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("storage", ""), ("run_config", ""), ("shedule", "did you mean 'schedule'"), ("results", "did you mean 'result'"),
     ("max_retries", ""), ("name", ""), ("result_handler", ""), ("graph", "")],
)  # fmt: skip
def test_what_is_no_option_of_a_flow_cannot_be_assigned(name, nearest):
    flow = Flow("f")
    with refused(OptionError, f"flow 'f': {name} cannot be assigned, as the options", nearest):
        setattr(flow, name, None)


def test_a_class_of_flows_has_attributes_of_its_own():
    class Owned(Flow):
        def __init__(self, name, owner):
            super().__init__(name)
            self.owner = owner

    assert Owned("f", "ann").owner == "ann"


def test_none_is_not_given():
    options = ("schedule", "max_runs", "timeout", "executor", "state_handlers", "on_failure", "tasks", "edges",
               "reference_tasks", "result", "result_handler")  # fmt: skip
    with Flow("f", **dict.fromkeys(options)) as f:
        node = value(Parameter("p", default=1, tags=None, required=None, type=None, choices=None))
    assert f.run().result[node].result == 1


# Asking ---------------------------------------------------------------------------------------------------------------


def test_a_flow_can_be_asked_about_its_shape():
    # given
    with Flow("f") as f:
        p = Parameter("p", default=1)
        a = value(p)
        b = add(a, y=a)
        c = value(3, task_args={"name": "other", "tags": ["x", "y"]})

    # then
    assert f.tasks == [p, a, b, c]
    assert (len(f), list(f), bool(f)) == (4, [p, a, b, c], True)
    assert (f.root_tasks(), f.terminal_tasks(), f.reference_tasks()) == ([p, c], [b, c], [b, c])
    assert (f.upstream_tasks(b), f.downstream_tasks("value"), f.downstream_tasks(add)) == ([a], [b], [])
    assert [edge.key for edge in f.edges_to(b)] == ["x", "y"]
    assert [edge.downstream for edge in f.edges_from(p)] == [a]
    assert (f.parameters(), f.parameters(by_name=True)) == ({p}, {"p": p})
    assert (f.get_tasks("other"), f.get_tasks(slug="add"), f.get_tasks(tags=["x"])) == ([c], [b], [c])
    assert (f.get_tasks(task=value), f.get_tasks(tags=["x", "z"]), f.get_tasks("other", task=add)) == ([a, c], [], [])
    assert all(each in f for each in (a, p, value, add))
    assert fail not in f
    assert repr(f) == "<Flow 'f': 4 nodes>"


def test_get_tasks_takes_a_class_of_tasks():
    class Load(Task):
        def run(self):
            return 1

    with Flow("f") as f:
        node = Load()()
        value(1)
    assert f.get_tasks(task=Load) == [node]


def test_get_tasks_takes_the_class_of_tasks_or_of_nodes_as_task_type():
    with Flow("f") as f:
        p = Parameter("p", default=1)
        a = add(p, 1)
    assert (f.get_tasks(task_type=Parameter), f.get_tasks(task_type=type(add))) == ([p], [a])
    assert f.get_tasks("add", None, None, Parameter) == []


def test_sorted_tasks_can_be_those_from_some_on():
    with Flow("f") as f:
        a, b = value(1), value(2)
        c = add(b, 1)
        d = add(c, a)
    assert f.sorted_tasks() == [a, b, c, d]
    assert f.sorted_tasks(root_tasks=[b]) == [b, c, d]
    assert f.sorted_tasks([d]) == [d]
    assert f.sorted_tasks([]) == [a, b, c, d]


def test_declared_dependencies_are_there_when_somebody_looks():
    use = task(name="use", depends_on=[Dependency(value)])(lambda: 1)
    f = Flow("f")
    use(flow=f)
    assert slugs(f.tasks) == ["use", "value"]
    assert len(f.edges) == 1


def test_a_name_that_several_nodes_have_is_ambiguous():
    with Flow("f") as f:
        value(1, task_args={"slug": "a"}), value(2, task_args={"slug": "b"})
    with refused(AmbiguousTaskError, "'value' stands for 2 nodes in flow 'f': 'a', 'b'"):
        f.upstream_tasks("value")


# Changing -------------------------------------------------------------------------------------------------------------


def test_a_copy_can_be_changed_alone():
    with Flow("f") as f:
        a, b = value(1), value(2)
        with Flow("inner"):
            value(3)
    twin = f.copy("g")
    with twin:
        c = add(a, b)
    twin.set_dependencies(b, upstream_tasks=[a])
    assert (len(f.tasks), len(f.edges), f.name) == (3, 0, "f")
    assert (len(twin.tasks), len(twin.edges), twin.name) == (4, 3, "g")
    assert twin.run().result[c].result == 3


def test_a_flow_can_take_in_another():
    # given
    with Flow("one") as one:
        a = value(1)
    with Flow("two") as two:
        b = value(2)

    # when
    one.update(two)
    b.set_upstream(a)

    # then
    assert [one.graph.entry(node).slug for node in one.tasks] == ["value", "value-1"]
    assert one.upstream_tasks(b) == [a]
    assert two.upstream_tasks(b) == []
    assert one.reference_tasks() == [b]


def test_parameters_of_one_name_clash_unless_they_are_merged():
    # given
    with Flow("one") as one:
        a = value(Parameter("p", default=1))
    with Flow("two") as two:
        b = value([Parameter("p", default=2)])

    # then
    with refused(DefinitionError, "flow 'one' and flow 'two' both have the parameters 'p'", "merge_parameters=True"):
        one.update(two)
    one.update(two, merge_parameters=True)
    view = one.run(p=5)
    assert (view.result[a].result, view.result[b].result) == (5, [5])
    assert two.run().result[b].result == [2]


@pytest.mark.parametrize(
    ("mine", "theirs", "values", "given"),
    [
        ({"default": 1}, {"default": 2}, (2, [2]), {}),
        ({"default": 1}, {"default": 2}, (5, [5]), {"p": 5}),
        ({}, {"default": 2}, (2, [2]), {}),
        ({"default": 1, "type": int}, {"default": "2", "type": str}, ("2", ["2"]), {}),
        ({"default": 1, "choices": [1]}, {"default": 2, "choices": [2, 3]}, (3, [3]), {"p": 3}),
    ],
)
def test_the_parameter_of_the_flow_that_is_merged_in_takes_the_place_of_both(mine, theirs, values, given):
    # given
    with Flow("one") as one:
        p = Parameter("p", **mine)
        a = value(p)
        with Flow("inner"):
            c = value(p)
    one.set_reference_tasks([a, p])
    with Flow("two") as two:
        taken = Parameter("p", **theirs)
        b = value([taken])

    # when
    one.update(two, merge_parameters=True)

    # then
    view = one.run(**given, keep="all")
    assert (view.result[a].result, view.result[b].result) == values
    assert view.result[c].result == values[0]
    assert one.parameters() == {taken}
    assert (one.reference_tasks(), taken.slug, view.result["p"].result) == ([a, taken], "p", values[0])


def test_a_parameter_that_is_required_stays_so_in_a_flow_that_had_a_default():
    with Flow("one") as one:
        value(Parameter("p", default=1))
    with Flow("two") as two:
        value(Parameter("p"))
    one.update(two, merge_parameters=True)
    with refused(ParameterError, "p: a value is required", at=""):
        one.run()


def test_what_is_added_to_a_group_is_in_the_flow_around_it():
    with Flow("one") as one, Flow("inner") as inner:
        value(1)
    with Flow("two") as two:
        b = value(2)
    inner.update(two)
    assert one.run().result[b].result == 2
    assert one.graph.entry(b).groups == ("inner",)


def test_reference_tasks_can_be_merged():
    with Flow("one") as one:
        a, _ = value(1), fail()
    one.set_reference_tasks([a])
    with Flow("two") as two:
        b = value(2)
    one.update(two, merge_reference_tasks=True)
    assert one.reference_tasks() == [a, b]


def test_a_task_can_take_the_place_of_another():
    # given
    with Flow("f") as f:
        a = value(1)
        b = add(a, y=10)
        c = add(b)
        b.set_upstream(value(5))
        with case(b, 0):
            d = value("d")

    # when
    new = f.replace(b, task(name="subtract")(lambda x, y: x - y))

    # then
    view = f.run()
    assert [view.result[node].result for node in (new, c, d)] == [-9, -8, None]
    assert slugs(f.upstream_tasks(new)) == ["value", "value-1"]
    assert b not in f


def test_a_value_can_take_the_place_of_a_task():
    with Flow("f") as f:
        xs = value([1, 2])
        doubled = (add.map(xs)) * 2
    f.replace(xs, [10, 20])
    f.replace("add", [5, 6])
    assert f.run().result[doubled].result == [10, 12]


def test_a_reference_task_that_is_replaced_stays_one():
    with Flow("f") as f:
        a, b = value(1), fail()
    f.set_reference_tasks([b])
    f.replace(b, a)
    assert f.reference_tasks() == [a]
    assert f.run().is_successful()


def test_a_task_that_cannot_take_the_arguments_is_refused():
    with Flow("f") as f:
        a = add(1, y=2)
    with refused(DefinitionError, "value() has no parameter 'y'; it has: 'x'"):
        f.replace(a, value)
    assert f.tasks == [a]


# Groups ---------------------------------------------------------------------------------------------------------------


def test_a_nested_flow_is_a_group_of_the_one_around_it():
    # given
    with Flow("outer") as outer:
        a = value(1)
        with Flow("inner") as inner:
            b = add(Parameter("p", default=2))
            with Flow("innermost") as innermost:
                c = add(b)
        d = add(a, c)

    # then
    assert (len(outer.tasks), inner.tasks, innermost.tasks) == (5, [*inner.parameters(), b, c], [c])
    assert [outer.graph.entry(node).groups for node in (a, b, c)] == [(), ("inner",), ("inner", "innermost")]
    assert outer.run(p=10).result[d].result == 13
    assert inner.run(p=20).result[c].result == 22


def test_a_group_that_takes_values_from_around_it_says_so():
    with Flow("outer"):
        a = value(1)
        with Flow("inner") as inner:
            b = add(a, y=a)
    with refused(
        FlowValidationError, f"add ({b.where}): 'x', 'y' takes its value from outside of flow 'inner'", "'outer'", at=""
    ):
        inner.run()


def test_order_and_conditions_around_a_group_do_not_stop_it_from_running_alone():
    with Flow("outer") as outer:
        a = value(0)
        with a, Flow("inner") as inner:
            b = value(2, upstream_tasks=[a])
    assert outer.run().result[b].is_skipped()
    assert inner.run().result[b].result == 2


def test_a_group_can_be_opened_again_by_itself():
    with Flow("outer") as outer, Flow("inner") as inner:
        a = value(1)
    with inner:
        b = add(a)
    b.set_upstream(a)
    assert b in outer
    assert b in inner
    assert outer.graph.entry(b).groups == ("inner",)
    assert len(outer.edges) == len(inner.edges) == 2


def test_a_flow_that_is_there_can_become_a_group():
    with Flow("inner") as inner:
        a, b = value(1), value(2)
    with Flow("outer") as outer, inner:
        c = add(a)
    a.set_upstream(b)
    assert outer.upstream_tasks(a) == inner.upstream_tasks(a) == [b]
    assert (len(outer.tasks), outer.graph.entry(a).groups) == (3, ("inner",))
    assert outer.run().result[c].result == inner.run().result[c].result == 2


def test_a_group_has_one_flow_around_it():
    inner = Flow("inner")
    with Flow("one"), inner:
        value(1)
    words = "flow 'inner' is a group of flow 'one', so it cannot be opened inside 'two'"
    with refused(DefinitionError, words), Flow("two"), inner:
        pass


def test_a_flow_can_be_opened_inside_itself():
    with Flow("f") as f, f:
        value(1)
        with Flow("inner") as inner, f:
            outside = value(2)
    assert outside in f
    assert outside not in inner


# @flow ----------------------------------------------------------------------------------------------------------------


def test_a_function_can_be_a_flow():
    @flow
    def daily(limit: int = 3, *, day: str, plain: Parameter = None):
        """What it does."""
        add(limit, y=value(1))
        value([day, plain])

    assert (daily.name, daily.__doc__) == ("daily", "What it does.")
    view = daily.run(limit="5", day="today")
    assert (view.result["add"].result, view.result["value-1"].result) == (6, ["today", None])
    assert {p.name: (p.required, p.type) for p in daily.parameters()} == {
        "limit": (False, int), "day": (True, str), "plain": (False, None),
    }  # fmt: skip


def test_a_type_that_only_a_type_checker_sees_is_no_type():
    @flow
    def f(x: "Nowhere" = 1):  # noqa: F821
        value(x)

    assert f.run(x="anything").is_successful()


def test_a_flow_of_a_function_has_options():
    executor = LocalExecutor()

    @flow(name="nightly", executor=executor)
    def f():
        value(1)

    assert (f.name, f.executor) == ("nightly", executor)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (5, "@flow needs a plain function that calls tasks, found 5"),
        (value, "@flow needs a plain function that calls tasks, found value"),
        (lambda *paths: None, "@flow 'lambda': a flow's parameters have names, found *paths"),
    ],
)
def test_what_cannot_be_a_flow_of_a_function_is_refused(function, words):
    with refused(DefinitionError, words):
        flow(function)


# Keeping --------------------------------------------------------------------------------------------------------------


def test_a_flow_can_be_saved_and_loaded(tmp_path):
    # given
    with Flow("f") as f:
        p = Parameter("p", default=[1, 2], type=list[int])
        xs = add.map(p)
        with case(value(1), 1):
            add(task(sum)(xs))

    # when
    path = f.save(tmp_path / "deep" / "f.flow")
    loaded = Flow.load(path)

    # then
    assert slugs(loaded.tasks) == slugs(f.tasks)
    assert [str(edge) for edge in loaded.edges] == [str(edge) for edge in f.edges]
    assert loaded.run(p="[5]").result["add-1"].result == f.run(p=[5]).result["add-1"].result
    with loaded:
        value(7)
    assert len(loaded.tasks) == len(f.tasks) + 1
    assert [each.name for each in path.parent.iterdir()] == ["f.flow"]


def test_a_flow_with_problems_is_not_saved(tmp_path):
    f = Flow("f")
    f.add_task(add)
    with refused(FlowValidationError, "argument 'x' is not bound", at=""):
        f.save(tmp_path / "f.flow")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"nonsense", "does not hold a flow that loads here"), (b"\x80\x04N.", "holds a NoneType, not a flow")],
)
def test_a_file_that_holds_no_flow_is_refused(tmp_path, data, words):
    path = tmp_path / "f.flow"
    path.write_bytes(data)
    with refused(FlowLoadError, words, at=str(path)):
        Flow.load(path)
    with pytest.raises(FileNotFoundError):
        Flow.load(tmp_path / "missing.flow")


# Running --------------------------------------------------------------------------------------------------------------


def test_a_run_gives_a_view_that_knows_every_node():
    # given
    with Flow("f") as f:
        a = value(1)
        b = add(a)
        c = add.map([1, 2])

    # when
    view = f.run(run_id="today")

    # then
    assert view.is_successful()
    assert bool(view)
    assert view.run_id == "today"
    assert len(view.result) == 3
    assert list(view.result) == [a, b, c]
    assert view.result[b].result == view["add"].result == view.result[value].result + 1 == 2
    assert view.result[c].map_states[1].result == 3
    assert [state.is_successful() for state in view.result[c].map_states] == [True, True]
    assert (a in view.result, "nope" in view.result, add in view.result) == (True, False, False)
    assert view.states()["value"].is_successful()


def test_a_key_that_is_no_node_is_refused():
    with Flow("f") as f:
        value(1), add(1), add(2)
    view = f.run()
    with refused(UnknownNodeError, "no node is called 'valu'; there are: 'value'", "did you mean 'value'", at=""):
        view.result["valu"]
    with refused(AmbiguousTaskError, "stands for 2 nodes: 'add', 'add-1'", at=""):
        view.result[add]
    with refused(UnknownNodeError, "is not a node of flow 'f'", at=""):
        view.result[[1]]


def test_an_empty_flow_succeeds():
    assert Flow("f").run().is_successful()


def test_a_failure_is_a_state_unless_it_is_asked_for():
    with Flow("f") as f:
        a = fail()
        b = add(a)
    view = f.run()
    assert (view.is_failed(), bool(view)) == (True, False)
    assert isinstance(view.result[a].result, ZeroDivisionError)
    assert view.result[b].state.name == "TriggerFailed"
    assert view.failures()[0][0] == "fail"
    with pytest.raises(ZeroDivisionError, match="no") as info:
        f.run(raise_on_failure=True)
    assert info.value.__notes__ == ["task run fail, attempt 1"]


def test_pytest_shows_the_line_of_the_task_that_failed(tmp_path):
    (tmp_path / "steps.py").write_text("def ratio(x):\n    return 1 / x  # of the helper\n", encoding="utf-8")
    (tmp_path / "test_it.py").write_text(
        "from anabranch import Flow, task\n"
        "import steps\n"
        "def test_it():\n"
        "    with Flow('f') as f:\n"
        "        task(lambda x: steps.ratio(x), name='each').map([1, 0])  # of the task\n"
        "    f.run(raise_on_failure=True)\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]
    said = subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True, text=True).stdout
    assert "\ntest_it.py:5: in <lambda>\n    task(lambda x: steps.ratio(x), name='each')" in said
    assert "\n>   return 1 / x  # of the helper\n" in said
    assert "\nE   ZeroDivisionError: division by zero\nE   task run each[1], attempt 1\n" in said
    assert "\nsteps.py:2: ZeroDivisionError\n" in said


def test_reference_tasks_decide_the_state_of_a_run():
    with Flow("f") as f:
        a, b = value(1), fail()
    assert f.run().is_failed()
    f.set_reference_tasks([a])
    assert f.run().is_successful()
    f.set_reference_tasks([])
    assert f.reference_tasks() == [a, b]


def test_large_values_are_kept_where_they_are_asked_for():
    with Flow("f") as f:
        large = value("x" * 100_000)
        size = task(len)(large)
    with refused(ResultReleased, "value", "flow.run(keep=[…])", at=""):
        print(f.run().result[large].result)
    for keep in ([large], [value], "value", large, "all", ["value"]):
        assert len(f.run(keep=keep).result[large].result) == 100_000
    assert f.run().result[size].result == 100_000
    with refused(UnknownNodeError, "flow 'f' does not have 'valu'; it has: 'value', 'len'; did you mean 'value'?"):
        f.run(keep=["valu"])


def test_a_run_inside_the_block_is_refused():
    with (
        Flow("f") as f,
        refused(DefinitionError, "flow 'f': run() inside a `with Flow` block", "run it after the block"),
    ):
        f.run()


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        (LocalExecutor, "executor: expected an object, found the class LocalExecutor"),
        ("dask", "executor: expected an executor such as anabranch.executors.DaskExecutor(), found 'dask'"),
    ],
)
def test_what_is_no_executor_is_refused(executor, words):
    with refused(OptionError, words):
        Flow("f").run(executor=executor)


def test_the_executor_of_the_flow_is_the_default():
    threads = set()
    note = task(name="note")(lambda x: threads.add(threading.current_thread()))
    with Flow("f", executor=LocalDaskExecutor(num_workers=2)) as f:
        note.map(range(4))
    f.run()
    assert threading.main_thread() not in threads
    f.run(executor=LocalExecutor())
    assert threading.main_thread() in threads


def test_a_runner_runs_its_flow():
    with Flow("f") as f:
        value(Parameter("p"))
    assert FlowRunner(f).run(executor=LocalExecutor(), p=5).result["value"].result == 5


def test_one_flow_can_run_twice_at_once():
    with Flow("f") as f:
        node = add(value(Parameter("p")))
    seen = []
    threads = [threading.Thread(target=lambda i=i: seen.append((i, f.run(p=i).result[node].result))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(i, i + 1) for i in range(4)]


def test_a_flow_can_run_inside_a_task():
    with Flow("inner") as inner:
        add(1)
    nested = task(name="nested")(lambda: inner.run().result["add"].result)
    with Flow("outer") as outer:
        node = nested()
    assert outer.run().result[node].result == 2


def test_the_settings_of_the_moment_are_those_of_the_run():
    with Flow("f") as f:
        large = value("x" * 100)
        add(large, y="")
    with dask.config.set({"anabranch.engine.inline_nbytes": 10}):
        assert config.engine.inline_nbytes == 10
        with refused(ResultReleased, at=""):
            print(f.run().result[large].result)
    assert f.run().result[large].result == "x" * 100


# Handlers -------------------------------------------------------------------------------------------------------------


def run_with(*handlers, on_failure=None, work=value):
    with Flow("f", state_handlers=handlers, on_failure=on_failure) as f:
        work()
    return f.run()


def test_handlers_see_the_flow_begin_and_end():
    seen = []
    run_with(lambda f, old, new: seen.append((f.name, old.name, new.name)))
    assert seen == [("f", "Pending", "Running"), ("f", "Running", "Success")]


def test_each_handler_sees_what_the_one_before_made_of_it():
    def to_failed(f, old, new):
        return states.Failed(message="no") if new.is_successful() else None

    seen = []
    view = run_with(to_failed, lambda f, old, new: seen.append(new.name))
    assert (view.is_failed(), view.message, seen) == (True, "no", ["Running", "Failed"])


def test_a_handler_that_raises_fails_the_run_and_no_state_is_lost():
    def broken(f, old, new):
        if new.is_finished():
            raise KeyError("x")

    view = run_with(broken)
    assert view.is_failed()
    assert view.message == "KeyError: 'x'"
    assert view.result["value"].is_successful()


@pytest.mark.parametrize(("signal", "name"), [(SKIP("not today"), "Skipped"), (FAIL("no"), "Failed")])
def test_a_handler_can_end_a_run_before_it_begins(signal, name):
    def stop(f, old, new):
        raise signal

    view = run_with(stop)
    assert view.state.name == name
    assert view.result["value"].is_pending()
    assert view.result["value"].result is None


def test_on_failure_is_told_once_and_changes_nothing(caplog):
    seen = []

    def broken(f, state):
        seen.append(state.name)
        raise KeyError("x")

    with caplog.at_level(logging.ERROR, "anabranch"):
        view = run_with(on_failure=broken, work=fail)
        run_with(on_failure=broken)
    assert (view.is_failed(), seen) == (True, ["Failed"])
    assert [record.getMessage() for record in caplog.records] == ["on_failure of flow f raised KeyError: 'x'"]


# One Dask graph -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_flow_of_known_widths_is_one_delayed(scheduler):
    with Flow("f") as f:
        xs = add.map(Parameter("xs", default=[1, 2]))
        task(sum)(xs)
    assert f.to_delayed().compute(scheduler=scheduler) == {"sum": 5}
    assert f.to_delayed(xs=[10]).compute(scheduler=scheduler) == {"sum": 11}


def test_a_delayed_that_fails_raises_the_exception_with_its_frames():
    cell = run_cell("def ratio(x):\n    return 1 / x  # of the cell")
    with Flow("f") as f:
        task(cell["ratio"])(0)
    with pytest.raises(ZeroDivisionError) as info:
        f.to_delayed().compute(scheduler="sync")
    last = traceback.extract_tb(info.tb)[-1]
    assert (last.filename, last.name, last.line) == (cell["__file__"], "ratio", "return 1 / x  # of the cell")


def test_a_width_that_only_a_run_gives_makes_no_delayed():
    with Flow("f") as f:
        node = add.map(value([1, 2]))
    with refused(DefinitionError, "maps over value, whose width is known only once it has run", at=str(node.where)):
        f.to_delayed()


def test_a_flow_can_be_drawn():
    with Flow("f") as f:
        add.map(range(1000))
    text = f.visualize(format="mermaid")
    assert text.count("add") == 1
    assert "1,000" in text
    assert f.visualize(f.run()).startswith("digraph")

"""What can be written with a node: edges, items, operators, unpacking; and what would silently be wrong."""

import copy
import math
import operator
import pickle

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch import Dependency, Flow, Parameter, case, task
from anabranch.definition.node import Node
from anabranch.errors import (
    CallError,
    DefinitionError,
    MappingError,
    NodeAttributeError,
    NodeValueError,
    OptionError,
    OutsideFlowError,
    UnknownNodeError,
)


@task
def value(x=1):
    return x


@task
def add(x, y=1):
    return x + y


@task
def double(x):
    return 2 * x


@task
def total(xs):
    return sum(xs)


def order(flow):
    return [node.slug for node in flow.sorted_tasks()]


def results(flow, *nodes):
    view = flow.run()
    return [view.result[node].result for node in nodes]


# Edges ----------------------------------------------------------------------------------------------------------------


def test_edges_can_be_added_once_the_block_has_closed():
    # given
    with Flow("f") as flow:
        a, b, c = value(1), value(2), add(1)

    # when
    a.set_upstream(b)
    b.set_upstream(c)
    c.set_dependencies(keyword_tasks={"y": 41})

    # then
    assert order(flow) == ["add", "value-1", "value"]
    assert results(flow, c) == [42]


def test_downstream_is_the_other_way_round():
    with Flow("f") as flow:
        a, b = value(1), add(0)
    a.set_downstream(b, key="y")
    assert results(flow, b) == [1]


def test_downstream_tasks_come_after():
    with Flow("f") as flow:
        a, b = value(1), value(2)
        a.set_dependencies(downstream_tasks=[b, add.bind(1)])
    assert flow.downstream_tasks(a) == [b, flow.tasks[-1]]


def test_a_parameter_has_nothing_upstream():
    with Flow("f"):
        p = Parameter("p", default=1)
        with refused(DefinitionError, "parameter 'p' cannot have anything upstream", at=str(p.where)):
            p.set_upstream(value(1))


def test_setting_edges_gives_the_node_back():
    with Flow("f"):
        a, b, c = value(1), value(2), value(3)
    assert a.set_upstream(b) is a
    assert a.set_downstream(c) is a
    assert a.depends_on(b) is a
    assert a.set_dependencies(upstream_tasks=[b]) is a


@pytest.mark.parametrize("several", [list, tuple, set, frozenset, iter, lambda nodes: [list(nodes)]])
def test_several_upstreams_come_in_any_collection(several):
    with Flow("f") as flow:
        a, b, c = value(1), value(2), value(3)
        c.set_dependencies(upstream_tasks=several([a, b]))
    assert set(map(id, flow.upstream_tasks(c))) == {id(a), id(b)}


def test_one_upstream_needs_no_list():
    with Flow("f") as flow:
        a = value(1)
        b = value(2, upstream_tasks=a)
        c = value(3).set_dependencies(upstream_tasks=b, downstream_tasks=None)
    assert flow.upstream_tasks(c) == [b]


def test_a_value_can_be_mapped_over_afterwards():
    with Flow("f") as flow:
        a, b = value([1, 2]), add(unbound := value(10))
        b.set_upstream(a, key="y", mapped=True)
    assert flow.upstream_tasks(b) == [unbound, a]
    assert results(flow, b) == [[11, 12]]


def test_an_edge_can_be_meant_for_a_copy_of_the_flow():
    # given
    with Flow("f") as flow:
        a, b = value(1), value(2)
    twin = flow.copy()

    # when
    b.set_upstream(a, flow=twin)

    # then
    assert flow.upstream_tasks(b) == []
    assert twin.upstream_tasks(b) == [a]


def test_depends_on_takes_nodes_tasks_and_dependencies():
    with Flow("f") as flow:
        source = value({"n": 41})
        a, b = value(2), add(1)
        b.depends_on(a, double.bind(x=3), Dependency(source, key="n", arg="y"))
    assert results(flow, b) == [42]
    assert len(flow.upstream_tasks(b)) == 3


def test_pipes_read_in_the_order_in_which_tasks_run():
    with Flow("f") as flow:
        a = value(1)
        assert a.pipe(add, y=2).pipe(double).pipe(double) is flow.tasks[-1]
    assert results(flow, flow.tasks[-1]) == [12]


def test_a_bar_orders_and_stands_for_its_right_side():
    with Flow("f") as flow:
        end = value(1) | add(2) | value
    a, b, c = flow.tasks
    assert (flow.upstream_tasks(b), flow.upstream_tasks(c)) == ([a], [b])
    assert end is c


def test_an_argument_that_is_bound_is_not_bound_again():
    with Flow("f"):
        a = double(1)
    with refused(DefinitionError, "double: argument 'x' is bound already", at=str(a.where)):
        a.set_dependencies(keyword_tasks={"x": 5})


def test_an_argument_that_is_not_there_is_refused():
    with Flow("f"):
        a = double(1)
    with refused(CallError, "double() has no parameter 'z'; it has: 'x'"):
        a.set_dependencies(keyword_tasks={"z": 5})


def test_what_is_bound_afterwards_can_be_mapped_over_or_is_refused():
    with Flow("f"):
        a = add(1)
    with refused(MappingError, "cannot map 'y' over a str"):
        a.set_dependencies(keyword_tasks={"y": "abc"}, mapped=True)


def test_an_upstream_is_a_node_or_a_task():
    with Flow("f"):
        a = value(1)
    with refused(DefinitionError, "expected a node or a task, found 'b' of type str"):
        a.set_upstream("b")
    with refused(DefinitionError, "expected a node or a task on the right, found 5"):
        a | 5


def test_a_node_cannot_run_before_itself():
    with Flow("f"):
        a = value(1)
    with refused(DefinitionError, "value cannot depend on itself", at=str(a.where)):
        a.set_upstream(a)


def test_nodes_of_two_flows_have_no_edge_between_them():
    # given
    with Flow("one"):
        a = value(1)
    with Flow("two"):
        b = value(2)

    # then
    with refused(UnknownNodeError, f"(written at {a.where}) belongs to flow 'one', not to flow 'two'"):
        b.set_upstream(a)
    with Flow("three"), refused(UnknownNodeError, "belongs to flow 'one', not to flow 'three'"):
        add(a)


def test_a_node_that_is_in_no_flow_has_no_edges():
    with refused(OutsideFlowError, "'p'", "is in no flow yet"):
        Parameter("p").set_downstream(Parameter("q"))


def test_a_flow_is_a_flow():
    with Flow("f"):
        a = value(1)
    with refused(OptionError, "flow= takes a Flow, found 'f'"):
        a.set_upstream(value, flow="f")


# Operators ------------------------------------------------------------------------------------------------------------

BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.lt, operator.le, operator.gt, operator.ge, operator.and_,
]  # fmt: skip


@pytest.mark.parametrize("function", BINARY, ids=lambda function: function.__name__)
def test_operators_are_those_of_the_values(function):
    with Flow("f") as flow:
        a, b = value(7), value(3)
        nodes = function(a, b), function(a, 3), function(7, b)
    assert results(flow, *nodes) == [function(7, 3)] * 3


def test_the_operators_that_have_one_side():
    with Flow("f") as flow:
        a = value(-3)
        nodes = -a, abs(a), a.not_(), a.is_equal(-3), a.is_not_equal(-3), a.or_(0), value(0).or_(0)
    assert results(flow, *nodes) == [3, 3, False, True, False, True, False]


def test_truth_of_two_values_has_names_as_the_ampersand_is_that_of_the_values():
    with Flow("f") as flow:
        a, some = value("yes"), value({1, 2})
        nodes = a.and_(1), a.and_(0), value(0).and_(a), some & {2, 3}, {1} & some, value(6) & 3, value(True) & False
    assert results(flow, *nodes) == [True, False, False, {2}, {1}, 2, False]


def test_items_are_nodes():
    with Flow("f") as flow:
        a = value({"rows": [1, 2, 3]})
        nodes = a["rows"], a["rows"][0], a["rows"][1:], value([5, 6])[value(1)]
    assert results(flow, *nodes) == [[1, 2, 3], 1, [2, 3], 6]
    assert nodes[0].name == "value['rows']"


def test_matrices_multiply():
    np = pytest.importorskip("numpy")
    with Flow("f") as flow:
        product = value(np.eye(2)) @ np.array([1, 2])
    assert list(results(flow, product)[0]) == [1, 2]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=4), st.integers(1, 5))
def test_operators_on_a_map_act_per_element(xs, n):
    # given
    with Flow("f") as flow:
        doubled = double.map(xs)
        again = double.map(doubled)
        nodes = doubled + n, n - doubled, doubled * again, doubled > n, -doubled, doubled.is_equal(2)

    # then
    twice = [2 * x for x in xs]
    assert results(flow, *nodes) == [
        [x + n for x in twice],
        [n - x for x in twice],
        [x * 2 * x for x in twice],
        [x > n for x in twice],
        [-x for x in twice],
        [x == 2 for x in twice],
    ]


def test_an_item_of_a_map_is_that_item_of_each_element():
    with Flow("f") as flow:
        pairs = value.map([(1, "a"), (2, "b")])
        numbers = pairs[0]
        n = total(numbers)
    assert results(flow, numbers, n) == [[1, 2], 3]


def test_operators_work_once_the_block_has_closed():
    with Flow("f") as flow:
        a = value(41)
    b = a + 1
    assert results(flow, b) == [42]


def test_a_node_of_another_flow_is_no_operand():
    with Flow("one"):
        a = value(1)
    with Flow("two"), refused(UnknownNodeError, "belongs to flow 'one', not to flow 'two'"):
        a + 1


# Unpacking ------------------------------------------------------------------------------------------------------------


@task(nout=2)
def two_outputs():
    return 1, "a"


@task
def annotated() -> tuple[int, str, float]:
    return 1, "a", 2.0


@task
def open_ended() -> tuple[int, ...]:
    return 1, 2


def test_a_call_unpacks_into_as_many_nodes_as_it_has_outputs():
    with Flow("f") as flow:
        number, word = two_outputs()
        a, b, c = annotated()
    assert results(flow, number, word, a, b, c) == [1, "a", 1, "a", 2.0]


def test_a_call_whose_outputs_are_not_counted_is_not_unpacked():
    words = "nothing says how many outputs it has; use @task(nout=2) or a return annotation such as tuple[int, str]"
    with Flow("f"):
        with refused(NodeValueError, "'value' cannot be unpacked", words):
            _, _ = value()
        with refused(NodeValueError, "'open_ended' cannot be unpacked"):
            _, _ = open_ended()


@task(nout=2)
def split(x):
    return x, x


def test_a_map_is_not_unpacked():
    with Flow("f"), refused(NodeValueError, "it is a map: take its elements apart in a task"):
        _, _ = split.map([1, 2])


# What would silently be wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda node: bool(node), "has no truth value while the flow is written"),
        (lambda node: 1 if node > 5 else 2, "use `with node:` or case(node, value)"),
        (lambda node: node and 1, "has no truth value"),
        (lambda node: not node, "has no truth value"),
        (lambda node: node == 1, "use node.is_equal(…) for a node with the answer"),
        (lambda node: operator.ne(1, node), "use node.is_not_equal(…)"),
        (lambda node: operator.eq([1], [node]), "use node.is_equal(…)"),
        (lambda node: len(node), "has no length while the flow is written"),
        (lambda node: list(node), "cannot be unpacked"),
        (lambda node: 1 in node, "`in` has no answer yet"),
        (lambda node: sum(node), "cannot be unpacked"),
    ],
)  # fmt: skip
def test_a_node_used_as_its_value_is_refused_with_the_way_out(write, words):
    with Flow("f"):
        node = value(1)
        with refused(NodeValueError, words):
            write(node)


def test_an_attribute_of_the_value_is_refused():
    with Flow("f"):
        node = value(1)
        with refused(NodeAttributeError, "'value' is a node, not its value, and has no attribute 'shape'"):
            print(node.shape)
        assert not hasattr(node, "shape")


def test_nodes_are_equal_to_themselves_only():
    with Flow("f"):
        a, b = value(1), value(1)
    assert a == a
    assert a != b
    assert len({a, b, a}) == 2
    assert [a, b].index(b) == 1
    assert a in [a, b]


@pytest.mark.parametrize(
    "name", ["max_retries", "retry_delay", "trigger", "name", "signature", "default_value", "anything"]
)
def test_what_is_assigned_to_a_node_is_refused_with_the_way(name):
    with Flow("f"):
        for node in (value(1), value.map([1]), value(1) + 1, Parameter("p", default=1)):
            with refused(OptionError, f"{node!r} is a node, and its {name} cannot be assigned", "task_args={'"):
                setattr(node, name, 5)


def test_the_nearest_option_is_named():
    with Flow("f"), refused(OptionError, "did you mean 'max_retries'"):
        value(1).max_retry = 5


def test_a_node_has_one_line_for_people():
    with Flow("f"):
        value(1)
        assert repr(value(2)) == "<Node 'value-1'>"


def test_nodes_can_be_copied_and_pickled_with_their_flow():
    with Flow("f") as flow:
        value(1)
    assert copy.copy(flow.tasks[0]).name == "value"
    assert [node.slug for node in pickle.loads(cloudpickle.dumps(flow)).tasks] == ["value"]


def test_nan_is_a_value_as_any_other():
    with Flow("f") as flow:
        a = value(math.nan)
        with case(a, math.nan):
            b = value(1)
    assert results(flow, b) == [1]


def test_a_node_without_a_flow_has_its_name():
    assert Node("n", len).slug == "n"

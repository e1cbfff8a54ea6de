"""The graph of a flow: slugs, bindings, edges, order, groups, and what the engine gets."""

import cloudpickle
import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch import Flow, flatten, task
from anabranch.definition.expressions import Const, Ref
from anabranch.definition.frozen import Edge
from anabranch.definition.graph import Graph
from anabranch.definition.node import Node
from anabranch.errors import DefinitionError, UnknownNodeError


def add(graph, *names):
    nodes = [Node(name, lambda x=None, y=None: x) for name in names]
    for node in nodes:
        graph.add(node)
    return nodes if len(nodes) > 1 else nodes[0]


def slugs(graph):
    return [graph.entry(node).slug for node in graph]


# Slugs ----------------------------------------------------------------------------------------------------------------


def test_nodes_of_one_name_are_numbered():
    graph = Graph("f")
    add(graph, "load", "load", "load")
    assert slugs(graph) == ["load", "load-1", "load-2"]


def test_a_number_never_takes_a_name_that_a_user_has_given():
    graph = Graph("f")
    add(graph, "load-1", "load", "load", "load-1")
    assert slugs(graph) == ["load-1", "load", "load-2", "load-1-1"]


@given(st.lists(st.sampled_from(["a", "a-1", "a-1-1", "b"])))
def test_slugs_are_unique_and_the_same_in_every_build(names):
    def build():
        graph = Graph("f")
        for name in names:
            add(graph, name)
        return slugs(graph)

    assert len(set(build())) == len(names)
    assert build() == build()


def test_names_that_only_differ_in_case_or_composition_are_different():
    graph = Graph("f")
    add(graph, "Load", "load", "caf\u00e9", "cafe\u0301")
    assert len(set(slugs(graph))) == 4


def test_adding_a_node_twice_does_nothing():
    graph = Graph("f")
    node = add(graph, "load")
    graph.add(node)
    assert len(graph) == 1


# Bindings and edges ---------------------------------------------------------------------------------------------------


def test_binding_adds_the_edges_that_the_arguments_need():
    # given
    graph = Graph("f")
    a, b = add(graph, "a", "b")

    # when
    graph.bind(b, {"x": Ref(a), "y": Const(3)}, mapped=["x"])

    # then
    assert graph.edges_into(b) == (Edge(a, b, "data", "x", mapped=True),)
    assert graph.edges_from(a) == graph.edges_into(b)
    assert graph.entry(b).is_map


def test_an_argument_is_bound_once():
    graph = Graph("f")
    a, b = add(graph, "a", "b")
    graph.bind(b, {"x": Ref(a)})
    with refused(DefinitionError, "b: argument 'x' is bound already", at=str(b.where)):
        graph.bind(b, {"x": Const(5)})


def test_what_is_refused_leaves_the_graph_as_it_was():
    graph = Graph("f")
    a = add(graph, "a")
    with refused(DefinitionError, "a cannot depend on itself", at=str(a.where)):
        graph.bind(a, {"x": Ref(a)})
    assert graph.entry(a).arguments == {}
    assert list(graph.edges()) == []


def test_an_edge_is_there_once():
    graph = Graph("f")
    a, b = add(graph, "a", "b")
    graph.link(Edge(a, b, "order"))
    graph.link(Edge(a, b, "order"))
    assert len(list(graph.edges())) == 1


def test_a_node_of_another_graph_is_unknown():
    graph, stranger = Graph("f"), Node("stranger", lambda: 1)
    with refused(UnknownNodeError, "node 'stranger'", "is not in flow 'f'", at=str(stranger.where)):
        graph.entry(stranger)


@pytest.mark.parametrize("thing", [[1], {}, 5, "a", None])
def test_anything_may_be_asked_for(thing):
    assert thing not in Graph("f")


# Order ----------------------------------------------------------------------------------------------------------------


written = st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True)
"""Nodes by the place that each has in some topological order."""
pairs_of_places = st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)))


@given(written | written.map(sorted), pairs_of_places)
def test_nodes_are_sorted_by_their_edges_then_as_they_were_written(places, pairs):
    # given
    graph = Graph("f")
    nodes = {place: add(graph, f"n{place}") for place in places}
    for one, other in pairs:
        if one < other and {one, other} <= nodes.keys():
            graph.link(Edge(nodes[one], nodes[other], "order"))

    # when
    found = graph.sorted_nodes()

    # then
    as_written = {node: number for number, node in enumerate(nodes.values())}
    assert found == list(networkx.lexicographical_topological_sort(graph.digraph, key=as_written.__getitem__))
    assert graph.is_in_order == (found == list(as_written))


def test_a_cycle_has_no_order():
    graph = Graph("f")
    a, b = add(graph, "a", "b")
    graph.link(Edge(a, b, "order"))
    graph.link(Edge(b, a, "order"))
    with refused(DefinitionError, "flow 'f' has a cycle, so its nodes have no order", at=""):
        graph.sorted_nodes()


# Copies, groups, substitution -----------------------------------------------------------------------------------------


def test_a_copy_can_be_changed_alone():
    graph = Graph("f")
    a, b = add(graph, "a", "b")
    twin = graph.copy("g")
    twin.link(Edge(a, b, "order"))
    add(twin, "c")
    assert (len(graph), list(graph.edges())) == (2, [])
    assert (len(twin), len(list(twin.edges()))) == (3, 1)


def test_what_a_nested_graph_has_is_in_those_around_it_too():
    outer, inner = Graph("outer"), Graph("inner")
    a = add(inner, "a")
    outer.nest(inner)
    assert a in outer
    assert outer.entry(a).groups == ("inner",)
    assert [graph.name for graph in inner.path] == ["outer", "inner"]
    assert [graph.name for graph in outer.family(a)] == ["outer", "inner"]


def test_a_nested_graph_leaves_out_what_takes_values_from_around_it():
    # given
    outer = Graph("outer")
    inner = Graph("inner", parent=outer)
    a, b = add(outer, "a", "b")
    inner.add(b)

    # when
    for graph in outer.family(b):
        graph.bind(b, {"x": Ref(a), "y": Const(1)})

    # then
    assert set(outer.entry(b).arguments) == {"x", "y"}
    assert set(inner.entry(b).arguments) == {"y"}
    assert inner.entry(b).outside == ("x",)


def test_a_node_can_take_the_place_of_another():
    # given
    graph = Graph("f")
    a, b, c, new = add(graph, "a", "b", "c", "new")
    graph.bind(b, {"x": Ref(a)})
    graph.bind(c, {"x": Ref(b), "y": Ref(a)}, mapped=["x"])

    # when
    graph.substitute(b, new)

    # then
    assert b not in graph
    assert graph.find("b") is None
    assert graph.entry(c).arguments == {"x": Ref(new), "y": Ref(a)}
    assert Edge(new, c, "data", "x", mapped=True) in graph.edges_into(c)
    assert [edge.downstream for edge in graph.edges_from(a)] == [c]


def test_what_needs_a_node_cannot_take_its_place():
    graph = Graph("f")
    a, b = add(graph, "a", "b")
    graph.bind(b, {"x": Ref(a)})
    with refused(DefinitionError, "b needs a, so it cannot take its place", at=""):
        graph.substitute(a, b)
    assert a in graph


# What is pending ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_settled_stays_pending_and_is_told_every_time():
    # given
    graph, done = Graph("f"), []

    def fails():
        if not done:
            raise DefinitionError("not yet")

    graph.pend(fails)
    graph.pend(lambda: graph.pend(lambda: done.append("later")) if not done else None)

    # when / then
    assert [str(error) for error in graph.settle()] == ["not yet"]
    assert done == ["later"]
    assert graph.settle() == []


# What the engine gets -------------------------------------------------------------------------------------------------


@task
def numbers(n):
    return list(range(n))


@task
def double(x):
    return 2 * x


def test_a_frozen_graph_is_plain_values_in_order():
    # given
    with Flow("f") as flow:
        xs = numbers(3)
        ys = double.map(xs)
        double(ys)
    double(flatten([[1]]), flow=flow)

    # when
    frozen = flow.graph.freeze()

    # then
    assert list(frozen.nodes) == ["numbers", "double", "double-1", "flatten([[1]])", "double-2"]
    assert frozen.nodes["double"].arguments == {"x": Ref("numbers")}
    assert frozen.nodes["double"].edges == (Edge("numbers", "double", "data", "x", mapped=True),)
    assert frozen.nodes["numbers"].feeds_map
    assert not frozen.nodes["double"].feeds_map
    assert frozen.terminal == frozen.reference == ("double-1", "double-2")
    assert frozen.downstream["numbers"] == ("double",)


def test_a_frozen_graph_holds_no_node():
    with Flow("f") as flow:
        double([double(1), {"deep": (double(2),)}])
    assert b"anabranch.definition.node" not in cloudpickle.dumps(flow.graph.freeze())


def test_the_edges_of_a_map_are_told_apart():
    with Flow("f") as flow:
        xs = numbers(3)
        double.map(xs, upstream_tasks=[numbers(1)])
    node = flow.graph.freeze().nodes["double"]
    assert node.element_upstreams == ("numbers",)
    assert node.whole_upstreams == ("numbers-1",)


def test_calls_of_a_task_are_found_after_a_node_is_replaced_too():
    with Flow("f") as flow:
        a, b = double(1), double(2)
    assert flow.graph.calls_of(double) == [a, b]
    flow.graph.substitute(a, b)
    assert flow.graph.calls_of(double) == [b]
    assert flow.graph.calls_of(numbers) == []

"""Where boxes of a graph are drawn."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from anabranch.monitoring.pages.graph_layout import layered


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"n{i}" for i in range(draw(st.integers(1, 25)))]
    ends = st.integers(0, len(names) - 1)
    pairs = draw(st.lists(st.tuples(ends, ends), max_size=60))
    return names, [(names[a], names[b]) for a, b in pairs if a < b]


@given(graphs())
def test_edges_go_to_the_right_and_no_boxes_overlap(graph: tuple[list[str], list[tuple[str, str]]]):
    # given
    names, edges = graph
    # when
    layout = layered(names, edges)
    # then
    assert set(layout.places) == set(names)
    for tail, head in edges:
        assert layout.places[tail][0] < layout.places[head][0]
    for layer in range(layout.layers):
        rows = sorted(y for x, y in layout.places.values() if x == layer)
        assert all(b - a >= 1 - 1e-6 for a, b in pairwise(rows))
    assert all(0 <= y <= layout.rows for _, y in layout.places.values())


@given(graphs())
def test_an_edge_passes_through_every_layer_between(graph: tuple[list[str], list[tuple[str, str]]]):
    layout = layered(*graph)
    for (tail, head), route in layout.routes.items():
        assert route[0] == layout.places[tail]
        assert route[-1] == layout.places[head]
        assert all(b[0] - a[0] == 1 for a, b in pairwise(route))


def test_what_nothing_leads_to_stands_beside_its_first_consumer():
    layout = layered(["a", "b", "c", "p"], [("a", "b"), ("b", "c"), ("p", "c")])
    assert layout.places["p"][0] == layout.places["c"][0] - 1


def test_a_circle_as_folded_groups_may_make_is_drawn_all_the_same():
    layout = layered(["a", "g"], [("a", "g"), ("g", "a"), ("a", "a"), ("a", "unknown")])
    assert set(layout.routes) == {("a", "g"), ("g", "a")}


def test_no_nodes_are_no_layers():
    assert layered([], []).layers == 0

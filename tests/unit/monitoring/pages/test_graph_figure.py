"""The picture of a flow: what is sent of it, and that names in it are text."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from tests.hostile_names import CONTROL, CORPUS

from anabranch.base.events import MapAdvanced, TaskChanged, UnitEnded
from anabranch.definition.shape import Shape, ShapeEdge, ShapeNode
from anabranch.monitoring.pages.graph_figure import BLOCK, MAX_BLOCKS, GraphFigure, _boxes
from anabranch.monitoring.pages.looks import safe
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.states import Running, Success


def model_of(width: int) -> PageModel:
    """A row of so many tasks, each after the one before."""
    names = [f"t{i}" for i in range(width)]
    edges = tuple(ShapeEdge(a, b) for a, b in pairwise(names))
    return PageModel(Shape(tuple(map(ShapeNode, names)), edges))


def texts(figure: GraphFigure) -> list[str]:
    """Lines, then blocks of boxes."""
    (picture,) = figure.frame.children
    return [each.text for each in picture.children]


def test_only_blocks_in_which_something_changed_are_sent_anew() -> None:
    # given
    model = model_of(4 * BLOCK)
    figure = GraphFigure(model, folded=False)
    before = texts(figure)
    # when a task begins
    model.take(TaskChanged(1.0, f"t{2 * BLOCK}", Running()))
    figure.update()
    # then its block is another one, and no other is
    changed = [place for place, (a, b) in enumerate(zip(before, texts(figure), strict=True)) if a != b]
    assert len(changed) == 1
    assert f"► t{2 * BLOCK}</b>" in texts(figure)[changed[0]]


def test_of_much_that_changes_at_once_all_is_sent_in_turn() -> None:
    # given more blocks than are sent at a time
    places = MAX_BLOCKS * 2 + 3
    model = model_of(places * BLOCK)
    figure = GraphFigure(model, folded=False)
    # when every task ends, and again and again something in the first blocks changes
    for i in range(places * BLOCK):
        model.take(TaskChanged(1.0, f"t{i}", Success()))
    left = []
    for turn in range(3):
        model.take(TaskChanged(2.0 + turn, "t0", Success(message=f"again {turn}")))
        figure.update()
        left.append(sum('class="b s0"' in text for text in texts(figure)))
    # then the last of them have their turn all the same
    assert left == [places - MAX_BLOCKS, places - 2 * MAX_BLOCKS, 0]


def test_a_box_tells_of_a_map_how_far_it_is_and_shows_a_single_failure() -> None:
    # given
    model = PageModel(Shape((ShapeNode("parse", is_map=True),)))
    figure = GraphFigure(model, folded=False)
    assert "× n" in texts(figure)[1]
    # when
    model.take(MapAdvanced(1.0, "parse", 100_000, 0, 0, 0))
    codes = bytes([20]) + bytes([10]) * 49_999
    model.take(UnitEnded(2.0, "w", 1.0, 1.0, indices=range(50_000), codes={"parse": codes}))
    figure.update()
    # then
    assert "50,000/100,000 ✗ 1" in texts(figure)[1]
    assert re.findall(r"width:(\d+)%", texts(figure)[1]) == ["6", "49"]


def test_deferred_calls_that_are_made_later_are_drawn_below_their_caller() -> None:
    # given a picture of two tasks
    model = model_of(2)
    figure = GraphFigure(model, folded=False)
    before = texts(figure)
    # when one of them calls a third
    model.take(MapAdvanced(1.0, "t0/called", 3, 0, 0, 0))
    figure.update()
    # then there is a box, with a line to it
    lines, boxes = texts(figure)
    assert "► t0/called</b>" in boxes
    assert lines.count("M") == before[0].count("M") + 1


def test_calls_stand_between_the_task_that_made_them_and_those_that_wait_for_it() -> None:
    # given a task of a nested flow, and one after it
    nodes = (ShapeNode("inner", groups=("nested",)), ShapeNode("after"))
    model = PageModel(Shape(nodes, (ShapeEdge("inner", "after"),)))
    # when it makes two calls, one of which makes another
    for slug in ("inner/a", "inner/b", "inner/b/c"):
        model.take(TaskChanged(1.0, slug, Running()))
    # then they are in the order in which their values pass
    boxes, edges = _boxes(model, folded=False)
    assert list(boxes) == ["inner", "inner/a", "inner/b", "inner/b/c", "after"]
    assert set(edges) == {
        ("inner", "inner/a"),
        ("inner", "inner/b"),
        ("inner/b", "inner/b/c"),
        ("inner/a", "after"),
        ("inner/b/c", "after"),
    }
    # and in the nested flow, where that is one box
    folded, _ = _boxes(model, folded=True)
    assert [len(box.nodes) for box in folded.values()] == [4, 1]
    # and of many calls not each has a line
    for i in range(20):
        model.take(TaskChanged(1.0, f"inner/many{i}", Running()))
    assert ("inner", "after") in _boxes(model, folded=False)[1]


def test_long_names_keep_their_ends_and_a_box_says_what_it_is_and_what_can_be_gone_to() -> None:
    model = PageModel(Shape((ShapeNode("extract_station_north"), ShapeNode("parse", is_map=True), ShapeNode("rest"))))
    model.take(MapAdvanced(1.0, "parse", 2, 0, 0, 0))
    model.take(UnitEnded(2.0, "w", 1.0, 1.0, indices=range(1), codes={"parse": bytes([20])}))
    drawn = texts(GraphFigure(model, folded=False))[1]
    assert '<b aria-hidden="true"><span>extract_statio</span>n_north</b>' in drawn
    kinds = re.findall(r'role="img" class="b ([^"]*)"[^>]* tabindex="-1" title="(\w+): (\w+)', drawn)
    assert kinds == [
        ("s0", "extract_station_north", "Pending"),
        ("s1 m bad on", "parse", "Running"),
        ("s0", "rest", "Pending"),
    ]


def test_a_nested_flow_is_one_box_when_folded() -> None:
    nodes = tuple(ShapeNode(f"t{i}", groups=("statistics",)) for i in range(3))
    figure = GraphFigure(PageModel(Shape(nodes)), folded=True)
    assert texts(figure)[1].count('class="b') == 1
    assert "▤ statistics" in texts(figure)[1]


@pytest.mark.parametrize("text", [*CORPUS, *CONTROL])
def test_names_and_messages_are_text(text: str) -> None:
    # given
    model = PageModel(Shape((ShapeNode(text), ShapeNode("inner", groups=(text,)))))
    # when
    model.take(TaskChanged(1.0, text, Success(message=text)))
    drawn = "".join(texts(GraphFigure(model, folded=True)))
    # then there are no elements but ours, and no attribute ends early
    assert set(re.findall(r"<(\w+)", drawn)) <= {"svg", "path", "div", "b", "i", "u", "span", "graph"}  # and graph-part
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\u202e]", drawn)
    quoted = re.sub(r'(\w+)="[^"]*"', r"\1", drawn)
    assert not re.findall(r"<[^>]*[\"'=][^>]*>", quoted)
    assert safe(text, 200) in drawn

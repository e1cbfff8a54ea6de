"""Rows of a run: all tasks are there, only what changed is sent, and what the run's length came from is marked."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.hostile_names import CONTROL, CORPUS

from anabranch.base.events import MapAdvanced, RunFinished, RunStarted, TaskChanged
from anabranch.definition.shape import Shape, ShapeEdge, ShapeNode
from anabranch.monitoring.pages.looks import safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.rows_figure import BLOCK, MAX_BLOCKS, RowsFigure, critical_path
from anabranch.states import Running, Success


def model_of(names: list[str], edges: tuple[ShapeEdge, ...] = ()) -> PageModel:
    model = PageModel(Shape(tuple(map(ShapeNode, names)), edges))
    model.take(RunStarted(1_000.0, "f", "r", dict.fromkeys(names, "task")))
    return model


def blocks(figure: RowsFigure) -> list[str]:
    return [each.text for each in figure._rows.children]


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(1_000.0 + seconds, UTC)


def test_every_task_has_a_row_and_only_what_changed_is_sent_anew():
    # given
    model = model_of([f"t{i}" for i in range(3 * BLOCK + 1)])
    figure = RowsFigure(model, style_sheet())
    before = blocks(figure)
    assert sum(text.count('role="listitem"') for text in before) == 3 * BLOCK + 1
    # when time passes, nothing is
    model.tick(1_060.0)
    figure.update()
    assert blocks(figure) == before
    assert "--t: 60.00" in figure._time.css
    # and when a task begins, its block is
    model.take(TaskChanged(1_060.0, f"t{BLOCK}", Running(start_time=at(59))))
    figure.update()
    assert [a == b for a, b in zip(before, blocks(figure), strict=True)] == [True, False, True, True]
    assert 'class="on" style="--at:59.00' in blocks(figure)[1]


def test_of_much_that_changes_at_once_all_is_sent_in_turn():
    names = [f"t{i}" for i in range((2 * MAX_BLOCKS + 1) * BLOCK)]
    model = model_of(names)
    figure = RowsFigure(model, style_sheet())
    for name in names:
        model.take(TaskChanged(1_001.0, name, Success(start_time=at(0), end_time=at(1))))
    left = []
    for _ in range(3):
        figure.update()
        left.append(sum("Pending" in text for text in blocks(figure)))
    assert left == [MAX_BLOCKS + 1, 1, 0]


def test_a_task_that_comes_while_the_run_goes_on_has_a_row():
    model = model_of(["call"])
    figure = RowsFigure(model, style_sheet())
    model.take(MapAdvanced(1_001.0, "call/step", 40, 10, 1, 2))
    figure.update()
    assert "10/40 ✗ 1 ↻ 2" in blocks(figure)[0]


def test_what_the_length_of_a_run_came_from_is_marked():
    # given two ways to the last task, of which one was longer
    edges = (ShapeEdge("a", "b"), ShapeEdge("b", "d"), ShapeEdge("c", "d"))
    model = model_of(["a", "b", "c", "d"], edges)
    for name, began, ended in (("a", 0, 2), ("b", 2, 9), ("c", 0, 3), ("d", 9, 10)):
        model.take(TaskChanged(1_000.0 + ended, name, Success(start_time=at(began), end_time=at(ended))))
    assert critical_path(model) == {"a", "b", "d"}
    # then it is shown when the run has ended
    figure = RowsFigure(model, style_sheet())
    assert "◆" not in blocks(figure)[0]
    model.take(RunFinished(1_010.0, Success()))
    figure.update()
    assert blocks(figure)[0].count("◆") == 3


@pytest.mark.parametrize("text", [*CORPUS, *CONTROL])
def test_names_in_rows_are_text(text: str):
    (block,) = blocks(RowsFigure(model_of([text]), style_sheet()))
    assert safe(text, 200) in block
    assert text not in block or text == safe(text, 200)

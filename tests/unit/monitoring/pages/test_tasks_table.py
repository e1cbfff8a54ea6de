"""The table of tasks: what a reader can sort and filter by."""

from __future__ import annotations

import re

from anabranch.base.events import MapAdvanced, TaskChanged, UnitEnded
from anabranch.definition.shape import Shape, ShapeNode
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.run_page import TASKS, RunPage
from anabranch.monitoring.pages.tasks_table import COLUMNS, task_fields, task_table
from anabranch.states import Running, Success


def test_what_failed_comes_first_and_a_map_is_found_by_the_states_of_its_elements() -> None:
    # given
    model = PageModel(Shape((ShapeNode("well"), ShapeNode("parse", is_map=True))))
    model.take(TaskChanged(1.0, "well", Success()))
    model.take(MapAdvanced(1.0, "parse", 1_200, 0, 0, 0))
    model.take(UnitEnded(2.0, "w", 1.0, 1.0, indices=range(2), codes={"parse": bytes([20, 10])}))
    # when
    html = task_table(model)
    # then
    rows = re.findall(r'<tr data-in="([^"]*)"><td>(\w+)</td><td data-by="(\d+)">.*?<td data-by="(\d+)">', html)
    assert [(name, width) for _, name, _, width in rows] == [("parse", "1200"), ("well", "0")]
    assert set(rows[0][0].split()) == {"Running", "Failed", "Success", "Pending"}
    assert rows[0][2] > rows[1][2]
    assert re.findall(r'data-sort="(\w+)"', html) == list(COLUMNS)
    assert "<option>Failed</option>" in task_fields()


def test_a_long_table_is_sent_less_often_and_the_last_one_at_once() -> None:
    # given a page on which the table is open
    model = PageModel(Shape(tuple(ShapeNode(f"t{i}") for i in range(2_000))))
    page = RunPage(model)
    page.active = TASKS
    before = page._tasks.text
    # when something changes just after it was sent
    model.take(TaskChanged(1.0, "t7", Running()))
    page._tasks_due = float("inf")
    page.update()
    assert page._tasks.text == before
    # then it is sent when its time has come
    page._tasks_due = 0.0
    page.update()
    assert page._tasks.text != before

"""The panel of a task run: all about it, by a name that is part of the address."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from bokeh.document import Document
from tests.hostile_names import CORPUS

from anabranch.base.events import MapAdvanced, RunStarted, UnitEnded
from anabranch.base.states import Attempt
from anabranch.errors import RunQueryError
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.task_panel import ASKED, Source, TaskPanel, panel_html
from anabranch.monitoring.pages.verdict import split_name
from anabranch.runs import LogRow
from anabranch.runs.read.explain import Explanation
from anabranch.states import Failed, Failure

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def explain(name: str) -> Explanation:
    return Explanation(name, "Failed", ["it raised ValueError"], location="/store/1")


SOURCE = Source(
    explain, lambda slug, index: [LogRow(0, NOON, 20, f"line of {slug} {index}")], lambda slug: [("r0", "Success", 2.0)]
)


def model_of(slug: str = "parse") -> PageModel:
    model = PageModel()
    model.run_id = "r1"
    model.take(RunStarted(1_000.0, "etl", "r1", {slug: "task"}))
    model.take(MapAdvanced(1_001.0, slug, 9, 0, 0, 0))
    state = Failed(failure=Failure("ValueError", "bad", inputs={"x": "3"}), map_index=3, attempt=2,
                   attempts=(Attempt(1, "Failed", "OSError: away", "w1"),))  # fmt: skip
    model.take(UnitEnded(1_002.0, "w2", 1_001.0, 1.0, indices=(3,), codes={slug: b"\x14"}, records={slug: {3: state}}))
    return model


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html)).strip()


def test_a_panel_tells_all_about_a_task():
    model = model_of()
    told = plain(panel_html(model, "parse", model.nodes["parse"], SOURCE))
    for part in (
        "9 elements: 8 Pending, 1 Failed", "1 attempts beyond the first", "attempt 1 ended as Failed on w1",
        "✗ parse[3] x = 3 bad", "it raised ValueError", "its value is stored at /store/1", "line of parse None",
        "r0 Success 2.0 s",
    ):  # fmt: skip
        assert part in told, told


def test_a_panel_tells_of_one_element_or_that_there_is_none():
    model = model_of()
    told = plain(panel_html(model, "parse[3]", model.nodes["parse"], SOURCE))
    assert "✗ Failed element 3 of 9" in told
    assert "line of parse 3" in told
    assert "no such element" in plain(panel_html(model, "parse[9]", model.nodes["parse"], SOURCE))
    assert "no such task" in plain(panel_html(model, "other", None, SOURCE))


def test_what_cannot_be_explained_is_said_and_all_else_is_shown():
    def refuse(name: str) -> Explanation:
        raise RunQueryError("nothing is recorded")

    model = model_of()
    source = Source(refuse, SOURCE.lines_of, SOURCE.earlier_of)
    told = plain(panel_html(model, "parse", model.nodes["parse"], source))
    assert "nothing is recorded" in told
    assert "line of parse None" in told


def test_the_panel_follows_what_is_asked_for_and_changes_only_with_that():
    # given a panel that nothing is asked of
    model, asked = model_of(), []

    def note(name: str) -> Explanation:
        asked.append(name)
        return explain(name)

    panel = TaskPanel(lambda: model, Source(note, SOURCE.lines_of, SOURCE.earlier_of))
    document = Document()
    document.add_root(panel.root)
    field, text = document.get_model_by_name(ASKED), panel.root.children[1]
    assert not text.visible
    # when a task is asked for, and nothing happens
    field.value = "parse"
    panel.update()
    assert text.visible
    assert asked == ["parse"]
    # and when something does, and it is closed
    model.take(MapAdvanced(1_003.0, "parse", 9, 1, 1, 0))
    panel.update()
    assert asked == ["parse", "parse"]
    field.value = ""
    assert not text.visible


@pytest.mark.parametrize(
    ("name", "found"),
    [("parse", ("parse", None)), ("parse[7]", ("parse", 7)), ("a[1][2]", ("a[1]", 2)), ("a[x]", ("a[x]", None)),
     ("a[²]", ("a[²]", None)), ("a[1", ("a[1", None)), ("[1]", ("", 1)), (f"a[{'9' * 40}]", (f"a[{'9' * 40}]", None))],
)  # fmt: skip
def test_names_of_task_runs_are_split(name: str, found: tuple[str, int | None]):
    assert split_name(name) == found


@pytest.mark.parametrize("text", CORPUS)
def test_names_in_a_panel_are_text(text: str):
    model = model_of(text)
    html = panel_html(model, text, model.nodes[text], SOURCE)
    assert not re.findall(r"<(?:script|img|svg|iframe|style|b>bold|!--)", html)

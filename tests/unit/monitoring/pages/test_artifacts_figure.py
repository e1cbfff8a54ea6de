"""What tasks have shown, on a page: readable, and harmless whatever it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.base.states import Attempt
from anabranch.monitoring.pages.artifacts_figure import MAX_IMAGES, render_artifacts, render_markdown
from anabranch.monitoring.pages.looks import no_link
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.runs import ArtifactRow
from anabranch.runs.read.artifacts import artifact_data, artifact_lines

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def row(kind: str, body: Any, *, index: int | None = None, attempt: int = 1, number: int = 0) -> ArtifactRow:
    text = body if isinstance(body, str) else json.dumps(body)
    return ArtifactRow("train", index, attempt, number, kind, NOW, text)


def shown(*rows: ArtifactRow, model: PageModel | None = None) -> str:
    return render_artifacts(rows, model or PageModel(), no_link)


class Tags(HTMLParser):
    """Tags and attributes of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one."""
        self.names.add(tag)
        self.attributes += attrs


BAD = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>"
BODIES = [
    ("table", {"name": BAD, "columns": [BAD], "rows": [[BAD], [1]], "total": 200}),
    ("image", {"name": BAD, "media": "image/png", "data": "iVBO"}),
    ("image", {"name": BAD, "media": 'image/png" onload="alert(1)', "data": "iVBO"}),
    ("image", {"name": BAD, "media": "image/png", "data": '"><script>'}),
    ("html", {"name": BAD, "html": BAD}),
    (
        "markdown",
        {"text": f"# {BAD}\n\n- {BAD}\n\n[{BAD}](javascript:alert(1)) `{BAD}` **{BAD}**\n\n| {BAD} |\n|--|\n| x |"},
    ),
    ("link", {"name": BAD, "url": "javascript:alert(1)", "text": BAD}),
    ("link", {"url": "JaVaScRiPt:alert(1)", "text": ""}),
    ("link", {"url": 'https://x/" onclick="alert(1)', "text": ""}),
    ("link", {"url": "data:text/html,<script>", "text": "x"}),
    ("progress", {"name": BAD, "done": 1e999, "of": 0}),
    ("metric", {"name": BAD, "points": [[0, 1], [1, float("nan")], [2, 3]], "count": 3}),
    ("cut", {"text": BAD}),
    ("unknown", {"text": BAD}),
    ("table", "no JSON"),
    ("table", "[1]"),
    ("table", {"columns": [1], "rows": [1, [2]], "total": "many"}),
    ("metric", {"name": "m", "points": [1, [2]], "count": "many"}),
    ("metric", {"name": "m", "points": [[0, 1e308], [1, -1e308]], "count": 2}),
    ("progress", {"done": "all", "of": None}),
]


@pytest.mark.parametrize(("kind", "body"), BODIES)
@pytest.mark.parametrize("index", [None, 1])
def test_nothing_that_is_shown_is_a_script_or_an_address_to_load(kind: str, body: Any, index: Any):
    rows = [row(kind, body, index=index)] + ([] if index is None else [row(kind, body, index=2)])
    found = Tags(shown(*rows))
    assert not found.names & {"script", "object", "embed", "style", "link", "meta", "base", "form"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    for name, value in found.attributes:
        if name == "href":
            assert (value or "").startswith("https://")
        if name == "src":
            assert (value or "").startswith("data:image/")
    assert ("sandbox", "") in found.attributes or "iframe" not in found.names


def test_html_is_in_a_frame_without_scripts_and_loads_nothing():
    text = shown(row("html", {"html": "<b>x</b>"}))
    assert '<iframe sandbox=""' in text
    assert "default-src &#x27;none&#x27;; style-src &#x27;unsafe-inline&#x27;; img-src data:" in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text


def test_markdown_is_what_people_write():
    text = "# Head\n\nSome **bold** and *em*\nin `code`, [here](https://x.org).\n\n- one\n- two\n\n1. a\n\n"
    text += "```\n<b>\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    assert render_markdown(text) == (
        "<h3>Head</h3><p>Some <b>bold</b> and <em>em</em> in <code>code</code>, "
        '<a href="https://x.org" target="_blank" rel="noopener noreferrer nofollow">here</a>.</p>'
        "<ul><li>one</li><li>two</li></ul><ol><li>a</li></ol><pre>&lt;b&gt;</pre>"
        '<div class="scroll" tabindex="0"><table><thead><tr><th>a</th><th>b</th></tr></thead>'
        "<tbody><tr><td>1</td><td>2</td></tr></tbody></table></div>"
    )


@given(st.text(alphabet="ab<>&\"'*`[]()|-#.:1 \n/hjs", max_size=300))
def test_any_text_is_harmless_markdown(text: str):
    found = Tags(render_markdown(text))
    allowed = {"p", "h3", "ul", "ol", "li", "pre", "code", "b", "em", "a", "div", "table"}
    allowed |= {"thead", "tbody", "tr", "th", "td"}
    assert found.names <= allowed
    assert {name for name, _ in found.attributes} <= {"href", "target", "rel", "class", "tabindex"}


@pytest.mark.parametrize("mark", ["*", "**", "`", "[", "[a](", "|", "-", "1"])
def test_marks_without_end_cost_no_more_than_other_text(mark: str):
    assert render_markdown(mark * (50_000 // len(mark)))


def test_values_however_large_have_a_distribution():
    rows = [
        row("metric", {"name": "m", "points": [[0, value]], "count": 1}, index=n)
        for n, value in enumerate([1e308, -1e308, 0.0, float("inf"), float("nan")])
    ]
    assert "half at most 0; 2 are no numbers" in shown(*rows)


def test_a_map_is_shown_as_a_whole():
    rows = [
        *(row("metric", {"name": "loss", "points": [[0, 9], [1, n]], "count": 2}, index=n) for n in range(100)),
        *(row("progress", {"name": "progress", "done": n, "of": 10}, index=n, number=1) for n in range(10)),
        *(row("image", {"name": "", "media": "image/png", "data": "iVBO"}, index=n, number=2) for n in range(50)),
    ]
    text = shown(*rows)
    assert "<b>loss</b> of 100 elements" in text
    assert "half at most 49" in text
    assert "progress: 45 of 100 (45%) of 10 elements" in text
    assert text.count("<img") == MAX_IMAGES
    assert "and 26 more images" in text
    assert artifact_lines(rows) == [
        "train: loss of 100 elements: 0 to 99, half at most 49",
        "train: progress 45 of 100 of 10 elements",
        "train: image of 50 elements",
    ]


def test_what_attempts_showed_that_were_followed_by_another_stays_with_them():
    # given an element whose second attempt shows the metric anew, and a task whose second attempt shows nothing
    rows = [
        row("metric", {"name": "loss", "points": [[0, 100]], "count": 1}, index=3),
        row("metric", {"name": "loss", "points": [[0, 2]], "count": 1}, index=3, attempt=2),
        row("metric", {"name": "loss", "points": [[0, 1]], "count": 1}, index=4),
    ]
    text = shown(*rows)
    assert "<b>loss</b> of 2 elements" in text
    assert "train[3], attempt 1" in text.partition("<details>")[2]
    assert artifact_lines(rows) == ["train: loss of 2 elements: 1 to 2, half at most 1"]
    # and
    model = PageModel()
    model.attempts["train"] = (Attempt(1, "Failed", "no"),)
    assert "<details>" in shown(row("cut", {"text": "x"}), model=model)


def test_there_is_a_line_for_each_kind():
    rows = [
        row("table", {"name": "t", "columns": [], "rows": [], "total": 1_500}),
        row("image", {"name": "map", "media": "image/png", "data": "iVBO"}, number=1),
        row("markdown", {"name": "", "text": "# Done\nmore"}, number=2),
        row("link", {"name": "", "url": "https://x.org", "text": "here"}, number=3),
        row("metric", {"name": "rows", "points": [[0, 1], [1, 2.5]], "count": 300}, number=4),
        row("html", {"name": "", "html": "<b>"}, number=5),
        row("table", "no JSON", number=6),
    ]
    assert artifact_lines(rows) == [
        "train: table t, 1,500 rows",
        "train: image map",
        "train: # Done",
        "train: here https://x.org",
        "train: rows 2.5 (300 values)",
        "train: html",
        "train: table",
    ]
    about = {"task_run": "train", "attempt": 1, "kind": "image", "time": NOW.isoformat()}
    assert artifact_data(rows[1]) == {**about, "name": "map", "media": "image/png"}


def test_nothing_that_was_shown_is_said():
    assert "no task has shown anything" in shown()

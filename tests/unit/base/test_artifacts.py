"""What tasks show is made of any objects, within bounds, and is plain JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy
import pandas
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.base import artifacts
from anabranch.base.artifacts import MAX_COUNT, MAX_NBYTES, MAX_POINTS, Artifacts, Series
from anabranch.base.context import RunInfo, TaskContext

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


class Told:
    """Artifacts by number, as they are kept."""

    def __init__(self) -> None:
        self.task = TaskContext(RunInfo("flow", "run"), "show", "show")
        self.artifact = Artifacts(self.task)
        self._found: dict[int, tuple[str, Callable[[], str]]] = {}

    def take(self, task: TaskContext, kind: str, number: int, dumps: Callable[[], str]) -> None:
        """Keep the latest of each number."""
        self._found[number] = (kind, dumps)

    @property
    def all(self) -> list[tuple[str, dict[str, Any]]]:
        """Kind and body of each."""
        return [(kind, json.loads(dumps())) for kind, dumps in self._found.values()]

    @property
    def one(self) -> tuple[str, dict[str, Any]]:
        """The only one."""
        (found,) = self.all
        return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found = Told()
    monkeypatch.setattr(artifacts, "post", found.take)
    return found


class Odd:
    """Has nothing that works."""

    def __repr__(self) -> str:
        raise ValueError("no")

    __str__ = __float__ = __repr__  # type: ignore[assignment]


# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        [{"a": 1, "b": "x"}, {"a": 2}],
        pandas.DataFrame({"a": [1, 2], "b": ["x", None]}),
        polars.DataFrame({"a": [1, 2], "b": ["x", None]}),
    ],
    ids=["dicts", "pandas", "polars"],
)
def test_rows_of_any_kind_are_a_table(told: Told, rows: Any):
    told.artifact.table(rows, name="t")
    kind, body = told.one
    assert kind == "table"
    assert (body["name"], body["columns"], body["total"]) == ("t", ["a", "b"], 2)
    assert [row[0] for row in body["rows"]] == [1, 2]
    assert [row[1] for row in body["rows"]] in (["x", None], ["x", "nan"])


@pytest.mark.parametrize(
    ("rows", "found", "total"),
    [
        ([[1, 2.5], (3, None)], [[1, 2.5], [3, None]], 2),
        ([1, "two"], [[1], ["two"]], 2),
        ({"a": 1}, [["a", 1]], 1),
        ((n for n in range(3)), [[0], [1], [2]], None),
        ([], [], 0),
        ([[float("nan"), 2**70, True, numpy.int8(3)]], [["nan", str(2**70), True, 3]], 1),
    ],
)
def test_rows_are_sequences_values_or_pairs(told: Told, rows: Any, found: list[Any], total: int | None):
    told.artifact.table(rows)
    assert (told.one[1]["rows"], told.one[1]["total"]) == (found, total)


def test_a_cell_that_cannot_be_shown_is_named_by_its_class(told: Told):
    told.artifact.table([[Odd(), 1]])
    ((cell, one),) = told.one[1]["rows"]
    assert cell.startswith("<Odd instance at ")
    assert one == 1


def test_of_a_large_table_the_first_rows_are_kept_however_long_it_is(told: Told):
    # given rows without end, and a cell that is a dump
    def rows() -> Iterator[list[str]]:
        while True:
            yield ["x" * 10_000] * 50

    told.artifact.table(rows())
    body = told.one[1]
    assert (len(body["rows"]), len(body["rows"][0]), len(body["rows"][0][0])) == (100, 30, 191)


@pytest.mark.parametrize("rows", ["text", b"bytes", 7, None, Odd()])
def test_what_is_no_table_is_refused(told: Told, rows: Any):
    with pytest.raises(
        TypeError, match=r"context\.artifact\.table takes rows \(dicts, or sequences of values\), found "
    ):
        told.artifact.table(rows)


# Images ---------------------------------------------------------------------------------------------------------------


class Figure:
    """As Matplotlib's."""

    def savefig(self, file: Any, format: str) -> None:
        """Write a PNG."""
        assert format == "png"
        file.write(PNG)


class Axes:
    figure = Figure()


class Pair:
    """As Altair's charts: a bundle with metadata."""

    def _repr_mimebundle_(self) -> Any:
        return {"text/plain": "?", "image/png": base64.b64encode(PNG).decode()}, {"image/png": {}}


class Cannot:
    """As a library that lacks what it draws with."""

    def _repr_png_(self) -> bytes:
        raise ImportError("no renderer")

    def _repr_html_(self) -> str:
        return "<b>html</b>"


class Svg:
    def _repr_svg_(self) -> str:
        return "<svg/>"


@pytest.mark.parametrize(
    ("figure", "media", "data"),
    [
        (PNG, "image/png", PNG),
        (bytearray(PNG), "image/png", PNG),
        (b"\xff\xd8\xff\xe0jpeg", "image/jpeg", b"\xff\xd8\xff\xe0jpeg"),
        (b"\n <svg></svg>", "image/svg+xml", b"\n <svg></svg>"),
        (Figure(), "image/png", PNG),
        (Axes(), "image/png", PNG),
        (Pair(), "image/png", PNG),
        (Svg(), "image/svg+xml", b"<svg/>"),
    ],
    ids=["png", "bytearray", "jpeg", "svg", "figure", "axes", "bundle", "repr"],
)
def test_images_are_bytes_or_what_a_figure_shows(told: Told, figure: Any, media: str, data: bytes):
    told.artifact.image(figure)
    kind, body = told.one
    assert (kind, body["media"], base64.b64decode(body["data"])) == ("image", media, data)


@pytest.mark.parametrize("figure", [Cannot(), pandas.DataFrame({"a": [1]}), polars.DataFrame({"a": [1]})])
def test_what_can_show_itself_as_html_only_is_html(told: Told, figure: Any):
    told.artifact.image(figure)
    assert told.one[0] == "html"


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (b"GIB", r"context\.artifact\.image takes a PNG, JPEG, GIF, WebP or SVG, found b'GIB'"),
        (7, r"context\.artifact\.image takes bytes or a figure that can show itself, found 7"),
        (Odd(), r"context\.artifact\.image takes bytes or a figure that can show itself, found "),
        (Figure, r"context\.artifact\.image takes bytes or a figure that can show itself, found Figure"),
    ],
)
def test_what_is_no_image_is_refused(told: Told, figure: Any, message: str):
    with pytest.raises(TypeError, match=message):
        told.artifact.image(figure)


def test_an_object_that_fails_to_show_itself_says_why(told: Told):
    class Broken:
        def _repr_html_(self) -> str:
            raise KeyError("no data")

        def __repr__(self) -> str:
            return "Broken()"

    with pytest.raises(TypeError, match=r"Broken\(\) cannot show itself: 'no data'"):
        told.artifact.image(Broken())


def test_what_is_too_large_is_left_out_and_said(told: Told):
    told.artifact.image(PNG + bytes(MAX_NBYTES), name="heat")
    assert told.one == (
        "cut",
        {"name": "", "text": f"heat is left out: it has {MAX_NBYTES + 28:,} bytes, and at most 400,000 are kept"},
    )


# Metrics and progress -------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=3_000))
def test_a_series_of_any_length_keeps_its_shape_and_its_last_value(values: list[float]):
    series = Series("loss")
    for value in values:
        series.add(value, None)
    found = json.loads(series.dumps())
    points = [(int(step), value) for step, value in found["points"]]
    assert found["count"] == len(values)
    assert len(points) <= MAX_POINTS
    assert points[0] == (0, values[0])
    assert points[-1] == (len(values) - 1, values[-1])
    assert all(values[step] == value for step, value in points)
    steps = [step for step, _ in points[:-1]]
    assert len({b - a for a, b in pairwise(steps)}) <= 1


def test_values_of_a_metric_are_one_artifact(told: Told):
    for step in (3, 6):
        told.artifact.metric("loss", 1 / step, step)
        told.artifact.metric("rows", step)
    assert [(body["name"], body["points"]) for _, body in told.all] == [
        ("loss", [[3.0, 1 / 3], [6.0, 1 / 6]]),
        ("rows", [[0.0, 3.0], [1.0, 6.0]]),
    ]


@pytest.mark.parametrize(
    "show",
    [
        lambda artifact: artifact.metric("loss", "much"),
        lambda artifact: artifact.metric("loss", None),
        lambda artifact: artifact.metric("loss", 1, [2]),
        lambda artifact: artifact.progress("a lot"),
        lambda artifact: artifact.progress(1, {}),
    ],
)
def test_what_is_no_number_is_refused(told: Told, show: Callable[[Artifacts], None]):
    with pytest.raises(TypeError, match=r"context\.artifact\.(metric|progress) takes numbers, found "):
        show(told.artifact)


def test_progress_takes_the_place_of_what_it_was(told: Told):
    for done in (1, 2, 3):
        told.artifact.progress(done, 10)
    assert told.one == ("progress", {"name": "progress", "done": 3.0, "of": 10.0})


def test_an_attempt_shows_so_much_and_says_that_there_was_more(told: Told):
    for n in range(3 * MAX_COUNT):
        told.artifact.markdown(f"text {n}")
        told.artifact.metric(f"metric {n}", n)
    assert len(told.all) == MAX_COUNT + 1
    assert told.all[-1] == ("cut", {"name": "", "text": "more than 100 artifacts: the others are left out"})


def test_attempts_elements_and_rounds_count_by_themselves(told: Told):
    told.artifact.markdown("first round", name="text")
    told.task.task_loop_count = 2
    told.artifact.markdown("second round", name="text")
    assert [body["text"] for _, body in told.all] == ["first round", "second round"]
    # and the element after it, or another attempt, has numbers of its own
    told.task.task_loop_count, told.task.task_run_count = 1, 2
    told.artifact.markdown("second attempt", name="text")
    assert [body["text"] for _, body in told.all] == ["second attempt", "second round"]

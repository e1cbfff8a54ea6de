"""Artifacts: what the code of a task wants people to see of it, such as a table, an image or how far it is.

Here they are made, of any library's objects and within bounds, and handed to `post`. Who keeps and shows them sees
plain JSON and no object of a user's.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias

from anabranch.base.masking import mask
from anabranch.base.names import short
from anabranch.base.texts import clean, message_of

if TYPE_CHECKING:
    from anabranch.base.context import TaskContext

KINDS = ("table", "image", "html", "markdown", "link", "progress", "metric", "cut")
MAX_COUNT = 100  # of an attempt, or of a round of a loop: more is for no eye
MAX_NBYTES = 400_000  # of an image, or of HTML: a figure on a whole screen, as a PNG
MAX_ROWS, MAX_COLUMNS, MAX_CELL = 100, 30, 200
MAX_TEXT = 50_000  # characters of Markdown
MAX_POINTS = 200  # of a metric, as many as a plot is wide; of more, each second, fourth, … is kept
MAX_NAME = 200

Body: TypeAlias = Mapping[str, Any]
Post: TypeAlias = "Callable[[TaskContext, str, int, Callable[[], str]], object]"
"""Takes a task, kind and number of an artifact, and what makes its JSON; the latest of a number is the one to keep."""

post: Post | None = None
"""Where this process's artifacts go; nowhere as long as no run keeps any."""
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
    (b"<svg", "image/svg+xml"),
    (b"<?xml", "image/svg+xml"),
)
_REPRS = (("_repr_png_", "image/png"), ("_repr_jpeg_", "image/jpeg"), ("_repr_svg_", "image/svg+xml"))


@dataclass(slots=True)
class Series:
    """Values of a metric: all as long as there is room, and the last one always."""

    name: str
    points: list[tuple[float, float]] = field(default_factory=list)
    last: tuple[float, float] = (0.0, 0.0)
    count: int = 0
    stride: int = 1
    """Each so manieth point is kept."""

    def add(self, value: float, step: float | None) -> None:
        """Note a value; by default, its step is its number."""
        self.last = (float(self.count if step is None else step), value)
        if self.count % self.stride == 0:
            self.points.append(self.last)
            if len(self.points) >= MAX_POINTS:
                self.points = self.points[::2]
                self.stride *= 2
        self.count += 1

    def dumps(self) -> str:
        """The series as JSON."""
        points = list(self.points)
        points += [self.last] if points[-1:] != [self.last] else []
        return json.dumps({"name": self.name, "points": points, "count": self.count})


@dataclass(slots=True)
class Book:
    """What an attempt has made so far."""

    of: tuple[int | None, int, int]
    """Element, attempt and round of a loop."""
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    """Of artifacts with names."""
    series: dict[str, Series] = field(default_factory=dict)
    count: int = 0


class Artifacts:
    """``context.artifact``: what it is given is recorded with the attempt, and shown on the run's page.

    Where no run keeps anything, as in a function that is called by itself, the methods only check what they are given.
    """

    __slots__ = ("_task",)

    def __init__(self, task: TaskContext | None = None) -> None:
        self._task = task

    def table(self, rows: Any, *, name: str = "") -> None:
        """Show a table: dicts, sequences of values, or a DataFrame. The first 100 rows and 30 columns are kept."""
        columns, found, total = _rows_of(rows)
        cut = [[_cell(value) for value in row[:MAX_COLUMNS]] for row in found]
        self._put("table", name, {"columns": list(map(_cell, columns[:MAX_COLUMNS])), "rows": cut, "total": total})

    def image(self, figure: Any, *, name: str = "") -> None:
        """Show an image: bytes of a PNG, JPEG, GIF, WebP or SVG, or a figure that can show itself.

        Matplotlib's figures and axes become a PNG. Other objects are asked for what they show notebooks, an image
        first, else HTML, of which no script runs. More than 400,000 bytes are not kept.
        """
        media, data = _shown(figure)
        if len(data) > MAX_NBYTES:
            what = f"{name or 'an image'} is left out: it has {len(data):,} bytes, and at most {MAX_NBYTES:,} are kept"
            self._put("cut", "", {"text": what})
        elif media == "text/html":
            self._put("html", name, {"html": mask(data.decode("utf-8", "replace"))})
        else:
            self._put("image", name, {"media": media, "data": base64.b64encode(data).decode()})

    def markdown(self, text: str, *, name: str = "") -> None:
        """Show a text in Markdown; HTML in it is shown as text. The first 50,000 characters are kept."""
        self._put("markdown", name, {"text": clean(str(text), MAX_TEXT)})

    def link(self, url: str, text: str = "", *, name: str = "") -> None:
        """Show a link; addresses that do not begin with ``http:``, ``https:`` or ``mailto:`` are shown as text."""
        self._put("link", name, {"url": clean(str(url), 2_000), "text": clean(str(text), MAX_CELL)})

    def progress(self, done: float, of: float | None = None, *, name: str = "progress") -> None:
        """Show how far the task is: ``context.artifact.progress(3, 10)``, or as a share, ``progress(0.3)``."""
        total = 1.0 if of is None else _number("progress", of)
        self._put("progress", name, {"done": _number("progress", done), "of": total})

    def metric(self, name: str, value: float, step: float | None = None) -> None:
        """Add a value to a series: ``context.artifact.metric("loss", 0.3, step=7)``."""
        found, at = _number("metric", value), None if step is None else _number("metric", step)
        book = self._book()
        if book is None:
            return
        series = book.series.get(name)
        if series is None:
            series = Series(clean(str(name), MAX_NAME))
            if len(book.series) < MAX_COUNT:
                book.series[name] = series
        series.add(found, at)
        self._send("metric", str(name), series.dumps)

    def _book(self) -> Book | None:
        task = self._task
        if task is None or post is None:
            return None
        of = task.map_index, task.task_run_count, task.task_loop_count
        if task.artifacts is None or task.artifacts.of != of:
            task.artifacts = Book(of)
        return task.artifacts

    def _put(self, kind: str, name: str, body: Body) -> None:
        text = json.dumps({"name": clean(str(name), MAX_NAME), **body})
        self._send(kind, str(name), lambda: text)

    def _send(self, kind: str, name: str, dumps: Callable[[], str]) -> None:
        book, task = self._book(), self._task
        if book is None or task is None or post is None:
            return
        number = book.numbers.get((kind, name)) if name else None
        if number is None:
            if book.count > MAX_COUNT:
                return
            number, book.count = book.count, book.count + 1
            if book.count > MAX_COUNT:
                text = json.dumps({"name": "", "text": f"more than {MAX_COUNT} artifacts: the others are left out"})
                kind, dumps = "cut", lambda: text
            elif name:
                book.numbers[kind, name] = number
        post(task, kind, (task.task_loop_count - 1) * (MAX_COUNT + 1) + number, dumps)


def _number(what: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"context.artifact.{what} takes numbers, found {short(value)}") from None


def _cell(value: Any) -> Any:
    """A value as JSON has it: numbers, truth values and None as they are, anything else as a short text."""
    if value is None or isinstance(value, bool):
        return value
    try:  # NumPy's are numbers as well
        if isinstance(value, Integral):
            return int(value) if abs(int(value)) < 2**53 else str(value)
        if isinstance(value, Real) and math.isfinite(value):
            return float(value)
        return clean(str(value), MAX_CELL)
    except Exception:  # the user's class may do anything
        return short(value, MAX_CELL)


def _rows_of(rows: Any) -> tuple[Sequence[Any], list[Sequence[Any]], int | None]:
    """Names of columns, the first rows, and how many rows there are, if that is known."""
    columns = getattr(rows, "columns", None)
    if columns is not None and hasattr(rows, "head"):  # pandas, polars and those like them
        head, total = rows.head(MAX_ROWS), len(rows) if isinstance(rows, Sized) else None
        head = head.compute() if hasattr(head, "compute") else head
        found = head.iter_rows() if hasattr(head, "iter_rows") else head.itertuples(index=False, name=None)
        return [str(each) for each in columns], [tuple(row) for row in found], total
    if isinstance(rows, Mapping):
        rows = [{"": key, "value": value} for key, value in rows.items()]
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise TypeError(f"context.artifact.table takes rows (dicts, or sequences of values), found {short(rows)}")
    total = len(rows) if isinstance(rows, Sized) else None
    first = list(islice(rows, MAX_ROWS))
    if all(isinstance(row, Mapping) for row in first):
        names = list(dict.fromkeys(key for row in first for key in row))
        return names, [[row.get(key) for key in names] for row in first], total
    return [], [list(islice(row, MAX_COLUMNS)) if _is_row(row) else [row] for row in first], total


def _is_row(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _shown(figure: Any) -> tuple[str, bytes]:
    """What an object looks like: media type and bytes."""
    if isinstance(figure, (bytes, bytearray, memoryview)):
        data = bytes(figure)
        media = next((media for start, media in _SIGNATURES if data.lstrip()[:16].startswith(start)), None)
        if media is None:
            raise TypeError(f"context.artifact.image takes a PNG, JPEG, GIF, WebP or SVG, found {short(data[:16])}")
        return media, data
    for each in () if isinstance(figure, type) else (figure, getattr(figure, "figure", None)):
        if each is not None and callable(getattr(each, "savefig", None)):  # of Matplotlib, and what draws with it
            file = BytesIO()
            each.savefig(file, format="png")
            return "image/png", file.getvalue()
    for method, media in (*_REPRS, ("_repr_html_", "text/html")):
        if (found := _asked(figure, method)) is not None:
            return media, found
    bundle = _asked_bundle(figure)
    for media in (*(media for _, media in _REPRS), "text/html"):
        if media in bundle:
            found = bundle[media]
            return media, found if isinstance(found, bytes) else _bytes_of(str(found), media)
    raise TypeError(f"context.artifact.image takes bytes or a figure that can show itself, found {short(figure)}")


def _asked(figure: Any, method: str) -> bytes | None:
    """What an object shows notebooks by one of its methods; None if it has none, or wants to show nothing."""
    ask = getattr(type(figure), method, None)
    if ask is None:
        return None
    try:
        found = ask(figure)
    except Exception as error:  # a library that cannot draw here shows something else
        if method == "_repr_html_":
            raise TypeError(f"{short(figure)} cannot show itself: {message_of(error)}") from error
        return None
    found = found[0] if isinstance(found, tuple) else found
    return found.encode() if isinstance(found, str) else found if isinstance(found, bytes) else None


def _asked_bundle(figure: Any) -> Mapping[str, Any]:
    ask = getattr(type(figure), "_repr_mimebundle_", None)
    try:
        found = ask(figure) if ask is not None else {}
    except Exception:  # as above
        return {}
    found = found[0] if isinstance(found, tuple) else found
    return found if isinstance(found, Mapping) else {}


def _bytes_of(text: str, media: str) -> bytes:
    return base64.b64decode(text) if media in ("image/png", "image/jpeg") else text.encode()

"""Each map's elements as a square of cells, and how long they took. A cell of several shows the worst of them."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from bokeh.models import (
    Column,
    ColumnDataSource,
    Div,
    HoverTool,
    InlineStyleSheet,
    LinearColorMapper,
    Range1d,
    Row,
    Spacer,
)
from bokeh.plotting import figure
from numpy.typing import NDArray

from anabranch.base.states import BY_CODE
from anabranch.monitoring.pages.looks import INK, SEVERITY, STYLE, brief, look_of_code, safe
from anabranch.monitoring.pages.page_model import PageModel, PageNode
from anabranch.monitoring.pages.spans import BUCKETS_PER_DECADE, Durations

MAX_MAPS = 12  # squares; of more maps, those with failures come first
MAX_CELLS = 10_000  # of a square: 11 kB to send, and a hundred pixels a side
EVERY_S = 1.0  # between two pictures of a map
SIDE_PX = 165
MARKS_FROM = 400  # cells: where there are fewer, one is large enough
MAX_MARKS = 300

_RANKS = np.zeros(256, np.uint8)
for _rank, _code in enumerate(SEVERITY):
    _RANKS[_code] = _rank
_NOTHING = len(SEVERITY)
_FIRST_MARKED = SEVERITY.index(22)
_PALETTE = [look_of_code(code).fill for code in SEVERITY] + ["#ffffff00"]


def cells(codes: bytes | bytearray) -> tuple[NDArray[np.uint8], int]:
    """A map's states as a square of ranks in `SEVERITY`, the first element at the top left, and elements a cell."""
    each = max(1, math.ceil(len(codes) / MAX_CELLS))
    ranks = _RANKS[np.frombuffer(codes, np.uint8)]
    if each > 1:
        ranks = np.pad(ranks, (0, -len(ranks) % each)).reshape(-1, each).max(axis=1)
    side = max(1, math.ceil(math.sqrt(len(ranks))))
    square = np.full(side * side, _NOTHING, np.uint8)
    square[: len(ranks)] = ranks
    return square.reshape(side, side), each


class MapsFigure:
    """A card for each map."""

    def __init__(self, model: PageModel, sheet: InlineStyleSheet) -> None:
        self._model = model
        self._sheet = sheet
        self._cards: dict[str, _Card] = {}
        self._more = Div(text="", stylesheets=[sheet])
        self._row = Row(
            children=[Spacer(visible=False)],
            sizing_mode="stretch_width",
            styles={"flex-wrap": "wrap", "gap": "10px 18px"},
        )
        self.root = Column(children=[self._row, self._more], sizing_mode="stretch_width")
        self.update()

    @property
    def is_worth_it(self) -> bool:
        """Whether there is a map to be seen."""
        return bool(self._cards)

    def update(self) -> None:
        """Follow the model; a map at most once a second."""
        maps = [node for node in self._model.nodes.values() if node.width]
        wanted = sorted(maps, key=lambda node: not node.failed())
        for node in wanted:
            if node.slug not in self._cards and len(self._cards) < MAX_MAPS:
                self._cards[node.slug] = card = _Card(node, self._sheet)
                self._row.children = [*self._row.children, card.root]
        for slug, card in self._cards.items():
            card.update(self._model.nodes[slug], is_last=self._model.ended is not None)
        left = len(maps) - len(self._cards)
        text = f'<div class="none">… and {left:,} more maps, which are among the tasks above</div>' if left else ""
        if self._more.text != text:
            self._more.text = text


class _Card:
    """One map."""

    def __init__(self, node: PageNode, sheet: InlineStyleSheet) -> None:
        self._version = -1
        self._drawn_at = 0.0
        self._width = 0
        self._title = Div(text="", stylesheets=[sheet], disable_math=True, width=2 * SIDE_PX)
        self._image = ColumnDataSource({"image": [], "first": []})
        grid = figure(width=SIDE_PX, height=SIDE_PX, x_range=Range1d(0, 1), y_range=Range1d(0, 1), **_BARE)
        drawn = grid.image(
            "image", x=0, y=0, dw=1, dh=1, source=self._image,
            color_mapper=LinearColorMapper(palette=_PALETTE, low=0, high=_NOTHING),
        )  # fmt: skip
        self._marks = ColumnDataSource({"x": [], "y": [], "fill": []})
        grid.scatter("x", "y", size=7, fill_color="fill", line_color="#ffffff", line_width=1.2, source=self._marks)
        grid.axis.visible = grid.grid.visible = False
        grid.add_tools(HoverTool(renderers=[drawn], tooltips=[("element", "@first")], attachment="below"))
        self._times = Div(text="", stylesheets=[sheet], disable_math=True, width=SIDE_PX)
        self.root = Column(children=[self._title, Row(children=[grid, self._times])])

    def update(self, node: PageNode, *, is_last: bool) -> None:
        if node.version == self._version or (not is_last and time.monotonic() - self._drawn_at < EVERY_S):
            return
        self._version, self._drawn_at = node.version, time.monotonic()
        square, each = cells(node.codes)
        square = np.ascontiguousarray(square[::-1])  # Bokeh draws the first row at the bottom
        if node.width != self._width:
            self._width = node.width
            side = len(square)
            first = (np.arange(side * side, dtype=np.int32) * each).reshape(side, side)[::-1]
            data: Any = {"image": [square], "first": [np.ascontiguousarray(first)]}
            self._image.data = data
        else:
            patch: Any = {"image": [(0, square)]}
            self._image.patch(patch)
        self._mark(square)
        self._title.text = _title(node, each)
        text = histogram(node.durations)
        if self._times.text != text:
            self._times.text = text

    def _mark(self, square: NDArray[np.uint8]) -> None:
        """A mark on each cell with a failure: of ten thousand cells one is a pixel, which nobody finds."""
        rows, columns = np.nonzero(square >= _FIRST_MARKED)
        if square.size < MARKS_FROM or len(rows) > MAX_MARKS or not len(rows):
            rows = columns = rows[:0]
        shown = square[rows, columns] < _NOTHING
        side = len(square)
        marks: dict[str, Any] = {
            "x": ((columns[shown] + 0.5) / side).tolist(),
            "y": ((rows[shown] + 0.5) / side).tolist(),
            "fill": [_PALETTE[rank] for rank in square[rows, columns][shown]],
        }
        if dict(self._marks.data) != marks:
            self._marks.data = marks


_BARE: dict[str, Any] = {
    "tools": "", "toolbar_location": None, "min_border": 2, "outline_line_color": "#8a929c", "border_fill_alpha": 0,
    "background_fill_alpha": 0,
}  # fmt: skip


def histogram(durations: Durations) -> str:
    """How long elements took: a bar for each bucket, from the shortest to the longest, on a logarithmic scale."""
    bars = durations.bars()
    if not bars:
        return ""
    known = {round(math.log10(low) * BUCKETS_PER_DECADE): (low, high, count) for low, high, count in bars}
    top = max(count for _, _, count in bars)
    drawn = ""
    for bucket in range(min(known), max(known) + 1):
        low, high, count = known.get(bucket, (0.0, 0.0, 0))
        about = f' title="{count:,} elements, {brief(low)} to {brief(high)}"' if count else ""
        drawn += f'<i style="height:{100 * count / top:.0f}%"{about}></i>'
    ends = f"{brief(bars[0][0])}</span><span>{brief(min(bars[-1][1], durations.longest_s))}"
    return (
        f'<div class="hist">{drawn}</div><div class="faint" style="display:flex;justify-content:space-between;'
        f'font-size:12px"><span>{ends}</span></div><div class="faint" style="font-size:12px">time an element</div>'
    )


def _title(node: PageNode, each: int) -> str:
    counts = ", ".join(
        f"{n:,} {BY_CODE[code].__name__ if code else 'pending'}" for code, n in sorted(node.counts().items())
    )
    scale = f"; a cell is {each:,}, coloured by the worst" if each > 1 else ""
    took = node.durations
    times = f" · half within {brief(took.quantile(0.5))}, longest {brief(took.longest_s)}" if took.total else ""
    return (
        f'<div style="color:{INK}"><b>{safe(node.slug, 60)}</b> {node.width:,} elements{scale}</div>'
        f'<div class="faint" style="font-size:12.5px">{counts}{times}</div>'
    )


def style_sheet() -> InlineStyleSheet:
    """The style sheet that all texts of a page share."""
    return InlineStyleSheet(css=STYLE)

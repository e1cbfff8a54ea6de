"""The flow as a picture of boxes in layers, coloured by state, with each map's progress. It follows a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bokeh.core.property.vectorization import value
from bokeh.models import Column, ColumnDataSource, HoverTool, Range1d
from bokeh.plotting import figure

from anabranch.dashboard.layout import Layout, layered
from anabranch.dashboard.looks import FAINT, FONT, INK, SCROLLING, look_of_code, plain
from anabranch.dashboard.model import NodeModel, RunModel, is_failure
from anabranch.picture import ROLE_LOOKS
from anabranch.printable import seconds
from anabranch.states import BY_CODE, FIRST_FAILED_CODE, FIRST_FINAL_CODE, Pending, Running, Skipped, Success

BOX_W, BOX_H = 118, 38
LAYER_PX, ROW_PX = 152, 50
MARGIN = 16
MAX_WIDTH_PX = 9_000  # a canvas of more than 16,000 pixels, twice that on fine screens, is not drawn at all
TITLE = 17  # characters that fit into a box
GOOD, BAD, STRIP_REST = "#00795a", "#b84a00", "#c6d0da"
LEAST_BAD = 0.06  # of the strip: one failure of a million is seen
SYMBOLS = {"parameter": "◇ ", "condition": "? "}


@dataclass(slots=True)
class _Box:
    name: str
    title: str
    nodes: list[NodeModel] = field(default_factory=list)
    kind: str = "task"

    @property
    def is_group(self) -> bool:
        return self.kind == "group"


class GraphFigure:
    """A figure of the graph, in a box that scrolls sideways.

    Parameters
    ----------
    model
        The run.
    folded
        Whether each nested flow is one box.
    """

    def __init__(self, model: RunModel, *, folded: bool) -> None:
        self._boxes, edges = _boxes(model, folded=folded)
        layout = layered(list(self._boxes), edges)
        squeeze = min(1.0, MAX_WIDTH_PX / max(1.0, layout.layers * LAYER_PX))
        width = round(max(1, layout.layers) * LAYER_PX * squeeze) - (LAYER_PX - BOX_W) + 2 * MARGIN
        height = round(max(1.0, layout.rows) * ROW_PX) - (ROW_PX - BOX_H) + 2 * MARGIN
        self._seen: dict[str, int] = {}
        self._source = ColumnDataSource(self._columns(layout, squeeze))
        plot = figure(
            width=max(width, 200), min_width=max(width, 200), height=height, styles={"flex-shrink": "0"},
            x_range=Range1d(-MARGIN, width - MARGIN),
            y_range=Range1d(height - MARGIN, -MARGIN), tools="", toolbar_location=None, min_border=0,
            outline_line_color=None, background_fill_alpha=0, border_fill_alpha=0,
        )  # fmt: skip
        plot.axis.visible = False
        plot.grid.visible = False
        plot.bezier("x0", "y0", "x1", "y1", "cx0", "cy0", "cx1", "cy1", line_color="#a7afb9", line_width="lw",
                    source=ColumnDataSource(_curves(layout, squeeze)))  # fmt: skip
        boxes = plot.rect("x", "y", BOX_W, BOX_H, fill_color="fill", line_color="line", line_width="lw",
                          border_radius=6, source=self._source)  # fmt: skip
        for side in ("rest", "good", "bad"):
            plot.quad(left=f"{side}_l", right=f"{side}_r", top="strip_t", bottom="strip_b", line_color=None,
                      fill_color={"rest": STRIP_REST, "good": GOOD, "bad": BAD}[side], source=self._source)  # fmt: skip
        text = {"text_align": "center", "text_baseline": "middle", "text_font": value(FONT), "text_color": "ink",
                "source": self._source}  # fmt: skip
        plot.text("x", "title_y", text="title", text_font_size="12px", text_font_style="bold", **text)
        plot.text("x", "detail_y", text="detail", text_font_size="10.5px", **text)
        plot.add_tools(
            HoverTool(
                renderers=[boxes], tooltips=[("", "@name"), ("state", "@state"), ("", "@about")], attachment="below"
            )
        )
        self.root = Column(
            plot, sizing_mode="stretch_width",
            styles={**SCROLLING, "border": "1px solid #e3e7eb", "border-radius": "8px", "padding": "4px",
                    "box-sizing": "border-box"},
        )  # fmt: skip

    def update(self) -> None:
        """Send what has changed since the last time."""
        patches: dict[str, list[tuple[int, Any]]] = {}
        for place, box in enumerate(self._boxes.values()):
            version = sum(node.version for node in box.nodes)
            if self._seen.get(box.name) == version:
                continue
            self._seen[box.name] = version
            row = _row(box, self._source.data["x"][place], self._source.data["y"][place])
            for name, new in row.items():
                if self._source.data[name][place] != new:
                    patches.setdefault(name, []).append((place, new))
        if patches:
            self._source.patch(patches)

    def _columns(self, layout: Layout, squeeze: float) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        for box in self._boxes.values():
            x, y = _place(layout.places[box.name], squeeze)
            self._seen[box.name] = sum(node.version for node in box.nodes)
            for name, each in {"x": x, "y": y, **_row(box, x, y)}.items():
                columns.setdefault(name, []).append(each)
        return columns or {name: [] for name in ("x", "y", *_row(_Box("", ""), 0.0, 0.0))}


def _boxes(model: RunModel, *, folded: bool) -> tuple[dict[str, _Box], list[tuple[str, str]]]:
    boxes: dict[str, _Box] = {}
    home: dict[str, str] = {}
    for node in model.nodes.values():
        groups = node.shape.groups
        if folded and groups:
            name = f"\1{groups[0]}"  # beside a node of that name
            box = boxes.setdefault(name, _Box(name, groups[0], kind="group"))
        else:
            name = node.slug
            box = boxes.setdefault(name, _Box(name, node.slug, kind=node.shape.kind))
        box.nodes.append(node)
        home[node.slug] = name
    edges = [
        (home[edge.upstream], home[edge.downstream])
        for edge in model.shape.edges
        if edge.upstream in home and edge.downstream in home
    ]
    return boxes, edges


def _place(place: tuple[float, float], squeeze: float) -> tuple[float, float]:
    return BOX_W / 2 + place[0] * LAYER_PX * squeeze, BOX_H / 2 + place[1] * ROW_PX


def _curves(layout: Layout, squeeze: float) -> Mapping[str, Sequence[float]]:
    """One Bézier for each stretch of each edge: level where it leaves a box, so that neighbours do not touch."""
    columns: dict[str, list[float]] = {k: [] for k in ("x0", "y0", "x1", "y1", "cx0", "cy0", "cx1", "cy1", "lw")}
    seen: set[tuple[tuple[float, float], tuple[float, float]]] = set()
    for route in layout.routes.values():
        points = [_place(point, squeeze) for point in route]
        for i in range(len(points) - 1):
            (x0, y0), (x1, y1) = points[i], points[i + 1]
            x0 += BOX_W / 2 if i == 0 else 0
            x1 -= BOX_W / 2 if i == len(points) - 2 else 0
            if ((x0, y0), (x1, y1)) in seen:
                continue
            seen.add(((x0, y0), (x1, y1)))
            bend = (x1 - x0) / 2
            row = {"x0": x0, "y0": y0, "x1": x1, "y1": y1, "cx0": x0 + bend, "cy0": y0, "cx1": x1 - bend, "cy1": y1,
                   "lw": 1.2}  # fmt: skip
            for name, each in row.items():
                columns[name].append(each)
    return columns


def _row(box: _Box, x: float, y: float) -> dict[str, Any]:
    total: Counter[int] = Counter()
    for node in box.nodes:
        total.update(node.counts())
    code = _code_of(box)
    is_given = box.kind == "parameter" and code in (Pending.code, Success.code)  # it is neither run nor recorded
    look = ROLE_LOOKS["parameter"] if is_given else look_of_code(code)
    width, well = total.total(), sum(n for c, n in total.items() if FIRST_FINAL_CODE <= c < FIRST_FAILED_CODE)
    failed = sum(n for c, n in total.items() if is_failure(c))
    has_strip = box.is_group or any(node.width for node in box.nodes)
    left, room = x - BOX_W / 2 + 5, BOX_W - 10
    bad = 0.0 if not failed else max(LEAST_BAD, failed / max(1, width))
    good = min(1.0 - bad, well / max(1, width))
    ends = [left, left + room * bad, left + room * (bad + max(0.0, good)), left + room] if has_strip else [left] * 4
    symbol = (
        "▤ "
        if box.is_group
        else (f"{look.symbol} " if code != Pending.code and not is_given else SYMBOLS.get(box.kind, ""))
    )
    detail = _detail(box, code, total)
    return {
        "name": plain(box.title, 200),
        "title": plain(f"{symbol}{box.title}", TITLE),
        "detail": detail,
        "state": "parameter" if is_given else BY_CODE[code].__name__,
        "about": _about(box, total),
        "fill": look.fill,
        "ink": look.ink,
        "line": INK if any(node.shape.is_map for node in box.nodes) else FAINT,
        "lw": 2.2 if any(node.shape.is_map for node in box.nodes) else 1.0,
        "title_y": y - (6 if detail else 0) - (4 if has_strip else 0),
        "detail_y": y + (4 if has_strip else 8),
        "strip_t": y + BOX_H / 2 - 7,
        "strip_b": y + BOX_H / 2 - 3,
        "bad_l": ends[0],
        "bad_r": ends[1],
        "good_l": ends[1],
        "good_r": ends[2],
        "rest_l": ends[2],
        "rest_r": ends[3],
    }


def _code_of(box: _Box) -> int:
    codes = [node.code for node in box.nodes]
    if not codes:
        return Pending.code
    if len(codes) == 1:
        return codes[0]
    bad = [code for code in codes if code >= FIRST_FAILED_CODE]
    if bad:
        return min(bad)
    if all(code >= FIRST_FINAL_CODE for code in codes):
        return min(code for code in codes if code != Skipped.code) if set(codes) != {Skipped.code} else Skipped.code
    return Running.code if any(codes) else Pending.code


def _detail(box: _Box, code: int, total: Counter[int]) -> str:
    width, failed = total.total(), sum(n for c, n in total.items() if c >= FIRST_FAILED_CODE)
    if box.is_group or any(node.width for node in box.nodes):
        done = sum(n for c, n in total.items() if c >= FIRST_FINAL_CODE)
        return f"{done:,}/{width:,}" + (f" ✗{failed:,}" if failed else "")
    if box.nodes and box.nodes[0].shape.is_map:
        return "× n"  # the sign, as in drawings
    if code >= FIRST_FINAL_CODE and code not in (10, 12):
        return BY_CODE[code].__name__
    node = box.nodes[0] if box.nodes else None
    took = node.durations.seconds if node is not None and node.durations.total == 1 else None
    return seconds(took) if took is not None and took >= 0.001 else ""


def _about(box: _Box, total: Counter[int]) -> str:
    if box.is_group:
        return f"{len(box.nodes)} nodes of a nested flow"
    parts = [f"{n:,} {BY_CODE[code].__name__}" for code, n in sorted(total.items())] if total.total() > 1 else []
    return plain("; ".join([*parts, *(node.message for node in box.nodes if node.message and not parts)]), 300)

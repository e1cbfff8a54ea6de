"""Tasks as rows: what share of each is done, and when it ran. Two figures whose rows are the same."""

from __future__ import annotations

from typing import Any

from bokeh.core.property.vectorization import value
from bokeh.models import ColumnDataSource, FactorRange, HoverTool, NumeralTickFormatter, Range1d, Row
from bokeh.plotting import figure

from anabranch.base.states import BY_CODE, FIRST_FAILED_CODE, Failed, Pending, Running, Success
from anabranch.monitoring.pages.looks import FAINT, FONT, INK, SCROLLING, SEVERITY, brief, disarm, look_of_code
from anabranch.monitoring.pages.page_model import PageModel, PageNode

MAX_ROWS = 60  # more are neither read nor drawn at speed
ROW_PX = 20
LEAST_BAD = 0.015  # of a bar: nine failures of ten thousand are seen
BUSY = ("#9fd3f3", "#56b4e9", "#2b86c0")  # from idle to busy; failures have their own colour
MAX_NAME = 30
BAR_PX, BAR_RANGE = 320, 1.95  # with the text behind it: "1,234,567/2,000,000  ✗ 1,234"
LETTER_PX = 6.3  # of names, more or less


class RowsFigure:
    """Progress bars and a timeline, one row a task."""

    def __init__(self, model: PageModel) -> None:
        self._model = model
        self._version = -1
        self._labels: dict[str, str] = {}
        self._factors = FactorRange(factors=[], range_padding=0.02)
        self._bars = ColumnDataSource({"row": [], "left": [], "right": [], "fill": [], "what": []})
        self._texts = ColumnDataSource({"row": [], "text": []})
        self._spans = ColumnDataSource({"row": [], "left": [], "right": [], "fill": [], "what": []})
        self._marks = ColumnDataSource({"row": [], "x": []})
        self._seconds = Range1d(0, 1)
        common: dict[str, Any] = {
            "y_range": self._factors, "tools": "", "toolbar_location": None, "min_border_top": 4, "height": 200,
            "outline_line_color": None, "border_fill_alpha": 0, "background_fill_alpha": 0,
        }  # fmt: skip
        self._progress = figure(width=BAR_PX, styles={"flex-shrink": "0"}, x_range=Range1d(0, BAR_RANGE), **common)
        bars = self._progress.hbar("row", left="left", right="right", height=0.62, fill_color="fill", line_color=None,
                                   source=self._bars)  # fmt: skip
        self._progress.text(1.03, "row", text="text", text_font=value(FONT), text_font_size="11.5px", text_color=INK,
                            text_baseline="middle", source=self._texts)  # fmt: skip
        self._progress.xaxis.visible = False
        self._progress.min_border_bottom = 40
        self._timeline = figure(
            x_range=self._seconds, sizing_mode="stretch_width", min_width=340, min_border_bottom=40, **common
        )
        spans = self._timeline.hbar("row", left="left", right="right", height=0.62, fill_color="fill", line_color=None,
                                    source=self._spans)  # fmt: skip
        bad = look_of_code(Failed.code).fill
        self._timeline.scatter("x", "row", marker="inverted_triangle", size=8, fill_color=bad, line_color="#ffffff",
                               source=self._marks)  # fmt: skip
        self._timeline.yaxis.visible = False
        for plot, drawn in ((self._progress, bars), (self._timeline, spans)):
            plot.grid.grid_line_color = None
            plot.axis.axis_line_color = plot.axis.major_tick_line_color = plot.axis.minor_tick_line_color = None
            plot.axis.major_label_text_font = FONT
            plot.axis.major_label_text_color = INK
            plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("", "@row"), ("", "@what")], attachment="below"))
        self._timeline.xgrid.grid_line_color = "#e3e7eb"
        self._timeline.xaxis.major_label_text_color = FAINT
        self._timeline.xaxis.axis_label = "seconds since the run began"
        self._timeline.xaxis.axis_label_text_font_style = "normal"
        self._timeline.xaxis.axis_label_text_color = FAINT
        self.root = Row(children=[self._progress, self._timeline], sizing_mode="stretch_width", styles=SCROLLING)
        self.update()

    def update(self) -> None:
        """Follow the model."""
        model = self._model
        if model.version == self._version and model.ended is not None:
            return
        self._version = model.version
        nodes = choose_nodes(model)
        for node in nodes:
            if node.slug not in self._labels:
                label = disarm(node.slug, MAX_NAME)
                taken = set(self._labels.values())
                self._labels[node.slug] = label if label not in taken else f"{label} ({len(taken)})"
        factors = [self._labels[node.slug] for node in reversed(nodes)]
        if self._factors.factors != factors:
            self._factors.factors = factors
            self._progress.height = self._timeline.height = max(110, ROW_PX * len(factors) + 52)
            longest = max(map(len, factors), default=0)
            self._progress.width = self._progress.min_width = BAR_PX + 20 + round(LETTER_PX * longest)
        self._draw_bars(nodes)
        self._draw_spans(nodes)

    def _draw_bars(self, nodes: list[PageNode]) -> None:
        columns: dict[str, list[Any]] = {"row": [], "left": [], "right": [], "fill": [], "what": []}
        texts: dict[str, list[Any]] = {"row": [], "text": []}
        for node in nodes:
            row, at = self._labels[node.slug], 0.0
            for code, share, count in _shares(node):
                cells = (row, at, at + share, look_of_code(code).fill, f"{count:,} {_name_code(code)}")
                for name, cell in zip(columns, cells, strict=True):
                    columns[name].append(cell)
                at += share
            texts["row"].append(row)
            texts["text"].append(_label_node(node))
        _replace(self._bars, columns)
        _replace(self._texts, texts)

    def _draw_spans(self, nodes: list[PageNode]) -> None:
        model = self._model
        columns: dict[str, list[Any]] = {"row": [], "left": [], "right": [], "fill": [], "what": []}
        end = max(model.elapsed_s + (model.began or model.origin) - model.origin, 0.05)
        marks: dict[str, list[Any]] = {"row": [], "x": []}
        for node in nodes:
            row = self._labels[node.slug]
            for left, right, fill in self._stretches(node, end):
                wide = max(min(right, end), left + end / 400)  # never thinner than can be seen
                for name, cell in zip(columns, (row, left, wide, fill, _render_span(left, right)), strict=True):
                    columns[name].append(cell)
            for x in node.busy.marks() if node.width else ():
                marks["row"].append(row)
                marks["x"].append(min(x, end))
        _replace(self._spans, columns)
        _replace(self._marks, marks)
        if end > 120 and not isinstance(self._timeline.xaxis[0].formatter, NumeralTickFormatter):
            self._timeline.xaxis.formatter = NumeralTickFormatter(format="00:00:00")
            self._timeline.xaxis.axis_label = "time since the run began"
        if self._seconds.end != end:
            self._seconds.end = end

    def _stretches(self, node: PageNode, end: float) -> list[tuple[float, float, str]]:
        """Start, end and colour: of a map how busy it was when, of anything else the time that it took."""
        if node.width and (found := node.busy.stretches(len(BUSY))):
            return [(left, right, BUSY[level - 1]) for left, right, level in found]
        if node.began is None or node.code == Pending.code:
            return []
        start = max(0.0, node.began - self._model.origin)
        if not node.is_done:
            return [(start, end, BUSY[1] if node.code == Running.code else look_of_code(node.code).fill)]
        stop = max(start, (node.ended or node.began) - self._model.origin)
        return [(start, stop, look_of_code(node.code).fill)]


def choose_nodes(model: PageModel) -> list[PageNode]:
    """Nodes that have rows, in the order of the flow: all if they are few, else those most worth a look."""
    nodes = model.tasks()
    if len(nodes) <= MAX_ROWS:
        return nodes
    chosen = {node.slug for node in sorted(nodes, key=_rank_page_node)[:MAX_ROWS]}
    return [node for node in nodes if node.slug in chosen]


def _rank_page_node(node: PageNode) -> tuple[int, float]:
    if node.failed():
        return (0, -node.failed())
    if node.code and not node.is_done:
        return (1, 0.0)
    return (2, -node.durations.seconds)


def _shares(node: PageNode) -> list[tuple[int, float, int]]:
    """Code, share of the bar and count of each state, what failed first; failures are never too thin to be seen."""
    counts = node.counts()
    total = sum(counts.values()) or 1
    order = sorted(counts, key=lambda code: -SEVERITY.index(code))
    order = [c for c in order if c >= FIRST_FAILED_CODE] + sorted(c for c in order if 0 < c < FIRST_FAILED_CODE)[::-1]
    order += [Pending.code] if Pending.code in counts else []
    wide = {c: max(counts[c] / total, LEAST_BAD if c >= FIRST_FAILED_CODE else 0.0) for c in order}
    scale = sum(wide.values()) or 1.0
    return [(code, wide[code] / scale, counts[code]) for code in order]


def _name_code(code: int) -> str:
    return BY_CODE[code].__name__


def _label_node(node: PageNode) -> str:
    if not node.width:
        return _name_code(node.code) if node.code not in (Pending.code, Success.code) else _render_duration(node)
    failed, done, waiting = node.failed(), node.done(), node.retrying()
    parts = [f"{done:,}/{node.width:,}" if done < node.width else f"{done:,}"]
    parts += [f"✗ {failed:,}"] if failed else []
    parts += [f"↻ {waiting:,}"] if waiting else []
    return "  ".join(parts)


def _render_duration(node: PageNode) -> str:
    return brief(node.durations.seconds) if node.durations.total and node.code != Running.code else ""


def _render_span(left: float, right: float) -> str:
    return f"{left:.2f} s to {right:.2f} s"


def _replace(source: ColumnDataSource, columns: dict[str, list[Any]]) -> None:
    """Give a source new columns if they are new: what is equal costs the browser a redraw all the same."""
    if dict(source.data) != columns:
        source.data = columns

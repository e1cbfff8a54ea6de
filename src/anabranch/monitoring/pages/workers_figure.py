"""Workers as lanes: when each had something to do, and how much of the run's time that was."""

from __future__ import annotations

from typing import Any

from bokeh.models import Column, ColumnDataSource, Div, FactorRange, HoverTool, InlineStyleSheet, Range1d
from bokeh.plotting import figure

from anabranch.base.states import Failed
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.looks import FAINT, FONT, INK, disarm, look_of_code, safe
from anabranch.monitoring.pages.page_model import PageModel

MAX_LANES = 40
LANE_PX = 22
BUSY = ("#b7ddf5", "#7cc3ec", "#2b86c0")


class WorkersFigure:
    """A lane for each worker, and a table of what they did."""

    def __init__(self, model: PageModel, sheet: InlineStyleSheet) -> None:
        self._model = model
        self._version = -1
        self._lanes = FactorRange(factors=[])
        self._source = ColumnDataSource({"lane": [], "left": [], "right": [], "fill": [], "what": []})
        self._end = Range1d(0, 1)
        self._table = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        plot = figure(
            y_range=self._lanes, x_range=self._end, tools="", toolbar_location=None, sizing_mode="stretch_width",
            height=150, outline_line_color=None, border_fill_alpha=0, background_fill_alpha=0, min_border_bottom=40,
        )  # fmt: skip
        bars = plot.hbar("lane", left="left", right="right", height=0.66, fill_color="fill", line_color=None,
                         source=self._source)  # fmt: skip
        self._marks = ColumnDataSource({"lane": [], "x": []})
        plot.scatter("x", "lane", marker="inverted_triangle", size=8, fill_color=look_of_code(Failed.code).fill,
                     line_color="#ffffff", source=self._marks)  # fmt: skip
        plot.grid.grid_line_color = None
        plot.xgrid.grid_line_color = "#e3e7eb"
        plot.axis.axis_line_color = plot.axis.major_tick_line_color = plot.axis.minor_tick_line_color = None
        plot.axis.major_label_text_font = FONT
        plot.yaxis.major_label_text_color = INK
        plot.xaxis.major_label_text_color = plot.xaxis.axis_label_text_color = FAINT
        plot.xaxis.axis_label = "seconds since the run began"
        plot.xaxis.axis_label_text_font_style = "normal"
        plot.add_tools(HoverTool(renderers=[bars], tooltips=[("", "@lane"), ("", "@what")], attachment="below"))
        self._plot = plot
        self.root = Column(children=[plot, self._table], sizing_mode="stretch_width")
        self.update()

    def update(self) -> None:
        """Follow the model."""
        model = self._model
        if model.version == self._version:
            return
        self._version = model.version
        names = sorted(model.workers)
        shown = names[:MAX_LANES]
        labels = {name: disarm(name or "this process", 44) for name in shown}
        if len(set(labels.values())) < len(labels):
            labels = {name: f"{label} ({i})" for i, (name, label) in enumerate(labels.items())}
        factors = [labels[name] for name in reversed(shown)]
        if self._lanes.factors != factors:
            self._lanes.factors = factors
            self._plot.height = max(120, LANE_PX * len(factors) + 60)
        columns: dict[str, list[Any]] = {"lane": [], "left": [], "right": [], "fill": [], "what": []}
        marks: dict[str, list[Any]] = {"lane": [], "x": []}
        end = max(model.elapsed_s, 0.05)
        for name in shown:
            for left, right, level in model.workers[name].stretches(len(BUSY)):
                what = f"{left:.2f} s to {right:.2f} s"
                cells = (labels[name], left, max(right, left + end / 500), BUSY[level - 1], what)
                for column, cell in zip(columns, cells, strict=True):
                    columns[column].append(cell)
            for x in model.workers[name].marks():
                marks["lane"].append(labels[name])
                marks["x"].append(min(x, end))
        self._source.data = columns
        self._marks.data = marks
        if self._end.end != end:
            self._end.end = end
        self._table.text = _render_workers(model, names)


def _render_workers(model: PageModel, names: list[str]) -> str:
    if not names:
        return '<div class="none">no worker has reported yet</div>'
    rows = []
    for name in names[:MAX_LANES]:
        busy = sum(model.workers[name].busy)
        share = busy / model.elapsed_s if model.elapsed_s else 0.0
        rows.append(
            f'<tr><td>{safe(name or "this process", 80)}</td><td class="n">{model.worker_units[name]:,}</td>'
            f'<td class="n">{seconds(busy)}</td><td class="n">{share:.0%}</td></tr>'
        )
    more = f'<div class="none">… and {len(names) - MAX_LANES:,} more</div>' if len(names) > MAX_LANES else ""
    return (
        '<div class="scroll"><table><thead><tr><th>worker</th><th class="n">pieces of work</th><th class="n">busy</th>'
        f'<th class="n">of the run</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>{more}'
    )

"""A flow's page: how its last runs ended, how long they took, and with which versions."""

from __future__ import annotations

from collections import Counter

from bokeh.models import Column, ColumnDataSource, Div, HoverTool
from bokeh.plotting import figure

from anabranch.dashboard.library import Library
from anabranch.dashboard.looks import FAINT, FONT, LINE, look_of_code, plain, safe
from anabranch.dashboard.maps_figure import style_sheet
from anabranch.dashboard.runs_page import CODES, run_table, state_chip
from anabranch.errors import RunStoreError
from anabranch.printable import seconds
from anabranch.runs import RunQuery, RunRecord
from anabranch.states import Cancelled

RUNS = 100
LISTED = 25


class FlowPage:
    """The history of one flow."""

    def __init__(self, library: Library, name: str) -> None:
        sheet = style_sheet()
        self._library = library
        self._name = name
        self._seen: list[tuple[str, str]] | None = None
        self._head = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._table = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._source = ColumnDataSource({"x": [], "top": [], "fill": [], "run": [], "took": [], "state": []})
        plot = figure(
            height=220, sizing_mode="stretch_width", tools="", toolbar_location=None, outline_line_color=None,
            border_fill_alpha=0, background_fill_alpha=0,
        )  # fmt: skip
        bars = plot.vbar("x", top="top", width=0.82, fill_color="fill", line_color=None, source=self._source)
        plot.y_range.start = 0
        plot.xgrid.grid_line_color = None
        plot.ygrid.grid_line_color = "#e3e7eb"
        plot.xaxis.major_label_text_color = plot.yaxis.major_label_text_color = FAINT
        plot.axis.axis_label_text_color = FAINT
        plot.axis.axis_label_text_font_style = "normal"
        plot.axis.axis_label_text_font = plot.axis.major_label_text_font = FONT
        plot.axis.axis_line_color = LINE
        plot.axis.minor_tick_line_color = plot.axis.major_tick_line_color = None
        plot.xaxis.axis_label, plot.yaxis.axis_label = "runs, the newest at the right", "seconds"
        plot.xaxis.ticker = []
        plot.add_tools(HoverTool(renderers=[bars], tooltips=[("run", "@run"), ("took", "@took"), ("state", "@state")]))
        self.root = Column(children=[self._head, plot, self._table], sizing_mode="stretch_width")
        self.update()

    def update(self) -> None:
        """Ask the store anew."""
        try:
            found = self._library.runs(RunQuery(flow_name=self._name, limit=RUNS))
        except RunStoreError as error:
            self._head.text = f'<div class="notice">{safe(error, 1_000)}</div>'
            return
        seen = [(record.run_id, record.state) for record in found]
        if seen == self._seen:
            return
        self._seen = seen
        self._head.text = self._head_text(found)
        self._table.text = run_table(found[:LISTED], with_flow=False)
        ended = [record for record in reversed(found) if record.end is not None]
        took = [(record.end - record.start).total_seconds() for record in ended if record.end is not None]
        self._source.data = {
            "x": list(range(len(ended))),
            "top": took,
            "fill": [look_of_code(CODES.get(record.state, Cancelled.code)).fill for record in ended],
            "run": [plain(record.run_id) for record in ended],
            "took": [seconds(each) for each in took],
            "state": [plain(record.state) for record in ended],
        }

    def _head_text(self, found: list[RunRecord]) -> str:
        states = Counter(record.state for record in found)
        chips = "".join(
            state_chip(state).replace("</span>", f" {n:,}</span>", 1) for state, n in sorted(states.items())
        )
        versions = sorted({record.flow_version for record in found if record.flow_version})
        told = f'<div class="faint">versions: {safe(", ".join(versions), 300)}</div>' if versions else ""
        last = self._library.record(found[0].run_id) if found else None
        if last is not None and last.details is not None and last.details.versions:
            used = ", ".join(f"{name} {version}" for name, version in last.details.versions.items())
            told += f'<div class="faint">the last run used {safe(used, 300)}</div>'
        return (
            f'<div class="head"><h1>{safe(self._name, 200)}</h1>'
            f'<span class="faint">flow, last {len(found):,} runs</span><a href="./">all runs</a></div>'
            f'<div class="chips">{chips}</div>{told}'
        )

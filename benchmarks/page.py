"""The measurements as one HTML file: the table, and cost against width."""

from __future__ import annotations

import html
from pathlib import Path

from bokeh.embed import file_html
from bokeh.layouts import column
from bokeh.models import Div
from bokeh.plotting import figure
from bokeh.resources import INLINE

from benchmarks.rows import Row

OURS, BARE = "#0072b2", "#d55e00"  # told apart by colour-blind readers too


def write_page(path: Path, rows: list[Row], about: dict[str, str]) -> None:
    """Write the page; it needs no network."""
    path.write_text(file_html(column(_table(rows, about), _plot(rows)), INLINE, title="anabranch: measurements"))


def _plot(rows: list[Row]) -> figure:
    found = [row for row in rows if row.width and row.seconds and row.bare_seconds]
    plot = figure(
        title="Map of a no-op and a sum: seconds against width",
        x_axis_type="log",
        y_axis_type="log",
        x_axis_label="elements",
        y_axis_label="seconds",
        width=760,
        height=460,
        toolbar_location=None,
    )
    widths = [row.width for row in found]
    for label, colour, values in (
        ("anabranch", OURS, [row.seconds for row in found]),
        ("client.map (beyond 10,000: extrapolated)", BARE, [row.bare_seconds for row in found]),
    ):
        plot.line(widths, values, line_width=2, color=colour, legend_label=label)
        plot.scatter(widths, values, size=8, color=colour, legend_label=label)
    plot.legend.location = "top_left"
    return plot


def _table(rows: list[Row], about: dict[str, str]) -> Div:
    words = {True: "met", False: "<b>not met</b>", None: ""}
    body = "".join(
        f"<tr><td>{html.escape(row.name)}</td><td>{html.escape(row.figure)}</td>"
        f"<td>{html.escape(row.goal)}</td><td>{words[row.is_met]}</td></tr>"
        for row in rows
    )
    facts = " · ".join(html.escape(f"{name}: {value}") for name, value in about.items())
    return Div(
        text=f"<h1>anabranch beside bare Dask</h1><p>{facts}</p><table cellpadding=6 border=0>"
        f"<tr align=left><th>workload</th><th>seen</th><th>goal</th><th></th></tr>{body}</table>",
        width=1100,
    )

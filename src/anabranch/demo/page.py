"""The corpus as one HTML file: four plots, the largest packages, the most complex functions, the failed files.

The file needs no network. Whatever comes from file names or messages is escaped: by Jinja in the page, by Bokeh in the
plots. Bokeh and Jinja are imported when a page is made, as importing a flow must not cost a second.
"""

from __future__ import annotations

import math
import platform
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from anabranch.demo.summary import PackageSummary, Summary, percent, printable, quantile

if TYPE_CHECKING:
    from bokeh.plotting import figure

_TEMPLATE = files("anabranch.demo").joinpath("page.html").read_text(encoding="utf-8")
"""Read now: where this module has been shipped to, its files have not."""

_BARS = 20
"""Packages in the bar chart: as many as can be read beside their bars."""
_ROWS = 40
"""Packages in the table."""
_FAILURES = 1_000
"""Failed files in the table; the JSON file has them all."""
_NAMED = 14
"""Packages named in the scatter plot; the others say theirs when pointed at."""

_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_INK, _MUTED, _LINE = "#1f2733", "#667085", "#e4e7ec"
_KINDS = {"code": "#2f6db3", "docs": "#3aa76d", "comments": "#e2a63b", "blank": "#d3d8e0"}
_BLUES = ["#dceaf7", "#c0daf0", "#9dc6e6", "#75aed9", "#5093c8", "#3478b5", "#205d9c", "#12437c", "#0a2b57"]
_HEAT = ["#2f6db3", "#6a98c4", "#a3bccb", "#d9cfa6", "#e8b65a", "#d98a35", "#ad5a22"]
"""Blue to brown, which look different to everybody."""


def render_page(summary: Summary, *, now: datetime) -> str:
    """The whole page as HTML.

    Parameters
    ----------
    summary
        What to show.
    now
        When it was made, for the page's head.
    """
    from bokeh.embed import file_html
    from bokeh.resources import INLINE
    from bokeh.themes import Theme
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_TEMPLATE)
    plots = [lines_plot(summary), coverage_plot(summary), lengths_plot(summary), shapes_plot(summary)]
    shown = [plot for plot in plots if plot is not None]
    variables = {
        "summary": summary,
        "total": summary.total,
        "made": f"{now:%Y-%m-%d %H:%M} {now.tzname() or ''}".strip(),
        "python": platform.python_version(),
        "plots": {plot.name for plot in shown},
        "kinds": Counter(failure.kind for failure in summary.failures).most_common(),
        "rows": summary.packages[:_ROWS],
        "rest": len(summary.packages) - _ROWS,
        "widest": max((package.lines for package in summary.packages), default=0),
        "failures": summary.failures[:_FAILURES],
        "unshown": len(summary.failures) - _FAILURES,
        "largest_share": _largest_share(summary),
        "documented_best": _documented_best(summary),
        "lengths": summary.function_lines(),
        "complexities": summary.function_complexity(),
        "colours": _KINDS,
        "percent": percent,
        "printable": printable,
        "quantile": quantile,
    }
    # Without a plot there is nothing for Bokeh to draw, and it refuses an empty list.
    if not shown:
        return template.render(title="Corpus", bokeh_css="", bokeh_js="", plot_script="", roots={}, **variables)
    html: str = file_html(
        shown, INLINE, title="Corpus", template=template, template_variables=variables, theme=Theme(json=_theme())
    )
    return html


def lines_plot(summary: Summary) -> figure | None:
    """Lines of the largest packages, by what they hold."""
    from bokeh.models import HoverTool

    largest = [package for package in summary.packages[:_BARS] if package.lines]
    if not largest:
        return None
    names = unique_names(largest)
    plot = _figure("lines", y_range=names[::-1], x_range=(0, largest[0].lines * 1.04), tooltips=None)
    data = {
        "name": names,
        **{kind: [getattr(package, kind) for package in largest] for kind in _KINDS},
        "lines": [package.lines for package in largest],
        "files": [package.files for package in largest],
    }
    bars = plot.hbar_stack(
        list(_KINDS), y="name", height=0.74, color=list(_KINDS.values()), line_color=None, source=_source(data)
    )
    tooltips = [("package", "@name"), ("files", "@files{0,0}"), ("lines", "@lines{0,0}")]
    tooltips += [(kind, f"@{kind}{{0,0}}") for kind in _KINDS]
    plot.add_tools(HoverTool(renderers=list(bars), tooltips=tooltips))
    plot.xaxis.formatter = _thousands()
    plot.xaxis.axis_label = "lines"
    plot.ygrid.visible = False
    plot.yaxis.major_tick_line_color = None
    return plot


def coverage_plot(summary: Summary) -> figure | None:
    """Each package by its size and the part of its public definitions that have a docstring."""
    from bokeh.core.properties import value
    from bokeh.models import HoverTool, LinearColorMapper, NumeralTickFormatter
    from bokeh.models.annotations import LabelSet

    shown = [package for package in summary.packages if package.lines and package.documentable]
    if not shown:
        return None
    x_range = (shown[-1].lines / 1.6, shown[0].lines * 2.5)
    total = summary.total
    plot = _figure("coverage", x_axis_type="log", x_range=x_range, y_range=(-0.05, 1.09), tooltips=None)
    source = _source(
        {
            "name": [printable(package.name) for package in shown],
            "lines": [package.lines for package in shown],
            "coverage": [package.docstring_coverage for package in shown],
            "documented": [package.documented for package in shown],
            "documentable": [package.documentable for package in shown],
            "complexity": [package.mean_complexity or 1.0 for package in shown],
            "size": [_dot_size(package, total) for package in shown],
        }
    )
    # Colours end at 6: above that a mean is rare, and the difference no longer matters.
    mapper = LinearColorMapper(palette=_HEAT, low=1, high=6)
    dots = plot.scatter(
        "lines",
        "coverage",
        size="size",
        source=source,
        fill_color={"field": "complexity", "transform": mapper},
        fill_alpha=0.78,
        line_color="white",
        line_width=0.8,
    )
    tooltips = [
        ("package", "@name"),
        ("lines", "@lines{0,0}"),
        ("docstrings", "@documented{0,0} of @documentable{0,0} (@coverage{0 %})"),
        ("complexity", "@complexity{0.0}"),
    ]
    plot.add_tools(HoverTool(renderers=[dots], tooltips=tooltips))
    named = spread_out(shown, _NAMED)
    labels = {
        "name": [printable(package.name) for package in named],
        "lines": [package.lines for package in named],
        "coverage": [package.docstring_coverage for package in named],
        "above": [_dot_size(package, total) / 2 + 1 for package in named],
    }
    names = LabelSet(
        x="lines", y="coverage", text="name", source=_source(labels), y_offset="above", text_align="center",
        text_font=value(_FONT), text_font_size="11px", text_color=_INK,
    )  # fmt: skip
    plot.add_layout(names)
    plot.add_layout(_colour_bar(mapper, "mean complexity of a function", ticks=range(1, 7)), "above")
    plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    plot.yaxis.axis_label = "public definitions with a docstring"
    plot.xaxis.formatter = _thousands()
    plot.xaxis.axis_label = "lines"
    return plot


def lengths_plot(summary: Summary) -> figure | None:
    """How many functions have how many lines, each bin half as wide again as the last."""
    from bokeh.core.properties import value
    from bokeh.models import NumeralTickFormatter, Range1d

    counts = summary.function_lines()
    if not counts:
        return None
    edges = bin_edges(max(counts), per_doubling=2)
    names = [str(low) if high - low == 1 else f"{low}–{high - 1}" for low, high in pairwise(edges)]
    sums = binned(counts, edges)
    total = sum(sums)
    marks = {name: quantile(counts, part) for name, part in (("median", 0.5), ("90 %", 0.9), ("99 %", 0.99))}
    tooltips = [
        ("lines", "@name"),
        ("functions", "@count{0,0}"),
        ("share", "@share{0.0 %}"),
        ("up to here", "@upto{0.0 %}"),
    ]
    plot = _figure("lengths", x_range=names, tooltips=tooltips)
    shares = [count / total for count in sums]
    data = {"name": names, "count": sums, "share": shares, "upto": list(accumulate(shares))}
    plot.vbar(x="name", top="share", width=0.86, color=_KINDS["code"], line_color=None, source=_source(data))
    top = max(shares)
    plot.y_range = Range1d(start=0, end=top * 1.22)
    for place, (name, lines) in enumerate(marks.items()):
        at = bisect_right(edges, lines) - 1
        low, high = edges[at], edges[at + 1]
        # Place on the axis of names: bin number `at` reaches from `at` to `at + 1`.
        x = at + (lines - low + 0.5) / (high - low)
        # Two marks may fall into one bin; each has a height of its own.
        height = top * (1.16 - 0.1 * place)
        plot.segment(x0=x, x1=x, y0=0, y1=height, line_color=_INK, line_dash=[4, 3], line_width=1.2)
        plot.text(
            x=[x], y=[height], text=[f"{name}: {lines:,}"], x_offset=5, y_offset=4, text_baseline="middle",
            text_font=value(_FONT), text_font_size="12px", text_color=_INK,
        )  # fmt: skip
    plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    plot.yaxis.axis_label = "functions"
    plot.xaxis.axis_label = "lines of a function"
    plot.xaxis.major_label_orientation = 0.7
    plot.xgrid.visible = False
    return plot


def shapes_plot(summary: Summary) -> figure | None:
    """How many functions have which length and which complexity, as a heat map on logarithmic axes."""
    from bokeh.models import FixedTicker, LogColorMapper

    if not summary.shapes:
        return None
    across = bin_edges(max(lines for lines, _, _ in summary.shapes), per_doubling=3)
    up = bin_edges(max(complexity for _, complexity, _ in summary.shapes), per_doubling=3)
    cells: Counter[tuple[int, int]] = Counter()
    for lines, complexity, count in summary.shapes:
        cells[bisect_right(across, lines) - 1, bisect_right(up, complexity) - 1] += count
    tooltips = [("lines", "@lines"), ("complexity", "@complexity"), ("functions", "@count{0,0}")]
    plot = _figure(
        "shapes", x_axis_type="log", y_axis_type="log", x_range=(1, across[-1]), y_range=(1, up[-1]), tooltips=tooltips
    )
    data = {
        "left": [across[x] for x, _ in cells],
        "right": [across[x + 1] for x, _ in cells],
        "bottom": [up[y] for _, y in cells],
        "top": [up[y + 1] for _, y in cells],
        "lines": [_interval(across, x) for x, _ in cells],
        "complexity": [_interval(up, y) for _, y in cells],
        "count": list(cells.values()),
    }
    mapper = LogColorMapper(palette=_BLUES, low=1, high=max(max(cells.values()), 10))
    plot.quad(
        left="left", right="right", bottom="bottom", top="top", source=_source(data),
        fill_color={"field": "count", "transform": mapper}, line_color="white", line_width=0.6,
    )  # fmt: skip
    decades = [10**power for power in range(len(str(mapper.high)))]
    plot.add_layout(_colour_bar(mapper, "functions", ticks=decades), "above")
    plot.xaxis.axis_label = "lines of a function"
    plot.yaxis.axis_label = "its complexity"
    plot.xaxis.formatter = plot.yaxis.formatter = _thousands()
    plot.xaxis.ticker = plot.yaxis.ticker = FixedTicker(ticks=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000])
    return plot


def bin_edges(largest: int, *, per_doubling: int) -> list[int]:
    """Edges of bins for whole numbers from 1, each bin wider than the last by the same factor.

    Examples
    --------
    >>> bin_edges(20, per_doubling=2)
    [1, 2, 3, 4, 6, 8, 11, 16, 23]
    """
    edges = [1]
    power = 1
    while edges[-1] <= largest:
        edge = round(2 ** (power / per_doubling))
        if edge > edges[-1]:
            edges.append(edge)
        power += 1
    return edges


def binned(counts: Mapping[int, int], edges: Sequence[int]) -> list[int]:
    """How many values lie in each bin; a bin holds its lower edge, not its upper one.

    Examples
    --------
    >>> binned({1: 5, 2: 7, 3: 1}, [1, 2, 4])
    [5, 8]
    """
    sums = [0] * (len(edges) - 1)
    for value, count in counts.items():
        sums[bisect_right(edges, value) - 1] += count
    return sums


def spread_out(packages: Sequence[PackageSummary], number: int) -> list[PackageSummary]:
    """The first packages whose names, written at their place in the scatter plot, do not cover each other."""
    named: list[PackageSummary] = []
    for package in packages:
        if len(named) == number:
            break
        if all(_apart(package, other) for other in named):
            named.append(package)
    return named


def unique_names(packages: Sequence[PackageSummary]) -> list[str]:
    """Names to stand on an axis, where each may be there once; escaping may have made two of them equal."""
    seen: Counter[str] = Counter()
    names = []
    for package in packages:
        name = printable(package.name)
        name = name if len(name) <= 28 else f"{name[:27]}…"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _apart(one: PackageSummary, other: PackageSummary) -> bool:
    across = abs(math.log10(one.lines) - math.log10(other.lines))
    up = abs((one.docstring_coverage or 0) - (other.docstring_coverage or 0))
    # Half the width of both names: a decade is about twelve letters wide.
    return up > 0.055 or across > (len(one.name) + len(other.name)) / 2 / 12


def _dot_size(package: PackageSummary, total: PackageSummary) -> float:
    """Diameter in the scatter plot, in pixels: four times the functions are four times the area."""
    return 5 + 42 * math.sqrt(package.functions / max(total.functions, 1))


def _interval(edges: Sequence[int], place: int) -> str:
    low, high = edges[place], edges[place + 1] - 1
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _largest_share(summary: Summary) -> float | None:
    lines = summary.total.lines
    return sum(package.lines for package in summary.packages[:10]) / lines if lines else None


def _documented_best(summary: Summary) -> PackageSummary | None:
    """Of the packages with at least one part in five hundred of all lines, the best documented."""
    least = summary.total.lines / 500
    large = [package for package in summary.packages if package.documentable and package.lines >= least]
    return max(large, key=lambda package: package.docstring_coverage or 0, default=None)


def _figure(name: str, **options: Any) -> figure:  # the options are those of `bokeh.plotting.figure`
    from bokeh.plotting import figure

    plot = figure(
        name=name,
        height=440,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,reset,save",
        active_drag=None,
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    return plot


def _colour_bar(mapper: Any, title: str, *, ticks: Sequence[int]) -> Any:  # Bokeh's mapper and bar, imported here only
    from bokeh.models import FixedTicker
    from bokeh.models.annotations import ColorBar

    return ColorBar(
        color_mapper=mapper,
        title=title,
        width=220,
        height=8,
        padding=4,
        margin=0,
        ticker=FixedTicker(ticks=list(ticks)),
        formatter=_thousands(),
    )


def _source(data: Mapping[str, Any]) -> Any:  # a ColumnDataSource, imported here only
    from bokeh.models import ColumnDataSource

    return ColumnDataSource(dict(data))


def _thousands() -> Any:  # a NumeralTickFormatter, imported here only
    from bokeh.models import NumeralTickFormatter

    return NumeralTickFormatter(format="0,0")


def _theme() -> dict[str, object]:
    return {
        "attrs": {
            "Plot": {"background_fill_color": None, "border_fill_color": None, "outline_line_color": None},
            "Grid": {"grid_line_color": _LINE},
            "Axis": {
                "axis_line_color": None,
                "major_tick_line_color": "#c3c9d4",
                "minor_tick_line_color": None,
                "axis_label_text_color": _MUTED,
                "axis_label_text_font": _FONT,
                "axis_label_text_font_size": "12px",
                "axis_label_text_font_style": "normal",
                "major_label_text_color": _INK,
                "major_label_text_font": _FONT,
                "major_label_text_font_size": "12px",
            },
            "BaseColorBar": {
                "background_fill_color": None,
                "bar_line_color": None,
                "major_tick_line_color": None,
                "title_text_font_size": "12px",
                "major_label_text_font_size": "11px",
                "title_text_font": _FONT,
                "title_text_font_style": "normal",
                "title_text_color": _MUTED,
                "major_label_text_font": _FONT,
                "major_label_text_color": _INK,
            },
        }
    }

"""A flow's page: how its last runs ended, how long they took, and with which versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from bokeh.models import Column, ColumnDataSource, Div, HoverTool, UIElement
from bokeh.plotting import figure

from anabranch.base.errors import AnabranchError, FlowNotRegistered, RunStoreError
from anabranch.base.states import Cancelled
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.looks import FAINT, FONT, LINE, disarm, look_of_code, safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.runs_page import CODES, run_table, state_chip
from anabranch.runs import RunQuery, RunRecord
from anabranch.runs.registry.seal import schedule_of
from anabranch.runs.store.flows import FlowRecord

TIMES = 5

RUNS = 100
LISTED = 25


def registration(flow: FlowRecord, now: datetime | None = None) -> str:
    """Version, schedule and next times of a registered flow, as HTML.

    Parameters
    ----------
    now
        After which times are told; None is this machine's clock.
    """
    facts = [("version", f"{flow.version:,}" + (f" (registered {_render_time(flow.changed)})" if flow.changed else ""))]
    if flow.schedule_text:
        facts.append(("schedule", flow.schedule_words + (", which rests" if flow.paused else "")))
        facts.append(("next", _next(flow, now or datetime.now(UTC))))
    if flow.overlap != "allow":
        facts.append(("overlap", flow.overlap))
    if flow.max_runs is not None:
        facts.append(("runs at a time", f"{flow.max_runs:,}"))
    if flow.labels:
        facts.append(("labels", ", ".join(flow.labels)))
    if flow.project:
        facts.append(("project", flow.project))
    facts.append(("code", flow.source or ("in the registry" if flow.storage is None else "in flow storage")))
    return _render_facts(facts)


def _next(flow: FlowRecord, now: datetime) -> str:
    if flow.paused:
        return "none while the schedule is paused"
    try:
        schedule = schedule_of(flow, may_load=False)
        times = schedule.next(TIMES, after=now) if schedule is not None else []
    except AnabranchError as error:
        return str(error)
    return ", ".join(map(_render_time, times)) or "none any more"


def _render_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def _render_facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><td><b>{safe(name)}</b></td><td>{safe(text, 1_000)}</td></tr>" for name, text in facts)
    return f'<table style="max-width:900px"><tbody>{rows}</tbody></table>'


class FlowPage:
    """The history of one flow, and what is registered of it."""

    def __init__(self, library: Library, name: str, *, role: str = "") -> None:
        sheet = style_sheet()
        self._role = role
        self._library = library
        self._name = name
        self._seen: list[tuple[str, str]] | None = None
        self._registered = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._versions = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._head = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._table = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._source = ColumnDataSource({"x": [], "top": [], "fill": [], "run": [], "took": [], "state": []})
        plot = figure(
            height=220, sizing_mode="stretch_width", tools="", toolbar_location=None, outline_line_color=None,
            border_fill_alpha=0, background_fill_alpha=0,
        )  # fmt: skip
        bars = plot.vbar("x", top="top", width=0.82, fill_color="fill", line_color=None, source=self._source)
        plot.y_range.start = 0
        self._plot = plot
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
        self.root = Column(children=self._parts([]), sizing_mode="stretch_width")
        self.update()

    def _parts(self, ended: list[RunRecord]) -> list[UIElement]:
        """What the page has; no picture of nothing, for which a browser finds no ranges."""
        picture = [self._plot] if ended else []
        return [self._head, self._registered, *picture, self._versions, self._table]

    def update(self) -> None:
        """Ask the store anew."""
        try:
            self._update_registered()
            found = self._library.runs(RunQuery(flow_name=self._name, limit=RUNS))
        except RunStoreError as error:
            self._head.text = f'<div class="notice">{safe(error, 1_000)}</div>'
            return
        seen = [(record.run_id, record.state) for record in found]
        if seen == self._seen:
            return
        self._seen = seen
        self._head.text = self._head_text(found)
        self._table.text = f"<h2>Runs</h2>{run_table(found[:LISTED], with_flow=False)}"
        self._versions.text = version_table(found)
        ended = [record for record in reversed(found) if record.end is not None]
        took = [(record.end - record.start).total_seconds() for record in ended if record.end is not None]
        self._source.data = {
            "x": list(range(len(ended))),
            "top": took,
            "fill": [look_of_code(CODES.get(record.state, Cancelled.code)).fill for record in ended],
            "run": [disarm(record.run_id) for record in ended],
            "took": [seconds(each) for each in took],
            "state": [disarm(record.state) for record in ended],
        }
        parts = self._parts(ended)
        if self.root.children != parts:
            self.root.children = parts

    def _update_registered(self) -> None:
        registry, text = self._library.registry(), ""
        if registry is not None:
            with suppress(FlowNotRegistered):
                flow = registry.get(self._name)
                desk = self._library.desk
                links = (
                    desk.flow_links(flow.name, self._role, paused=flow.paused if flow.schedule_text else None)
                    if desk is not None
                    else ()
                )
                linked = " ".join(f'<a href="{safe(url, 2_000)}">{safe(each)}</a>' for url, each in links)
                text = f"<p>{linked}</p>{registration(flow)}"
        if self._registered.text != text:
            self._registered.text = text

    def _head_text(self, found: list[RunRecord]) -> str:
        states = Counter(record.state for record in found)
        chips = "".join(
            state_chip(state).replace("</span>", f" {n:,}</span>", 1) for state, n in sorted(states.items())
        )
        told = ""
        last = self._library.record(found[0].run_id) if found else None
        if last is not None and last.details is not None and last.details.versions:
            used = ", ".join(f"{name} {version}" for name, version in last.details.versions.items())
            told += f'<div class="faint">the last run used {safe(used, 300)}</div>'
        return (
            f'<div class="head"><h1>{safe(self._name, 200)}</h1>'
            f'<span class="faint">flow, last {len(found):,} runs</span><a href="./">all runs</a></div>'
            f'<div class="chips">{chips}</div>{told}'
        )


def version_table(records: list[RunRecord]) -> str:
    """Which code ran when, and how that went, as HTML: the newest first. Nothing where no run has told."""
    known: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.flow_version:
            known.setdefault(record.flow_version, []).append(record)
    if not known:
        return ""
    rows = "".join(
        f"<tr><td><code>{safe(version, 40)}</code></td><td>{found[-1].start.astimezone():%Y-%m-%d %H:%M:%S}</td>"
        f'<td>{found[0].start.astimezone():%Y-%m-%d %H:%M:%S}</td><td class="n">{len(found):,}</td>'
        f'<td class="n">{sum(each.state == "Success" for each in found):,}</td></tr>'
        for version, found in known.items()
    )
    return (
        '<h2>Code of these runs</h2><div class="scroll"><table><thead><tr><th>code</th><th>first run</th>'
        '<th>last run</th><th class="n">runs</th><th class="n">successful</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )

"""A flow's page: how its last runs ended, how long they took, and with which versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from bokeh.models import Column, Div, Spacer

from anabranch.base.errors import AnabranchError, FlowNotRegistered, RunStoreError
from anabranch.base.states import Cancelled
from anabranch.base.texts import seconds
from anabranch.definition.shape import Shape, ShapeEdge, ShapeNode, shape_from
from anabranch.monitoring.pages.graph_figure import GraphFigure
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.lists import PAGE, Search, turning
from anabranch.monitoring.pages.looks import look_of_code, safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.runs_page import CODES, run_table, state_chip
from anabranch.runs import RunQuery, RunRecord
from anabranch.runs.read.lookup import facts_of
from anabranch.runs.registry.seal import schedule_of
from anabranch.runs.store.flows import FlowRecord

TIMES = 5

RUNS = 100


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
    if flow.timeout_s is not None:
        facts.append(("a run may take", seconds(flow.timeout_s)))
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
    rows = "".join(
        f'<tr><td class="t"><b>{safe(name)}</b></td><td>{safe(text, 1_000)}</td></tr>' for name, text in facts
    )
    return f'<table style="max-width:900px"><tbody>{rows}</tbody></table>'


class FlowPage:
    """The history of one flow, and what is registered of it."""

    def __init__(self, library: Library, name: str, *, role: str = "", search: Search | None = None) -> None:
        self._search = search or Search()
        sheet = style_sheet()
        self._role = role
        self._library = library
        self._name = name
        self._seen: list[tuple[str, str]] | None = None
        self._revision: object = None
        self._flow: FlowRecord | None = None
        self._drawn = (Shape(), "")
        self._registered = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._versions = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._head = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._table = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._bars = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._graph = Column(children=[Spacer(visible=False)], sizing_mode="stretch_width")
        parts = [self._head, self._registered, self._graph, self._bars, self._versions, self._table]
        self.root = Column(children=[*parts], sizing_mode="stretch_width")
        self.update()

    def update(self) -> None:
        """Ask the store anew."""
        try:
            self._update_registered()
            found = self._library.runs(RunQuery(flow_name=self._name, limit=RUNS))
        except RunStoreError as error:
            self._head.text = f'<div class="notice">{safe(error, 1_000)}</div>'
            return
        if not found:
            self._show_graph(None)
        seen = [(record.run_id, record.state) for record in found]
        if seen == self._seen:
            return
        self._seen = seen
        self._head.text = self._head_text(found)
        shown = found[:PAGE] if self._search.page == 1 else self._library.runs(self._query(PAGE))
        has_more = bool(self._library.runs(self._query(1, self._search.offset + PAGE)))
        turn = turning(self._search, "flow", has_more=has_more, name=self._name)
        self._table.text = f"<h2>Runs</h2>{run_table(shown, with_flow=False)}{turn}"
        self._versions.text = version_table(found)
        self._bars.text = duration_bars([record for record in reversed(found) if record.end is not None])

    def _query(self, limit: int, offset: int | None = None) -> RunQuery:
        first = self._search.offset if offset is None else offset
        return RunQuery(flow_name=self._name, limit=limit, offset=first)

    def _update_registered(self) -> None:
        registry, text, desk = self._library.registry(), "", self._library.desk
        if registry is not None and (revision := registry.revision()) != self._revision:
            self._revision, self._flow = revision, None
            with suppress(FlowNotRegistered):
                self._flow = registry.get(self._name)
        if (flow := self._flow) is not None:
            paused = flow.paused if flow.schedule_text else None
            links = desk.flow_links(flow.name, self._role, paused=paused) if desk is not None else ()
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
        self._show_graph(last)
        if last is not None and last.details is not None and last.details.versions:
            used = ", ".join(f"{name} {version}" for name, version in last.details.versions.items())
            told += f'<div class="faint">the last run used {safe(used, 300)}</div>'
        return (
            f'<div class="head"><h1>{safe(self._name, 200)}</h1>'
            f'<span class="faint">flow, last {len(found):,} runs</span><a href="./">all runs</a></div>'
            f'<div class="chips">{chips}</div>{told}'
        )

    def _show_graph(self, last: RunRecord | None) -> None:
        """Show the graph of the last run, or if there is none, the registered one."""
        shape = shape_from(facts_of(last).get("shape")) if last is not None else Shape()
        if not shape.nodes and self._flow is not None:
            shape = _registered_shape(self._flow.graph)
        drawn = (shape, last.run_id if last is not None else "")
        if drawn != self._drawn:
            self._drawn, model = drawn, PageModel(shape)
            model.run_id = drawn[1]
            self._graph.children = [
                GraphFigure(model, folded=False, has_panel=True).root if shape.nodes else Spacer(visible=False)
            ]


def _registered_shape(graph: Mapping[str, Any]) -> Shape:
    """The graph that was registered; none if another version has written it otherwise."""
    with suppress(TypeError, ValueError, KeyError):
        nodes = [ShapeNode(each["slug"], each["kind"], each["is_map"]) for each in graph["nodes"]]
        known = {node.slug for node in nodes}
        edges = (ShapeEdge(tail, head, kind) for tail, head, kind in graph["edges"] if {tail, head} <= known)
        return Shape(tuple(nodes), tuple(dict.fromkeys(edges)))
    return Shape()


def duration_bars(records: Sequence[RunRecord]) -> str:
    """How long runs took, and how they ended, as HTML: a bar each, the newest at the right; a table says the same."""
    if not records:
        return ""
    took = [each.took_s or 0.0 for each in records]
    top = max(*took, 0.001)
    bars = "".join(
        f'<a href="run?id={quote(each.run_id, safe="")}" title="{safe(each.run_id)}: {safe(each.state)}, '
        f'{seconds(time)}"'
        f' tabindex="-1" style="height:{100 * time / top:.0f}%;'
        f'background:{look_of_code(CODES.get(each.state, Cancelled.code)).fill}"></a>'
        for each, time in zip(records, took, strict=True)
    )
    return (
        f'<div class="runs" aria-hidden="true">{bars}</div><div class="faint">how long the last {len(records):,} runs '
        f"took, the newest at the right; the longest {seconds(top)}</div>"
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
        f"<tr><td><code>{safe(version, 40)}</code></td>"
        f'<td class="t">{found[-1].start.astimezone():%Y-%m-%d %H:%M:%S}</td>'
        f'<td class="t">{found[0].start.astimezone():%Y-%m-%d %H:%M:%S}</td><td class="n">{len(found):,}</td>'
        f'<td class="n">{sum(each.state == "Success" for each in found):,}</td></tr>'
        for version, found in known.items()
    )
    return (
        '<h2>Code of these runs</h2><div class="scroll" tabindex="0"><table><thead><tr><th>code</th><th>first run</th>'
        '<th>last run</th><th class="n">runs</th><th class="n">successful</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )

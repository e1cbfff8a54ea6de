"""The list of registered flows: found by text, a page at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from urllib.parse import quote

from bokeh.models import Column, Div

from anabranch.base.errors import AnabranchError, RunStoreError
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.lists import PAGE, Search, search_form, turning
from anabranch.monitoring.pages.looks import safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.runs_page import state_chip
from anabranch.runs import RunQuery, RunRecord
from anabranch.runs.registry.seal import schedule_of
from anabranch.runs.store.flows import FlowRecord

LAST = 30  # runs of a flow that are counted


class FlowsPage:
    """A table of flows with a search."""

    def __init__(self, library: Library, search: Search | None = None) -> None:
        sheet = style_sheet()
        self._library = library
        self._search = search or Search()
        self._revision: object = None
        self._flows: list[FlowRecord] = []
        self._nexts: dict[str, datetime | None] = {}
        """When flows run next, as far as it was looked up."""
        head = '<div class="head"><h1>Flows</h1><a href="./">all runs</a></div>'
        form = search_form(self._search, hint="flow, project or label")
        self._form = Div(text=head + form, stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._table = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self.root = Column(children=[self._form, self._table], sizing_mode="stretch_width")
        self.update()

    def update(self) -> None:
        """Ask the registry whether something has changed; all flows are read only then."""
        registry = self._library.registry()
        try:
            if registry is not None and (revision := registry.revision()) != self._revision:
                self._flows, self._revision, self._nexts = registry.all(), revision, {}
            found = [each for each in self._flows if self._search.text.lower() in _text_to_search(each)]
            first = min(self._search.offset, max(0, len(found) - 1) // PAGE * PAGE)
            search = replace(self._search, page=first // PAGE + 1)
            shown = found[first : first + PAGE]
            lasts = [self._library.runs(RunQuery(flow_name=each.name, limit=LAST)) for each in shown]
        except RunStoreError as error:
            self._table.text = f'<div class="notice">{safe(error, 1_000)}</div>'
            return
        text = "".join(_render_broken(file, why) for file, why in sorted(self._library.broken().items()))
        text += _render_flows(shown, lasts, [self._next(each) for each in shown], len(found)) + turning(
            search, "flows", has_more=len(found) > first + PAGE
        )
        if self._table.text != text:
            self._table.text = text

    def _next(self, flow: FlowRecord) -> str:
        if not flow.schedule_text or flow.paused:
            return "paused" if flow.paused and flow.schedule_text else ""
        now = datetime.now(UTC)
        if flow.name not in self._nexts or (self._nexts[flow.name] or now) < now:
            try:
                schedule = schedule_of(flow, may_load=False)
                self._nexts[flow.name] = next(iter(schedule.next(1, after=now)), None) if schedule is not None else None
            except AnabranchError as error:
                return safe(error, 120)
        moment = self._nexts[flow.name]
        return f"{moment:%Y-%m-%d %H:%M:%S %Z}" if moment is not None else "none any more"


def _render_broken(file: str, why: str) -> str:
    text = f"{file} cannot be registered, and its flows stay registered as they were: {why}"
    return f'<div class="notice">{safe(text, 1_000)}</div>'


def _text_to_search(flow: FlowRecord) -> str:
    return "\n".join((flow.name, flow.project, *flow.labels)).lower()


def _render_flows(flows: list[FlowRecord], lasts: list[list[RunRecord]], nexts: list[str], count: int) -> str:
    if not flows:
        return '<div class="none">no such flows; anabranch register FILE adds some</div>'
    rows = "".join(
        f'<tr><td><a href="flow?name={quote(each.name, safe="")}">{safe(each.name, 80)}</a></td>'
        f"<td>{_render_last(last)}</td><td>{_success(last)}</td><td>{duration_trend(last)}</td><td>{following}</td>"
        f"<td>{safe(each.project, 60)}</td><td>{safe(', '.join(each.labels), 80)}</td>"
        f'<td class="n">{each.version}</td>'
        f"<td>{safe(each.schedule_words, 120)}</td></tr>"
        for each, last, following in zip(flows, lasts, nexts, strict=True)
    )
    return (
        f'<div class="faint">{count:,} flows</div><div class="scroll"><table class="cards"><thead><tr><th>flow</th>'
        "<th>last run</th>"
        f"<th>succeeded of the last {LAST}</th><th>took</th><th>next run</th><th>project</th>"
        f'<th>labels</th><th class="n">version</th><th>schedule</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _render_last(last: list[RunRecord]) -> str:
    if not last:
        return '<span class="faint">none</span>'
    run = quote(last[0].run_id, safe="")
    return f'<a href="run?id={run}">{state_chip(last[0].state)}</a> {last[0].start.astimezone():%Y-%m-%d %H:%M:%S}'


def _success(last: list[RunRecord]) -> str:
    ended = [each for each in last if each.end is not None]
    return f"{sum(each.state == 'Success' for each in ended):,} of {len(ended):,}" if ended else ""


def duration_trend(last: list[RunRecord]) -> str:
    """How long runs took, as a line from the oldest to the newest, with its words, as HTML.

    Parameters
    ----------
    last
        The newest first; those that have not succeeded are left out.
    """
    took = [each.took_s or 0.0 for each in reversed(last) if each.state == "Success"]
    if not took:
        return ""
    words = f"{len(took):,} successful runs took {seconds(min(took))} to {seconds(max(took))}"
    words += f", half of them at most {seconds(median(took))}; the last took {seconds(took[-1])}"
    top = max(*took, 0.001)
    points = " ".join(f"{80 * i / max(1, len(took) - 1):.1f},{19 - 18 * each / top:.1f}" for i, each in enumerate(took))
    line = f'<polyline points="{points}"/>' if len(took) > 1 else ""
    return (
        f'<svg class="trend" viewBox="-1 0 82 20" role="img" aria-label="{safe(words)}"><title>{safe(words)}</title>'
        f"{line}</svg> {seconds(took[-1])}"
    )

"""The list of registered flows: found by text, a page at a time."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

from bokeh.models import Column, Div

from anabranch.base.errors import RunStoreError
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.lists import PAGE, Search, search_form, turning
from anabranch.monitoring.pages.looks import safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.runs_page import state_chip
from anabranch.runs import RunQuery, RunRecord
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
                self._flows, self._revision = registry.all(), revision
            found = [each for each in self._flows if self._search.text.lower() in _text_to_search(each)]
            first = min(self._search.offset, max(0, len(found) - 1) // PAGE * PAGE)
            search = replace(self._search, page=first // PAGE + 1)
            shown = found[first : first + PAGE]
            lasts = [self._library.runs(RunQuery(flow_name=each.name, limit=LAST)) for each in shown]
        except RunStoreError as error:
            self._table.text = f'<div class="notice">{safe(error, 1_000)}</div>'
            return
        text = "".join(_render_broken(file, why) for file, why in sorted(self._library.broken().items()))
        text += _render_flows(shown, lasts, len(found)) + turning(search, "flows", has_more=len(found) > first + PAGE)
        if self._table.text != text:
            self._table.text = text


def _render_broken(file: str, why: str) -> str:
    text = f"{file} cannot be registered, and its flows stay registered as they were: {why}"
    return f'<div class="notice">{safe(text, 1_000)}</div>'


def _text_to_search(flow: FlowRecord) -> str:
    return "\n".join((flow.name, flow.project, *flow.labels)).lower()


def _render_flows(flows: list[FlowRecord], lasts: list[list[RunRecord]], count: int) -> str:
    if not flows:
        return '<div class="none">no such flows; anabranch register FILE adds some</div>'
    rows = "".join(
        f'<tr><td><a href="flow?name={quote(each.name, safe="")}">{safe(each.name, 80)}</a></td>'
        f"<td>{_render_last(last)}</td><td>{_success(last)}</td>"
        f"<td>{safe(each.project, 60)}</td><td>{safe(', '.join(each.labels), 80)}</td>"
        f'<td class="n">{each.version}</td>'
        f"<td>{'rests' if each.paused else safe(each.schedule_words, 120)}</td></tr>"
        for each, last in zip(flows, lasts, strict=True)
    )
    return (
        f'<div class="faint">{count:,} flows</div><div class="scroll"><table class="cards"><thead><tr><th>flow</th>'
        "<th>last run</th>"
        f"<th>succeeded of the last {LAST}</th><th>project</th>"
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

"""The list of runs: newest first, found by text and state, a page at a time."""

from __future__ import annotations

from urllib.parse import quote

from bokeh.models import Column, Div

from anabranch.base.errors import RunStoreError
from anabranch.base.states import BY_CODE, Cancelled, Crashed
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.lists import PAGE, Search, search_form, turning
from anabranch.monitoring.pages.looks import safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.texts import mark
from anabranch.runs import INTERRUPTED, RunQuery, RunRecord

CODES = {cls.__name__: code for code, cls in BY_CODE.items()} | {INTERRUPTED: Crashed.code}
STATES = ("Running", "Success", "Failed", "Cancelled", "Crashed", "Paused", INTERRUPTED)


class RunsPage:
    """A table of runs with a search."""

    def __init__(self, library: Library, search: Search | None = None) -> None:
        sheet = style_sheet()
        self._library = library
        self._search = search or Search()
        self._head = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        form = search_form(self._search, hint="flow, id, label or message", states=STATES)
        self._form = Div(text=form, stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._table = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self.root = Column(children=[self._head, self._form, self._table], sizing_mode="stretch_width")
        self.update()

    def update(self) -> None:
        """Ask the store anew."""
        search = self._search
        query = RunQuery(text=search.text or None, state=search.state or None, limit=PAGE + 1, offset=search.offset)
        try:
            found = self._library.runs(query)
        except RunStoreError as error:
            self._table.text = f'<div class="notice">{safe(error, 1_000)}</div>'
            return
        desk = self._library.desk
        told = safe(desk.counts()) if desk is not None else ""
        head = f'<div class="head"><h1>Runs</h1><a href="flows">flows</a><span class="faint">{told}</span></div>'
        if self._head.text != head:
            self._head.text = head
        text = run_table(found[:PAGE]) + turning(search, "", has_more=len(found) > PAGE)
        if self._table.text != text:
            self._table.text = text


def run_table(records: list[RunRecord], *, with_flow: bool = True) -> str:
    """Runs as HTML, each with a link to its page."""
    if not records:
        return '<div class="none">no such runs</div>'
    flow_head = "<th>flow</th>" if with_flow else ""
    return (
        f'<div class="scroll"><table class="cards"><thead><tr><th>run</th>{flow_head}<th>state</th><th>began</th>'
        f'<th class="n">took</th><th>message</th></tr></thead><tbody>'
        f"{''.join(_line(record, with_flow=with_flow) for record in records)}</tbody></table></div>"
    )


def _line(record: RunRecord, *, with_flow: bool) -> str:
    took = seconds(record.took_s) if record.took_s is not None else ""
    name = quote(record.flow_name, safe="")
    flow = f'<td><a href="flow?name={name}">{safe(record.flow_name, 80)}</a></td>' if with_flow else ""
    return (
        f'<tr><td><a href="run?id={quote(record.run_id, safe="")}">{safe(record.run_id, 60)}</a></td>{flow}'
        f'<td>{state_chip(record.state)}</td><td class="t">{record.start.astimezone():%Y-%m-%d %H:%M:%S}</td>'
        f'<td class="n">{took}</td><td>{safe(record.message if record.state != "Success" else "", 120)}</td></tr>'
    )


def state_chip(state: str) -> str:
    """A recorded run's state in its colour."""
    return mark(CODES.get(state, Cancelled.code), safe(state, 30))

"""The list of runs: newest first, found by text, flow or state, a page at a time."""

from __future__ import annotations

from urllib.parse import quote

from bokeh.models import Button, Column, Div, Row, Select, TextInput

from anabranch.base.errors import RunStoreError
from anabranch.base.states import BY_CODE, Cancelled, Crashed
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.looks import safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.texts import mark
from anabranch.runs import INTERRUPTED, RunQuery, RunRecord

PAGE = 25
CODES = {cls.__name__: code for code, cls in BY_CODE.items()} | {INTERRUPTED: Crashed.code}
STATES = ("any state", "Running", "Success", "Failed", "Cancelled", "Crashed", "Paused")


class RunsPage:
    """A table of runs with a search box."""

    def __init__(self, library: Library) -> None:
        sheet = style_sheet()
        self._library = library
        self._offset = 0
        self._text = TextInput(placeholder="flow, id, label or message", width=280)
        self._state = Select(value=STATES[0], options=list(STATES), width=140)
        self._newer = Button(label="Newer", width=90, disabled=True)
        self._older = Button(label="Older", width=90, disabled=True)
        self._table = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._head = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        self._text.on_change("value", self._search)
        self._state.on_change("value", self._search)
        self._newer.on_click(lambda: self._turn(-PAGE))
        self._older.on_click(lambda: self._turn(PAGE))
        controls = [self._text, self._state, self._newer, self._older]
        self.root = Column(
            children=[self._head, Row(children=controls, styles={"flex-wrap": "wrap"}), self._table],
            sizing_mode="stretch_width",
        )
        self.update()

    def _search(self, attr: str, old: object, new: object) -> None:
        self._turn(-self._offset)

    def _turn(self, by: int) -> None:
        self._offset = max(0, self._offset + by)
        self.update()

    def update(self) -> None:
        """Ask the store anew."""
        state = self._state.value if self._state.value != STATES[0] else None
        query = RunQuery(text=self._text.value or None, state=state, limit=PAGE + 1, offset=self._offset)
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
        text = run_table(found[:PAGE])
        if self._table.text != text:
            self._table.text = text
        self._newer.disabled = self._offset == 0
        self._older.disabled = len(found) <= PAGE


def run_table(records: list[RunRecord], *, with_flow: bool = True) -> str:
    """Runs as HTML, each with a link to its page."""
    if not records:
        return '<div class="none">no such runs</div>'
    flow_head = "<th>flow</th>" if with_flow else ""
    return (
        f'<div class="scroll"><table><thead><tr><th>run</th>{flow_head}<th>state</th><th>began</th>'
        f'<th class="n">took</th><th>message</th></tr></thead><tbody>'
        f"{''.join(_line(record, with_flow=with_flow) for record in records)}</tbody></table></div>"
    )


def _line(record: RunRecord, *, with_flow: bool) -> str:
    took = seconds((record.end - record.start).total_seconds()) if record.end else ""
    name = quote(record.flow_name, safe="")
    flow = f'<td><a href="flow?name={name}">{safe(record.flow_name, 80)}</a></td>' if with_flow else ""
    return (
        f'<tr><td><a href="run?id={quote(record.run_id, safe="")}">{safe(record.run_id, 60)}</a></td>{flow}'
        f"<td>{state_chip(record.state)}</td><td>{record.start.astimezone():%Y-%m-%d %H:%M:%S}</td>"
        f'<td class="n">{took}</td><td>{safe(record.message if record.state != "Success" else "", 120)}</td></tr>'
    )


def state_chip(state: str) -> str:
    """A recorded run's state in its colour."""
    return mark(CODES.get(state, Cancelled.code), safe(state, 30))

"""The list of registered flows: found by text, a page at a time."""

from __future__ import annotations

from urllib.parse import quote

from bokeh.models import Button, Column, Div, Row, TextInput

from anabranch.base.errors import RunStoreError
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.looks import safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.runs.store.flows import FlowRecord

PAGE = 25


class FlowsPage:
    """A table of flows with a search box."""

    def __init__(self, library: Library) -> None:
        sheet = style_sheet()
        self._library = library
        self._offset = 0
        self._revision: object = None
        self._flows: list[FlowRecord] = []
        self._text = TextInput(placeholder="flow, project or label", width=280)
        self._before = Button(label="Before", width=90, disabled=True)
        self._after = Button(label="After", width=90, disabled=True)
        self._table = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        head = Div(
            text='<div class="head"><h1>Flows</h1><a href="./">all runs</a></div>',
            stylesheets=[sheet], sizing_mode="stretch_width",
        )  # fmt: skip
        self._text.on_change("value", lambda attr, old, new: self._turn(-self._offset))
        self._before.on_click(lambda: self._turn(-PAGE))
        self._after.on_click(lambda: self._turn(PAGE))
        controls = [self._text, self._before, self._after]
        self.root = Column(
            children=[head, Row(children=controls, styles={"flex-wrap": "wrap"}), self._table],
            sizing_mode="stretch_width",
        )
        self.update()

    def _turn(self, by: int) -> None:
        self._offset = max(0, self._offset + by)
        self.update()

    def update(self) -> None:
        """Ask the registry whether something has changed; all flows are read only then."""
        registry = self._library.registry()
        try:
            if registry is not None and (revision := registry.revision()) != self._revision:
                self._flows, self._revision = registry.all(), revision
        except RunStoreError as error:
            self._table.text = f'<div class="notice">{safe(error, 1_000)}</div>'
            return
        wanted = str(self._text.value).strip().lower()
        found = [each for each in self._flows if wanted in _text_to_search(each)]
        self._offset = min(self._offset, max(0, len(found) - 1) // PAGE * PAGE)
        text = _render_flows(found[self._offset : self._offset + PAGE], len(found))
        if self._table.text != text:
            self._table.text = text
        self._before.disabled = self._offset == 0
        self._after.disabled = self._offset + PAGE >= len(found)


def _text_to_search(flow: FlowRecord) -> str:
    return "\n".join((flow.name, flow.project, *flow.labels)).lower()


def _render_flows(flows: list[FlowRecord], count: int) -> str:
    if not flows:
        return '<div class="none">no such flows; anabranch register FILE adds some</div>'
    rows = "".join(
        f'<tr><td><a href="flow?name={quote(each.name, safe="")}">{safe(each.name, 80)}</a></td>'
        f"<td>{safe(each.project, 60)}</td><td>{safe(', '.join(each.labels), 80)}</td>"
        f'<td class="n">{each.version}</td>'
        f"<td>{'rests' if each.paused else safe(each.schedule_words, 120)}</td></tr>"
        for each in flows
    )
    return (
        f'<div class="faint">{count:,} flows</div><div class="scroll"><table><thead><tr><th>flow</th><th>project</th>'
        f'<th>labels</th><th class="n">version</th><th>schedule</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )

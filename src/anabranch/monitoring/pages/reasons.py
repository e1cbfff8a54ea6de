"""Why task runs stand as they do, on a run's page: the answers of ``anabranch explain``, and the watchdog's notices."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from bokeh.models import Button, Column, Div, InlineStyleSheet, Row, TextInput

from anabranch.base.errors import AnabranchError
from anabranch.base.states import FIRST_FAILED_CODE, FIRST_FINAL_CODE, Skipped
from anabranch.monitoring.pages.looks import WIDGETS, safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.turns import act_in_turn
from anabranch.runs.read.explain import Explanation

MAX_EXPLAINED = 8  # task runs that are explained unasked: each takes a few queries


class ReasonsBox:
    """A field for the name of a task run, and why it stands as it does.

    Parameters
    ----------
    model
        Gives the run; a run that goes on elsewhere is read anew now and then.
    explain
        Says why a task run stands as it does.
    """

    def __init__(self, model: Callable[[], PageModel], explain: Callable[[str], Explanation]) -> None:
        sheet, widgets = style_sheet(), InlineStyleSheet(css=WIDGETS)
        self._model = model
        self._explain = explain
        self._name = TextInput(placeholder="task, or an element such as parse[7]", width=280, stylesheets=[widgets])
        button = Button(label="Why?", width=90, stylesheets=[widgets])
        self._told = Div(text="", stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        button.on_click(lambda: act_in_turn(button, self.answer))
        self._name.on_change("value", lambda attr, old, new: act_in_turn(button, self.answer))
        self.root = Column(
            children=[Row(children=[self._name, button], styles={"flex-wrap": "wrap"}), self._told],
            sizing_mode="stretch_width",
        )

    def answer(self) -> None:
        """Explain what was asked for; if nothing was, what has not gone well, or waits."""
        asked = str(self._name.value).strip()
        parts = [self._of(name) for name in ([asked] if asked else self._unasked())]
        notices = "".join(
            f"<li>{datetime.fromtimestamp(now, UTC).astimezone():%H:%M:%S} {safe(text, 1_000)}</li>"
            for now, text in self._model().notices
        )
        if notices and not asked:
            parts.append(f"<h2>What the engine has noticed</h2><ul>{notices}</ul>")
        self._told.text = "".join(parts) or '<div class="none">every task has ended well</div>'

    def _of(self, name: str) -> str:
        try:
            found = self._explain(name)
        except AnabranchError as error:
            return f'<div class="notice">{safe(error, 1_000)}</div>'
        reasons = "".join(f"<li>{safe(reason, 1_000)}</li>" for reason in found.reasons)
        changed = "".join(f"<li>changed: {safe(part, 200)}</li>" for part in found.changed)
        stored = f"<li>its value is stored at <code>{safe(found.location)}</code></li>" if found.location else ""
        return f"<div><b>{safe(found.name, 200)}</b>: {safe(found.state)}<ul>{reasons}{changed}{stored}</ul></div>"

    def _unasked(self) -> list[str]:
        """What a reader most likely wonders about: what failed by itself or was skipped, then what has not ended."""
        nodes = self._model().tasks()
        ended = [node.slug for node in nodes if node.code >= FIRST_FAILED_CODE or node.code == Skipped.code]
        waiting = [node.slug for node in nodes if node.code < FIRST_FINAL_CODE]
        return [*ended, *waiting][:MAX_EXPLAINED]

"""Log lines on a run's page: found by level, task and text; the newest of them.

All lines of a run are looked through when something else is asked for; after that, those that have come since.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from urllib.parse import quote

from bokeh.models import Column, Div, InlineStyleSheet, Row, Select, TextInput

from anabranch.monitoring.pages.looks import WIDGETS, safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.recorded_run import LOG_LINES
from anabranch.monitoring.pages.turns import act_in_turn
from anabranch.monitoring.pages.verdict import split_name
from anabranch.runs import LogQuery, LogRow

LEVELS = ("debug", "info", "warning", "error", "critical")


class LogsBox:
    """Fields that say which lines are wanted.

    Parameters
    ----------
    run_id
        Of the run.
    ask
        Gives the newest lines that are asked for.
    show
        Called when something else is asked for.
    """

    def __init__(self, run_id: str, ask: Callable[[LogQuery], Sequence[LogRow]], show: Callable[[], None]) -> None:
        widgets = [InlineStyleSheet(css=WIDGETS)]
        self._ask = ask
        self._asked, self._rows = LogQuery(), list[LogRow]()
        self._seen: tuple[int, int] | None = None
        self._level = Select(title="level", value=LEVELS[0], options=list(LEVELS), width=120, stylesheets=widgets)
        self._task = TextInput(title="task, or an element such as parse[7]", width=260, stylesheets=widgets)
        self._words = TextInput(title="text", width=220, stylesheets=widgets)
        whole = f'<p><a href="log?id={safe(quote(run_id, safe=""))}">the whole log as a file</a></p>'
        link = Div(text=whole, stylesheets=[style_sheet()], disable_math=True)
        for field in (self._level, self._task, self._words):
            field.on_change("value", lambda attr, old, new: act_in_turn(self._task, show))
        fields = Row(children=[self._level, self._task, self._words], styles={"flex-wrap": "wrap"})
        self.root = Column(children=[fields, link], sizing_mode="stretch_width")

    def rows(self) -> Sequence[LogRow]:
        """The newest lines that are asked for, oldest first."""
        task = str(self._task.value).strip()
        slug, index = split_name(task) if task else (None, None)
        level = logging.getLevelNamesMapping()[str(self._level.value).upper()]
        asked = LogQuery(slug, index, 0 if level == logging.DEBUG else level, str(self._words.value).strip())
        if asked != self._asked:
            self._asked, self._rows, self._seen = asked, [], None
        if new := self._ask(LogQuery(after=self._seen)):
            last = new[-1].place
            found = new if asked == LogQuery() else self._ask(replace(asked, after=self._seen))
            self._rows = [*self._rows, *(row for row in found if row.place <= last)][-LOG_LINES:]
            self._seen = last
        return self._rows

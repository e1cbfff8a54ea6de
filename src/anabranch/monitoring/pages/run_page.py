"""The page of one run: figures and texts that follow a model. The same page is shown live and written to a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bokeh.models import Column, Div, InlineStyleSheet, Row, Spacer, UIElement

from anabranch.monitoring.pages import artifacts_figure, tasks_table, texts
from anabranch.monitoring.pages.graph_figure import GraphFigure
from anabranch.monitoring.pages.looks import no_link, panel_link
from anabranch.monitoring.pages.maps_figure import MapsFigure, style_sheet
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.panels import Panels
from anabranch.monitoring.pages.rows_figure import RowsFigure
from anabranch.monitoring.pages.tasks_table import task_fields
from anabranch.monitoring.pages.turns import act_in_turn
from anabranch.monitoring.pages.verdict import verdict
from anabranch.monitoring.pages.workers_figure import WorkersFigure
from anabranch.runs import ArtifactRow, LogRow

MAX_GROUPS = 20  # of failures that are shown
MAX_LOG_LINES = 500
ROW_S = 0.0015  # between two tables of tasks, for each row
# From the end backwards, a frame stays at its end as lines are added, and where it is if somebody reads further up.
FOLLOWING = """
:host { display: flex; flex-direction: column-reverse; max-height: 70vh; overflow: auto; }
@media print { :host { max-height: none; } }
"""
OVERVIEW, WORKERS, TASKS, ARTIFACTS, LOGS, PARAMETERS = range(6)


class RunPage:
    """A run's page.

    Parameters
    ----------
    model
        The run; whoever feeds it calls `update` afterwards, in the same thread.
    log_rows
        Gives the last log lines.
    links
        Pairs of address and text, for the head.
    actions
        Widgets with which something can be done, for live pages.
    state
        Gives the state's word where it is not the model's, such as Interrupted.
    reasons
        Says why task runs stand as they do, for live pages: shown above the tasks.
    earlier
        Seconds that successful runs of the flow took before this one, the newest first.
    lines_of
        Gives the log lines of a task run, by slug and element.
    artifacts
        Gives what tasks have shown.
    panel
        Shows what there is about the task run that the page's links name, for live pages.
    log_fields
        With which log lines are chosen, for live pages: shown above them.
    """

    def __init__(
        self,
        model: PageModel,
        *,
        log_rows: Callable[[], Sequence[LogRow]] = tuple,
        links: Callable[[], Sequence[tuple[str, str]]] = tuple,
        actions: Sequence[UIElement] = (),
        state: Callable[[], str | None] = lambda: None,
        reasons: UIElement | None = None,
        earlier: Sequence[float] = (),
        lines_of: Callable[[str, int | None], Sequence[LogRow]] = lambda slug, index: (),
        artifacts: Callable[[], Sequence[ArtifactRow]] = tuple,
        panel: UIElement | None = None,
        log_fields: UIElement | None = None,
    ) -> None:
        self._earlier = earlier
        self._lines_of = lines_of
        self._artifact_rows = artifacts
        self._link = panel_link(model.run_id) if panel is not None else no_link
        self._model = model
        self._log_rows = log_rows
        self._links = links
        self._state = state
        self._sheet = style_sheet()
        self._title, self._status, self._further = self._text(), self._text(), self._text()
        self._verdict = self._text()
        self._failures_head = self._text()
        self._maps_head = self._text("<h2>Maps, element by element</h2>")
        self._failures = Column(
            children=[Spacer(visible=False)], sizing_mode="stretch_width"
        )  # Bokeh warns of empty ones
        self._groups: dict[int, tuple[Div, Div, int, int]] = {}
        self._tasks, self._attempts, self._logs, self._parameters = (self._text() for _ in range(4))
        self._fields = self._text(task_fields())
        for each in (self._fields, self._tasks):
            each.stylesheets = [self._sheet, InlineStyleSheet(css=tasks_table.STYLE)]
        self._tasks_due = 0.0
        self._artifacts = self._text()
        self._artifacts.stylesheets = [self._sheet, InlineStyleSheet(css=artifacts_figure.STYLE)]
        self._shown: Sequence[ArtifactRow] | None = None
        self._logs.stylesheets = [self._sheet, InlineStyleSheet(css=FOLLOWING)]
        self._graphs = [GraphFigure(model, folded=False, has_panel=panel is not None)]
        if any(node.groups for node in model.shape.nodes):
            self._graphs.insert(0, GraphFigure(model, folded=True, has_panel=panel is not None))
        self._graph_panels: Panels | None = None
        self._rows = RowsFigure(model, self._sheet, self._link)
        self._maps = MapsFigure(model, self._sheet)
        self._workers = WorkersFigure(model, self._sheet)
        self._seen: tuple[int, int] = (-1, -1)
        reasoned = [reasons] if reasons is not None else []
        panels = [
            ("Overview", self._overview()),
            ("Workers", self._workers.root),
            ("Tasks", self._below(*reasoned, self._fields, self._tasks, self._attempts)),
            ("Artifacts", self._artifacts),
            ("Logs", self._logs if log_fields is None else self._below(log_fields, self._logs)),
            ("Parameters", self._parameters),
        ]
        self._panels = Panels(panels)
        self.root = Column(
            children=[
                self._title,
                self._status,
                self._verdict,
                self._further,
                *([Row(children=list(actions), styles={"flex-wrap": "wrap"})] if actions else []),
                self._panels.root,
                *([panel] if panel is not None else []),
            ],
            sizing_mode="stretch_width",
        )
        self.update(everything=True)

    def open(self, title: str) -> None:
        """Open the tab of this title; none if there is no such tab."""
        if title in self._panels.titles:
            self.active = self._panels.titles.index(title)

    @property
    def active(self) -> int:
        """The tab that is open."""
        return self._panels.active

    @active.setter
    def active(self, place: int) -> None:
        self._panels.active = place

    @property
    def _graph_shown(self) -> int:
        return self._graph_panels.active if self._graph_panels is not None else 0

    def follow_reader(self) -> None:
        """Bring a part of the page up to date at once when it is opened: what was hidden was left as it was."""
        for panel in self._panels.panels:
            panel.on_change("visible", lambda attr, old, new: act_in_turn(self.root, self.update))

    def _text(self, text: str = "") -> Div:
        return Div(text=text, stylesheets=[self._sheet], sizing_mode="stretch_width", disable_math=True)

    @staticmethod
    def _below(*parts: UIElement) -> Column:
        return Column(children=list(parts), sizing_mode="stretch_width")

    def _overview(self) -> Column:
        graph: UIElement = self._graphs[0].root
        if len(self._graphs) > 1:
            titles = ("Nested flows folded", "All tasks")
            self._graph_panels = Panels(
                [(t, each.root) for t, each in zip(titles, self._graphs, strict=True)], small=True
            )
            graph = self._graph_panels.root
        return Column(
            children=[
                graph,
                self._text(texts.legend()),
                self._failures_head,
                self._failures,
                self._text("<h2>Progress and timeline</h2>"),
                self._rows.root,
                self._maps_head,
                self._maps.root,
            ],
            sizing_mode="stretch_width",
        )

    def update(self, *, everything: bool = False) -> None:
        """Show what has changed; of what is hidden behind a tab nothing is sent until it is looked at."""
        active = self.active
        seen = (self._model.version, active)
        is_over = self._model.ended is not None
        self._put(self._title, texts.title(self._model, self._links()))
        self._put(self._status, texts.status(self._model, state=self._state()))
        if seen == self._seen and is_over and not everything:
            if active == LOGS:
                self.show_logs()
            if active == ARTIFACTS:
                self._show_artifacts()
            return
        self._seen = seen
        self._put(self._verdict, verdict(self._model, earlier=self._earlier, lines_of=self._lines_of, link=self._link))
        self._verdict.visible = bool(self._verdict.text)
        self._put(self._further, texts.further(self._model))
        self._further.visible = bool(self._further.text)
        if everything or active == OVERVIEW:
            for graph in self._graphs if everything else [self._graphs[self._graph_shown]]:
                graph.update(everything=everything)
            self._rows.update(everything=everything)
            self._maps.update()
            self._maps_head.visible = self._maps.root.visible = self._maps.is_worth_it
            self._update_failures()
        if everything or active == WORKERS:
            self._workers.update()
        if everything or active == TASKS:
            self._show_tasks(at_once=everything or is_over)
        if everything or active == ARTIFACTS:
            self._show_artifacts()
        if everything or active == LOGS:
            self.show_logs()
        if everything or active == PARAMETERS:
            self._put(self._parameters, texts.parameter_table(self._model.parameters))

    def _show_tasks(self, *, at_once: bool) -> None:
        """A table is sent as a whole: a long one less often."""
        now = time.monotonic()
        if not at_once and now < self._tasks_due:
            return
        self._tasks_due = now + len(self._model.nodes) * ROW_S
        self._put(self._tasks, tasks_table.task_table(self._model, self._link))
        self._put(self._attempts, texts.attempt_table(self._model))

    def _show_artifacts(self) -> None:
        rows = self._artifact_rows()
        if rows != self._shown:
            self._shown = rows
            self._put(self._artifacts, artifacts_figure.render_artifacts(rows, self._model, self._link))

    def show_logs(self) -> None:
        """Show the log lines that are asked for now."""
        self._put(self._logs, texts.log_table(list(self._log_rows())[-MAX_LOG_LINES:]))

    def _update_failures(self) -> None:
        """Bodies are sent anew only when they change: that closes what a reader has opened."""
        self._put(self._failures_head, texts.failures_head(self._model))
        for group in self._model.failures.ordered():
            count, body, shown, examples = self._groups.get(id(group), (None, None, -1, -1))
            if count is None or body is None:
                if len(self._groups) >= MAX_GROUPS:
                    continue
                count = Div(width=64, stylesheets=[self._sheet])
                body = self._text()
                row = Row(children=[count, body], sizing_mode="stretch_width")
                self._failures.children = [*self._failures.children, row]
            if shown != group.count:
                self._put(count, texts.failure_count(group))
            if examples != len(group.examples):
                self._put(body, texts.failure_body(group))
            self._groups[id(group)] = (count, body, group.count, len(group.examples))

    @staticmethod
    def _put(div: Div, text: str) -> None:
        if div.text != text:
            div.text = text

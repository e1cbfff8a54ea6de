"""Bokeh applications of the pages: list of runs, run, flow. They can be mounted in any Bokeh server with a guard."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

from bokeh.application import Application
from bokeh.document import Document
from bokeh.events import ClientReconnected, ConnectionLost
from bokeh.models import Button, Column, Div, InlineStyleSheet, SetValue, UIElement

from anabranch.base.errors import AnabranchError, PagesError, RunNotFound
from anabranch.monitoring.pages import texts
from anabranch.monitoring.pages.diff_page import DiffPage, diff_address
from anabranch.monitoring.pages.flow_page import FlowPage
from anabranch.monitoring.pages.flows_page import FlowsPage
from anabranch.monitoring.pages.frame import TEMPLATE
from anabranch.monitoring.pages.library import Library, RunSource
from anabranch.monitoring.pages.lists import Search, read_search
from anabranch.monitoring.pages.logs_box import LogsBox
from anabranch.monitoring.pages.looks import WIDGETS, disarm, safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.reasons import ReasonsBox
from anabranch.monitoring.pages.run_page import RunPage
from anabranch.monitoring.pages.runs_page import RunsPage
from anabranch.monitoring.pages.sparing import Sparing
from anabranch.monitoring.pages.task_panel import Source, TaskPanel
from anabranch.monitoring.pages.turns import PageHandler, act_in_turn, follow

FOLLOW_MS = 500  # twice as often looks hardly more alive, and costs a tenth of a core instead of a twentieth
LIST_MS = 2_000
LOOK_S = 1.0
SAID = {
    "run": "The run has been asked for.",
    "cancel": "The run is being cancelled; what runs now may still end.",
    "resume": "The run waits to go on.",
    "approve": "The approval is noted; the run waits to go on.",
}
"""What a form has done, by the word that it leaves in the address; other words say nothing."""

_log = logging.getLogger("anabranch.dashboard")


def applications(library: Library) -> dict[str, Application]:
    """Bokeh applications by path: ``/`` lists runs, ``/flows`` flows, ``/run?id=…`` is a run, ``/flow?name=…`` a flow,
    ``/diff?a=…&b=…`` two runs.

    They check nobody's right to see them, or to use their buttons: that is up to the server that they are mounted in.
    """
    pages: dict[str, Callable[[Document, Library], None]] = {
        "/": _fill_runs_page, "/flows": _fill_flows_page, "/run": _fill_run_page, "/flow": _fill_flow_page,
        "/diff": _fill_diff_page,
    }  # fmt: skip
    return {path: Application(PageHandler(_guard_page(make, library))) for path, make in pages.items()}


def _guard_page(make: Callable[[Document, Library], None], library: Library) -> Callable[[Document], None]:
    """A page that cannot be made says why, instead of staying blank."""

    def document(doc: Document) -> None:
        doc.template = TEMPLATE
        _tell_of_losses(doc)
        try:
            make(doc, library)
        except AnabranchError as error:
            doc.add_root(_show_sentence(str(error)))
        except Exception:
            _log.exception("a page could not be made")
            doc.add_root(_show_sentence("This page could not be made; the log of the process that serves it says why."))

    return document


def _tell_of_losses(doc: Document) -> None:
    """Say on the page that its server has gone, in place of Bokeh's counting of seconds."""
    lost = Div(text=texts.lost(), visible=False, stylesheets=[style_sheet()], sizing_mode="stretch_width")
    doc.config.notify_connection_status = False
    doc.js_on_event(ConnectionLost, SetValue(obj=lost, attr="visible", value=True))
    doc.js_on_event(ClientReconnected, SetValue(obj=lost, attr="visible", value=False))
    doc.add_root(lost)


def _show_sentence(text: str) -> Div:
    words = f'<p>{safe(text, 2_000)}</p><p><a href="./">All runs</a></p>'
    return Div(text=words, stylesheets=[style_sheet()], disable_math=True, sizing_mode="stretch_width")


def _read_argument(doc: Document, name: str) -> str:
    values = doc.session_context.request.arguments.get(name) or [b""]
    return bytes(values[0]).decode("utf-8", "replace")[:400]


def _read_search(doc: Document) -> Search:
    return read_search({name: _read_argument(doc, name) for name in ("text", "state", "page")})


def _read_role(doc: Document) -> str:
    """Of who looks, where the server tells; it is a hint for what to show, and gives no right."""
    payload = getattr(doc.session_context, "token_payload", None) or {}
    return str(payload.get("role", ""))


def _fill_flows_page(doc: Document, library: Library) -> None:
    doc.title = "Flows"
    page = FlowsPage(library, _read_search(doc))
    doc.add_root(page.root)
    follow(doc, _safely(page.update), LIST_MS)


def _fill_diff_page(doc: Document, library: Library) -> None:
    doc.title = "Two runs"
    doc.add_root(DiffPage(library, _read_argument(doc, "a"), _read_argument(doc, "b")).root)


def _fill_runs_page(doc: Document, library: Library) -> None:
    doc.title = "Runs"
    page = RunsPage(library, _read_search(doc))
    doc.add_root(page.root)
    follow(doc, _safely(page.update), LIST_MS)


def _fill_flow_page(doc: Document, library: Library) -> None:
    name = _read_argument(doc, "name")
    doc.title = disarm(name, 100)
    page = FlowPage(library, name, role=_read_role(doc), search=_read_search(doc))
    doc.add_root(page.root)
    follow(doc, _safely(page.update), LIST_MS)


def _fill_run_page(doc: Document, library: Library) -> None:
    run_id, role, said = _read_argument(doc, "id"), _read_role(doc), SAID.get(_read_argument(doc, "said"), "")
    view: _RunView | _WaitingView
    try:
        source = library.open(run_id)
    except RunNotFound:
        if library.standing(run_id) is None:
            raise
        doc.title = disarm(f"run {run_id}", 100)
        view = _WaitingView(run_id, library, role=role, said=said)
    else:
        doc.title = disarm(f"{source.model.flow_name or 'run'} {source.model.run_id}", 100)
        view = _RunView(source, library, role=role, said=said, asked=_read_argument(doc, "task"))
        view.open(_read_argument(doc, "tab"))
    doc.add_root(view.root)
    follow(doc, _safely(view.update), FOLLOW_MS)


def _safely(update: Callable[[], None]) -> Callable[[], None]:
    """Bokeh goes on calling a callback that raises, four times a second; its log would be all that there is."""
    said: set[str] = set()

    def call() -> None:
        try:
            update()
        except Exception as error:
            if type(error).__name__ not in said:
                said.add(type(error).__name__)
                _log.exception("a page could not be brought up to date")

    return call


class _WaitingView:
    """What is known of a run that has not begun; its page takes the place of that when it has."""

    def __init__(self, run_id: str, library: Library, *, role: str, said: str) -> None:
        self._run_id = run_id
        self._said = said
        self._library = library
        self._role = role
        self._view: _RunView | None = None
        self._text = Div(text="", stylesheets=[style_sheet()], disable_math=True, sizing_mode="stretch_width")
        self.root = Column(children=[self._text], sizing_mode="stretch_width")
        self.update()

    def update(self) -> None:
        """See whether it has begun."""
        if self._view is not None:
            self._view.update()
            return
        try:
            source = self._library.open(self._run_id)
        except RunNotFound:
            self._tell(self._library.standing(self._run_id) or f"there is no run {self._run_id} any more")
            return
        self._view = _RunView(source, self._library, role=self._role, said=self._said)
        self.root.children = [self._view.root]

    def _tell(self, text: str) -> None:
        desk = self._library.desk
        links = desk.run_links(self._run_id, "Waiting", self._role) if desk is not None else ()
        linked = " ".join(
            f'<a href="{safe(url, 2_000)}">{safe(each)}</a>' for url, each in [("./", "all runs"), *links]
        )
        found = f'<div class="notice">{safe(text, 1_000)}</div><p>{linked}</p>'
        if self._text.text != found:
            self._text.text = found


class _RunView:
    """A run's page with its buttons; another page takes its place when the run is read anew."""

    def __init__(self, source: RunSource, library: Library, *, role: str = "", said: str = "", asked: str = "") -> None:
        self._source = source
        self._library = library
        self._role = role
        widgets = InlineStyleSheet(css=WIDGETS)
        self._cancel = Button(label="Cancel the run", visible=False, width=150, stylesheets=[widgets])
        self._resume = Button(label="Resume", button_type="primary", visible=False, width=150, stylesheets=[widgets])
        notice = f'<div class="notice">{safe(said)}</div>' if said else ""
        self._told = Div(text=notice, visible=bool(said), stylesheets=[style_sheet()], disable_math=True)
        self._told_over = source.is_over
        """Whether the run was over when something was told that an action has done."""
        self._actions: list[UIElement] = [self._told]
        if library.desk is None:  # whose forms ask who it is; a button can be clicked by whoever sees the page
            self._actions = [self._cancel, self._resume, self._told]
            self._cancel.on_click(lambda: act_in_turn(self._cancel, self._ask_cancel))
            self._resume.on_click(lambda: act_in_turn(self._resume, lambda: self._do(library.actions.resume)))
        self._reasons = ReasonsBox(
            lambda: self._source.model, lambda name: library.explain(self._source.model.run_id, name)
        )
        # What has ended is asked about once more: the last answer stays.
        lines_of = Sparing(lambda slug, index, is_over: self._source.lines_of(slug, index))
        explain = Sparing(lambda name, is_over: library.explain(self._source.model.run_id, name))
        earlier_of = Sparing(lambda slug, is_over: library.earlier_of(self._source.model, slug))
        self._lines_of = lambda slug, index: lines_of(slug, index, self._source.is_over)
        self._panel = TaskPanel(
            lambda: self._source.model,
            Source(
                lambda name: explain(name, self._source.is_over),
                self._lines_of,
                lambda slug: earlier_of(slug, self._source.is_over),
                lambda: self._source.artifacts(),
            ),
            asked=asked,
        )
        self._is_sure = False
        self._seen_over: bool | None = None
        self._looked_at = 0.0
        self._standing: tuple[str, int] | None = None
        """State and epoch of the run's record when it was over."""
        self.root = Column(children=[self._told], sizing_mode="stretch_width")
        self._show()
        self._update_buttons()

    def _show(self) -> None:
        source, model = self._source, self._source.model
        self._model = model
        before = self._library.before(model)
        compared = [(diff_address(before, model.run_id), "compare with the run before")] if before else []
        logs = LogsBox(model.run_id, source.log_rows, lambda: self._page.show_logs())
        self._page = RunPage(
            model,
            log_rows=logs.rows,
            log_fields=logs.root,
            links=lambda: [
                ("./", "all runs"),
                (_flow_address(model.flow_name), "flow"),
                *compared,
                *source.links(),
                *self._desk_links(source),
            ],
            reasons=self._reasons.root,
            earlier=source.earlier(),
            lines_of=self._lines_of,
            artifacts=source.artifacts,
            panel=self._panel.root,
            actions=self._actions,
            state=lambda: source.state,
        )
        self._page.follow_reader()
        self.root.children = [self._page.root]

    def open(self, tab: str) -> None:
        """Open a part of the page by its title."""
        self._page.open(tab)
        self._page.update()

    def _desk_links(self, source: RunSource) -> Sequence[tuple[str, str]]:
        desk, model = self._library.desk, source.model
        return desk.run_links(model.run_id, source.state or model.state.name, self._role) if desk is not None else ()

    def update(self) -> None:
        """Follow the run."""
        if self._source.is_over and self._is_taken_up():
            self._source, self._seen_over = self._library.open(self._model.run_id), None
        self._source.refresh()
        if self._source.model is not self._model:
            active = self._page.active
            self._show()
            self._page.active = active
        if self._source.is_over != self._told_over:  # it is no longer true
            self._told.visible, self._told_over = False, self._source.is_over
        self._page.update()
        self._panel.update()
        self._update_buttons()

    def _is_taken_up(self) -> bool:
        """Whether somebody has gone on with the run, which was over; looked at once a second, but for the first time.

        The record tells, as that may have begun and ended between two looks, in any process.
        """
        now = time.monotonic()
        if self._standing is not None and now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        record = self._library.record(self._model.run_id)
        if record is None:
            return False
        before, self._standing = self._standing or self._source.standing, (record.state, record.epoch)
        return before is not None and before != self._standing

    def _update_buttons(self) -> None:
        actions, run_id = self._library.actions, self._model.run_id
        if self._library.desk is not None:
            return
        can_cancel = actions.can_cancel(run_id)
        if self._cancel.visible != can_cancel:
            self._cancel.visible = can_cancel
            self._is_sure = False
            self._cancel.label, self._cancel.button_type = "Cancel the run", "default"
        if self._seen_over != self._source.is_over or can_cancel:
            self._seen_over = self._source.is_over
            record = self._library.record(run_id) if self._source.is_over and not can_cancel else None
            can_resume = record is not None and actions.can_resume(record)
            if self._resume.visible != can_resume:
                self._resume.visible = can_resume

    def _ask_cancel(self) -> None:
        """The first click asks, the second does it."""
        if not self._is_sure:
            self._is_sure = True
            self._cancel.label, self._cancel.button_type = "Click again to cancel", "danger"
            return
        self._is_sure = False
        self._cancel.label, self._cancel.button_type = "Cancel the run", "default"
        self._do(self._library.actions.cancel)

    def _do(self, action: Callable[[str], str]) -> None:
        try:
            text = action(self._model.run_id)
        except PagesError as error:
            text = str(error)
        self._told.visible, self._told_over = True, self._source.is_over
        self._told.text = f'<div class="notice">{safe(text)}</div>'
        self._seen_over = None
        self._update_buttons()


def _flow_address(name: str) -> str:
    return f"flow?name={quote(name, safe='')}"

"""A read-only page in Dask's own dashboard: the runs that a scheduler knows. This file travels there as source text.

Nothing of ours need be installed there, so it imports Dask and Bokeh alone. Dask's dashboard asks nobody for a
password, so the page has names, states and numbers; no parameters, values or messages. It is there for as long as
a run is that brought it.
"""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Container
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

PATH = "/flows"
OWN, DETACHED = "anabranch-page", "anabranch"
"""Of keys in the scheduler's metadata: runs with drivers elsewhere, and runs whose drivers are on the cluster."""
MOUNTED = "_anabranch_page"  # attribute of the scheduler
EVERY_MS = 1_000
MAX_RUNS, MAX_TASKS, MAX_ROWS = 50, 50, 500  # shown; what is left out is counted
MAX_NAME = 120
LATE_S = 60.0  # what the driver of a run that has ended had sent may come after it has gone

LOOKS = {
    "Pending": ("·", "#eceff2", "#24292f"),
    "Running": ("▶", "#56b4e9", "#000000"),
    "Success": ("✓", "#009e73", "#000000"),
    "Mapped": ("✓", "#009e73", "#000000"),
    "Cached": ("✓", "#009e73", "#000000"),
    "Skipped": ("⤼", "#d0d7de", "#24292f"),
    "Retrying": ("↻", "#e69f00", "#000000"),
    "Paused": ("‖", "#f0e442", "#000000"),
    "Cancelled": ("■", "#6e7781", "#ffffff"),
}
FAILED = ("✗", "#b84a00", "#ffffff")
HEAD = "<th>task</th><th>state</th>" + "".join(
    f'<th class="n">{word}</th>' for word in ("done", "width", "failed", "retrying", "pace")
)
STYLE = """<style>
.runs { font-family: sans-serif; font-size: 14px; color: #24292f; padding: 8px 16px; }
.runs h2 { font-size: 17px; margin: 16px 0 4px; overflow-wrap: anywhere; }
.runs small { color: #57606a; font-weight: normal; }
.runs table { border-collapse: collapse; width: 100%; }
.runs th { text-align: left; border-bottom: 1px solid #d0d7de; padding: 4px 10px 4px 0; }
.runs td { border-bottom: 1px solid #eceff2; padding: 4px 10px 4px 0; overflow-wrap: anywhere; }
.runs .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.runs .chip { border-radius: 999px; padding: 1px 10px; font-size: 13px; white-space: nowrap; }
</style>"""


class Page(SchedulerPlugin):
    """Keeps the page up for a run; goes with the driver's client, however that leaves.

    Parameters
    ----------
    token
        Of the run.
    client
        Id of the driver's client.
    """

    def __init__(self, token: str, client: str) -> None:
        self.token = token
        self.client = client

    def __reduce__(self) -> tuple[Any, ...]:
        from anabranch.base import package_files
        from anabranch.executors.sources import reduced

        return reduced(package_files.read("executors/scheduler_page.py"), "Page", (self.token, self.client))

    async def start(self, scheduler: Any) -> None:
        """Put the page up, unless another run has; a reason why it cannot be is left for the driver."""
        if self.client not in scheduler.clients:
            raise RuntimeError("the driver of the run has gone")
        self.scheduler = scheduler
        told: dict[str, Any] = {}
        try:
            if (mounted := mount(scheduler)) is not None:
                mounted.users.add(self.token)
            else:
                told = {"refused": ""}
        except Exception as error:  # Dask's dashboard is not documented: whatever has changed is no reason to fail
            told = {"refused": f"{type(error).__name__}: {error}"[:300]}
        scheduler.task_metadata.setdefault(OWN, {})[self.token] = told

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Leave, if it is the driver's client that has left."""
        if client != self.client:
            return
        for name, plugin in list(scheduler.plugins.items()):
            if plugin is self:
                del scheduler.plugins[name]
        self.forget()
        asyncio.get_running_loop().call_later(LATE_S, self.forget)
        mounted = getattr(scheduler, MOUNTED, None)
        if mounted is not None:
            mounted.leave(self.token)

    def forget(self) -> None:
        """Remove what the scheduler keeps of the run."""
        known = self.scheduler.task_metadata.get(OWN)
        if isinstance(known, dict):
            known.pop(self.token, None)
            if not known:
                del self.scheduler.task_metadata[OWN]


# The page -------------------------------------------------------------------------------------------------------------


class Mounted:
    """The page as it is on a scheduler, and the runs that keep it there."""

    def __init__(self, scheduler: Any, application: Any, pages: list[str]) -> None:
        self.scheduler = scheduler
        self.application = application
        self.pages = pages
        self.users: set[str] = set()
        self._shown = (0.0, "")

    def text(self) -> str:
        """The page's text; made once a moment, however many look at it."""
        now = time.monotonic()
        if now - self._shown[0] >= EVERY_MS / 2_000:
            self._shown = (now, text_of(runs_of(self.scheduler, self.users), time.time()))
        return self._shown[1]

    def leave(self, token: str) -> None:
        """A run needs the page no more; with the last one it goes."""
        self.users.discard(token)
        if self.users:
            return
        delattr(self.scheduler, MOUNTED)
        web = self.scheduler.http_application.applications
        if self.application in web:
            web.remove(self.application)
        if PATH[1:] in self.pages:
            self.pages.remove(PATH[1:])
        self.application.stop()


def mount(scheduler: Any) -> Mounted | None:
    """The page on a scheduler, put up if it is not there yet; None without a dashboard, where nobody misses it."""
    found: Mounted | None = getattr(scheduler, MOUNTED, None)
    if found is not None:
        return found
    web: Any = getattr(scheduler, "http_application", None)
    dashboard = next((each for each in getattr(web, "applications", ()) if hasattr(each, "app_paths")), None)
    if dashboard is None:
        return None
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables
    from tornado.ioloop import IOLoop

    variables = template_variables(scheduler)
    application = BokehApplication({PATH: document}, scheduler, prefix=dashboard.prefix, template_variables=variables)
    application.initialize(IOLoop.current())
    application.start()
    web.add_application(application)
    pages = variables["pages"]
    if PATH[1:] not in pages:
        pages.append(PATH[1:])  # so that all of Dask's pages have a link to it
    mounted = Mounted(scheduler, application, pages)
    setattr(scheduler, MOUNTED, mounted)
    return mounted


def document(scheduler: Any, extra: dict[str, Any], doc: Any) -> None:
    """Fill a document of Bokeh's with the page."""
    from bokeh.models import Div
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env

    def text() -> str:
        mounted = getattr(scheduler, MOUNTED, None)
        return STYLE + (mounted.text() if mounted is not None else text_of({}, 0.0))

    async def update() -> None:  # so that Bokeh has no thread for it from 3.10 on
        new = text()
        if new != shown.text:
            shown.text = new
        if getattr(scheduler, MOUNTED, None) is None:
            doc.remove_periodic_callback(callback)  # else Bokeh would call it for as long as the scheduler lives

    shown = Div(text=text(), disable_math=True, sizing_mode="stretch_width")
    doc.title = "Dask: Flows"
    doc.add_root(shown)
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    doc.theme = BOKEH_THEME
    callback = doc.add_periodic_callback(update, EVERY_MS)


# What it says ---------------------------------------------------------------------------------------------------------


def runs_of(scheduler: Any, here: Container[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Flow's name and standing of each run that the scheduler knows, by its id.

    Parameters
    ----------
    here
        Runs whose drivers are connected: what others have sent may have come too late to be removed with them.
    """
    found = {}
    for root in (DETACHED, OWN):
        known = scheduler.task_metadata.get(root)
        for run_id, each in list(known.items()) if isinstance(known, dict) else ():
            if isinstance(each, dict) and "flow" in each and (root == DETACHED or run_id in here):
                standing = each.get("status")
                found[str(run_id)] = (str(each["flow"]), standing if isinstance(standing, dict) else {})
    return found


def text_of(runs: dict[str, tuple[str, dict[str, Any]]], now: float) -> str:
    """The page as HTML; anybody who reaches the scheduler can have written what is in the runs."""
    newest = sorted(runs.items(), key=lambda each: _number(each[1][1].get("started")), reverse=True)
    parts, left = [], MAX_ROWS
    for run_id, (flow, standing) in newest[:MAX_RUNS]:
        rows, left_out = _rows(standing, now, min(MAX_TASKS, left))
        left -= len(rows)
        more = f"<small>{left_out:,} tasks more</small>" if left_out else ""
        state = str(standing.get("state", "Pending"))
        parts.append(
            f"<h2><span>{safe(flow)}</span> {chip(state)} <small>run {safe(run_id)}</small></h2>"
            f"<table><thead><tr>{HEAD}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}"
        )
    if len(newest) > MAX_RUNS:
        parts.append(f"<p><small>{len(newest) - MAX_RUNS:,} runs more</small></p>")
    inside = "".join(parts) or "<p>no run of anabranch goes on here</p>"
    return f'<div class="runs">{inside}</div>'


def _rows(standing: dict[str, Any], now: float, most: int) -> tuple[list[str], int]:
    tasks = standing.get("tasks")
    known = [(slug, each) for slug, each in tasks.items() if isinstance(each, dict)] if isinstance(tasks, dict) else []
    rows = []
    for slug, each in known[: max(0, most)]:
        done, width = _number(each.get("done")), _number(each.get("width"))
        took = _number(each.get("ended") or now) - _number(each.get("since"))
        pace = f"{done / took:,.1f}/s" if each.get("since") and done and took > 0 else ""
        numbers = (f"{done:,.0f}", f"{width:,.0f}") if width else ("", "")
        counts = [f"{_number(each.get(name)):,.0f}" if each.get(name) else "" for name in ("failed", "retrying")]
        cells = "".join(f'<td class="n">{cell}</td>' for cell in (*numbers, *counts, pace))
        rows.append(f"<tr><td>{safe(slug)}</td><td>{chip(str(each.get('state', 'Pending')))}</td>{cells}</tr>")
    return rows, int(_number(standing.get("more_tasks"))) + len(known) - len(rows)


def chip(state: str) -> str:
    """A state's word, with its colour, and a symbol so that colour is not needed."""
    symbol, fill, ink = LOOKS.get(state, FAILED)
    return f'<span class="chip" style="background:{fill};color:{ink}">{symbol} {safe(state)}</span>'


def safe(text: Any) -> str:
    """Text as HTML shows it, short, and with control characters escaped."""
    line = str(text)
    line = line if len(line) <= MAX_NAME else f"{line[: MAX_NAME - 1]}…"
    line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
    return html.escape(line)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and value == value and abs(value) < 1e18 else 0.0

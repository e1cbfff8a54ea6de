"""The live page of a run of this process: what ``flow.run(dashboard=True)`` adds to a run."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.base.errors import RunStoreError
from anabranch.base.events import Observer
from anabranch.base.texts import printable
from anabranch.definition.graph import Graph
from anabranch.definition.parameter import Parameter
from anabranch.definition.shape import shape_of
from anabranch.engine.driver.plan import RunPlan
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.live_run import LiveRun
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.server import Pages
from anabranch.runs import RunStore
from anabranch.runs.record.beginning import secret_slugs, shown_parameters
from anabranch.runs.store.opening import store_to_show

_log = logging.getLogger("anabranch.dashboard")
_lock = threading.Lock()
_pages: Pages | None = None


@dataclass(frozen=True, slots=True)
class LivePage:
    """What a run needs of its page."""

    observers: Sequence[Observer] = ()
    wants_end: Callable[[], str] = str
    """Why the run should end; nothing as long as it should not."""


def live_page(
    plan: RunPlan,
    graph: Graph,
    parameters: Iterable[Parameter],
    executor: Any,  # its dashboard's link is asked for, if it has one
    tell: Callable[[str], object] | bool,
) -> LivePage:
    """Begin the page of a run. A page that cannot be had is no reason not to run: there is a warning.

    Parameters
    ----------
    tell
        Is given the page's address, which has the token in it; True writes it to standard error.
    """
    secret = secret_slugs(plan.graph, parameters)
    model = PageModel(shape_of(graph))
    model.flow_name, model.run_id = plan.name, plan.run_id
    model.parameters = shown_parameters(plan, secret)
    model.asked = plan.now().timestamp()  # from when its record counts, too
    run = LiveRun(model, store=_find_store(), dask_link=lambda: executor.dashboard_link)
    try:
        pages = serving()
    except Exception as error:
        _log.warning("the run has no live page: %s", error)
        return LivePage()
    pages.library.add(plan.run_id, run)
    address = pages.address(plan.run_id)
    try:
        if callable(tell):
            tell(address)
        else:
            sys.stderr.write(f"live page of {printable(plan.name)}: {address}\n")
            sys.stderr.flush()
    except Exception:  # of the user's function, or of a standard error that is closed
        _log.warning("nobody could be told the address of the live page", exc_info=True)
    return LivePage([run, pages.metrics], run.wants_end)


def serving() -> Pages:
    """The pages of this process, begun when they are first asked for. They show all its runs, and end with it.

    Raises
    ------
    PagesError
        They cannot be served.
    """
    global _pages
    with _lock:
        if _pages is None or not _pages.is_open:
            _pages = Pages(Library(_find_store))
            atexit.register(stop_serving)
        return _pages


def stop_serving() -> None:
    """Close the pages of this process, if there are any."""
    global _pages
    with _lock:
        pages, _pages = _pages, None
    if pages is not None:
        pages.close()
        atexit.unregister(stop_serving)


def _find_store() -> RunStore | None:
    try:
        return store_to_show()
    except RunStoreError:  # the run has said so already
        return None

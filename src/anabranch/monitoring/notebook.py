"""Progress and states in notebooks: an observer that redraws a table, and what runs and maps look like there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from anabranch.base.events import Event, RunFinished, RunStarted
from anabranch.base.html import Line, colour_of, heading, table
from anabranch.base.rests import Rests
from anabranch.base.run_model import NodeModel, RunModel
from anabranch.monitoring.terminal import Progress, ended_text, map_text, outcome_text, rows_of

EVERY_S = 0.5  # each time the whole table travels to the browser
MAX_LINES = 30


class Display(Protocol):
    """What IPython gives for something that is shown and can be shown anew."""

    def update(self, obj: Any) -> None:
        """Show this in its place."""
        ...


class Html:
    """A piece of HTML, for IPython."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return "<progress of a flow run>"


class NotebookProgress(Progress):
    """A table below the cell that runs the flow, redrawn while it runs.

    Parameters
    ----------
    show
        Shows something, and gives what can show it anew.
    clock
        Gives the time, as events have it.
    """

    is_live = True

    def __init__(self, show: Callable[[Any], Display], *, clock: Callable[[], float] = time.time) -> None:
        self._show = show
        self._clock = clock
        self._model = RunModel(NodeModel)
        self._display: Display | None = None
        self._drawn = 0.0

    def __call__(self, event: Event) -> None:
        """Take note of an event, and redraw if it is time."""
        self._model.take(event)
        now = self._clock()
        if isinstance(event, RunStarted):
            self._display = self._show(Html(self.html()))
        elif self._display is not None and (isinstance(event, RunFinished) or now - self._drawn >= EVERY_S):
            self._display.update(Html(self.html()))
        else:
            return
        self._drawn = now

    def html(self) -> str:
        """The table as it is now."""
        model = self._model
        rows, hidden = rows_of(model, MAX_LINES)
        told = f"run {model.run_id}, {ended_text(model)}"
        lines = (_line_of_node(node, model.rests) for node in rows)
        return heading(model.flow_name, model.state.name, colour_of(model.state), told) + table(lines, more=len(hidden))


def _line_of_node(node: NodeModel, rests: Rests) -> Line:
    state, is_map = node.state, bool(node.width) and node.advance is not None
    part = node.done() / node.width if is_map else None
    if state is not None and state.is_finished():
        return Line(node.slug, node.name, colour_of(state), outcome_text(state), node.duration_s(rests), part)
    told = "; ".join(filter(None, (map_text(node) if is_map else "", node.running_text())))
    return Line(node.slug, node.name, colour_of(state), told, None, part)


def shell() -> Callable[[Any], Display] | None:
    """What shows something in the notebook that this process is the kernel of; None if it is none."""
    ipython = sys.modules.get("IPython")
    get = getattr(ipython, "get_ipython", None)
    if get is None or getattr(get(), "kernel", None) is None:
        return None
    from importlib import import_module

    display = import_module("IPython.display").display

    def show(thing: Any) -> Display:
        handle: Display = display(thing, display_id=True)
        return handle

    return show

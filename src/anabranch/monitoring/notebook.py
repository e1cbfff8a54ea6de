"""Progress and states in notebooks: an observer that redraws a table, and what runs and maps look like there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from anabranch.base.events import Event, RunFinished, RunStarted
from anabranch.base.html import Line, colour_of, heading, table
from anabranch.base.states import State
from anabranch.monitoring.terminal import Board, Progress, Row, map_text, outcome_text

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
        self._board = Board()
        self._display: Display | None = None
        self._drawn = 0.0

    def __call__(self, event: Event) -> None:
        """Take note of an event, and redraw if it is time."""
        self._board.take(event)
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
        board = self._board
        rows, hidden = board.shown(MAX_LINES)
        name, colour = _look(board.state)
        told = f"run {board.run_id}, {board.done:,} of {board.total:,} tasks have ended"
        return heading(board.flow_name, name, colour, told) + table(map(_line, rows), more=hidden)


def _line(row: Row) -> Line:
    state = row.state
    name, colour = _look(state)
    is_over = state is not None and state.is_finished()
    part = None if not row.width else row.done / row.width
    text = outcome_text(row) if is_over else map_text(row) if row.width else ""
    return Line(row.slug, name, colour, text, row.duration_s() if is_over else None, part)


def _look(state: State | None) -> tuple[str, str]:
    return ("Running" if state is None else state.name), colour_of(state)


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

"""States, runs and progress as pieces of HTML, for notebooks. Whatever is in a name or text, it is shown as text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.base.texts import printable, seconds

MAX_TEXT = 300  # characters
# Told apart by people who do not see red and green alike, and beside a word in any case (Okabe and Ito's palette).
GREEN, RED, BLUE, YELLOW, GREY, PURPLE = "#009e73", "#d55e00", "#0072b2", "#b8860b", "#767676", "#aa4499"
_CELL = "padding:1px 10px 1px 0;text-align:left;vertical-align:top"


@dataclass(frozen=True, slots=True)
class Line:
    """A task, or an element, and how it stands."""

    name: str
    state: str
    colour: str
    text: str = ""
    seconds: float | None = None
    done: float | None = None
    """Part of a map that has ended; None where there is no bar to be drawn."""


def colour_of(state: Any) -> str:  # a State, which is above this module
    """Colour of a state, None being one that goes on."""
    if state is None:
        return BLUE
    claims = (
        (state.is_failed(), RED),
        (state.is_cancelled(), PURPLE),
        (state.is_skipped(), GREY),
        (state.is_successful(), GREEN),
        (state.is_pending(), YELLOW),
    )
    return next((colour for claim, colour in claims if claim), BLUE)


def escaped(text: object, limit: int = MAX_TEXT) -> str:
    """Text that can stand in HTML, on one line."""
    line = printable(text)
    return html.escape(line if len(line) <= limit else f"{line[: limit - 1]}…")


def badge(state: str, colour: str) -> str:
    """A state's word in its colour."""
    return f'<span style="color:{colour};font-weight:600">{escaped(state)}</span>'


def heading(name: str, state: str, colour: str, text: str = "") -> str:
    """First line of a run or state."""
    more = f" — {escaped(text)}" if text else ""
    return f'<div style="font-family:sans-serif;font-size:13px">{escaped(name)} {badge(state, colour)}{more}</div>'


def table(lines: Iterable[Line], *, more: int = 0) -> str:
    """Lines as a table; `more`: how many others there are."""
    rows = [_row(line) for line in lines]
    if more:
        rows.append(f'<tr><td colspan="5" style="{_CELL}">… and {more:,} more</td></tr>')
    return f'<table style="font-family:sans-serif;font-size:13px;border-collapse:collapse">{"".join(rows)}</table>'


def _row(line: Line) -> str:
    took = seconds(line.seconds) if line.seconds is not None else ""
    cells: Sequence[str] = (
        escaped(line.name, 60),
        badge(line.state, line.colour),
        bar(line.done, line.colour) if line.done is not None else "",
        took,
        escaped(line.text),
    )
    return f"<tr>{''.join(f'<td style={chr(34)}{_CELL}{chr(34)}>{cell}</td>' for cell in cells)}</tr>"


def bar(part: float, colour: str) -> str:
    """A bar of which a part is filled."""
    percent = max(0.0, min(1.0, part)) * 100
    return (
        '<div role="img" aria-label="' + f"{percent:.0f} %" + '" style="width:120px;height:9px;margin-top:4px;'
        f'background:#8884"><div style="width:{percent:.1f}%;height:9px;background:{colour}"></div></div>'
    )


def states_html(title: str, state: Any, named: Iterable[tuple[str, Any]], *, more: int = 0) -> str:
    """A run, or a map, and what it consists of."""
    lines = [
        Line(name, each.name, colour_of(each), "" if each.message == "done" else each.message, each.duration_s)
        for name, each in named
    ]
    return heading(title, state.name, colour_of(state), state.message) + table(lines, more=more)

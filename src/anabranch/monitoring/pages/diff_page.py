"""Two runs beside each other: what is not the same in them, as ``anabranch diff`` says it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from bokeh.models import Column, Div

from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.looks import safe
from anabranch.monitoring.pages.maps_figure import style_sheet
from anabranch.monitoring.pages.runs_page import run_table
from anabranch.runs.read.compare import Difference

MAX_ROWS = 100  # of a kind


class DiffPage:
    """What differs between two recorded runs.

    Raises
    ------
    AnabranchError
        There is no such run, or nothing is recorded.
    """

    def __init__(self, library: Library, first: str, second: str) -> None:
        runs, found = library.compare(first, second)
        text = f"{_HEAD}{run_table(runs)}{difference_tables(found)}"
        self.root = Column(
            children=[Div(text=text, stylesheets=[style_sheet()], sizing_mode="stretch_width", disable_math=True)],
            sizing_mode="stretch_width",
        )


_HEAD = '<div class="head"><h1>Two runs</h1><a href="./">all runs</a></div>'


def difference_tables(found: Sequence[Difference]) -> str:
    """A table for each kind, in the order in which they came: what may be why comes first."""
    if not found:
        return '<p class="none">nothing that is recorded differs</p>'
    parts = []
    for kind in dict.fromkeys(each.kind for each in found):
        own = [each for each in found if each.kind == kind]
        rows = "".join(
            f"<tr><td>{safe(each.name, 100)}</td><td>{safe(each.before, 200)}</td><td>{safe(each.after, 200)}</td></tr>"
            for each in own[:MAX_ROWS]
        )
        more = f'<p class="none">and {len(own) - MAX_ROWS:,} more</p>' if len(own) > MAX_ROWS else ""
        head = "<thead><tr><th>what</th><th>first run</th><th>second run</th></tr></thead>"
        parts.append(f'<h2>{kind}</h2><div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>{more}')
    return "".join(parts)


def diff_address(first: str, second: str) -> str:
    """The address of the page that compares two runs."""
    return f"diff?a={quote(first, safe='')}&b={quote(second, safe='')}"

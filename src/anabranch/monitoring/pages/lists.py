"""What lists have in common: a search that is part of the address, so that it can be passed on and gone back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from anabranch.monitoring.pages.looks import safe

PAGE = 25
MAX_PAGE = 1_000_000


@dataclass(frozen=True, slots=True)
class Search:
    """What a list shows."""

    text: str = ""
    state: str = ""
    page: int = 1

    @property
    def offset(self) -> int:
        """How many are before this page."""
        return (self.page - 1) * PAGE

    def address(self, path: str, **fixed: str) -> str:
        """The address of the list that shows this."""
        parts = {**fixed, "text": self.text, "state": self.state, "page": str(self.page) if self.page > 1 else ""}
        query = urlencode({name: value for name, value in parts.items() if value})
        return f"{path or './'}?{query}" if query else path or "./"


def read_search(arguments: Mapping[str, str]) -> Search:
    """The search that an address asks for; what cannot be meant counts as not given."""
    page = arguments.get("page", "")
    number = int(page) if page.isascii() and page.isdecimal() and len(page) < 10 else 1
    return Search(arguments.get("text", "").strip(), arguments.get("state", ""), max(1, min(number, MAX_PAGE)))


def search_form(search: Search, *, hint: str, states: Sequence[str] = ()) -> str:
    """A form that asks for another search."""
    options = "".join(
        f'<option value="{safe(state)}"{" selected" if state == search.state else ""}>{state or "any state"}</option>'
        for state in ("", *states)
    )
    chosen = f'<select name="state" aria-label="state">{options}</select>' if states else ""
    return (
        f'<form class="search" method="get" role="search"><input name="text" type="search" value="{safe(search.text)}"'
        f' placeholder="{safe(hint)}" aria-label="{safe(hint)}">{chosen}<button>Find</button></form>'
    )


def turning(search: Search, path: str, *, has_more: bool, **fixed: str) -> str:
    """Links to the pages before and after; nothing if there is one only."""
    links = []
    if search.page > 1:
        before = replace(search, page=search.page - 1).address(path, **fixed)
        links.append(f'<a href="{safe(before, 2_000)}" rel="prev">previous</a>')
    if has_more:
        after = replace(search, page=search.page + 1).address(path, **fixed)
        links.append(f'<a href="{safe(after, 2_000)}" rel="next">next</a>')
    number = f'<span class="faint">page {search.page:,}</span>'
    return f'<p class="turning">{" ".join([number, *links])}</p>' if links else ""

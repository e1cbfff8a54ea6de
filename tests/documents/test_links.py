"""Links of README.md, the other pages of the repository, and docs: where they lead is there, anchors too."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tests.documents.names import problems_of_shell

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# Nothing here asks the network. Whoever adds a page elsewhere looks at it once, and lists it.
ELSEWHERE = {
    "https://keepachangelog.com/en/1.1.0/",
    "https://semver.org/spec/v2.0.0.html",
    "https://www.dask.org",
}


def tokens(page: Path) -> list[Token]:
    found = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    return [each for token in found for each in (token, *(token.children or ()))]


def links(page: Path) -> list[str]:
    """Targets of links and pictures."""
    targets = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(page)]
    return [str(target) for target in targets if target]


def anchors(page: Path) -> set[str]:
    """What headings are called in addresses, on code hosts and in Sphinx alike."""
    found = tokens(page)
    titles = [after.content for token, after in pairwise(found) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def problem_of(page: Path, target: str) -> str | None:
    if target.startswith(("https://", "http://", "mailto:")):
        return None if target in ELSEWHERE else f"{target} is not listed in {Path(__file__).name}"
    name, _, anchor = target.partition("#")
    found = (page.parent / name).resolve() if name else page
    if not found.exists():
        return f"{target} is not there"
    if anchor and anchor not in anchors(found):
        return f"{name or page.name} has no heading {anchor!r}; it has {sorted(anchors(found))}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    assert [problem for target in links(page) if (problem := problem_of(page, target))] == []


@pytest.mark.parametrize("target", ["nowhere.md", "README.md#nowhere", "https://example.com/new"])
def test_a_link_that_leads_nowhere_is_found(target: str):
    assert problem_of(ROOT / "CHANGELOG.md", target) is not None


def test_a_link_to_a_heading_is_understood():
    assert problem_of(ROOT / "README.md", "#try-it") is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_text_are_there(page: Path):
    spans = [token.content for token in tokens(page) if token.type == "code_inline"]
    commands = [span for span in spans if span.startswith("anabranch ") and "…" not in span]
    assert [f"{each}: {problem}" for each in commands for problem in problems_of_shell(each)] == []

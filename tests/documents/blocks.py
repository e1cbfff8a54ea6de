"""The code blocks of a Markdown page, each with the marks that stand before it.

A mark is an HTML comment, which readers do not see. CONTRIBUTING.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

_MARK = re.compile(r"<!--\s*(?P<name>[a-z ]+?)(?::\s*(?P<value>.*?)|\n(?P<code>.*?))?\s*-->", flags=re.DOTALL)
MARKS = frozenset({"command", "not run", "file", "hidden", "run", "exit code", "until", "prints"})
"""Every mark that there is; `Block` says what those mean that belong to a block."""


class MarkError(ValueError):
    """A mark that is unknown, or where it means nothing."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, or Python in a ``hidden`` comment."""

    page: Path
    line: int
    """Number of its first line of code, from 1."""
    language: str
    """``python``, ``bash``, ``yaml`` …; of Sphinx's directives the name in braces; "" where none is given."""
    code: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """``page.md:12``."""
        return f"{self.page.name}:{self.line}"

    @property
    def file(self) -> str:
        """The name of the file that this block shows: by a mark, or by its first line, ``# name.py``; else ""."""
        named = re.match(r"# ([\w./-]+\.(?:py|yaml|toml|json))\n", self.code)
        return self.marks.get("file") or (named[1] if named else "")

    @property
    def why_not_run(self) -> str:
        """The reason why this block is only checked, or ""."""
        return self.marks.get("not run") or ("`.ci/run` runs it" if "command" in self.marks else "")


def blocks(page: Path) -> list[Block]:
    """Everything on a page that looks like code, from top to bottom."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    marks: dict[str, str] = {}
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        line = (token.map or [0])[0] + 1
        if token.type == "html_block":
            for mark in _MARK.finditer(token.content):
                name = mark["name"]
                if name not in MARKS:
                    raise MarkError(f"{page.name}:{line}: no mark is called {name!r}; there are {sorted(MARKS)}")
                if name == "hidden":
                    ahead = token.content[: mark.start("code")].count("\n")
                    yield Block(page, line + ahead, "python", mark["code"] + "\n")
                else:
                    marks[name] = (mark["value"] or "").strip()
        elif token.type == "fence":
            language = token.info.strip().split(" ")[0]
            yield Block(page, line + 1, language, token.content, marks)
            marks = {}
        elif marks and token.level == 0 and token.nesting >= 0:
            raise MarkError(f"{page.name}:{line}: {sorted(marks)} must stand right before a block")

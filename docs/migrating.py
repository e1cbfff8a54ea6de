"""Puts the table of ``anabranch.base.prefect1`` into ``docs/howto/migrating.md``: ``python docs/migrating.py``."""

from __future__ import annotations

from pathlib import Path

from anabranch.base.prefect1 import TABLE

PAGE = Path(__file__).parent / "howto" / "migrating.md"
BEGIN = "<!-- made by migrating.py, from here -->\n"


def page() -> str:
    """The page with the table as it is now."""
    text = PAGE.read_text(encoding="utf-8")
    return f"{text.partition(BEGIN)[0]}{BEGIN}\n{TABLE.read_text(encoding='utf-8')}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

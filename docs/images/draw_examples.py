"""Draw the flow of each example: ``python docs/images/draw_examples.py`` writes ``docs/images/examples/NAME.svg``.

Versions of Graphviz differ in the numbers that they write, so a test compares what it was asked to draw: the digest of
that is the last line of each file.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

from anabranch import Flow

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "images" / "examples"


def names() -> list[str]:
    """Names of the examples."""
    return sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def flow_of(name: str) -> Flow:
    """The flow of an example."""
    flow: Flow = importlib.import_module(f"examples.{name}").flow
    return flow


def digest(name: str) -> str:
    """The line that tells which picture it is."""
    dot = flow_of(name).visualize(format="dot")
    return f"<!-- DOT: {hashlib.sha256(dot.encode()).hexdigest()} -->"


def draw(name: str) -> Path:
    """Write the picture of an example; its path."""
    svg = flow_of(name).visualize(format="svg")
    path = FOLDER / f"{name}.svg"
    path.write_text(f"{svg.rstrip()}\n{digest(name)}\n", encoding="utf-8", newline="\n")
    return path


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    FOLDER.mkdir(exist_ok=True)
    for each in names():
        print(draw(each).relative_to(ROOT))

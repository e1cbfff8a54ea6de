"""Pictures of a flow: DOT and Mermaid as text, SVG and PNG by way of Graphviz.

Both texts come from one `anabranch.monitoring.pictures.picture.Picture`. Running the flow and finding its states is
left to `anabranch.flows.flow`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from anabranch.base.errors import DrawingError, GraphvizMissing, OptionError, nearest
from anabranch.base.states import State
from anabranch.definition.graph import Graph
from anabranch.monitoring.pictures.dot import dot_text
from anabranch.monitoring.pictures.mermaid import mermaid_text
from anabranch.monitoring.pictures.picture import picture

Format: TypeAlias = Literal["dot", "mermaid", "svg", "png"]

SUFFIXES: dict[str, Format] = {".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".mermaid": "mermaid", ".svg": "svg",
                               ".png": "png"}  # fmt: skip
PNG_DPI = 144  # twice Graphviz's own, for the screens of today


def draw(
    graph: Graph,
    *,
    format: Format | None = None,
    states: Mapping[str, State] | None = None,
    filename: str | os.PathLike[str] | None = None,
    legend: bool = False,
) -> str:
    """Draw a graph.

    Parameters
    ----------
    graph
        The graph of a flow.
    format
        ``dot`` and ``mermaid`` need nothing; ``svg`` and ``png`` need Graphviz. Default: the one that the suffix of
        `filename` tells, else ``dot``.
    states
        States by slug, to be shown; nodes without one are drawn as pending.
    filename
        File to write, as it is given. A PNG without one goes to a file named after the flow in the current directory.
    legend
        Whether to add a group that explains shapes, lines and states.

    Returns
    -------
    str
        The text, or the path of the file that was written.

    Raises
    ------
    OptionError
        There is no such format, or the suffix of `filename` is that of another one.
    GraphvizMissing
        The format needs Graphviz's ``dot``, and it is not there.
    DrawingError
        ``dot`` could not draw it.

    Examples
    --------
    >>> text = draw(Graph("etl"), format="mermaid")
    >>> text.splitlines()[:4]
    ['---', 'title: "etl"', '---', 'flowchart LR']
    """
    path = Path(filename) if filename is not None else None
    format = _format(format, path)
    drawn = picture(graph, states, legend=legend)
    if format == "png":
        path = path or Path(f"{_file_stem(graph.name)}.png")
        path.write_bytes(_graphviz(dot_text(drawn, background="white"), "png"))  # viewers differ on transparency
        return str(path)
    if format == "svg":
        text = _graphviz(dot_text(drawn), "svg").decode()
        text = text[text.index("<svg") :]  # without prolog and DOCTYPE it can stand in a page too
    else:
        text = dot_text(drawn) if format == "dot" else mermaid_text(drawn)
    if path is None:
        return text
    path.write_text(text, encoding="utf-8", newline="\n")
    return str(path)


def _format(format: str | None, path: Path | None) -> Format:
    suffix = path.suffix.lower() if path is not None else ""
    if format is None:
        return SUFFIXES.get(suffix, "dot")
    known: tuple[Format, ...] = get_args(Format)
    for each in known:
        if each == format:
            if SUFFIXES.get(suffix, each) != each:
                raise OptionError(f"draw(): {str(path)!r} is a name for {SUFFIXES[suffix]}, found format {format!r}")
            return each
    raise OptionError(f"draw(): no format {format!r}; there are: {', '.join(known)}{nearest(str(format), known)}")


def _file_stem(name: str) -> str:
    """A file name without anything that a file system or a shell may take amiss.

    Examples
    --------
    >>> _file_stem("../daily tiles: Köln")
    'daily_tiles_Köln'
    """
    stem = re.sub(r"[^\w-]+", "_", name).strip("_-")[:60]  # letters have up to 4 bytes, file names up to 255
    return f"flow_{stem}" if re.fullmatch(r"(?i)|con|prn|aux|nul|com\d|lpt\d", stem) else stem


def _graphviz(dot: str, format: Literal["svg", "png"]) -> bytes:
    program = shutil.which("dot")
    if program is None:
        raise GraphvizMissing(
            f"format {format!r} needs Graphviz, but its program `dot` is not on the PATH; install it "
            "(`apt install graphviz` on Debian and Ubuntu, `brew install graphviz`, `conda install graphviz`), "
            'or use format="dot" or format="mermaid", which need nothing'
        )
    options = [f"-T{format}", *([f"-Gdpi={PNG_DPI}"] if format == "png" else [])]
    done = subprocess.run([program, *options], input=dot.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()[:1000]
        raise DrawingError(f"Graphviz ({program}) ended with code {done.returncode}: {message or 'no message'}")
    return done.stdout

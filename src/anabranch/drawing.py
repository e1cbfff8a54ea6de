"""Pictures of a flow: DOT and Mermaid as text, SVG and PNG by way of Graphviz.

A node is one box, a map of a million elements too. Shapes tell what a node is; with states, colours *and* symbols tell
how it ended. Both texts come from one `Picture`. Running the flow and finding its states is left to `anabranch.flow`.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import NoneType
from typing import Literal, TypeAlias, get_args

from anabranch import states as st
from anabranch.bindings import Const
from anabranch.errors import DrawingError, GraphvizMissing, OptionError, nearest
from anabranch.frozen import Edge, EdgeKind
from anabranch.graph import Entry, Graph, NodeLike
from anabranch.states import State

Format: TypeAlias = Literal["dot", "mermaid", "svg", "png"]
Role: TypeAlias = Literal["task", "parameter", "condition", "step"]
LineKind: TypeAlias = EdgeKind | Literal["hidden"]

SUFFIXES: dict[str, Format] = {".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".mermaid": "mermaid", ".svg": "svg",
                               ".png": "png"}  # fmt: skip
MAX_TITLE = 40  # characters of a name in a box; the tooltip has all of it
MAX_TOOLTIP = 400  # characters; a message of a state may be long
PNG_DPI = 144  # twice Graphviz's own, for the screens of today
LARGE = 1500  # boxes and lines; above it the layout is rough: an exact one takes 8 s for 3,000, minutes for 9,000

# Looks ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Colours of a box, and the symbol that says the same without colour."""

    fill: str
    ink: str
    symbol: str = ""
    dashed: bool = False


# Fills are Okabe and Ito's colour-blind-safe set (https://jfly.uni-koeln.de/color/), darkened where the text on them is
# white; text has a contrast of at least 5 (tested). The symbols are in DejaVu and Segoe, and none of them is an emoji.
DARK = "#1b1f24"
GREEN = Look("#00795a", "#ffffff", "✓")
PALE = Look("#eef1f4", DARK, "…")
LOOKS: dict[type[State], Look] = {
    st.Success: GREEN,
    st.Skipped: Look("#c3c9d0", DARK, "↷", dashed=True),
    st.Failed: Look("#b84a00", "#ffffff", "✗"),
    st.TriggerFailed: Look("#f6c7a8", DARK, "✗"),  # a consequence: paler than its cause
    st.Cancelled: Look("#8f3f71", "#ffffff", "■"),
    st.Running: Look("#56b4e9", DARK, "►"),
    st.Looped: Look("#56b4e9", DARK, "↻"),
    st.Retrying: Look("#e69f00", DARK, "↻"),
    st.Paused: Look("#f0e442", DARK, "‖"),
    st.Pending: PALE,
}
ROLE_LOOKS: dict[Role, Look] = {
    "task": Look("#dcebf7", DARK),
    "parameter": Look("#fdf0cd", DARK),
    "condition": Look("#f3e1ec", DARK),
    "step": Look("#e4e7eb", DARK),
}
TIMES = "\u00d7"  # before the width of a map
GREY = "#767c85"  # lines and text outside of boxes: contrast 4 or more on white and on the usual dark backgrounds
SPOKEN = (st.Success, st.Mapped, st.Failed, st.Running, st.Pending)  # states that their symbol says all of


def look_of(state: State) -> Look:
    """The look of a state's class, or of the nearest one above it."""
    return next((LOOKS[cls] for cls in type(state).__mro__ if cls in LOOKS), PALE)


# The picture ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Box:
    """A node as it is drawn. Texts are the user's, on one line, not escaped."""

    id: str
    role: Role
    title: str
    look: Look
    is_map: bool = False
    detail: str = ""
    """Second line: a map's width or counts, a state's word."""
    tooltip: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """An edge as it is drawn."""

    tail: str
    head: str
    kind: LineKind
    label: str = ""
    mapped: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Boxes of one nested flow, with those nested in it."""

    name: str
    boxes: list[Box] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)

    def at(self, path: tuple[str, ...]) -> Group:
        """The group of that path, made if it is not there."""
        here = self
        for name in path:
            here = here.groups.setdefault(name, Group(name))
        return here

    def all_boxes(self) -> Iterator[Box]:
        """Boxes of this group and of all within it."""
        yield from self.boxes
        for group in self.groups.values():
            yield from group.all_boxes()


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be drawn, whatever the format."""

    root: Group
    lines: list[Line]


def picture(graph: Graph, states: Mapping[str, State] | None = None, *, legend: bool = False) -> Picture:
    """The picture of a graph; `states` are by slug, and nodes without one are drawn as pending."""
    root = Group(graph.name)
    ids = {node: f"n{i}" for i, node in enumerate(graph)}
    for node, id_ in ids.items():
        entry = graph.entry(node)
        root.at(entry.groups).boxes.append(_box(id_, node, entry, states))
    result = Picture(root, list(_lines(graph, ids)))
    _add_calls(result, graph, ids, states or {})
    if legend:
        _add_legend(result)
    return result


def _box(id_: str, node: NodeLike, entry: Entry, states: Mapping[str, State] | None) -> Box:
    role = _role(node)
    if states is None:
        state, look = None, ROLE_LOOKS[role]
    else:
        state = states.get(entry.slug)
        look = PALE if state is None else look_of(state)
    about = [entry.slug]
    if state is not None:
        about += [str(state), state.failure.headline() if state.failure else ""]
    return Box(
        id=id_,
        role=role,
        title=" ".join(filter(None, (look.symbol, _one_line(entry.slug, MAX_TITLE)))),
        look=look,
        is_map=entry.is_map,
        detail=_detail(node, entry, state),
        tooltip="\n".join(_one_line(text, MAX_TOOLTIP) for text in about if text),
    )


def _role(node: NodeLike) -> Role:
    if node.kind == "parameter":
        return "parameter"
    if node.kind == "condition":
        return "condition"
    # Merges, flattens, collects; operators, items and constants have no task either.
    return "step" if node.kind != "task" or node.template is None else "task"


def _detail(node: NodeLike, entry: Entry, state: State | None) -> str:
    parts = [_operands(node, entry)] if _role(node) == "step" and node.kind == "task" else []
    counts = state.counts if state is not None else None
    if counts is not None and counts.successful < counts.total:
        parts.append(f"{counts.successful:,}/{counts.total:,}")
        parts += [f"{symbol}{n:,}" for symbol, n in (("✗", counts.failed), ("↷", counts.skipped)) if n]
    elif entry.is_map:
        width = counts.total if counts is not None else _known_width(entry)
        parts.append(f"{TIMES} n" if width is None else f"{TIMES} {width:,}")
    if state is not None and type(state) not in SPOKEN:
        parts.append(state.name)
    elif state is not None and state.failure is not None and counts is None:
        parts.append(state.failure.type_name.rpartition(".")[2])
    return _one_line(" ".join(filter(None, parts)), MAX_TITLE)


def _operands(node: NodeLike, entry: Entry) -> str:
    """What an operator takes beside nodes, such as ``(·, 1000)``; nothing if its name tells."""
    constants = {name: _atom(bound.value) for name, bound in entry.arguments.items() if isinstance(bound, Const)}
    if len(entry.arguments) < 2 or all(shown in node.name for shown in constants.values()):
        return ""
    return f"({', '.join(constants.get(name, '·') for name in entry.arguments)})"


def _atom(value: object) -> str:
    """A repr that is quick and runs no code of a user's."""
    if type(value) is str:
        return repr(value[:MAX_TITLE])
    if type(value) is int and abs(value) >= 10**15:  # repr refuses an int of some thousand digits
        return "…"
    return repr(value) if type(value) in (bool, int, float, NoneType) else "…"


def _known_width(entry: Entry) -> int | None:
    """Width of a map over a list that was there when the flow was written."""
    constants = (bound.value for name in entry.mapped if isinstance(bound := entry.arguments.get(name), Const))
    return next((len(value) for value in constants if isinstance(value, (list, tuple, range))), None)


def _lines(graph: Graph, ids: Mapping[NodeLike, str]) -> Iterator[Line]:
    """The edges; those that differ only in the argument they feed are one line."""
    for node in graph:
        into: dict[tuple[object, EdgeKind, bool], list[Edge]] = {}
        for edge in graph.edges_into(node):
            into.setdefault((edge.upstream, edge.kind, edge.mapped), []).append(edge)
        # The arguments of steps are ours, and tell nothing, unless it matters which operand is which.
        operands = {edge.key for edge in graph.edges_into(node) if edge.kind == "data"}
        is_labelled = _role(node) == "task" or (node.kind == "task" and len(operands) > 1)
        for (_, kind, mapped), edges in into.items():
            keys = [edge.key for edge in edges if edge.key] if is_labelled else []
            label = _one_line(", ".join(keys), MAX_TITLE)
            yield Line(ids[edges[0].upstream], ids[node], kind, label, mapped)


def _add_calls(drawn: Picture, graph: Graph, ids: Mapping[NodeLike, str], states: Mapping[str, State]) -> None:
    """Add the deferred calls of a run: those of a caller to a task are one box, below the caller."""
    places = {graph.entry(node).slug: (id_, graph.entry(node).groups) for node, id_ in ids.items()}
    for slug, state in states.items():
        caller = slug
        while caller not in places and "/" in caller:
            caller = caller.rpartition("/")[0]
        if slug in places or caller not in places:
            continue
        above, groups = places[caller]
        id_ = f"c{len(places)}"
        places[slug] = (id_, groups)
        look, name = look_of(state), slug[len(caller) + 1 :]
        counts = state.counts
        detail = f"{TIMES} {counts.total:,}" if counts is not None else ""
        if counts is not None and counts.successful < counts.total:
            detail = f"{counts.successful:,}/{counts.total:,}"
        title = " ".join(filter(None, (look.symbol, _one_line(name, MAX_TITLE))))
        tooltip = "\n".join(_one_line(text, MAX_TOOLTIP) for text in (slug, str(state)))
        box = Box(id_, "task", title, look, is_map=True, detail=detail, tooltip=tooltip)
        drawn.root.at(groups).boxes.append(box)
        drawn.lines.append(Line(above, id_, "data", "calls", mapped=True))


def _add_legend(drawn: Picture) -> None:
    """Add a group that shows each kind of box and line, and each state there is."""
    there = {box.look for box in drawn.root.all_boxes()}
    shown = [(cls.__name__, look) for cls, look in LOOKS.items() if look in there]
    group = drawn.root.groups[""] = Group("Legend")  # no flow has an empty name
    parts: tuple[tuple[Role, str, bool], ...] = (
        ("parameter", "parameter", False),
        ("task", "task", False),
        ("task", "map", True),
        ("condition", "condition", False),
        ("step", "merge, flatten, operator …", False),
    )
    for i, (role, title, is_map) in enumerate(parts):
        look = Look("#ffffff", DARK) if shown else ROLE_LOOKS[role]
        group.boxes.append(Box(f"legend{i}", role, title, look, is_map, f"{TIMES} width" if is_map else ""))
    lines: tuple[tuple[LineKind, str, bool], ...] = (
        ("data", "argument", False), ("data", "per element", True), ("order", "order", False), ("gate", "gate", False)
    )  # fmt: skip
    for i, (kind, label, mapped) in enumerate(lines):
        drawn.lines.append(Line(f"legend{i}", f"legend{i + 1}", kind, label, mapped))
    for i, (name, look) in enumerate(shown):
        group.boxes.append(Box(f"state{i}", "task", f"{look.symbol} {name}", look))
        if i % len(parts):  # rows as long as that of the shapes
            drawn.lines.append(Line(f"state{i - 1}", f"state{i}", "hidden"))


def _one_line(text: str, limit: int) -> str:
    """Text that every format can hold: no control characters, nor what turns writing around; bounded."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


# DOT ------------------------------------------------------------------------------------------------------------------

_DOT_SHAPES: dict[Role, str] = {
    "task": 'shape=box style="{style}rounded,filled"',
    "parameter": 'shape=ellipse style="{style}filled" margin="0.02,0.04"',
    "condition": 'shape=diamond style="{style}filled" margin="0.04,0.03" fontsize=10',
    "step": 'shape=box style="{style}filled" margin="0.06,0.03" fontsize=9 height=0.2 width=0.2',
}
_DOT_ROUGH = "  graph [nslimit=1 nslimit1=1 mclimit=0.1 splines=line outputorder=edgesfirst]"
_DOT_LINES: dict[LineKind, str] = {"data": "", "order": "style=dotted", "gate": "style=dashed", "hidden": "style=invis"}


def dot_text(drawn: Picture, *, background: str = "transparent") -> str:
    """The picture in Graphviz's language."""
    font = 'fontname="Helvetica,Arial,sans-serif"'
    is_large = sum(1 for _ in drawn.root.all_boxes()) + len(drawn.lines) > LARGE
    return "\n".join(
        [
            "digraph flow {",
            f'  graph [rankdir=LR bgcolor="{background}" pad=0.15 nodesep=0.25 ranksep=0.5 labelloc=t labeljust=l '
            f'{font} fontcolor="{GREY}" fontsize=12 label=<{_dot_html(drawn.root.name)}> tooltip=" "]',
            *([_DOT_ROUGH] if is_large else []),
            f'  node [{font} fontsize=12 color="{GREY}" margin="0.14,0.06" height=0.3]',
            f'  edge [{font} fontsize=9 color="{GREY}" fontcolor="{GREY}" arrowsize=0.7 tooltip=" " labeltooltip=" "]',
            *_dot_group(drawn.root, "  ", count()),
            *(_dot_line(line, is_labelled=not is_large) for line in drawn.lines),
            "}\n",
        ]
    )


def _dot_group(group: Group, indent: str, numbers: Iterator[int]) -> Iterator[str]:
    for box in group.boxes:
        yield f"{indent}{box.id} [{_dot_box(box)}]"
    for inner in group.groups.values():
        yield f"{indent}subgraph cluster_{next(numbers)} {{"
        yield f'{indent}  graph [label=<{_dot_html(inner.name)}> style=rounded color="{GREY}" fontsize=10 margin=10]'
        yield from _dot_group(inner, indent + "  ", numbers)
        yield f"{indent}}}"


def _dot_box(box: Box) -> str:
    detail = f'<BR/><FONT POINT-SIZE="9">{_dot_html(box.detail)}</FONT>' if box.detail else ""
    shape = _DOT_SHAPES[box.role].format(style="dashed," if box.look.dashed else "")
    peripheries = " peripheries=2" if box.is_map else ""
    return (
        f"label=<{_dot_html(box.title)}{detail}> {shape}{peripheries} "
        f'fillcolor="{box.look.fill}" fontcolor="{box.look.ink}" tooltip="{_dot_tooltip(box.tooltip or " ")}"'
    )


def _dot_line(line: Line, *, is_labelled: bool) -> str:
    looks = [_DOT_LINES[line.kind], "penwidth=2.4" if line.mapped else ""]
    looks.append(f"label=<{_dot_html(line.label)}>" if line.label and is_labelled else "")
    attributes = " ".join(filter(None, looks))
    return f"  {line.tail} -> {line.head}" + (f" [{attributes}]" if attributes else "")


def _dot_html(text: str) -> str:
    # Graphviz replaces \N and \G in HTML-like labels too; it refuses a lone ], and a label of no text.
    return html.escape(text).replace("\\", "\\\\").replace("]", "&#93;") or " "


def _dot_tooltip(text: str) -> str:
    # Graphviz takes escapes out of tooltips twice, with different rules; after a backslash that is followed by a word
    # joiner (no width, no break) it finds none.
    return text.replace("\\", "\\\\\u2060").replace('"', '\\"').replace("&", "&amp;").replace("\n", "\\n")


# Mermaid --------------------------------------------------------------------------------------------------------------

_MERMAID_SHAPES: dict[Role, tuple[str, str]] = {
    "task": ("(", ")"),
    "parameter": ("([", "])"),
    "condition": ("{", "}"),
    "step": ("[", "]"),
}
_MERMAID_DASHES: dict[LineKind, str] = {"order": "1 4", "gate": "6 4"}
_PLAIN = frozenset(" _,/")  # ASCII beside letters and digits that means nothing to Mermaid, nor to Markdown in it
_MERMAID_STARTS = re.compile(r"\\(?=n)|\$(?=\$)|:(?=fa-)")


def mermaid_text(drawn: Picture) -> str:
    """The picture in Mermaid's language, as GitHub shows it: up to 500 edges and 50,000 characters."""
    classes: dict[str, str] = {f"fill:none,stroke:{GREY}": "c0"}
    body = [*_mermaid_group(drawn.root, "  ", count(), classes)]
    dashed: dict[LineKind, list[str]] = {kind: [] for kind in _MERMAID_DASHES}
    for i, line in enumerate(drawn.lines):
        arrow = "~~~" if line.kind == "hidden" else "==>" if line.mapped else "-->"
        label = f'|"{_mermaid(line.label)}"|' if line.label else ""
        body.append(f"  {line.tail} {arrow}{label} {line.head}")
        if line.kind in dashed:
            dashed[line.kind].append(str(i))
    for kind, at in dashed.items():
        body += [f"  linkStyle {','.join(at)} stroke-dasharray:{_MERMAID_DASHES[kind]}"] if at else []
    head = ["---", f"title: {_mermaid_title(drawn.root.name)}", "---", "flowchart LR"]
    return "\n".join([*head, *body, *(f"  classDef {name} {style}" for style, name in classes.items()), ""])


def _mermaid_group(group: Group, indent: str, numbers: Iterator[int], classes: dict[str, str]) -> Iterator[str]:
    for box in group.boxes:
        opening, closing = ("[[", "]]") if box.is_map and box.role in ("task", "step") else _MERMAID_SHAPES[box.role]
        detail = f"<br/>{_mermaid(box.detail)}" if box.detail else ""
        name = classes.setdefault(_mermaid_style(box), f"c{len(classes)}")
        yield f'{indent}{box.id}{opening}"{_mermaid(box.title)}{detail}"{closing}:::{name}'
    for inner in group.groups.values():
        id_ = f"g{next(numbers)}"
        yield f'{indent}subgraph {id_} ["{_mermaid(inner.name)}"]'
        yield from _mermaid_group(inner, indent + "  ", numbers, classes)
        yield f"{indent}end"
        yield f"{indent}class {id_} c0"


def _mermaid_style(box: Box) -> str:
    look = box.look
    styles = [f"fill:{look.fill}", f"color:{look.ink}", f"stroke:{GREY}", f"stroke-width:{3 if box.is_map else 1}px"]
    if look.dashed:
        styles.append("stroke-dasharray:4 3")
    if box.role == "step":
        styles.append("font-size:12px")
    return ",".join(styles)


def _mermaid(text: str) -> str:
    """Text inside Mermaid's quotes.

    Everything that may mean something is a numeric entity: quotes, brackets, Markdown, and ``:``, after which Mermaid
    strips a semicolon from any line with ``style`` in it. Line breaks, formulas and icons it looks for once entities
    are characters again, so a word joiner (no width, no break) stands in the middle of what starts one.
    """
    text = _MERMAID_STARTS.sub("\\g<0>\u2060", text)
    return "".join(c if c.isalnum() or not c.isascii() or c in _PLAIN else f"#{ord(c)};" for c in text) or " "


def _mermaid_title(text: str) -> str:
    """A YAML string in which nothing but letters, digits and spaces stands for itself; Mermaid takes it for HTML."""
    text = text.translate(str.maketrans("<>&", "\u2039\u203a\uff06"))
    return '"' + "".join(c if c.isalnum() or c in " _" else f"\\U{ord(c):08x}" for c in text) + '"'


# Files ----------------------------------------------------------------------------------------------------------------


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
            f"format {format!r} needs Graphviz, and there is no program `dot` on the PATH; install it "
            "(`apt install graphviz` on Debian and Ubuntu, `brew install graphviz`, `conda install graphviz`), "
            'or use format="dot" or format="mermaid", which need nothing'
        )
    options = [f"-T{format}", *([f"-Gdpi={PNG_DPI}"] if format == "png" else [])]
    done = subprocess.run([program, *options], input=dot.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()[:1000]
        raise DrawingError(f"Graphviz ({program}) ended with code {done.returncode}: {message or 'no message'}")
    return done.stdout

"""What is drawn of a flow: boxes, lines and groups, with colours, symbols and texts.

A node is one box, a map of a million elements too. Shapes tell what a node is; with states, colours *and* symbols tell
how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Literal, TypeAlias

from anabranch.base import states as st
from anabranch.base.states import State
from anabranch.definition.expressions import Const
from anabranch.definition.frozen import Edge, EdgeKind
from anabranch.definition.graph import Entry, Graph, NodeLike

Role: TypeAlias = Literal["task", "parameter", "condition", "step"]
LineKind: TypeAlias = EdgeKind | Literal["hidden"]

MAX_TITLE = 40  # characters of a name in a box; the tooltip has all of it
MAX_TOOLTIP = 400  # characters; a message of a state may be long

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
class DrawnEdge:
    """An edge as it is drawn."""

    tail: str
    head: str
    kind: LineKind
    label: str = ""
    mapped: bool = False


@dataclass(frozen=True, slots=True)
class DrawnGroup:
    """Boxes of one nested flow, with those nested in it."""

    name: str
    boxes: list[Box] = field(default_factory=list)
    groups: dict[str, DrawnGroup] = field(default_factory=dict)

    def at(self, path: tuple[str, ...]) -> DrawnGroup:
        """The group of that path, made if it is not there."""
        here = self
        for name in path:
            here = here.groups.setdefault(name, DrawnGroup(name))
        return here

    def all_boxes(self) -> Iterator[Box]:
        """Boxes of this group and of all within it."""
        yield from self.boxes
        for group in self.groups.values():
            yield from group.all_boxes()


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be drawn, whatever the format."""

    root: DrawnGroup
    lines: list[DrawnEdge]


def picture(graph: Graph, states: Mapping[str, State] | None = None, *, legend: bool = False) -> Picture:
    """The picture of a graph; `states` are by slug, and nodes without one are drawn as pending."""
    root = DrawnGroup(graph.name)
    ids = {node: f"n{i}" for i, node in enumerate(graph)}
    for node, id_ in ids.items():
        entry = graph.entry(node)
        root.at(entry.groups).boxes.append(_box(id_, node, entry, states))
    result = Picture(root, list(_draw_lines(graph, ids)))
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
        title=" ".join(filter(None, (look.symbol, one_line(entry.slug, MAX_TITLE)))),
        look=look,
        is_map=entry.is_map,
        detail=_detail(node, entry, state),
        tooltip="\n".join(one_line(text, MAX_TOOLTIP) for text in about if text),
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
        symbols = {"failed": "✗", "cancelled": "■", "skipped": "↷"}
        parts += [f"{symbols[word]}{n:,}" for word, n in counts.by_word().items() if n and word in symbols]
    elif entry.is_map:
        width = counts.total if counts is not None else _known_width(entry)
        parts.append(f"{TIMES} n" if width is None else f"{TIMES} {width:,}")
    if state is not None and type(state) not in SPOKEN:
        parts.append(state.name)
    elif state is not None and state.failure is not None and counts is None:
        parts.append(state.failure.type_name.rpartition(".")[2])
    return one_line(" ".join(filter(None, parts)), MAX_TITLE)


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


def _draw_lines(graph: Graph, ids: Mapping[NodeLike, str]) -> Iterator[DrawnEdge]:
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
            label = one_line(", ".join(keys), MAX_TITLE)
            yield DrawnEdge(ids[edges[0].upstream], ids[node], kind, label, mapped)


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
        title = " ".join(filter(None, (look.symbol, one_line(name, MAX_TITLE))))
        tooltip = "\n".join(one_line(text, MAX_TOOLTIP) for text in (slug, str(state)))
        box = Box(id_, "task", title, look, is_map=True, detail=detail, tooltip=tooltip)
        drawn.root.at(groups).boxes.append(box)
        drawn.lines.append(DrawnEdge(above, id_, "data", "calls", mapped=True))


def _add_legend(drawn: Picture) -> None:
    """Add a group that shows each kind of box and line, and each state there is."""
    there = {box.look for box in drawn.root.all_boxes()}
    shown = [(cls.__name__, look) for cls, look in LOOKS.items() if look in there]
    group = drawn.root.groups[""] = DrawnGroup("Legend")  # no flow has an empty name
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
        drawn.lines.append(DrawnEdge(f"legend{i}", f"legend{i + 1}", kind, label, mapped))
    for i, (name, look) in enumerate(shown):
        group.boxes.append(Box(f"state{i}", "task", f"{look.symbol} {name}", look))
        if i % len(parts):  # rows as long as that of the shapes
            drawn.lines.append(DrawnEdge(f"state{i - 1}", f"state{i}", "hidden"))


def one_line(text: str, limit: int) -> str:
    """Text that every format can hold: no control characters, nor what turns writing around; bounded."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)

"""Pictures in Mermaid's language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from anabranch.monitoring.pictures.picture import GREY, Box, DrawnGroup, LineKind, Picture, Role

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


def _mermaid_group(group: DrawnGroup, indent: str, numbers: Iterator[int], classes: dict[str, str]) -> Iterator[str]:
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

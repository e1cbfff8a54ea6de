"""Pictures in Graphviz's language."""

from __future__ import annotations

import html
from collections.abc import Iterator
from itertools import count

from anabranch.monitoring.pictures.picture import GREY, Box, DrawnEdge, DrawnGroup, LineKind, Picture, Role

LARGE = 1500  # boxes and lines; above it the layout is rough: an exact one takes 8 s for 3,000, minutes for 9,000
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


def _dot_group(group: DrawnGroup, indent: str, numbers: Iterator[int]) -> Iterator[str]:
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


def _dot_line(line: DrawnEdge, *, is_labelled: bool) -> str:
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

"""The flow as a picture of boxes in layers, coloured by state, with each map's progress. It follows a model.

Lines are one SVG that never changes; boxes are HTML in blocks, of which only those are sent anew that have changed. A
canvas would be drawn as a whole each time: with a thousand boxes that takes a browser half of its time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bokeh.models import Column, Div, InlineStyleSheet, Spacer

from anabranch.base.run_model import is_failure
from anabranch.base.states import (
    BY_CODE,
    FIRST_FAILED_CODE,
    FIRST_FINAL_CODE,
    Cancelled,
    Pending,
    Retrying,
    Running,
    Skipped,
    Success,
)
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.graph_layout import GraphLayout, layered
from anabranch.monitoring.pages.graph_tools import STYLE as TOOLS
from anabranch.monitoring.pages.graph_tools import graph_tools
from anabranch.monitoring.pages.looks import (
    CUT,
    FONT,
    INK,
    LINE,
    SEVERITY,
    cut_middle,
    disarm,
    look_of_code,
    panel_address,
    safe,
)
from anabranch.monitoring.pages.page_model import PageModel, PageNode
from anabranch.monitoring.pictures.picture import ROLE_LOOKS

BOX_W, GAP_X = 124, 34
NARROW_W, NARROW_GAP_X = 104, 12
FITS_PX = 1_230  # of a screen of 1,280: a flow that fits with narrower boxes and gaps is shown whole
MARGIN = 14
PAPER_PX = 650  # of a sheet of A4
MANY = 150  # boxes; more of them are flat, and say the rest when they are pointed at
BLOCK = 25  # boxes that are sent together: 6 kB
MAX_BLOCKS = 12  # sent at a time; the others wait for the next one, in turn
GOOD, BAD, REST = "#00795a", "#b84a00", "#c6d0da"
MAX_ENDS = 12  # calls of a task that have lines to what waits for them; of more, the task itself has them
LEAST_BAD = 6  # percent of the strip: one failure of a million is seen
SYMBOLS = {"parameter": "◇ ", "condition": "? "}
GIVEN = "g"  # the class of parameters, beside those of states
BAD_CLASS, ON_CLASS = "bad", "on"  # of what the tools go to
AT_WORK = frozenset((Running.code, Retrying.code))


@dataclass(slots=True)
class _PlacedBox:
    name: str
    title: str
    nodes: list[PageNode] = field(default_factory=list)
    kind: str = "task"
    x: int = 0
    y: int = 0
    seen: int = -1
    html: str = ""

    @property
    def is_group(self) -> bool:
        return self.kind == "group"

    @property
    def version(self) -> int:
        return sum(node.version for node in self.nodes)


class GraphFigure:
    """A picture of the graph, in a frame that scrolls, below its tools.

    Parameters
    ----------
    model
        The run.
    folded
        Whether each nested flow is one box.
    has_panel
        Whether a box is a link to what there is about its task.
    """

    def __init__(self, model: PageModel, *, folded: bool, has_panel: bool = False) -> None:
        self._has_panel = has_panel
        self._model = model
        self._folded = folded
        self._tools = Div(
            text="", stylesheets=[InlineStyleSheet(css=TOOLS)], sizing_mode="stretch_width", margin=(2, 5, 0, 5)
        )
        self.frame = Column(
            children=[Spacer(visible=False)],
            sizing_mode="stretch_width",
            margin=(2, 5, 0, 5),
            stylesheets=[InlineStyleSheet(css=FRAME)],
            css_classes=["frame"],
        )
        self.root = Column(children=[self._tools, self.frame], sizing_mode="stretch_width")
        self._draw()
        self.update(everything=True)

    def _draw(self) -> None:
        """Place what there is: deferred calls come while a run goes on."""
        self._drawn = len(self._model.nodes)
        boxes, edges = _boxes(self._model, folded=self._folded)
        layout = layered(list(boxes), edges)
        self._is_flat = len(boxes) > MANY
        tools = graph_tools("folded" if self._folded else "all", len(boxes))
        if self._tools.text != tools:
            self._tools.text = tools
        scale = _scale_of(layout, is_flat=self._is_flat)
        for box in boxes.values():
            x, y = layout.places[box.name]
            box.x, box.y = round(MARGIN + x * scale.layer), round(MARGIN + y * scale.row)
        ordered = list(boxes.values())
        self._blocks = [ordered[at : at + BLOCK] for at in range(0, len(ordered), BLOCK)]
        self._next = 0
        sheet = InlineStyleSheet(css=_style(scale, is_flat=self._is_flat))
        size = {"width": f"{scale.width}px", "height": f"{scale.height}px"}
        cover = {"position": "absolute", "left": "0", "top": "0", **size}
        lines = Div(text=_draw_edges(layout, scale), styles=cover, css_classes=["lines"])
        self._divs = [Div(stylesheets=[sheet], styles=cover, disable_math=True) for _ in self._blocks]
        paper = f"@media print {{ :host {{ zoom: {min(1.0, PAPER_PX / scale.width):.3f}; }} }}"
        picture = Column(
            children=[lines, *self._divs],
            stylesheets=[InlineStyleSheet(css=f"@media screen {{ :host {{ zoom: var(--zoom, 1); }} }} {paper}")],
            styles={"position": "relative", "flex-shrink": "0", **size},
            css_classes=["picture"],
        )
        self.frame.children = [picture]

    def update(self, *, everything: bool = False) -> None:
        """Send what has changed since the last time, or of much that has changed the next part."""
        if len(self._model.nodes) != self._drawn:
            self._draw()
        sent, places = 0, len(self._blocks)
        for place in [(self._next + i) % places for i in range(places)]:
            block = self._blocks[place]
            changed = [box for box in block if box.seen != box.version]
            if not changed:
                continue
            if sent == MAX_BLOCKS and not everything:
                self._next = place
                return
            for box in changed:
                box.seen, box.html = (
                    box.version,
                    _box_html(box, self._model.run_id if self._has_panel else "", is_flat=self._is_flat),
                )
            text = f"<graph-part>{''.join(box.html for box in block)}</graph-part>"
            if self._divs[place].text != text:
                self._divs[place].text = text
                sent += 1


def _boxes(model: PageModel, *, folded: bool) -> tuple[dict[str, _PlacedBox], list[tuple[str, str]]]:
    boxes: dict[str, _PlacedBox] = {}
    home: dict[str, str] = {}
    calls = _calls_of(model)
    for node in _callers_first(model, calls):
        groups = model.nodes[_first_caller(model, node.slug)].groups
        if folded and groups:
            name = f"\1{groups[0]}"  # beside a node of that name
            box = boxes.setdefault(name, _PlacedBox(name, groups[0], kind="group"))
        else:
            name = node.slug
            box = boxes.setdefault(name, _PlacedBox(name, node.slug, kind=node.kind))
        box.nodes.append(node)
        home[node.slug] = name
    edges = [
        (home[end], home[edge.downstream])
        for edge in model.shape.edges
        if edge.upstream in home and edge.downstream in home
        for end in _ends_of(edge.upstream, calls)
    ]
    edges += [(home[caller], home[call]) for caller, made in calls.items() for call in made]
    return boxes, edges


def _calls_of(model: PageModel) -> dict[str, list[str]]:
    """Slugs of deferred calls, by that of the task that made them."""
    found: dict[str, list[str]] = {}
    for slug in model.nodes:
        caller, is_call, _ = slug.rpartition("/")
        if is_call and caller in model.nodes:
            found.setdefault(caller, []).append(slug)
    return found


def _first_caller(model: PageModel, slug: str) -> str:
    """The task of the flow that a call comes from; itself if it is one."""
    while (caller := slug.rpartition("/")[0]) in model.nodes:
        slug = caller
    return slug


def _callers_first(model: PageModel, calls: dict[str, list[str]]) -> list[PageNode]:
    """All nodes in topological order: calls follow the task that made them, and what takes their values comes later."""
    made = {each for several in calls.values() for each in several}
    waiting = [slug for slug in reversed(model.nodes) if slug not in made]
    found = []
    while waiting:
        slug = waiting.pop()
        found.append(model.nodes[slug])
        waiting += reversed(calls.get(slug, ()))
    return found


def _ends_of(slug: str, calls: dict[str, list[str]]) -> list[str]:
    """What is waited for by those who take the value of a task: its calls, where it made some."""
    made, found = [slug], list[str]()
    while made and len(found) <= MAX_ENDS:
        each = made.pop()
        made += calls.get(each, ())
        found += [] if each in calls else [each]
    return found if len(found) <= MAX_ENDS else [slug]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Pixels: from layer to layer and row to row, of a box, of the whole."""

    layer: int
    row: int
    box_w: int
    box_h: int
    width: int
    height: int


def _scale_of(layout: GraphLayout, *, is_flat: bool) -> _Scale:
    box_h, row = (24, 30) if is_flat else (44, 56)
    gaps = max(0, layout.layers - 1)
    box_w, layer = BOX_W, BOX_W + GAP_X
    if gaps and layer * gaps + box_w > FITS_PX - 2 * MARGIN:
        narrow = (FITS_PX - 2 * MARGIN - NARROW_W) // gaps  # from layer to layer, so that it fits
        if narrow >= NARROW_W + NARROW_GAP_X:
            layer = min(layer, narrow)
            box_w = max(NARROW_W, min(BOX_W, layer - NARROW_GAP_X - GAP_X // 3))
    width, height = box_w + gaps * layer, box_h + max(0.0, layout.rows - 1) * row
    return _Scale(layer, row, box_w, box_h, 2 * MARGIN + width, round(2 * MARGIN + height))


def _draw_edges(layout: GraphLayout, scale: _Scale) -> str:
    """One path, with a curve for each stretch of each edge: level at its ends, so that neighbours stay apart."""
    half = scale.box_w / 2
    left, middle = MARGIN + half, MARGIN + scale.box_h / 2
    curves: dict[str, None] = {}
    for route in layout.routes.values():
        points = [(left + x * scale.layer, middle + y * scale.row) for x, y in route]
        for i in range(len(points) - 1):
            (x0, y0), (x1, y1) = points[i], points[i + 1]
            x0 += half if i == 0 else 0
            x1 -= half if i == len(points) - 2 else 0
            bend = (x0 + x1) / 2
            curves[f"M{x0:.0f} {y0:.0f}C{bend:.0f} {y0:.0f} {bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"] = None
    return (
        f'<svg width="{scale.width}" height="{scale.height}" style="display:block" aria-hidden="true">'
        f'<path d="{"".join(curves)}" fill="none" stroke="#a7afb9" stroke-width="1.2"/></svg>'
    )


# A box ----------------------------------------------------------------------------------------------------------------


def _box_html(box: _PlacedBox, run_id: str, *, is_flat: bool) -> str:
    total: Counter[int] = Counter()
    for node in box.nodes:
        total.update(node.counts())
    code = _choose_code(box)
    is_given = box.kind == "parameter" and code in (Pending.code, Success.code)  # it is neither run nor recorded
    state = "parameter" if is_given else BY_CODE[code].__name__
    symbol = look_of_code(code).symbol
    mark = "▤ " if box.is_group else SYMBOLS.get(box.kind, "") if code == Pending.code or is_given else f"{symbol} "
    detail, has_strip = _describe_box(box, code, total), box.is_group or any(node.width for node in box.nodes)
    about = ". ".join(filter(None, (f"{box.title}: {state}", detail, _about(box, total))))
    kinds = ["b", GIVEN if is_given else f"s{code}", *(["m"] if any(n.is_map or n.width for n in box.nodes) else [])]
    kinds += [BAD_CLASS] if code >= FIRST_FAILED_CODE or any(is_failure(c) for c in total) else []
    kinds += [ON_CLASS] if any(node.code in AT_WORK for node in box.nodes) else []
    inner = f'<b aria-hidden="true">{cut_middle(mark + box.title)}</b>'  # the title is the name, with the state's word
    if detail and not is_flat:
        inner += f'<i aria-hidden="true">{safe(detail, 60)}</i>'
    if has_strip:
        inner += _strip(total)
    place = f'style="left:{box.x}px;top:{box.y}px" tabindex="-1" title="{safe(about, 500)}"'
    if run_id and not box.is_group and not is_given:
        return f"<a {panel_address(run_id, box.name, ' '.join(['task', *kinds]))} {place}>{inner}</a>"
    return f'<div role="img" class="{" ".join(kinds)}" {place}>{inner}</div>'


def _strip(total: Counter[int]) -> str:
    width = max(1, total.total())
    failed = sum(n for c, n in total.items() if is_failure(c))
    well = sum(n for c, n in total.items() if FIRST_FINAL_CODE <= c < FIRST_FAILED_CODE)
    bad = max(LEAST_BAD, round(100 * failed / width)) if failed else 0
    good = min(100 - bad, 100 * well // width)
    return f'<u><u style="width:{bad}%"></u><u style="width:{good}%"></u></u>'


def _choose_code(box: _PlacedBox) -> int:
    codes = [node.code for node in box.nodes]
    if not codes:
        return Pending.code
    if len(codes) == 1:
        return codes[0]
    bad = [code for code in codes if code >= FIRST_FAILED_CODE]
    if bad:
        return min(bad)
    if all(code >= FIRST_FINAL_CODE for code in codes):
        return min(code for code in codes if code != Skipped.code) if set(codes) != {Skipped.code} else Skipped.code
    return Running.code if any(codes) else Pending.code


def _describe_box(box: _PlacedBox, code: int, total: Counter[int]) -> str:
    width, failed = total.total(), sum(n for c, n in total.items() if is_failure(c))
    if box.is_group or any(node.width for node in box.nodes):
        done = sum(n for c, n in total.items() if c >= FIRST_FINAL_CODE)
        ended = f"{done:,}/{width:,}" if done < width else f"{width:,}"
        stopped = total[Cancelled.code]
        return ended + (f" ✗ {failed:,}" if failed else "") + (f" ■ {stopped:,}" if stopped else "")
    if box.nodes and box.nodes[0].is_map:
        return "× n"  # the sign, as in drawings
    if code >= FIRST_FINAL_CODE and code not in (10, 12):
        return BY_CODE[code].__name__
    node = box.nodes[0] if box.nodes else None
    took = node.durations.seconds if node is not None and node.durations.total == 1 else None
    return seconds(took) if took is not None and took >= 0.001 else ""


def _about(box: _PlacedBox, total: Counter[int]) -> str:
    if box.is_group:
        return f"{len(box.nodes)} nodes of a nested flow"
    parts = [f"{n:,} {BY_CODE[code].__name__}" for code, n in sorted(total.items())] if total.total() > 1 else []
    told = [node.running_text() or ("" if parts else node.message) for node in box.nodes]
    return disarm("; ".join(filter(None, [*parts, *told])), 300)


# Styles ---------------------------------------------------------------------------------------------------------------

# A flow that is higher than a screen scrolls in its own frame: what has failed stays near.
FRAME = f"""
:host {{ overflow: auto; width: 0; min-width: calc(100% - 10px); max-height: 62vh; box-sizing: border-box;
  border: 1px solid {LINE}; border-radius: 8px; cursor: grab; }}
:host(:focus-visible) {{ outline: 3px solid var(--link); outline-offset: -3px; }}
@media print {{ :host {{ max-height: none; overflow: visible; border-color: {LINE}; }} }}
"""


FLAT = ".b > u { margin: 1px 0; } .b.m > b { line-height: 1.1; } .b.m { padding: 1px 5px; }"


def _style(scale: _Scale, *, is_flat: bool) -> str:
    padding = "3px 6px 0" if is_flat else "4px 6px 0"
    looks = "".join(
        f".s{code} {{ background: {look_of_code(code).fill}; color: {look_of_code(code).ink}; }}\n"
        for code in sorted(SEVERITY)
    )
    given = ROLE_LOOKS["parameter"]
    return f"""
:host {{ pointer-events: none; font-family: {FONT}; }}
.b {{ position: absolute; width: {scale.box_w}px; height: {scale.box_h}px; box-sizing: border-box;
  border: 1px solid #5b626b; border-radius: 7px; padding: {padding}; text-align: center; overflow: hidden;
  pointer-events: auto; text-decoration: none; display: flex; flex-direction: column; justify-content: center;
  print-color-adjust: exact; }}
.b.m {{ border: 2px solid {INK}; padding: 2px 5px 0; }}
b, i {{ display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; line-height: 1.3; flex: none; }}
{FLAT if is_flat else ""}
b {{ font-size: 12px; }}
b:has(> span) {{ display: flex; justify-content: center; }}
{CUT}
i {{ font-size: 10.5px; font-style: normal; font-variant-numeric: tabular-nums; }}
u {{ display: block; text-decoration: none; }}
.b:focus {{ outline: 3px solid var(--link); outline-offset: 1px; z-index: 1; }}
.b > u {{ display: flex; flex: none; height: 4px; border-radius: 2px; background: {REST}; overflow: hidden;
  margin: 2px 0 3px; }}
u u:first-child {{ background: {BAD}; }}
u u:last-child {{ background: {GOOD}; }}
.{GIVEN} {{ background: {given.fill}; color: {given.ink}; }}
{looks}"""

"""Tasks as rows: what share of each is done, and when it ran. HTML in blocks, of which only what has changed is sent.

Places in time are multiples of the run's length, which the browser reckons: a clock that ticks changes one number.
"""

from __future__ import annotations

from collections.abc import Sequence

from bokeh.models import Column, Div, InlineStyleSheet, Spacer

from anabranch.base.states import BY_CODE, FIRST_FAILED_CODE, Failed, Pending, Retrying, Running, Success
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.looks import CUT, SEVERITY, Link, brief, cut_middle, look_of_code, no_link, safe
from anabranch.monitoring.pages.page_model import PageModel, PageNode
from anabranch.monitoring.pages.spans import Bins

BLOCK = 25  # rows that are sent together: some 15 kB
MAX_BLOCKS = 12  # sent at a time; the others wait for the next one, in turn
LEAST_BAD = 0.015  # of a bar: nine failures of ten thousand are seen
BUSY = ("#9fd3f3", "#56b4e9", "#2b86c0")  # from idle to busy; failures have their own colour
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)
TICKS = 8
ROW_PX = 24  # what a finger can hit, by WCAG 2.2
LAID_OUT = 100  # rows that are laid out whether or not they are looked at


class RowsFigure:
    """Progress bars and a timeline, one row a task, in the order of the flow."""

    def __init__(self, model: PageModel, sheet: InlineStyleSheet, link: Link = no_link) -> None:
        self._link = link
        self._model = model
        self._sheet = sheet
        self._time = InlineStyleSheet(css="")
        self._axis = self._div()
        self._blocks: list[Div] = []
        self._seen: dict[str, tuple[int, str]] = {}
        self._next = 0
        self._rows = Column(
            children=[Spacer(visible=False)], sizing_mode="stretch_width", stylesheets=[InlineStyleSheet(css=FRAME)]
        )
        self.root = Column(
            children=[self._axis, self._rows],
            sizing_mode="stretch_width",
            stylesheets=[self._time],
            margin=(0, 5, 0, 5),
        )
        self.update(everything=True)

    def _div(self) -> Div:
        sheets = [self._sheet, InlineStyleSheet(css=STYLE)]
        if len(self._model.nodes) > LAID_OUT:
            sheets.append(InlineStyleSheet(css=VIRTUAL))
        return Div(text="", stylesheets=sheets, sizing_mode="stretch_width", disable_math=True, margin=0)

    def update(self, *, everything: bool = False) -> None:
        """Send what has changed since the last time, or of much that has changed the next part."""
        model = self._model
        nodes = model.tasks()
        end = max(model.elapsed_s + model.between_s(model.origin, model.began or model.origin), 0.05)
        step = next((each for each in STEPS_S if end / each <= TICKS), STEPS_S[-1])
        critical = critical_path(model) if model.ended is not None else frozenset()
        self._set_time(end, step)
        while len(self._blocks) * BLOCK < len(nodes):
            self._blocks.append(self._div())
            self._rows.children = [*self._blocks]
        sent, places = 0, len(self._blocks)
        for place in [(self._next + i) % places for i in range(places)]:
            rows = nodes[place * BLOCK : (place + 1) * BLOCK]
            if all(node.slug in self._seen and self._seen[node.slug][0] == _version(node, critical) for node in rows):
                continue
            if sent == MAX_BLOCKS and not everything:
                self._next = place
                return
            for node in rows:
                self._seen[node.slug] = (
                    _version(node, critical),
                    _row(model, node, end, node.slug in critical, self._link),
                )
            text = f'<div role="list">{"".join(self._seen[node.slug][1] for node in rows)}</div>'
            if self._blocks[place].text != text:
                self._blocks[place].text = text
                sent += 1

    def _set_time(self, end: float, step: float) -> None:
        css = f":host {{ --t: {end:.2f}; --step: {step:g}; }}"
        if self._time.css != css:
            self._time.css = css
        ticks = "".join(f"<span style='--at:{i * step:g}'>{_tick(i * step)}</span>" for i in range(int(end / step) + 1))
        text = f'<div class="r axis" aria-hidden="true"><b></b><b></b><b></b><div class="l">{ticks}</div></div>'
        if self._axis.text != text:
            self._axis.text = text


def _version(node: PageNode, critical: frozenset[str]) -> int:
    return 2 * node.version + (node.slug in critical)


def _tick(value: float) -> str:
    if value < 60:
        return f"{value:g} s"
    return seconds(value).removesuffix(" min").removesuffix(" h")


def critical_path(model: PageModel) -> frozenset[str]:
    """Tasks that the run's length came from: from the one that ended last, the one above that ended last, and so on."""
    above: dict[str, list[str]] = {}
    for edge in model.shape.edges:
        above.setdefault(edge.downstream, []).append(edge.upstream)
    ended = {
        slug: node.ended for slug, node in model.nodes.items() if node.ended is not None and node.began is not None
    }
    found: list[str] = []
    nexts: Sequence[str] = list(ended)
    while nexts := [slug for slug in nexts if slug in ended and slug not in found]:
        found.append(max(nexts, key=lambda slug: ended[slug] or 0.0))
        nexts = above.get(found[-1], ())
    return frozenset(found) if len(found) > 1 else frozenset()


# A row ----------------------------------------------------------------------------------------------------------------


def _row(model: PageModel, node: PageNode, end: float, is_critical: bool, link: Link) -> str:
    parts = [f"{count:,} {BY_CODE[code].__name__}" for code, _, count in _shares(node)] if node.width else [node.name]
    bar = "".join(
        f'<i style="width:{share:.2%};background:{look_of_code(code).fill}"></i>' for code, share, _ in _shares(node)
    )
    name = f"{'◆ ' if is_critical else ''}{link(node.slug, cut_middle(node.slug))}"
    about = f"{safe(node.slug, 200)}: {', '.join(parts)}{'; on the critical path' if is_critical else ''}"
    return (
        f'<div class="r" role="listitem" title="{about}"><b class="name">{name}</b><b class="bar">{bar}</b>'
        f'<b class="n">{_label_node(node)}</b><div class="l">{_line(model, node, end)}</div></div>'
    )


def _line(model: PageModel, node: PageNode, end: float) -> str:
    """When it ran: of a map how busy it was when, of anything else the time that it took."""
    if node.width and node.busy.used:
        marks = "".join(f'<u style="--at:{at:.2f}">▾</u>' for at in node.busy.marks())
        return f"{draw_stretches(node.busy, end)}{marks}"
    if node.began is None:
        return ""
    start = max(0.0, model.between_s(model.origin, node.began))
    fill = BUSY[1] if node.code == Running.code else look_of_code(node.code).fill
    if not node.is_done and node.code not in (Running.code, Retrying.code):
        return ""
    if not node.is_done:
        return f'<i class="on" style="--at:{start:.2f};background:{fill}"></i>'
    took = max(0.0, model.between_s(model.origin, node.ended or node.began) - start)
    about = f"{start:.2f} s to {start + took:.2f} s"
    return f'<i style="--at:{start:.2f};--s:{took:.3f};background:{fill}" title="{about}"></i>'


def draw_stretches(bins: Bins, end: float) -> str:
    """Stretches of a row of bins as one picture, as wide as its time."""
    paths = ["" for _ in BUSY]
    least, last = end / 400, bins.used * bins.width_s  # never thinner than can be seen
    for left, right, level in bins.stretches(len(BUSY)):
        paths[level - 1] += f"M{left:.3f} 0h{max(right - left, least):.3f}v1H{left:.3f}z"
    drawn = "".join(f'<path d="{path}" fill="{fill}"/>' for path, fill in zip(paths, BUSY, strict=True) if path)
    box = f'viewBox="0 0 {last:.3f} 1" preserveAspectRatio="none" style="--s:{last:.3f}"'
    return f'<svg {box} aria-hidden="true">{drawn}</svg>'


def _shares(node: PageNode) -> list[tuple[int, float, int]]:
    """Code, share of the bar and count of each state, what failed first; failures are never too thin to be seen."""
    counts = node.counts()
    total = sum(counts.values()) or 1
    order = sorted(counts, key=lambda code: -SEVERITY.index(code))
    order = [c for c in order if c >= FIRST_FAILED_CODE] + sorted(c for c in order if 0 < c < FIRST_FAILED_CODE)[::-1]
    order += [Pending.code] if Pending.code in counts else []
    wide = {c: max(counts[c] / total, LEAST_BAD if c >= FIRST_FAILED_CODE else 0.0) for c in order}
    scale = sum(wide.values()) or 1.0
    return [(code, wide[code] / scale, counts[code]) for code in order]


def _label_node(node: PageNode) -> str:
    if not node.width:
        return BY_CODE[node.code].__name__ if node.code not in (Pending.code, Success.code) else _render_duration(node)
    failed, done, waiting = node.failed(), node.done(), node.retrying()
    parts = [f"{done:,}/{node.width:,}" if done < node.width else f"{done:,}"]
    parts += [f"✗ {failed:,}"] if failed else []
    parts += [f"↻ {waiting:,}"] if waiting else []
    return " ".join(parts)


def _render_duration(node: PageNode) -> str:
    return brief(node.durations.seconds) if node.durations.total and node.code != Running.code else ""


# A flow that is higher than a screen scrolls in its own frame, and only what is looked at is laid out.
FRAME = """
:host { max-height: 75vh; overflow: auto; width: 0; min-width: 100%; }
@media print { :host { max-height: none; overflow: visible; } }
"""
VIRTUAL = f":host {{ content-visibility: auto; contain-intrinsic-height: auto {BLOCK * ROW_PX}px; }}"
STYLE = f"""
.r {{ display: grid; grid-template-columns: minmax(90px, 190px) minmax(60px, 140px) 120px minmax(120px, 1fr);
  gap: 0 8px; height: {ROW_PX}px; align-items: center; font-size: 12px; }}
.r > b {{ font-weight: 400; }}
.name, .name > a {{ display: flex; justify-content: flex-end; min-width: 24px; line-height: {ROW_PX}px;
  overflow: hidden; white-space: pre; }}
{CUT}
.r > .bar {{ display: flex; height: 12px; border-radius: 2px; margin: 0; background: none; }}
.bar > i {{ height: 100%; flex: none; }}
.r > .n {{ white-space: nowrap; font-variant-numeric: tabular-nums; }}
.l {{ position: relative; height: {ROW_PX}px; overflow: hidden; background: repeating-linear-gradient(to right,
  var(--line) 0 1px, transparent 1px calc(100% * var(--step) / var(--t))); }}
.l > * {{ position: absolute; left: calc(100% * var(--at, 0) / var(--t)); }}
.l > i, .l > svg {{ top: 6px; height: 12px; width: calc(100% * var(--s) / var(--t)); min-width: 2px; }}
.l > i.on {{ right: 0; width: auto; }}
.l > u {{ color: {look_of_code(Failed.code).fill}; text-decoration: none; margin-left: -5px; top: 0;
  text-shadow: 0 0 2px #fff; }}
.axis, .axis .l {{ height: 16px; background: none; font-size: 11px; color: var(--faint); overflow: visible; }}
.axis .l > span {{ padding-left: 3px; white-space: nowrap; }}
@media (max-width: 700px) {{ .r {{ grid-template-columns: 96px 50px 84px minmax(80px, 1fr); gap: 0 5px;
  font-size: 11px; }} }}
@media print {{ .bar > i, .l > i, svg {{ print-color-adjust: exact; }} }}
"""

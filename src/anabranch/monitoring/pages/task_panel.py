"""A panel with all about one task run, beside the page; its name is part of the page's address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bokeh.models import Column, Div, InlineStyleSheet, TextInput

from anabranch.base.errors import AnabranchError
from anabranch.base.states import BY_CODE
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.artifacts_figure import STYLE as SHOWN
from anabranch.monitoring.pages.artifacts_figure import render_task
from anabranch.monitoring.pages.looks import brief, panel_address, panel_link, safe, safe_lines
from anabranch.monitoring.pages.maps_figure import histogram, style_sheet
from anabranch.monitoring.pages.page_model import PageModel, PageNode
from anabranch.monitoring.pages.texts import mark
from anabranch.monitoring.pages.turns import act_in_turn
from anabranch.monitoring.pages.verdict import split_name
from anabranch.runs import ArtifactRow, LogRow
from anabranch.runs.read.explain import Explanation

PLACE = {
    "position": "fixed", "right": "0", "top": "0", "bottom": "0", "width": "min(560px, 100vw)", "overflow": "auto",
    "padding": "10px 18px", "box-sizing": "border-box", "background": "var(--paper)", "z-index": "12",
    "border-left": "1px solid var(--line)", "box-shadow": "-4px 0 18px rgba(0, 0, 0, 0.18)",
}  # fmt: skip
ASKED = "asked"
"""Name of the field that the page's script writes the task run into that was asked for."""
LOG_LINES = 50
MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Source:
    """What the panel asks for beside the model."""

    explain: Callable[[str], Explanation]
    lines_of: Callable[[str, int | None], Sequence[LogRow]]
    earlier_of: Callable[[str], Sequence[tuple[str, str, float | None]]]
    """Of a task: run, state and seconds in earlier runs, the newest first."""
    artifacts: Callable[[], Sequence[ArtifactRow]] = tuple
    """What tasks have shown."""


class TaskPanel:
    """The panel; it is hidden as long as nothing is asked for.

    Parameters
    ----------
    model
        Gives the run; one that is taken up again has another model.
    source
        What is asked for beside that.
    asked
        The task run to begin with.
    """

    def __init__(self, model: Callable[[], PageModel], source: Source, *, asked: str = "") -> None:
        self._model = model
        self._source = source
        self._seen: tuple[object, ...] | None = None
        self._field = TextInput(name=ASKED, value=asked, visible=False)
        self._field.on_change("value", lambda attr, old, new: act_in_turn(self._field, self.update))
        self._text = Div(
            text="",
            visible=False,
            stylesheets=[style_sheet(), InlineStyleSheet(css=SHOWN)],
            styles=PLACE,
            disable_math=True,
        )
        self.root = Column(children=[self._field, self._text], styles={"position": "absolute"})
        self.update()

    def update(self) -> None:
        """Follow the task run that was asked for last."""
        name, model = str(self._field.value), self._model()
        node = model.nodes.get(split_name(name)[0])
        shown = [row for row in self._source.artifacts() if row.slug == split_name(name)[0]] if name else []
        version, made = node.version if node is not None else -1, max((row.time for row in shown), default=None)
        seen = name, version, model.ended is not None, made
        if seen == self._seen:
            return
        self._seen = seen
        self._text.text = panel_html(model, name, node, self._source) if name else ""
        self._text.visible = bool(name)


def panel_html(model: PageModel, name: str, node: PageNode | None, source: Source) -> str:
    """All about a task run."""
    head = f'<p class="close"><a {panel_address(model.run_id, "")}>close ✕</a></p><h2>{safe(name, 300)}</h2>'
    if node is None:
        return f'<aside aria-label="task run">{head}<p class="none">there is no such task in this run</p></aside>'
    slug, index = split_name(name)
    parts = [_of_element(node, index) if index is not None else _of_node(node), _attempts(model, name, node)]
    parts += [
        _artifacts(source, model, slug, index),
        _failures(model, name),
        _why(source, name),
        _lines(source, slug, index),
        _earlier(source, slug),
    ]
    return f'<aside aria-label="task run {safe(name, 300)}">{head}{"".join(parts)}</aside>'


def _of_node(node: PageNode) -> str:
    took = node.durations
    facts = [mark(node.code, BY_CODE[node.code].__name__), safe(node.running_text() or node.message, 600)]
    if node.width:
        counts = ", ".join(f"{n:,} {BY_CODE[code].__name__}" for code, n in sorted(node.counts().items()))
        facts.append(f"{node.width:,} elements: {counts}")
    if took.total:
        facts.append(f"{seconds(took.seconds)} of work" + (f", longest {brief(took.longest_s)}" if node.width else ""))
    facts += [f"on {safe(node.worker, 80)}"] if node.worker not in ("", "local") else []
    shown = "".join(f"<p>{fact}</p>" for fact in facts if fact)
    return shown + (histogram(took) if node.width else "")


def _of_element(node: PageNode, index: int) -> str:
    if index >= node.width:
        return '<p class="none">there is no such element</p>'
    code = node.codes[index]
    return f"<p>{mark(code, BY_CODE[code].__name__)} element {index:,} of {node.width:,}</p>"


def _attempts(model: PageModel, name: str, node: PageNode) -> str:
    own = {each: found for each, found in model.attempts.items() if name in (each, split_name(each)[0])}
    lines = [f"{safe(each, 120)}: {safe(attempt, 300)}" for each, found in own.items() for attempt in found]
    more = f"<p class='none'>and {len(lines) - MAX_SHOWN:,} more</p>" if len(lines) > MAX_SHOWN else ""
    retries = f"<p>{node.retries:,} attempts beyond the first</p>" if node.retries else ""
    listed = "".join(f"<li>{line}</li>" for line in lines[:MAX_SHOWN])
    return retries + (f"<h2>Attempts that were followed by another</h2><ul>{listed}</ul>{more}" if listed else "")


def _failures(model: PageModel, name: str) -> str:
    found = [
        each
        for group in model.failures.ordered()
        for each in group.examples
        if name in (each.name, split_name(each.name)[0])
    ]
    return "".join(
        f"<h2>✗ {safe(each.name, 120)}</h2><pre>"
        f"{''.join(f'{safe(key, 60)} = {safe(value, 300)}{chr(10)}' for key, value in each.inputs)}"
        f"{safe_lines(each.traceback.rstrip() or each.message)}</pre>"
        for each in found[:MAX_SHOWN]
    )


def _artifacts(source: Source, model: PageModel, slug: str, index: int | None) -> str:
    rows = [row for row in source.artifacts() if row.slug == slug and index in (None, row.index)]
    if not rows:
        return ""
    return f'<h2>Artifacts</h2><div class="shown">{render_task(rows, model, panel_link(model.run_id))}</div>'


def _why(source: Source, name: str) -> str:
    try:
        found = source.explain(name)
    except AnabranchError as error:
        return f'<p class="faint">{safe(error, 600)}</p>'
    reasons = [safe(reason, 1_000) for reason in found.reasons] + [f"changed: {safe(each)}" for each in found.changed]
    reasons += [f"its value is stored at <code>{safe(found.location)}</code>"] if found.location else []
    return f"<h2>Why?</h2><ul>{''.join(f'<li>{reason}</li>' for reason in reasons)}</ul>" if reasons else ""


def _lines(source: Source, slug: str, index: int | None) -> str:
    rows = list(source.lines_of(slug, index))[-LOG_LINES:]
    text = "".join(f"{row.time.astimezone():%H:%M:%S} {safe(row.text, 500)}\n" for row in rows)
    return f"<h2>Log</h2><pre>{text}</pre>" if text else ""


def _earlier(source: Source, slug: str) -> str:
    rows = "".join(
        f'<tr><td><a href="run?id={safe(run)}">{safe(run, 60)}</a></td><td>{safe(state, 30)}</td>'
        f'<td class="n">{seconds(took) if took is not None else ""}</td></tr>'
        for run, state, took in source.earlier_of(slug)
    )
    head = '<thead><tr><th>run</th><th>state</th><th class="n">took</th></tr></thead>'
    return f"<h2>In earlier runs</h2><table>{head}<tbody>{rows}</tbody></table>" if rows else ""

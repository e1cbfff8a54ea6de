"""Workers as rows: what each is at, when it had something to do, and how much of the run's time that was."""

from __future__ import annotations

from bokeh.models import Column, Div, InlineStyleSheet

from anabranch.base.run_model import NodeModel
from anabranch.base.running_elements import since_text
from anabranch.base.states import Failed, Running, State
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.looks import look_of_code, safe
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.rows_figure import draw_stretches

MAX_ROWS = 40
MAX_SAID = 3  # task runs that a worker is at


class WorkersFigure:
    """A table with a row for each worker."""

    def __init__(self, model: PageModel, sheet: InlineStyleSheet) -> None:
        self._model = model
        self._time = InlineStyleSheet(css="")
        sheets = [sheet, InlineStyleSheet(css=STYLE)]
        self._table = Div(text="", stylesheets=sheets, sizing_mode="stretch_width", disable_math=True)
        self.root = Column(children=[self._table], sizing_mode="stretch_width", stylesheets=[self._time])
        self.update()

    def update(self) -> None:
        """Follow the model."""
        css = f":host {{ --t: {max(self._model.elapsed_s, 0.05):.2f}; }}"
        if self._time.css != css:
            self._time.css = css
        text = render_workers(self._model)
        if self._table.text != text:
            self._table.text = text


def render_workers(model: PageModel) -> str:
    """Workers as a table; those that are at something come first."""
    at = _running_by_worker(model)
    names = sorted({*model.workers, *at}, key=lambda name: (name not in at, name))
    if not names:
        return '<div class="none">no worker has reported yet</div>'
    more = f'<div class="none">… and {len(names) - MAX_ROWS:,} more</div>' if len(names) > MAX_ROWS else ""
    rows = "".join(_row(model, name, at.get(name, [])) for name in names[:MAX_ROWS])
    return (
        '<div class="scroll"><table><thead><tr><th>worker</th><th>is at</th><th class="n">pieces of work</th>'
        f'<th class="n">busy</th><th class="n">of the run</th><th class="lane">when</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{more}"
    )


def _running_by_worker(model: PageModel) -> dict[str, list[str]]:
    """What is being run, since when, by worker; of a map, the elements that have run longest."""
    found: dict[str, list[str]] = {}
    for node in model.tasks() if model.ended is None else ():
        for state in _running_of(node):
            name = node.slug if state.map_index is None else f"{node.slug}[{state.map_index}]"
            found.setdefault(state.worker or "", []).append(f"{name} {since_text(state).partition(' on ')[0]}")
    return found


def _running_of(node: NodeModel) -> list[State]:
    if node.running:
        return [state for state in node.running if state.worker is not None]
    return [node.state] if type(node.state) is Running and not node.width else []


def _row(model: PageModel, name: str, at: list[str]) -> str:
    bins = model.workers.get(name)
    busy = sum(bins.busy) if bins is not None else 0.0
    share = busy / model.elapsed_s if model.elapsed_s else 0.0
    lane = ""
    if bins is not None and bins.used:
        marks = "".join(f'<u style="--at:{place:.2f}">▾</u>' for place in bins.marks())
        lane = f"{draw_stretches(bins, max(model.elapsed_s, 0.05))}{marks}"
    said = "<br>".join(safe(text, 120) for text in at[:MAX_SAID])
    more = f"<br>and {len(at) - MAX_SAID:,} more" if len(at) > MAX_SAID else ""
    return (
        f"<tr><td>{safe(name or 'this process', 80)}</td><td>{said}{more}</td>"
        f'<td class="n">{model.worker_units[name]:,}</td><td class="n">{seconds(busy)}</td>'
        f'<td class="n">{share:.0%}</td><td class="lane"><div class="l">{lane}</div></td></tr>'
    )


STYLE = f"""
.l {{ position: relative; height: 18px; overflow: hidden; background: var(--soft); border-radius: 3px; }}
.l > * {{ position: absolute; left: calc(100% * var(--at, 0) / var(--t)); }}
.l > svg {{ top: 2px; height: 14px; width: calc(100% * var(--s) / var(--t)); min-width: 2px; }}
.l > u {{ color: {look_of_code(Failed.code).fill}; text-decoration: none; margin-left: -5px; top: -3px;
  text-shadow: 0 0 2px #fff; }}
"""

"""Colours and texts of pages: states by look, and whatever users named as text that no browser takes for more."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import quote

from anabranch.base.states import BY_CODE, Cached, Mapped
from anabranch.base.texts import printable, seconds, shortened
from anabranch.monitoring.pictures.picture import DARK, LOOKS, PALE, Look

FONT = "'Helvetica Neue', Helvetica, Arial, sans-serif"
INK = "var(--ink)"
FAINT = "var(--faint)"
LINE = "var(--line)"
# Without a width of its own a box asks for no more than there is: on narrow screens it scrolls, and not the page.
SCROLLING = {"overflow-x": "auto", "width": "0", "min-width": "100%"}
CACHED = Look("#7cc4ad", DARK, "✓")  # paler than a success that was worked for

# From what matters least to what must be seen: where one pixel stands for several elements, the last of these wins.
SEVERITY = (0, 5, 10, 12, 11, 13, 1, 4, 2, 3, 30, 22, 23, 24, 21, 20)
"""Codes of all states by how much they must be seen."""


def look_of_code(code: int) -> Look:
    """The look of a state by its code."""
    cls = BY_CODE[code]
    if cls is Cached:
        return CACHED
    if cls is Mapped:
        return LOOKS[cls.__mro__[1]]
    return next((LOOKS[each] for each in cls.__mro__ if each in LOOKS), PALE)


def brief(value: float) -> str:
    """A duration to be read, down to microseconds.

    Examples
    --------
    >>> [brief(value) for value in (3e-6, 0.0004, 0.02, 75)]
    ['3 µs', '400 µs', '20 ms', '1:15 min']
    """
    return f"{value * 1e6:.0f} µs" if value < 0.001 else seconds(value)


def safe(text: object, limit: int = 400) -> str:
    r"""Text for HTML: characters that are not printable as escapes, and nothing that is markup.

    Examples
    --------
    >>> safe("<b>$$x$$\x1b</b>")
    '&lt;b&gt;$$x$$\\x1b&lt;/b&gt;'
    """
    return html.escape(shortened(text, limit), quote=True)


def cut_middle(text: object, limit: int = 200) -> str:
    """The same for a name that is cut in the middle where there is no room for it: names often differ at the end.

    Examples
    --------
    >>> cut_middle("station_2024_north")
    '<span>station_202</span>4_north'
    """
    line = shortened(text, limit)
    head, tail = (line[:-TAIL], line[-TAIL:]) if len(line) > 2 * TAIL else ("", line)
    return f"<span>{html.escape(head, quote=True)}</span>{html.escape(tail, quote=True)}" if head else safe(line, limit)


TAIL = 7  # characters that always stay
CUT = "b > span, a > span { overflow: hidden; text-overflow: ellipsis; white-space: pre; min-width: 0; }"
"""The style of what is cut, within a flexible box."""


def safe_lines(text: object, limit: int = 4_000) -> str:
    """The same for text of several lines."""
    lines = str(text)[:limit].replace("\r\n", "\n").split("\n")
    return "\n".join(html.escape(printable(line.expandtabs(4)), quote=True) for line in lines)


Link: TypeAlias = Callable[[str, str], str]
"""Makes HTML of the name of a task run and HTML: a link to what there is about it."""


def no_link(name: str, inner: str) -> str:
    """Where there is nothing to go to."""
    return inner


def panel_link(run_id: str) -> Link:
    """Links to the panel of a task run on the page of a run."""
    return lambda name, inner: f"<a {panel_address(run_id, name)}>{inner}</a>"


def panel_address(run_id: str, name: str, kinds: str = "task") -> str:
    """Attributes of a link to a task run's panel, for the page's script, and for what needs an address."""
    query = html.escape(f"run?id={quote(run_id, safe='')}" + (f"&task={quote(name, safe='')}" if name else ""))
    return f'class="{kinds}" data-task="{html.escape(name, quote=True)}" href="{query}"'


def disarm(text: object, limit: int = 40) -> str:
    r"""Text for a figure. Bokeh reads `$$…$$`, `\(…\)` and `\[…\]` as formulas, and would load a library for them.

    A word joiner, which is neither seen nor broken at, keeps the two characters apart.

    Examples
    --------
    >>> disarm("a$$b") == "a$\u2060$b"
    True
    """
    line = shortened(text, limit)
    for start in ("$$", "\\(", "\\["):
        while start in line:
            line = line.replace(start, f"{start[0]}\u2060{start[1]}")
    return line


STYLE = f"""
.bk-clearfix {{ width: 100%; }}
:host {{ font-family: {FONT}; color: var(--ink); font-size: 14px; line-height: 1.45; }}
.head {{ display: flex; flex-wrap: wrap; align-items: baseline; gap: 6px 14px; }}
.head h1 {{ font-size: 22px; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 15px; margin: 14px 0 4px; }}
.faint {{ color: var(--faint); }}
.badge, .chip {{ border-radius: 999px; padding: 2px 11px; font-weight: 600; white-space: nowrap;
  display: inline-block; }}
.badge {{ border-radius: 6px; padding: 4px 12px; }}
.chip {{ font-size: 13px; }}
.chips {{ display: flex; flex-wrap: wrap; gap: 6px; margin: 8px 0 2px; }}
.legend {{ gap: 4px; }}
.legend .chip {{ font-size: 11px; font-weight: 500; padding: 0 8px; }}
.bar {{ height: 6px; border-radius: 3px; background: {PALE.fill}; overflow: hidden; display: flex; margin: 6px 0 2px; }}
.bar > span {{ display: block; height: 100%; }}
a {{ color: var(--link); }}
a:focus-visible, summary:focus-visible {{ outline: 3px solid var(--link); outline-offset: 2px; border-radius: 4px; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; }}
th {{ text-align: left; font-weight: 600; border-bottom: 1px solid var(--line); padding: 5px 10px 5px 0; }}
td {{ border-bottom: 1px solid var(--line); padding: 5px 10px 5px 0; vertical-align: top; overflow-wrap: anywhere; }}
td:first-child > a, td.t {{ white-space: nowrap; }}
.scroll td {{ overflow-wrap: normal; }}
.scroll td:last-child {{ overflow-wrap: anywhere; min-width: 140px; }}
@media (max-width: 700px) {{
  .cards thead {{ position: absolute; clip-path: inset(50%); }}
  .cards tr {{ display: flex; flex-wrap: wrap; gap: 3px 12px; padding: 8px 0; border-bottom: 1px solid var(--line); }}
  .cards td {{ border: 0; padding: 0; }}
  .cards td:empty {{ display: none; }}
}}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.scroll {{ overflow-x: auto; width: 0; min-width: 100%; }}
details {{ border: 1px solid var(--line); border-left: 4px solid {LOOKS[BY_CODE[20]].fill}; border-radius: 6px;
  padding: 7px 12px; margin: 0 0 8px; background: var(--paper); }}
summary {{ cursor: pointer; overflow-wrap: anywhere; }}
summary code {{ color: var(--faint); }}
pre {{ background: var(--soft); border-radius: 6px; padding: 9px 11px; font-size: 12.5px; margin: 6px 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }}
code, pre {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }}
a.task {{ color: inherit; text-decoration: none; }}
a.task:hover {{ text-decoration: underline; }}
p.close {{ float: right; margin: 0; }}
.warn {{ color: var(--warn); font-weight: 600; }}
.verdict h2 {{ margin-top: 8px; }}
.verdict p {{ margin: 4px 0; overflow-wrap: anywhere; }}
.verdict.bad {{ border: 1px solid var(--line); border-left: 4px solid {LOOKS[BY_CODE[20]].fill}; border-radius: 6px;
  padding: 4px 14px 8px; margin: 10px 0 4px; }}
.verdict ul {{ margin: 4px 0; padding-left: 20px; }}
button.copy {{ font: 12px/1.3 {FONT}; margin-left: 4px; padding: 1px 8px; border: 1px solid var(--line);
  border-radius: 4px; background: var(--paper); color: var(--ink); cursor: pointer; }}
button.copy:focus-visible {{ outline: 3px solid var(--link); }}
.hist {{ display: flex; align-items: flex-end; height: 120px; border-bottom: 1px solid var(--line); gap: 1px; }}
.hist > i {{ flex: 1; background: #56b4e9; min-height: 1px; }}
.search {{ display: flex; flex-wrap: wrap; gap: 8px; margin: 10px 0; }}
.search > * {{ font: inherit; padding: 6px 10px; border: 1px solid #8a929c; border-radius: 6px; color: var(--ink);
  background: var(--paper); }}
.search > input {{ width: 280px; max-width: 100%; box-sizing: border-box; }}
.search > input::placeholder {{ color: var(--faint); opacity: 1; }}
.search > button {{ cursor: pointer; }}
.search > :focus-visible {{ outline: 3px solid var(--link); outline-offset: 1px; }}
.turning {{ display: flex; gap: 14px; }}
.runs {{ display: flex; align-items: flex-end; height: 130px; gap: 1px; max-width: 1200px;
  border-bottom: 1px solid var(--line); }}
.runs > a {{ flex: 1 1 4px; max-width: 40px; min-height: 2px; }}
.trend {{ width: 82px; height: 20px; vertical-align: middle; }}
.trend polyline {{ fill: none; stroke: var(--link); stroke-width: 1.5; }}
.lane {{ min-width: 220px; width: 40%; }}
.none {{ color: var(--faint); padding: 6px 0; }}
@media print {{
  button.copy {{ display: none; }}
  .chip, .badge, .bar, .bar > span, details, pre {{ print-color-adjust: exact; }}
  details {{ break-inside: avoid; }}
  details::details-content {{ content-visibility: visible; height: auto; }}
}}
.further {{ display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 6px 0 0; }}
.command code {{ user-select: all; background: var(--soft); border-radius: 4px; padding: 1px 6px;
  overflow-wrap: anywhere; }}
.notice {{ background: var(--note); border-radius: 6px; padding: 6px 12px; margin: 6px 0; }}
"""

WIDGETS = """
.bk-input, .bk-btn { color: var(--ink); background: var(--paper); border-color: var(--line); }
.bk-input::placeholder { color: var(--faint); opacity: 1; }
.bk-btn:hover { background: var(--hover); }
.bk-btn:disabled { color: var(--faint); opacity: 1; }
.bk-btn-primary, .bk-btn-primary:hover { color: #ffffff; background: #005a9c; }
.bk-btn-danger, .bk-btn-danger:hover { color: #ffffff; background: #a4123f; }
"""
"""Bokeh's widgets in the colours of the page."""

"""Colours and texts of pages: states by look, and whatever users named as text that no browser takes for more."""

from __future__ import annotations

import html

from anabranch.base.states import BY_CODE, Cached, Mapped
from anabranch.base.texts import printable, seconds, shortened
from anabranch.monitoring.pictures.picture import DARK, LOOKS, PALE, Look

FONT = "'Helvetica Neue', Helvetica, Arial, sans-serif"
INK = DARK
FAINT = "#5b626b"
LINE = "#d5dae0"
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


def safe_lines(text: object, limit: int = 4_000) -> str:
    """The same for text of several lines."""
    lines = str(text)[:limit].replace("\r\n", "\n").split("\n")
    return "\n".join(html.escape(printable(line.expandtabs(4)), quote=True) for line in lines)


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
:host {{ font-family: {FONT}; color: {INK}; font-size: 14px; line-height: 1.45; }}
.head {{ display: flex; flex-wrap: wrap; align-items: baseline; gap: 6px 14px; }}
.head h1 {{ font-size: 22px; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 15px; margin: 14px 0 4px; }}
.faint {{ color: {FAINT}; }}
.badge, .chip {{ border-radius: 999px; padding: 2px 11px; font-weight: 600; white-space: nowrap;
  display: inline-block; }}
.badge {{ border-radius: 6px; padding: 4px 12px; }}
.chip {{ font-size: 13px; }}
.chips {{ display: flex; flex-wrap: wrap; gap: 6px; margin: 8px 0 2px; }}
.legend {{ gap: 4px; }}
.legend .chip {{ font-size: 11px; font-weight: 500; padding: 0 8px; }}
.bar {{ height: 6px; border-radius: 3px; background: {PALE.fill}; overflow: hidden; display: flex; margin: 6px 0 2px; }}
.bar > span {{ display: block; height: 100%; }}
a {{ color: #005a9c; }}
a:focus-visible, summary:focus-visible {{ outline: 3px solid #005a9c; outline-offset: 2px; border-radius: 4px; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; }}
th {{ text-align: left; font-weight: 600; border-bottom: 1px solid {LINE}; padding: 5px 10px 5px 0; }}
td {{ border-bottom: 1px solid #eceff2; padding: 5px 10px 5px 0; vertical-align: top; overflow-wrap: anywhere; }}
td:first-child > a {{ white-space: nowrap; }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.scroll {{ overflow-x: auto; width: 0; min-width: 100%; }}
details {{ border: 1px solid {LINE}; border-left: 4px solid {LOOKS[BY_CODE[20]].fill}; border-radius: 6px;
  padding: 7px 12px; margin: 0 0 8px; background: #fff; }}
summary {{ cursor: pointer; overflow-wrap: anywhere; }}
summary code {{ color: {FAINT}; }}
pre {{ background: #f6f8fa; border-radius: 6px; padding: 9px 11px; overflow-x: auto; font-size: 12.5px;
  width: 0; min-width: 100%; box-sizing: border-box;
  margin: 6px 0; }}
code, pre {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }}
.none {{ color: {FAINT}; padding: 6px 0; }}
@media print {{
  .chip, .badge, .bar, .bar > span, details, pre {{ print-color-adjust: exact; }}
  details {{ break-inside: avoid; }}
  details::details-content {{ content-visibility: visible; height: auto; }}
  pre {{ white-space: pre-wrap; }}
}}
.further {{ display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 6px 0 0; }}
.command code {{ user-select: all; background: #f6f8fa; border-radius: 4px; padding: 1px 6px;
  overflow-wrap: anywhere; }}
.notice {{ background: #fdf0cd; border-radius: 6px; padding: 6px 12px; margin: 6px 0; }}
"""

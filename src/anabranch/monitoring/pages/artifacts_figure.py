"""What tasks have shown, as HTML: by task, of a map all elements together, of attempts that failed apart from those.

Nothing of it is trusted: texts and addresses are escaped, images are images only, and HTML is in a frame of its own in
which no script runs, and from which nothing is loaded.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.monitoring.pages.looks import Link, safe, safe_lines
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.runs import ArtifactRow
from anabranch.runs.read.artifacts import body_of, last_value, number_of, number_text, points_of

MAX_IMAGES = 24  # of a sheet
MAX_SHEET_NBYTES = 3_000_000
MAX_ELEMENTS = 20  # whose tables, texts and links are shown one by one
MAX_EARLIER = 30
BUCKETS = 24  # of a histogram
WIDE, HIGH = 360, 90  # of a plot
FRAME = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MEDIA = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml"})
_CLICKED = ("http://", "https://", "mailto:")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]*")


@dataclass(frozen=True, slots=True)
class Shown:
    """An artifact with its JSON read."""

    row: ArtifactRow
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """The name that the task gave it."""
        return str(self.body.get("name") or "")

    @property
    def run(self) -> str:
        """The task run that it is of."""
        return self.row.slug if self.row.index is None else f"{self.row.slug}[{self.row.index}]"


def render_artifacts(rows: Sequence[ArtifactRow], model: PageModel, link: Link) -> str:
    """What the tasks of a run have shown."""
    if not rows:
        return '<div class="none">no task has shown anything: context.artifact in its code does</div>'
    by_slug: dict[str, list[ArtifactRow]] = {}
    for row in rows:
        by_slug.setdefault(row.slug, []).append(row)
    parts = []
    for slug in sorted(by_slug, key=lambda slug: (list(model.nodes).index(slug) if slug in model.nodes else 0, slug)):
        head = f"<h2>{link(slug, safe(slug, 200))}</h2>"
        parts.append(f"<section>{head}{render_task(by_slug[slug], model, link)}</section>")
    return f'<div class="shown">{"".join(parts)}</div>'


def render_task(rows: Sequence[ArtifactRow], model: PageModel, link: Link) -> str:
    """What a task, or one of its runs, has shown: its last attempts first."""
    found = [Shown(row, body_of(row)) for row in rows]
    last: dict[tuple[str, int | None], int] = {}
    for each in found:
        last[each.row.slug, each.row.index] = max(each.row.attempt, last.get((each.row.slug, each.row.index), 0))
    earlier = [each for each in found if _was_followed(each, last, model)]
    now = [each for each in found if each not in earlier]
    parts = [_together(now, link) if _is_map(now) else "".join(map(_one, now))]
    if earlier:
        told = "".join(
            f"<p>{link(each.run, safe(each.run, 120))}, attempt {each.row.attempt}</p>{_one(each)}"
            for each in earlier[:MAX_EARLIER]
        )
        more = f"<p>and {len(earlier) - MAX_EARLIER:,} more</p>" if len(earlier) > MAX_EARLIER else ""
        parts.append(f"<details><summary>of attempts that were followed by another</summary>{told}{more}</details>")
    return "".join(parts)


def _was_followed(each: Shown, last: dict[tuple[str, int | None], int], model: PageModel) -> bool:
    row = each.row
    told = {attempt.number for attempt in model.attempts.get(each.run, ())}
    return row.attempt < last[row.slug, row.index] or row.attempt in told


def _is_map(shown: Sequence[Shown]) -> bool:
    return len({each.row.index for each in shown}) > 1


def _together(shown: Sequence[Shown], link: Link) -> str:
    """A map: its metrics as distributions, its progress as a sum, its images as a sheet, the rest one by one."""
    parts = []
    for name, group in _by_name(shown, "progress").items():
        done, of = sum(_float(each, "done") for each in group), sum(_float(each, "of") for each in group)
        parts.append(_bar(name, done, of, f" of {len(group):,} elements"))
    parts += [_distribution(name, group) for name, group in _by_name(shown, "metric").items()]
    if images := [each for each in shown if each.row.kind == "image"]:
        parts.append(_sheet(images, link))
    rest = [each for each in shown if each.row.kind not in ("progress", "metric", "image")]
    elements = list(dict.fromkeys(each.run for each in rest))
    for name in elements[:MAX_ELEMENTS]:
        told = "".join(_one(each) for each in rest if each.run == name)
        parts.append(f"<p>{link(name, safe(name, 120))}</p>{told}")
    if len(elements) > MAX_ELEMENTS:
        parts.append(f'<p class="none">and of {len(elements) - MAX_ELEMENTS:,} more elements</p>')
    return "".join(parts)


def _by_name(shown: Iterable[Shown], kind: str) -> dict[str, list[Shown]]:
    found: dict[str, list[Shown]] = {}
    for each in shown:
        if each.row.kind == kind:
            found.setdefault(each.name, []).append(each)
    return found


def _one(each: Shown) -> str:
    body, kind = each.body, each.row.kind
    caption = f"<figcaption>{safe(each.name, 200)}</figcaption>" if each.name else ""
    match kind:
        case "table":
            return f"<figure>{caption}{_table(body)}</figure>"
        case "image":
            return f"<figure>{_image(each)}{caption}</figure>"
        case "html":
            return f"<figure>{_frame(str(body.get('html', '')), each.name or each.run)}{caption}</figure>"
        case "markdown":
            return f'<div class="md">{render_markdown(str(body.get("text", "")))}</div>'
        case "link":
            url = str(body.get("url", ""))
            return f"<p>{_anchor(url, safe(body.get('text') or url, 300))}</p>"
        case "progress":
            return _bar(each.name, _float(each, "done"), _float(each, "of"), "")
        case "metric":
            return f"<figure>{_plot(each)}</figure>"
        case _:
            return f'<p class="warn">{safe(body.get("text", ""), 300)}</p>'


# Kinds ----------------------------------------------------------------------------------------------------------------


def _table(body: dict[str, Any]) -> str:
    columns, rows = (list(body.get(key) or []) for key in ("columns", "rows"))
    rows, total = [row for row in rows if isinstance(row, list)], int(number_of(body, "total"))
    numeric = [all(type(row[i]) in (int, float) for row in rows if i < len(row)) for i in range(_width(rows, columns))]
    head = "".join(f"<th{_right(numeric, i)}>{safe(each, 200)}</th>" for i, each in enumerate(columns))
    cells = (
        "".join(f"<td{_right(numeric, i)}>{safe(_cell(value), 200)}</td>" for i, value in enumerate(row))
        for row in rows
    )
    text = "".join(f"<tr>{row}</tr>" for row in cells)
    more = f'<p class="none">the first {len(rows):,} of {total:,} rows</p>' if total > len(rows) else ""
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{text}</tbody></table></div>{more}'


def _width(rows: Sequence[Sequence[Any]], columns: Sequence[Any]) -> int:
    return max((len(row) for row in [*rows, columns]), default=0)


def _right(numeric: Sequence[bool], place: int) -> str:
    return ' class="n"' if place < len(numeric) and numeric[place] else ""


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if type(value) is int else str(value)


def _image(each: Shown) -> str:
    media, data = str(each.body.get("media")), str(each.body.get("data"))
    if media not in _MEDIA or not _BASE64.fullmatch(data):
        return '<p class="none">an image that cannot be shown</p>'
    return f'<img src="data:{media};base64,{data}" alt="{safe(each.name or f"image of {each.run}", 200)}">'


def _sheet(images: Sequence[Shown], link: Link) -> str:
    parts: list[str] = []
    nbytes = 0
    for each in images[:MAX_IMAGES]:
        nbytes += len(str(each.body.get("data")))
        if parts and nbytes > MAX_SHEET_NBYTES:
            break
        text = safe(f"{each.run} {each.name}".strip(), 120)
        parts.append(f"<figure>{_image(each)}<figcaption>{link(each.run, text)}</figcaption></figure>")
    left = len(images) - len(parts)
    more = f'<p class="none">and {left:,} more images, each with its element</p>' if left else ""
    return f'<div class="sheet">{"".join(parts)}</div>{more}'


def _frame(text: str, name: str) -> str:
    """HTML of somebody else's, in a frame without scripts, without addresses, and without this page."""
    inner = html.escape(f'<meta http-equiv="Content-Security-Policy" content="{FRAME}">{text}', quote=True)
    return f'<iframe sandbox="" loading="lazy" title="{safe(name, 200)}" srcdoc="{inner}"></iframe>'


def _bar(name: str, done: float, of: float, more: str) -> str:
    share = min(1.0, max(0.0, done / of)) if of > 0 and math.isfinite(done) and math.isfinite(of) else 0.0
    told = f"{share:.0%}" if of == 1 and not more else f"{number_text(done)} of {number_text(of)} ({share:.0%}){more}"
    return (
        f'<div class="faint">{safe(name, 200)}: {told}</div><div class="bar" role="progressbar" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{100 * share:.0f}" aria-label="{safe(name or "progress", 200)}">'
        f'<span style="width:{share:.2%};background:var(--link)"></span></div>'
    )


def _plot(each: Shown) -> str:
    points = [(x, y) for x, y in points_of(each.body) if math.isfinite(x) and math.isfinite(y)]
    count, last = int(_float(each, "count")), _last(each)
    told = f"<b>{safe(each.name, 200)}</b> {number_text(last)}"
    if len(points) < 2:
        return f'<div class="metric">{told}</div>'
    (left, right), (low, high) = _ends([x for x, _ in points]), _ends([y for _, y in points])
    path = "".join(
        f"{'M' if i == 0 else 'L'}{(x - left) / (right - left or 1) * WIDE:.1f} "
        f"{HIGH - (y - low) / (high - low or 1) * HIGH:.1f}"
        for i, (x, y) in enumerate(points)
    )
    reach, steps = (f"{number_text(a)} to {number_text(b)}" for a, b in ((low, high), (left, right)))
    about = f"{each.name}: {count:,} values from {reach}, the last one {number_text(last)}"
    return (
        f'<div class="metric">{told} <span class="faint">{reach} in {count:,} values, steps {steps}</span></div>'
        f'<svg class="plot" role="img" viewBox="-2 -2 {WIDE + 4} {HIGH + 4}" preserveAspectRatio="none" '
        f'aria-label="{safe(about, 300)}"><path d="{path}" fill="none" '
        'stroke="currentColor" stroke-width="1.5" vector-effect="non-scaling-stroke"/></svg>'
    )


def _distribution(name: str, group: Sequence[Shown]) -> str:
    """The last values of a metric, over the elements of a map."""
    values = sorted(value for value in map(_last, group) if math.isfinite(value))
    odd = len(group) - len(values)
    told = f"<b>{safe(name, 200)}</b> of {len(group):,} elements"
    if not values:
        return f'<div class="metric">{told}: none is a number</div>'
    low, high = values[0], values[-1]
    width = high / BUCKETS - low / BUCKETS or 1.0  # apart, as their difference may have no end
    counts = [0] * BUCKETS
    for value in values:
        counts[min(BUCKETS - 1, int(value / width - low / width))] += 1
    bars = "".join(
        f'<i style="height:{100 * n / max(counts):.0f}%" title="{n:,}: {number_text(low + i * width)} to '
        f'{number_text(low + (i + 1) * width)}"></i>'
        for i, n in enumerate(counts)
    )
    half = f"half at most {number_text(values[(len(values) - 1) // 2])}{f'; {odd:,} are no numbers' if odd else ''}"
    return (
        f'<figure><div class="metric">{told} <span class="faint">{half}</span></div><div class="hist">{bars}</div>'
        f'<div class="ends"><span>{number_text(low)}</span><span>{number_text(high)}</span></div></figure>'
    )


def _last(each: Shown) -> float:
    return last_value(each.body)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _float(each: Shown, key: str) -> float:
    return number_of(each.body, key)


# Markdown -------------------------------------------------------------------------------------------------------------

_INLINE = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<bold>.+?)\*\*|\*(?P<em>[^*\s][^*]*)\*|\[(?P<text>[^\]]+)\]\((?P<url>[^()\s]+)\)"
)
_RULE = re.compile(r"[\s:|-]+")
_ITEM = re.compile(r"\s*([-*+]|\d{1,9}[.)])\s+")
_PROSE = re.compile(r"(?!```|#|[-*+]\s|\d{1,9}[.)]\s|\s*$).+")
_ROW = re.compile(r"[^|]*\|")
MAX_INLINE = 4_000  # characters in which marks may belong together


def render_markdown(text: str) -> str:
    """Markdown as HTML: headings, lists, tables, code, emphasis and links. All else is text, HTML as well."""
    parts: list[str] = []
    lines = text.replace("\r\n", "\n").split("\n")
    while lines:
        line = lines.pop(0)
        if line.startswith("```"):
            code: list[str] = []
            while lines and not lines[0].startswith("```"):
                code.append(lines.pop(0))
            del lines[:1]
            parts.append(f"<pre>{safe_lines(chr(10).join(code), 20_000)}</pre>")
        elif heading := re.match(r"(#{1,6})\s+(.*)", line):
            parts.append(f"<h3>{_inline(heading[2])}</h3>")
        elif _ITEM.match(line):
            parts.append(_list([line, *_taken(lines, _ITEM)]))
        elif "|" in line and lines and "|" in lines[0] and _RULE.fullmatch(lines[0]) and "-" in lines[0]:
            del lines[0]
            rows = [_cells(line), *map(_cells, _taken(lines, _ROW))]
            head, *rest = ["".join(f"<{tag}>{_inline(each)}</{tag}>" for each in row) for row, tag in _tagged(rows)]
            body = "".join(f"<tr>{row}</tr>" for row in rest)
            table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            parts.append(f'<div class="scroll" tabindex="0">{table}</div>')
        elif line.strip():
            parts.append(f"<p>{_inline(' '.join([line, *_taken(lines, _PROSE)]))}</p>")
    return "".join(parts)


def _taken(lines: list[str], pattern: re.Pattern[str]) -> list[str]:
    """The first lines that look so, taken away."""
    found = []
    while lines and pattern.match(lines[0]):
        found.append(lines.pop(0))
    return found


def _list(lines: Sequence[str]) -> str:
    tag = "ol" if re.match(r"\s*\d", lines[0]) else "ul"
    items = "".join(f"<li>{_inline(_ITEM.sub('', line, count=1))}</li>" for line in lines)
    return f"<{tag}>{items}</{tag}>"


def _cells(line: str) -> list[str]:
    return [each.strip() for each in line.strip().strip("|").split("|")]


def _tagged(rows: Sequence[list[str]]) -> list[tuple[list[str], str]]:
    return [(row, "th" if place == 0 else "td") for place, row in enumerate(rows)]


def _inline(text: str) -> str:
    return "".join(_marked(text[i : i + MAX_INLINE]) for i in range(0, len(text), MAX_INLINE))


def _marked(text: str) -> str:
    parts: list[str] = []
    place = 0
    for found in _INLINE.finditer(text):
        parts.append(safe(text[place : found.start()], 20_000))
        place = found.end()
        if found["code"]:
            parts.append(f"<code>{safe(found['code'], 2_000)}</code>")
        elif found["bold"]:
            parts.append(f"<b>{safe(found['bold'], 2_000)}</b>")
        elif found["em"]:
            parts.append(f"<em>{safe(found['em'], 2_000)}</em>")
        else:
            parts.append(_anchor(found["url"], safe(found["text"], 2_000)))
    return "".join([*parts, safe(text[place:], 20_000)])


def _anchor(url: str, inner: str) -> str:
    """A link, if a click on it cannot do more than to open a page."""
    if not url.lower().startswith(_CLICKED) or any(each.isspace() or not each.isprintable() for each in url):
        return inner if inner == safe(url, 300) else f"{inner} ({safe(url, 300)})"
    return f'<a href="{safe(url, 2_000)}" target="_blank" rel="noopener noreferrer nofollow">{inner}</a>'


STYLE = """
.shown figure { margin: 8px 0; }
.shown figcaption, .ends { color: var(--faint); font-size: 12.5px; overflow-wrap: anywhere; }
.shown img { max-width: 100%; height: auto; background: #ffffff; }
.shown iframe { width: 100%; height: 320px; border: 1px solid var(--line); border-radius: 6px; background: #ffffff;
  resize: vertical; }
.shown .scroll { max-height: 420px; overflow: auto; }
.shown details { border-left-color: var(--line); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 10px; }
.plot { width: 100%; max-width: 560px; height: 90px; color: var(--link); border-bottom: 1px solid var(--line); }
.shown .hist { max-width: 560px; height: 90px; }
.ends { display: flex; justify-content: space-between; max-width: 560px; }
.shown .bar { max-width: 560px; background: var(--soft); }
.md h3 { font-size: 14px; margin: 10px 0 2px; }
.md p { margin: 4px 0; }
"""

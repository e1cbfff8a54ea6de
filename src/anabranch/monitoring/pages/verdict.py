"""The first words of a run's page: why it failed, what it is at, or how it compares with those before it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from statistics import median

from anabranch.base.states import FIRST_FINAL_CODE, Pending, Retrying, TriggerFailed
from anabranch.base.texts import printable, seconds
from anabranch.base.tracebacks import frame_of, frames_of
from anabranch.base.where import is_library, is_users
from anabranch.monitoring.pages.failure_groups import Example, FailureGroup
from anabranch.monitoring.pages.looks import Link, no_link, safe, safe_lines
from anabranch.monitoring.pages.page_model import PageModel, PageNode
from anabranch.runs import LogRow

MAX_RUNNING = 20  # tasks
MAX_NAMES = 6
LOG_LINES = 5


def verdict(
    model: PageModel,
    *,
    earlier: Sequence[float] = (),
    lines_of: Callable[[str, int | None], Sequence[LogRow]] = lambda slug, index: (),
    link: Link = no_link,
) -> str:
    """What a reader wants to know first.

    Parameters
    ----------
    earlier
        Seconds that successful runs of the flow took before this one, the newest first.
    lines_of
        Gives the log lines of a task run, by slug and element.
    link
        Makes a link to a task run of its name and HTML.
    """
    if model.ended is None:
        return _of_running(model, earlier, link)
    groups = list(model.failures.groups.values())
    if not model.state.is_successful() and groups:
        return _of_failed(model, groups[0], lines_of, link)
    return _compare(model, earlier) if model.state.is_successful() else ""


def command(what: str, text: str) -> str:
    """A command to be copied."""
    return (
        f'<span class="command"><span class="faint">{safe(what)}:</span> <code>{safe(text)}</code><button class="copy" '
        'type="button">copy</button></span>'
    )


# A run that failed ----------------------------------------------------------------------------------------------------


def _of_failed(
    model: PageModel, group: FailureGroup, lines_of: Callable[[str, int | None], Sequence[LogRow]], link: Link
) -> str:
    """What failed first, with all that helps to mend it."""
    first = group.examples[0]
    replay = f"anabranch replay {shlex.quote(printable(model.run_id))} {shlex.quote(printable(first.name))} --pdb"
    told = "".join(f"{safe(row.text, 500)}\n" for row in list(lines_of(*split_name(first.name)))[-LOG_LINES:])
    return (
        f'<section class="verdict bad" aria-label="what failed first"><h2>✗ '
        f"{link(first.name, safe(first.name, 120))} {_how(first)}</h2>"
        f"<p><b>{safe(group.exception)}</b>: {safe(first.message.strip(), 600)}</p>{_line(first, group.line)}"
        f"{_listed('inputs', [f'{safe(name, 60)} = {safe(value, 300)}' for name, value in first.inputs])}"
        f"{_listed('attempts before', [safe(attempt, 300) for attempt in first.attempts])}"
        f"{f'<p>it logged</p><pre>{told}</pre>' if told else ''}"
        f"<p>{command('once more, here', replay)}</p>{_beside(model, group, link)}</section>"
    )


def split_name(name: str) -> tuple[str, int | None]:
    """The slug and the element of a task run's name: ``parse[7]``."""
    slug, bracket, index = name.removesuffix("]").rpartition("[")
    is_element = bracket and name.endswith("]") and index.isascii() and index.isdecimal() and len(index) < 19
    return (slug, int(index)) if is_element else (name, None)


def _how(first: Example) -> str:
    tries = f" after {first.attempt} attempts" if first.attempt > 1 else ""
    worker = f" on {safe(first.worker, 80)}" if first.worker not in ("", "local") else ""
    word = "timed out" if first.state == "TimedOut" else "crashed" if first.state == "Crashed" else "failed"
    return f"{word}{tries}{worker}"


def _line(first: Example, told: str) -> str:
    """The innermost line that is the user's own, as the traceback has it: no file is read."""
    own = [frame for frame in frames_of(first.traceback) if is_users(frame.file)]
    place = own[-1] if own else frame_of(told)
    if place is None or is_library(place.file):
        return ""
    text = f"<pre>{safe_lines(place.text, 500)}</pre>" if place.text else ""
    return f"<p><code>{safe(f'{place.file}:{place.line} in {place.function}', 300)}</code></p>{text}"


def _listed(what: str, lines: Sequence[str]) -> str:
    return f"<p>{what}</p><pre>{chr(10).join(lines)}</pre>" if lines else ""


def _beside(model: PageModel, group: FailureGroup, link: Link) -> str:
    """What else failed, alike or otherwise, and what could not run because of it."""
    alike, others = group.count - 1, model.failures.total - group.count
    parts = [f"{alike:,} more failed alike"] if alike else []
    parts += [f"{others:,} failed otherwise"] if others else []
    held = [node.slug for node in model.tasks() if node.code == TriggerFailed.code]
    if held:
        more = f" and {len(held) - MAX_NAMES:,} more" if len(held) > MAX_NAMES else ""
        parts.append(f"held up: {', '.join(link(slug, safe(slug, 80)) for slug in held[:MAX_NAMES])}{more}")
    return f'<p class="faint">{"; ".join(parts)}</p>' if parts else ""


# A run that goes on ---------------------------------------------------------------------------------------------------


def _of_running(model: PageModel, earlier: Sequence[float], link: Link) -> str:
    nodes = [node for node in model.tasks() if FIRST_FINAL_CODE > node.code > Pending.code]
    lines = [text for node in nodes if (text := _retrying(node, link))]
    lines += [
        f"<b>{link(node.slug, safe(node.slug, 80))}</b> {safe(text, 500)}{_left(node)}"
        for node in nodes
        if (text := node.running_text())
    ]
    shown = "".join(f"<li>{line}</li>" for line in lines[:MAX_RUNNING])
    more = f"<li>and {len(lines) - MAX_RUNNING:,} more tasks</li>" if len(lines) > MAX_RUNNING else ""
    left = left_text(model, earlier)
    about = f'<p class="faint">{left}</p>' if left else ""
    listed = f"<h2>What runs</h2><ul>{shown}{more}</ul>" if shown else ""
    return f'<section class="verdict" aria-label="what runs">{about}{listed}</section>' if about or listed else ""


def left_text(model: PageModel, earlier: Sequence[float]) -> str:
    """How long it may still take, by the pace of its maps and by earlier runs; nothing if nobody knows."""
    going = [node for node in model.tasks() if node.width and not node.is_done]
    paces = [left for node in going if (left := node.left_s()) is not None]
    parts = [f"about {_round(max(paces))} for what its maps have left"] if paces else []
    if earlier:
        usual = median(earlier)
        rest = usual - model.elapsed_s
        so = f"so about {_round(rest)} left" if rest > 0 else f"so it is {_round(-rest)} late"
        parts.append(f"it usually takes {_round(usual)}, {so}")
    return "; ".join(parts)


def _round(value: float) -> str:
    """Seconds to be read at a glance."""
    return seconds(max(1, round(value))).replace(".0 s", " s")


def _left(node: PageNode) -> str:
    left = node.left_s()
    return f', about <span class="n">{_round(left)}</span> left' if left is not None else ""


def _retrying(node: PageNode, link: Link) -> str:
    """When and why a task is tried again."""
    state = node.state
    if node.width:
        waiting = node.retrying()
        return (
            f"↻ <b>{link(node.slug, safe(node.slug, 80))}</b> {waiting:,} elements wait for another attempt"
            if waiting
            else ""
        )
    if state is None or not isinstance(state, Retrying):
        return ""
    due = state.start_time
    when = f" at {due.astimezone():%H:%M:%S}" if due is not None and due > datetime.now(UTC) else ""
    return f"↻ <b>{link(node.slug, safe(node.slug, 80))}</b> is tried again{when}: {safe(state.message, 300)}"


# A run that succeeded -------------------------------------------------------------------------------------------------


def _compare(model: PageModel, earlier: Sequence[float]) -> str:
    if not earlier:
        return ""
    usual, took = median(earlier), model.elapsed_s
    if usual <= 0:
        return ""
    change = took / usual - 1
    how = "as long as" if abs(change) < 0.05 else f"{abs(change):.0%} {'longer' if change > 0 else 'shorter'} than"
    last = f"the last {len(earlier)} successful runs" if len(earlier) > 1 else "the successful run before"
    return (
        f'<section class="verdict" aria-label="comparison"><p class="faint">it took {how} {last}'
        f" (half of them within {seconds(usual)}, longest {seconds(max(earlier))})</p></section>"
    )

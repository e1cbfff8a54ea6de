"""The parts of a page that are read: head, failures, log lines, parameters. HTML, with all that is users' escaped.

Nothing here keeps anything: functions of a model give text.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from anabranch.base.states import BY_CODE, FIRST_FINAL_CODE
from anabranch.base.texts import printable, seconds
from anabranch.monitoring.pages.failure_groups import Example, FailureGroup
from anabranch.monitoring.pages.looks import look_of_code, safe, safe_lines
from anabranch.monitoring.pages.page_model import MAX_RETRIED, PageModel
from anabranch.monitoring.pages.verdict import command
from anabranch.runs import LogRow
from anabranch.runs.read.run import QUIET_S

LEGEND = (0, 1, 10, 11, 13, 2, 20, 22, 30)
_BAR_ORDER = (10, 12, 11, 13, 30, 22, 23, 24, 21, 20, 1, 2, 3)


def mark(code: int, text: str, kind: str = "chip") -> str:
    """A coloured word, with the state's symbol, so that colour is not needed to tell it."""
    look = look_of_code(code)
    symbol = f"{look.symbol} " if look.symbol else ""
    return f'<span class="{kind}" style="background:{look.fill};color:{look.ink}">{symbol}{text}</span>'


def title(model: PageModel, links: Sequence[tuple[str, str]] = ()) -> str:
    """Name, id, when it began, and links: pairs of address and text."""
    began = f"{datetime.fromtimestamp(model.began, UTC).astimezone():%Y-%m-%d %H:%M:%S}" if model.began else ""
    linked = " ".join(f'<a href="{safe(url, 2_000)}">{safe(text)}</a>' for url, text in links)
    return (
        f'<div class="head"><h1>{safe(model.flow_name, 200)}</h1>'
        f'<span class="faint">run {safe(model.run_id)} · {began}</span>{linked}</div>'
    )


def status(model: PageModel, *, state: str | None = None) -> str:
    """State, how far it is, and how many task runs stand where.

    Parameters
    ----------
    state
        The state's word, if it is not one of a run that this process knows, such as Interrupted.
    """
    counts = model.counts()
    total, done = counts.total(), sum(n for code, n in counts.items() if code >= FIRST_FINAL_CODE)
    word = state or model.state.name
    share = f"{done / total:.1%}" if total else ""
    chips = "".join(mark(code, f"{BY_CODE[code].__name__} {counts[code]:,}") for code in sorted(counts) if counts[code])
    parts = "".join(
        f'<span style="width:{counts[code] / total:.4%};background:{look_of_code(code).fill}"></span>'
        for code in _BAR_ORDER
        if counts.get(code)
    )
    notices = "".join(f'<div class="notice">{safe(text, 1_000)}</div>' for _, text in list(model.notices)[-3:])
    if model.is_incomplete:
        notices += '<div class="notice">this page fell behind and has lost events; the record of the run has all</div>'
    if model.ended is None and model.quiet_since is not None and (quiet_s := model.now - model.quiet_since) >= QUIET_S:
        text = f"its driver lives; nothing has begun, ended or been logged for {seconds(int(quiet_s))}"
        notices += f'<div class="notice">{text}</div>'
    message = model.state.message if model.state.is_finished() or model.state.is_paused() else ""
    told = f'<div class="faint">{safe(message, 500)}</div>' if message else ""
    return (
        f'<div class="head">{mark(model.state.code, safe(word), "badge")}'
        f"<span><b>{share}</b> of {total:,} task runs</span>"
        f'<span class="faint elapsed">{_elapsed(model)}</span></div>'
        f'<div class="bar" role="progressbar" aria-valuenow="{round(100 * done / total) if total else 0}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="task runs that have ended">{parts}</div>'
        f'<div class="chips">{chips}</div>{told}{notices}'
    )


def _elapsed(model: PageModel) -> str:
    """How long it took; while it goes on, in whole seconds, as a clock shows them."""
    return seconds(model.elapsed_s if model.ended is not None else int(model.elapsed_s)).replace(".0 s", " s")


def further(model: PageModel) -> str:
    """Commands with which to look further once a run has ended; nothing before."""
    if model.ended is None:
        return ""
    run = shlex.quote(printable(model.run_id))
    commands = [("the run in a terminal", f"anabranch show {run}"), ("this page as a file", f"anabranch report {run}")]
    if not model.state.is_successful():
        commands.append(("what is left", f"anabranch resume {run}"))
    return f'<div class="further">{"".join(command(what, text) for what, text in commands)}</div>'


def lost() -> str:
    """What is said when the server of the page can be reached no more."""
    return (
        '<div class="notice" role="status">Nothing new comes here: the process that served this page has ended, or '
        "cannot be reached. The page shows how things stood last; <code>anabranch ui</code> serves what is recorded."
        "</div>"
    )


def legend() -> str:
    """What colours and symbols stand for."""
    words = "".join(mark(code, BY_CODE[code].__name__) for code in LEGEND)
    return f'<div class="chips legend" aria-label="legend">{words}</div>'


# Failures -------------------------------------------------------------------------------------------------------------


def failures_head(model: PageModel) -> str:
    """How many failed, in how many ways."""
    total = model.failures.total
    if not total:
        return '<h2>Failures</h2><div class="none">nothing has failed</div>'
    kinds = len(model.failures.groups)
    more = f"; {model.failures.ungrouped:,} more of other kinds" if model.failures.ungrouped else ""
    text = f"{total:,} failed by themselves, in {kinds:,} way{'s' if kinds != 1 else ''}{more}"
    return f'<h2>Failures <span class="faint" style="font-weight:400">{text}</span></h2>'


def failure_count(group: FailureGroup) -> str:
    """How many failed like this."""
    return f'<div class="n" style="font-weight:700;padding-top:8px;text-align:right">{group.count:,} ×</div>'


def failure_body(group: FailureGroup) -> str:
    """What was raised where, to be opened: the first task runs that failed like this, with inputs and traceback."""
    first = group.examples[0]
    where = f" <code>{safe(group.line, 200)}</code>" if group.line else ""
    names = ", ".join(safe(slug, 60) for slug in list(group.slugs)[:5])
    title = (
        f"<b>{safe(group.exception)}</b>{where} in {names}<br>{safe(first.message.strip().partition(chr(10))[0], 160)}"
    )
    examples = "".join(_example(each, None if each is first else first) for each in group.examples)
    return f"<details><summary>{title}</summary>{examples}</details>"


def _example(example: Example, first: Example | None) -> str:
    """A task run that failed; of one that failed on the first one's way, its traceback is not told again."""
    worker = f" on {safe(example.worker, 80)}" if example.worker else ""
    tries = f", attempt {example.attempt}" if example.attempt > 1 else ""
    times = " to ".join(_clock(time) for time in (example.start, example.end) if time is not None)
    title = f"<b>{safe(example.name, 120)}</b> {safe(example.state)}{tries}{worker}{f', {times}' if times else ''}"
    title += "".join(f"<br>{safe(attempt, 300)}" for attempt in example.attempts)
    inputs = "".join(f"{safe(name, 60)} = {safe(value, 300)}\n" for name, value in example.inputs)
    told = example.traceback.rstrip("\n") or example.message
    if first is not None and _way(example) == _way(first):
        both = f"{inputs}{safe_lines(example.message)}"
        return f'<div style="margin-top:8px">{title}</div><pre>{both}</pre>'
    given = f"<pre>{inputs}</pre>" if inputs else ""
    return f'<div style="margin-top:8px">{title}</div>{given}<pre>{safe_lines(told)}</pre>'


def _way(example: Example) -> list[str]:
    """The frames of its traceback, without what was raised."""
    return [line for line in example.traceback.split("\n") if line.startswith("  ")]


# Logs, parameters, tasks ----------------------------------------------------------------------------------------------


def log_table(rows: Iterable[LogRow]) -> str:
    """Log lines, oldest first."""
    lines = "".join(map(_log_line, rows))
    if not lines:
        return '<div class="none">no log lines are recorded</div>'
    return (
        '<div class="scroll" tabindex="0"><table><thead><tr><th>time</th><th>level</th><th>task run</th><th>worker</th>'
        f"<th>text</th></tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _log_line(row: LogRow) -> str:
    name = "" if row.slug is None else row.slug if row.index is None else f"{row.slug}[{row.index}]"
    time = _clock(row.time)
    ink = ' class="warn"' if row.level >= logging.WARNING else ""
    return (
        f'<tr><td class="n">{time}</td><td{ink}>{safe(logging.getLevelName(row.level), 12)}</td>'
        f"<td>{safe(name, 80)}</td><td>{safe(row.worker, 60)}</td><td>{safe(row.text, 1_000)}</td></tr>"
    )


def parameter_table(parameters: Mapping[str, Any]) -> str:
    """Parameters with their values; secrets are masked before they get here."""
    if not parameters:
        return '<div class="none">the flow has no parameters, or they are not recorded</div>'
    rows = "".join(
        f"<tr><td><b>{safe(name, 80)}</b></td><td><code>{safe(value, 1_000)}</code></td></tr>"
        for name, value in parameters.items()
    )
    return f'<table style="max-width:900px"><tbody>{rows}</tbody></table>'


def attempt_table(model: PageModel) -> str:
    """Attempts that were followed by another; nothing if there were none."""
    rows = [
        f'<tr><td>{safe(name, 80)}</td><td class="n">{each.number}</td><td>{safe(each.state)}</td>'
        f'<td>{safe(each.worker, 60)}</td><td class="n">{_clock(each.start)}</td><td class="n">{_clock(each.end)}</td>'
        f"<td>{safe(each.reason, 200)}</td></tr>"
        for name, attempts in model.attempts.items()
        for each in attempts
    ]
    if not rows:
        return ""
    first = f" of the first {MAX_RETRIED} task runs that had several" if len(model.attempts) == MAX_RETRIED else ""
    return (
        f"<h2>Attempts that were followed by another{first}</h2>"
        '<div class="scroll"><table><thead><tr><th>task run</th><th class="n">attempt</th><th>state</th><th>worker</th>'
        '<th class="n">began</th><th class="n">ended</th><th>reason</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _clock(time: datetime | None) -> str:
    """Time of the day, here."""
    return f"{time.astimezone():%H:%M:%S}.{time.microsecond // 1000:03}" if time is not None else ""

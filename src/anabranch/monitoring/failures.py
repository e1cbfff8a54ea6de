"""How a user sees a failed run: each root cause once, with the user's own lines around it, and the rest counted.

It reads the finished run and the user's source files, and gives lines of text; printing them is left to others.
"""

from __future__ import annotations

import linecache
import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from anabranch.base.states import Crashed, Failure, State, TimedOut
from anabranch.base.texts import printable, printable_lines, seconds, shortened
from anabranch.base.tracebacks import LED, Frame, frame_of, frames_of
from anabranch.base.where import is_library, is_users

if TYPE_CHECKING:
    from anabranch.runs.view import FlowRunView

Ink: TypeAlias = Literal["bad", "strong", "faint"]
Paint: TypeAlias = Callable[[str, Ink], str]

MAX_TASKS = 3  # tasks shown in full; a fourth cause is seldom read before the first is mended
MAX_NAMES = 6
MAX_INDICES = 3
MAX_MESSAGE_LINES = 12
MAX_LINE = 300  # characters
BEFORE, AFTER = 3, 1  # source lines around the failing one
FURTHER_LINES = 11  # of a screen, for what comes behind: what was held up, commands, the last line


def leave_plain(text: str, ink: Ink) -> str:
    """Text without colour."""
    return text


@dataclass(slots=True)
class Alike:
    """Task runs of one task that failed with the same exception at the same line."""

    type_name: str
    place: Frame | None
    first: State
    """The one that is known best."""
    name: str
    """Its task run: ``parse[777]``."""
    count: int = 0
    indices: list[int] = field(default_factory=list)
    """Of the first few."""

    def __str__(self) -> str:
        where = f" {_render_frame(self.place)}" if self.place else ""
        more = ", …" if self.count > len(self.indices) else ""
        indices = f" ({', '.join(map(str, self.indices))}{more})" if self.indices else ""
        return f"{self.count:,} × {printable(self.type_name)}{where}{indices}"


def failure_lines(
    view: FlowRunView, *, in_full: bool = False, paint: Paint = leave_plain, height: int | None = None
) -> list[str]:
    """What a failed run has to say.

    Parameters
    ----------
    view
        The finished run.
    in_full
        With whole tracebacks.
    paint
        Puts colours on.
    height
        Lines of the terminal: what does not fit beside the first cause is told in a line; None means no limit.
    """
    by_task = grouped(view.failures())
    lines: list[str] = []
    rest = list(by_task)
    while rest and len(by_task) - len(rest) < MAX_TASKS:
        block = [*_block(view, rest[0], by_task[rest[0]], in_full, paint), ""]
        if lines and height is not None and not in_full and len(lines) + len(block) + FURTHER_LINES > height:
            break
        lines += block
        del rest[0]
    if rest:
        lines += [paint(f"✗ {len(rest):,} more task{'s' if len(rest) > 1 else ''} failed", "bad")]
        lines += [f"    {line}" for slug in rest[:MAX_NAMES] for line in _summarize(view, slug, by_task[slug])]
        lines += [f"    … and {len(rest) - MAX_NAMES:,} more"] if len(rest) > MAX_NAMES else []
        lines += [""]
    if not by_task and view.state.is_failed():
        lines += [*_block_of(view.state, "the flow run", in_full, paint), ""]
    states = ((slug, run.state) for slug, run in view._whole.runs.items() if slug not in by_task)
    held = [text for slug, state in states if (text := _held_up(slug, state))]
    if by_task and held:
        lines += [paint(f"  held up by that: {_list_names(held)}", "faint"), ""]
    return lines[:-1]


def further_lines(view: FlowRunView) -> list[str]:
    """Commands with which to look further: at the run, at the task run that failed first, and on with what is left."""
    run = view.run_id
    commands = [("the whole run", f"anabranch show {run}")]
    named = [name for name, _ in view.failures()[:1]]
    for name in map(shlex.quote, map(printable, named)):
        commands.append(("what it logged", f"anabranch logs {run} {name}"))
        commands.append(("once more, here", f"anabranch replay {run} {name} --pdb"))
    commands.append(("what is left", f"anabranch resume {run}"))
    return [f"  {what + ':':<17}{command}" for what, command in commands] + [""]


def tolerated_lines(view: FlowRunView) -> list[str]:
    """One line for each task that failed, in part or as a whole, in a run that ended well all the same."""
    by_task = grouped(view.failures())
    return [line for slug, groups in by_task.items() for line in _summarize(view, slug, groups)]


def grouped(failures: Iterable[tuple[str, State]]) -> dict[str, list[Alike]]:
    """Failures by task, then by exception and line; those that happened most come first."""
    found: dict[str, dict[tuple[str, str], Alike]] = {}
    for name, state in failures:
        slug = name if state.map_index is None else name.removesuffix(f"[{state.map_index}]")
        failure = state.failure or Failure(state.name, state.message)
        groups = found.setdefault(slug, {})
        group = groups.get((failure.type_name, failure.line))
        if group is None:
            place = own_place(failure)
            group = groups[failure.type_name, failure.line] = Alike(failure.type_name, place, state, name)
        elif failure.traceback and not (group.first.failure and group.first.failure.traceback):
            group.first, group.name, group.place = state, name, own_place(failure)
        group.count += 1
        if state.map_index is not None and len(group.indices) < MAX_INDICES:
            group.indices.append(state.map_index)
    return {slug: sorted(groups.values(), key=lambda group: -group.count) for slug, groups in found.items()}


def own_place(failure: Failure) -> Frame | None:
    """The innermost line that is the user's own; else a library's, if it is not ours."""
    own = [frame for frame in frames_of(failure.traceback) if is_users(frame.file)]
    if own:
        return own[-1]
    found = frame_of(failure.line)
    return None if found is None or is_library(found.file) else found  # a timeout, say, is raised by our own code


def _render_frame(place: Frame) -> str:
    return f"{shown_path(place.file)}:{place.line}"


def shown_path(file: str) -> str:
    """A path from here if it is below the current directory, else as it is."""
    try:
        inside = os.path.relpath(file)
    except (OSError, ValueError):  # no current directory, or another drive
        inside = file
    return printable(file if inside.startswith(os.pardir) else inside)


# One task -------------------------------------------------------------------------------------------------------------


def _block(view: FlowRunView, slug: str, groups: list[Alike], in_full: bool, paint: Paint) -> list[str]:
    # A kind whose traceback is here says more than one that happened oftener.
    group = next((each for each in groups if each.first.failure and each.first.failure.traceback), groups[0])
    lines = _block_of(group.first, group.name, in_full, paint)
    if group.first.map_index is not None:
        lines += [f"  {_count_failed(view, slug, groups)}"]
    return lines


def _block_of(state: State, name: str, in_full: bool, paint: Paint) -> list[str]:
    failure = state.failure or Failure(state.name, state.message)
    lines = [paint(f"✗ {printable(name)} {_how(state)}", "bad"), *_inputs(failure)]
    if in_full and failure.traceback:
        return [*lines, *(f"  {line}"[:MAX_LINE] for line in printable_lines(failure.traceback.rstrip("\n")))]
    place = own_place(failure)
    if place is not None:
        lines += [f"  {_render_frame(place)} in {printable(place.function)}", *_excerpt(place, paint)]
        deepest = (frames_of(failure.traceback) or [place])[-1]
        if (deepest.file, deepest.line) != (place.file, place.line):
            where = f"{deepest.file}:{deepest.line} in {deepest.function}"
            lines += [paint(f"  raised in {printable(where)}", "faint")]
    lines += [paint(f"  {line}", "strong") for line in _exception(failure)]
    cause, led, _ = failure.traceback.partition(LED)
    if led:
        lines += [f"  caused by {shortened(cause, MAX_LINE)}"]
    return lines


def _how(state: State) -> str:
    word = "timed out" if isinstance(state, TimedOut) else "crashed" if isinstance(state, Crashed) else "failed"
    tries = f" after {state.attempt} tries" if state.attempt > 1 else ""
    worker = f" on {printable(state.worker)}" if state.worker and state.worker != "local" else ""
    took = f" ({seconds(state.duration_s)})" if state.duration_s is not None and state.duration_s >= 0.1 else ""
    return f"{word}{tries}{worker}{took}"


def _inputs(failure: Failure) -> list[str]:
    pairs = [f"{printable(name)}={printable(value)}" for name, value in failure.inputs.items()]
    if not pairs:
        return []
    if sum(map(len, pairs)) > 100:
        return ["    inputs", *(f"      {pair}" for pair in pairs)]
    return [f"    inputs   {'  '.join(pairs)}"]


def _excerpt(place: Frame, paint: Paint) -> list[str]:
    """The lines around; only the one that was recorded where there is no such file, or another one by now."""
    linecache.checkcache(place.file)
    last = place.line + AFTER
    is_here = not place.text or linecache.getline(place.file, place.line).strip() == place.text
    lines = []
    for number in range(max(1, place.line - BEFORE), last + 1) if is_here else (place.line,):
        text = linecache.getline(place.file, number) if is_here else place.text
        if not text:
            continue
        code = shortened(printable_lines(text.rstrip("\n"))[0], MAX_LINE)
        mark, ink = ("❱", "strong") if number == place.line else (" ", "faint")
        lines.append(paint(f"  {mark} {number:>{len(str(last))}}  {code}", ink).rstrip())  # type: ignore[arg-type]  # an Ink
    return lines


def _exception(failure: Failure) -> list[str]:
    text = f"{failure.type_name}: {failure.message}" if failure.message else failure.type_name
    notes = failure.traceback.rpartition(text)[2].strip("\n") if text in failure.traceback else ""
    lines = printable_lines(f"{text}\n{notes}" if notes else text)
    shown = [line[:MAX_LINE] + ("…" if len(line) > MAX_LINE else "") for line in lines[:MAX_MESSAGE_LINES]]
    if len(lines) > MAX_MESSAGE_LINES:
        shown.append(f"… {len(lines) - MAX_MESSAGE_LINES:,} more lines")
    return shown


def _summarize(view: FlowRunView, slug: str, groups: list[Alike]) -> list[str]:
    if len(groups) == 1 and groups[0].count == 1:
        failure = groups[0].first.failure
        headline = failure.headline() if failure else groups[0].first.message
        where = f" {_render_frame(groups[0].place)}" if groups[0].place else ""
        return [shortened(f"{groups[0].name}: {headline}", MAX_LINE) + where]
    return [f"{printable(slug)}: {_count_failed(view, slug, groups)}"]


def _count_failed(view: FlowRunView, slug: str, groups: list[Alike]) -> str:
    width = len(view[slug].map_states)
    failed = sum(group.count for group in groups)
    kinds = ", ".join(map(str, groups[:MAX_NAMES]))
    more = f", {len(groups) - MAX_NAMES:,} other kinds" if len(groups) > MAX_NAMES else ""
    return f"{failed:,} of {width:,} elements failed: {kinds}{more}"


def _held_up(slug: str, state: State) -> str:
    """The node and what of it did not run; nothing if it did."""
    counts = state.counts
    if not state.is_failed():
        return ""
    if counts is None or not counts.total or counts.failed == counts.total:
        return printable(slug)
    return f"{printable(slug)} ({counts.failed:,} of {counts.total:,} elements)"


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return f"{', '.join(names[:MAX_NAMES])}{more}"

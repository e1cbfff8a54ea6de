"""Progress of a run for a terminal: an observer that shows what happens as one live block, or as plain lines.

What is known of the tasks is kept by `Board`, which prints nothing. rich is loaded when a live block is shown.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO, TypeAlias

from anabranch.base.events import Event, MapAdvanced, RunFinished, RunStarted, TaskChanged
from anabranch.base.states import State
from anabranch.base.texts import printable, seconds, shortened

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

Mode: TypeAlias = Literal["auto", "always", "never"]

STEPS = ("parameter", "condition", "merge", "collect", "flatten")  # kinds of nodes that are shown only when they fail
LINE_EVERY_S = 30.0  # between two plain lines of one map: a job of an hour stays within a screen or two
PACE_OVER_S = 10.0  # pace is what was done within this time: short enough to follow, long enough not to jump
SAMPLE_EVERY_S = 0.25
REFRESH_HZ = 4  # more than that is not seen, and is paid for with time of the driver's
MAX_ROWS = 15  # a block that is higher than the terminal cannot be redrawn
MAX_NAME, LEAST_NAME = 32, 14  # characters; between them a third of the terminal
BAR = 16  # characters: leaves room for the numbers where a terminal has 80
MAX_MESSAGE = 300


# What is known --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """What is known of one node."""

    slug: str
    kind: str
    state: State | None = None
    width: int = 0
    """Of a map of which elements have ended."""
    done: int = 0
    failed: int = 0
    retrying: int = 0
    began: float = 0.0
    ended: float | None = None
    _samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.state is not None and self.state.is_finished()

    @property
    def is_mere_step(self) -> bool:
        """Whether it is a node that the flow needs and nobody wrote, and has done what it should."""
        return self.kind in STEPS and not (self.state is not None and self.state.is_failed())

    def pace(self) -> float | None:
        """Elements a second, of late; None if that is not known yet."""
        if len(self._samples) < 2:
            return None
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return (after - before) / (last - first) if last > first else None

    def left_s(self) -> float | None:
        """Seconds until the map has ended, at that pace."""
        pace, left = self.pace(), self.width - self.done - self.retrying  # nobody knows when those are due
        return left / pace if pace and left > 0 else None

    def duration_s(self) -> float | None:
        """Seconds that it took, as far as is known."""
        if self.width and self.ended is not None:
            return self.ended - self.began
        return self.state.duration_s if self.state is not None else None

    def advance(self, event: MapAdvanced) -> None:
        """Take note of elements that have ended."""
        if not self.width:
            self.began = event.now
            self._samples.append((event.now, 0))
        self.width, self.done, self.failed, self.retrying = event.width, event.done, event.failed, event.retrying
        if event.now - self._samples[-1][0] >= SAMPLE_EVERY_S:
            self._samples.append((event.now, event.done))
            while event.now - self._samples[0][0] > PACE_OVER_S and len(self._samples) > 2:
                self._samples.popleft()


class Board:
    """The nodes of a run, as far as events have told of them."""

    def __init__(self) -> None:
        self.flow_name = ""
        self.run_id = ""
        self.started = 0.0
        self.state: State | None = None
        self.rows: dict[str, Row] = {}
        self.total = 0
        """Nodes that are no mere steps."""
        self.done = 0
        """Those of them that have ended."""

    def take(self, event: Event) -> Row | None:
        """Take note of an event. The row it is about, if it is about one."""
        match event:
            case RunStarted(now, flow_name, run_id, nodes):
                self.flow_name, self.run_id, self.started, self.state = flow_name, run_id, now, None
                self.rows = {slug: Row(slug, kind) for slug, kind in nodes.items()}
                self.total, self.done = sum(kind not in STEPS for kind in nodes.values()), 0
            case TaskChanged(now, slug, state):
                row = self.rows.setdefault(slug, Row(slug, "task"))
                if state.is_finished() and not row.is_done:
                    row.ended = now
                    self.done += row.kind not in STEPS
                elif state.is_running() and not row.width:
                    row.began = now
                row.state = state
                return row
            case MapAdvanced(_, slug):
                row = self.rows.setdefault(slug, Row(slug, "task"))
                row.advance(event)
                return row
            case RunFinished(_, state):
                self.state = state
        return None

    def shown(self, limit: int = MAX_ROWS) -> tuple[list[Row], int]:
        """Rows to be shown, in the order of the flow: maps that go on, failures, what waits, and what ended last.

        What has been handed to the executor takes half of the room at the most, while there is more to be said: of
        tasks that wait for a slot, nobody knows which of them runs.

        Returns
        -------
        tuple
            The rows, and the number of others of which something is known.
        """
        known = self._known()
        open_ = sorted((row for row in known if not row.is_done), key=lambda row: not row.width)
        ended = sorted((row for row in known if row.is_done), key=_need)
        chosen = {row.slug for row in [*open_[: max(limit - len(ended), (limit + 1) // 2)], *ended][:limit]}
        return [row for row in known if row.slug in chosen], len(known) - len(chosen)

    def _known(self) -> list[Row]:
        rows = list(self.rows.values())
        return [row for row in rows if (row.state is not None or row.width) and not row.is_mere_step]

    def waiting(self) -> int:
        """Nodes that run, or wait for a slot."""
        return sum(not row.is_done for row in self._known())


def _need(row: Row) -> tuple[bool, float]:
    """Of what has ended: failures first, then what ended last."""
    return (not (row.state is not None and row.state.is_failed()), -(row.ended or 0.0))


# Observers ------------------------------------------------------------------------------------------------------------


class Progress:
    """An observer that shows nothing; base of those that do. As a context manager, it is closed at the end."""

    is_live = False
    """Whether there is a block on the screen, which others must not write into past `sys.stderr`."""
    notice = ""
    """A sentence to be shown in the block until the run ends."""

    def __call__(self, event: Event) -> None:
        """Take note of an event."""

    def close(self) -> None:
        """Leave the terminal as it was; for runs that end without `RunFinished`, too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PlainProgress(Progress):
    """A line for each task that ends, and now and then one for a map that goes on. No colours, no cursor.

    Parameters
    ----------
    write
        Takes a line of text.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._board = Board()
        self._said: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Write what is worth a line."""
        row = self._board.take(event)
        if row is None:
            return
        if isinstance(event, MapAdvanced):
            if event.now - self._said.setdefault(row.slug, row.began) >= LINE_EVERY_S:
                self._said[row.slug] = event.now
                self._write(f"{printable(row.slug)}: {map_text(row)}")
            return
        state = row.state
        if state is None or state.is_running() or row.is_mere_step:
            return
        took = row.duration_s() if state.is_finished() else None
        time_text = f" in {seconds(took)}" if took is not None else ""
        what, told = _counts_text(row) or state.name, _told(state)
        self._write(f"{printable(row.slug)}: {what}{time_text}{f': {shortened(told, MAX_MESSAGE)}' if told else ''}")


class LiveProgress(Progress):
    """One block of lines that is redrawn in place: a bar for each map, a line for each task that has ended.

    Parameters
    ----------
    console
        A console of rich's, on a terminal.
    clock
        Gives the time, as events have it.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.time) -> None:
        self._console = console
        self._clock = clock
        self._board = Board()
        self._live: Live | None = None
        self._hook: Callable[..., Any] = sys.breakpointhook

    def __call__(self, event: Event) -> None:
        """Take note of an event; the block is redrawn by a thread of its own."""
        self._board.take(event)
        if isinstance(event, RunStarted):
            self._start()
        elif isinstance(event, RunFinished):
            self.close()

    def _start(self) -> None:
        from rich.live import Live

        self.close()
        self._hook = sys.breakpointhook
        sys.breakpointhook = self._break
        self._live = Live(
            console=self._console,
            get_renderable=self.block,
            refresh_per_second=REFRESH_HZ,
            # Log lines and prints go above the block. What is printed for a pipe or a file must get there.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )
        self._live.start(refresh=False)
        self.is_live = True

    def close(self) -> None:
        """Draw the block a last time and leave it there."""
        live, self._live = self._live, None
        if live is not None:
            self.is_live, self.notice = False, ""
            sys.breakpointhook = self._hook
            live.stop()

    def _break(self, *args: Any, **kwargs: Any) -> Any:
        """Leave the terminal to the debugger that a task calls by ``breakpoint()``."""
        self.close()
        if self._hook is sys.__breakpointhook__ and not os.environ.get("PYTHONBREAKPOINT"):
            import pdb

            return pdb.Pdb().set_trace(sys._getframe(1))  # the hook of Python's would stop in this function
        return self._hook(*args, **kwargs)

    def block(self) -> Group:
        """The block as it is now."""
        from rich.console import Group
        from rich.text import Text

        board = self._board
        rows, hidden = board.shown(min(MAX_ROWS, max(3, self._console.height - 4)))
        most = min(MAX_NAME, max(LEAST_NAME, self._console.width // 3))
        column = min(most, max((len(printable(row.slug)) for row in rows), default=0))
        lines = [self._line(row, column) for row in rows]
        if hidden:
            waiting = min(hidden, max(0, board.waiting() - sum(not row.is_done for row in rows)))
            words = [f"{waiting:,} that run or wait"] if waiting else []
            words += [f"{hidden - waiting:,} that have ended"] if hidden > waiting else []
            lines.append(Text(f"  … and {', '.join(words)}", style="dim"))
        if board.state is None:
            elapsed = seconds(max(0.0, self._clock() - board.started))
            lines.append(Text(f"  {board.done:,} of {board.total:,} tasks have ended, {elapsed}", style="dim"))
        if self.notice:
            lines.append(Text(f"  {printable(self.notice)}", style="yellow"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)

    def _line(self, row: Row, column: int) -> Text:
        from rich.text import Text

        state, name = row.state, f"{shortened(row.slug, max(column, 1)):<{column}}"
        symbol, style = symbol_of(state)
        line = Text.assemble((self._drawable(symbol), style), f" {name}  ")
        if state is not None and not state.is_running() and not (state.is_pending() and row.width):
            took = row.duration_s() if state.is_finished() else None
            line.append(f"{seconds(took) if took is not None else '':>8}  ", "dim")
            line.append(outcome_text(row), style)
        elif row.width:
            full = BAR * row.done // row.width
            line.append(self._drawable("━") * full, "cyan")
            line.append(self._drawable("─") * (BAR - full), "dim")
            line.append(f"  {map_text(row)}")
        else:
            line.append(f"{seconds(max(0.0, self._clock() - row.began)):>8}", "dim")
        return line

    def _drawable(self, symbol: str) -> str:
        try:
            symbol.encode(self._console.encoding)
        except (UnicodeEncodeError, LookupError):
            return _ASCII[symbol]
        return symbol


_ASCII = {"✓": "+", "✗": "x", "↷": "-", "■": "#", "↻": "~", "‖": "=", "►": ">", "━": "=", "─": "-"}


def symbol_of(state: State | None) -> tuple[str, str]:
    """A symbol for a state, and a style of rich's."""
    if state is None or state.is_running():
        return "►", "cyan"
    if state.is_skipped():
        return "↷", "dim"
    if state.is_successful():
        return "✓", "green"
    if state.is_cancelled():
        return "■", "magenta"
    if state.is_failed():
        return "✗", "red"
    if state.is_paused():
        return "‖", "yellow"
    return "↻", "yellow"


def outcome_text(row: Row) -> str:
    """What there is to say of a row that does not go on: its elements, and what went wrong."""
    told = _told(row.state) if row.state is not None else ""
    return ": ".join(filter(None, (_counts_text(row), shortened(told, MAX_MESSAGE))))


def map_text(row: Row) -> str:
    """How far a map is: done and width, what failed or is tried again, pace, time left."""
    parts = [f"{row.done:,}/{row.width:,}"]
    parts += [f"{row.failed:,} failed"] if row.failed else []
    parts += [f"{row.retrying:,} retrying"] if row.retrying else []
    pace, left = row.pace(), row.left_s()
    if pace is not None:
        parts.append(f"{pace:,.0f}/s" if pace >= 10 else f"{pace:.1f}/s")
    if left is not None:
        parts.append(f"{seconds(left)} left")
    return "  ".join(parts)


def _counts_text(row: Row) -> str:
    """A map's elements, once it has ended: ``9 of 10,000 elements failed``."""
    state = row.state
    if state is None or not state.is_finished() or state.counts is None or not state.counts.total:
        return ""
    counts = state.counts
    if counts.failed:
        return f"{counts.failed:,} of {counts.total:,} elements {'cancelled' if state.is_cancelled() else 'failed'}"
    return f"{counts.total:,} elements{f', {counts.skipped:,} skipped' if counts.skipped else ''}"


def _told(state: State) -> str:
    """What there is to say of a state beside its name and counts."""
    if state.counts is not None and state.counts.total:
        failure = state.failure
        if failure is None:
            return ""
        return failure.message if failure.type_name == "UpstreamFailure" else failure.headline()
    return "" if state.message == "done" else state.message


# Which one ------------------------------------------------------------------------------------------------------------


def observer(
    mode: Mode = "auto", stream: TextIO | None = None, *, environ: Mapping[str, str] | None = None
) -> Progress:
    """An observer for ``flow.run(observers=[…])`` that shows how the run goes on.

    Parameters
    ----------
    mode
        ``never``: nothing. Otherwise a live block where `stream` is a terminal that can show one, plain lines where it
        is not, or where ``CI`` is set.
    stream
        Where to; default: standard error.
    """
    stream = sys.stderr if stream is None else stream
    environ = os.environ if environ is None else environ
    if mode == "never":
        return Progress()
    if can_be_live(stream, environ):
        from rich.console import Console

        return LiveProgress(Console(file=stream, highlight=False))
    return PlainProgress(lambda line: stream.write(f"{line}\n") and stream.flush())


def can_be_live(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that can show a block, and somebody looks at it."""
    if environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    return stream.isatty() and environ.get("TERM", "") not in ("dumb", "unknown")

"""Progress of a run for a terminal: an observer that shows what happens as one live block, or as plain lines.

rich is loaded when a live block is shown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO, TypeAlias

from anabranch.base.events import Event, MapAdvanced, RunFinished, RunStarted, TaskChanged
from anabranch.base.run_model import NodeModel, RunModel, is_failure
from anabranch.base.states import Pending, State, Submitted
from anabranch.base.texts import printable, seconds, shortened

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

Mode: TypeAlias = Literal["auto", "always", "never"]

LINE_EVERY_S = 30.0  # between two plain lines of one map: a job of an hour stays within a screen or two
REFRESH_HZ = 4  # more than that is not seen, and is paid for with time of the driver's
MAX_ROWS = 15  # a block that is higher than the terminal cannot be redrawn
MAX_NAME, LEAST_NAME = 32, 14  # characters; between them a third of the terminal
BAR = 16  # characters: leaves room for the numbers where a terminal has 80
MAX_MESSAGE = 300


# What is shown --------------------------------------------------------------------------------------------------------


def rows_of(model: RunModel[NodeModel], limit: int) -> tuple[list[NodeModel], list[NodeModel]]:
    """Nodes to be shown, in the order of the flow: maps that go on, failures, what waits, and what ended last.

    What has not ended takes half of the room at the most, while there is more to be said; what runs comes before what
    waits for a slot.

    Returns
    -------
    tuple
        The nodes, and the others of which something is known.
    """
    known = [node for node in model.tasks() if node.state is not None or node.advance is not None]
    open_ = sorted((node for node in known if not node.is_done), key=_rank_open)
    ended = sorted((node for node in known if node.is_done), key=_rank_node)
    chosen = {node.slug for node in [*open_[: max(limit - len(ended), (limit + 1) // 2)], *ended][:limit]}
    return [node for node in known if node.slug in chosen], [node for node in known if node.slug not in chosen]


def _rank_open(node: NodeModel) -> tuple[bool, bool]:
    """Of what has not ended: maps first, then what runs."""
    return node.advance is None, not node.is_running


def _rank_node(node: NodeModel) -> tuple[bool, float]:
    """Of what has ended: failures first, then what ended last."""
    return not is_failure(node.code), -(node.ended or 0.0)


def ended_text(model: RunModel[NodeModel]) -> str:
    """How many tasks have ended."""
    tasks = model.tasks()
    return f"{sum(node.is_done for node in tasks):,} of {len(tasks):,} tasks have ended"


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
        self._model = RunModel(NodeModel)
        self._said: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Write what is worth a line."""
        self._model.take(event)
        if isinstance(event, MapAdvanced):
            node = self._model.node(event.slug)
            if event.now - self._said.setdefault(node.slug, node.began or event.now) >= LINE_EVERY_S:
                self._said[node.slug] = event.now
                running = node.running_text()
                self._write(f"{printable(node.slug)}: {map_text(node)}{f'; {printable(running)}' if running else ''}")
        elif isinstance(event, TaskChanged) and not _is_on_its_way(event.state):
            node, state = self._model.node(event.slug), event.state
            if node.is_step:
                return
            took = node.duration_s(self._model.rests) if node.is_done else None
            time_text = f" in {seconds(took)}" if took is not None else ""
            what, told = _count_elements(state) or state.name, _describe_state(state)
            text = f"{what}{time_text}{f': {shortened(told, MAX_MESSAGE)}' if told else ''}"
            self._write(f"{printable(node.slug)}: {text}")


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
        self._model = RunModel(NodeModel)
        self._live: Live | None = None
        self._hook: Callable[..., Any] = sys.breakpointhook

    def __call__(self, event: Event) -> None:
        """Take note of an event; the block is redrawn by a thread of its own."""
        self._model.take(event)
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

        model = self._model
        rows = min(MAX_ROWS, max(3, self._console.height - 4))
        at_work = sum(bool(node.running) for node in model.tasks())
        nodes, hidden = rows_of(model, rows - min(at_work, rows // 3))
        most = min(MAX_NAME, max(LEAST_NAME, self._console.width // 3))
        column = min(most, max((len(printable(node.slug)) for node in nodes), default=0))
        room, lines = rows - len(nodes), list[Text]()
        for node in nodes:
            lines.append(self._line(node, column))
            if node.running and room > 0:
                lines.append(Text(f"  {printable(node.running_text())}", style="dim"))
                room -= 1
        if hidden:
            waiting = sum(not node.is_done for node in hidden)
            words = [f"{waiting:,} that run or wait"] if waiting else []
            words += [f"{len(hidden) - waiting:,} that have ended"] if len(hidden) > waiting else []
            lines.append(Text(f"  … and {', '.join(words)}", style="dim"))
        if model.ended is None:
            now = self._clock()
            elapsed = seconds(max(0.0, model.between_s(model.began or now, now)))
            lines.append(Text(f"  {ended_text(model)}, {elapsed}", style="dim"))
        if self.notice:
            lines.append(Text(f"  {printable(self.notice)}", style="yellow"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)

    def _line(self, node: NodeModel, column: int) -> Text:
        from rich.text import Text

        state, name = node.state, f"{shortened(node.slug, max(column, 1)):<{column}}"
        symbol, style = symbol_of(state)
        line = Text.assemble((self._drawable(symbol), style), f" {name}  ")
        if state is not None and not _is_on_its_way(state) and not (state.is_pending() and node.advance):
            took = node.duration_s(self._model.rests) if node.is_done else None
            line.append(f"{seconds(took) if took is not None else '':>8}  ", "dim")
            line.append(outcome_text(state), style)
        elif node.advance is not None and node.width:
            full = BAR * node.done() // node.width
            line.append(self._drawable("━") * full, "cyan")
            line.append(self._drawable("─") * (BAR - full), "dim")
            line.append(f"  {map_text(node)}")
        elif node.began is None or not node.is_running:
            line.append(f"{'':>8}  {node.name}", "dim")
        else:
            line.append(f"{seconds(max(0.0, self._clock() - node.began)):>8}  {printable(node.running_text())}", "dim")
        return line

    def _drawable(self, symbol: str) -> str:
        try:
            symbol.encode(self._console.encoding)
        except (UnicodeEncodeError, LookupError):
            return _ASCII[symbol]
        return symbol


_ASCII = {"…": ".", "✓": "+", "✗": "x", "↷": "-", "■": "#", "↻": "~", "‖": "=", "►": ">", "━": "=", "─": "-"}


def _is_on_its_way(state: State) -> bool:
    return type(state) in (Pending, Submitted) or state.is_running()


def symbol_of(state: State | None) -> tuple[str, str]:
    """A symbol for a state, and a style of rich's."""
    if state is None or state.is_running():
        return "►", "cyan"
    if _is_on_its_way(state):
        return "…", "dim"
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


def outcome_text(state: State) -> str:
    """What there is to say of a node that does not go on: its elements, and what went wrong."""
    return ": ".join(filter(None, (_count_elements(state), shortened(_describe_state(state), MAX_MESSAGE))))


def map_text(node: NodeModel) -> str:
    """How far a map is: done and width, what failed or is tried again, pace, time left."""
    failed, retrying, pace, left = node.failed(), node.retrying(), node.pace(), node.left_s()
    parts = [f"{node.done():,}/{node.width:,}"]
    parts += [f"{failed:,} failed"] if failed else []
    parts += [f"{retrying:,} retrying"] if retrying else []
    if pace is not None:
        parts.append(f"{pace:,.0f}/s" if pace >= 10 else f"{pace:.1f}/s")
    if left is not None:
        parts.append(f"{seconds(left)} left")
    return "  ".join(parts)


def _count_elements(state: State) -> str:
    """A map's elements, once it has ended: ``9 of 10,000 elements failed``."""
    if not state.is_finished() or state.counts is None or not state.counts.total:
        return ""
    counts = state.counts
    if failed := counts.failed - counts.cancelled:
        more = f", {counts.cancelled:,} cancelled" if counts.cancelled else ""
        return f"{failed:,} of {counts.total:,} elements failed{more}"
    if counts.cancelled:
        return f"{counts.cancelled:,} of {counts.total:,} elements cancelled"
    return f"{counts.total:,} elements{f', {counts.skipped:,} skipped' if counts.skipped else ''}"


def _describe_state(state: State) -> str:
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

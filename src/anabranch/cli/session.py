"""One run of a flow as the shell sees it: first line, progress, last line, what failed, results, exit code."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import os
import reprlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from anabranch.cli.exits import CANCELLED, RUN_FAILED, SUCCESS, Problem, exit_codes
from anabranch.cli.interrupts import Interrupts
from anabranch.events import Event, RunStarted
from anabranch.printable import printable, seconds, shortened
from anabranch.states import Cancelled, State, TriggerFailed, counts_of

if TYPE_CHECKING:
    from anabranch.executors.base import Executor
    from anabranch.failure_report import Ink
    from anabranch.flow import Flow
    from anabranch.progress import Mode, Progress
    from anabranch.runview import FlowRunView

WAIT_S = 2.0  # without a word, while a scheduler or its workers are waited for
MAX_FAILURES = 100  # in JSON; all of them are counted
MAX_NAMES = 8
MAX_RESULT = 500  # characters


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is to be run and how it is told."""

    flow: Flow
    parameters: Mapping[str, Any]
    executor: Executor
    keep: Sequence[str] = ()
    approve: Sequence[str] = ()
    progress: Mode = "auto"
    quiet: bool = False
    verbose: bool = False
    as_json: bool = False

    def run(self, show: Callable[[FlowRunView], None] | None = None) -> int:
        """Run the flow and tell what comes of it.

        Parameters
        ----------
        show
            Writes the outcome of a successful run to standard output; default: values of the tasks that were kept.

        Returns
        -------
        int
            The exit code.
        """
        from anabranch import progress
        from anabranch.settings import config

        level = "DEBUG" if self.verbose else "WARNING" if self.quiet else None
        began = time.monotonic()
        with contextlib.ExitStack() as around:
            with exit_codes():
                if level is not None:
                    around.enter_context(config.set(logging__level=level))
            if self.as_json:
                around.enter_context(_prints_to_stderr())
            watch = around.enter_context(progress.observer(self.progress))
            interrupts = around.enter_context(Interrupts(lambda name: _announce(watch, name)))
            waiting = around.enter_context(self._waiting())
            view, problem = self._carry_out([waiting, self._first_line, watch], interrupts)
        # The signal handlers are the old ones again: a signal that comes now ends the process as it always does.
        if view is None:
            if interrupts.exit_code is None:
                raise problem or AssertionError("no run and no reason")
            click.echo(f"{printable(self.flow.name)}: interrupted before anything was run", err=True)
            return interrupts.exit_code
        code = interrupts.exit_code if interrupts.exit_code is not None and not view else _code_of(view)
        took_s = time.monotonic() - began
        self._tell_failures(view)
        if self.as_json:
            click.echo(json.dumps(as_data(view), indent=2))
        elif show is not None:
            show(view)
        elif view:
            for line in result_lines(view):
                click.echo(line)
        self._last_line(view, took_s, interrupts)
        return code

    # The run ----------------------------------------------------------------------------------------------------------

    def _carry_out(
        self, observers: list[Callable[[Event], None]], interrupts: Interrupts
    ) -> tuple[FlowRunView | None, Problem | None]:
        try:
            with exit_codes():
                view = self.flow.run(
                    self.parameters,
                    executor=self.executor,
                    keep=list(self.keep),
                    approve=list(self.approve),
                    observers=observers,
                )
        except Problem as problem:
            return None, problem
        except KeyboardInterrupt:
            if interrupts.received is None:
                raise
            with contextlib.suppress(Exception):  # a cluster that was half made
                self.executor.stop()
            return None, None
        except Exception as error:  # not of a task: those are states. A handler of the flow's, or a bug of ours.
            text = "".join(traceback.format_exception(error)).rstrip()
            return None, Problem(f"the run was ended by an exception outside of any task\n{text}", RUN_FAILED)
        return view, None

    def _first_line(self, event: Event) -> None:
        if isinstance(event, RunStarted) and not self.quiet:
            link = getattr(self.executor, "dashboard_link", None)
            page = f"; Dask's page: {printable(link)}" if link else ""
            name = printable(event.flow_name)
            click.echo(f"{name}: run {event.run_id} in {place_of(self.executor)}{page}", err=True)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[Callable[[Event], None]]:
        """Say what is waited for, if the run does not begin soon. Yields an observer."""
        from anabranch.settings import config

        if getattr(self.executor, "in_process", True) or self.quiet:
            yield lambda event: None
            return
        patience = config.engine.no_workers_timeout_s
        text = f"waiting for {place_of(self.executor)} and its first worker, up to {patience:g} s (engine.no_workers_timeout_s)"
        timer = threading.Timer(WAIT_S, click.echo, [text], {"err": True})
        timer.daemon = True
        timer.start()
        try:
            yield lambda event: timer.cancel()
        finally:
            timer.cancel()

    # Telling ----------------------------------------------------------------------------------------------------------

    def _tell_failures(self, view: FlowRunView) -> None:
        from anabranch.failure_report import failure_lines, tolerated_lines

        if view.state.is_failed():
            for line in ["", *failure_lines(view, in_full=self.verbose, paint=_paint), ""]:
                click.echo(line, err=True)
        elif not self.quiet:
            for line in tolerated_lines(view):
                click.echo(f"  {_paint(line, 'faint')}", err=True)

    def _last_line(self, view: FlowRunView, took_s: float, interrupts: Interrupts) -> None:
        state = view.state
        if self.quiet and state.is_successful():
            return
        if state.is_cancelled() and not self.quiet:
            for line in salvage_lines(view):
                click.echo(line, err=True)
        message = ""
        if state.is_cancelled() or state.is_paused():
            message = f" ({interrupts.received.name if interrupts.received else shortened(state.message, 200)})"
        line = f"{printable(self.flow.name)}: {state.name}{message} after {seconds(took_s)}; {counts_text(view)}"
        click.echo(_paint(line, "bad") if state.is_failed() else line, err=True)
        if state.is_paused() and not self.quiet:
            click.echo("to let it go on: run it again with --approve TASK", err=True)


def _announce(watch: Progress, name: str) -> None:
    """Say that the run is being cancelled; called in a signal handler, so past all streams."""
    text = f"{name}: cancelling; again to leave at once"
    watch.notice = text
    if not watch.is_live:
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n".encode())


def _code_of(view: FlowRunView) -> int:
    if view.state.is_successful():
        return SUCCESS
    return RUN_FAILED if view.state.is_failed() else CANCELLED


def _paint(text: str, ink: Ink) -> str:
    """Coloured text; Click takes the colours out again where standard error is no terminal."""
    looks: dict[str, dict[str, Any]] = {"bad": {"fg": "red"}, "strong": {"bold": True}, "faint": {"dim": True}}
    return text if os.environ.get("NO_COLOR") else click.style(text, **looks[ink])


def place_of(executor: Executor) -> str:
    """Where it runs, for people."""
    kind = type(executor).__name__
    if kind == "LocalExecutor":
        return "this process, one task at a time"
    if kind == "LocalDaskExecutor":
        threads = getattr(executor, "num_workers", 1)
        return f"this process, {threads} thread{'s' if threads != 1 else ''}"
    address = getattr(executor, "address", None)
    if address:
        return f"the cluster at {printable(address)}"
    cluster_class = getattr(executor, "cluster_class", None)
    if cluster_class is None and kind == "DaskExecutor":
        return "a cluster on this machine"
    return printable(getattr(cluster_class, "__name__", cluster_class or kind))


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """What tasks print goes to standard error, also from processes started meanwhile: standard output has the JSON."""
    with contextlib.ExitStack() as around:
        around.enter_context(contextlib.redirect_stdout(sys.stderr))
        with contextlib.suppress(OSError):
            kept = os.dup(1)
            around.callback(os.close, kept)
            os.dup2(2, 1)
            around.callback(os.dup2, kept, 1)
        yield


# Outcomes -------------------------------------------------------------------------------------------------------------


def counts_text(view: FlowRunView) -> str:
    """Tasks and elements, counted.

    A map counts as one task, which has failed if one of its elements has. What a failure elsewhere kept from running
    has not failed: it was held up.
    """
    runs = [run for run in view._whole.runs.values() if run.node.kind == "task"]
    states = [run.state for run in runs]
    skipped = sum(state.is_skipped() for state in states)
    held_up = sum(state.is_failed() and is_consequence(state) for state in states)
    words = {
        "successful": sum(state.is_successful() for state in states) - skipped,
        "failed": sum(state.is_failed() for state in states) - held_up,
        "held up": held_up,
        "cancelled": sum(state.is_cancelled() for state in states),
        "skipped": skipped,
    }
    text = f"{len(states):,} task{'s' if len(states) != 1 else ''}{_listed(words)}"
    maps = [run.elements.codes for run in runs if run.elements is not None]
    if maps:
        counts = functools.reduce(operator.add, map(counts_of, maps))
        held_up = sum(codes.count(TriggerFailed.code) for codes in maps)
        cancelled = sum(codes.count(Cancelled.code) for codes in maps)
        words = {
            "successful": counts.successful,
            "failed": counts.failed - held_up - cancelled,
            "held up": held_up,
            "cancelled": cancelled,
            "skipped": counts.skipped,
        }
        text += f"; {counts.total:,} elements{_listed(words)}"
    return text


def is_consequence(state: State) -> bool:
    """Whether it failed only because something upstream did."""
    return state.failure is not None and state.failure.type_name == "UpstreamFailure"


def _listed(words: Mapping[str, int]) -> str:
    parts = [f"{count:,} {word}" for word, count in words.items() if count]
    return f": {', '.join(parts)}" if parts else ""


def salvage_lines(view: FlowRunView) -> list[str]:
    """What a cancelled run had done, and what is left of it."""
    runs = [(slug, run) for slug, run in view._whole.runs.items() if run.node.kind == "task"]
    done = [slug for slug, run in runs if run.state.is_finished() and not run.state.is_cancelled()]
    parts = [
        f"{run.state.counts.successful:,} of {run.state.counts.total:,} elements of {printable(slug)}"
        for slug, run in runs
        if run.state.is_cancelled() and run.state.counts is not None and run.state.counts.successful
    ]
    more = f" and {len(done) - MAX_NAMES:,} more" if len(done) > MAX_NAMES else ""
    names = f" ({', '.join(map(printable, done[:MAX_NAMES]))}{more})" if done else ""
    lines = [f"  ended before: {len(done):,} of {len(runs):,} tasks{names}{''.join(f', {part}' for part in parts)}"]
    if done or parts:
        lines.append("  what they wrote is there; their values are not kept, so the next run begins at the start")
    return lines


def wanted(view: FlowRunView) -> list[str]:
    """Slugs of the nodes whose values were to be kept: terminal and reference ones, and those that were named."""
    plan = view._whole.plan
    kept = {*plan.graph.reference, *plan.graph.terminal, *plan.keep}
    return [slug for slug, run in view._whole.runs.items() if slug in kept and run.node.kind != "parameter"]


def result_lines(view: FlowRunView) -> list[str]:
    """Values that are not None, shortened, a line each."""
    lines = []
    for slug in wanted(view):
        state = view[slug]
        if state.is_successful() and not state.is_skipped():
            value = _value(state)
            if value is not None:
                lines.append(f"{printable(slug)} = {shortened(_repr(value), MAX_RESULT)}")
    return lines


def _value(state: Any) -> Any:  # a TaskRunView
    try:
        return state.result
    except Exception as error:  # lost with its worker, or its class does not load here
        return error


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 12
        self.maxstring = self.maxother = 400
        self.maxlevel = 4


def _repr(value: object) -> str:
    try:
        return _Repr().repr(value)
    except Exception as error:  # a user's __repr__ may do anything
        return f"<repr of {type(value).__name__} failed with {type(error).__name__}>"


def as_data(view: FlowRunView) -> dict[str, Any]:
    """The outcome as plain data that JSON can hold."""
    state, failures = view.state, view.failures()
    return {
        "flow": view._whole.plan.name,
        "run_id": view.run_id,
        "state": state.name,
        "message": state.message,
        "started": _time(state.start_time),
        "ended": _time(state.end_time),
        "duration_s": state.duration_s,
        "tasks": {slug: _task_data(run.state) for slug, run in view._whole.runs.items() if run.node.kind != "parameter"},
        "failures_total": len(failures),
        "failures": [_failure_data(name, each) for name, each in failures[:MAX_FAILURES]],
        "results": {
            slug: _plain(_value(view[slug])) for slug in wanted(view) if view[slug].is_successful()
        },
    }  # fmt: skip


def _task_data(state: Any) -> dict[str, Any]:  # a State
    counts = state.counts
    data = {"state": state.name, "message": state.message, "duration_s": state.duration_s, "attempt": state.attempt}
    if counts is not None:
        data["elements"] = {
            "total": counts.total,
            "successful": counts.successful,
            "failed": counts.failed,
            "skipped": counts.skipped,
        }
    return data


def _failure_data(name: str, state: Any) -> dict[str, Any]:  # a State
    failure = state.failure
    data: dict[str, Any] = {"task_run": name, "state": state.name, "attempt": state.attempt, "worker": state.worker}
    if failure is not None:
        data |= {"exception": failure.type_name, "message": failure.message, "where": failure.line}
        data["inputs"] = dict(failure.inputs)
    return data


def _time(value: Any) -> str | None:  # a datetime or None
    return value.isoformat() if value is not None else None


def _plain(value: Any) -> Any:
    """The value in JSON's types; what has no such form as its repr."""
    from pydantic_core import to_jsonable_python

    try:
        return to_jsonable_python(value, inf_nan_mode="null", bytes_mode="base64", fallback=_repr)
    except Exception:  # it contains itself, is too deep, or cannot be encoded
        return _repr(value)

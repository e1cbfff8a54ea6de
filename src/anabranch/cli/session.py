"""One run of a flow in a shell: first line, progress, failures, results, last line, exit code."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.errors import AnabranchError
from anabranch.base.events import Event, RunStarted
from anabranch.base.texts import printable, seconds, shortened
from anabranch.cli.exits import RUN_FAILED, SUCCESS, Problem, code_of_state, exit_codes
from anabranch.cli.interrupts import Interrupts
from anabranch.cli.outcome import as_data, counts_text, result_lines, salvage_lines

if TYPE_CHECKING:
    from anabranch.executors.base import Executor
    from anabranch.flows.flow import Flow
    from anabranch.monitoring.failures import Ink
    from anabranch.monitoring.terminal import Mode, Progress
    from anabranch.runs.view import FlowRunView

WAIT_S = 2.0  # without a word, while a scheduler that should be there is waited for
START_S = 5.0  # the same for a cluster that is made: that takes two or three


@dataclass(frozen=True, slots=True)
class MetricsWanted:
    """Where the metrics of a run are written at its end, and where they are served until then."""

    file: str | None = None
    gateway: str | None = None
    port: int | None = None

    @contextlib.contextmanager
    def around(self, flow_name: str) -> Iterator[list[Callable[[Event], None]]]:
        """Observers for the run; at the end the metrics are handed over. Problems with that are warnings."""
        if self.file is None and self.gateway is None and self.port is None:
            yield []
            return
        from anabranch.base.errors import MetricsError
        from anabranch.monitoring.metric_families import check_client
        from anabranch.monitoring.metrics import Metrics, MetricsServer, push, write_textfile

        check_client()
        metrics = Metrics()
        if self.port is None:
            yield [metrics]
        else:
            with MetricsServer(metrics, port=self.port) as server:
                click.echo(f"metrics: {server.address}", err=True)
                yield [metrics]
        try:
            if self.file is not None:
                write_textfile(metrics, self.file)
            if self.gateway is not None:
                push(metrics, self.gateway, flow_name)
        except MetricsError as error:
            click.echo(f"warning: {printable(error)}", err=True)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What to run, and how to show it."""

    flow: Flow
    parameters: Mapping[str, Any]
    executor: Executor
    keep: Sequence[str] = ()
    approve: Sequence[str] = ()
    progress: Mode = "auto"
    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    metrics: MetricsWanted = MetricsWanted()
    dashboard: bool = False
    """Whether to serve a page during the run."""
    resume: Mapping[str, Any] = field(default_factory=dict)
    """Options of `Flow.run` that continue a recorded run."""

    def run(self, show: Callable[[FlowRunView], None] | None = None) -> int:
        """Run the flow and show its outcome.

        Parameters
        ----------
        show
            Prints the outcome of a successful run; by default the values that were kept are printed.

        Returns
        -------
        int
            The exit code.
        """
        from anabranch.base import known_secrets
        from anabranch.definition.parameter_values import is_secret

        secret = {name: each for name, each in self.flow.parameters(by_name=True).items() if is_secret(each)}
        # What is shown when the run has ended may be made of them, too.
        known_secrets.learn("command", [self.parameters.get(name, each.default_value) for name, each in secret.items()])
        try:
            return self._run(show)
        finally:
            known_secrets.forget("command")

    def _note_deed(self, run_id: str) -> None:
        """Note who has run or resumed the flow, where others can see it."""
        from anabranch.base.errors import RunStoreError
        from anabranch.runs.store.deeds import note
        from anabranch.runs.store.opening import current_store
        from anabranch.runs.store.relational import RelationalRunStore

        is_approved = bool(self.resume and self.approve)
        verb = "approve" if is_approved else "resume" if self.resume else "run"
        with contextlib.suppress(RunStoreError):  # the run has told of it
            store = current_store()
            if isinstance(store, RelationalRunStore):
                detail = ", ".join(self.approve) if is_approved else f"flow {self.flow.name}"
                note(store.database, verb, run_id, detail)

    def _run(self, show: Callable[[FlowRunView], None] | None) -> int:
        from anabranch.base.settings import config
        from anabranch.monitoring import terminal as progress

        level = "DEBUG" if self.verbose else "WARNING" if self.quiet else None
        began = time.monotonic()
        with exit_codes(), contextlib.ExitStack() as around:
            around.enter_context(config.set(progress="never"))  # what is shown is the watch's
            if level is not None:
                around.enter_context(config.set(logging__level=level))
            if self.as_json:
                around.enter_context(_prints_to_stderr())
            watch = around.enter_context(progress.observer(self.progress))
            interrupts = around.enter_context(Interrupts(lambda name: _announce_cancel(watch, name)))
            waiting = around.enter_context(self._waiting())
            metrics = around.enter_context(self.metrics.around(self.flow.name))
            view = self._carry_out([waiting, self._first_line, watch, *metrics], interrupts)
        # The signal handlers are the old ones again: a signal that comes now ends the process as it always does.
        if view is None:
            click.echo(f"{printable(self.flow.name)}: interrupted before it had a state", err=True)
            return interrupts.exit_code or RUN_FAILED
        self._note_deed(view.run_id)
        code = SUCCESS if view else interrupts.exit_code or code_of_state(view.state.name)
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

    def _carry_out(self, observers: list[Callable[[Event], None]], interrupts: Interrupts) -> FlowRunView | None:
        """The finished run; None if it was interrupted before it could be cancelled, such as while a cluster starts."""
        try:
            return self.flow.run(
                self.parameters,
                executor=self.executor,
                keep=list(self.keep),
                approve=list(self.approve),
                observers=observers,
                dashboard=_tell_address if self.dashboard else False,
                **self.resume,
            )
        except AnabranchError:
            if interrupts.received is None:
                raise
        except KeyboardInterrupt:
            if interrupts.received is None:
                raise
        except Exception as error:  # not of a task: those are states. A handler of the flow's, or a bug of ours.
            text = "".join(traceback.format_exception(error)).rstrip()
            raise Problem(f"the run was ended by an exception outside of any task\n{text}", RUN_FAILED) from error
        return None

    def _first_line(self, event: Event) -> None:
        if isinstance(event, RunStarted) and not self.quiet:
            link = self.executor.dashboard_link
            page = f"; Dask's page: {printable(link)}" if link else ""
            name = printable(event.flow_name)
            click.echo(f"{name}: run {event.run_id} in {printable(self.executor.place)}{page}", err=True)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[Callable[[Event], None]]:
        """Say what the run waits for, if it does not begin soon. Yields an observer."""
        from anabranch.base.settings import config

        if self.executor.in_process or self.quiet:
            yield lambda event: None
            return
        patience = config.engine.no_workers_timeout_s
        limit = f"up to {patience:g} s (engine.no_workers_timeout_s)"
        text = f"waiting for {printable(self.executor.place)} and its first worker, {limit}"
        silent_s = WAIT_S if self.executor.address else START_S
        timer = threading.Timer(silent_s, click.echo, [text], {"err": True})
        timer.daemon = True
        timer.start()
        try:
            yield lambda event: timer.cancel()
        finally:
            timer.cancel()

    # Telling ----------------------------------------------------------------------------------------------------------

    def _tell_failures(self, view: FlowRunView) -> None:
        from anabranch.base.settings import config
        from anabranch.monitoring.failures import failure_lines, further_lines, tolerated_lines

        if view.state.is_failed():
            further = further_lines(view) if config.backend != "none" else []
            height = shutil.get_terminal_size().lines if sys.stderr.isatty() else None
            lines = failure_lines(view, in_full=self.verbose, paint=_paint, height=height)
            for line in ["", *lines, "", *further]:
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
        if self.dashboard and not self.quiet:
            click.echo(f"the live page has ended; to write one to a file: anabranch report {view.run_id}", err=True)
        if state.is_paused() and not self.quiet:
            click.echo("to continue, run it again with --approve TASK", err=True)


def _tell_address(address: str) -> None:
    """Print the address of the run's page. Anybody who has it can see the run and cancel it."""
    click.echo(f"live page: {address}", err=True)


def _announce_cancel(watch: Progress, name: str) -> None:
    """Say that the run is being cancelled. Called in a signal handler, so it bypasses all streams."""
    text = f"{name}: cancelling; repeat to end at once"
    watch.notice = text
    if not watch.is_live:
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n".encode())


def _paint(text: str, ink: Ink) -> str:
    """Coloured text; Click removes the colours where standard error is no terminal."""
    looks: dict[str, dict[str, Any]] = {"bad": {"fg": "red"}, "strong": {"bold": True}, "faint": {"dim": True}}
    return text if os.environ.get("NO_COLOR") else click.style(text, **looks[ink])


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Send what tasks and new processes print to standard error: standard output has the JSON."""
    with contextlib.ExitStack() as around:
        around.enter_context(contextlib.redirect_stdout(sys.stderr))
        with contextlib.suppress(OSError):
            kept = os.dup(1)
            around.callback(os.close, kept)
            os.dup2(2, 1)
            around.callback(os.dup2, kept, 1)
        yield

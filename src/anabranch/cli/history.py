"""``anabranch ls``, ``show`` and ``resume``: the recorded runs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.errors import listed, nearest
from anabranch.base.texts import printable, printable_lines, seconds, shortened
from anabranch.cli.completion import run_ids, targets
from anabranch.cli.exits import USAGE, Problem, exit_codes
from anabranch.cli.options import executor_of, progress_mode, refuse_both, run_options
from anabranch.cli.parameters import Given
from anabranch.cli.run import check_task_names, load

if TYPE_CHECKING:
    from anabranch.runs import RunRecord, RunStore
    from anabranch.runs.read.run import RecordedChunk, RecordedFailure, RecordedRun, RecordedTask

WATCH_S = 1.0  # a run is on record within that time
MAX_FAILURES = 5  # described; the rest is counted
MAX_SLOWEST = 3
MAX_RETRIED = 20  # attempts; --json has all that are recorded
MAX_SHOWN = 20  # lines of what tasks have shown
LOOKS = {"Success": "green", "Running": "cyan", "Pending": "cyan", "Paused": "yellow", "Skipped": None}
"""Colours of states of runs; all others are red."""
MAX_NAMES = 20  # of flows in a message
_PAGE = 200  # runs that are read at a time


@contextmanager
def opened_store(*, read_only: bool = True) -> Iterator[RunStore | None]:
    """The run store of the settings; None if nothing was ever recorded. If it cannot be used, the command ends."""
    from anabranch.base.settings import config
    from anabranch.runs import default_path, open_store

    with exit_codes():
        if config.backend == "none" or (config.backend == "local" and not default_path().exists()):
            yield None
            return
        with open_store(read_only=read_only) as store:
            yield store


# ls -------------------------------------------------------------------------------------------------------------------


@click.command("ls", short_help="List recorded runs.")
@click.option("--flow", metavar="NAME", help="Only runs of this flow.")
@click.option("--state", metavar="STATE", help="Only runs in this state: Running, Success, Failed, Interrupted, …")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Maximum number of runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(*, flow: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List the recorded runs, newest first."""
    from anabranch.runs import RunQuery
    from anabranch.runs.read.lookup import as_it_stands, run_data

    state = _state_named(state) if state else None
    with opened_store() as store:
        query = RunQuery(flow_name=flow, state=state, limit=limit)
        found = [as_it_stands(record) for record in store.list_runs(query)] if store is not None else []
        if store is not None and flow and not found:
            _check_flow(store, flow)
    if as_json:
        click.echo(json.dumps([run_data(record) for record in found], indent=2))
        return
    if not found:
        click.echo("no such runs are recorded" if flow or state else "no runs are recorded", err=True)
    screen = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in run_lines(found, screen=screen):
        click.echo(line)


def run_lines(records: Sequence[RunRecord], *, screen: int | None) -> list[str]:
    """A line for each run; on a screen of so many columns with a head and colours, and none is longer than that."""
    most = 30 if screen is None else max(4, min(30, screen - 64))  # all else but a message has its place
    width = max([0 if screen is None else 4, *(len(shortened(record.flow_name, most)) for record in records)])
    first = 0 if screen is None else max((len(printable(record.run_id)) for record in records), default=0)
    lines = []
    for record in records:
        name, message = shortened(record.flow_name, most), record.message if record.state != "Success" else ""
        begin, state = f"{printable(record.run_id):{first}}  ", f"{printable(record.state):11}"
        rest = f"  {name:{width}}  {_local_time(record.start)}  {_took(record):>9}  {shortened(message, 80)}".rstrip()
        if screen is not None:
            rest = shortened(rest, max(1, screen - len(begin) - len(state)))
            state = _styled(state, fg=LOOKS.get(record.state, "red"))
        lines.append(f"{begin}{state}{rest}")
    if screen is not None and records:
        began = len(_local_time(records[0].start))
        head = f"{'run':{first}}  {'state':11}  {'flow':{width}}  {'began':{began}}  {'took':>9}  message"
        lines.insert(0, _styled(head[:screen], bold=True))
    return lines


def _styled(text: str, **look: Any) -> str:
    return text if os.environ.get("NO_COLOR") else click.style(text, **look)


def _state_named(name: str) -> str:
    from anabranch.base.states import BY_CODE
    from anabranch.runs.store.records import INTERRUPTED

    names = {each.casefold(): each for each in (*(state.__name__ for state in BY_CODE.values()), INTERRUPTED)}
    if name.casefold() not in names:
        text = f"there is no state {name!r}{nearest(name, names.values())}; there are: {', '.join(names.values())}"
        raise click.BadParameter(printable(text), param_hint="'--state'")
    return names[name.casefold()]


def _check_flow(store: RunStore, name: str) -> None:
    """Refuse a flow that has no runs and is not registered either."""
    from anabranch.runs import RunQuery
    from anabranch.runs.store.flows import FlowTable
    from anabranch.runs.store.relational import RelationalRunStore

    registered = (
        [each.name for each in FlowTable(store.database).all()] if isinstance(store, RelationalRunStore) else []
    )
    known = sorted({*registered, *(each.flow_name for each in store.list_runs(RunQuery(limit=_PAGE)))})
    if name not in registered and not store.list_runs(RunQuery(flow_name=name, limit=1)):
        text = f"there is no flow {name!r}{nearest(name, known)}; there are: {listed(known[:MAX_NAMES])}"
        raise click.BadParameter(printable(text), param_hint="'--flow'")


def _local_time(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _took(record: RunRecord) -> str:
    return seconds(record.took_s) if record.took_s is not None else ""


# show -----------------------------------------------------------------------------------------------------------------


@click.command(short_help="Show a recorded run.")
@click.argument("run", metavar="RUN", shell_complete=run_ids)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-w", "--watch", is_flag=True, help="Print it anew whenever it changes, until the run ends.")
def show(*, run: str, as_json: bool, watch: bool) -> None:
    """Show a run: its tasks, what failed and why, what took longest. RUN is an id, the beginning of it, or "last"."""
    from anabranch.runs.read.run import detail_data, read_run

    if as_json and watch:
        raise Problem("--json is printed once, so it cannot be combined with --watch", USAGE)
    with opened_store() as store:
        if store is None:
            raise Problem(f"there is no run {run!r}: no runs are recorded", USAGE)
        found = read_run(store, run)
        shown: list[str] = []
        while watch and found.record.state == "Running":
            if shown != (lines := _run_lines(found)):
                _print_anew(lines)
                shown = lines
            time.sleep(WATCH_S)
            found = read_run(store, found.record.run_id)
    if as_json:
        click.echo(json.dumps(detail_data(found), indent=2))
        return
    if shown:
        _print_anew(_run_lines(found))
        return
    for line in _run_lines(found):
        click.echo(line)


def _print_anew(lines: list[str]) -> None:
    """Print in place of what was printed before, where that can be done."""
    click.clear()  # does nothing where standard output is no terminal
    for line in [*lines, ""]:
        click.echo(line)


def _run_lines(run: RecordedRun) -> list[str]:
    from anabranch.runs.read.artifacts import artifact_lines
    from anabranch.runs.read.run import QUIET_S

    record = run.record
    took = f", {_took(record)}" if record.end else ""
    message = f": {shortened(record.message, 300)}" if record.message else ""
    lines = [
        f"{printable(record.flow_name)}: run {printable(record.run_id)}, {printable(record.state)}{message}",
        f"  began {_local_time(record.start)}{took}; driver {printable(record.owner)}"
        + (f" (number {record.epoch})" if record.epoch > 1 else "")
        + (f"; part of run {printable(record.parent_run_id)}" if record.parent_run_id else ""),
    ]
    if run.quiet_since is not None and record.heard and (record.heard - run.quiet_since).total_seconds() >= QUIET_S:
        lines.append(
            f"  its driver lives; nothing has begun, ended or been logged since {_local_time(run.quiet_since)}"
        )
    given = record.details.parameters if record.details is not None else {}
    lines += [f"  {printable(name)} = {shortened(value, 100)}" for name, value in given.items()]
    lines.append("")
    width = max((len(shortened(task.slug, 40)) for task in run.tasks), default=0)
    lines += [_task_line(task, width) for task in run.tasks]
    if run.parts:
        lines += ["", "runs that are part of it:"]
        lines += [_part_line(each) for each in run.parts]
    slowest = sorted((task for task in run.tasks if task.seconds), key=lambda task: -(task.seconds or 0))
    if len(slowest) > MAX_SLOWEST:
        shown = ", ".join(f"{printable(task.slug)} {seconds(task.seconds or 0)}" for task in slowest[:MAX_SLOWEST])
        lines += ["", f"slowest: {shown}"]
    if run.slowest:
        lines += ["", "slowest elements, by the mean of their chunk:"]
        lines += [f"  {_chunk_text(chunk)}" for chunk in run.slowest]
    if shown_by_tasks := artifact_lines(run.artifacts):
        lines += ["", "what tasks have shown:"]
        lines += [f"  {shortened(line, 200)}" for line in shown_by_tasks[:MAX_SHOWN]]
        lines += [f"  {len(shown_by_tasks) - MAX_SHOWN:,} more: --json"] if len(shown_by_tasks) > MAX_SHOWN else []
    retried = [(each.name, attempt) for each in run.retried for attempt in each.attempts]
    if retried:
        lines += ["", "attempts that were followed by another:"]
        lines += [f"  {printable(name)}: {shortened(str(attempt), 300)}" for name, attempt in retried[:MAX_RETRIED]]
        lines += [f"  {len(retried) - MAX_RETRIED:,} more: --json"] if len(retried) > MAX_RETRIED else []
    for failure in run.failures[:MAX_FAILURES]:
        lines += ["", *_write_failure(failure)]
    if run.failed > min(MAX_FAILURES, len(run.failures)):
        lines += ["", f"{run.failed - min(MAX_FAILURES, len(run.failures)):,} more failed"]
    if run.failures:
        name, run_id = shlex.quote(printable(run.failures[0].name)), printable(record.run_id)
        lines += ["", f"find out more: anabranch logs {run_id} {name}; anabranch replay {run_id} {name} --pdb"]
    return lines


def _part_line(record: RunRecord) -> str:
    return f"  {printable(record.run_id)}  {printable(record.state):11}  {shortened(record.flow_name, 40)}"


def _chunk_text(chunk: RecordedChunk) -> str:
    where = f" @ {printable(chunk.worker)}" if chunk.worker not in ("", "local") else ""
    if chunk.width == 1:
        return f"{printable(chunk.name)} {seconds(chunk.seconds)}{where}"
    each = seconds(chunk.seconds / chunk.width)
    return f"{printable(chunk.name)} {each} each, {chunk.width:,} in {seconds(chunk.seconds)}{where}"


def _task_line(task: RecordedTask, width: int) -> str:
    line = f"  {shortened(task.slug, 40):{width}}  {printable(task.state):13}"
    line += f"  {seconds(task.seconds) if task.seconds is not None else '':>9}"
    if task.counts is not None:
        line += f"  {task.counts}{f'; {printable(task.running_text)}' if task.running_text else ''}"
    elif task.running_text:
        line += f"  {printable(task.running_text)}"
    elif task.message and task.state not in ("Success", "Pending"):
        line += f"  {shortened(task.message, 100)}"
    return line.rstrip()


def _write_failure(failure: RecordedFailure) -> list[str]:
    tries = f" after {failure.attempt} tries" if failure.attempt > 1 else ""
    why = failure.failure
    where = f" on {printable(failure.worker)}" if failure.worker not in ("", "local") else ""
    lines = [f"✗ {printable(failure.name)} {printable(failure.state)}{tries}{where}"]
    lines += [f"    {printable(name)} = {printable(value)}" for name, value in why.inputs.items()]
    text = why.traceback.rstrip("\n") or why.headline()
    return [*lines, *(f"  {line}" for line in printable_lines(text))]


# resume ---------------------------------------------------------------------------------------------------------------


@click.command(short_help="Continue a recorded run.")
@click.argument("run", metavar="RUN", shell_complete=run_ids)
@click.argument("target", metavar="[FILE[:FLOW]|MODULE[:FLOW]]", required=False, shell_complete=targets)
@click.option("--only-failed", is_flag=True, help="Run only what failed, and what is downstream of it.")
@click.option("--from", "start", multiple=True, metavar="TASK", help="Run this task again, and what is downstream.")
@click.option("--element", metavar="TASK[7]", help="Run this element again, and what is downstream.")
@click.option("--approve", multiple=True, metavar="TASK", help="Approve this task, so that it runs.")
@click.option("--rerun-changed", is_flag=True, help="Run again what has different code now, and what is downstream.")
@click.option("--keep", multiple=True, metavar="TASK", help="Also keep and show the value of this task.")
@click.option(
    "-p",
    "--param",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Parameter that is not recorded; @FILE and -: see run.",
)
@run_options("Where to run; default: the flow's executor, or local.")
@click.pass_context
def resume(
    ctx: click.Context,
    *,
    run: str,
    target: str | None,
    only_failed: bool,
    start: tuple[str, ...],
    element: str | None,
    approve: tuple[str, ...],
    rerun_changed: bool,
    keep: tuple[str, ...],
    pairs: tuple[str, ...],
    executor: str | None,
    workers: int | None,
    dashboard: bool,
    metrics_file: str | None,
    pushgateway: str | None,
    metrics_port: int | None,
    progress: bool | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Continue a run that failed or was cancelled, paused or killed. What has finished is not run again.

    RUN is the run's id, the beginning of it, or "last". Give FILE if the flow has moved since.
    """
    from anabranch.cli.session import MetricsWanted, Session
    from anabranch.flows.loading import shipped_by_value
    from anabranch.runs.read.lookup import source_of

    refuse_both(quiet=quiet, verbose=verbose)
    if element is not None and (only_failed or start or rerun_changed):
        raise click.UsageError(
            f"--element {element} cannot be combined with --only-failed, --from or --rerun-changed; leave these out"
        )
    with opened_store() as store:
        if store is None:
            raise Problem(f"there is no run {run!r}: no runs are recorded", USAGE)
        record = store.get_run(run)
    target = target or source_of(record)
    if not target:
        raise Problem(
            f"the file of flow {record.flow_name!r} has moved; say where it is: anabranch resume {record.run_id} FILE",
            USAGE,
        )
    loaded = load(target)
    flow = loaded.flow
    with exit_codes():
        check_task_names(flow, start, "--from")
        check_task_names(flow, approve, "--approve")
        check_task_names(flow, keep, "--keep")
        check_task_names(flow, (element.partition("[")[0],) if element else (), "--element")
    given = Given(flow.parameters(by_name=True))
    given.take_pairs(pairs)
    given.ask_for_secrets({})
    place = executor_of(executor, workers) or flow.executor or executor_of("local", None)
    assert place is not None
    session = Session(
        flow=flow,
        resume={
            "resume": record.run_id,
            "resume_only": "failed" if only_failed else None,
            "resume_from": list(start),
            "resume_element": element,
            "rerun_changed": rerun_changed,
        },
        parameters=given.values(below={}),
        executor=place,
        keep=keep,
        approve=approve,
        progress=progress_mode(progress, quiet=quiet),
        quiet=quiet,
        verbose=verbose,
        as_json=as_json,
        dashboard=dashboard,
        metrics=MetricsWanted(metrics_file, pushgateway, metrics_port),
    )
    with shipped_by_value(loaded, with_neighbours=place.is_elsewhere):
        ctx.exit(session.run())

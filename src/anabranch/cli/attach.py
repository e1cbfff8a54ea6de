"""``anabranch attach`` and ``anabranch cancel``: runs that go on elsewhere, from any process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.texts import printable, printable_lines
from anabranch.cli.exits import USAGE, Problem, code_of_state, exit_codes

if TYPE_CHECKING:
    from anabranch.flows.handle import RunHandle, RunStatus
    from anabranch.runs import RunRecord
    from anabranch.runs.store.relational import RelationalRunStore
    from anabranch.runs.store.slot_queue import SlotQueue
    from anabranch.runs.store.slots import Slot

FOLLOW_S = 0.5  # as often as the driver writes its status


@click.command(short_help="Follow a run on a cluster.")
@click.argument("address", metavar="ADDRESS")
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--wait/--no-wait", default=True, help="Follow the run to its end, or show its status.")
@click.option("--forget", is_flag=True, help="After the run has ended, remove its data from the scheduler.")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
@click.pass_context
def attach(ctx: click.Context, *, address: str, run: str | None, wait: bool, forget: bool, as_json: bool) -> None:
    """Follow a run whose driver is on the cluster at ADDRESS, started by flow.submit() or run --detach.

    RUN is the run's id, or the beginning of it. Without RUN, the scheduler's runs are listed. Ctrl-C ends the command,
    not the run.
    """
    if run is None:
        _list_runs_at(address, as_json=as_json)
        return
    with _attached(address, run) as handle:
        status = _follow(handle) if wait else handle.status()
        if as_json:
            click.echo(json.dumps(_status_data(status), indent=2))
        else:
            for line in _write_status(status):
                click.echo(line)
        if forget and status.is_finished:
            handle.forget()
        ctx.exit(code_of_state(status.state))


@click.command(short_help="Cancel a run, wherever it goes on, or a backfill.")
@click.argument("address", metavar="[ADDRESS]")
@click.argument("run", metavar="RUN|GROUP", required=False)
@click.option("--reason", default="asked for on the command line", show_default=True, help="The reason to record.")
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds to wait.")
def cancel(*, address: str, run: str | None, reason: str, timeout: float) -> None:
    """Cancel a run, and wait for its end.

    Without ADDRESS, RUN is a run in the run store that goes on, on whatever machine, or that waits for a service: its
    id, or the beginning of it. GROUP, as `anabranch backfill --json` gives it, ends a whole backfill. With ADDRESS, RUN
    is a run whose driver is on the cluster there.
    """
    if run is None:
        _cancel_recorded(address, reason, timeout)
        return
    with _attached(address, run) as handle:
        handle.cancel(reason)
        for line in _write_status(handle.wait(timeout)):
            click.echo(line)


def _cancel_recorded(name: str, reason: str, timeout_s: float) -> None:
    """Cancel a run in the run store, or all runs of a group."""
    import time

    from anabranch.base.actors import name_user
    from anabranch.base.errors import RunNotFound
    from anabranch.runs import RunRecord
    from anabranch.runs.registry.ending import cancel, cancel_group
    from anabranch.runs.registry.registration import registry
    from anabranch.runs.store.deeds import note

    with exit_codes():
        store, _, queue = registry()
        by = f"{name_user()} ({reason})"
        found: Sequence[Slot | RunRecord]
        try:
            found = cancel_group(store, queue, name, by=by) or [cancel(store, queue, name, by=by)]
        except RunNotFound:
            found = [cancel(store, queue, store.get_run(name).run_id, by=by)]
        note(store.database, "cancel", name if len(found) > 1 else found[0].run_id, reason)
        going_on = {each.run_id: each for each in found if each.state == "Running"}
        click.echo(f"{len(found) - len(going_on):,} cancelled, {len(going_on):,} asked to end")
        until = time.monotonic() + timeout_s
        while going_on and time.monotonic() < until:
            time.sleep(FOLLOW_S)
            for run_id, before in list(going_on.items()):
                if (state := _state_of(store, queue, before)) != "Running":
                    del going_on[run_id]
                    click.echo(f"{run_id}: {state}")
        for run_id, before in sorted(going_on.items()):
            who = f"driver {printable(before.owner)}" if isinstance(before, RunRecord) else "service"
            click.echo(f"{run_id} goes on after {timeout_s:g} s; its {who} ends it", err=True)


def _state_of(store: RelationalRunStore, queue: SlotQueue, before: Slot | RunRecord) -> str:
    """How a run stands now that was asked to end."""
    from anabranch.base.errors import RunNotFound
    from anabranch.runs.read.lookup import as_it_stands
    from anabranch.runs.store.slots import Slot

    if isinstance(before, Slot):
        slot = queue.get(before.run_id)
        return slot.state if slot is not None else "gone"
    try:
        return as_it_stands(store.get_run(before.run_id)).state
    except RunNotFound:
        return "gone"


@contextmanager
def _attached(address: str, run: str) -> Iterator[RunHandle]:
    """A handle on a run; on none if there is no name. An address or a run that cannot be meant ends the command."""
    from anabranch.base.errors import OptionError, RunHandleError
    from anabranch.flows import handle as handles

    with exit_codes():
        try:
            handle = handles.attach(address, run) if run else handles.RunHandle(address, "")
        except (OptionError, RunHandleError) as error:
            raise Problem(str(error), USAGE) from error
        with handle:
            yield handle


def _list_runs_at(address: str, *, as_json: bool) -> None:
    from anabranch.flows.handle import find_runs

    with _attached(address, "") as handle:
        found = []
        for run_id in find_runs(handle.client):
            handle.run_id = run_id
            found.append(handle.status())
    if as_json:
        click.echo(json.dumps([_status_data(status) for status in found], indent=2))
        return
    for status in found:
        click.echo(f"{status.run_id}  {status.state:10}  {printable(status.flow_name)}")
    if not found:
        click.echo(f"the scheduler at {printable(address)} knows no runs", err=True)


def _follow(handle: RunHandle) -> RunStatus:
    """Print changes and the tasks' log lines until the run has ended."""
    import time

    from anabranch.engine.logs.book import LogBook

    if handle.status().is_finished:
        return handle.wait(timeout=60)
    said: dict[str, str] = {}
    with handle.follow_logs(LogBook().take_batch) as catch_up:
        polls = 0
        while True:
            status = handle.status()
            polls += 1
            if polls == 2 or status.is_finished:
                catch_up()
            for slug, text in _task_states(status).items():
                if said.get(slug) != text:
                    said[slug] = text
                    click.echo(f"  {printable(slug)}: {text}", err=True)
            if status.is_finished:
                return handle.wait(timeout=60)
            time.sleep(FOLLOW_S)


def _write_status(status: RunStatus) -> list[str]:
    again = f" (driver number {status.drivers})" if status.drivers > 1 else ""
    lines = [*printable_lines(str(status))]
    lines[0] += again
    for slug, text in _task_states(status).items():
        running = str(status.tasks[slug].get("running") or "")
        lines.append(f"  {printable(slug)}: {text}{f'; {printable(running)}' if running else ''}")
    return lines


def _task_states(status: RunStatus) -> dict[str, str]:
    return {slug: _standing(each) for slug, each in status.tasks.items()}


def _standing(task: Any) -> str:
    text = str(task.get("state", "Pending"))
    if "width" in task and text == "Running":
        text += f" {task['done']:,}/{task['width']:,}"
        text += "".join(f", {task[word]:,} {word}" for word in ("failed", "retrying") if task.get(word))
    message = str(task.get("message") or "")
    return text + (f": {printable(message[:200])}" if message and text not in ("Running", "Pending") else "")


def _status_data(status: RunStatus) -> dict[str, Any]:
    return {
        "run_id": status.run_id,
        "flow": status.flow_name,
        "state": status.state,
        "message": status.message,
        "tasks": {slug: dict(each) for slug, each in status.tasks.items()},
        "driver": status.driver,
        "drivers": status.drivers,
        "started": status.started.isoformat() if status.started else None,
        "updated": status.updated.isoformat() if status.updated else None,
    }

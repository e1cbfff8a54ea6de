"""``anabranch replay``: run one attempt of a recorded run again, here."""

from __future__ import annotations

import json
import traceback

import click

from anabranch.base.texts import printable, printable_lines, shortened
from anabranch.cli.completion import run_ids, targets
from anabranch.cli.exits import RUN_FAILED, USAGE, Problem, exit_codes
from anabranch.cli.run import load

MAX_VALUE = 2_000  # characters


@click.command(short_help="Run one attempt of a recorded run again, here.")
@click.argument("run", metavar="RUN", shell_complete=run_ids)
@click.argument("task", metavar="TASK[137]")
@click.argument("target", metavar="[FILE[:FLOW]|MODULE[:FLOW]]", required=False, shell_complete=targets)
@click.option("--pdb", "debugs", is_flag=True, help="Stop in the debugger at the first line and at an exception.")
@click.option("-p", "--param", "pairs", multiple=True, metavar="NAME=VALUE", help="Parameter that is not recorded.")
@click.option("-i", "--input", "inputs", multiple=True, metavar="NAME=JSON", help="Input in place of the recorded one.")
@click.option("--dry-run", is_flag=True, help="Only show the inputs.")
@click.pass_context
def replay(
    ctx: click.Context,
    *,
    run: str,
    task: str,
    target: str | None,
    debugs: bool,
    pairs: tuple[str, ...],
    inputs: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Run one attempt again in this process, with the inputs that it had. Nothing is recorded.

    RUN is the run's id, the beginning of it, or "last". If TASK is a map without an index, its first failed element is
    run.
    """
    from anabranch.base.errors import ReplayError, RunStoreError
    from anabranch.cli.parameters import Given
    from anabranch.flows.replay import find_replay, shown_inputs
    from anabranch.runs.read.lookup import find, source_of

    with exit_codes():
        try:
            record = find(run)[1]
            target = target or source_of(record)
            flow = load(target).flow if target else None
            given = Given(flow.parameters(by_name=True) if flow is not None else {})
            given.take_pairs(pairs)
            named = {pair.partition("=")[0] for pair in pairs}
            values = {name: value for name, value in given.values(below={}).items() if name in named}
            found = find_replay(run, task, flow=flow, parameters=values, inputs=_parse_inputs(inputs))
        except (ReplayError, RunStoreError) as error:
            raise Problem(str(error), USAGE) from error
    state = found.state
    was = f"was {state.name}, attempt {state.attempt}" if state is not None else "had not ended"
    click.echo(f"{printable(found.name)} of run {printable(record.run_id)}: {was}", err=True)
    if state is not None and state.failure is not None:
        click.echo(f"  {shortened(state.failure.headline(), 300)}", err=True)
    if found.is_changed:
        click.echo("  its code has changed since", err=True)
    for line in shown_inputs(found):
        click.echo(f"  {shortened(line, 300)}", err=True)
    if dry_run:
        return
    if found.missing:
        text = f"{found.name} lacks inputs; give them with -i NAME=JSON"
        raise Problem(text, USAGE)
    try:
        value = found.call(pdb=debugs)
    except ReplayError as error:
        raise Problem(str(error), USAGE) from error
    except Exception as error:
        for line in _write_traceback(error):
            click.echo(line, err=True)
        ctx.exit(RUN_FAILED)
    click.echo(f"{printable(found.name)} = {shortened(repr(value), MAX_VALUE)}")


def _parse_inputs(pairs: tuple[str, ...]) -> dict[str, object]:
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise click.UsageError(f"-i: expected NAME=JSON, found {pair!r}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _write_traceback(error: Exception) -> list[str]:
    """The traceback, from the task's own frames on."""
    from anabranch.base.masking import mask
    from anabranch.base.where import is_library

    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and is_library(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return printable_lines(mask("".join(traceback.format_exception(error.with_traceback(trace))).rstrip("\n")))

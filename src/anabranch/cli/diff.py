"""``anabranch diff``: what is not the same in two recorded runs."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from anabranch.base.texts import shortened
from anabranch.cli.completion import run_ids
from anabranch.cli.exits import USAGE, Problem
from anabranch.cli.history import opened_store

MAX_LINES = 20  # of a kind
WIDTH = 60


@click.command(short_help="Show what differs between two runs.")
@click.argument("first", metavar="RUN", shell_complete=run_ids)
@click.argument("second", metavar="RUN", shell_complete=run_ids)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(*, first: str, second: str, as_json: bool) -> None:
    """Show what differs between two runs: code, parameters, versions and host, which may be why; states and seconds.

    RUN is an id, the beginning of it, or "last".
    """
    from anabranch.runs.read.compare import compare
    from anabranch.runs.read.run import read_run

    with opened_store() as store:
        if store is None:
            raise Problem(f"there is no run {first!r}: no runs are recorded", USAGE)
        runs = read_run(store, first), read_run(store, second)
    found = compare(*runs)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
        return
    for sign, run in zip("AB", runs, strict=True):
        record = run.record
        click.echo(f"{sign}: {shortened(record.flow_name, WIDTH)}, run {shortened(record.run_id, WIDTH)}")
    kinds = dict.fromkeys(each.kind for each in found)
    for kind in kinds:
        own = [each for each in found if each.kind == kind]
        click.echo(f"{kind}:")
        for each in own[:MAX_LINES]:
            name = f"{shortened(each.name, WIDTH)}: " if each.name else ""
            click.echo(f"  {name}{shortened(each.before, WIDTH) or '-'} → {shortened(each.after, WIDTH) or '-'}")
        if len(own) > MAX_LINES:
            click.echo(f"  {len(own) - MAX_LINES:,} more: --json")
    if not found:
        click.echo("nothing that is recorded differs")

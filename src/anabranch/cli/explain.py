"""``anabranch explain``: why a task run ran, was found in a cache, was skipped, or waits."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from anabranch.base.texts import printable
from anabranch.cli.completion import run_ids
from anabranch.cli.exits import USAGE, Problem
from anabranch.cli.history import opened_store


@click.command(short_help="Say why a task ran, or did not.")
@click.argument("run", metavar="RUN", shell_complete=run_ids)
@click.argument("name", metavar="TASK[7]")
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output.")
def explain(*, run: str, name: str, as_json: bool) -> None:
    """Say why a task run, or an element of a map, ran, was found in a cache, was skipped, failed, or waits.

    Of a cached task, what its key was made of is compared with the run before: 'input x' changed, or 'code'.
    """
    from anabranch.runs.read.explain import explain as explained

    with opened_store() as store:
        if store is None:
            raise Problem(f"there is no run {run!r}: no runs are recorded", USAGE)
        found = explained(store, run, name)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(f"{printable(found.name)}: {found.state}")
    for reason in found.reasons:
        click.echo(f"  {printable(reason)}")
    for part, text in (found.digests or {}).items():
        mark = "changed" if part in found.changed else "same" if found.compared_with else ""
        click.echo(f"    {printable(part)}: {text[:12]} {mark}".rstrip())
    if found.location:
        click.echo(f"  its value is stored at {printable(found.location)}")

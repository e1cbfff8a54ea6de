"""``anabranch explain``: why a task ran, came from a cache, was skipped, failed or waits."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from anabranch.base.texts import printable
from anabranch.cli.completion import run_ids
from anabranch.cli.exits import USAGE, Problem
from anabranch.cli.history import opened_store


@click.command(short_help="Explain why a task ran, or did not.")
@click.argument("run", metavar="RUN", shell_complete=run_ids)
@click.argument("name", metavar="TASK[7]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(*, run: str, name: str, as_json: bool) -> None:
    """Explain why a task or an element ran, came from a cache, was skipped, failed or waits.

    For a task with a cache, the parts of its cache key are compared with the run before: which input changed, or its
    code.
    """
    from anabranch.runs.read.explain import explain as explained

    with opened_store() as store:
        if store is None:
            raise Problem(f"there is no run {run!r}: no runs are recorded", USAGE)
        found = explained(store, run, name)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(f"{printable(found.name)}: {printable(found.state)}")
    for reason in found.reasons:
        click.echo(f"  {printable(reason)}")
    for part, text in (found.digests or {}).items():
        mark = "changed" if part in found.changed else "same" if found.compared_with else ""
        click.echo(f"    {printable(part)}: {text[:12]} {mark}".rstrip())
    if found.location:
        click.echo(f"  value: {printable(found.location)}")

"""``anabranch report``: a recorded run as one HTML file."""

from __future__ import annotations

import click

from anabranch.cli.completion import run_ids
from anabranch.cli.exits import USAGE, Problem, exit_codes
from anabranch.cli.history import opened_store


@click.command(short_help="Write a recorded run to an HTML file.")
@click.argument("run", metavar="RUN", shell_complete=run_ids)
@click.option("-o", "--output", metavar="FILE", help="Default: anabranch-RUN.html in the current directory.")
def report(*, run: str, output: str | None) -> None:
    """Write how a run stands or ended to one HTML file, which needs neither a server nor internet.

    RUN may be shortened. The file has parameters, inputs of what failed and log lines in it; secrets are masked.
    """
    with opened_store() as store:
        if store is None:
            raise Problem(f"there is no run {run!r}: no runs are recorded", USAGE)
        with exit_codes():
            from anabranch.report import write_report

            file = write_report(store, run, output)
    click.echo(str(file))

"""``anabranch ui`` and ``anabranch report``: serve pages of recorded runs, and write one to a file."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import click

from anabranch.cli.completion import run_ids
from anabranch.cli.exits import USAGE, Problem, exit_codes
from anabranch.cli.history import opened_store


@click.command(short_help="Show recorded runs in a browser.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Default: any free port.")
def ui(*, port: int) -> None:
    """Serve pages of the recorded runs on this machine, and print their address.

    There is a list of runs, a page of each run, and the history of each flow. Anybody with the address can resume a
    run that stopped; such a run ends with this command.
    """
    from anabranch.monitoring.pages.library import Library
    from anabranch.monitoring.pages.server import Pages
    from anabranch.runs.store.opening import store_to_show

    with exit_codes():
        store_to_show()  # what is wrong with it is said here, not on a page
        pages = Pages(Library(store_to_show), port=port)
    is_over = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        is_over.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pages:
            click.echo(pages.address())
            click.echo("Ctrl-C ends the pages", err=True)
            is_over.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command(short_help="Write a recorded run to an HTML file.")
@click.argument("run", metavar="RUN", shell_complete=run_ids)
@click.option("-o", "--output", metavar="FILE", help="Default: anabranch-RUN.html in the current directory.")
def report(*, run: str, output: str | None) -> None:
    """Write a run to one HTML file, which needs neither a server nor the internet.

    RUN is the run's id, the beginning of it, or "last". The file contains parameters, inputs of what failed and log
    lines; secrets are masked.
    """
    with opened_store() as store:
        if store is None:
            raise Problem(f"there is no run {run!r}: no runs are recorded", USAGE)
        with exit_codes():
            from anabranch.monitoring.pages.report import write_report

            file = write_report(store, run, output)
    click.echo(str(file))

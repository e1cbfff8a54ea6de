"""``anabranch ui``: pages of the recorded runs, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import click

from anabranch.cli.exits import exit_codes


@click.command(short_help="Show recorded runs in a browser.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Default: any that is free.")
def ui(*, port: int) -> None:
    """Serve pages of the recorded runs on this machine, and print their address: list, run, history of a flow.

    Runs that stopped can be gone on with from their pages, by whoever has the address; they end with this command.
    """
    from anabranch.dashboard.library import Library
    from anabranch.dashboard.server import Pages
    from anabranch.runs.opening import store_to_show

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

"""``anabranch serve``: run registered flows when they are due, and answer for them by HTTP."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anabranch.cli.exits import USAGE, Problem, exit_codes
from anabranch.rotating import RotatingLog

if TYPE_CHECKING:
    from anabranch.service.serving import Service

_FORMAT = "%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"


@click.command(short_help="Run registered flows when they are due.")
@click.argument("files", metavar="[FILE|MODULE]…", nargs=-1)
@click.option(
    "--max-runs",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Runs at a time in this service; default: one for each core, two at least.",
)
@click.option(
    "--address", default="127.0.0.1", show_default=True, help="Where to listen; others than loopback need a token."
)
@click.option("--port", type=click.IntRange(0, 65_535), default=8780, show_default=True, help="0 takes a free one.")
@click.option(
    "--token-file", metavar="FILE", help="File with the token; default: ANABRANCH_SERVICE_TOKEN, if it is set."
)
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="A name under which the service is reached.")
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM runs may take so long to end; then they are handed over.",
)
@click.option("--log-file", metavar="FILE", help="Log there instead of to standard error.")
@click.option(
    "--log-size",
    type=click.IntRange(10_000, 10**10),
    default=10_000_000,
    show_default=True,
    metavar="BYTES",
    help="The log begins anew after so many.",
)
@click.option(
    "--log-count",
    type=click.IntRange(0, 1_000),
    default=5,
    show_default=True,
    metavar="N",
    help="So many old logs are kept.",
)
def serve(
    *,
    files: tuple[str, ...],
    max_runs: int | None,
    address: str,
    port: int,
    token_file: str | None,
    hosts: tuple[str, ...],
    drain_s: float,
    log_file: str | None,
    log_size: int,
    log_count: int,
) -> None:
    """Register the flows of FILES, and run all registered flows when they are due, until SIGTERM or Ctrl-C.

    Several services may share a PostgreSQL database (backend: postgresql://…), and with it the work. The API is below
    /api; /api/openapi.json describes it, and /healthz tells whether the service is well.
    """
    from anabranch.registering import registry
    from anabranch.service.serving import Options, Service

    with exit_codes():
        token = _token(token_file)
        store = registry()[0]
        options = Options(address=address, port=port, token=token, hosts=hosts, drain_s=drain_s)
        if max_runs is not None:
            options = Options(capacity=max_runs, address=address, port=port, token=token, hosts=hosts, drain_s=drain_s)
        runs_log = _log_to(log_file, log_size, log_count)
        service = Service(store, options, log=runs_log)  # refuses before anything is registered
        _register(files)
        service.run(_say_where(address))
    click.echo("the service has ended", err=True)


def _say_where(address: str) -> Callable[[Service], None]:
    def say(service: Service) -> None:
        shown = f"[{address}]" if ":" in address else address
        click.echo(f"serving on http://{shown}:{service.port} (API: /api/openapi.json; end with Ctrl-C)", err=True)

    return say


def _register(files: tuple[str, ...]) -> None:
    """Register flows in a process of its own: what a flow's file does must not hurt the service."""
    import subprocess

    if not files:
        return
    done = subprocess.run([sys.executable, "-m", "anabranch", "register", *files], stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise Problem("not all flows could be registered, see above; the service has not started", done.returncode)


def _token(file: str | None) -> str:
    if file is None:
        return os.environ.get("ANABRANCH_SERVICE_TOKEN", "").strip()
    try:
        path = Path(file)
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            click.echo(f"warning: others on this machine can read {file}; chmod 600 {file}", err=True)
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"--token-file: cannot read {file}: {error}", USAGE) from None
    if not token:
        raise Problem(f"--token-file: {file} is empty", USAGE)
    return token


def _log_to(file: str | None, size: int, count: int) -> RotatingLog | None:
    """Let the service's log go where it is wanted; gives where what runs print and log goes: a file beside it."""
    logger = logging.getLogger("anabranch")
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    if file is None:
        return None
    runs = RotatingLog(f"{file}.runs", size, count)
    try:
        handler = RotatingFileHandler(file, maxBytes=size, backupCount=count, encoding="utf-8")
        os.close(runs.open())
    except OSError as error:
        raise Problem(f"--log-file: cannot write {file}: {error}", USAGE) from None
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    return runs

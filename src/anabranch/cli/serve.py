"""``anabranch serve``: run registered flows when they are due, and answer for them by HTTP."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.files import RotatingLog
from anabranch.cli.completion import targets
from anabranch.cli.exits import USAGE, Problem, exit_codes

if TYPE_CHECKING:
    from anabranch.service.serving import Service

_FORMAT = "%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"


@click.command(short_help="Run registered flows when they are due.")
@click.argument("files", metavar="[FILE|MODULE]…", nargs=-1, shell_complete=targets)
@click.option(
    "--max-runs",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Runs at a time in this service; default: one for each core, two at least.",
)
@click.option(
    "--runs-per-process",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Short runs that a process may have, one after another.  [default: 1, so that each has a process of its own]",
)
@click.option("--address", help="Where to listen; others than loopback need a token.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 takes a free one.  [default: 8780]")
@click.option(
    "--token-file",
    metavar="FILE",
    help="File with the operators' token; default: ANABRANCH_SERVICE_TOKEN, if it is set, else one that is made up.",
)
@click.option(
    "--view-token-file",
    metavar="FILE",
    help="File with the token of those who only look; default: ANABRANCH_SERVICE_VIEW_TOKEN, if it is set.",
)
@click.option("--no-token", is_flag=True, help="Let whoever is on this machine do everything; only on loopback.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="A name under which the service is reached.")
@click.option("--tls-cert", metavar="FILE", help="Serve HTTPS with this certificate (PEM).")
@click.option("--tls-key", metavar="FILE", help="The certificate's key, where it is in a file of its own.")
@click.option("--pages/--no-pages", default=None, help="Pages of runs and flows beside the API.  [default: pages]")
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="After SIGTERM runs may take so long to end; then they are handed over.  [default: 30]",
)
@click.option("--log-file", metavar="FILE", help="Log there instead of to standard error.")
@click.option(
    "--log-size",
    type=click.IntRange(10_000, 10**10),
    metavar="BYTES",
    help="The log begins anew after so many.  [default: 10000000]",
)
@click.option(
    "--log-count", type=click.IntRange(0, 1_000), metavar="N", help="So many old logs are kept.  [default: 5]"
)
def serve(*, files: tuple[str, ...], **given: Any) -> None:
    """Register the flows of FILES, and run all registered flows when they are due, until SIGTERM or Ctrl-C.

    Several services may share a PostgreSQL database (backend: postgresql://…), and with it the work. Pages of flows and
    runs are at /, the API is below /api (/api/openapi.json describes it), /healthz tells whether the service is well.
    What is not said here, the settings say (service: in anabranch.yaml).
    """
    from anabranch.runs.registry.registration import registry
    from anabranch.service.serving import Service
    from anabranch.service.starting import choose_options, greet

    with exit_codes():
        options, is_made_up = choose_options(_with_tokens(given), needs_token=not given["no_token"])
        runs_log = _log_to(*(_setting(name, given) for name in ("log_file", "log_size", "log_count")))
        service = Service(registry()[0], options, log=runs_log)  # refuses before anything is registered
        _register(files)

        def say(started: Service) -> None:
            for line in greet(options, started.port, is_made_up=is_made_up):
                click.echo(line, err=True)

        service.run(say)
    click.echo("the service has ended", err=True)


def _with_tokens(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the service, with what is in files and in the environment."""
    files = {"token": given["token_file"], "view_token": given["view_token_file"]}
    if given["no_token"] and any(files.values()):
        raise Problem("--no-token and a file with a token: say one or the other", USAGE)
    tokens = {
        name: _token(f"--{name.replace('_', '-')}-file", file, f"ANABRANCH_SERVICE_{name.upper()}") or None
        for name, file in files.items()
    }
    mine = ("token_file", "view_token_file", "no_token", "log_file", "log_size", "log_count")
    return {**{name: value for name, value in given.items() if name not in mine}, **tokens}


def _setting(name: str, given: Mapping[str, Any]) -> Any:
    """What an option says, else the setting of its name."""
    from anabranch.base.settings import config

    return given[name] if given[name] is not None else getattr(config.service, name)


def _register(files: tuple[str, ...]) -> None:
    """Register flows in a process of its own: what a flow's file does must not hurt the service."""
    import subprocess

    if not files:
        return
    done = subprocess.run([sys.executable, "-m", "anabranch", "register", *files], stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise Problem("not all flows could be registered, see above; the service has not started", done.returncode)


def _token(option: str, file: str | None, variable: str) -> str:
    if file is None:
        return os.environ.get(variable, "").strip()
    try:
        path = Path(file)
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            click.echo(f"warning: others on this machine can read {file}; chmod 600 {file}", err=True)
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{option}: cannot read {file}: {error}", USAGE) from None
    if not token:
        raise Problem(f"{option}: {file} is empty", USAGE)
    return token


def _log_to(file: str, size: int, count: int) -> RotatingLog | None:
    """Let the service's log go where it is wanted; gives where what runs print and log goes: a file beside it."""
    logger = logging.getLogger("anabranch")
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    if not file:
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

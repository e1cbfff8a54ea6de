"""``anabranch serve``: run registered flows when they are due, and answer for them by HTTP."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anabranch.cli.completion import targets
from anabranch.cli.exits import USAGE, Problem, exit_codes

if TYPE_CHECKING:
    from anabranch.service.serving import Service


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
def serve(*, files: tuple[str, ...], **given: Any) -> None:
    """Register the flows of FILES, and run all registered flows when they are due, until SIGTERM or Ctrl-C.

    Several services may share a PostgreSQL database (backend: postgresql://…), and with it the work. Pages of flows and
    runs are at /, the API is below /api (/api/openapi.json describes it), /healthz tells whether the service is well.
    What is not said here, the settings say (service: in anabranch.yaml).
    """
    from anabranch.runs.registry.registration import registry
    from anabranch.service.serving import Service
    from anabranch.service.starting import choose_options, greet

    logger = logging.getLogger("anabranch")
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    with exit_codes():
        options, is_made_up = choose_options(_with_tokens(given), needs_token=not given["no_token"])
        service = Service(registry()[0], options)  # refuses before anything is registered
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
    mine = ("token_file", "view_token_file", "no_token")
    return {**{name: value for name, value in given.items() if name not in mine}, **tokens}


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

"""``anabranch serve``: run registered flows when they are due, and serve their API and pages."""

from __future__ import annotations

import logging
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
    help="Maximum number of runs at a time; default: one per core, at least two.",
)
@click.option(
    "--runs-per-process",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Number of short runs, one after another, before a process is replaced.  [default: 1]",
)
@click.option("--address", help="Address to listen on; any but loopback needs a token.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on; 0 takes a free port.  [default: 8780]")
@click.option(
    "--token-file",
    metavar="FILE",
    help="File with the operators' token; default: ANABRANCH_SERVICE_TOKEN, else a new random token.",
)
@click.option(
    "--view-token-file",
    metavar="FILE",
    help="File with the viewers' token; default: ANABRANCH_SERVICE_VIEW_TOKEN, else none.",
)
@click.option("--no-token", is_flag=True, help="Allow everybody on this machine everything; loopback only.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="Host name of the service; may be repeated.")
@click.option(
    "--trust-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Address or network of a proxy whose X-Forwarded-* count, beside this machine; may be repeated.",
)
@click.option("--tls-cert", metavar="FILE", help="Serve HTTPS with this certificate (PEM).")
@click.option("--tls-key", metavar="FILE", help="Key of the certificate, if it is in another file.")
@click.option("--pages/--no-pages", default=None, help="Serve pages as well as the API.  [default: pages]")
@click.option(
    "--reload/--no-reload",
    "reload",
    default=None,
    help="Register flows again when their files, or Python files beside them, change.  [default: no]",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="Time that runs have to end after SIGTERM; then a service resumes them.  [default: 30]",
)
def serve(*, files: tuple[str, ...], **given: Any) -> None:
    """Register the flows of FILES, and run all registered flows when they are due, until SIGTERM or Ctrl-C.

    Several services can share the work by sharing a PostgreSQL database (backend: postgresql://…). Pages are at /, the
    API is at /api (described by /api/openapi.json), and /healthz says whether the service is healthy. Options that are
    not given come from the settings (service: in anabranch.yaml).
    """
    from anabranch.runs.registry.registration import registry
    from anabranch.service.first import leave_first_place
    from anabranch.service.serving import Service
    from anabranch.service.starting import choose_options, write_greeting

    leave_first_place()
    logger = logging.getLogger("anabranch")
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    with exit_codes():
        options, is_made_up = choose_options(_with_tokens(given), needs_token=not given["no_token"])
        service = Service(registry()[0], options, files=files)  # refuses before anything is registered
        _register_files(files)

        def say(started: Service) -> None:
            for line in write_greeting(options, started.port, is_made_up=is_made_up):
                click.echo(line, err=True)

        service.run(say)
    click.echo("the service has ended", err=True)


def _with_tokens(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the service, with the tokens that are in files."""
    files = {"token": given["token_file"], "view_token": given["view_token_file"]}
    if given["no_token"] and any(files.values()):
        raise Problem("--no-token cannot be combined with a token file; leave out one of them", USAGE)
    tokens = {
        name: _token(f"--{name.replace('_', '-')}-file", file) for name, file in files.items() if file is not None
    }
    mine = ("token_file", "view_token_file", "no_token")
    return {**{name: value for name, value in given.items() if name not in mine}, **tokens}


def _register_files(files: tuple[str, ...]) -> None:
    """Register flows in a process of its own, so that a flow's file cannot harm the service."""
    import subprocess

    if not files:
        return
    done = subprocess.run([sys.executable, "-P", "-m", "anabranch", "register", *files], stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise Problem("not all flows could be registered (see above), so the service did not start", done.returncode)


def _token(option: str, file: str) -> str:
    try:
        path = Path(file)
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            click.echo(f"warning: other users of this machine can read {file}; run: chmod 600 {file}", err=True)
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{option}: cannot read {file}: {error}", USAGE) from None
    if not token:
        raise Problem(f"{option}: {file} is empty", USAGE)
    return token

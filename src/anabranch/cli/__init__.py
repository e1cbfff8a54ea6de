"""The command line: ``anabranch``, also as ``dask anabranch`` and ``python -m anabranch``.

This module has the group and the entry point. Each command has a module of its own; `exits` has the exit codes.
Commands import what takes long to import, above all Dask, when they run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import click

from anabranch.cli.attach import attach, cancel
from anabranch.cli.completion import completion
from anabranch.cli.demo import demo
from anabranch.cli.diff import diff
from anabranch.cli.doctor import doctor
from anabranch.cli.exits import NOT_WRITTEN, SIGNALLED
from anabranch.cli.explain import explain
from anabranch.cli.export import export
from anabranch.cli.history import list_runs, resume, show
from anabranch.cli.init import init
from anabranch.cli.inspect import validate, visualize
from anabranch.cli.limits import limits
from anabranch.cli.logs import logs
from anabranch.cli.migrate import migrate
from anabranch.cli.pages import report, ui
from anabranch.cli.prune import prune
from anabranch.cli.registry import backfill, list_flows, register, show_schedule, unregister
from anabranch.cli.replay import replay
from anabranch.cli.run import run
from anabranch.cli.serve import serve

__all__ = ["anabranch", "main"]


class _Root(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C before or after a run exits with 130, not with Click's code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(SIGNALLED + signal.SIGINT)


HELP = """Data workflows on Dask.

\b
anabranch run etl.py --date 2026-11-20     run the flow in etl.py; its parameters are options
anabranch run etl.py --help                show its parameters
anabranch ls                               list recorded runs; anabranch show RUN shows one (or "last")
anabranch logs RUN [TASK]                  show what its tasks logged; --follow waits for more
anabranch report RUN -o run.html           write a run to a page that opens anywhere
anabranch export RUN -o run.parquet        write its task runs to a table
anabranch ui                               show all runs in a browser
anabranch resume RUN                       continue a run that failed or was stopped
anabranch replay RUN TASK[137]             run one attempt again here, with its inputs; --pdb
anabranch serve etl.py                     register its flows and run them on their schedules
anabranch demo                             try it out
anabranch init DIR                         start a project
anabranch migrate etl.py                   say what of a file for Prefect 1 works here
anabranch doctor                           check this machine

\b
Progress and logs go to standard error, results to standard output.
Exit codes: 0 success, 1 the run failed, 2 usage or parameters, 3 the flow cannot be loaded or built,
4 no scheduler or no workers, 5 cancelled or paused, 74 standard output cannot be written,
130 after Ctrl-C, 143 after SIGTERM.
"""  # \b keeps Click from filling the lines that follow


@click.group(cls=_Root, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="anabranch", prog_name="anabranch", message="%(prog)s %(version)s")
def anabranch() -> None:
    """Data workflows on Dask."""


_RUNS = (run, list_runs, show, logs, explain, diff, report, export, ui, resume, replay, prune, attach, cancel, limits)
_FLOWS = (register, unregister, list_flows, show_schedule, backfill, serve)
for command in (*_RUNS, *_FLOWS, validate, visualize, migrate, init, doctor, completion, demo):
    anabranch.add_command(command)


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> NoReturn:
    """Run the command line with the arguments of this process, and leave it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # something else than a file, or one that is closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a TextIO may not have it
    try:
        anabranch(prog_name="anabranch")
    except SystemExit as end:
        _leave_process(end)
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        click.echo(f"Error: standard output cannot be written: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be flushed
        raise SystemExit(NOT_WRITTEN) from None
    raise SystemExit(0)


def _leave_process(end: SystemExit) -> NoReturn:
    """Leave the process, without waiting for threads in which tasks of a cancelled run go on."""
    if (
        isinstance(end.code, int)
        and end.code > SIGNALLED
        and any(thread.name.startswith("anabranch") for thread in threading.enumerate())
    ):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code)
    raise end

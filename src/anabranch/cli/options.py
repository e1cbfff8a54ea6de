"""Options that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anabranch.cli.exits import exit_codes

if TYPE_CHECKING:
    from anabranch.executors.base import Executor
    from anabranch.monitoring.terminal import Mode

_Command = TypeVar("_Command", bound=Callable[..., Any])


def run_options(executor_help: str) -> Callable[[_Command], _Command]:
    """Options of every command that runs a flow."""

    def decorate(command: _Command) -> _Command:
        for option in (
            click.option("-v", "--verbose", is_flag=True, help="Show debug messages and full tracebacks."),
            click.option("-q", "--quiet", is_flag=True, help="Show only problems on standard error."),
            click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
            click.option("--dashboard", is_flag=True, help="Serve a live page of the run, and print its address."),
            click.option("--metrics-file", metavar="FILE", help="Write metrics for Prometheus to a file at the end."),
            click.option("--pushgateway", metavar="HOST:PORT", help="Send metrics to a Pushgateway at the end."),
            click.option(
                "--metrics-port",
                type=click.IntRange(0, 65_535),
                metavar="PORT",
                help="Serve metrics for Prometheus on 127.0.0.1 during the run; 0 takes a free port.",
            ),
            click.option("--progress/--no-progress", default=None, help="Show progress, or do not."),
            click.option(
                "--workers", type=click.IntRange(1, 10_000), metavar="N", help="Number of threads or new workers."
            ),
            click.option("--executor", metavar="local|threads|dask|ADDRESS", help=executor_help),
        ):
            command = option(command)
        return command

    return decorate


def executor_of(name: str | None, workers: int | None) -> Executor | None:
    """The executor that was asked for; None if none was.

    Raises
    ------
    click.UsageError
        The name is unknown, or workers do not go with it.
    """
    from anabranch.base.errors import OptionError
    from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor

    if workers is not None and name not in ("threads", "dask"):
        given = f"--executor {name}" if name is not None else "no --executor"
        raise click.UsageError(f"--workers goes with --executor threads or --executor dask, found {given}")
    if name is None:
        return None
    if name == "local":
        return LocalExecutor()
    if name == "threads":
        return LocalDaskExecutor(num_workers=workers)
    if name == "dask":
        return DaskExecutor(cluster_kwargs={"n_workers": workers, "threads_per_worker": 1} if workers else None)
    try:
        return DaskExecutor(name)
    except OptionError:
        raise click.BadParameter(
            f"expected local, threads, dask, or a scheduler's address such as tcp://host:8786; found {name!r}",
            param_hint="'--executor'",
        ) from None


def progress_mode(progress: bool | None, *, quiet: bool) -> Mode:
    """Whether progress is shown: by the option, else by the setting."""
    if progress is not None:
        return "always" if progress else "never"
    from anabranch.base.settings import config

    with exit_codes():
        mode: Mode = config.progress  # type: ignore[assignment]  # settings are checked when they are read
    return "never" if quiet and mode == "auto" else mode


def refuse_both(*, quiet: bool, verbose: bool) -> None:
    """Refuse --quiet together with --verbose."""
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")

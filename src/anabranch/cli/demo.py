"""``anabranch demo``: the flow that comes with the package, over the Python files of this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anabranch.cli.exits import exit_codes
from anabranch.cli.options import executor_of, progress_mode, refuse_both, run_options

if TYPE_CHECKING:
    from anabranch.runs.view import FlowRunView

WORKERS = 2  # enough to see work in parallel, on any machine


@click.command(short_help="Run the flow that comes with the package.")
@click.option("--root", metavar="DIRECTORY", help="Directory to search; default: Python's own library.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Maximum number of files.")
@click.option(
    "--output", metavar="DIRECTORY", default="corpus-report", show_default=True, help="Directory of the report."
)
@click.option("--report/--no-report", default=True, help="Write corpus.json, and run.html, the page of the run.")
@run_options(f"Where to run; default: a new cluster of {WORKERS} workers with one thread each.")
@click.pass_context
def demo(
    ctx: click.Context,
    /,
    *,
    root: str | None,
    limit: int | None,
    output: str,
    report: bool,
    executor: str | None,
    workers: int | None,
    dashboard: bool,
    metrics_file: str | None,
    pushgateway: str | None,
    metrics_port: int | None,
    progress: bool | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Count lines, functions and branches of every Python file below a directory, and write a report.

    The flow maps over thousands of files. Some cannot be parsed: each of those is one failed element, and the others
    go on.
    """
    refuse_both(quiet=quiet, verbose=verbose)
    if executor is None or (executor == "dask" and workers is None):
        place = executor_of("dask", workers or WORKERS)
    else:
        place = executor_of(executor, workers)
    assert place is not None
    mode = progress_mode(progress, quiet=quiet)

    from anabranch.cli.session import MetricsWanted, Session
    from anabranch.demo.corpus import flow

    session = Session(
        flow=flow,
        parameters={"root": root, "limit": limit, "output": output, "report": report},
        executor=place,
        keep=("summarise",),
        progress=mode,
        quiet=quiet,
        verbose=verbose,
        as_json=as_json,
        dashboard=dashboard,
        metrics=MetricsWanted(metrics_file, pushgateway, metrics_port),
    )
    ctx.exit(session.run(show=partial(show_summary, page=Path(output, "run.html") if report else None)))


def show_summary(view: FlowRunView, *, page: Path | None) -> None:
    """Print a short table of what was found, and where the data and the page of the run are."""
    if not view:
        return
    from anabranch.demo.corpus import summary_lines
    from anabranch.monitoring.pages.report import write_report
    from anabranch.runs.store.opening import store_to_show

    for line in summary_lines(view["summarise"].result):
        click.echo(line)
    if page is None:
        return
    click.echo(f"\ndata: {view['write_json'].result}")
    with exit_codes():
        if (store := store_to_show()) is not None:
            page.parent.mkdir(parents=True, exist_ok=True)  # the data may be on another machine
            click.echo(f"report: {write_report(store, view.run_id, page).resolve()}")

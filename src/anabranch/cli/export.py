"""``anabranch export``: the task runs of recorded runs as a table that others read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anabranch.cli.completion import run_ids
from anabranch.cli.exits import USAGE, Problem, exit_codes

if TYPE_CHECKING:
    from anabranch.runs.history import LoadedRun


@click.command(short_help="Write the task runs of recorded runs to a table.")
@click.argument("runs", metavar="RUN…", nargs=-1, required=True, shell_complete=run_ids)
@click.option("-o", "--output", metavar="FILE", default="-", help="A .csv, .jsonl or .parquet file; else print CSV.")
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), help="Default: by the ending of FILE."
)
def export(*, runs: tuple[str, ...], output: str, form: str | None) -> None:
    """Write a row for each task run, and for each element of a map, with its state, attempt, times, worker and error.

    RUN is a run's id, the beginning of it, or "last". Parquet needs pyarrow.
    """
    from anabranch.base.files import write_whole
    from anabranch.runs import load

    form = form or ("csv" if output == "-" else Path(output).suffix.lower().removeprefix("."))
    if form not in _WRITERS:
        raise Problem(f"what is {output} to be? Name it .csv, .jsonl or .parquet, or give --format", USAGE)
    with exit_codes():
        loaded = [load(run) for run in runs]
        data = _WRITERS[form](loaded)
    if output == "-":
        click.echo(data, nl=False)
        return
    try:
        write_whole(output, data)
    except OSError as error:
        raise Problem(f"{output} cannot be written: {error.strerror}", USAGE) from error
    click.echo(output)


def _rows(runs: Iterable[LoadedRun]) -> Iterable[tuple[Any, ...]]:
    for run in runs:
        for row in zip(*run.table().values(), strict=True):
            yield tuple(value.isoformat() if isinstance(value, datetime) else value for value in row)


def _csv(runs: list[LoadedRun]) -> bytes:
    from anabranch.runs.history import COLUMNS

    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    writer.writerows(_rows(runs))
    return file.getvalue().encode()


def _jsonl(runs: list[LoadedRun]) -> bytes:
    from anabranch.runs.history import COLUMNS

    return b"".join(json.dumps(dict(zip(COLUMNS, row, strict=True))).encode() + b"\n" for row in _rows(runs))


def _parquet(runs: list[LoadedRun]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise Problem("a .parquet file needs pyarrow: pip install pyarrow", USAGE) from None
    file = io.BytesIO()
    parquet.write_table(pyarrow.concat_tables([run.to_arrow() for run in runs]), file)
    return file.getvalue()


_WRITERS: dict[str, Callable[[list[LoadedRun]], bytes]] = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}

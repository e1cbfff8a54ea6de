"""Measures every row and prints one table; also as JSON and as a page with plots."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import click
import dask
from distributed import Client

from benchmarks.cluster import started
from benchmarks.rows import MEASURES, Bench, Row


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes: to see that everything works, not how fast.")
@click.option("--only", multiple=True, type=click.Choice(list(MEASURES)), help="Measure these groups.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmark-results"), show_default=True)
def main(quick: bool, only: tuple[str, ...], output: Path) -> None:
    """Measure anabranch beside bare Dask, on two one-thread workers of this machine."""
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as home,
        mock.patch.dict(os.environ, ANABRANCH_HOME=home),  # the history of these runs is nobody's
        started() as cluster,
        started(saturation="inf") as saturated,
        Client(cluster.address, set_as_default=False) as client,
        Client(saturated.address, set_as_default=False) as other,
    ):
        bench = Bench(cluster, client, quick, other)
        for name in only or MEASURES:
            for row in MEASURES[name](bench):
                rows.append(row)
                print(line(row), flush=True)
    output.mkdir(parents=True, exist_ok=True)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "dask": dask.__version__,
    }
    (output / "results.json").write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1))
    from benchmarks.page import write_page

    write_page(output / "results.html", rows, about)
    print(f"written: {output / 'results.json'}, {output / 'results.html'}", file=sys.stderr)


def line(row: Row) -> str:
    """A row as a line of the table."""
    verdict = {True: "met", False: "NOT MET", None: ""}[row.is_met]
    return f"{row.name:<52} {row.figure:<78} {row.goal:<28} {verdict}"


if __name__ == "__main__":
    main()

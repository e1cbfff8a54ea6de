"""Does to clusters what happens to clusters, and looks whether runs survive it: prints a table, writes it as JSON.

``python -m benchmarks.chaos [--quick] [--only NAME …] [--seed N] [--output DIR]``
"""

from __future__ import annotations

import json
import logging
import os
import platform
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
import dask

from anabranch import config
from benchmarks import chaos_records, chaos_runs, chaos_schedulers, chaos_values, chaos_workers
from benchmarks.chaos_stage import RECONNECT_S, Case, Row, Stage

CASES: dict[str, Case] = {
    **chaos_workers.CASES,
    **chaos_schedulers.CASES,
    **chaos_runs.CASES,
    **chaos_values.CASES,
    **chaos_records.CASES,
}
QUICK = ("C1", "C5", "C7", "C8", "C19", "C21", "C34", "client", "driver", "soak", "values", "records")


@click.command()
@click.option("--quick", is_flag=True, help="A few cases, at small sizes.")
@click.option("--only", multiple=True, type=click.Choice(list(CASES)), help="These cases.")
@click.option("--seed", type=int, help="Of the killer; printed, so that a table can be had again.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmark-results"), show_default=True)
def main(quick: bool, only: tuple[str, ...], seed: int | None, output: Path) -> None:
    """Kill, stop and cut off what runs need, and see what comes of it."""
    seed = random.randrange(10_000) if seed is None else seed
    print(f"seed {seed}")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    logging.getLogger("anabranch").setLevel(logging.ERROR)
    config.engine.reconnect_timeout_s = RECONNECT_S
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="anabranch-chaos-") as folder:
        stage = Stage(Path(folder), seed, quick)
        for name in only or (QUICK if quick else CASES):
            for row in measured(name, stage):
                rows.append(row)
                print(line(row), flush=True)
    output.mkdir(parents=True, exist_ok=True)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "dask": dask.__version__,
        "seed": seed,
    }
    file = output / "chaos.json"
    file.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1))
    broken = sum(not row.holds for row in rows)
    print(f"{len(rows)} rows, {broken} do not hold; written: {file}", file=sys.stderr)
    sys.exit(1 if broken else 0)


def measured(name: str, stage: Stage) -> Iterator[Row]:
    """The rows of a case; a case that breaks is a row that does not hold."""
    began = time.monotonic()
    try:
        yield from CASES[name](stage)
    except Exception as error:
        traceback.print_exc()
        yield Row(name, "", "", f"the case broke: {error!r}", False, seconds=time.monotonic() - began)


def line(row: Row) -> str:
    """A row as a line of the table."""
    runs = "" if row.executions is None else f"{row.executions:,}/{row.elements:,}"
    seconds = "" if row.seconds is None else f"{row.seconds:.1f} s"
    calm = "" if row.fault_free_s is None else f" / {row.fault_free_s:.1f} s"
    what = f"{row.name:<16} {row.did:<52} {row.kills:>4} {runs:>15} {seconds + calm:>19}"
    return f"{what}  {'held' if row.holds else 'NOT HELD':<8}  {row.expected}: {row.found}"


if __name__ == "__main__":
    main()

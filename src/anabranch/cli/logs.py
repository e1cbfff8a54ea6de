"""``anabranch logs``: show what the tasks of a recorded run logged."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.texts import printable, printable_lines
from anabranch.cli.completion import run_ids
from anabranch.cli.exits import USAGE, Problem
from anabranch.cli.history import opened_store

if TYPE_CHECKING:
    from anabranch.runs import LogRow, RunRecord, RunStore

LEVELS = ("debug", "info", "warning", "error", "critical")
POLL_S = 0.5  # as often as a run's driver writes
_LOOKS: dict[int, dict[str, Any]] = {
    logging.DEBUG: {"dim": True},
    logging.WARNING: {"fg": "yellow"},
    logging.ERROR: {"fg": "red"},
    logging.CRITICAL: {"fg": "red", "bold": True},
}


@click.command(short_help="Show what the tasks of a recorded run logged.")
@click.argument("run", metavar="RUN", shell_complete=run_ids)
@click.argument("task", metavar="[TASK|TASK[7]]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Print new lines until the run ends.")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), default="debug", help="Lowest level to show.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def logs(*, run: str, task: str | None, follow: bool, level: str, as_json: bool) -> None:
    """Show what the tasks of a run logged: all of them, one task, or one element.

    RUN is the run's id, the beginning of it, or "last". Lines below the run's own level (logging.level) were never
    recorded.
    """
    from anabranch.runs.read.lines import lines_by_time

    with opened_store() as store:
        if store is None:
            raise Problem(f"there is no run {run!r}: no runs are recorded", USAGE)
        record = store.get_run(run)
        slug, index = _find_task_run(store, record, task) if task is not None else (None, None)
        wanted: dict[str, Any] = {"slug": slug, "index": index, "level": getattr(logging, level.upper())}
        found = False
        for row in _followed(store, record, wanted) if follow else lines_by_time(store, record.run_id, **wanted):
            found = True
            for line in [json.dumps(data_of_line(row))] if as_json else write_line(row):
                click.echo(line)
    if not found:
        what = f"{printable(task)} of run" if task is not None else "run"
        click.echo(f"{what} {record.run_id} logged nothing at this level", err=True)


def _followed(store: RunStore, record: RunRecord, wanted: dict[str, Any]) -> Iterator[LogRow]:
    """Lines in the order in which they came, until the run has ended."""
    from anabranch.runs.read.lines import lines_since
    from anabranch.runs.read.lookup import as_it_stands

    place = 0, -1
    while True:
        is_over = as_it_stands(store.get_run(record.run_id)).state != "Running"  # first: what is written before is read
        for row in lines_since(store, record.run_id, place, **wanted):
            yield row
            place = row.place
        if is_over:
            return
        time.sleep(POLL_S)


def _find_task_run(store: RunStore, record: RunRecord, task: str) -> tuple[str, int | None]:
    from anabranch.base.errors import listed, nearest

    known = record.details.code if record.details is not None else {}
    names = {row.slug: row.task_name for row in store.task_runs(record.run_id)}
    slugs = list(dict.fromkeys((*known, *names)))
    found = re.fullmatch(r"(.+)\[(\d+)\]", task)
    name, index = (found[1], int(found[2])) if found is not None and task not in slugs else (task, None)
    if name in slugs:
        return name, index
    called = [slug for slug, each in names.items() if each == name]
    if len(called) == 1:
        return called[0], index
    if called:
        raise Problem(f"{name!r} means {len(called)} tasks of run {record.run_id}; name one: {listed(called)}", USAGE)
    raise Problem(f"run {record.run_id} has no task {name!r}; it has: {listed(slugs)}{nearest(name, slugs)}", USAGE)


def name_task_run(row: LogRow) -> str:
    """Who logged it: ``parse[777]``."""
    return (row.slug or "") + ("" if row.index is None else f"[{row.index}]")


def write_line(row: LogRow) -> list[str]:
    """A log line for a terminal: what follows its first line is indented, so that it cannot pass for another."""
    again = f" (attempt {row.attempt})" if (row.attempt or 1) > 1 else ""
    where = f" @ {row.worker}" if row.worker not in ("", "local") else ""
    time_text = f"{row.time.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]
    first, *rest = printable_lines(row.text)
    who = printable(f"{name_task_run(row)}{again}{where}")
    level = f"{logging.getLevelName(row.level):8}"
    if look := _LOOKS.get(row.level):
        level = click.style(level, **look)
    return [f"{time_text} {level} {who}: {first}", *(f"    {line}" for line in rest)]


def data_of_line(row: LogRow) -> dict[str, Any]:
    """A log line as plain data."""
    return {
        "time": row.time.isoformat(),
        "level": logging.getLevelName(row.level),
        "task": row.slug,
        "element": row.index,
        "attempt": row.attempt,
        "worker": row.worker,
        "text": row.text,
    }

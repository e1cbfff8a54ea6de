"""``anabranch prune``: what is old, by limits or by the rules of the settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from anabranch.base.texts import printable
from anabranch.cli.history import opened_store


class _Age(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of Click only
    """A length of time such as ``30d`` or ``12h``."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from dask.utils import parse_timedelta

        if isinstance(value, timedelta):
            return value
        try:
            length = parse_timedelta(value, default=False)
            return timedelta(seconds=float(length))
        except (ValueError, KeyError, TypeError, OverflowError):
            self.fail(f"expected a length of time such as 30d or 12h, found {value!r}", param, ctx)


@click.command(short_help="Delete old runs.")
@click.option("--older-than", type=_Age(), metavar="AGE", help="Delete runs that began longer ago: 30d, 12h.")
@click.option("--keep-last", type=click.IntRange(0), metavar="N", help="Keep the newest N runs of each flow.")
@click.option("--dry-run", is_flag=True, help="Only list the runs.")
def prune(*, older_than: timedelta | None, keep_last: int | None, dry_run: bool) -> None:
    """Delete runs, except those that go on, wait or are paused.

    Without AGE and N, the settings "retention" say what is deleted, as in a service: of runs, log lines, stored values
    and caches. With them, stored values and other files stay.
    """
    from anabranch.base.retention import Rule
    from anabranch.base.settings import config
    from anabranch.runs.registry.registration import read_clock
    from anabranch.runs.retention import Retention, Sweep, Swept, sweep
    from anabranch.runs.store.deeds import note
    from anabranch.runs.store.relational import RelationalRunStore

    if older_than is not None or keep_last is not None:
        rule = Rule(age=older_than, keep=keep_last or 0) if older_than is not None else Rule(count=keep_last)
        retention = Retention(runs=(rule,))
    elif not any(getattr(config.retention, name) for name in ("runs", "logs", "results", "caches")):
        raise click.UsageError(
            "give --older-than AGE, --keep-last N or both, or set retention.runs: else every run would be deleted"
        )
    else:
        retention = Retention.of_settings()
    with opened_store(read_only=dry_run) as store:
        found = Swept()
        if isinstance(store, RelationalRunStore):
            now = read_clock(store)
            found = Sweep(store, retention, now=now).plan() if dry_run else sweep(store, retention, now=now)
            if found and not dry_run:
                note(store.database, "prune", "", str(found))
    for run_id in found.runs:
        click.echo(printable(run_id))
    click.echo(f"{found} {'would be' if dry_run else 'were'} deleted", err=True)

"""``anabranch register``, ``flows``, ``schedule`` and ``backfill``: registered flows, and when they run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.texts import printable, shortened
from anabranch.cli.completion import flow_names, targets
from anabranch.cli.exits import USAGE, Problem, exit_codes
from anabranch.cli.parameters import untyped

if TYPE_CHECKING:
    from anabranch.schedules import Schedule

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


@click.command(short_help="Register flows, so that services run them.")
@click.argument("targets", metavar="FILE[:FLOW]|MODULE[:FLOW]…", nargs=-1, required=True, shell_complete=targets)
@click.option("--project", default="", metavar="NAME", help="Project that the flows belong to.")
@click.option("--label", "labels", multiple=True, metavar="NAME", help="Label of the flows; may be repeated.")
@click.option(
    "--storage",
    default="source",
    metavar="source|database|URL",
    help="Where runs find the code: in its file, pickled in the registry, or pickled below a URL.  [default: source]",
)
@click.option("--replace", "replaces", is_flag=True, help="Replace flows of these names from other files or projects.")
def register(*, targets: tuple[str, ...], project: str, labels: tuple[str, ...], storage: str, replaces: bool) -> None:
    """Register the flows of files or modules. If a flow cannot be registered, it says why, and none of its file is."""
    from anabranch.flows.loading import split_target
    from anabranch.flows.registered import flows_gone, register_target
    from anabranch.runs.registry.flow_storage import FlowStorage

    place: object = storage if storage in ("source", "database") else FlowStorage(storage)
    problem: Problem | None = None
    for target in targets:
        try:
            with exit_codes(), contextlib.redirect_stdout(sys.stderr):
                records = register_target(target, project=project, labels=labels, storage=place, replaces=replaces)
                gone = [] if split_target(target)[1] else flows_gone(records)
        except Problem as error:
            problem = error
            error.show()
            continue
        for record in records:
            plan = f"; {printable(record.schedule_words)}" if record.schedule_text else ""
            click.echo(f"{printable(record.name)}: version {record.version}{plan}")
        for record in gone:
            text = f"{printable(record.name)}: no longer in {printable(target)}, and still registered from there"
            click.echo(f"{text}; if nobody needs it: anabranch unregister {shlex.quote(record.name)}", err=True)
    if problem is not None:
        sys.exit(problem.exit_code)


@click.command(short_help="Take flows out of the registry.")
@click.argument("names", metavar="NAME…", nargs=-1, required=True, shell_complete=flow_names)
def unregister(*, names: tuple[str, ...]) -> None:
    """Take flows out of the registry, with what waits to run of them. Their runs stay in the history."""
    from anabranch.runs.registry.registration import registry
    from anabranch.runs.store.deeds import note

    with exit_codes():
        store, flows, _ = registry()
        for name in names:
            flows.remove(name)
            note(store.database, "unregister", name)
            click.echo(f"{printable(name)}: no longer registered")


@click.command("flows", short_help="List registered flows.")
@click.option("--project", metavar="NAME", help="Only flows of this project.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_flows(*, project: str | None, as_json: bool) -> None:
    """List the registered flows by name, with their versions and schedules."""
    from anabranch.runs.registry.registration import place_of, registry
    from anabranch.service.web.actions import flow_data

    with exit_codes():
        found = registry()[1].all(project=project)
    if as_json:
        click.echo(json.dumps([flow_data(each) for each in found], indent=2))
        return
    if not found:
        click.echo("no flows are registered; register some: anabranch register FILE", err=True)
    width = max((len(shortened(each.name, 40)) for each in found), default=0)
    for each in found:
        state = "paused" if each.paused else each.schedule_words
        place = place_of(each.source)
        if place.endswith(".py") and not os.path.exists(place):
            state = f"its file is gone: {place}"
        line = f"{shortened(each.name, 40):{width}}  version {each.version:<3}  {shortened(state, 80)}"
        click.echo(line.rstrip())


@click.command("schedule", short_help="Show when a flow runs next; pause its schedule.")
@click.argument("name", metavar="NAME|FILE[:FLOW]", shell_complete=targets)
@click.option("--next", "number", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Times to print.")
@click.option("--pause", "pause", flag_value="pause", help="Pause the schedule of a registered flow.")
@click.option("--go-on", "pause", flag_value="go-on", help="End the pause.")
def show_schedule(*, name: str, number: int, pause: str | None) -> None:
    """Print the next times at which a flow runs; the flow is registered, or in a file."""
    from anabranch.runs.registry.registration import read_clock, registry
    from anabranch.runs.store.deeds import note

    with exit_codes():
        if pause is not None:
            store, flows, _ = registry()
            flows.pause(name, pause == "pause", now=read_clock(store))
            note(store.database, "pause" if pause == "pause" else "continue", name)
            click.echo(f"{printable(name)}: {'paused' if pause == 'pause' else 'goes on'}")
            return
        schedule = _find_schedule(name)
        if schedule is None:
            raise Problem(
                f"flow {name!r} has no schedule; give it one: Flow(…, schedule=CronSchedule('0 6 * * *'))", USAGE
            )
        click.echo(printable(schedule.describe()), err=True)
        for each in schedule.next(number, return_events=True):
            values = "".join(
                f"  {printable(key)}={shortened(str(value), 40)}" for key, value in each.parameter_defaults.items()
            )
            click.echo(f"{each.start_time:%Y-%m-%d %H:%M:%S %a %z}{values}")


def _find_schedule(name: str) -> Any:
    from anabranch.base.errors import FlowLoadError, FlowNotRegistered
    from anabranch.flows.loading import load_flow
    from anabranch.runs.registry.registration import registry
    from anabranch.runs.registry.seal import schedule_of

    try:
        record = registry()[1].get(name)
    except FlowNotRegistered as missing:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return load_flow(name).flow.schedule
        except FlowLoadError as error:
            if os.path.exists(name.partition(":")[0]):  # then it is the file that was meant, and what is wrong with it
                raise
            raise missing from error
    return schedule_of(record, may_load=False)


# backfill -------------------------------------------------------------------------------------------------------------


@click.command(short_help="Run a flow for past times.")
@click.argument("name", shell_complete=flow_names)
@click.option("--from", "start", required=True, metavar="TIME", help="First time, such as 2026-01-01.")
@click.option("--to", "end", required=True, metavar="TIME", help="End, not included.")
@click.option("--every", metavar="STEP", help="Step such as 1d, 6h or 30m; default: the times of the flow's schedule.")
@click.option(
    "-p",
    "--param",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of a parameter; {date}, {time}, … become those of each run.",
)
@click.option("--timezone", metavar="ZONE", help="Zone of times and days; default: that of the schedule, else UTC.")
@click.option(
    "--max-parallel", type=click.IntRange(1, 1_000), default=1, show_default=True, metavar="N", help="Runs at a time."
)
@click.option("--dry-run", is_flag=True, help="Only print what would run.")
@click.option("--again", is_flag=True, help="Resume its runs that did not succeed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backfill(
    *,
    name: str,
    start: str,
    end: str,
    every: str | None,
    pairs: tuple[str, ...],
    timezone: str | None,
    max_parallel: int,
    dry_run: bool,
    again: bool,
    as_json: bool,
) -> None:
    """Ask services for the runs of a registered flow between two times.

    A backfill can be repeated: a run that was asked for before does not run twice.
    """
    from anabranch.runs.registry.backfill import slots_for, times_between
    from anabranch.runs.registry.registration import read_clock, registry
    from anabranch.runs.registry.seal import schedule_of
    from anabranch.runs.store.deeds import note
    from anabranch.runs.store.slots import Slot
    from anabranch.schedules.zones import zone_of

    with exit_codes():
        store, flows, queue = registry()
        record = flows.get(name)
        schedule = schedule_of(record) if every is None or timezone is None else None
        zone = zone_of(timezone) if timezone is not None or schedule is None else schedule.clocks[0].zone
        begin, until = _parse_time("--from", start), _parse_time("--to", end)
        if every is not None:
            times = times_between(begin, until, _step(every), zone=zone)
        elif schedule is not None:
            times = _scheduled(schedule, begin, until, zone)
            times = times if timezone is None else [each.astimezone(zone) for each in times]
        else:
            raise Problem(f"flow {name!r} has no schedule; give a step, such as --every 1d", USAGE)
        parameters = _pairs(pairs)
        slots = slots_for(name, times, parameters, max_parallel=max_parallel, known=record.parameters["properties"])
        if secret := record.secrets_among(parameters):
            text = f"-p {secret[0]}: a secret would be stored in the database; let the flow find it by itself"
            raise Problem(text, USAGE)
        missing = [each for each in record.parameters["required"] if each not in parameters]
        if missing:
            raise Problem(f"flow {name!r} needs a value for: {', '.join(missing)}; give -p {missing[0]}=VALUE", USAGE)
        if dry_run:
            for slot in slots:
                click.echo(f"{slot.run_id}  {slot.due:%Y-%m-%d %H:%M:%S %z}  {json.dumps(slot.parameters)}")
            return
        now = read_clock(store)
        added = queue.add(slots, now=now) if slots else []
        continued = 0
        if again and slots:
            for old in queue.all(group=slots[0].group, limit=len(slots)):
                if old.state in ("Failed", "Crashed", "Cancelled", "TimedOut", "Skipped"):
                    fresh = Slot(
                        old.run_id,
                        name,
                        old.due,
                        old.parameters,
                        origin="backfill",
                        group=old.group,
                        group_most=max_parallel,
                    )
                    continued += queue.again(fresh, now=now)
        if added or continued:
            detail = f"flow {name}, {start} to {end}: {len(added):,} runs, {continued:,} resumed"
            note(store.database, "backfill", slots[0].group, detail)
        counts = queue.counts(group=slots[0].group) if slots else {}
    data = {"asked": len(slots), "added": len(added), "continued": continued, "states": counts}
    if as_json:
        click.echo(
            json.dumps({**data, "group": slots[0].group if slots else None, "runs": [each.run_id for each in slots]})
        )
        return
    more = f", {continued:,} resumed" if continued else ""
    click.echo(f"{printable(name)}: {len(slots):,} runs, {len(added):,} of them new{more}")
    for state, number in sorted(counts.items()):
        click.echo(f"  {state}: {number:,}")


def _parse_time(option: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Problem(
            f"{option}: expected a time such as 2026-01-01 or 2026-01-01T06:00, found {text!r:.60}", USAGE
        ) from None


def _step(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,9})\s*([smhdw])", text.strip())
    if found is None or not int(found[1]):
        raise Problem(f"--every: expected a step such as 1d, 6h or 30m, found {text!r:.60}", USAGE)
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _scheduled(schedule: Schedule, begin: datetime, until: datetime, zone: tzinfo) -> list[datetime]:
    """The times of a schedule from `begin` to `until`, which are in `zone` if they say nothing else."""
    from anabranch.base.errors import ScheduleError
    from anabranch.runs.registry.backfill import MAX_RUNS
    from anabranch.schedules.zones import moment_of

    first, last = moment_of(begin, zone, "--from"), moment_of(until, zone, "--to")
    if last <= first:
        raise ScheduleError(f"the end {until} is not after the start {begin}; give a later --to")
    found: dict[datetime, datetime] = {}
    for each in schedule.events(first - timedelta(microseconds=1)):
        if each.start_time >= last:
            break
        found.setdefault(each.start_time.astimezone(UTC), each.start_time)
        if len(found) > MAX_RUNS:
            raise ScheduleError(f"the schedule has more than {MAX_RUNS:,} times from {begin} to {until}; ask for fewer")
    return list(found.values())


def _pairs(pairs: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise Problem(f"-p: expected NAME=VALUE, found {pair!r:.60}", USAGE)
        if name in values:
            raise Problem(f"-p {name}: given twice", USAGE)
        try:
            values[name] = text if re.match(r"\{\w+\}", text) else untyped(text)  # {date} is no JSON
        except ValueError as error:
            raise Problem(f"-p {name}: {error}", USAGE) from None
    return values

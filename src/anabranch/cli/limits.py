"""``anabranch limits``: named limits and rates, who holds permits of them, and who waits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.texts import printable, seconds, shortened
from anabranch.cli.exits import USAGE, Problem, exit_codes
from anabranch.engine.machine.permits import name_of, rate_limit, rate_name, window_of

if TYPE_CHECKING:
    from anabranch.runs.store.permit_rules import Permit
    from anabranch.runs.store.permit_table import Limit, PermitTable


@click.command("limits", short_help="Show or change named limits.")
@click.argument("name", required=False)
@click.option("--set", "size", metavar="N", help="Set the size to N, whatever runs ask for; of a rate, to N/min.")
@click.option("--unset", is_flag=True, help="Use the size that runs ask for again.")
@click.option("--release", metavar="RUN", help="Take away a run's permits, of this limit or of all.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def limits(*, name: str | None, size: str | None, unset: bool, release: str | None, yes: bool, as_json: bool) -> None:
    """Show the named limits and rates of the run store: their sizes, which runs hold permits, which runs wait.

    The permits of a driver that has died become free when its lease ends (runs.lease_s).
    """
    from anabranch.base.settings import config
    from anabranch.runs.registry.registration import registry
    from anabranch.runs.store.permit_table import PermitTable

    if config.backend == "none":
        raise Problem("backend is 'none', so runs share no limits; set it to 'local' or postgresql://…", USAGE)
    if sum((size is not None, unset, release is not None)) > 1:
        raise click.UsageError("--set, --unset and --release exclude each other")
    with exit_codes():
        store = registry()[0]
        table = PermitTable(store.database)
        if release is not None:
            _release(table, release, name, is_sure=yes)
            return
        if size is not None or unset:
            if name is None:
                raise click.UsageError("name the limit: anabranch limits NAME --set N")
            _fix(table, name, size)
            return
        now = store.database.now()
        found = [each for each in table.all(now=now) if name is None or _is_called(each.name, name)]
    if as_json:
        click.echo(json.dumps([_data(each, now) for each in found], indent=2))
        return
    if not found:
        what = "a named limit" if name is None else f"the limit {printable(name)!r}"
        click.echo(f"no run uses {what} at the moment", err=True)
    for limit in found:
        _show_limit(limit, now)


def _fix(table: PermitTable, name: str, size: str | None) -> None:
    """Set the size of a limit or a rate; None: of all that have the name, as runs ask for."""
    if size is None:
        for each in {name, *(limit.name for limit in table.all() if _is_called(limit.name, name))}:
            table.fix(each, None)
        click.echo(f"size of {printable(name)}: as runs ask for", err=True)
        return
    from anabranch.base.errors import OptionError
    from anabranch.definition.rates import rate_of

    limit = name
    if "/" in size:
        try:
            count, window_s = rate_of(size)
        except OptionError as error:
            raise click.UsageError(f"--set: {error}") from None
        limit = rate_limit(name, window_s)
    else:
        count = click.IntRange(1)(size)
    table.fix(limit, count)
    click.echo(f"size of {printable(name_of(limit))}: {count:,}, whatever runs ask for", err=True)


def _is_called(limit: str, name: str) -> bool:
    return name in (limit, name_of(limit), rate_name(limit))


def _show_limit(limit: Limit, now: int) -> None:
    held = sum(each.held for each in limit.holders)
    is_set = ", set here" if limit.is_fixed else ""
    click.echo(f"{shortened(name_of(limit.name), 60)}: {held:,} of {limit.size:,} held{is_set}")
    spent = sum(each.held for each in limit.holders if each.is_spent)
    if spent:
        click.echo(f"  spent {spent:<4,} by runs that have ended")
    for each in limit.holders:
        if each.is_spent:
            continue
        said = f"; it asks for a size of {each.most:,}" if each.most != limit.size else ""
        click.echo(f"  holds {each.held:<4,} {_who(each)}, for {seconds(_past_s(each, now))}{said}")
    for each in limit.waiters:
        others = [shortened(name_of(other), 60) for other in each.bundle if other != limit.name]
        beside = f", with {', '.join(others)}" if others else ""
        click.echo(f"  waits {each.wanted:<4,} {_who(each)}, for {seconds(_past_s(each, now))}{beside}")


def _who(permit: Permit) -> str:
    return f"run {printable(permit.run_id)} of {shortened(permit.flow_name, 40)} ({shortened(permit.owner, 60)})"


def _past_s(permit: Permit, now: int) -> float:
    return max(0.0, (now - permit.ticket) / 1e6)


def _data(limit: Limit, now: int) -> dict[str, Any]:
    def of(permit: Permit) -> dict[str, Any]:
        return {
            "run_id": permit.run_id,
            "flow_name": permit.flow_name,
            "owner": permit.owner,
            "permits": permit.held or permit.wanted,
            "names": [name_of(each) for each in permit.bundle or (permit.name,)],
            "size": permit.most,
            "seconds": round(_past_s(permit, now), 3),
        }

    return {
        "name": name_of(limit.name),
        "window_s": window_of(limit.name) or None,
        "size": limit.size,
        "is_set": limit.is_fixed,
        "held": sum(each.held for each in limit.holders),
        "spent": sum(each.held for each in limit.holders if each.is_spent),
        "holders": [of(each) for each in limit.holders if not each.is_spent],
        "waiters": [of(each) for each in limit.waiters],
    }


def _release(table: PermitTable, run_id: str, name: str | None, *, is_sure: bool) -> None:
    """Take away permits of a run, after the user has confirmed it."""
    of_limits = [each for each in table.all() if name is None or _is_called(each.name, name)]
    holders = [permit for limit in of_limits for permit in limit.holders if not permit.is_spent]
    held = [permit for permit in holders if permit.run_id.startswith(run_id)]
    runs = sorted({permit.run_id for permit in held})
    of = f" of limit {name!r}" if name is not None else ""
    if not runs or not run_id:
        raise Problem(f"run {run_id!r} holds no permits{of}; anabranch limits shows which runs do", USAGE)
    if len(runs) > 1:
        raise Problem(f"several runs begin with {run_id!r}: {', '.join(runs[:4])}; give more of the id", USAGE)
    shown = ", ".join(f"{permit.held:,} of {printable(name_of(permit.name))}" for permit in held)
    click.echo(f"{_who(held[0])} holds {shown}.", err=True)
    if not is_sure:
        text = "It will go on, at the same time as runs that get these permits. Take them away?"
        click.confirm(text, abort=True, err=True)
    taken = table.release(runs[0], {permit.name for permit in held})
    count = sum(permit.held for permit in taken)
    click.echo(f"{count:,} permit{'s' if count != 1 else ''} taken away", err=True)

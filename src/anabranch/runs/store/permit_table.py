"""Permits of named limits in the run store's database: who holds them, who waits. Who gets them is in `permit_rules`.

What is held is a lease: it ends by the database's clock if its driver gives no sign of life. A driver says each time
all that it uses, so that saying it twice, after an answer that was lost, changes nothing. Of a rate, what was held
counts for a window after its lease.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anabranch.base.errors import LimitError
from anabranch.engine.machine.limits import STEPS
from anabranch.engine.machine.permits import Claim, Spent, rate_name, window_of
from anabranch.runs.store.codec import to_text
from anabranch.runs.store.database import Database, Transaction
from anabranch.runs.store.permit_rules import RESTS, SPENT, Permit, Verdict, call, settle, size_of
from anabranch.runs.store.schema import LIMITS, PERMITS, RUNS, SLOTS
from anabranch.runs.store.slots import RUNNING, WAITING

MAX_NAME = 200  # characters of a limit's name
_RENEW = f"UPDATE {PERMITS.name} SET lease_until = ? WHERE token = ? AND lease_until > ?"
_DROP = f"DELETE FROM {PERMITS.name} WHERE token = ?"
_MOVE = f"DELETE FROM {PERMITS.name} WHERE name = ? AND token = ? AND bundle = '[]'"
_SPEND = (
    PERMITS.insert().removesuffix("DO NOTHING")
    + f"DO UPDATE SET held = {PERMITS.name}.held + excluded.held, lease_until = excluded.lease_until"
)
_REST = f"UPDATE {PERMITS.name} SET token = ?, seen = 0, lease_until = ? WHERE token = ? AND bundle <> '[]'"
_RESTING = f"SELECT DISTINCT name FROM {PERMITS.name} WHERE token >= '{RESTS}' AND token < 'rests!' ORDER BY name"
_STANDS = f"SELECT state, ready FROM {SLOTS.name} WHERE run_id = ?"
_TAKE_UP = f"UPDATE {SLOTS.name} SET ready = ? WHERE run_id = ? AND state = 'Waiting'"
_SEEN = f"UPDATE {PERMITS.name} SET seen = ? WHERE token = ?"
_FOR_EVER = 2**62
_FORGET = f"DELETE FROM {LIMITS.name} WHERE name = ? AND fixed IS NULL"
_FIX = f"UPDATE {LIMITS.name} SET fixed = ? WHERE name = ?"


@dataclass(frozen=True, slots=True)
class Holder:
    """A driver of a run, as permits name it."""

    token: str
    run_id: str
    flow_name: str
    owner: str
    """``host:pid``."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A named limit, who holds permits of it, and who waits for some."""

    name: str
    size: int
    is_fixed: bool
    """Whether somebody has set the size, so that what runs say does not matter."""
    holders: tuple[Permit, ...] = ()
    waiters: tuple[Permit, ...] = ()
    """First come, first."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a claim, and what else there was."""

    verdict: Verdict
    others: tuple[Permit, ...]
    """Permits and requests of other drivers."""
    fixed: frozenset[str]
    """Limits whose sizes somebody has set."""


class PermitTable:
    """Permits of all runs that share a database. Safe to use from several threads and processes.

    Parameters
    ----------
    database
        Where the tables are: ``store.database`` of a run store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # What drivers do --------------------------------------------------------------------------------------------------

    def settle(
        self, holder: Holder, claim: Claim, names: Collection[str], *, lease_s: float, now: int | None = None
    ) -> Settled:
        """Write down what a driver uses and wants of these limits, and give it what it may have.

        Permits of earlier drivers of the same run end: it has one driver at a time.
        """
        moment = self._database.now() if now is None else now
        ordered = sorted(names)

        def act(transaction: Transaction) -> Settled:
            fixed = self._lock(transaction, ordered)
            found = _permits(transaction, ordered)
            earlier = _earlier(transaction, holder, found)
            gone = [each for each in found if each.lease_until <= moment or each.token in earlier]
            if _spend(transaction, gone, moment):
                found = _permits(transaction, ordered)
            alive = [
                each
                for each in found
                if (each.counts_until if each.is_spent else each.lease_until) > moment and each.token not in earlier
            ]
            waited = [each for each in found if each.token in earlier and each.bundle]  # it keeps their places
            alive += [replace(each, token=holder.token) for each in sorted(waited, key=lambda each: -each.ticket)]
            called = self._call(transaction, [_used(each, holder, claim) for each in alive], ordered, fixed, moment)
            alive = [replace(each, seen=moment) if each.token in called else each for each in alive]
            verdict = settle(claim, holder.token, alive, names=ordered, fixed=fixed, now=moment)
            old = {(each.name, each.token) for each in found} - {(each.name, each.token) for each in alive}
            old |= {(each.name, each.token) for each in alive if each.token == holder.token}
            if old:
                statement = f"DELETE FROM {PERMITS.name} WHERE name = ? AND token = ?"
                transaction.execute_many(statement, sorted(old))
            lease_until = moment + round(lease_s * 1e6)
            mine = [each for each in alive if each.token == holder.token]
            rows = _rows_to_write(holder, claim, verdict, mine, seen=moment, lease_until=lease_until)
            if rows:
                transaction.execute_many(PERMITS.insert(), rows)
            used = {*verdict.held, *(each.name for each in alive if each.token != holder.token)}
            used.update(name for bundle in verdict.waiting for name in bundle)
            _forget(transaction, set(ordered) - used)
            others = tuple(each for each in alive if each.token != holder.token)
            return Settled(verdict, others, frozenset(fixed))

        return self._database.write(act)

    def rest(self, holder: Holder) -> None:
        """Let a run that is put down keep its places among those who wait, until it is called."""
        token = f"{RESTS}{holder.run_id}"

        def act(transaction: Transaction) -> None:
            transaction.execute(_DROP, (token,))
            transaction.execute(_REST, (token, _FOR_EVER, holder.token))

        self._database.write(act)

    def call(self, *, now: int | None = None) -> None:
        """Call runs that were put down while they waited, and for which there is room now.

        Who gives permits back calls others; this is for what ends by itself, and for sizes that were set.
        """
        names = [row[0] for row in self._database.read(lambda transaction: transaction.fetch(_RESTING))]
        if not names:
            return
        moment = self._database.now() if now is None else now

        def act(transaction: Transaction) -> None:
            fixed = self._lock(transaction, names)
            found = _permits(transaction, names)
            self._call(transaction, [each for each in found if each.counts_until > moment], names, fixed, moment)

        self._database.write(act)

    def _call(
        self,
        transaction: Transaction,
        alive: Sequence[Permit],
        names: Iterable[str],
        fixed: dict[str, int],
        moment: int,
    ) -> set[str]:
        """Let those who rest, and for whom there is room, be taken up by services; gives their tokens."""
        called: set[str] = set()

        def comes(resting: Permit) -> bool:
            found = transaction.fetch(_STANDS, (resting.run_id,))
            state, ready = found[0] if found else ("", 0)
            if state not in (WAITING, RUNNING):
                transaction.execute(_DROP, (resting.token,))
            if state != WAITING or ready <= moment:  # it comes anyway, when there is a place for it
                return False
            transaction.execute(_TAKE_UP, (moment, resting.run_id))
            transaction.execute(_SEEN, (moment, resting.token))
            called.add(resting.token)
            return True

        if any(each.is_resting for each in alive):
            for name in names:
                call(name, alive, fixed, now=moment, comes=comes)
        if called and self._database.announcement:
            transaction.execute(self._database.announcement)
        return called

    def _lock(self, transaction: Transaction, names: Sequence[str]) -> dict[str, int]:
        """Keep others from deciding about these limits; sizes that somebody has set."""
        query = f"SELECT name, fixed FROM {LIMITS.name} WHERE name IN ({_marks(names)}) ORDER BY name"
        query += self._database.lock_clause  # in the order of names, so that two never wait for each other
        found = transaction.fetch(query, names)
        if len(found) < len(names):
            transaction.execute_many(LIMITS.insert(), [(name, None) for name in names])
            found = transaction.fetch(query, names)
        return {name: int(size) for name, size in found if size is not None}

    def renew(self, token: str, *, lease_s: float, now: int | None = None) -> bool:
        """Give a sign of life; whether the driver has anything that has not run out."""
        moment = self._database.now() if now is None else now
        parameters = (moment + round(lease_s * 1e6), token, moment)
        return bool(self._database.write(lambda transaction: transaction.execute(_RENEW, parameters)))

    def drop(self, token: str, spent: Collection[Spent] = (), *, now: int | None = None) -> None:
        """Give back all that a driver has, and wait for nothing more.

        `spent`: what of it counts for some time yet, for rates: limit, count, and seconds. What has run out already
        counts for all of its window.
        """
        moment = self._database.now() if now is None else now
        left = sorted(spent)

        def act(transaction: Transaction) -> None:
            names = sorted({*self._rows_of(transaction, token), *(name for name, _, _ in left)})
            fixed = self._lock(transaction, names) if names else {}
            mine = self._rows_of(transaction, token)
            held = [each for each in mine.values() if each.held]
            _spend(transaction, [each for each in held if each.lease_until <= moment], moment)
            for name, count, seconds in left:
                if name in mine:
                    until = moment + round((seconds - window_of(name)) * 1e6)
                    _spend(transaction, [replace(mine[name], held=count, lease_until=until)], moment)
            transaction.execute(_DROP, (token,))
            if names:
                found = _permits(transaction, names)
                _forget(transaction, set(names) - {each.name for each in found})
                self._call(transaction, [each for each in found if each.counts_until > moment], names, fixed, moment)

        self._database.write(act)

    def _rows_of(self, transaction: Transaction, token: str) -> dict[str, Permit]:
        """By name what a driver holds, or else waits for."""
        rows = map(_permit, transaction.fetch(PERMITS.select("token = ? ORDER BY held"), (token,)))
        return {each.name: each for each in rows}

    # What people do ---------------------------------------------------------------------------------------------------

    def all(self, *, now: int | None = None) -> list[Limit]:
        """Limits that somebody holds, waits for, or has set; by name."""
        moment = self._database.now() if now is None else now

        def act(transaction: Transaction) -> list[Limit]:
            rows = transaction.fetch(f"SELECT name, fixed FROM {LIMITS.name} WHERE fixed IS NOT NULL")
            fixed = {name: int(size) for name, size in rows}
            query = PERMITS.select("name <> '' ORDER BY name, ticket, token, bundle")
            alive = [each for each in map(_permit, transaction.fetch(query)) if each.counts_until > moment]
            return [
                Limit(
                    name,
                    size_of(name, alive, fixed),
                    name in fixed,
                    tuple(each for each in alive if each.name == name and each.held),
                    tuple(each for each in alive if each.name == name and each.bundle),
                )
                for name in sorted({*fixed, *(each.name for each in alive)})
            ]

        return self._database.read(act)

    def fix(self, name: str, size: int | None) -> None:
        """Set the size of a limit, whatever runs say; None: what they say holds again.

        Raises
        ------
        LimitError
            There is no such size or name.
        """
        if size is not None and size < 1:
            raise LimitError(f"limit {name!r}: expected a size of 1 or more, found {size}")
        given = rate_name(name)
        if not given or len(given) > MAX_NAME:
            raise LimitError(f"limit {given!r:.60}: expected a name of 1 to {MAX_NAME} characters, found {len(given)}")

        def act(transaction: Transaction) -> None:
            self._lock(transaction, [name])
            transaction.execute(_FIX, (size, name))

        self._database.write(act)

    def release(self, run_id: str, names: Iterable[str]) -> list[Permit]:
        """Take permits of these limits away from a run, whatever it does with them; gives those that it held."""
        ordered = sorted(names)

        def act(transaction: Transaction) -> list[Permit]:
            self._lock(transaction, ordered)
            found = [each for each in _permits(transaction, ordered) if each.run_id == run_id and each.held]
            found = [each for each in found if not each.is_spent]
            _spend(transaction, found, self._database.now())
            transaction.execute_many(_MOVE, [(each.name, each.token) for each in found])
            return found

        return self._database.write(act)


def _permits(transaction: Transaction, names: Sequence[str]) -> list[Permit]:
    return [_permit(row) for row in transaction.fetch(PERMITS.select(f"name IN ({_marks(names)})"), names)]


def _used(permit: Permit, holder: Holder, claim: Claim) -> Permit:
    """A permit without what its driver claims no more of it."""
    if permit.token != holder.token:
        return permit
    return replace(permit, held=min(permit.held, claim.in_use.get(permit.name, 0)))


def _forget(transaction: Transaction, names: Iterable[str]) -> None:
    """Leave nothing of limits that nobody uses: there may be one for each host that was ever asked."""
    transaction.execute_many(_FORGET, [(name,) for name in sorted(names)])


def _earlier(transaction: Transaction, holder: Holder, permits: Iterable[Permit]) -> set[str]:
    """Tokens of earlier drivers of the same run; none if they are later ones, who have taken it over."""
    found = {each.token for each in permits if each.run_id == holder.run_id and not each.is_spent} - {holder.token}
    owner = transaction.fetch(f"SELECT token FROM {RUNS.name} WHERE run_id = ?", (holder.run_id,)) if found else []
    return set() if owner and owner[0][0] != holder.token else found


def _spend(transaction: Transaction, permits: Iterable[Permit], moment: int) -> bool:
    """Let permits of rates, whose drivers are gone, count for the rest of a window; whether there are any.

    They are put together by when they end, so that there are never many rows.
    """
    found = [each for each in permits if each.held and window_of(each.name) and not each.is_spent]
    for each in found:
        window = each.counts_until - each.lease_until
        step = max(1, window // STEPS)
        end = -(-min(each.counts_until, moment + window) // step) * step
        spent = replace(each, token=f"{SPENT}{end}", bundle=(), wanted=0, lease_until=end - window)
        transaction.execute(_SPEND, _permit_row(spent))
        transaction.execute(_MOVE, (each.name, each.token))
    return bool(found)


def _marks(names: Sequence[str]) -> str:
    return ", ".join("?" * len(names))


def _permit(row: Sequence[Any]) -> Permit:
    values = dict(zip(PERMITS.columns, row, strict=True))
    return Permit(**{**values, "bundle": tuple(json.loads(values["bundle"]))})


def _rows_to_write(
    holder: Holder, claim: Claim, verdict: Verdict, mine: Iterable[Permit], *, seen: int, lease_until: int
) -> list[tuple[Any, ...]]:
    """Rows of what a driver holds and waits for now."""
    since = {each.name: each.ticket for each in mine if each.held}

    def permit(name: str) -> Permit:
        most = claim.sizes.get(name, 1)
        return Permit(
            name, holder.token, (), holder.run_id, holder.flow_name, holder.owner, most, 0, 0, 0, seen, lease_until
        )

    held = [replace(permit(name), held=n, ticket=since.get(name, seen)) for name, n in verdict.held.items()]
    waiting = [
        replace(permit(name), bundle=bundle, wanted=wanted, ticket=ticket)
        for bundle, (wanted, ticket) in verdict.waiting.items()
        for name in bundle
    ]
    return [_permit_row(each) for each in (*held, *waiting)]


def _permit_row(permit: Permit) -> tuple[Any, ...]:
    return (
        permit.name,
        permit.token,
        json.dumps(permit.bundle),
        permit.run_id,
        to_text(permit.flow_name),
        to_text(permit.owner),
        permit.most,
        permit.held,
        permit.wanted,
        permit.ticket,
        permit.seen,
        permit.lease_until,
    )

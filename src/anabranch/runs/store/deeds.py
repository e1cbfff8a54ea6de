"""Who did what: a line for each change that a person has made to what others share. Nobody changes one afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex

from anabranch.base.actors import actor
from anabranch.base.masking import mask
from anabranch.runs.store.codec import MESSAGE_NBYTES, from_microseconds, to_text
from anabranch.runs.store.database import Database
from anabranch.runs.store.schema import DEEDS

KEPT_S = 366 * 86_400
"""Seconds for which it is known: a year, and the day on which somebody asks."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that somebody did."""

    at: datetime
    who: str
    verb: str
    """``run``, ``cancel``, ``resume``, ``approve``, ``register``, ``unregister``, ``pause``, ``continue``, ``backfill``
    or ``prune``."""
    subject: str
    """The flow, run or group."""
    detail: str = ""


def note(database: Database, verb: str, subject: str, detail: str = "") -> None:
    """Note that whoever acts here has done something."""
    now = database.now()
    row = (
        f"{now:017d}-{token_hex(4)}",
        now,
        to_text(actor()),
        verb,
        to_text(subject),
        to_text(mask(detail), MESSAGE_NBYTES),
    )
    database.write(lambda transaction: transaction.execute(DEEDS.insert(), row))


def deeds(database: Database, *, subject: str | None = None, limit: int = 100, offset: int = 0) -> list[Deed]:
    """What was done, the latest first: to a flow, run or group, if one is named."""
    where, parameters = ("1 = 1", []) if subject is None else ("subject = ?", [to_text(subject)])
    query = DEEDS.select(f"{where} ORDER BY deed_id DESC LIMIT ? OFFSET ?")
    rows = database.read(lambda transaction: transaction.fetch(query, [*parameters, limit, offset]))
    return [_deed(row[1:]) for row in rows]


def forget_deeds(database: Database) -> int:
    """Forget what was done long ago; gives how many."""
    before = f"{database.now() - KEPT_S * 1_000_000:017d}"
    statement = f"DELETE FROM {DEEDS.name} WHERE deed_id < ?"
    return database.write(lambda transaction: transaction.execute(statement, (before,)))


def _deed(row: Sequence[object]) -> Deed:
    at, *texts = row
    moment = from_microseconds(int(str(at)))
    assert moment is not None
    return Deed(moment, *map(str, texts))

"""What people have been told lately, so that a limit holds over runs, whatever processes have them."""

from __future__ import annotations

import json

from anabranch.runs.store.codec import to_text
from anabranch.runs.store.database import Database, Transaction
from anabranch.runs.store.schema import NOTICES


def admit(database: Database, teller: str, *, most: int, per_s: float) -> int | None:
    """How many messages of a teller were left out before this one; None if this one is left out, too.

    Parameters
    ----------
    teller
        Names who tells, and of what.
    most, per_s
        At most so many messages in so many seconds, by the clock of the database.
    """
    name = to_text(teller)

    def act(transaction: Transaction) -> int | None:
        transaction.execute(NOTICES.insert(), (name, "[]", 0))  # so that there is a row to lock
        ((_, text, left_out),) = transaction.fetch(f"{NOTICES.select('teller = ?')}{database.lock_clause}", (name,))
        # One that asked for the time after this may have been here first.
        sent = [each for each in json.loads(text) if abs(now - each) < per_s * 1e6]
        is_sent = len(sent) < most
        row = (name, json.dumps([*sent, now] if is_sent else sent), 0 if is_sent else left_out + 1)
        transaction.execute(NOTICES.upsert(), row)
        return int(left_out) if is_sent else None

    now = database.now()
    return database.write(act)

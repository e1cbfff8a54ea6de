"""``python -m tests.simulation.services.year``: a year of two services, by a clock of its own, with 10,000 runs a day.

Nights in which the machine sleeps, summer time, services and runs that are killed, hours without a database, a filter
that raises: every due time runs once, and with retention the file of the run store stays as large as it is after a
while.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import random
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

from tests.simulation.story import IN_MEMORY

from anabranch.base.errors import RunStoreUnavailable
from anabranch.base.retention import read_rules
from anabranch.runs import RunRecord
from anabranch.runs.retention import KEPT, Retention, sweep
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot
from anabranch.runs.store.sqlite import SQLiteRunStore
from anabranch.schedules import CronSchedule
from anabranch.service.work.dispatcher import Dispatcher
from anabranch.service.work.messages import Exit

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
SIZE = 6
"""Flows of each minute, which make 8,640 runs a day; there are as many of every five minutes, with 1,728."""
RULES = "2d; night: 40d"
FULL_DAYS = 45
"""After which the store is as large as it gets: slots are remembered for 30 days, and the nights' runs for 40."""
SETTLED_S = 86_400
"""After which a time must have run: nothing is away for longer."""


class Calendar:
    """A filter that raises, now and then."""

    is_broken = False

    def __call__(self, moment: datetime) -> bool:
        if Calendar.is_broken:
            raise LookupError("the calendar does not answer")
        return True


class Quick:
    """A launcher of runs that have ended at once, unless they are killed."""

    def __init__(self, year: Year) -> None:
        self._year = year
        self._exits: list[Exit] = []

    def start(self, slot: Slot) -> None:
        year = self._year
        if year.chance.random() < 0.001:
            year.killed += 1
            self._exits.append(Exit(slot.run_id, slot.token, -9))
            return
        ownership = year.store.create_run(RunRecord(slot.run_id, slot.flow_name, year.now), now=year.now)
        year.store.finish_run(ownership, "Success", end=year.now)
        if year.queue.finish(slot, "Success", now=year.now):
            year.ran[slot.flow_name, slot.due.astimezone(UTC)] += 1
            year.runs += 1
        self._exits.append(Exit(slot.run_id, slot.token, 0))

    def exits(self) -> list[Exit]:
        found, self._exits = self._exits, []
        return found

    def give_back(self) -> None: ...

    def stop(self, run_id: str) -> None: ...

    def interrupt(self, run_id: str) -> None: ...

    def kill(self, run_id: str) -> None: ...


class Year:
    """A run store in a file, two services, and what happens to them."""

    def __init__(
        self, directory: Path, *, seed: int, begin: datetime = BEGIN, size: int = SIZE, has_retention: bool = True
    ) -> None:
        self.chance = random.Random(seed)
        self.now = begin
        self.path = directory / "runs.db"
        self.store = SQLiteRunStore(self.path)
        self.store.database.now = lambda: round(self.now.timestamp() * 1e6)  # type: ignore[method-assign]
        self.queue = SlotQueue(self.store.database)
        self.ran: Counter[tuple[str, datetime]] = Counter()
        self.runs = self.killed = self.away = 0
        self.sizes: list[int] = []
        """Of the file, at the end of each day."""
        self._has_retention = has_retention
        self._checked = begin
        self._flows = {
            **{f"minute-{number}": "* * * * *" for number in range(size)},
            **{f"five-{number}": "*/5 * * * *" for number in range(size)},
        }
        registry = FlowTable(self.store.database)
        for name, text in {**self._flows, "night": "30 2 * * *"}.items():
            zone = "Europe/Berlin" if name == "night" else "UTC"
            filters = [Calendar()] if name == "five-0" else []
            schedule = CronSchedule(text, timezone=zone, catch_up="all", filters=filters)
            record = FlowRecord(name, "code", schedule=pickle.dumps(schedule), schedule_text="x")
            registry.put(record, now=begin)
        self.services = [self._service() for _ in range(2)]

    def _service(self) -> Dispatcher:
        owner = f"host:{self.chance.randrange(10**6)}"
        return Dispatcher(
            self.store, Quick(self), owner=owner, capacity=200, clock=lambda: self.now, lives=lambda name: False
        )

    def live(self, days: int) -> None:
        """Let so many days pass."""
        for _ in range(days):
            self._day()
            if self._has_retention:
                sweep(self.store, Retention(runs=read_rules(RULES)), now=self.now)
            self.sizes.append(self.path.stat().st_size)
            self._check(self.now - timedelta(seconds=SETTLED_S))
            self._check_size()

    def _day(self) -> None:
        chance, end = self.chance, self.now + DAY
        asleep = self._span(0.3, 9 * 60)
        away = self._span(0.2, 5 * 60)
        broken = self._span(0.1, 10 * 60)
        for minute in range(24 * 60):
            self.now += MINUTE
            Calendar.is_broken = minute in broken
            if minute in asleep:
                continue
            if chance.random() < 0.002:
                self.services[chance.randrange(2)] = self._service()  # the one before was killed
            for service in self.services:
                self._turn(service, is_away=minute in away)
        assert self.now == end

    def _span(self, often: float, most_minutes: int) -> range:
        """Minutes of a day, or none."""
        begin = self.chance.randrange(24 * 60)
        return range(begin, begin + self.chance.randrange(most_minutes)) if self.chance.random() < often else range(0)

    def _turn(self, service: Dispatcher, *, is_away: bool) -> None:
        if not is_away:
            for _ in range(2):  # what was claimed ends, and more is claimed
                service.turn()
            return
        self.away += 1

        def down(*args: Any, **options: Any) -> Any:
            raise RunStoreUnavailable("the database does not answer")

        database = type(self.store.database)
        away = patch.multiple(database, read=down, write=down)
        with away, suppress(RunStoreUnavailable):
            service.turn()

    def _check_size(self) -> None:
        """Look at what is kept: rows of as many days as the rules and the memory of slots have, and no more bytes."""
        if not self._has_retention:
            return
        days = len(self.sizes)
        a_day = self.runs / days
        rows = self.store.database.read(
            lambda transaction: {
                table: transaction.fetch(f"SELECT count(*) FROM anabranch_{table}")[0][0] for table in ("runs", "slots")
            }
        )
        assert rows["runs"] <= (2 + 1) * a_day + 41, rows
        assert rows["slots"] <= (KEPT.days + 2) * a_day, rows
        if days > FULL_DAYS:
            assert self.sizes[-1] <= 1.15 * self.sizes[FULL_DAYS], self.sizes[FULL_DAYS:]

    def _check(self, until: datetime) -> None:
        """Look at the times up to one: each has run, and once."""
        wanted = []
        moment = self._checked
        while (moment := moment + MINUTE) <= until:
            names = (name for name in self._flows if name.startswith("minute") or not moment.minute % 5)
            wanted += [(name, moment) for name in names]
            if moment.hour < 3 and moment == _night(moment.astimezone(BERLIN).date()):
                wanted.append(("night", moment))
        for each in wanted:
            assert self.ran[each] == 1, (each, self.ran[each])
            del self.ran[each]
        left = [each for each, number in self.ran.items() if number and each[1] <= until]
        assert not left, left[:3]
        self._checked = until


def _night(day: date) -> datetime:
    """Half past two in Berlin, the first one; where clocks leave that out, the moment at which they do."""
    found = datetime(day.year, day.month, day.day, 2, 30, tzinfo=BERLIN)
    is_left_out = found.astimezone(UTC).astimezone(BERLIN).hour != 2
    return (found.replace(hour=3, minute=0) if is_left_out else found).astimezone(UTC)


def main() -> None:
    """Let a year pass, and tell of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.services.year", description=__doc__)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-retention", action="store_true", help="delete nothing")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    with TemporaryDirectory(dir=IN_MEMORY) as directory:
        year = Year(Path(directory), seed=options.seed, has_retention=not options.no_retention)
        for begin in range(0, options.days, 5):
            year.live(min(5, options.days - begin))
            print(
                f"day {len(year.sizes)}: {year.runs:,} runs, {year.killed:,} killed, {year.away:,} turns without a "
                f"store, {year.sizes[-1] / 2**20:,.1f} MiB, {time.monotonic() - began:,.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()

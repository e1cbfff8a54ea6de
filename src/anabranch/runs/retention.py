"""Keeping house: what the rules of the settings leave of runs, log lines, stored values and caches is deleted.

It goes in short steps, between which others have the store. A sweep that was broken off is gone on with by the next.
Of files, only those are deleted that say of themselves that they are a value of such a run, or an entry of a cache that
no row names; targets are never deleted, nor is what is stored where no run is named: these are the user's.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from anabranch.base.errors import AnabranchError, RunHeld
from anabranch.base.files import data_directory
from anabranch.base.retention import Rules, Tally, read_rules
from anabranch.base.settings import config
from anabranch.results.local import LocalResult
from anabranch.runs.record.refs import locations_in, without_locations
from anabranch.runs.store.codec import to_microseconds
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.removal import Standing, StoredAt

KEPT = timedelta(days=30)
"""Age at which slots are forgotten whose runs have ended, and files that another machine should have deleted."""
_CACHES = "cache"  # directory of caches in that of results
_CACHED = re.compile(rf'"({_CACHES}/[^"]+)"')
_MANY = 1_000  # files that are looked at in a step

_log = logging.getLogger("anabranch.history")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept of each kind."""

    runs: Rules = ()
    logs: Rules = ()
    results: Rules = ()
    caches: Rules = ()

    @classmethod
    def of_settings(cls) -> Retention:
        """As the settings have it."""
        section = config.retention
        return cls(**{name: read_rules(getattr(section, name)) for name in ("runs", "logs", "results", "caches")})


@dataclass(slots=True)
class Swept:
    """What was deleted, or would be: runs by id, and of how many others log lines and values; files of caches."""

    runs: list[str] = field(default_factory=list)
    logs: int = 0
    values: int = 0
    caches: int = 0

    def __str__(self) -> str:
        return (
            f"{_counted(len(self.runs), 'run')}, the log lines of {_counted(self.logs, 'run')}, "
            f"the values of {_counted(self.values, 'run')} and {_counted(self.caches, 'cached value')}"
        )

    def __bool__(self) -> bool:
        return bool(self.runs or self.logs or self.values or self.caches)


class Sweep:
    """One look at everything.

    Parameters
    ----------
    store
        The run store.
    retention
        What is kept.
    now
        When it is.
    """

    def __init__(self, store: RelationalRunStore, retention: Retention, *, now: datetime) -> None:
        self._removal = store.removal
        self._retention = retention
        self._now = now
        self._moment = to_microseconds(now)
        self._host = f"{socket.gethostname()}:"
        self.swept = Swept()

    # Looking ----------------------------------------------------------------------------------------------------------

    def plan(self) -> Swept:
        """What would be deleted now; nothing is."""
        planned, caches = Swept(), dict(self._old_entries())
        parts: dict[str, list[str]] = {}
        busy: set[str] = set()
        for over in self._overs(caches):
            for each in over.page:
                parts.setdefault(each.part_of, []).append(each.run_id)
            busy |= {each.run_id for each in over.page if each.is_busy}
            planned.runs += over.runs
            planned.logs += len(over.logs)
            planned.values += len(over.values)
        families = [_family(run_id, parts) for run_id in reversed(planned.runs)]
        planned.runs = [run_id for family in families if busy.isdisjoint(family) for run_id in family]
        planned.caches = len(caches)
        return planned

    def _overs(self, caches: dict[str, list[_Entry]]) -> Iterator[_Over]:
        """Of some runs at a time, which are past what limits; entries of caches that they name are taken out."""
        rules = self._retention
        runs, logs, results = (Tally(each, self._now) for each in (rules.runs, rules.logs, rules.results))
        for page in self._removal.pages(now=self._moment):
            ids = [each.run_id for each in page]
            nbytes = self._removal.sizes(ids) if runs.weighs else {}
            gone = {each.run_id for each in page if each.is_left_by(runs, nbytes.get(each.run_id, 0))}
            kept = [each for each in ids if each not in gone]
            if caches and kept:
                for text in self._removal.named(kept, f'"{_CACHES}/'):
                    for location in _CACHED.findall(text):
                        caches.pop(location, None)
            yield _Over(
                page,
                [each for each in ids if each in gone],
                self._over_logs(page, logs) - gone if rules.logs else set(),
                self._over_values(page, results, gone) if rules.results else {},
            )

    def _over_logs(self, page: Sequence[Standing], tally: Tally) -> set[str]:
        ids = [each.run_id for each in page]
        nbytes = self._removal.sizes(ids, logs_only=True) if tally.weighs else {}
        over = {each.run_id for each in page if _is_over(each, tally, nbytes.get(each.run_id, 0))}
        return self._removal.with_logs(over) if over else set()

    def _over_values(self, page: Sequence[Standing], tally: Tally, gone: set[str]) -> dict[str, list[StoredAt]]:
        stored: dict[str, list[StoredAt]] = {}
        for each in self._removal.stored([each.run_id for each in page]):
            if locations_in(each.text, each.key[0]):
                stored.setdefault(each.key[0], []).append(each)
        nbytes = {
            run_id: sum(sum(locations_in(row.text, run_id).values()) for row in rows) for run_id, rows in stored.items()
        }
        over = {each.run_id for each in page if _is_over(each, tally, nbytes.get(each.run_id, 0))}
        return {run_id: rows for run_id, rows in stored.items() if run_id in over - gone}

    # Doing ------------------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[None]:
        """Delete it, a little each time that the next step is asked for.

        Raises
        ------
        RunStoreError
            The store does not answer; the next sweep does what was left.
        """
        yield from self._delete_rows()
        caches = {}
        for found in self._old_entries_in_steps():
            if found is not None:
                caches.update(found)
            yield
        for over in self._overs(caches):
            for run_id in over.runs:
                with suppress(RunHeld):  # somebody goes on with it since we looked
                    self.swept.runs += self._removal.take(run_id, now=self._moment)
                yield
            for run_id in over.logs:
                while self._removal.delete_logs(run_id):
                    yield
                self.swept.logs += 1
            for run_id, rows in over.values.items():
                self.swept.values += self._forget_values(run_id, rows)
                yield
            yield
        yield from self._delete_rows()
        yield from self._delete_files()
        yield from self._delete_entries(caches)
        while self._removal.forget_slots(to_microseconds(self._now - KEPT)):
            yield
        self._removal.forget_deeds()
        while self._removal.compact():
            yield

    def _delete_rows(self) -> Iterator[None]:
        """Delete the rows of runs that are leaving; if values are deleted at all, theirs leave first."""
        while run_ids := self._removal.leaving():
            for run_id in run_ids:
                if self._retention.results:
                    self._forget_values(run_id, self._removal.stored([run_id]))
                while self._removal.delete_rows(run_id):
                    yield
                yield

    def _forget_values(self, run_id: str, rows: Sequence[StoredAt]) -> bool:
        changes = [(each, without_locations(each.text, run_id)) for each in rows]
        locations = dict.fromkeys(location for each in rows for location in locations_in(each.text, run_id))
        return self._removal.forget_values(run_id, changes, list(locations), now=self._moment)

    def _delete_files(self) -> Iterator[None]:
        """Delete the files that no row names any more."""
        stores = self._removal.stores()
        own = [each.removeprefix(self._host) for each in stores if each.startswith(self._host)]
        after = ("", "")
        while files := self._removal.files(after):
            named = {
                run_id: {place for each in self._removal.stored([run_id]) for place in locations_in(each.text, run_id)}
                for run_id in {each[0] for each in files}
            }
            settled = []
            for run_id, location, since in files:
                if location not in named[run_id]:  # else it was stored again, in a run that went on
                    if self._removal.is_busy(run_id, now=self._moment):
                        continue
                    is_gone = any(_delete_value(root, location, run_id, since) for root in own)
                    is_ours = len(own) == len(stores) or self._moment - since > KEPT / timedelta(microseconds=1)
                    if not is_gone and not is_ours:
                        continue  # another machine's service finds it
                settled.append((run_id, location))
                yield
            self._removal.let_go(settled)
            after = files[-1][:2]
            yield
        for root in own:
            if not os.path.isdir(root):
                self._removal.forget_store(f"{self._host}{root}")

    # Caches -----------------------------------------------------------------------------------------------------------

    def _old_entries(self) -> Iterator[tuple[str, list[_Entry]]]:
        for found in self._old_entries_in_steps():
            yield from (found or {}).items()

    def _old_entries_in_steps(self) -> Iterator[dict[str, list[_Entry]] | None]:
        """Entries of caches that are past the limits, by location; None between steps."""
        rule = next(iter(self._retention.caches), None)
        if rule is None:
            return
        roots = {each.removeprefix(self._host) for each in self._removal.stores() if each.startswith(self._host)}
        entries: list[_Entry] = []
        for root in sorted({*roots, str(data_directory() / "results")}):
            for number, entry in enumerate(_entries_in(root), 1):
                entries.append(entry)
                if number % _MANY == 0:
                    yield None
        entries.sort(key=lambda entry: entry.written, reverse=True)
        old: dict[str, list[_Entry]] = {}
        total = 0
        for entry in entries:
            total += entry.nbytes
            is_old = rule.age is not None and self._now.timestamp() - entry.written > rule.age.total_seconds()
            if is_old or (rule.nbytes is not None and total > rule.nbytes):
                old.setdefault(entry.location, []).append(entry)
        yield old

    def _delete_entries(self, caches: dict[str, list[_Entry]]) -> Iterator[None]:
        for entries in caches.values():
            for entry in entries:
                self.swept.caches += _delete_entry(entry)
            yield


def sweep(store: RelationalRunStore, retention: Retention | None = None, *, now: datetime) -> Swept:
    """Delete at once what the rules, by default those of the settings, leave; gives what that was."""
    found = Sweep(store, Retention.of_settings() if retention is None else retention, now=now)
    for _ in found.steps():
        pass
    return found.swept


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Over:
    """Of some runs, those that are past the limits of each kind."""

    page: list[Standing]
    runs: list[str]
    logs: set[str]
    values: dict[str, list[StoredAt]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a cache."""

    root: str
    location: str
    written: float
    nbytes: int


def _is_over(run: Standing, tally: Tally, nbytes: int) -> bool:
    """As `Standing.is_left_by`, of what a run that is part of another loses by itself."""
    return tally.is_over(run.flow_name, run.state, run.began, nbytes) and not run.is_busy


def _delete_value(root: str, location: str, run_id: str, since: int) -> bool:
    """Delete a stored value if it is one of this run, and was written before it was to leave."""
    try:
        found = LocalResult(root).owner(location)
        if found is None or found.ids.get("run") != run_id or to_microseconds(found.created) > since:
            return False
        LocalResult(root, serializer=found.serializer).delete(location)
    except (AnabranchError, OSError) as error:
        _log.debug("%s in %s was not deleted: %s", location, root, error)
        return False
    folder = Path(root, location).parent
    with suppress(OSError):  # one that is not empty
        while run_id in folder.relative_to(root).as_posix():  # nobody else writes there
            folder.rmdir()
            folder = folder.parent
    return True


def _entries_in(root: str) -> Iterator[_Entry]:
    for path, _, names in os.walk(os.path.join(root, _CACHES)):
        for name in names:
            if name.startswith((".", "_")) or ".claim-" in name:
                continue
            file = os.path.join(path, name)
            with suppress(OSError):
                status = os.lstat(file)
                yield _Entry(root, Path(file).relative_to(root).as_posix(), status.st_mtime, status.st_size)


def _delete_entry(entry: _Entry) -> bool:
    """Delete an entry, unless it is none, or was written anew since it was looked at."""
    try:
        found = LocalResult(entry.root).owner(entry.location)
        if found is None or not found.ids.keys() & {"cache", "run"}:
            return False
        if os.lstat(os.path.join(entry.root, entry.location)).st_mtime != entry.written:
            return False
        LocalResult(entry.root, serializer=found.serializer).delete(entry.location)
    except (AnabranchError, OSError) as error:
        _log.debug("%s in %s was not deleted: %s", entry.location, entry.root, error)
        return False
    return True


def _family(run_id: str, parts: Mapping[str, Sequence[str]]) -> list[str]:
    """A run and all that are part of it."""
    return [run_id, *(each for part in parts.get(run_id, ()) for each in _family(part, parts))]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

"""The runs that there are pages of: those of this process, those in the run store; and what can be done with them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol
from urllib.parse import quote

from anabranch.base.errors import PagesError, RunStoreError
from anabranch.monitoring.pages.live_run import LiveRun
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.recorded_run import ArtifactReader, RunFollower, earlier_seconds, last_lines, lines_of
from anabranch.runs import INTERRUPTED, ArtifactRow, LogQuery, LogRow, RunQuery, RunRecord, RunStore
from anabranch.runs.read.compare import Difference, compare
from anabranch.runs.read.explain import Explanation, explain
from anabranch.runs.read.lines import lines_by_time
from anabranch.runs.read.lookup import as_it_stands, source_of
from anabranch.runs.read.run import quiet_since, read_run
from anabranch.runs.store.flows import FlowTable
from anabranch.runs.store.relational import RelationalRunStore

MAX_PARTS = 20  # runs that are part of a run, as links; `anabranch show` has more
MAX_LIVE = 20  # runs of this process that are kept in memory: later, their record serves
MAX_EARLIER = 10  # runs of a flow in which a task is looked up
REREAD_S = 1.0  # a run of another process is read anew so often, and pages take half of the time at the most

_log = logging.getLogger("anabranch.dashboard")


class RunSource(Protocol):
    """A run as its page needs it."""

    @property
    def model(self) -> PageModel:
        """The run; another one if it was taken up again elsewhere."""
        ...

    def refresh(self) -> None:
        """Bring the model up to date."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        ...

    @property
    def state(self) -> str | None:
        """The state's word where it is not the model's."""
        ...

    @property
    def standing(self) -> tuple[str, int] | None:
        """State and epoch of the record that was read; None where the model is made of what the run tells."""
        ...

    def links(self) -> Sequence[tuple[str, str]]:
        """Addresses beside the page, with texts."""
        ...

    def log_rows(self, query: LogQuery | None = None) -> Sequence[LogRow]:
        """The last log lines."""
        ...

    def lines_of(self, slug: str, index: int | None) -> Sequence[LogRow]:
        """Log lines of a task run."""
        ...

    def artifacts(self) -> Sequence[ArtifactRow]:
        """What tasks have shown."""
        ...

    def earlier(self) -> Sequence[float]:
        """Seconds that the last successful runs of the flow took before this one, the newest first."""
        ...


class PageActions(Protocol):
    """What can be done with runs from a page. A refusal is a `PagesError` that says why."""

    def can_cancel(self, run_id: str) -> bool:
        """Whether this run can be cancelled from here."""
        ...

    def cancel(self, run_id: str) -> str:
        """Cancel a run; what was done, as a sentence."""
        ...

    def can_resume(self, record: RunRecord) -> bool:
        """Whether this run can be gone on with from here."""
        ...

    def resume(self, run_id: str) -> str:
        """Go on with a run; what was done, as a sentence."""
        ...


class Desk(Protocol):
    """What the server of pages knows, and lets people do, beside what is recorded: a service's."""

    def standing(self, run_id: str) -> str | None:
        """What is known of a run that is not recorded, as a sentence; None if nothing is."""
        ...

    def run_links(self, run_id: str, state: str, role: str) -> Sequence[tuple[str, str]]:
        """Addresses of what can be done with a run in this state by who has this role, with texts."""
        ...

    def flow_links(self, name: str, role: str, *, paused: bool | None) -> Sequence[tuple[str, str]]:
        """Addresses of what can be done with a registered flow by who has this role, with texts.

        `paused` is whether its schedule is paused; None of a flow without one.
        """
        ...

    def counts(self) -> str:
        """How many runs wait and go on, in words."""
        ...


class RecordedSource:
    """A run in the store. While it goes on elsewhere its model is told now and then what has been recorded."""

    def __init__(self, store: RunStore, run_id: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._artifacts = ArtifactReader()
        self._note(clock(), RunFollower(store, run_id))

    def _note(self, began: float, run: RunFollower) -> None:
        self._run = run
        self._parts = self._store.list_runs(RunQuery(part_of=self.record.run_id, sort="start", limit=MAX_PARTS))
        quiet = quiet_since(self._store, self.record)
        self.model.quiet_since = quiet.timestamp() if quiet is not None else None
        self._read_at = self._clock()
        self._pause_s = max(REREAD_S, self._read_at - began)

    def refresh(self) -> None:
        """Read what has been recorded since; the model is another one if the run was taken up again."""
        if self.is_over and self.record.state != INTERRUPTED:
            return
        began = self._clock()
        if began - self._read_at >= self._pause_s:
            self._run.follow()
            self._note(began, self._run)
        self._run.tick()

    @property
    def record(self) -> RunRecord:
        """The run's record, as it was read last."""
        return self._run.record

    @property
    def model(self) -> PageModel:
        """The run."""
        return self._run.model

    @property
    def is_over(self) -> bool:
        """Whether nobody is running it."""
        return self.record.state != "Running"

    @property
    def state(self) -> str | None:
        """The state's word as the store has it."""
        return self.record.state

    @property
    def standing(self) -> tuple[str, int] | None:
        """State and epoch of the record as it was read last."""
        return self.record.state, self.record.epoch

    def links(self) -> Sequence[tuple[str, str]]:
        """Addresses of the run that this one is part of, and of those that are part of it."""
        whole = [(self.record.parent_run_id, "part of run")] if self.record.parent_run_id else []
        found = [*whole, *((each.run_id, f"{each.flow_name}:") for each in self._parts)]
        return [(f"run?id={quote(run_id, safe='')}", f"{text} {run_id}") for run_id, text in found]

    def log_rows(self, query: LogQuery | None = None) -> Sequence[LogRow]:
        """The last log lines."""
        return last_lines(self._store, self.record.run_id, query)

    def lines_of(self, slug: str, index: int | None) -> Sequence[LogRow]:
        """Log lines of a task run."""
        return lines_of(self._store, self.record.run_id, slug, index)

    def artifacts(self) -> Sequence[ArtifactRow]:
        """What tasks have shown."""
        return self._artifacts.read(self._store, self.record.run_id)

    def earlier(self) -> Sequence[float]:
        """Seconds that the last successful runs of the flow took before this one, the newest first."""
        return earlier_seconds(self._store, self.model)


class Library:
    """Runs by id.

    Parameters
    ----------
    store
        Gives the run store; None if nothing is recorded.
    actions
        What can be done with runs that are not of this process; by default they are gone on with by ``anabranch
        resume`` in a child process.
    desk
        Does what there is to do in place of `actions`, by its own addresses.
    broken
        Files of flows that cannot be registered, with the reasons.
    """

    def __init__(
        self,
        store: Callable[[], RunStore | None],
        actions: PageActions | None = None,
        *,
        desk: Desk | None = None,
        broken: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._store = store
        self.broken = broken
        self.desk = desk
        self._live: dict[str, LiveRun] = {}
        self.actions = actions or ChildActions(self)

    def add(self, run_id: str, run: LiveRun) -> None:
        """Show a run of this process. Only the last so many are kept; the others are in the record."""
        self._live[run_id] = run
        for old in list(self._live)[: max(0, len(self._live) - MAX_LIVE)]:
            del self._live[old]

    def forget(self, run_id: str) -> None:
        """Show a run as it is recorded from now on."""
        self._live.pop(run_id, None)

    def pump(self) -> None:
        """Take the events that wait, whether or not somebody looks."""
        for run_id, run in list(self._live.items()):
            try:
                run.refresh()
            except Exception:  # one page that cannot be made must not be the end of all
                _log.exception("the live page of run %s has failed; it shows what is recorded from now on", run_id)
                self.forget(run_id)

    def live(self, run_id: str) -> LiveRun | None:
        """A run of this process."""
        return self._live.get(run_id)

    def open(self, run_id: str) -> RunSource:
        """The source of a run's page.

        Raises
        ------
        PagesError, RunStoreError
            There is no such run.
        """
        run = self._live.get(run_id)
        if run is not None:
            run.refresh()
            return run
        store = self._store()
        if store is None:
            raise PagesError(f"there is no run {run_id!r} here, and no runs are recorded")
        return RecordedSource(store, run_id)

    def standing(self, run_id: str) -> str | None:
        """What is known of a run that is not recorded; None if nothing is."""
        return self.desk.standing(run_id) if self.desk is not None else None

    def registry(self) -> FlowTable | None:
        """The registered flows; None where none can be."""
        store = self._store()
        return FlowTable(store.database) if isinstance(store, RelationalRunStore) else None

    def explain(self, run_id: str, name: str) -> Explanation:
        """Why a task run stands as it does.

        Raises
        ------
        AnabranchError
            It cannot be told: nothing is recorded, or there is no such task run.
        """
        store = self._store()
        if store is None:
            raise PagesError("no runs are recorded, so the state of a task cannot be explained")
        return explain(store, run_id, name)

    def earlier_of(self, model: PageModel, slug: str) -> list[tuple[str, str, float | None]]:
        """Of a task: run, state and seconds in the runs of the flow before this one, the newest first."""
        found: list[tuple[str, str, float | None]] = []
        with suppress(RunStoreError):
            began = model.began or time.time()
            for record in self.runs(RunQuery(flow_name=model.flow_name, limit=MAX_EARLIER + 1)):
                store = self._store()
                if store is None or record.start.timestamp() >= began or record.run_id == model.run_id:
                    continue
                for row in store.task_runs(record.run_id):
                    if row.slug == slug:
                        took = record.between_s(row.start, row.end) if row.start and row.end else None
                        found.append((record.run_id, row.state, took))
        return found

    def compare(self, first: str, second: str) -> tuple[list[RunRecord], list[Difference]]:
        """Two recorded runs, and what differs between them.

        Raises
        ------
        PagesError, RunStoreError
            There is no such run, or nothing is recorded.
        """
        store = self._store()
        if store is None:
            raise PagesError("no runs are recorded, so none can be compared")
        runs = read_run(store, first), read_run(store, second)
        return [each.record for each in runs], compare(*runs)

    def before(self, model: PageModel) -> str:
        """Id of the run of the flow before this one; nothing if there is none, or if it cannot be told."""
        with suppress(RunStoreError):
            for record in self.runs(RunQuery(flow_name=model.flow_name, limit=MAX_EARLIER)):
                if record.run_id != model.run_id and record.start.timestamp() < (model.began or 0.0):
                    return record.run_id
        return ""

    def log_lines(self, run_id: str) -> Iterator[LogRow]:
        """Log lines of a recorded run, by time, as they are asked for.

        Raises
        ------
        PagesError, RunStoreError
            There is no such run, or nothing is recorded.
        """
        store = self._store()
        if store is None:
            raise PagesError(f"there is no run {run_id!r} here, and no runs are recorded")
        yield from lines_by_time(store, store.get_run(run_id).run_id)

    def record(self, run_id: str) -> RunRecord | None:
        """A run's record; None if there is none, or if it cannot be read."""
        store = self._store()
        try:
            return as_it_stands(store.get_run(run_id)) if store is not None else None
        except RunStoreError:
            return None

    def runs(self, query: RunQuery) -> list[RunRecord]:
        """Recorded runs. One whose driver is known to be gone is interrupted before its lease has run out."""
        store = self._store()
        if store is None:
            return []
        found = [as_it_stands(record) for record in store.list_runs(query)]
        if query.state == INTERRUPTED and not query.offset:
            found += [as_it_stands(record) for record in store.list_runs(replace(query, state="Running"))]
        return [each for each in found if query.state in (None, each.state)][: query.limit]


class ChildActions:
    """Cancels runs of this process and of its children; goes on with recorded ones in child processes."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def can_cancel(self, run_id: str) -> bool:
        """Whether the run goes on here, or in a child of this process."""
        live = self._library.live(run_id)
        if live is not None and not live.is_over:
            return True
        child = self._children.get(run_id)
        return child is not None and child.poll() is None

    def cancel(self, run_id: str) -> str:
        """Cancel a run."""
        live = self._library.live(run_id)
        if live is not None and not live.is_over:
            live.cancel("cancelled from its page")
            return "The run is being cancelled; what runs now may still end."
        child = self._children.get(run_id)
        if child is None or child.poll() is not None:
            raise PagesError(f"run {run_id} does not go on in this process: cancel it where it was started")
        child.send_signal(signal.SIGINT)
        return "The run is being cancelled."

    def can_resume(self, record: RunRecord) -> bool:
        """Whether the run has stopped short of Success, its flow is where it was, and this system can stop it again."""
        if sys.platform == "win32":  # where one process cannot send another the Ctrl-C that cancels its run
            return False
        child = self._children.get(record.run_id)
        is_going_on = child is not None and child.poll() is None
        return not is_going_on and record.state not in ("Running", "Success") and bool(source_of(record))

    def resume(self, run_id: str) -> str:
        """Go on with a run: ``anabranch resume RUN`` in a process of its own."""
        record = self._library.record(run_id)
        if record is None or not self.can_resume(record):
            if sys.platform == "win32":
                raise PagesError(f"pages resume no run on Windows; type anabranch resume {run_id} in a shell")
            raise PagesError(f"run {run_id} cannot be resumed from here: it goes on, succeeded, or its file has moved")
        self._library.forget(run_id)
        self._children[run_id] = subprocess.Popen(
            [sys.executable, "-P", "-m", "anabranch", "resume", record.run_id, "--no-progress"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C at the pages' terminal ends the pages
        )
        return "The run goes on in a process of its own."

    def close(self) -> None:
        """Cancel the runs of children, and wait for them to record that."""
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        for child in self._children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(30)

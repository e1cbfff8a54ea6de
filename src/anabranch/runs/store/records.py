"""What a run store keeps, as plain records, and what can be asked of it. Pickles are opaque here: nothing loads them.

A run has one owner at a time: a process that holds a lease on it, renews the lease while it lives, and gives with
every write the epoch under which it holds. A run whose lease ran out reads as `INTERRUPTED`, and can be taken over;
that ends the epoch, so that whatever the former owner still writes is refused. Clocks decide only how soon a run can
be taken over; that two owners never write is up to the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, Self

from anabranch.base.rests import Rests, rested_s

INTERRUPTED = "Interrupted"
"""State of a run whose owner has not been heard of for the length of its lease. Never stored: it is seen on reading."""

LAST = "last"
"""Stands for the run that began last, and is no part of another, where a run's id is asked for."""


@dataclass(frozen=True, slots=True)
class RunDetails:
    """What a list of runs does not show."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Values for people, secrets masked; kept as JSON, with the repr of what JSON does not have."""
    parameters_pickle: bytes | None = field(default=None, repr=False)
    """Values for resuming, secrets left out."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Hash of each node's code, by slug."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of Python and of libraries, by name."""
    plan: bytes | None = field(default=None, repr=False)
    """Whatever else resuming needs."""
    stores: tuple[str, ...] = ()
    """Directories of results that it writes to, each after its machine and a colon; not read back."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A flow run. The fields from `owner` on are the store's; what `create_run` is given in them does not matter."""

    run_id: str
    flow_name: str
    start: datetime
    flow_version: str = ""
    state: str = "Running"
    message: str = ""
    end: datetime | None = None
    parent_run_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    details: RunDetails | None = None
    """None in a list of runs."""
    owner: str = ""
    """``host:pid`` of the process that holds the run, or held it last."""
    epoch: int = 0
    """How many owners the run has had."""
    held_since: datetime | None = None
    lease_until: datetime | None = None
    """None: the run has been finished, or put down, by its owner."""
    born: str = ""
    """What tells that process from others of its number; empty if that is not known."""
    heard: datetime | None = None
    """When a process was at the run last, as far as is known."""
    rests: Rests = ()
    """When none was, before the last one took it up."""

    @property
    def took_s(self) -> float | None:
        """Seconds that processes were at the run, once it has ended."""
        return None if self.end is None else self.between_s(self.start, self.end)

    def between_s(self, start: datetime, end: datetime) -> float:
        """Seconds between two times in which a process was at the run."""
        since, until = start.timestamp(), end.timestamp()
        return until - since - rested_s(self.rests, since, until)


@dataclass(frozen=True, slots=True)
class Ownership:
    """The right to write to a run."""

    run_id: str
    owner: str
    epoch: int
    token: str = field(repr=False)
    """Tells one claim from all others, so that a claim whose answer was lost is recognised when it is repeated."""
    since: float = field(default=0.0, repr=False, compare=False)
    """When it was asked for, by the `sleepless_clock` of this machine; 0: that is not known."""


@dataclass(frozen=True, slots=True)
class TaskRunRow:
    """A single task, or a map as a whole; one for each slug of a run."""

    slug: str
    task_name: str
    state: str
    code: int
    attempt: int = 1
    loop_count: int = 1
    start: datetime | None = None
    end: datetime | None = None
    worker: str = ""
    message: str = ""
    """At most 8 KiB are kept."""
    failure: bytes | None = field(default=None, repr=False)
    value: bytes | None = field(default=None, repr=False)
    """Pickle of a small value (``engine.inline_nbytes``)."""
    result: str | None = None
    """Where the value is, as JSON."""
    fingerprint: str = ""
    """Of the inputs."""
    width: int | None = None
    """Number of elements of a map."""


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """What one chunk of a map came to; one for each slug and serial number."""

    slug: str
    serial: int
    indices: Sequence[int]
    """Elements, in the order of `codes`. Read back as a `range` where they are one, else as a tuple."""
    codes: bytes
    """State of each element, one byte each (`anabranch.states`)."""
    values: bytes | None = field(default=None, repr=False)
    result: str | None = None
    worker: str = ""
    start: datetime | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ElementRow:
    """An element that is, or once was, not a plain Success; one for each slug and index. Goes before its chunk."""

    slug: str
    index: int
    code: int
    attempt: int = 1
    due: datetime | None = None
    """When a Retrying element is to be tried again."""
    message: str = ""
    failure: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class LogRow:
    """A log line."""

    serial: int
    """Counted by the owner, from 0; with the epoch it tells lines apart, so that none is written twice."""
    time: datetime
    level: int
    """As in `logging`."""
    text: str
    slug: str | None = None
    index: int | None = None
    attempt: int | None = None
    worker: str = ""
    epoch: int = field(default=1, compare=False)
    """Of the owner who counts; what is written has that of who writes it."""

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and serial: where it is among the lines of its run, in the order in which they came."""
        return self.epoch, self.serial


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """What a task has shown; one for each slug, element, attempt and number."""

    slug: str
    index: int | None
    attempt: int
    number: int
    kind: str
    """One of `anabranch.base.artifacts.KINDS`."""
    time: datetime
    body: str = field(repr=False)
    """JSON."""
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are written together or not at all. A row replaces the one with the same key."""

    task_runs: Sequence[TaskRunRow] = ()
    chunks: Sequence[ChunkRow] = ()
    elements: Sequence[ElementRow] = ()
    logs: Sequence[LogRow] = ()
    artifacts: Sequence[ArtifactRow] = ()


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to list; what is None does not matter."""

    flow_name: str | None = None
    state: str | None = None
    part_of: str | None = None
    """A run of which they are parts."""
    since: datetime | None = None
    """Started then or later."""
    text: str | None = None
    """Is in the run id, the flow's name, the labels or the message; the case of ASCII letters does not matter."""
    sort: str = "-start"
    """One of `SORTS`; a minus in front turns the order round."""
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which log lines of a run to read; what is None does not matter."""

    slug: str | None = None
    index: int | None = None
    level: int = 0
    """From this one on."""
    text: str = ""
    """Is in the line; the case of ASCII letters does not matter."""
    after: tuple[int, int] | None = None
    """The place of a line: those that came later."""


SORTS = ("start", "end", "flow_name", "state", "run_id")


class RunStore(Protocol):
    """History of runs. Safe to use from several threads; several processes may open the same one.

    Every time is an aware datetime, kept to the microsecond. `now` is a parameter for tests and for replaying; None
    means this machine's clock. Every method may raise `RunStoreError`.
    """

    lease_s: float
    """Seconds that a run is held without a sign of life."""

    def create_run(self, record: RunRecord, *, owner: str | None = None, now: datetime | None = None) -> Ownership:
        """Record a run that begins, and hold it.

        Raises
        ------
        RunExists
            There is a run with this id.
        """

    def take_over(
        self, run_id: str, *, owner: str | None = None, epoch: int | None = None, now: datetime | None = None
    ) -> Ownership:
        """Hold a run that nobody holds: finished, paused, or interrupted. It is Running then. One caller wins.

        With `epoch`, only as long as the run has had so many owners.

        Raises
        ------
        RunNotFound
            There is no run with this id.
        RunHeld
            Its owner's lease has not run out, or it has had other owners.
        """

    def heartbeat(self, ownership: Ownership, *, now: datetime | None = None) -> None:
        """Renew the lease; of a run that was finished under this ownership nothing is changed.

        Raises
        ------
        StaleOwner
            The run has been taken over, or deleted.
        """

    def ask_end(self, run_id: str, wish: str, *, now: datetime | None = None) -> RunRecord:
        """Ask whoever holds a run to end it; gives the run as it stands, without its details.

        Nothing is asked of a run that was finished or put down, and who takes the run over later is asked nothing.

        Raises
        ------
        RunNotFound
            There is no run with this id.
        """

    def find_wish(self, ownership: Ownership) -> str:
        """Why somebody wants the run to end under this ownership; nothing if nobody does."""

    def write(self, ownership: Ownership, batch: Batch) -> None:
        """Write a batch in one transaction; when this returns it will survive the death of this process.

        Writing the same batch again changes nothing.

        Raises
        ------
        StaleOwner
            The run has been taken over, or deleted; nothing was written.
        """

    def finish_run(
        self, ownership: Ownership, state: str, *, end: datetime | None, message: str = "", batch: Batch | None = None
    ) -> None:
        """Write the last batch and the run's state, and put the run down; `end` is None for one that is to go on.

        Raises
        ------
        StaleOwner
            The run has been taken over, or deleted; nothing was written.
        """

    def get_run(self, run_id: str, *, now: datetime | None = None) -> RunRecord:
        """A run with its details, by its id or by a beginning of it that no other run has, or by `LAST`.

        Raises
        ------
        RunNotFound
            There is none, or there are several.
        """

    def list_runs(self, query: RunQuery | None = None, *, now: datetime | None = None) -> list[RunRecord]:
        """Runs without their details, newest first unless the query says otherwise."""

    def task_runs(self, run_id: str) -> list[TaskRunRow]:
        """Task runs in the order of their start; those that have not begun come last."""

    def chunks(self, run_id: str, slug: str) -> list[ChunkRow]:
        """Chunks of a map by serial number: what a later one says of an element holds."""

    def elements(self, run_id: str, slug: str | None = None) -> list[ElementRow]:
        """Elements that have a row of their own, by slug and index."""

    def logs(
        self,
        run_id: str,
        slug: str | None = None,
        *,
        index: int | None = None,
        level: int = 0,
        limit: int | None = None,
        offset: int = 0,
        after: tuple[int, int] | None = None,
    ) -> list[LogRow]:
        """Log lines of a run, a task or an element from a level on, by time.

        With `after`, the place of a line: those that came later, in the order in which they came.
        """

    def last_logs(self, run_id: str, query: LogQuery, *, limit: int) -> list[LogRow]:
        """The log lines that were written last, in the order in which they came."""

    def artifacts(
        self,
        run_id: str,
        slug: str | None = None,
        *,
        since: datetime | None = None,
        after: ArtifactRow | None = None,
        limit: int | None = None,
    ) -> list[ArtifactRow]:
        """What the tasks of a run, or one of them, have shown, or shown since, by slug, element, attempt and number.

        With `after`, only those that come after that one.
        """

    def artifact_sizes(self, run_id: str) -> dict[tuple[str, int | None, int, int], int]:
        """Characters of what the tasks of a run have shown, by slug, element, attempt and number."""

    def prune(
        self, *, older_than: datetime | None = None, keep_last: int | None = None, now: datetime | None = None
    ) -> list[str]:
        """Delete runs that nobody holds or waits for, and give their ids; runs that are part of others go with these.

        Parameters
        ----------
        older_than
            Only runs that started before.
        keep_last
            Never the newest so many runs of each flow.
        now
            When it is.
        """

    def delete_run(self, run_id: str, *, now: datetime | None = None) -> None:
        """Delete a run and all about it, with the runs that are part of it.

        Raises
        ------
        RunNotFound
            There is no run with this id.
        RunHeld
            It goes on.
        """

    def check(self) -> list[str]:
        """What is wrong with the store, one line each; reads all of it."""

    def describe(self) -> dict[str, str]:
        """Kind, location (passwords masked), versions, and warnings, for people."""

    def close(self) -> None:
        """Let go of connections; the store can still be used, and opens them again."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

"""States of flow runs, task runs and elements: frozen values that do no I/O.

::

    State
    ├── Pending ─┬─ Scheduled ─┬─ Retrying
    │            │             └─ Paused
    │            └─ Submitted
    ├── Running ── Deferred
    ├── Looped
    └── Finished ─┬─ Success ─── Cached, Mapped, Skipped
                  ├─ Failed ──── TimedOut, TriggerFailed, ValidationFailed, Crashed
                  └─ Cancelled

A map keeps one byte per element (`Code`), and a whole `State` only for elements that are not a plain `Success`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, ClassVar

from anabranch.base.texts import seconds


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task run failed, in a form that can always be sent.

    `exception` is the pickled exception if it is small and known to load again, else None.
    """

    type_name: str
    """Name of the exception's class, with its module unless it is a builtin."""
    message: str
    """Text of the exception, shortened if it is long."""
    traceback: str = ""
    """Formatted traceback of the user's frames, shortened if it is long."""
    line: str = ""
    """``file:line in function`` of the user's innermost frame."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Arguments by name, as shortened reprs."""
    exception: bytes | None = field(default=None, repr=False)
    root: str = ""
    """Task run that failed first, such as ``parse[777]``, if this failure follows from it."""

    def headline(self) -> str:
        """``ValueError: text`` on one line."""
        first = self.message.strip().split("\n", 1)[0]
        return f"{self.type_name}: {first}" if first else self.type_name

    def __reduce__(self) -> tuple[Any, ...]:
        # Reports of a map hold thousands: what dataclasses do to pickle frozen slots takes five times as long.
        return Failure, _FIELDS_OF_FAILURE(self)


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of elements of a map by outcome."""

    total: int = 0
    successful: int = 0
    """Success of any kind but Skipped."""
    skipped: int = 0
    failed: int = 0
    """Failed of any kind, and Cancelled: what has no value for those that need one."""
    cancelled: int = 0
    """How many of those were Cancelled: stopped, or not run at all."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.total + other.total,
            self.successful + other.successful,
            self.skipped + other.skipped,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
        )

    def __setstate__(self, state: list[int]) -> None:  # records of earlier versions have no `cancelled`
        for each, number in zip(fields(self), (*state, 0), strict=False):
            object.__setattr__(self, each.name, number)

    def by_word(self) -> dict[str, int]:
        """Numbers by the word for each; what was cancelled has not failed."""
        return {
            "successful": self.successful,
            "failed": self.failed - self.cancelled,
            "cancelled": self.cancelled,
            "skipped": self.skipped,
        }

    def __str__(self) -> str:
        parts = [f"{n:,} {word}" for word, n in self.by_word().items() if n or word == "successful"]
        return f"{self.total:,} elements: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt at a task run that was not the last one."""

    number: int
    state: str
    """How it ended: ``Failed``, ``TimedOut``, or ``Retrying`` where the task asked for another."""
    reason: str
    """The exception, or what the task said; bounded."""
    worker: str = ""
    start: datetime | None = None
    end: datetime | None = None

    def __str__(self) -> str:
        where = f" on {self.worker}" if self.worker not in ("", "local") else ""
        when = f" at {self.end:%Y-%m-%d %H:%M:%S %Z}" if self.end is not None else ""
        took = self.end - self.start if self.start is not None and self.end is not None else None
        after = f" after {seconds(took.total_seconds())}" if took is not None else ""
        return f"attempt {self.number} ended as {self.state}{where}{when}{after}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Base of all states. Two states are equal if they have the same class and the same data."""

    code: ClassVar[int] = 0

    message: str = field(default="", compare=False, kw_only=False)
    result: Any = None  # any value of the user's, or None
    """Value that task code or a handler gave the state; the engine keeps values beside states."""
    start_time: datetime | None = None
    """Aware time at which the run is due if it is scheduled, else at which the attempt began."""
    end_time: datetime | None = field(default=None, compare=False)
    attempt: int = field(default=1, compare=False)
    """Number of the attempt, from 1."""
    map_index: int | None = None
    worker: str | None = field(default=None, compare=False)
    failure: Failure | None = None
    counts: Counts | None = None
    """Counts of a map's elements; None if it is not a map."""
    attempts: tuple[Attempt, ...] = field(default=(), compare=False)
    """Attempts before this one, as far as they are known; at most the last `MAX_ATTEMPTS`."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):  # a view of a run has our class, and may have to look up its value
            return NotImplemented
        return _DATA_OF_STATE(self) == _DATA_OF_STATE(other)

    def is_pending(self) -> bool:
        """Whether it has not begun, or waits to continue."""
        return isinstance(self, Pending)

    def is_scheduled(self) -> bool:
        """Whether it waits for a time."""
        return isinstance(self, Scheduled)

    def is_submitted(self) -> bool:
        """Whether it was sent to be run, and is not known to have begun."""
        return isinstance(self, Submitted)

    def is_retrying(self) -> bool:
        """Whether it waits for its next attempt."""
        return isinstance(self, Retrying)

    def is_paused(self) -> bool:
        """Whether it waits for an approval."""
        return isinstance(self, Paused)

    def is_running(self) -> bool:
        """Whether it is being executed."""
        return isinstance(self, Running)

    def is_looped(self) -> bool:
        """Whether it has ended one round of a loop."""
        return isinstance(self, Looped)

    def is_finished(self) -> bool:
        """Whether it will not change any more."""
        return isinstance(self, Finished)

    def is_successful(self) -> bool:
        """Whether it succeeded; Cached, Mapped and Skipped are successes."""
        return isinstance(self, Success)

    def is_cached(self) -> bool:
        """Whether its value was stored or cached before."""
        return isinstance(self, Cached)

    def is_mapped(self) -> bool:
        """Whether it stands for the elements of a map."""
        return isinstance(self, Mapped)

    def is_skipped(self) -> bool:
        """Whether it did not run because of a condition, a signal or an upstream."""
        return isinstance(self, Skipped)

    def is_failed(self) -> bool:
        """Whether it failed; TimedOut, TriggerFailed, ValidationFailed and Crashed are failures."""
        return isinstance(self, Failed)

    def is_crashed(self) -> bool:
        """Whether the worker that ran it died."""
        return isinstance(self, Crashed)

    def is_cancelled(self) -> bool:
        """Whether it was cancelled."""
        return isinstance(self, Cancelled)

    @property
    def name(self) -> str:
        """Name of the state, such as ``TriggerFailed``."""
        return type(self).__name__

    @property
    def duration_s(self) -> float | None:
        """Seconds from start to end of the last attempt; None if it has not begun or not ended."""
        if self.start_time is None or self.end_time is None:
            return None
        return max(0.0, (self.end_time - self.start_time).total_seconds())

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name

    def _repr_html_(self) -> str:
        """The state in a notebook."""
        from anabranch.base.html import colour_of, heading

        return heading("", self.name, colour_of(self), self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), *_FIELDS_OF_STATE(self))


_FIELDS_OF_FAILURE = attrgetter(*(each.name for each in fields(Failure)))
_DATA_OF_STATE = attrgetter(*(each.name for each in fields(State) if each.compare))
_FIELDS_OF_STATE = attrgetter(*(each.name for each in fields(State)))


def _remade(
    cls: type[State],
    message: str,
    result: Any,
    start_time: datetime | None,
    end_time: datetime | None,
    attempt: int,
    map_index: int | None,
    worker: str | None,
    failure: Failure | None,
    counts: Counts | None,
    attempts: tuple[Attempt, ...] = (),
) -> State:
    return cls(
        message=message,
        result=result,
        start_time=start_time,
        end_time=end_time,
        attempt=attempt,
        map_index=map_index,
        worker=worker,
        failure=failure,
        counts=counts,
        attempts=attempts,
    )


MAX_ATTEMPTS = 20


def add_attempts(before: Iterable[Attempt], after: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Attempts in their order, each once, and no more than `MAX_ATTEMPTS`."""
    found = {each.number: each for each in (*before, *after)}
    return tuple(found[number] for number in sorted(found)[-MAX_ATTEMPTS:])


class Pending(State):
    """Has not begun."""

    __slots__ = ()


class Scheduled(Pending):
    """Begins at `start_time`."""

    __slots__ = ()


class Submitted(Pending):
    """Sent to be run, and not known to have begun."""

    __slots__ = ()
    code = 5


class Retrying(Scheduled):
    """Failed, and is tried again at `start_time`."""

    __slots__ = ()
    code = 2


class Paused(Scheduled):
    """Waits for an approval."""

    __slots__ = ()
    code = 3


class Running(State):
    """Is being executed."""

    __slots__ = ()
    code = 1


class Deferred(Running):
    """Has made deferred calls, and waits for their values."""

    __slots__ = ()
    code = 4


class Looped(State):
    """Ended one round of a loop; the next follows at once."""

    __slots__ = ()


class Finished(State):
    """Will not change any more."""

    __slots__ = ()


class Success(Finished):
    """Succeeded."""

    __slots__ = ()
    code = 10


class Cached(Success):
    """Did not run, because its value was stored or cached before."""

    __slots__ = ()
    code = 11


class Mapped(Success):
    """A map of which no element failed."""

    __slots__ = ()
    code = 12


class Skipped(Success):
    """Was not run, on purpose."""

    __slots__ = ()
    code = 13


class Failed(Finished):
    """Failed."""

    __slots__ = ()
    code = 20


class TimedOut(Failed):
    """Exceeded its timeout."""

    __slots__ = ()
    code = 21


class TriggerFailed(Failed):
    """Was not run, because its trigger did not allow it."""

    __slots__ = ()
    code = 22


class ValidationFailed(Failed):
    """Its result was refused."""

    __slots__ = ()
    code = 23


class Crashed(Failed):
    """Lost the worker that ran it, more often than ``engine.max_losses`` allows."""

    __slots__ = ()
    code = 24


class Cancelled(Finished):
    """Was cancelled."""

    __slots__ = ()
    code = 30


BY_CODE: dict[int, type[State]] = {
    cls.code: cls
    for cls in (
        Pending, Running, Retrying, Paused, Deferred, Submitted, Success, Cached, Mapped, Skipped,
        Failed, TimedOut, TriggerFailed, ValidationFailed, Crashed, Cancelled,
    )
}  # fmt: skip

FIRST_FINAL_CODE = Success.code
FIRST_FAILED_CODE = Failed.code


def counts_of(codes: bytes | bytearray) -> Counts:
    """Counts of a map from one byte per element, without an object per element."""
    skipped = codes.count(Skipped.code)
    successful = sum(codes.count(code) for code in (Success.code, Cached.code, Mapped.code))
    failed = sum(codes.count(code) for code in BY_CODE if code >= FIRST_FAILED_CODE)
    return Counts(len(codes), successful, skipped, failed, codes.count(Cancelled.code))


def tally(states: Iterable[State]) -> Counts:
    """Counts over several states, in which a map counts as its elements."""
    total = Counts()
    for state in states:
        if state.counts is not None and state.counts.total:
            # A map that is a success all the same may have elements that failed: `min_success` bears them.
            counts = state.counts
            if isinstance(state, Mapped):
                counts = Counts(counts.total, counts.successful, counts.skipped + counts.failed)
            total += counts
        else:
            cancelled, skipped = state.is_cancelled(), state.is_skipped()
            failed = state.is_failed() or cancelled
            successful = state.is_successful() and not skipped
            total += Counts(1, int(successful), int(skipped), int(failed), int(cancelled))
    return total


def map_state(
    slug: str, codes: bytes | bytearray, records: Mapping[int, State], *, min_success: float | None = None
) -> State:
    """Failed if an element failed, Skipped if all (one or more) were skipped, else Mapped.

    With `min_success`, it is Mapped as long as that share of elements has not failed.

    Parameters
    ----------
    codes
        One byte per element, all of them final.
    records
        States of what is not plain Success, by element.
    """
    counts = counts_of(codes)
    if min_success is not None and counts.total - counts.failed >= min_success * counts.total > 0:
        if counts.skipped + counts.failed < counts.total:
            return Mapped(message=str(counts), counts=counts)
    if counts.failed:
        bad = [i for i, code in enumerate(codes) if code >= FIRST_FAILED_CODE]
        first = next((i for i in bad if codes[i] != Cancelled.code), bad[0])
        failure = records[first].failure
        others = (counts.failed - counts.cancelled or counts.cancelled) - 1
        more = f" (+{others:,} others)" if others else ""
        headline = failure.headline() if failure else records[first].message
        if failure is not None and not failure.root:
            failure = replace(failure, root=f"{slug}[{first}]")
        return Failed(message=f"{slug}[{first}]: {headline}{more}; {counts}", counts=counts, failure=failure)
    if counts.total and counts.skipped == counts.total:
        return Skipped(message=f"all {counts.total:,} elements were skipped", counts=counts)
    return Mapped(message=str(counts), counts=counts)

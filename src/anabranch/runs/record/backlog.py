"""Rows on their way into the run store, in the order in which they came, by a thread that may wait for the store.

Whoever adds rows waits too, as long as the store answers at once: then what was said is on record. What they say is
decided in `recorder`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from anabranch.base.errors import RunStoreError, RunStoreUnavailable, StaleOwner
from anabranch.base.settings import config
from anabranch.base.states import Cancelled, Crashed, State
from anabranch.runs.store.records import Batch, ChunkRow, ElementRow, Ownership, RunStore, TaskRunRow

PROMPT_S = 1.0  # that a run waits for its store, once in an outage: a cancel must be obeyed within two seconds
MAX_ROWS = 10_000  # rows that a store which does not answer is waited for with: some ten megabytes
LATEST_S = 0.5  # who looks from elsewhere is less than two seconds behind: pages read a run once a second
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 5.0  # between tries, for which nobody waits

_log = logging.getLogger("anabranch.recording")


@dataclass(slots=True)
class Rows:
    """Rows that are not in the store yet; of those with the same key, the last."""

    task_runs: dict[str, TaskRunRow] = field(default_factory=dict)
    chunks: list[ChunkRow] = field(default_factory=list)
    elements: list[ElementRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.task_runs) + len(self.chunks) + len(self.elements)

    def add(self, batch: Batch) -> None:
        """Take newer rows."""
        self.task_runs.update((row.slug, row) for row in batch.task_runs)
        self.chunks += batch.chunks
        self.elements += batch.elements

    def batch(self) -> Batch:
        """All of them."""
        return Batch(tuple(self.task_runs.values()), tuple(self.chunks), tuple(self.elements))

    def apart(self) -> list[Batch]:
        """One batch for each row: elements before their chunks, as always."""
        elements = [Batch(elements=[row]) for row in self.elements]
        chunks = [Batch(chunks=[row]) for row in self.chunks]
        return [*elements, *chunks, *(Batch([row]) for row in self.task_runs.values())]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends, or is put down for a while."""

    state: str
    end: datetime | None
    message: str


class Backlog:
    """What is to be written of one run. Safe to use from several threads; it never raises.

    Parameters
    ----------
    store, ownership
        Where the run is, and the right to write to it.
    patience_s
        Seconds that the end of the run waits for the store; default: ``runs.patience_s``.
    clock
        Seconds, of a clock that does not go back.
    """

    def __init__(
        self,
        store: RunStore,
        ownership: Ownership,
        *,
        patience_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ownership = ownership
        self._patience_s = config.runs.patience_s if patience_s is None else patience_s
        self._clock = clock
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.rows = Rows()
        """What nobody has begun to write."""
        self._taken = Rows()
        """What the thread is writing."""
        self._added = self._taking = self._written = 0
        """Numbers of batches: the newest, the newest that is being written, the newest that is in the store."""
        self._is_urgent = False
        """Whether somebody waits for what was added."""
        self._failures = 0
        self._pause_s = 0.0
        self._silent_since: float | None = None
        """When the run stopped waiting for the store, or the store last answered since; None while it waits."""
        self._ending: Ending | None = None
        self._is_closed = self._is_over = False
        self._missing: object = None
        """Why the end of the run is not on record."""
        self._end: State | None = None

    @property
    def end(self) -> State | None:
        """The state in which the run must end, because it cannot be recorded any more."""
        return self._end

    def lose(self, error: StaleOwner) -> None:
        """The run is somebody else's now: nothing more is written."""
        self._give_up(Cancelled(message=str(error)))

    def _give_up(self, end: State) -> None:
        with self._changed:
            self._end = self._end or end
            self._changed.notify_all()

    def add(self, batch: Batch) -> None:
        """Have rows written, with the next flush or soon."""
        if not (batch.task_runs or batch.chunks or batch.elements):
            return
        with self._changed:
            self.rows.add(batch)
            self._added += 1
            self._wake()

    def flush(self) -> None:
        """Write what was added: it is in the store when this returns, unless that has stopped answering."""
        with self._changed:
            if self._end is not None or self._written == self._added:
                return
            self._is_urgent = True
            self._wake()
            if self._silent_since is not None and not self._is_full():
                return
            added, failures = self._added, self._failures
            is_settled = self._changed.wait_for(
                lambda: self._written >= added or self._failures > failures or self._end is not None, PROMPT_S
            )
            if not is_settled:
                self._miss(f"{PROMPT_S:g} s were not enough for it", is_tried=self._is_overdue())

    def close(self, ending: Ending | None) -> None:
        """Write what is left, and how the run ends; None if that is for somebody else to say.

        Returns when it is in the store, or when patience is used up.
        """
        with self._changed:
            self._ending, self._is_closed = ending, True
            self._wake()
            if not self._changed.wait_for(lambda: self._is_over, self._patience_s + PROMPT_S):
                self._missing = f"the run store has not answered for {self._patience_s:g} s"
            if self._missing is not None:
                count, run_id = len(self.rows) + len(self._taken), self._ownership.run_id
                rows = f" ({count:,} rows of it are not on record)" if count else ""
                _log.error("how run %s ended could not be recorded%s: %s", run_id, rows, self._missing)

    def _wake(self) -> None:
        if self._thread is None:
            name = f"anabranch-recorder-{self._ownership.run_id}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _is_full(self) -> bool:
        return len(self.rows) + len(self._taken) > MAX_ROWS

    def _is_overdue(self) -> bool:
        return self._silent_since is not None and self._clock() - self._silent_since >= self._patience_s

    def _miss(self, reason: object, *, is_tried: bool) -> None:
        """The store does not answer: the run goes on without waiting for it, unless there are too many rows already."""
        if self._is_full() and is_tried:
            count = len(self.rows) + len(self._taken)
            self._give_up(Crashed(message=f"run store: {reason} ({count:,} rows could not be written)"))
        elif self._silent_since is None and not self._is_closed:
            self._silent_since = self._clock()
            _log.warning("the run goes on, and is recorded when the run store can be written to again: %s", reason)

    # In the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._await_rows():
            self._write()
        error = self._finish(self._ending) if self._ending is not None else None
        with self._changed:
            self._is_over, self._missing = True, error
            self._changed.notify_all()

    def _await_rows(self) -> bool:
        """Wait for rows, and out the pause; whether there are some, and the run goes on."""
        with self._changed:
            if self._pause_s:
                self._changed.wait_for(lambda: self._is_closed or self._is_full(), self._pause_s)
            self._changed.wait_for(lambda: self._is_closed or (self.rows and self._end is None))
            self._changed.wait_for(lambda: self._is_closed or self._is_urgent, LATEST_S)
            return not self._is_closed

    def _take(self) -> Batch:
        with self._changed:
            self._taken, self.rows, self._taking, self._is_urgent = self.rows, Rows(), self._added, False
            return self._taken.batch()

    def _write(self) -> None:
        try:
            self._store.write(self._ownership, self._take())
        except StaleOwner as error:
            self.lose(error)
        except RunStoreError as error:
            self._put_back(error)
        except Exception:  # of a row, as users put into states what they like: the others are none the worse for it
            self._write_apart()
        else:
            self._succeed()

    def _succeed(self) -> None:
        with self._changed:
            self._taken, self._written = Rows(), self._taking
            self._pause_s = 0.0
            if self._silent_since is not None:
                self._silent_since = self._clock() if self.rows else None
                if not self.rows:
                    _log.warning("the run store can be written to again; nothing is lost")
            self._changed.notify_all()

    def _put_back(self, error: RunStoreError) -> None:
        with self._changed:
            self._failures += 1
            self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2 or _FIRST_PAUSE_S)
            self._taken.add(self.rows.batch())
            self.rows, self._taken = self._taken, Rows()
            self._miss(error, is_tried=True)
            self._changed.notify_all()

    def _write_apart(self) -> None:
        """Write each row by itself, and of one that cannot be written what is left without the user's texts."""
        left = self._taken.apart()
        while left:
            for batch in (left[0], _without_texts(left[0])):
                try:
                    self._store.write(self._ownership, batch)
                    break
                except StaleOwner as error:
                    self.lose(error)
                    return
                except RunStoreError as error:
                    with self._changed:
                        self._taken = Rows()
                        for each in left:
                            self._taken.add(each)
                        self._put_back(error)
                    return
                except Exception:
                    _log.exception("a row could not be recorded as it is; what it says may run again")
            del left[0]
        self._succeed()

    def _finish(self, ending: Ending) -> Exception | None:
        """Write the last rows and the state of the run; why that cannot be."""
        deadline = self._clock() + self._patience_s
        while True:
            try:
                self._store.finish_run(
                    self._ownership, ending.state, end=ending.end, message=ending.message, batch=self._take()
                )
                self._succeed()
                return None
            except RunStoreUnavailable as error:
                if self._clock() + _FIRST_PAUSE_S > deadline:
                    return error
                self._put_back(error)
            except RunStoreError as error:
                return error
            except Exception as error:  # of a row, as above
                if not self._taken or self._clock() > deadline:
                    return error
                self._write_apart()
            if self.rows:
                time.sleep(_FIRST_PAUSE_S)


def _without_texts(batch: Batch) -> Batch:
    """Rows with the states of task runs and elements, and nothing that a user may have put into them."""
    return Batch(
        [replace(row, message="", failure=None, value=None, result=None) for row in batch.task_runs],
        [replace(row, values=None, result=None) for row in batch.chunks],
        [replace(row, due=None, message="", failure=None) for row in batch.elements],
    )

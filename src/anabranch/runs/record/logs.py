"""Log lines of a run on their way into the run store, from a thread of its own: no task and no driver waits for it."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime

from anabranch.base.errors import RunStoreError, StaleOwner
from anabranch.engine.logs.capture import TASKS
from anabranch.engine.logs.lines import LogLine
from anabranch.runs.store.records import Batch, LogRow, Ownership, RunStore

EVERY_S = 0.5  # as soon as somebody who follows a run wants to see it; two transactions a second cost nothing
MAX_ROWS = 2_000  # of a transaction
MAX_WAITING = 20_000  # lines that a store which does not answer is waited for with: some ten megabytes
CLOSE_S = 15.0  # a store that does not answer in its `runs.patience_s` has the rest of the lines no more

_log = logging.getLogger("anabranch.recording")


class LogKeeper:
    """Writes lines to the run store, in the order in which they come.

    Parameters
    ----------
    store, ownership
        Where the run is, and the right to write to it.
    """

    def __init__(self, store: RunStore, ownership: Ownership) -> None:
        self._store = store
        self._ownership = ownership
        self._rows: list[LogRow] = []
        self._serial = 0
        self._lost = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def keep(self, line: LogLine) -> None:
        """Have a line written within a second."""
        with self._changed:
            if self._is_closed or len(self._rows) >= MAX_WAITING:
                self._lost += 1
                return
            self._rows.append(self._row(line))
            if self._thread is None:  # a run that logs nothing needs no thread
                self._thread = threading.Thread(target=self._run, name="anabranch-logs", daemon=True)
                self._thread.start()

    def _row(self, line: LogLine) -> LogRow:
        self._serial += 1
        text = line.text if line.logger.startswith(TASKS) else f"{line.logger}: {line.text}"
        when = datetime.fromtimestamp(line.time, UTC)
        return LogRow(self._serial - 1, when, line.level, text, line.slug, line.map_index, line.attempt, line.worker)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            with self._changed:
                is_last = self._is_closed or self._changed.wait_for(lambda: self._is_closed, EVERY_S)
            while self._rows and self._write(self._rows[:MAX_ROWS]):
                pass

    def _write(self, rows: list[LogRow]) -> bool:
        """Write the first rows; whether it is of use to go on."""
        try:
            self._store.write(self._ownership, Batch(logs=rows))
        except StaleOwner:  # the recorder ends the run
            with self._changed:
                self._rows.clear()
                self._is_closed = True
            return False
        except RunStoreError as error:
            _log.debug("log lines wait for the run store: %s", error)
            return False
        except Exception:
            _log.exception("%d log lines could not be recorded", len(rows))
        with self._changed:
            del self._rows[: len(rows)]
        return True

    def close(self) -> None:
        """Write the rest."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        lost = self._lost + len(self._rows)
        if lost:
            _log.warning("%d log lines of run %s are not in the run store", lost, self._ownership.run_id)

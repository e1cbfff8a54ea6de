"""Log lines of a run on their way into the run store, from a thread of its own: no task and no driver waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

from anabranch.base.errors import RunStoreError, StaleOwner
from anabranch.engine.logs.capture import TASKS
from anabranch.engine.logs.lines import ARTIFACT, DRIVER, Key, LogLine, Sketch, artifact_key
from anabranch.runs.store.records import ArtifactRow, Batch, LogRow, Ownership, RunStore

EVERY_S = 0.5  # as soon as somebody who follows a run wants to see it; two transactions a second cost nothing
MAX_ROWS = 2_000  # of a transaction
MAX_BATCH_NBYTES = 4 << 20  # of artifacts in one
MAX_SHOWN, MAX_SHOWN_NBYTES = 10_000, 64 << 20  # artifacts of a run, and their bytes
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
        self._sketches: dict[Key, Callable[[], LogLine]] = {}
        self._sizes: dict[tuple[str, int | None, int, int], int] | None = None
        """Sizes of the artifacts that are kept, those of earlier drivers too; None until they have been read."""
        self._is_cut = False
        self._serial = 0
        self._lost = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def keep(self, line: LogLine) -> None:
        """Have a line, or an artifact, written within a second."""
        if line.level == ARTIFACT:
            self._keep(artifact_key(line), lambda: line)
            return
        with self._changed:
            if self._is_closed or len(self._rows) >= MAX_WAITING:
                self._lost += 1
                return
            self._rows.append(self._row(line))
            self._start()

    def keep_sketch(self, sketch: Sketch) -> None:
        """Have an artifact written within a second, as it will be then."""
        self._keep(sketch.key, sketch.line)

    def _keep(self, key: Key, make: Callable[[], LogLine]) -> None:
        with self._changed:
            if not self._is_closed:
                self._sketches[key] = make
                self._start()

    def _start(self) -> None:
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
            artifacts = self._artifacts()
            while (self._rows or artifacts) and self._write(self._rows[:MAX_ROWS], artifacts):
                artifacts = self._artifacts()

    def _artifacts(self) -> dict[Key, LogLine]:
        """Some of the artifacts that wait, as far as there is room for them."""
        found: dict[Key, LogLine] = {}
        size = 0
        if not self._sketches or (sizes := self._sizes_so_far()) is None:
            return found
        total = sum(sizes.values())
        with self._changed:
            while self._sketches and size < MAX_BATCH_NBYTES:
                key = next(iter(self._sketches))
                line = self._sketches.pop(key)()
                place = *key[:3], int(key[3])
                after = total + len(line.text) - sizes.get(place, 0)
                if (place not in sizes and len(sizes) >= MAX_SHOWN) or after > MAX_SHOWN_NBYTES:
                    self._tell_cut()
                    continue
                found[key], sizes[place], total = line, len(line.text), after
                size += len(line.text)
        return found

    def _sizes_so_far(self) -> dict[tuple[str, int | None, int, int], int] | None:
        if self._sizes is None:
            try:
                self._sizes = self._store.artifact_sizes(self._ownership.run_id) if self._ownership.epoch > 1 else {}
            except RunStoreError as error:
                _log.debug("artifacts wait for the run store: %s", error)
        return self._sizes

    def _tell_cut(self) -> None:
        if not self._is_cut:
            self._is_cut = True
            text = (
                f"not all artifacts are kept: a run has room for {MAX_SHOWN:,}, of {MAX_SHOWN_NBYTES >> 20} MiB in all"
            )
            self._rows.append(self._row(LogLine(time.time(), logging.WARNING, TASKS, text, "", None, 1, DRIVER)))

    def _write(self, rows: list[LogRow], artifacts: Mapping[Key, LogLine]) -> bool:
        """Write the first rows and some artifacts; whether it is of use to go on."""
        shown = [_artifact_row(each) for each in artifacts.values()]
        try:
            self._store.write(self._ownership, Batch(logs=rows, artifacts=shown))
        except StaleOwner:  # the recorder ends the run
            with self._changed:
                self._rows.clear()
                self._sketches.clear()
                self._is_closed = True
            return False
        except RunStoreError as error:
            _log.debug("log lines wait for the run store: %s", error)
            with self._changed:
                for key, line in artifacts.items():  # unless there is a later one
                    self._sketches.setdefault(key, partial(_same, line))
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
        lost = self._lost + len(self._rows) + len(self._sketches)
        if lost:
            _log.warning("%d log lines of run %s are not in the run store", lost, self._ownership.run_id)


def _same(line: LogLine) -> LogLine:
    return line


def _artifact_row(line: LogLine) -> ArtifactRow:
    kind, _, number = line.logger.partition(" ")
    when = datetime.now(UTC)  # by the clock of who writes, so that readers find what is new
    return ArtifactRow(line.slug, line.map_index, line.attempt, int(number), kind, when, line.text, line.worker)

"""Log lines of a run in a worker process, on their way to the driver: in batches, never more than can be borne."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from anabranch.engine.logs.lines import Batch, Key, LogLine, Sketch, nbytes_of, this_process

BATCH_S = 0.2  # as live as eyes can follow, and five messages a second at the most
# The scheduler keeps the last thousand messages of a run: with these, some fifteen megabytes at the worst.
BURST_LINES, LINES_PER_S = 1_000, 200
BURST_NBYTES, NBYTES_PER_S = 262_144, 65_536
MAX_BATCH_NBYTES = 32_768
BURST_SHOWN, SHOWN_PER_S = 2_097_152, 131_072  # bytes of artifacts: three large images at once


class Throttle:
    """A token bucket.

    Parameters
    ----------
    burst
        How much may pass at once.
    per_s
        How much may pass each second once that is used up.
    """

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = self._left = burst
        self._per_s = per_s
        self._seen: float | None = None

    def take(self, amount: float, now: float) -> bool:
        """Whether so much may pass at this time, in seconds of any clock that does not go back."""
        if self._seen is not None:
            self._left = min(self._burst, self._left + max(0.0, now - self._seen) * self._per_s)
        self._seen = now
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Outbox:
    """Takes a run's lines from any thread, sends them in batches, and counts what there is no room for.

    Parameters
    ----------
    level
        Of lines that are wanted; prints always are.
    send
        Sends a batch's bytes. Called from any thread, one at a time.
    worker
        Name of this process, as lines have it.
    whole
        File to which every line is written, those too that are not sent.
    """

    def __init__(
        self,
        level: int,
        send: Callable[[bytes], object],
        *,
        worker: str,
        whole: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.level = level
        self.worker = worker
        self._send = send
        self._clock = clock
        self._whole = WholeLog(whole) if whole is not None else None
        self._lock = threading.RLock()  # a file that cannot be written is logged, too
        self._sending = threading.Lock()
        self._lines: list[LogLine] = []
        self._timer: threading.Timer | None = None
        # What is worth a warning must get through where somebody logs every step.
        self._usual = (Throttle(BURST_LINES, LINES_PER_S), Throttle(BURST_NBYTES, NBYTES_PER_S))
        self._urgent = (Throttle(BURST_LINES, LINES_PER_S), Throttle(BURST_NBYTES, NBYTES_PER_S))
        self._shown = Throttle(BURST_SHOWN, SHOWN_PER_S)
        self._dropped: Counter[str] = Counter()
        self._sketches: dict[Key, Sketch] = {}

    def keep(self, sketch: Sketch) -> None:
        """Send an artifact within `BATCH_S`, unless a later one takes its place until then."""
        with self._lock:
            self._sketches[sketch.key] = sketch
            self._start_timer()

    def take(self, line: LogLine) -> None:
        """Send a line within `BATCH_S`, or count it as dropped."""
        now = self._clock()
        lines, nbytes = self._urgent if line.level >= logging.WARNING else self._usual
        with self._lock:
            if self._whole is not None:
                self._whole.write(line)
            if lines.take(1, now) and nbytes.take(len(line.text), now):
                self._lines.append(line)
            else:
                self._dropped[line.slug] += 1
            self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(BATCH_S, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def flush(self) -> None:
        """Send what there is."""
        if self._timer is None:  # nothing has come since the last time
            return
        with self._sending:  # a later batch must not overtake an earlier one
            with self._lock:
                timer, self._timer = self._timer, None
                lines, self._lines = self._lines, []
                sketches, self._sketches = self._sketches, {}
                dropped, self._dropped = dict(self._dropped), Counter()
                if self._whole is not None:
                    self._whole.flush()
            if timer is not None:
                timer.cancel()
            for artifact in (each.line() for each in sketches.values()):
                if self._shown.take(len(artifact.text), self._clock()):
                    lines.append(artifact)
                else:
                    dropped[artifact.slug] = dropped.get(artifact.slug, 0) + 1
            for part in _parts(lines):
                self._post(Batch(this_process(), tuple(part)))
            if dropped:
                self._post(Batch(this_process(), (), dropped))

    def _post(self, batch: Batch) -> None:
        with suppress(Exception):  # a connection that has gone: the driver will have noticed
            self._send(batch.dumps())

    def close(self) -> None:
        """Send the rest."""
        self.flush()
        with self._lock:
            if self._whole is not None:
                self._whole.close()


def _parts(lines: list[LogLine]) -> Iterator[list[LogLine]]:
    """Lines in parts of which each fits into a message."""
    part: list[LogLine] = []
    nbytes = 0
    for line in lines:
        size = nbytes_of((line,))
        if part and nbytes + size > MAX_BATCH_NBYTES:
            yield part
            part, nbytes = [], 0
        part.append(line)
        nbytes += size
    if part:
        yield part


class WholeLog:
    """A file of lines, each a line of JSON, in which no text can pretend to be another line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._is_broken = False

    def write(self, line: LogLine) -> None:
        """Add a line. A file that cannot be written is no reason for a task to fail."""
        if self._is_broken:
            return
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                # Not for others to read, nor where their link leads: what is logged is meant for whoever runs it.
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
                descriptor = os.open(self.path, flags, 0o600)
                self._file = open(descriptor, "a", encoding="utf-8")  # noqa: SIM115  # stays open for the run
            self._file.write(f"{json.dumps(asdict(line))}\n")
        except OSError as error:
            self._is_broken = True
            logging.getLogger("anabranch.logs").warning("no more lines are written to %s: %s", self.path, error)

    def flush(self) -> None:
        """Let others see what was written."""
        with suppress(OSError):
            if self._file is not None:
                self._file.flush()

    def close(self) -> None:
        """Let go of the file."""
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None


def whole_log_path(directory: str, run_id: str) -> Path | None:
    """Where the whole log of a run in this process is kept; None if it is not."""
    if not directory:
        return None
    host, pid = this_process()
    return folder_of(directory, run_id) / f"{_slug(host)}-{pid}.jsonl"


def folder_of(directory: str, run_id: str) -> Path:
    """Where the whole logs of a run are, one file for each process."""
    return Path(directory).expanduser() / _slug(run_id)


def _slug(name: str) -> str:
    """A name that stays in its directory: ids of runs may be users' own."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80].strip(".") or "_"

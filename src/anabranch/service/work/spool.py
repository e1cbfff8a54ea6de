"""Where the processes of runs leave what they have counted, for the service that started them.

A process writes a file now and then while its run goes on, and once at its end; the service adds up what it finds. A
run needs no service for that: where the service is gone, nothing is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anabranch.base.events import Event
from anabranch.base.files import write_whole
from anabranch.monitoring.metrics import Metrics

EVERY_S = 5.0
"""Seconds between writes of a run's counts: a third of the usual interval of Prometheus."""

_PREFIX = "anabranch-metrics-"


class Counted:
    """An observer of a run that leaves what it counts in a directory.

    Parameters
    ----------
    directory
        Empty for none: then it counts nothing.
    clock
        Seconds.
    """

    def __init__(self, directory: str, run_id: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.metrics = Metrics()
        self._file = Path(directory, f"{run_id}.{os.getpid()}.json") if directory else None
        self._clock = clock
        self._written = clock()

    @property
    def observers(self) -> list[Callable[[Event], None]]:
        """Observers for the run."""
        return [self] if self._file is not None else []

    def __call__(self, event: Event) -> None:
        """Count an event."""
        self.metrics(event)
        if self._clock() - self._written >= EVERY_S:
            self._write(is_over=False)

    def close(self) -> None:
        """Write the final counts."""
        self._write(is_over=True)

    def _write(self, *, is_over: bool) -> None:
        self._written = self._clock()
        if self._file is None:
            return
        data = {"pid": os.getpid(), "is_over": is_over, "counted": self.metrics.snapshot()}
        with contextlib.suppress(OSError):  # a full disk, or no service any more: it is counts that are lost, no run
            if not self._file.parent.exists() and _is_of_the_living(self._file.parent):
                self._file.parent.mkdir(mode=0o700)  # what is old is removed there now and then, by the system
            write_whole(self._file, json.dumps(data))


@dataclass(frozen=True, slots=True)
class Left:
    """What a process has left."""

    counted: dict[str, Any]
    """A snapshot of `Metrics`."""
    is_over: bool
    """Whether it writes no more: its run has ended, or it has died."""


def choose_directory() -> Path:
    """Path of a directory that only this process will have."""
    return Path(tempfile.gettempdir(), f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}")


def sweep(parent: Path) -> None:
    """Remove directories of services that were killed."""
    for each in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it is gone by now, or not for us to look into
            if each.lstat().st_uid == os.getuid() and _is_of_the_living(each) is False:
                shutil.rmtree(each, ignore_errors=True)


def _is_of_the_living(directory: Path) -> bool | None:
    """Whether the service lives that has a directory; None if it is of no service."""
    name = directory.name
    pid = name.removeprefix(_PREFIX).partition("-")[0]
    return _is_alive(int(pid)) if name.startswith(_PREFIX) and pid.isdecimal() else None


def collect(directory: Path) -> Iterator[Left]:
    """What processes have left; of those that are over, the files are removed."""
    try:
        files = [Path(each.path) for each in os.scandir(directory) if each.name.endswith(".json")]
    except OSError:
        return
    for file in files:
        try:
            data = json.loads(file.read_bytes())
            left = Left(data["counted"], data["is_over"] or not _is_alive(data["pid"]))
        except (OSError, ValueError, KeyError):  # not one of ours: nobody else writes here
            continue
        if left.is_over:
            file.unlink(missing_ok=True)
        yield left


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # names are anybody's to choose
        return False
    except PermissionError:
        return True
    return True

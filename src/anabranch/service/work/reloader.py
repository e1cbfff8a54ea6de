"""Registers flows again whose files have changed, while a service goes on; each file in processes of its own.

A file that cannot be registered keeps what is registered of it, and is told of until it can.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence

from anabranch.base.errors import RunStoreError
from anabranch.runs.registry.registration import place_of
from anabranch.runs.store.flows import FlowRecord, FlowTable

LOOK_S = 1.0
"""Seconds between looks. A look costs a `stat` for each Python file beside those that flows are from."""
AGAIN = 60
"""Looks after which a file is tried again that cannot be registered: what it lacks may have come from elsewhere."""
MOST_S = 120.0
"""Seconds that a file has to be registered."""
LEAVE_S = 2.0
"""Seconds for which a service that ends waits for a look."""

_log = logging.getLogger("anabranch.service")

Mark = tuple[tuple[str, int, int, int], ...]
"""Python files of a directory, each with its inode, size and time."""
Register = Callable[[Sequence[str]], str]
"""Does what ``anabranch register`` does with these arguments; gives what is wrong, or an empty text."""


def register_apart(arguments: Sequence[str]) -> str:
    """Register in a process of its own, so that a flow's file cannot harm the service."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "anabranch", "register", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MOST_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    for line in done.stdout.splitlines():
        _log.info("%s", line)
    if not done.returncode:
        return ""
    said = [line.removeprefix("Error: ") for line in done.stderr.splitlines() if line.startswith("Error: ")]
    return "; ".join(said) or f"the process that registers it ended with {done.returncode}"


class Reloader:
    """Looks at files now and then, in a thread.

    Parameters
    ----------
    flows
        The registry: of each flow, the file that it is from is looked at, with the Python files beside it.
    targets
        Files that are registered as a whole: flows that are new in them, too.
    register
        Registers what has changed.
    """

    def __init__(self, flows: FlowTable, targets: Iterable[str] = (), *, register: Register = register_apart) -> None:
        self._flows = flows
        self._targets = {os.path.realpath(each) for each in targets if os.path.isfile(each)}
        self._register = register
        self._marks = _marks(self._targets)
        self._changing: set[str] = set()
        """Directories in which something has changed since they were last looked at."""
        self._looks = 0
        self.problems: dict[str, str] = {}
        """Why files cannot be registered, by file, for as long as that is so."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="anabranch-reloader", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, after a look."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(LEAVE_S)

    def _work(self) -> None:
        while not self._over.wait(LOOK_S):
            try:
                self.look()
            except RunStoreError as error:
                _log.debug("the next look for changed files may find more: %s", error)
            except Exception:  # a bug of ours must not end what keeps a team's flows going
                _log.exception("a look for changed files failed; the next one tries again")

    def look(self) -> None:
        """Register again what has changed, and has not changed any more since the last look.

        What is seen for the first time is only noted.
        """
        files: dict[str, list[FlowRecord]] = {place: [] for place in self._targets}
        for record in self._flows.all():
            place = place_of(record.source)
            if place.endswith(".py"):
                files.setdefault(place, []).append(record)
        marks = _marks(files)
        changing = {folder for folder, mark in marks.items() if self._marks.get(folder, mark) != mark}
        done = self._changing - changing
        self._marks, self._changing = marks, changing
        self._looks += 1
        retried = set(self.problems) if self._looks % AGAIN == 0 else set()
        for place in sorted(files):
            if place in retried or os.path.dirname(place) in done:
                self._note(place, self._reload(place, files[place]))
        for place in self.problems.keys() - files.keys():
            del self.problems[place]

    def _reload(self, place: str, records: Iterable[FlowRecord]) -> str:
        """Register a file again, or the flows of it that are registered; gives what is wrong."""
        if not os.path.exists(place):
            return "it is gone"
        wanted: dict[tuple[str, ...], list[str]] = {(): [place]} if place in self._targets else {}
        for record in records:
            options = [f"--project={record.project}"] if record.project else []
            options += [f"--label={label}" for label in record.labels]
            if options or place not in self._targets:
                wanted.setdefault(tuple(options), []).append(record.source)
        found = (self._register([*options, "--", *targets]) for options, targets in wanted.items())
        return "; ".join(dict.fromkeys(filter(None, found)))

    def _note(self, place: str, problem: str) -> None:
        before = self.problems.get(place, "")
        if problem and problem != before:
            _log.error("%s cannot be registered, and its flows stay registered as they were: %s", place, problem)
        elif before and not problem:
            _log.warning("%s is registered again", place)
        if problem:
            self.problems[place] = problem
        else:
            self.problems.pop(place, None)


def _marks(files: Iterable[str]) -> dict[str, Mark]:
    """How the directories of files are."""
    return {folder: _mark(folder) for folder in {os.path.dirname(file) for file in files}}


def _mark(folder: str) -> Mark:
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    stat = os.stat(entry.path)
                    found.append((entry.name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except OSError:  # something went away meanwhile: the next look sees it
        pass
    return tuple(sorted(found))

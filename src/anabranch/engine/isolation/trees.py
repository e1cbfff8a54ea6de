"""Trees of processes: what one and all it has started weigh, and their end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import psutil


def nbytes_of(pid: int) -> int:
    """Resident memory of a process and all below it; memory that several of them share counts for each."""
    total = 0
    for each in _tree(pid):
        with suppress(psutil.Error):  # gone in the meantime
            total += psutil.Process(each).memory_info().rss
    return total


def children_of(pid: int) -> list[int]:
    """Processes that a process has started and not waited for; those that have ended are among them."""
    try:
        return list(_listed_children(pid))
    except OSError:
        with suppress(psutil.Error):
            return [each.pid for each in psutil.Process(pid).children()]
    return []


def _listed_children(pid: int) -> Iterator[int]:
    """By the kernel's own lists, where it has them: psutil looks at every process."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children") as children:
            yield from map(int, children.read().split())


def _tree(pid: int) -> list[int]:
    """A process and those below it."""
    found, position = [pid], 0
    try:
        while position < len(found):
            found += _listed_children(found[position])
            position += 1
    except OSError:
        with suppress(psutil.Error):
            return [pid, *(each.pid for each in psutil.Process(pid).children(recursive=True))]
    return found


def kill_below(pid: int) -> None:
    """Kill everything below a process, also what has made a session of its own; neither the process nor who asks."""
    done = {os.getpid()}
    while True:
        try:
            below = psutil.Process(pid).children(recursive=True)
        except psutil.Error:
            return
        new = [each for each in below if each.pid not in done]
        if not new:  # who is dying forks no more
            return
        for each in new:
            done.add(each.pid)
            with suppress(psutil.Error):
                each.kill()


def kill_tree(pid: int) -> None:
    """Kill the leader of a process group, its group and everything below it; it has not been waited for yet.

    Who asks may be in that group: its end is the last thing done.
    """
    with suppress(OSError):
        os.kill(pid, signal.SIGSTOP)  # so that it does not fork faster than it is looked at
    kill_below(pid)
    for end in (os.killpg, os.kill):
        with suppress(OSError):
            end(pid, signal.SIGKILL)


def kill_marked(name: str, value: str) -> None:
    """Kill every process of this user that has a variable with that value in the environment it was started with.

    Finds what has lost its parent, and looks at all processes to do so.
    """
    for each in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if each.environ().get(name) == value:
                each.kill()

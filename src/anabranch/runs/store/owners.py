"""Processes that own runs: how they are named, and whether one is known to be gone, which no clock decides."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import psutil

sleepless_clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds, by a clock that is never put back and, where there is such a clock, goes on while the machine sleeps."""


def name_process() -> str:
    """``host:pid``, by which a person can find this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def birth_of(pid: int) -> str:
    """What tells a process from all that have had or will have its number; it stays as it is whatever clocks do.

    Processes of other hosts, containers and boots differ in what is before the last space. Nothing if this system does
    not tell.

    Raises
    ------
    ProcessLookupError
        There is no such process.
    """
    return _own_birth() if pid == os.getpid() else _birth_of(pid)


@cache
def _own_birth() -> str:
    return _birth_of(os.getpid())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_birth.cache_clear)


def _birth_of(pid: int) -> str:
    try:
        if sys.platform != "linux":
            return f"{sys.platform} {psutil.Process(pid).create_time()!r}"
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2]  # which may have any characters
        return f"{boot}/{os.readlink('/proc/self/ns/pid')} {int(after_name.split()[19])}"
    except (OSError, ValueError, IndexError, psutil.Error):  # it is gone, or the system shows less, as a sandbox does
        if not psutil.pid_exists(pid):
            raise ProcessLookupError(pid) from None
    return ""


def is_dead(owner: str, born: str) -> bool:
    """Whether the process that holds a run is known to be gone, so that its lease need not be waited for.

    Parameters
    ----------
    born
        Its `birth_of`, as far as that was recorded.
    """
    host, _, pid = owner.rpartition(":")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    if born and _place(born) != _place(birth_of(os.getpid())):  # a container of this name, or before the last boot
        return False
    try:
        if psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE:
            return True
        return bool(born) and birth_of(int(pid)) not in (born, "")
    except (psutil.NoSuchProcess, ProcessLookupError, OverflowError):
        return True
    except psutil.Error:
        return False


def _place(born: str) -> str:
    return born.rpartition(" ")[0]

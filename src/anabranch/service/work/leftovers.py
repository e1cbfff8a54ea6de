"""What a run leaves behind in its process: put back as it was before the next run has it, or the process ends.

That pays: on two busy cores with PostgreSQL, a service had 91 to 127 short runs a second (10 to 11 ms of CPU each), and
22 to 31 (56 to 61 ms) with a process for each (`benchmarks.service`, three times). With little to do, 160 runs began
0.14 s instead of 0.23 s after their time (medians, measured once).

Some of it can be put back: the environment, the directory, signals, settings, modules of the user's own. Some cannot:
threads, processes, memory; and what a run has changed within a library nobody can see. So a process is only used again
where somebody has asked for it, and a run that finds the tracks of another is begun again in a new process.
"""

from __future__ import annotations

import copy
import gc
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
import warnings
from types import ModuleType

import dask

from anabranch.base.settings import apply_logging
from anabranch.base.where import is_users
from anabranch.engine.isolation.trees import children_of

MOST_S = 5.0
"""Beside a run that took longer, a fork of some milliseconds is nothing: the process ends with it."""
OLDEST_S = 60.0
"""Seconds for which a process is used: packages that are installed anew are seen after a minute."""
MOST_NBYTES = 512 * 2**20
"""Memory that a process may have had; it does not give it back."""
MOST_FILES = 16
"""Files and connections that runs may leave open in a process."""

if sys.platform != "win32":  # where there are no services
    import resource

    _SIGNALS = (
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
        *(signal.SIGPIPE, signal.SIGALRM, signal.SIGCHLD, signal.SIGVTALRM, signal.SIGPROF),
    )
    _TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
    _LIMITS = (resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
_SYS = ("argv", "stdin", "stdout", "stderr", "excepthook", "unraisablehook", "displayhook", "dont_write_bytecode")
_OURS = ("anabranch.", "_anabranch_")
_CODE = (".py", ".pyc")


class Leftovers:
    """How a process was before its first run, and what has to be as it was."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._environment = dict(os.environ)
        self._directory = os.getcwd()
        self._mask = _umask()
        self._signals = {number: signal.getsignal(number) for number in _SIGNALS}
        self._limits = [resource.getrlimit(each) for each in _LIMITS]
        self._sys = {name: getattr(sys, name) for name in _SYS}
        self._path = list(sys.path)
        self._hooks = (list(sys.meta_path), list(sys.path_hooks))
        self._modules = frozenset(sys.modules)
        self._settings = copy.deepcopy(dask.config.config)
        self._filters = list(warnings.filters)
        root = logging.getLogger()
        self._logging = (root.level, list(root.handlers), root.manager.disable)
        self._threads = frozenset(threading.enumerate())
        self._children = frozenset(children_of(os.getpid()))
        self._files = _open_files()

    def clear(self, *, took_s: float) -> str:
        """Put back what can be put back; gives why the process must end, or an empty text.

        Parameters
        ----------
        took_s
            How long the run took.
        """
        if why := self._why_not(took_s):
            return why
        try:
            return self._put_back()
        except Exception as error:  # whatever a user has put in the place of what is asked here
            return f"what it left could not be put back: {type(error).__name__}: {error}"

    def _why_not(self, took_s: float) -> str:
        if took_s > MOST_S:
            return f"the run took {took_s:.1f} s"
        if time.monotonic() - self._began > OLDEST_S:
            return "it is old"
        if (nbytes := _peak_nbytes()) > MOST_NBYTES:
            return f"it has had {nbytes / 2**20:.0f} MiB of memory"
        if left := [thread.name for thread in threading.enumerate() if thread not in self._threads]:
            return f"the run left threads: {', '.join(left[:5])}"
        if not self._children.issuperset(children_of(os.getpid())):
            return "the run left processes"
        if [resource.getrlimit(each) for each in _LIMITS] != self._limits:
            return "the run set limits of the process"
        if _open_files() - self._files > MOST_FILES:
            return "the run left files open"
        return ""

    def _put_back(self) -> str:
        for number, handler in self._signals.items():
            if signal.getsignal(number) is not handler:  # which may be one that Python cannot set
                signal.signal(number, handler)
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        os.environ.clear()
        os.environ.update(self._environment)
        os.chdir(self._directory)
        os.umask(self._mask)
        for name, value in self._sys.items():
            setattr(sys, name, value)
        sys.path[:] = self._path
        sys.meta_path[:], sys.path_hooks[:] = self._hooks
        if dask.config.config != self._settings:
            dask.config.config.clear()
            dask.config.config.update(copy.deepcopy(self._settings))
            apply_logging()
        warnings.filters[:] = self._filters  # type: ignore[index]  # a list, though its type says a sequence
        warnings._filters_mutated()  # type: ignore[attr-defined]  # or what was warned of before stays quiet
        root = logging.getLogger()
        root.setLevel(self._logging[0])
        root.handlers[:] = self._logging[1]
        root.manager.disable = self._logging[2]
        socket.setdefaulttimeout(None)
        random.seed()
        return self._forget_modules()

    def _forget_modules(self) -> str:
        """Unload the user's own modules: the next run may have other code in modules of these names."""
        new = [name for name in list(sys.modules) if name not in self._modules and not name.startswith(_OURS)]
        own = [name for name in new if _is_own(sys.modules[name])]
        for name in own:
            file = getattr(sys.modules[name], "__file__", None)
            if isinstance(file, str) and not file.endswith(_CODE):
                return f"the run loaded {name}, which cannot be loaded twice"
        for name in own:
            del sys.modules[name]
        if own:
            gc.collect(1)  # what they held open is closed, mostly; what was there before the first run is frozen
        return ""


def _is_own(module: ModuleType | None) -> bool:
    """Whether a module is the user's, and not installed."""
    spec = getattr(module, "__spec__", None)
    if module is None or (spec is not None and spec.origin in ("built-in", "frozen")):
        return False
    file = getattr(module, "__file__", None)
    places = [file] if isinstance(file, str) else [f"{each}/" for each in getattr(module, "__path__", None) or ()]
    return not places or any(is_users(each) for each in places)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _peak_nbytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder))
        except OSError:
            continue
    return 0

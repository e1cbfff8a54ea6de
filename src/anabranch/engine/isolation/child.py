"""What runs in a child process: takes calls from the worker that started it, one after the other, until that is gone.

The protocol has a descriptor of its own. What task code writes to stdout and stderr goes to pipes that the worker
reads.
"""

from __future__ import annotations

import atexit
import copy
import ctypes
import faulthandler
import inspect
import io
import logging
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import dask.config

from anabranch.base import artifacts, context, known_secrets, origins
from anabranch.base.context import TaskContext
from anabranch.base.errors import CodeNotLoadable, OptionError
from anabranch.base.texts import headline_of
from anabranch.engine.isolation import crossing
from anabranch.engine.isolation.frames import BEGUN, LEARNT, LOGGED, RAISED, VALUE, Channel
from anabranch.engine.isolation.trees import kill_below, kill_tree
from anabranch.engine.logs.capture import ASKED, was_asked
from anabranch.engine.logs.prints import captured
from anabranch.engine.units.values import ATOMS, dumps, dumps_with_buffers, materialised, measured

SHOWN = "anabranch_artifact"
"""Where what is logged has an artifact in place of a record: kind, number and JSON."""
EVERY_S = 0.2
GRACE_S = 2.0  # for an idle child to end as programs do, with what is to be done at exit
_NO_WORKER = {"No worker found", "No workers found", "No global client found and no address provided"}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What task code finds around it, as it is in the worker."""

    path: tuple[str, ...]
    cwd: str | None
    environ: Mapping[str, str]
    levels: Mapping[str, int]
    """Levels of loggers that have one of their own."""
    settings: Mapping[str, Any]
    """What `dask.config` has for this library: the worker's environment may not say it."""


@dataclass(frozen=True, slots=True)
class Call:
    """What goes with the pickled arguments of a call."""

    function: bytes
    """Digest of the pickled function."""
    run: bytes
    """Digest of the pickled `anabranch.base.context.RunInfo`."""
    parts: Mapping[bytes, bytes]
    """Pickles that the child does not have yet, by digest."""
    is_afresh: bool
    """Whether the child should forget those it has."""
    surroundings: Surroundings | None
    """None: as before."""
    max_width: int
    log_stdout: bool = False
    """Whether prints are log records."""


def serve(descriptor: int) -> None:
    """Answer calls until the worker closes its end; then this process and all that it has started end."""
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    child = _Child(channel)
    _survive_no_parent(child)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    frames = {"c_stack": False} if sys.version_info >= (3, 14) else {}  # of the interpreter, behind those of the code
    faulthandler.enable(all_threads=False, **frames)  # so that a crash says in which line
    relay = _Relay(channel)
    logging.getLogger().addHandler(relay)

    def be_silent() -> None:
        logging.getLogger().removeHandler(relay)
        channel.close()

    known_secrets.heard = lambda values: channel.send(LEARNT, pickle.dumps([str(value) for value in values]))
    sketches = _Sketches(channel)
    artifacts.post = sketches.take
    child.before_answer = sketches.flush
    os.register_at_fork(after_in_child=be_silent)  # a copy of this process has no say
    with suppress(OSError):  # the worker is gone, and with it what this process is for
        while (frame := channel.receive()) is not None:
            child.answer(frame[1])


class _Child:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pid = os.getpid()
        self._streams = sys.stdout, sys.stderr
        self._surroundings: Surroundings | None = None
        self._loaded: dict[bytes, Any] = {}
        self.is_busy = False
        self.before_answer: Callable[[], object] = bool

    def answer(self, parts: Any) -> None:
        """Do one call, and send what becomes of it."""
        self.is_busy = True
        try:
            value = self._call(*parts)
        except BaseException as error:  # whatever it is, it is the worker's to judge
            kind, answer = RAISED, [pickle.dumps(crossing.packed(error), protocol=5)]
        else:
            kind, answer = VALUE, value
        for stream in (sys.stdout, sys.stderr, *self._streams):
            with suppress(Exception):  # task code may have closed or replaced it
                stream.flush()
        if os.getpid() != self._pid:
            os._exit(kind == RAISED)  # task code forked, and came back twice
        self.is_busy = False
        self.before_answer()
        self._channel.send(kind, *answer)

    def _call(self, head: bytearray, payload: bytearray, *buffers: bytearray) -> list[Any]:
        call: Call = pickle.loads(head)
        if call.is_afresh:
            self._loaded.clear()
        self._settle(call.surroundings)
        try:
            self._loaded.update((digest, origins.loads(data)) for digest, data in call.parts.items())
            args, kwargs, about = pickle.loads(payload, buffers=buffers)
        except BaseException as error:  # the user's modules run while they are imported
            raise CodeNotLoadable(
                f"the function or its arguments cannot be loaded in the task's process: {headline_of(error)}"
            ) from error
        function = self._loaded[call.function]
        self._channel.send(BEGUN)
        task = TaskContext(self._loaded[call.run], **about)
        # Made log records here, prints keep their places among the others.
        prints = captured([task.task_slug]) if call.log_stdout else nullcontext()
        with context.entered(task), prints, _no_worker_said():
            value = function(*args, **kwargs)
            if inspect.iscoroutine(value) or inspect.isasyncgen(value):
                from anabranch.engine.units.loops import run_call  # asyncio takes a while to load

                value = run_call(value, call.max_width)
            value = materialised(value, call.max_width, is_lazy=True)  # the worker computes
        value, data, _ = measured(value)
        if data is not None:
            return [data]
        taken: list[pickle.PickleBuffer] = []
        data = dumps_with_buffers(value, taken)
        return [data, *(buffer.raw() for buffer in taken)]

    def _settle(self, surroundings: Surroundings | None) -> None:
        """Make this process look as the worker does, whatever the call before has left."""
        if surroundings is not None:
            self._surroundings = surroundings
            sys.path[:] = surroundings.path
            for name, level in surroundings.levels.items():
                logging.getLogger(name).setLevel(level)
            dask.config.set(anabranch=copy.deepcopy(surroundings.settings))
        sys.stdout, sys.stderr = self._streams
        wanted = self._surroundings
        if wanted is None:
            return
        if wanted.cwd is not None:
            with suppress(OSError):
                os.chdir(wanted.cwd)
        if os.environ.copy() != wanted.environ:
            os.environ.clear()
            os.environ.update(wanted.environ)


@contextmanager
def _no_worker_said() -> Iterator[None]:
    """Say why Dask finds no worker here."""
    try:
        yield
    except ValueError as error:
        found: BaseException | None = error
        seen: set[int] = set()  # causes may go in a circle
        while found is not None and id(found) not in seen and str(found) not in _NO_WORKER:
            seen.add(id(found))
            found = found.__cause__
        if found is None or id(found) in seen:
            raise
        raise OptionError(
            "isolation='process': Dask's get_client, worker_client, secede and joblib's dask backend find no worker in "
            "a task's own process; use isolation='thread', or distributed.Client with the scheduler's address"
        ) from error


class _Relay(logging.Handler):
    """Sends log records to the worker."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        fields = {**record.__dict__, "args": None, "exc_info": None, ASKED: was_asked(record.name)}
        try:
            fields["msg"] = record.getMessage()
            if record.exc_info and not record.exc_text:
                fields["exc_text"] = (self.formatter or logging.Formatter()).formatException(record.exc_info)
            try:
                data = dumps(fields)
            except Exception:  # `extra` may hold anything
                data = dumps({name: value for name, value in fields.items() if type(value) in ATOMS})
            self._channel.send(LOGGED, data)
        except Exception:
            self.handleError(record)


class _Sketches:
    """Sends artifacts to the worker: each at most five times a second, and the last one before the answer."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: dict[tuple[str, int], Callable[[], str]] = {}
        self._sent = 0.0
        self._lock = threading.Lock()

    def take(self, task: TaskContext, kind: str, number: int, dumps: Callable[[], str]) -> None:
        """Take one."""
        self._waiting[kind, number] = dumps
        if time.monotonic() - self._sent >= EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Send those that wait."""
        with self._lock:
            while self._waiting:
                (kind, number), make = self._waiting.popitem()
                self._channel.send(LOGGED, pickle.dumps({SHOWN: (kind, number, make())}))
            self._sent = time.monotonic()


def _survive_no_parent(child: _Child) -> None:
    """See to it that this process and those below it end when the worker does, however that ends."""
    atexit.register(_end_below, os.getpid())
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        # What loses its parent becomes a child of this process, and is found among those below it.
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # The watcher below kills everything. Task code in C that keeps the interpreter to itself would stop it: then
        # the kernel's word of the parent's death, SIGQUIT, sets an alarm of as many seconds as its number says (3),
        # and nobody needs the interpreter for that.
        libc.signal.restype = ctypes.c_void_p
        libc.signal(ctypes.c_int(signal.SIGQUIT), ctypes.cast(libc.alarm, ctypes.c_void_p))
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)
    threading.Thread(target=_watch, args=(child, child._channel.fileno()), name="anabranch-watch", daemon=True).start()


def _end_below(pid: int) -> None:
    if os.getpid() == pid:  # and not a copy of the process, which has inherited this
        kill_below(pid)


def _watch(child: _Child, descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # no events but the other side's end
    poll.poll()
    if sys.platform == "linux":  # the alarm would leave behind what has a session of its own
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
        libc.signal(ctypes.c_int(signal.SIGQUIT), ctypes.c_void_p(signal.SIG_IGN))
        libc.alarm(0)
    if not child.is_busy:
        threading.Event().wait(GRACE_S)  # the main thread has seen it too, and ends the process in its own way
    # Task code goes on meanwhile and may start one more after every look. A copy of this process can stop it first.
    pid = os.getpid()
    with suppress(Exception):
        if os.fork() == 0:
            try:
                kill_tree(pid)
            finally:
                os._exit(1)
        threading.Event().wait(GRACE_S)
    kill_below(pid)
    os.killpg(pid, signal.SIGKILL)

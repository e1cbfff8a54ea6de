"""Calls in child processes: what a task does there it does to a process of its own, which can be killed at any time.

Children are kept and used again. They end with an attempt that must be killed, after a minute without work, and with
the process that started them. What they do is in `anabranch.engine.isolation.child`.
"""

from __future__ import annotations

import atexit
import bz2
import codecs
import copy
import hashlib
import io
import logging
import os
import pickle
import select
import signal
import sys
import tempfile
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from shutil import rmtree
from typing import IO, Any

import dask.config

from anabranch.base import artifacts, known_secrets, masking, origins
from anabranch.base.context import RunInfo, TaskContext, current
from anabranch.base.errors import ProcessDied, TaskTimeout, UnstorableValueError
from anabranch.base.signals import CANCEL
from anabranch.base.texts import clean, headline_of
from anabranch.engine.isolation import crossing, pool
from anabranch.engine.isolation.child import SHOWN, Call, Surroundings
from anabranch.engine.isolation.devices import NOTHING, Share
from anabranch.engine.isolation.frames import BEGUN, CALL, LEARNT, LOGGED, RAISED, Part
from anabranch.engine.isolation.pool import MARK, Child
from anabranch.engine.isolation.trees import nbytes_of
from anabranch.engine.units.values import dumps, dumps_with_buffers, pickled

SAMPLE_S = 0.05  # how often memory is measured
LOAD_S = 120.0  # for a child to load its call, which may mean to import all of the user's modules on a busy machine
LOOK_S = 0.25  # longest wait: a signal to another thread does not end it, nor everywhere the end of the child
READ_NBYTES = 65_536  # what a pipe holds
READS = 16  # in a row: a child that prints without end must not keep its parent from looking at the clock
KEPT_PARTS = 64  # functions and runs that a process remembers
TAIL, TAIL_LINES = 2_000, 12  # characters and lines of stderr that explain a death

# Lines that Python prints when it crashes, and nobody needs.
_OWN = ('anabranch/engine/isolation/child.py", line ', 'File "<string>", line ', "Extension modules: ")


def call_in_process(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    context: TaskContext,
    timeout_s: float | None = None,
    memory_limit: int | None = None,
    max_width: int = sys.maxsize,
    log_stdout: bool = False,
    share: Share = NOTHING,
) -> Any:
    """Call a function in a child process; what it raises has the traceback that it had there.

    The time to start the process, and to load function and arguments there, does not count. What is printed and logged
    there is printed and logged here.

    Parameters
    ----------
    context
        What `anabranch.context` is there.
    timeout_s
        Seconds after which the process is killed, with everything it has started.
    memory_limit
        Bytes of resident memory that the process and all below it may have; looked at every 50 ms.
    max_width
        Elements that a returned iterator may give.
    log_stdout
        Whether what Python prints there are log records.
    share
        Devices that the process sees; it has none but those, and no other call has it afterwards.

    Raises
    ------
    TaskTimeout
        It ran longer than `timeout_s`.
    ProcessDied
        The process ended by itself, or was killed for its memory.
    UnstorableValueError
        Arguments or value do not pickle.
    CodeNotLoadable
        The child could not load the function or its arguments.
    CANCEL
        `kill_all` was called for the run.
    """
    message = _Message(function, args, kwargs, context, max_width, log_stdout)
    child = _POOL.lease(context.run, share)
    try:
        kind, parts = _Attempt(child, timeout_s, memory_limit).carry_out(message)
    except BaseException as error:  # also the user's Ctrl-C
        child.kill()
        if _POOL.give_back(child) and isinstance(error, Exception):
            raise CANCEL("its run was cancelled; its process was killed") from None
        raise
    if _POOL.give_back(child):
        raise CANCEL("its run was cancelled; its process was killed")
    if kind == RAISED:
        raise crossing.unpacked(pickle.loads(parts[0]))
    try:
        return pickle.loads(parts[0], buffers=parts[1:])
    except BaseException as error:  # loading runs the user's code
        raise UnstorableValueError(
            f"the result cannot be loaded outside of the task's process: {headline_of(error)}"
        ) from None


def clear(share: Share, held: Collection[Share]) -> None:
    """End idle children that may have memory of the devices of a share, but for those of shares that are held now."""
    _POOL.clear(share, held)


def kill_all(token: str) -> int:
    """Kill the children of this process that run attempts of a run; how many there were.

    Their attempts end as Cancelled, and so do others of the run that begin later with the same `RunInfo`.
    """
    return _POOL.kill_all(token)


# Messages -------------------------------------------------------------------------------------------------------------


class _Message:
    """A call, pickled but for what a child knows already."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        context: TaskContext,
        max_width: int,
        log_stdout: bool,
    ) -> None:
        about = {each.name: getattr(context, each.name) for each in fields(TaskContext) if each.name != "run"}
        buffers: list[pickle.PickleBuffer] = []
        try:
            self.function = _PARTS.get(function, _pickled_function)
            self.run = _PARTS.get(context.run, _pickled_run)
            payload = dumps_with_buffers((list(args), dict(kwargs), about), buffers)
        except BaseException as error:  # pickling runs the user's code
            raise UnstorableValueError(
                f"the function or its arguments cannot be sent to a process of the task's own: {headline_of(error)}"
            ) from None
        self.payload: list[Part] = [payload, *(buffer.raw() for buffer in buffers)]
        self.max_width = max_width
        self.log_stdout = log_stdout

    def send(self, child: Child) -> None:
        """Send it."""
        is_afresh = len(child.known) >= KEPT_PARTS
        if is_afresh:
            child.known.clear()
        new = {digest: data for digest, data in (self.function, self.run) if digest not in child.known}
        here = _surroundings(child)
        call = Call(
            self.function[0],
            self.run[0],
            new,
            is_afresh,
            here if here != child.surroundings else None,
            self.max_width,
            self.log_stdout,
        )
        child.channel.send(CALL, pickle.dumps(call, protocol=5), *self.payload)
        child.known.update(new)
        child.surroundings = here


class _Parts:
    """Pickles, with their digests, of objects that many calls share: a map has one function for all elements."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[Any, bytes, bytes]] = OrderedDict()

    def get(self, value: Any, dump: Callable[[Any], bytes]) -> tuple[bytes, bytes]:
        """Digest and pickle of an object as it was when it was first seen."""
        with self._lock:
            found = self._kept.get(id(value))
        if found is None:
            data = dump(value)
            found = (
                value,
                hashlib.blake2b(data, digest_size=16).digest(),
                data,
            )  # the object itself, so that its id stays its own
            with self._lock:
                self._kept[id(value)] = found
                while len(self._kept) > KEPT_PARTS:
                    self._kept.popitem(last=False)
        return found[1:]


def _pickled_function(function: Callable[..., Any]) -> bytes:
    data, codes = pickled(function)
    return data + origins.lines_of(codes, origins.is_only_here)


def _pickled_run(run: RunInfo) -> bytes:
    try:
        return dumps(run)
    except Exception:  # a parameter that does not pickle is no business of a task that may not want it
        return dumps(replace(run, parameters={k: v for k, v in run.parameters.items() if _pickles(v)}))


def _pickles(value: Any) -> bool:
    try:
        dumps(value)
    except Exception:
        return False
    return True


def _surroundings(child: Child) -> Surroundings:
    try:
        cwd: str | None = os.getcwd()
    except OSError:  # it was removed
        cwd = None
    loggers = list(logging.root.manager.loggerDict.items())
    levels = {name: each.level for name, each in loggers if isinstance(each, logging.Logger) and each.level}
    levels[logging.root.name] = logging.root.level
    settings = copy.deepcopy(dask.config.get("anabranch", {}))
    return Surroundings(_search_path(), cwd, {**os.environ, **child.share.environ, MARK: child.mark}, levels, settings)


def _search_path() -> tuple[str, ...]:
    archive: bytes | None = getattr(sys.modules["anabranch"], "__archive__", None)  # where it came from elsewhere
    path = (each for each in sys.path if isinstance(each, str))
    return tuple(path) if archive is None else (_extracted(archive), *path)


@cache
def _extracted(archive: bytes) -> str:
    """A folder with the content of an archive, until this process ends."""
    folder = tempfile.mkdtemp(prefix="anabranch-code-")
    atexit.register(rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(bz2.decompress(archive))) as opened:
        opened.extractall(folder)
    return folder


# Attempts -------------------------------------------------------------------------------------------------------------


class _Attempt:
    """One call in a child, from the message to the answer."""

    def __init__(self, child: Child, timeout_s: float | None, memory_limit: int | None) -> None:
        self._child = child
        self._timeout_s = timeout_s
        self._memory_limit = memory_limit
        stdout, stderr = child.streams
        self._streams = {stdout.fileno(): _Stream(stdout, "stdout"), stderr.fileno(): _Stream(stderr, "stderr")}
        self._stderr = self._streams[stderr.fileno()]
        self._poll = select.poll()
        for descriptor in (child.channel.fileno(), child.pidfd, *self._streams):
            if descriptor is not None:
                self._poll.register(descriptor, select.POLLIN)

    def carry_out(self, message: _Message) -> tuple[int, Sequence[bytearray]]:
        """Send the call and wait for its answer; kind and parts of the frame."""
        try:
            message.send(self._child)
        except OSError as error:
            raise self._died(error) from None
        try:
            return self._answer()
        finally:
            self._show(dict.fromkeys(self._streams), is_last=True)

    def _answer(self) -> tuple[int, Sequence[bytearray]]:
        has_begun, now = False, time.monotonic()
        end, measured = now + LOAD_S, now
        while True:
            if now >= end:
                if has_begun:
                    raise TaskTimeout(f"ran longer than its timeout of {self._timeout_s:g} s; its process was killed")
                raise ProcessDied(f"killed: its process could not load the function within {LOAD_S:g} s")
            if self._memory_limit is not None and now >= measured:
                self._check_memory(self._memory_limit)
                measured = now + SAMPLE_S
            ready = self._wait(end - now)
            self._show(ready)
            if self._child.channel.fileno() in ready:
                frame = self._receive()
                if frame is None:
                    raise self._died()
                kind, parts = frame
                if kind == BEGUN:
                    has_begun = True
                    end = time.monotonic() + (self._timeout_s if self._timeout_s is not None else float("inf"))
                elif kind == LEARNT:
                    known_secrets.learn("secrets", pickle.loads(parts[0]))
                elif kind == LOGGED:
                    _log_again(parts[0])
                else:
                    return frame
            elif (
                (self._child.pidfd in ready) if self._child.pidfd is not None else (not ready and self._child.has_ended)
            ):
                raise self._died()
            now = time.monotonic()

    def _wait(self, left_s: float) -> dict[int, int]:
        """Descriptors with something to read, or that were closed."""
        wait_s = min(left_s, LOOK_S if self._memory_limit is None else SAMPLE_S)
        return dict(self._poll.poll(1 + int(wait_s * 1000)))

    def _receive(self) -> tuple[int, Sequence[bytearray]] | None:
        try:
            return self._child.channel.receive()
        except OSError:
            return None

    def _show(self, ready: Mapping[int, Any], *, is_last: bool = False) -> None:
        """Print what the child printed."""
        for descriptor, stream in list(self._streams.items()):
            if descriptor in ready and not stream.read():
                self._poll.unregister(descriptor)
                del self._streams[descriptor]
                stream.finish()
            elif is_last:
                stream.finish()

    def _check_memory(self, limit: int) -> None:
        nbytes = nbytes_of(self._child.pid)
        if nbytes > limit:
            raise ProcessDied(f"killed: used {_mebibytes(nbytes)}, more than memory_limit {_mebibytes(limit)}")

    def _died(self, problem: OSError | None = None) -> ProcessDied:
        code = self._child.wait(pool.DYING_S)
        self._show(dict.fromkeys(self._streams), is_last=True)
        if code is None:
            how = f"its process does not answer ({problem or 'it has closed its connection'}) and was killed"
        elif code >= 0:
            how = f"its process ended with exit code {code}"
        else:
            how = f"its process was killed by {_signal_name(-code)}"
            if -code == signal.SIGKILL:
                how += " (as the kernel does where memory runs out)"
        said = self._stderr.tail()
        return ProcessDied(f"{how}\nlast lines of stderr:\n{said}" if said else how)


class _Stream:
    """Stdout or stderr of a child, printed to ours of that name in whole lines."""

    def __init__(self, pipe: IO[bytes], name: str) -> None:
        self._pipe = pipe
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""
        self._tail = ""

    def read(self) -> bool:
        """Print what is there now; False if nothing will come any more."""
        for _ in range(READS):
            data = self._pipe.read(READ_NBYTES)
            if data is None:
                return True
            if not data:
                return False
            text = self._begun + self._decoder.decode(data)
            whole = text.rfind("\n") + 1 if len(text) < READ_NBYTES else len(text)
            self._begun = text[whole:]
            self._print(text[:whole])
        return True

    def finish(self) -> None:
        """Print a line that has not ended."""
        text, self._begun = self._begun, ""
        self._print(text)

    def _print(self, text: str) -> None:
        if text:
            text = masking.mask(text)
            self._tail = (self._tail + text)[-TAIL:]
            with suppress(OSError, ValueError):  # ours may be closed, or a terminal that has gone
                getattr(sys, self._name).write(text)

    def tail(self) -> str:
        """What was printed last, without what the engine itself has to do with it."""
        lines = [line for line in self._tail.splitlines() if line.strip() and not any(own in line for own in _OWN)]
        return clean("\n".join(lines[-TAIL_LINES:]))


def _log_again(data: bytearray) -> None:
    with suppress(Exception):  # `extra` may hold what loads nowhere
        fields = pickle.loads(data)
        if SHOWN in fields:
            task = current()
            kind, number, text = fields[SHOWN]
            if task is not None and artifacts.post is not None:
                artifacts.post(task, kind, number, lambda: text)
            return
        fields["msg"], trace = masking.mask(fields["msg"]), fields.get("exc_text")
        fields["exc_text"] = trace and masking.mask(trace)
        record = logging.makeLogRecord(fields)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _mebibytes(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.0f} MiB"


_PARTS = _Parts()
_POOL = pool.pool(_search_path)

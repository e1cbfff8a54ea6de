"""Child processes of this one: started, kept while they may be of use again, ended.

What is said to them is in `anabranch.engine.isolation.calling`.
"""

from __future__ import annotations

import atexit
import os
import pickle
import queue
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import IO

from anabranch.base.context import RunInfo
from anabranch.base.errors import ExecutorError
from anabranch.base.signals import CANCEL
from anabranch.engine.isolation.child import GRACE_S, Surroundings
from anabranch.engine.isolation.devices import NOTHING, Share
from anabranch.engine.isolation.frames import Channel
from anabranch.engine.isolation.trees import kill_marked, kill_tree

IDLE_S = 60.0  # a hundred times what it takes to start a child; kept longer, its memory is better used by others
STUCK_S = 60.0  # a child that takes or gives no byte of a frame for so long has been stopped
DYING_S = 1.0  # between the end of a process's connections and its own
MARK = "ANABRANCH_CHILD"  # in the environment of a child, and of what it starts
REMEMBERED_RUNS = 16  # that were cancelled; each holds its parameters

# What a child begins with, when it has nothing to import from but the standard library.
BOOTSTRAP = """\
import os, pickle, sys
descriptor = int(sys.argv.pop())
def read(size):
    data = b""
    while len(data) < size:
        part = os.read(descriptor, size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data
sys.path[:] = pickle.loads(read(int.from_bytes(read(8), "little")))
from anabranch.engine.isolation.child import serve
serve(descriptor)
"""


class Child:
    """A child process, as its parent sees it.

    Parameters
    ----------
    path
        Where it finds modules.
    share
        Devices that it sees, for as long as it lives: what uses them looks once.
    """

    def __init__(self, path: Sequence[str], share: Share) -> None:
        if not sys.executable or not hasattr(select, "poll"):
            raise ExecutorError(
                'isolation="process" needs a Python program to start and a system with poll() (Linux, macOS), not '
                f"{sys.platform}; use the default isolation there"
            )
        self.mark = secrets.token_hex(8)
        self.share = share
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOTSTRAP, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # its group can be killed as one, and Ctrl-C in a terminal does not reach it
                env={**os.environ, **share.environ, MARK: self.mark},
                bufsize=0,
            )
        self.pid = self._process.pid
        self.channel = Channel(ours)
        self.known: set[bytes] = set()
        """Digests of what it has loaded."""
        self.surroundings: Surroundings | None = None
        """As it was told last."""
        self.idle_since = 0.0
        self._pidfd: int | None = None
        self._is_let_go = False
        ours.settimeout(STUCK_S)
        for stream in self.streams:
            os.set_blocking(stream.fileno(), False)
        with suppress(OSError, AttributeError):  # Linux only, and some sandboxes have none
            self._pidfd = os.pidfd_open(self.pid)
        data = pickle.dumps(list(path))
        with suppress(OSError):  # it has ended: who uses it finds out
            ours.sendall(len(data).to_bytes(8, "little") + data)

    @property
    def streams(self) -> tuple[IO[bytes], IO[bytes]]:
        """Its stdout and stderr."""
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None
        assert stderr is not None
        return stdout, stderr

    @property
    def pidfd(self) -> int | None:
        """A descriptor that tells of its end, where the system has such."""
        return self._pidfd

    @property
    def has_ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code (minus the number of a signal); None if it does not end in time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it and all it has started, at once; wait until that is so."""
        if self._is_let_go:
            return
        if self._process.poll() is None:
            kill_tree(self.pid)
            self._process.wait()
            is_whole = sys.platform == "linux"  # elsewhere, processes that lost their parent are not found below it
        else:
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
            is_whole = False
        if not is_whole:
            kill_marked(MARK, self.mark)
        self.let_go()

    def end(self) -> None:
        """Let an idle child end in its own way, and kill it if that takes long."""
        self.channel.close()
        if self.wait(GRACE_S) is None:
            self.kill()
        self.let_go()

    def let_go(self) -> None:
        """Close what this process holds of it."""
        self._is_let_go = True
        self.channel.close()
        for stream in self.streams:
            stream.close()
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)

    def disown(self) -> None:
        """Let go of it in a copy of the process that started it."""
        self._process.returncode = 0
        self.let_go()


class Pool:
    """Children of this process: for each share of devices, never more of them idle than were busy at once.

    Parameters
    ----------
    path
        Gives what a new child's ``sys.path`` is.
    idle_s
        Seconds without work after which a child is ended, give or take a quarter.
    """

    def __init__(self, path: Callable[[], Sequence[str]], *, idle_s: float = IDLE_S) -> None:
        self._path = path
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        """The one that was busy last is last."""
        self._busy: dict[Child, RunInfo] = {}
        self._cancelled: deque[RunInfo] = deque(maxlen=REMEMBERED_RUNS)
        self._orders: queue.SimpleQueue[tuple[Future[Child], RunInfo, Share]] = queue.SimpleQueue()
        self._keeper: threading.Thread | None = None

    def lease(self, run: RunInfo, share: Share = NOTHING) -> Child:
        """A child to work for a run, until `give_back`; a new one if none is idle.

        Raises
        ------
        CANCEL
            The run was cancelled.
        """
        with self._lock:
            if any(each is run for each in self._cancelled):
                raise CANCEL("its run was cancelled")
            for child in [each for each in reversed(self._idle) if each.share == share]:
                self._idle.remove(child)
                if not child.has_ended:
                    self._busy[child] = run
                    return child
                child.kill()
        return self._started(run, share)

    def give_back(self, child: Child) -> bool:
        """Keep a child for the next, unless it has ended; whether its run was cancelled."""
        with self._lock:
            run = self._busy.pop(child)
            is_cancelled = any(each is run for each in self._cancelled)
            if not is_cancelled and not child.has_ended:
                child.idle_since = time.monotonic()
                self._idle.append(child)
                return False
        child.kill()
        return is_cancelled

    def kill_all(self, token: str) -> int:
        """Kill the children that work for a run; how many there were."""
        with self._lock:
            guilty = {child: run for child, run in self._busy.items() if run.run_id == token}
            for run in guilty.values():
                if not any(each is run for each in self._cancelled):
                    self._cancelled.append(run)
            for child in guilty:
                if not child.has_ended:
                    kill_tree(child.pid)  # who waits for it sees that, and cleans up
        return len(guilty)

    def clear(self, share: Share, held: Collection[Share]) -> None:
        """End idle children that may have memory of some devices, but for those of shares that are held now."""
        self._end(lambda child: child.share not in held and not set(share.names).isdisjoint(child.share.names))

    def close(self) -> None:
        """End the children that are idle; the others end with this process."""
        self._end(lambda child: True)

    def _end(self, is_meant: Callable[[Child], bool]) -> None:
        with self._lock:
            children = [child for child in self._idle if is_meant(child)]
            self._idle = [child for child in self._idle if child not in children]
        for child in children:
            child.channel.close()  # all of them first, so that they end side by side
        for child in children:
            child.end()

    def forget(self) -> None:
        """In a copy of the process: let go of what belongs to the original."""
        for child in (*self._idle, *self._busy):
            child.disown()

    def _started(self, run: RunInfo, share: Share) -> Child:
        """A new child, busy for a run.

        On Linux a child is told when the *thread* ends that started it. So that is one which lasts.
        """
        order: Future[Child] = Future()

        def send_back(done: Future[Child]) -> None:
            done.result().kill()
            self.give_back(done.result())

        with self._lock:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="anabranch-children", daemon=True)
                self._keeper.start()
        self._orders.put((order, run, share))
        try:
            return order.result()
        except KeyboardInterrupt:
            order.add_done_callback(send_back)
            raise

    def _keep(self) -> None:
        while True:
            with suppress(queue.Empty):
                self._start(*self._orders.get(timeout=self._idle_s / 4 if self._idle or self._busy else None))
            with self._lock:
                last = time.monotonic() - self._idle_s
                old = [child for child in self._idle if child.idle_since < last]
                self._idle = [child for child in self._idle if child.idle_since >= last]
            for child in old:
                child.end()

    def _start(self, order: Future[Child], run: RunInfo, share: Share) -> None:
        try:
            child = Child(self._path(), share)
        except BaseException as error:  # belongs to the thread that waits
            order.set_exception(error)
            return
        with self._lock:
            self._busy[child] = run
        order.set_result(child)


def pool(path: Callable[[], Sequence[str]]) -> Pool:
    """A pool for the whole of this process, whose children end with it; a copy of the process begins with none."""
    made = Pool(path)

    def begin_anew() -> None:
        made.forget()
        made.__init__(path)  # type: ignore[misc]  # its locks and threads are those of the original

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin_anew)
    atexit.register(made.close)
    return made

"""The slot of a Dask worker that a task run has: given up while it waits for others, and taken back.

Dask counts threads of its own pool. An attempt with a deadline has a thread that Dask does not know, and several
elements share one of Dask's: so a `Slot` stands for the pool there, and whoever has it speaks for the pool's thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MOST_SHARERS = 100  # of one process: each has a thread, and a loop with three open files
_LOCK = threading.Lock()
_sharers = 0


class Slot:
    """Stands for the thread pool in ``secede`` and ``rejoin`` of distributed, in the place of one of its threads."""

    def __init__(self, pool: Any, thread: threading.Thread) -> None:
        self._pool = pool
        self._thread = thread
        self._is_over = False
        self._given_up: list[bool] = []
        """For each time that has not been taken back: whether the slot was there to be given up."""
        self._threads = self._rejoin_list = self  # which distributed asks for, see `remove` and `append`

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def remove(self, thread: object) -> None:
        """Give up the slot, if it has not been given up: the next element of a chunk may want to, too."""
        if not self._is_over:
            self._given_up.append(self._thread in self._pool._threads)
            self._pool._threads.discard(self._thread)

    def append(self, waiting: tuple[object, threading.Event]) -> None:
        """Have the slot taken back as soon as there is one, and the event set then; within another wait, at once."""
        has_slot = not self._given_up or self._given_up.pop()
        if self._is_over or not has_slot or self._thread in self._pool._threads:
            waiting[1].set()
        else:
            self._pool._rejoin_list.append((self._thread, waiting[1]))

    def close(self) -> bool:
        """Do nothing more for whoever has it; whether the pool's thread has its slot."""
        with self._pool._rejoin_lock:
            self._is_over = True
            waits = [each for each in self._pool._rejoin_list if each[0] is self._thread]
            for each in waits:
                self._pool._rejoin_list.remove(each)
                each[1].set()
            return self._thread in self._pool._threads


def _states() -> tuple[Any, Any] | None:
    """What Dask knows of this thread, as a thread of its pool and as that of a task; None where it knows nothing."""
    pools, workers = sys.modules.get("distributed.threadpoolexecutor"), sys.modules.get("distributed.worker")
    if pools is None or workers is None or not hasattr(pools.thread_state, "executor"):
        return None
    return pools.thread_state, workers.thread_state


@contextmanager
def held() -> Iterator[None]:
    """Until the block ends, code in this thread may give up the slot and take it back, as often as it likes."""
    states = _states()
    if states is None:
        yield
        return
    of_pool, pool = states[0], states[0].executor
    slot = of_pool.executor = Slot(getattr(pool, "_pool", pool), getattr(pool, "_thread", threading.current_thread()))
    try:
        yield
    finally:
        of_pool.executor, of_pool.proceed = pool, slot.close()


@contextmanager
def lent() -> Iterator[Callable[[], None]]:
    """Until the block ends, another thread may have what Dask knows of this one: it calls what is given here."""
    states = _states()
    if states is None:
        yield lambda: None
        return
    with held():
        here = [dict(vars(each)) for each in states]

        def take() -> None:
            for each, known in zip(states, here, strict=True):
                vars(each).update(known)

        yield take


@contextmanager
def given_up() -> Iterator[None]:
    """Until the block ends, the slot of this thread, if it has one, is for what the block waits for."""
    states = _states()
    if states is None or not hasattr(states[1], "key"):
        yield
        return
    from distributed import rejoin, secede

    with held():
        secede()
        try:
            yield
        finally:
            rejoin()


@contextmanager
def shared(most: int) -> Iterator[None]:
    """Until the block ends, the slot of this thread is for others, too; so many for each slot of the process."""
    global _sharers
    states = _states()
    if most < 1 or states is None or not hasattr(states[1], "key"):
        yield
        return
    from distributed import get_worker, secede

    with _LOCK:
        has_room = _sharers < min(most * get_worker().state.nthreads, MOST_SHARERS)
        _sharers += has_room
    if has_room:
        secede()
    try:
        yield
    finally:
        with _LOCK:
            _sharers -= has_room

"""GPUs of a worker: which of them a unit has for itself, and how its code is told.

Dask counts amounts of resources. Which devices an amount stands for, only the worker's process can say.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from math import ceil

RESOURCE = "GPU"
VARIABLES = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
"""HIP reads both. What they name is numbered among what ROCR_VISIBLE_DEVICES leaves, so that is not touched."""
WHOLE = 1_000_000  # parts of a device: three times a third must not be more
_ENVIRONMENT = threading.Lock()  # of this process, which may have several workers
LOOK_S = 0.25  # how often who waits looks whether that is still wanted


@dataclass(frozen=True, slots=True)
class Share:
    """Names of devices, and how many of `WHOLE` parts of each."""

    parts: tuple[tuple[str, int], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the devices."""
        return tuple(name for name, _ in self.parts)

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables that show these devices only."""
        return dict.fromkeys(VARIABLES, ",".join(self.names)) if self.parts else {}


NOTHING = Share()


def devices_of(environ: Mapping[str, str], total: float) -> tuple[list[str], int]:
    """Names of a worker's devices, given its environment and its amount of the resource; and the parts of each.

    A worker that says it has more than it is shown means to have several tasks on a device.
    """
    names = list(map(str, range(ceil(total))))
    given = next((environ[name] for name in VARIABLES if name in environ), None)
    if given is not None:
        shown = takewhile(lambda name: name not in ("", "-1"), map(str.strip, given.split(",")))
        names = list(shown)[: len(names)]
    return names, WHOLE * ceil(total / max(1, len(names)))


def choose(taken: Mapping[str, int], names: Sequence[str], room: int, amount: float) -> Share | None:
    """Devices for an amount: whole ones, and a part of one more for the rest; None if they are not free."""
    whole, rest = divmod(max(1, int(amount * WHOLE)), WHOLE)
    free = {name: room - taken.get(name, 0) for name in names}
    parts = []
    for size in ([WHOLE] * whole + [rest] * (rest > 0))[: len(names)]:
        fitting = [name for name in free if free[name] >= size]
        if not fitting:
            return None
        name = (max if size == WHOLE else min)(fitting, key=free.__getitem__)  # parts go where others have parts
        parts.append((name, size))
        del free[name]
    return Share(tuple(parts))


class Devices:
    """The devices of a worker; who came first is served first."""

    def __init__(self) -> None:
        self._environ = dict(os.environ)
        self._condition = threading.Condition()
        self._waiting: list[object] = []
        self._held: list[Share] = []

    @contextmanager
    def held(
        self,
        amount: float,
        total: float,
        *,
        is_over: Callable[[], bool],
        is_alone: bool,
        clear: Callable[[Share, Collection[Share]], object],
    ) -> Iterator[Share | None]:
        """Until the block ends, have a share for an amount of `total`; None if it is over before there is one.

        Parameters
        ----------
        is_alone
            Whether the worker runs one task at a time: then the environment of this process shows the devices, too.
        clear
            Is given the share, and all that are held, before the block begins.
        """
        share, held = self._take(*devices_of(self._environ, total), amount, is_over)
        if share is None:
            yield None
            return
        is_shown = is_alone and _ENVIRONMENT.acquire(blocking=False)
        before = {name: os.environ.get(name) for name in share.environ} if is_shown else {}
        try:
            clear(share, held)
            if before:
                os.environ.update(share.environ)
            yield share
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            if is_shown:
                _ENVIRONMENT.release()
            with self._condition:
                self._held.remove(share)
                self._condition.notify_all()

    def _take(
        self, names: Sequence[str], room: int, amount: float, is_over: Callable[[], bool]
    ) -> tuple[Share | None, list[Share]]:
        me, share = object(), None
        with self._condition:
            self._waiting.append(me)
            while not is_over():
                if self._waiting[0] is me:
                    taken = Counter[str]()
                    for name, size in (part for held in self._held for part in held.parts):
                        taken[name] += size
                    share = choose(taken, names, room, amount)
                    if share is not None:
                        self._held.append(share)
                        break
                self._condition.wait(LOOK_S)
            self._waiting.remove(me)
            self._condition.notify_all()
            return share, list(self._held)

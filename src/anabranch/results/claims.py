"""Who computes the value of a key, while others that want it wait: claims, as small objects beside the value's place.

A claim gives a sign of life while it is held. One that has given none for `LEASE_S`, by the clock of who waits, or
whose process is known to be gone, is passed over: the next is claimed, and only one of those who wait can have that.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import uuid4

from anabranch.base.errors import ResultError
from anabranch.results.result import Result

T = TypeVar("T")

LEASE_S = 30.0  # as long as a run is held without a sign of life of its driver
BEAT_S = LEASE_S / 3  # two may be late
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.5  # between two looks: a trip to the store each
_TELL_S = 10.0  # of waiting, until it is worth a line

_log = logging.getLogger("anabranch.results")


@dataclass(eq=False)
class Claim:
    """The right to compute the value of a key; it is held until it is released."""

    result: Result
    location: str
    number: int
    """How many claims before it were passed over."""
    owner: str = field(default_factory=lambda: uuid4().hex)
    beats: int = 0
    is_held: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def content(self) -> bytes:
        """Who holds it, and the count of its signs of life."""
        about = {"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(), "beats": self.beats}
        return json.dumps(about).encode()

    def beat(self) -> None:
        """Give a sign of life."""
        with self._lock, suppress(ResultError):  # the next may come through
            if not self.is_held:
                return
            self.beats += 1
            self.result.put_note(_name_claim(self.location, self.number), self.content(), replace=True)

    def release(self) -> None:
        """Let others have it; those that were passed over go as well."""
        with self._lock:
            self.is_held = False
        _HEART.forget(self)
        for number in range(self.number + 1):
            with suppress(ResultError):  # then it is passed over when its time has come
                self.result.delete(_name_claim(self.location, number))


async def value_or_claim(
    result: Result,
    location: str,
    look: Callable[[], T | None],
    pause: Callable[[float], Awaitable[None]],
    *,
    has_looked: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> T | Claim:
    """What `look` finds, be it once another has computed it; or the claim to compute it here.

    `has_looked`: nothing was there a moment ago. `pause` lets some seconds pass.

    Raises
    ------
    ResultError
        The store cannot be used.
    """
    began = clock()
    pause_s, is_told = _FIRST_PAUSE_S, False
    seen: dict[int, tuple[bytes, float]] = {}
    while True:
        if not has_looked and (value := look()) is not None:
            return value
        has_looked = False
        claim = _claim(result, location, seen, clock)
        if isinstance(claim, Claim):
            try:
                value = look()
            except BaseException:
                claim.release()
                raise
            if value is None:
                return claim
            claim.release()  # it was computed between the look and the claim
            return value
        if not is_told and clock() - began > _TELL_S:
            is_told = True
            _log.info("waiting for %s, which %s computes", location, claim)
        await pause(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _claim(
    result: Result, location: str, seen: dict[int, tuple[bytes, float]], clock: Callable[[], float]
) -> Claim | str:
    """The claim, or who holds it."""
    number = 0
    while True:
        mine = Claim(result, location, number)
        _HEART.add(mine)  # before others see it
        try:
            if result.put_note(_name_claim(location, number), mine.content()):
                return mine
        except BaseException:
            _HEART.forget(mine)
            raise
        _HEART.forget(mine)
        data = result.get_note(_name_claim(location, number))
        if data is None:  # it was released this moment
            continue
        before, since = seen.get(number, (b"", 0.0))
        if data != before:
            before, since = seen[number] = (data, clock())
        holder = _holder(data)
        if clock() - since < LEASE_S and not _is_gone(holder):
            return f"{holder.get('host')}:{holder.get('pid')}"
        number += 1


def _name_claim(location: str, number: int) -> str:
    return f"{location}.claim-{number}"


def _holder(data: bytes) -> dict[str, object]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_gone(holder: dict[str, object]) -> bool:
    """Whether nobody holds it any more, as far as that can be known: of another machine's processes it cannot."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    if pid == os.getpid():  # one that could not be deleted
        return not _HEART.holds(holder.get("owner"))
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


class _ClaimHeart:
    """Gives signs of life for all claims of this process, in a thread that is there while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: set[Claim] = set()
        self._thread: threading.Thread | None = None

    def add(self, claim: Claim) -> None:
        with self._lock:
            self._claims.add(claim)
            if self._thread is None or not self._thread.is_alive():  # a thread does not survive a fork
                self._thread = threading.Thread(target=self._beat, name="anabranch-claims", daemon=True)
                self._thread.start()

    def forget(self, claim: Claim) -> None:
        with self._lock:
            self._claims.discard(claim)

    def holds(self, owner: object) -> bool:
        with self._lock:
            return any(claim.owner == owner for claim in self._claims)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            with self._lock:
                claims = list(self._claims)
                if not claims:
                    self._thread = None
                    return
            for claim in claims:
                claim.beat()


_HEART = _ClaimHeart()

"""Wrong tokens by the address that sent them: after too many in a minute, it is told to wait."""

from __future__ import annotations

from collections.abc import Callable

MOST, WINDOW_S = 20, 60.0  # a minute; a token of 16 characters needs no more protection, and a log no more lines
MAX_ADDRESSES = 1_000  # that are remembered: an attacker may have many, and what is known of them must not grow


class Attempts:
    """Counts wrong tokens.

    Parameters
    ----------
    clock
        Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: dict[str, list[float]] = {}

    def note(self, address: str) -> None:
        """Count one."""
        while len(self._times) >= MAX_ADDRESSES and address not in self._times:
            del self._times[next(iter(self._times))]
        self._times.setdefault(address, []).append(self._clock())

    def is_exhausted(self, address: str) -> bool:
        """Whether an address has sent too many."""
        now = self._clock()
        found = [each for each in self._times.get(address, ()) if now - each < WINDOW_S]
        if found:
            self._times[address] = found
        else:
            self._times.pop(address, None)
        return len(found) >= MOST

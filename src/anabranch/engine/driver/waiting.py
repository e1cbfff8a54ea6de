"""How long a run waits where nothing runs, and what it says meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

FIRST_WORD_S = 10.0  # a pod takes about so long; who waits longer wonders


class Patience:
    """Watches the number of slots.

    Parameters
    ----------
    limit_s
        Seconds without any worker after which nothing is expected any more.
    say
        Is told once that the run waits.
    shortage
        Gives what there is instead of slots, and what to do about it.
    """

    def __init__(self, limit_s: float, say: Callable[[str], None], shortage: Callable[[], tuple[str, str]]) -> None:
        self._limit_s = limit_s
        self._say = say
        self._shortage = shortage
        self._since: float | None = None
        self._has_spoken = False

    @property
    def reason(self) -> str:
        """Why the run ends, if it does."""
        found, cure = self._shortage()
        return f"{found} for {self._limit_s:g} s; {cure}, or wait longer with the setting engine.no_workers_timeout_s"

    def is_over(self, slots: int, now: float) -> bool:
        """Whether there has been no slot for too long."""
        if slots > 0:
            self._since, self._has_spoken = None, False
            return False
        if self._since is None:
            self._since = now
        waited_s = now - self._since
        if waited_s >= FIRST_WORD_S and not self._has_spoken:
            self._has_spoken = True
            self._say(f"{self._shortage()[0]} for {waited_s:.0f} s; waiting up to {self._limit_s:g} s in all")
        return waited_s >= self._limit_s


class Watchdog:
    """Asks what is going on when no report has come for a while, and tells; less and less often.

    Parameters
    ----------
    limit_s
        Seconds without a report after which it asks; twice as long after each time that it has spoken.
    ask
        What the executor sees: sentences, or none if nothing is expected of it.
    say
        Is told.
    """

    def __init__(self, limit_s: float, ask: Callable[[], Sequence[str]], say: Callable[[str], None]) -> None:
        self._limit_s = limit_s
        self._ask = ask
        self._say = say
        self._since: float | None = None
        self._next_s = limit_s

    def calm(self) -> None:
        """Something has happened."""
        self._since, self._next_s = None, self._limit_s

    def look(self, now: float) -> None:
        """Nothing has happened up to now, in seconds of any clock."""
        if self._since is None:
            self._since = now
        waited_s = now - self._since
        if waited_s < self._next_s:
            return
        self._next_s = 2 * waited_s
        seen = self._ask()
        if seen:
            self._say(f"no report for {waited_s:.0f} s: {'; '.join(seen)}")

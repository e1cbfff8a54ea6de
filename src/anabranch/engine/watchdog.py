"""What a run says when nothing has happened for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence


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

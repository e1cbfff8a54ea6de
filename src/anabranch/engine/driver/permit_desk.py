"""When a driver speaks to the run store about permits of named limits: at once, after a while, or not at all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from anabranch.engine.machine.permits import Claim, Grant, Permits, Spent, name_of

LOOK_S = 1.0
"""How often a driver that goes on using its permits asks whether others wait, and how long it keeps those that nothing
uses at the moment: so a chain of maps, or a chunk after the other, needs no round trip for each."""
_FIRST_S = 0.05  # between tries of who is next in the queue: about what a freed permit lies idle
_LONGEST_S = 1.0  # between tries of who is far from it; `permit_rules.FRESH` is several of these
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0  # between tries of a run store that does not answer
_PATIENCE_S = 2.0  # of waiting, before it is worth a line


class PermitDesk:
    """The driver's side of `Permits`.

    Parameters
    ----------
    permits
        Where they come from.
    say
        Is told what the user should know.
    keeps
        Whether permits that nothing uses are kept for a moment; not where the driver itself runs tasks, since it could
        not give them back while it does.
    clock
        Seconds, of a clock that does not go back.
    jitter
        A factor by which waiting times differ, so that drivers do not ask in step.
    """

    def __init__(
        self,
        permits: Permits,
        say: Callable[[str], None],
        *,
        keeps: bool = True,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        self._permits = permits
        self._say = say
        self._keeps = keeps
        self._clock = clock
        self._jitter = jitter
        self._claim = Claim()
        self._grant = Grant()
        self._looked = 0.0
        self._look_at: float | None = None
        self._refused: frozenset[str] = frozenset()
        """Names of what was wanted at the last look and not given."""
        self._pause_s = 0.0
        self._waits_since: float | None = None
        self._has_said = False

    def take(self, claim: Claim) -> None:
        """The machine claims this now."""
        before, self._claim = self._claim, claim
        now = self._clock()
        wanted = frozenset(name for bundle, _ in claim.wants for name in bundle)
        may_use = self._grant.may_use
        is_spare = any(count > claim.in_use.get(name, 0) for name, count in may_use.items())
        is_draining = any(count > may_use.get(name, 0) for name, count in before.in_use.items())
        times = [self._look_at] if self._look_at is not None and (wanted or claim.in_use or may_use) else []
        if self._pause_s:  # it does not answer: it is asked again when it is time
            self._look_at = min(times, default=now)
            return
        is_withdrawn = bool(self._refused) and not wanted
        is_given_back = is_draining and sum(claim.in_use.values()) < sum(before.in_use.values())
        if wanted - self._refused or is_withdrawn or is_given_back or (is_spare and not self._keeps):
            times.append(now)
        elif is_spare or (claim.in_use and claim.has_more):
            times.append(max(now, self._looked + LOOK_S))
        if not times and (wanted or is_spare):
            times.append(now)
        self._look_at = min(times, default=None)

    @property
    def due_s(self) -> float | None:
        """Seconds until the next look; None if there is nothing to look for."""
        return None if self._look_at is None else max(0.0, self._look_at - self._clock())

    @property
    def lacks(self) -> str:
        """What the run waits for, if it can do so without a process: nothing if it needs permits of several limits."""
        if not self._grant.is_answered or any(len(bundle) > 1 for bundle, _ in self._claim.wants):
            return ""
        if self._refused:
            return self._grant.waits_for
        return ", ".join(map(name_of, self._claim.in_use)) if self._claim.has_more else ""

    def look(self) -> Grant | None:
        """Ask, if it is time; what the machine should know of the answer."""
        is_due = self._look_at is not None and self._clock() >= self._look_at
        if not is_due and not self._permits.has_lapsed():
            return None
        before, self._grant = self._grant, self._permits.settle(self._claim)
        now = self._looked = self._clock()
        wanted = {name for bundle, _ in self._claim.wants for name in bundle}
        self._refused = frozenset(wanted if self._grant.waits_for else ())
        for note in self._grant.notes:
            self._say(note)
        if not self._grant.is_answered:
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s or _FIRST_PAUSE_S)
            self._look_at = now + self._pause_s * self._jitter()
        else:
            self._pause_s = 0.0
            self._look_at = self._next_look(now)
            self._tell(now)
        is_news = self._grant.lost or self._grant.may_use != before.may_use
        return self._grant if is_news else None

    def _next_look(self, now: float) -> float | None:
        claim = self._claim
        if self._refused and not claim.in_use:
            return now + min(_LONGEST_S, _FIRST_S * (1 + self._grant.ahead)) * self._jitter()
        if self._refused or (claim.in_use and claim.has_more):
            return now + LOOK_S * self._jitter()
        return None

    def _tell(self, now: float) -> None:
        """Say once, of each time that the run stands still, what it waits for."""
        if not self._refused or self._claim.in_use:
            self._waits_since, self._has_said = None, False
            return
        if self._waits_since is None:
            self._waits_since = now
        if not self._has_said and now - self._waits_since >= _PATIENCE_S:
            self._has_said = True
            self._say(f"waits for room in a limit: {self._grant.waits_for}")

    def rest(self) -> None:
        """Keep the places of what the run waits for, while it has no process."""
        self._permits.rest()

    def close(self, spent: Collection[Spent] = ()) -> None:
        """Give everything back, but for what counts for some time yet."""
        self._look_at = None
        self._grant = replace(self._grant, may_use={})
        self._permits.close(spent)

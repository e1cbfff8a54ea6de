"""Named limits: how many units of a run may be on their way for each name, and rates: how many attempts in a window."""

from __future__ import annotations

import heapq
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from anabranch.definition.frozen import FrozenNode
from anabranch.engine.machine.permits import Bundle, Claim, Spent, rate_limit, window_of
from anabranch.engine.units.units import Key

Names: TypeAlias = tuple[str, ...]
"""What the templates of a node's limits make of an element, in their order."""

MAX_WANTS = 50  # that are claimed at a time: with limits by element there may be thousands
STEPS = 100  # in which the permits of a window come back: each may be a chunk, and a message to the run store


@dataclass(slots=True)
class _Use:
    """What a unit holds of one limit."""

    limit: str
    count: int
    is_permitted: bool
    """Whether that counts against what others have permitted."""
    told: int = 0
    """Attempts that the unit has told of, while it goes on."""


class Limits:
    """Who holds how much of each limit.

    A unit holds one of each name that its nodes have, as it runs them in turn; and of each rate one for each attempt,
    which counts until a window after its end.

    Parameters
    ----------
    nodes
        Nodes of the run.
    is_shared
        Whether others share the limits: then there is room only below what was permitted, too.
    outside
        Limits of which the task that runs this flow holds a permit: one unit at a time has it, and no other is asked
        for, since that task would wait for it for ever.
    """

    def __init__(
        self, nodes: Iterable[FrozenNode], *, is_shared: bool = False, outside: frozenset[str] = frozenset()
    ) -> None:
        self.is_shared = is_shared
        self._now = 0.0
        self._outside = outside
        self._most: dict[str, int] = {}
        self._rates: dict[str, dict[str, None]] = {}
        """Limits of each rate's name: one for each window that tasks give it."""
        self._held: Counter[str] = Counter()
        self._permitted: Counter[str] = Counter()
        """How much of that counts against what others have permitted."""
        self._units: dict[Key, list[_Use]] = {}
        self._spent: dict[tuple[float, str, bool], int] = {}
        """What is held for the rest of a window: by when that ends, limit, and whether it counts as permitted."""
        self._ends: list[tuple[float, str, bool]] = []
        """The same, as a heap."""
        self._may_use: dict[str, int] = {}
        self._turned_away: Counter[Bundle] = Counter()
        self._by_attempt: set[Bundle] = set()
        """Those of which a unit can use many permits."""
        self._is_short = False
        """Whether anything was turned away that needs permits of rates."""
        for node in nodes:
            self.add(node)

    def add(self, node: FrozenNode) -> None:
        """A node may ask for room from now on."""
        if not node.policies.templates:
            self._limits_of(node)

    def __bool__(self) -> bool:
        return bool(self._most)

    def _limits_of(self, node: FrozenNode, names: Names = ()) -> tuple[list[str], list[str]]:
        """The named limits and the rates of a node; `names`: those that its templates make, if they are known."""
        policies = node.policies
        if not policies.is_limited:
            return [], []
        made = dict(zip(policies.templates, names or policies.templates, strict=True))
        left_out = made if not names else ()
        concurrency = {made.get(name, name): n for name, n in policies.concurrency.items() if name not in left_out}
        rates = {made.get(name, name): rate for name, rate in policies.rate.items() if name not in left_out}
        for name, most in concurrency.items():
            self._most[name] = 1 if name in self._outside else min(most, self._most.get(name, most))
        for name, (count, window_s) in rates.items():
            limit = rate_limit(name, window_s)
            self._rates.setdefault(name, {})[limit] = None
            self._most[limit] = min(count, self._most.get(limit, count))
        return list(concurrency), [limit for name in rates for limit in self._rates[name]]

    def room(self, node: FrozenNode, names: Names = (), *, is_call: bool = True) -> int:
        """How many attempts of this node a unit may have that is sent now; 0: there is no room for it.

        Parameters
        ----------
        names
            What its templates make; none: they are left out of account.
        is_call
            Whether the unit calls the task's function.
        """
        concurrency, rates = self._limits_of(node, names)
        if any(self._left(name) <= 0 for name in concurrency):
            return 0
        return max(0, min(map(self._left, rates), default=sys.maxsize) if is_call else sys.maxsize)

    def _left(self, limit: str) -> int:
        left = self._most[limit] - self._held[limit]
        if self.is_shared and limit not in self._outside:
            left = min(left, self._may_use.get(limit, 0) - self._permitted[limit])
        return left

    def lanes(self, node: FrozenNode, names: Names = ()) -> int:
        """How many elements of a chunk may be awaited side by side, as far as named limits go."""
        return max(1, min(map(self._left, self._limits_of(node, names)[0]), default=sys.maxsize))

    def hold(self, key: Key, nodes: Iterable[FrozenNode], attempts: int, names: Names = (), *, lanes: int = 1) -> None:
        """A unit with these nodes is on its way, for so many attempts of each, so many `lanes` side by side."""
        limits = [self._limits_of(node, names) for node in nodes]
        held = dict.fromkeys(name for concurrency, _ in limits for name in concurrency)
        uses = [_Use(name, lanes, name not in self._outside) for name in held]
        if attempts:
            uses += [_Use(limit, attempts, True) for _, rates in limits for limit in rates]
        if uses:
            self._units[key] = uses
        for use in uses:
            self._count(use.limit, use.count, is_permitted=use.is_permitted)

    def _count(self, limit: str, more: int, *, is_permitted: bool) -> None:
        self._held[limit] += more
        if is_permitted:
            self._permitted[limit] += more

    def spend(self, key: Key, attempts: int, ages: Sequence[float] = (), *, is_part: bool) -> None:
        """So many attempts of a unit have ended by now: since it last told, if it goes on, else all that it made.

        `ages`: how many seconds ago they did, as far as that is known. The last ones are those that were not told of.
        """
        for use in self._units.get(key, ()):
            window_s = window_of(use.limit)
            if not window_s:
                continue
            count = min(use.count, attempts if is_part else max(0, attempts - use.told))
            use.count -= count
            use.told += count
            known = sorted(ages)[:count]
            for age in known:
                self._keep(self._now - age, use, 1)
            self._keep(self._now, use, count - len(known))

    def _keep(self, ended: float, use: _Use, count: int) -> None:
        """Attempts have ended then: their permits are held for the rest of a window."""
        end, step_s = ended + window_of(use.limit), window_of(use.limit) / STEPS
        end = max(end, math.ceil(end / step_s) * step_s)
        if count and end > self._now:
            self._put((end, use.limit, use.is_permitted), count)
        else:
            self._count(use.limit, -count, is_permitted=use.is_permitted)

    def _put(self, place: tuple[float, str, bool], count: int) -> None:
        if place not in self._spent:
            heapq.heappush(self._ends, place)
        self._spent[place] = self._spent.get(place, 0) + count

    def free(self, key: Key, attempts: int = sys.maxsize, ages: Sequence[float] = ()) -> None:
        """A unit is not on its way any more; it made so many attempts at the most, which ended so long ago."""
        self.spend(key, attempts, ages, is_part=False)
        for use in self._units.pop(key, ()):
            self._count(use.limit, -use.count, is_permitted=use.is_permitted)

    def pass_time(self, now: float) -> None:
        """It is later."""
        self._now = now
        while self._ends and self._ends[0][0] <= now:
            place = heapq.heappop(self._ends)
            self._count(place[1], -self._spent.pop(place), is_permitted=place[2])

    @property
    def next_due(self) -> float | None:
        """When permits of a rate can be used again, if anybody waits for them or others share them."""
        if not (self._is_short or self.is_shared):
            return None
        return self._ends[0][0] if self._ends else None

    def spent(self) -> list[Spent]:
        """What counts for some time yet: units that are on their way may end now."""
        away = [(use.limit, use.count, window_of(use.limit)) for uses in self._units.values() for use in uses]
        kept = [(limit, count, end - self._now) for (end, limit, is_ours), count in self._spent.items() if is_ours]
        return [*(each for each in away if each[2] and each[1]), *kept]

    # Shared limits ----------------------------------------------------------------------------------------------------

    def look_again(self) -> None:
        """Everything that can run is looked at from now on: who finds no room says so."""
        self._turned_away.clear()
        self._is_short = False

    def turn_away(self, node: FrozenNode, units: int = 1, names: Names = ()) -> None:
        """So many units with this node, or attempts if it has a rate, could go out if there were room."""
        concurrency, rates = self._limits_of(node, names)
        self._is_short |= bool(rates)
        if self.is_shared:
            bundle = tuple(sorted({*concurrency, *rates} - self._outside))
            self._turned_away[bundle] += units
            if node.is_awaited or not concurrency:
                self._by_attempt.add(bundle)

    @property
    def units(self) -> int:
        """Units on their way that hold a limit."""
        return len(self._units)

    def permit(self, may_use: Mapping[str, int], lost: Collection[str] = ()) -> None:
        """So many permits there are for units; those that units have of limits that were lost do not count any more."""
        self._may_use = dict(may_use)
        for use in (use for uses in self._units.values() for use in uses if use.limit in lost):
            use.is_permitted = False
        for place in [place for place in self._ends if place[1] in lost and place[2]]:
            self._put((place[0], place[1], False), self._spent.pop(place))
        self._ends = sorted(self._spent)
        for limit in lost:
            self._permitted[limit] = 0

    def claim(self, slots: int, *, ahead: int = 0) -> Claim:
        """What is in use and wanted. No more is wanted than could run at the same time: what is queued needs none.

        `ahead`: other units that must run first.
        """
        spare = max(0, slots - len(self._units) - ahead)
        wants: list[tuple[Bundle, int]] = []
        for bundle, units in self._turned_away.items():
            room = min((self._most[name] - self._held[name] for name in bundle), default=0)
            count = min(units, room, spare and units if bundle in self._by_attempt else spare)
            if bundle and count > 0 and len(wants) < MAX_WANTS:
                wants.append((bundle, count))
        in_use = {name: count for name, count in self._permitted.items() if count > 0}
        used = {*in_use, *(name for bundle, _ in wants for name in bundle)}
        sizes = {name: self._most[name] for name in (self._most if len(self._most) <= MAX_WANTS else used)}
        return Claim(sizes, in_use, tuple(wants), has_more=bool(self._turned_away))

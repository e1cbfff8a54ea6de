"""Named limits: how many units of a run may be on their way for each name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from anabranch.definition.frozen import FrozenNode
from anabranch.engine.machine.permits import Bundle, Claim
from anabranch.engine.units.units import Key


class Limits:
    """Who holds how much of each limit. A unit holds one of each name that its nodes have: it runs them in turn.

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
        self._outside = outside
        self._most: dict[str, int] = {}
        self._held: Counter[str] = Counter()
        self._units: dict[Key, set[str]] = {}
        """Names that units on their way hold with a permit."""
        self._permitted: Counter[str] = Counter()
        """How many of those there are."""
        self._may_use: dict[str, int] = {}
        self._turned_away: Counter[Bundle] = Counter()
        for node in nodes:
            self.add(node)

    def add(self, node: FrozenNode) -> None:
        """A node may ask for room from now on."""
        for name, most in node.policies.concurrency.items():
            self._most[name] = 1 if name in self._outside else min(most, self._most.get(name, most))

    def __bool__(self) -> bool:
        return bool(self._most)

    def have_room(self, node: FrozenNode) -> bool:
        """Whether a unit with this node may be sent now."""
        names = node.policies.concurrency
        if not all(self._held[name] < self._most[name] for name in names):
            return False
        asked = [name for name in names if name not in self._outside] if self.is_shared else []
        return all(self._permitted[name] < self._may_use.get(name, 0) for name in asked)

    def hold(self, key: Key, nodes: Iterable[FrozenNode]) -> None:
        """A unit with these nodes is on its way."""
        names = {name for node in nodes for name in node.policies.concurrency}
        if names:
            self._units[key] = names - self._outside
            self._held.update(names)
            self._permitted.update(self._units[key])

    def free(self, key: Key, nodes: Iterable[FrozenNode]) -> None:
        """It is not any more."""
        names = self._units.pop(key, set())
        self._permitted.subtract(names)
        self._held.subtract({name for node in nodes for name in node.policies.concurrency})

    # Shared limits ----------------------------------------------------------------------------------------------------

    def look_again(self) -> None:
        """Everything that can run is looked at from now on: who finds no room says so."""
        self._turned_away.clear()

    def turn_away(self, node: FrozenNode, units: int = 1) -> None:
        """So many units with this node could go out if there were room."""
        if self.is_shared:
            self._turned_away[tuple(sorted(node.policies.concurrency.keys() - self._outside))] += units

    @property
    def units(self) -> int:
        """Units on their way that hold a limit."""
        return len(self._units)

    def permit(self, may_use: Mapping[str, int], lost: Collection[str] = ()) -> None:
        """So many permits there are for units; those that units have of limits that were lost do not count any more."""
        self._may_use = dict(may_use)
        for name in lost:
            self._permitted[name] = 0
            for names in self._units.values():
                names.discard(name)

    def claim(self, slots: int, *, ahead: int = 0) -> Claim:
        """What is in use and wanted. No more is wanted than could run at the same time: what is queued needs none.

        `ahead`: other units that must run first.
        """
        spare = max(0, slots - len(self._units) - ahead)
        wants: list[tuple[Bundle, int]] = []
        for bundle, units in self._turned_away.items():
            room = min((self._most[name] - self._held[name] for name in bundle), default=0)
            count = min(units, room, spare)
            if bundle and count > 0:
                wants.append((bundle, count))
        in_use = {name: count for name, count in self._permitted.items() if count > 0}
        return Claim(dict(self._most), in_use, tuple(wants), has_more=bool(self._turned_away))

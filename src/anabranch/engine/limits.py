"""Named limits: how many units of a run may be on their way for each name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from anabranch.frozen import FrozenNode


class Limits:
    """Who holds how much of each limit. A unit holds one of each name that its nodes have: it runs them in turn."""

    def __init__(self, nodes: Iterable[FrozenNode]) -> None:
        self._most: dict[str, int] = {}
        self._held: Counter[str] = Counter()
        for node in nodes:
            self.add(node)

    def add(self, node: FrozenNode) -> None:
        """A node may ask for room from now on."""
        for name, most in node.policies.concurrency.items():
            self._most[name] = min(most, self._most.get(name, most))

    def __bool__(self) -> bool:
        return bool(self._most)

    def have_room(self, node: FrozenNode) -> bool:
        """Whether a unit with this node may be sent now."""
        return all(self._held[name] < self._most[name] for name in node.policies.concurrency)

    def hold(self, nodes: Iterable[FrozenNode]) -> None:
        """A unit with these nodes is on its way."""
        self._held.update(_names(nodes))

    def free(self, nodes: Iterable[FrozenNode]) -> None:
        """It is not any more."""
        self._held.subtract(_names(nodes))


def _names(nodes: Iterable[FrozenNode]) -> set[str]:
    return {name for node in nodes for name in node.policies.concurrency}

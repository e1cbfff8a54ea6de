"""Conditions: tests of a value, and the blocks that are closed where a test does not hold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from anabranch.base.errors import UnknownNodeError
from anabranch.base.names import short
from anabranch.base.signals import SKIP
from anabranch.definition import scope
from anabranch.definition.equality import equal
from anabranch.definition.graph import NodeLike
from anabranch.definition.lookup import foreign, home_of


class Gate(AbstractContextManager["Gate"]):
    """A block whose tasks run only if a condition node holds. It can be opened once the flow's own block is closed."""

    def __init__(self, node: NodeLike) -> None:
        self.node = node
        self._around = scope.current().gates  # the condition node is under these itself

    def __enter__(self) -> Gate:
        around = scope.current()
        graphs = around.graphs or (home_of(self.node),)
        if self.node not in graphs[0]:
            raise UnknownNodeError(foreign(self.node, graphs[0]))
        gates = (*(gate for gate in around.gates if not any(gate is each for each in self._around)), self.node)
        scope.enter(graphs=graphs, gates=gates)
        return self

    def __exit__(self, *exc_info: object) -> None:
        scope.leave()


class Equals:
    """Whether a value equals another, see `equal`."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __call__(self, found: object) -> bool:
        """Compare with `found`."""
        return equal(found, self.value)


class Holds:
    """Gives True if a test holds and raises SKIP otherwise: the function of a condition node."""

    def __init__(self, test: Callable[[Any], bool]) -> None:
        self.test = test

    def __call__(self, value: Any) -> bool:
        """Test `value`."""
        if self.test(value):
            return True
        raise SKIP(f"the condition does not hold: {short(value)}")


class FirstOf:
    """Whether the test at `place` is the first of several that holds; None is the place after the last."""

    def __init__(self, tests: tuple[Callable[[Any], bool], ...], place: int | None) -> None:
        self.tests = tests
        self.place = place

    def __call__(self, value: Any) -> bool:
        """Test `value`."""
        return next((i for i, test in enumerate(self.tests) if test(value)), None) == self.place

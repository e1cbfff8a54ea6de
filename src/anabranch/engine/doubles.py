"""What tests put in the place of time and of tasks' functions: the `Doubles` protocol. See `anabranch.testing`.

An executor of this process may have them, as its attribute ``doubles``; a run on it goes by them.
"""

from __future__ import annotations

from typing import Protocol

from anabranch.frozen import FrozenNode


class Doubles(Protocol):
    """A clock, and stand-ins for the functions of tasks."""

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def stand_in(self, node: FrozenNode) -> FrozenNode:
        """The node to be run in the place of one of the run: the same but for its function and isolation."""
        ...

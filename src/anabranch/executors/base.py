"""What a run asks of the place where its tasks run: the `Executor` protocol.

An executor knows Dask graphs and keys, and nothing of tasks: it computes the keys of a region, passes on what the tasks
post, and says which keys will never come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

Key: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Region:
    """A Dask graph and the keys of it that are to be computed and held.

    Tasks may refer to keys of earlier regions that are still held.
    """

    graph: Mapping[Key, Any]
    """GraphNodes of dask by key."""
    keys: tuple[Key, ...]
    resources: Mapping[str, float] = field(default_factory=dict)
    priority: int = 0
    is_data: bool = False
    """Whether it only holds data, of which no task posts anything."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A task has posted its report; its value is there, or will be in a moment."""

    payload: Any  # a report or its pickle: executors do not look inside


@dataclass(frozen=True, slots=True)
class Logged:
    """Tasks have logged something."""

    payload: bytes  # executors do not look inside


@dataclass(frozen=True, slots=True)
class Dropped:
    """A key will not be computed, or its value is gone for good."""

    key: Key
    reason: str
    is_death: bool = False
    """Whether that is because a process died, of which the task need not be the cause."""
    ran_s: float | None = None
    """Seconds since the task announced that it ran alone; None if it has not."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The place where tasks run is gone, with all that was held there."""

    reason: str


@dataclass(frozen=True, slots=True)
class CancelWanted:
    """Somebody who can reach the place where tasks run wants the run to be cancelled."""

    reason: str


Message: TypeAlias = Posted | Logged | Dropped | Disconnected | CancelWanted


class Executor(Protocol):
    """Where compiled regions run. One executor object serves one run at a time, and can be used again."""

    in_process: bool
    """Whether tasks run in this process, so that nothing has to be pickled to get to them."""
    is_sequential: bool
    """Whether tasks run one at a time in the thread that asks for messages."""

    def start(self, token: str) -> None:
        """Get ready for a run whose reports carry this token.

        Raises
        ------
        ExecutorError
            Nothing can run there.
        """
        ...

    def stop(self) -> None:
        """Drop everything of the run."""
        ...

    def recover(self, say: Callable[[str], None]) -> None:
        """After `Disconnected`: find or make another place; `say` is told what is waited for, and how long.

        Raises
        ------
        ExecutorError
            There is none within the time that is allowed.
        """
        ...

    def slots(self) -> int:
        """Tasks that can run at the same time now; 0 if there is nothing that could run one."""
        ...

    def submit(self, region: Region) -> None:
        """Begin to compute a region."""
        ...

    def next_message(self, timeout_s: float | None) -> Message | None:
        """The next message; None if there is none for so many seconds, or nothing to wait for."""
        ...

    def release(self, keys: Iterable[Key]) -> None:
        """Let go of keys, computed or not."""
        ...

    def gather(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Values of computed keys, brought here; keys whose value is lost are missing."""
        ...

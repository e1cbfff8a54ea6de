"""What a run asks of the place where its tasks run: the base class `Executor`.

An executor knows Dask graphs and keys, and nothing of tasks: it computes the keys of a region, passes on what the tasks
post, and says which keys will never come.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from anabranch.base.errors import ExecutorError

if TYPE_CHECKING:
    from anabranch.executors.fitness import Needs

Key: TypeAlias = tuple[str, int]
ANSWER_S = 5.0  # for a scheduler, or all workers together; those that hold the interpreter in C code answer later


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
    """Whether its process was lost, by death or in good order, of which the task need not be the cause."""
    ran_s: float | None = None
    """Seconds that it had run then, alone or where no other is to blame; None if it is not known to have run."""
    is_vain: bool = False
    """Whether it would be the same again."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The place where tasks run is gone, with all that was held there."""

    reason: str


@dataclass(frozen=True, slots=True)
class CancelWanted:
    """Somebody who can reach the place where tasks run wants the run to be cancelled."""

    reason: str


Message: TypeAlias = Posted | Logged | Dropped | Disconnected | CancelWanted


class Executor(ABC):
    """Where compiled regions run.

    What users have describes a place, for as many runs as they like, at the same time too: each has one of its own, see
    `for_run`. What is abstract here makes an executor; the rest is right where tasks run in this process.
    """

    in_process: bool = True
    """Whether tasks run in this process, so that nothing has to be pickled to get to them."""
    is_sequential: bool = False
    """Whether tasks run one at a time in the thread that asks for messages."""
    address: str | None = None
    """Of a scheduler that is there already."""
    doubles: Any = None
    """What a test has put in the place of the clock and of functions; executors do not look inside."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def place(self) -> str:
        """Where tasks run, in words."""
        return type(self).__name__

    @property
    def is_elsewhere(self) -> bool:
        """Whether tasks may run where files and modules of this process are missing."""
        return False

    @property
    def dashboard_link(self) -> str | None:
        """Address of Dask's own page, while a run goes on."""
        return None

    # A run ----------------------------------------------------------------------------------------------------------

    def for_run(self) -> Self:
        """An executor like this one, which `start` makes ready for a run, and which nobody else uses."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    @abstractmethod
    def start(self, token: str) -> None:
        """Get ready for a run whose reports carry this token.

        Raises
        ------
        ExecutorError
            Nothing can run there.
        """

    @abstractmethod
    def stop(self) -> None:
        """Drop everything of the run."""

    def recover(self, say: Callable[[str], None]) -> None:
        """After `Disconnected`: find or make another place; `say` is told what is waited for, and how long.

        Raises
        ------
        ExecutorError
            There is none within the time that is allowed.
        """
        raise ExecutorError("tasks run in this process, which cannot be replaced")

    def check(self, needs: Needs) -> None:  # noqa: B027  # nothing needs to be looked at in this process
        """See whether what is to be run can run there, before anything is sent.

        Raises
        ------
        PreflightError
            It cannot; all reasons at once.
        """

    def show(self, standing: Callable[[], Mapping[str, Any]]) -> None:  # noqa: B027  # few have a page
        """Let a page of the executor's own show how the run stands; `standing` may be called from any thread."""

    # Work -----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def slots(self) -> int:
        """Tasks that can run at the same time now; 0 if there is nothing that could run one."""

    def shortage(self) -> tuple[str, str]:
        """Why there are no slots, and what to do about it."""
        return "no workers", "start one with `dask worker`"

    @abstractmethod
    def submit(self, region: Region) -> None:
        """Begin to compute a region."""

    @abstractmethod
    def next_message(self, timeout_s: float | None) -> Message | None:
        """The next message; None if there is none for so many seconds, or nothing to wait for."""

    @abstractmethod
    def release(self, keys: Iterable[Key]) -> None:
        """Let go of keys, computed or not."""

    @abstractmethod
    def gather(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Values of computed keys, brought here; keys whose value is lost are missing."""

    # Processes ------------------------------------------------------------------------------------------------------

    def ask_workers(self, question: Callable[[], Any], timeout_s: float = ANSWER_S) -> list[Any]:
        """What each process that runs tasks answers to a function; nothing if not all of them answer in time."""
        return [question()]

    def avoid(self, address: str) -> bool:
        """Send nothing more to a worker, if there are others; whether there are."""
        return False

    def situation(self) -> Sequence[str]:
        """What keeps the tasks that have not reported, in sentences; none if nothing is expected."""
        return ()

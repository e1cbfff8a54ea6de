"""What a service, its nursery and the processes of runs tell one another: lines of JSON, with exit codes of runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

RETURNED = -1_000
"""Of a run that no process has begun: all were busy."""
UNBORN = -1_001
"""Of a run for which no process could be made: the nursery ended before it was ready."""
FAILED = 70
"""Of a process that could not even fail as a run (EX_SOFTWARE)."""
AGAIN = 75
"""Of a run that is to be begun again, in a new process (EX_TEMPFAIL)."""
LAST = 76
"""Of a run that was interrupted and is recorded so: its process ends with it, and all that it has started."""


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed slot, for a process to run."""

    run_id: str
    token: str = field(repr=False)
    is_alone: bool = False
    """Whether it must have a process that has had no other."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal for the process that has a run, SIGKILL for all below it, too; a run that waits for one is returned."""

    run_id: str
    """Empty for all that wait."""
    signal: int = 0


@dataclass(frozen=True, slots=True)
class Ready:
    """The nursery has imported what runs need."""


@dataclass(frozen=True, slots=True)
class Exit:
    """A run that is over for its process, or a process that ended with it."""

    run_id: str
    token: str
    """Of the claim on its slot: a process may end when another has claimed the run already."""
    code: int
    """Its exit code; minus the signal that killed it."""
    is_last: bool = True
    """Whether the process ends, too."""

    @property
    def words(self) -> str:
        """How it ended, for people."""
        if self.code == UNBORN:
            return "the process that starts runs ended before it was ready; the service's log has why"
        return (
            f"its process was killed by signal {-self.code}" if self.code < 0 else f"its process ended with {self.code}"
        )


Message = Job | Signal | Ready | Exit
_KINDS: dict[str, type[Message]] = {"Job": Job, "Signal": Signal, "Ready": Ready, "Exit": Exit}


def to_line(message: Message) -> bytes:
    """A message as a line of JSON."""
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """The message that `to_line` was given."""
    name, fields = json.loads(line)
    return _KINDS[name](**fields)

"""What a town has, and what is done to it: drawn by chance, the plainest first."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.chance import Chance
from tests.simulation.services.tables import MISFORTUNES

GATE = "gate"
"""The limit that tasks of several flows share."""
DURATIONS_S = (0.0, 0.3, 2.0, 6.0, 13.0)
DELAYS_S = (0.5, 3.0, 8.0, 30.0)
EVENTS = (
    *("cancel a run", "kill a service", "pause a service", "drain a service", "lose a nursery", "kill a run"),
    *("pause a run", "machine sleeps", "clock jumps", "outage", "backfill", "start", "cancel a group"),
    *("pause a flow", "register anew", "resume a run", "cancel a run", "filter raises", "people take a run"),
)


@dataclass(frozen=True)
class TaskPlan:
    """A task, and what it does."""

    seconds: float
    fails: int = 0
    """Attempts that fail; there are as many retries."""
    delay_s: float = 0.0
    deaths: int = 0
    """Calls in which its process dies."""
    gate: bool = False


@dataclass(frozen=True, eq=False)
class FlowPlan:
    """A flow that runs by itself."""

    name: str
    interval_s: int
    overlap: str
    catch_up: str
    max_runs: int | None
    tasks: tuple[TaskPlan, ...]

    @property
    def slugs(self) -> list[str]:
        return [f"t{number}" for number in range(len(self.tasks))]

    @property
    def deaths(self) -> int:
        return sum(each.deaths for each in self.tasks)

    def attempts(self, slug: str) -> int:
        """Times that a task is called in a process, at most."""
        return self.tasks[int(slug[1:])].fails + 1


@dataclass(frozen=True)
class Plan:
    """A town."""

    flows: tuple[FlowPlan, ...]
    services: tuple[tuple[str, int], ...]
    """Of each its machine, and how many runs it may have at a time."""
    until_s: int
    """For how long there are times, and things happen."""
    size: int
    """Of the limit."""
    one_in: int
    kinds: tuple[str, ...]
    events: tuple[tuple[float, str], ...]

    @classmethod
    def drawn(cls, chance: Chance) -> Plan:
        """A plan."""
        return cls(
            flows=tuple(_flow(chance, number) for number in range(1 + chance.below(3))),
            services=tuple((chance.pick(("ham", "eek")), 1 + chance.below(3)) for _ in range(1 + chance.below(3))),
            until_s=chance.pick((40, 80, 160)),
            size=1 + chance.below(2),
            one_in=chance.pick((0, 400, 100, 30)),
            kinds=MISFORTUNES[: chance.pick((len(MISFORTUNES), 3, 5))],
            events=tuple((chance.below(160) * 1.0, chance.pick(EVENTS)) for _ in range(chance.below(10))),
        )


def _flow(chance: Chance, number: int) -> FlowPlan:
    return FlowPlan(
        f"flow-{number}",
        interval_s=chance.pick((60, 30, 10, 7)),
        overlap=chance.pick(("allow", "skip", "queue", "cancel_previous")),
        catch_up=chance.pick(("all", "latest", "skip")),
        max_runs=chance.pick((None, None, 1, 2)),
        tasks=tuple(_task(chance) for _ in range(1 + chance.below(3))),
    )


def _task(chance: Chance) -> TaskPlan:
    fails = chance.pick((0, 0, 0, 1, 2))
    return TaskPlan(
        seconds=chance.pick(DURATIONS_S),
        fails=fails,
        delay_s=chance.pick(DELAYS_S) if fails else 0.0,
        deaths=chance.pick((0, 0, 0, 0, 0, 0, 0, 1, 2, 9)),
        gate=chance.happens(4),
    )

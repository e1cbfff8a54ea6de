"""The simulated cluster admits what a real one does when its workers die."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from tests.descriptions import Behaviour, Call, Map, Ref, Statement, TaskSpec, build
from tests.killable_cluster import KillableCluster, kill_and_wait, killable_cluster
from tests.simulation import story
from tests.simulation.chance import Chance
from tests.simulation.cluster import SimulatedExecutor
from tests.simulation.parts import settings_of_simulations
from tests.simulation.story import Plan
from tests.simulation.traces import Traced, stories

from anabranch import config
from anabranch.executors import DaskExecutor
from anabranch.executors.base import Message, Posted

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning"),
]
KILLS = ((2, {}), (5, {}), (6, {"inline_nbytes": 0, "rescued_nbytes": 0}))
"""After how many messages a worker is killed, and settings: without copies elsewhere, values die with their worker."""
MOST_WORLDS = 3_000


@dataclass(frozen=True)
class Slow(Behaviour):
    """Takes its time."""

    seconds: float = 0.0

    def __call__(self, a: Any = None, b: Any = None, c: Any = None) -> Any:
        time.sleep(self.seconds)
        return super().__call__(a, b, c)


def statements(seconds: float) -> list[Statement]:
    """A map in chunks of two, one over it, and a task that takes all of that."""
    work = TaskSpec(Slow(("number",), seconds=seconds), chunksize=2)
    return [Map(work, tuple(range(8))), Map(work, Ref(0)), Call(replace(work, chunksize="auto"), (Ref(1),))]


class Watched(Traced, DaskExecutor):
    """Has a worker killed when it has heard so much."""

    trace: ClassVar = defaultdict(list)
    cluster: ClassVar[KillableCluster]
    left: ClassVar[int]

    def next_message(self, timeout_s: float | None) -> Message | None:
        message = super().next_message(timeout_s)
        if isinstance(message, Posted):
            Watched.left -= 1
            if Watched.left == 0:
                kill_and_wait(self.cluster.worker_pids()[0])
        return message


def simulated() -> Iterator[set[tuple[str, ...]]]:
    """How units fare in worlds where nothing happens but that workers die, one world after the other."""

    class Seen(Traced, SimulatedExecutor):
        trace: ClassVar = defaultdict(list)

    with settings_of_simulations(), patch.object(story, "SimulatedExecutor", Seen):
        for seed in range(MOST_WORLDS):
            Seen.trace.clear()
            drawn = replace(Plan.drawn(Chance(seed)), statements=statements(0.0), workers=2, slots=1, new_worker_s=0.5)
            deaths = [Chance(seed).seconds(6.0)] * (1 + seed % 2)
            played = story.play(Chance(seed), replace(drawn.undisturbed(), deaths=deaths))
            assert played.broken is None
            yield stories(Seen.trace)


def test_what_a_driver_hears_of_a_real_cluster_is_heard_of_a_simulated_one(tmp_path: Path) -> None:
    flow = build(statements(0.1))
    found: set[tuple[str, ...]] = set()
    with killable_cluster(tmp_path, workers=2) as Watched.cluster:
        for Watched.left, engine in KILLS:
            Watched.cluster.heal(2)
            with config.set({f"engine.{name}": value for name, value in engine.items()}):
                view = flow.run(executor=Watched(Watched.cluster.address), keep="all")
            assert view.is_successful()
            found |= stories(Watched.trace)
            Watched.trace.clear()

    missing = set(found)
    for admitted in simulated():
        missing -= admitted
        if not missing:
            break

    assert any("lost" in each for each in found), "no unit was lost: nothing was shown"
    assert not missing

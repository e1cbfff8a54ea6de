"""Cases in which the holders of values die before these are taken, and the values are made again differently."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from tests import second_time
from tests.bare_cluster import bare_cluster, make_environment
from tests.second_time import SECONDS, SHAPES

from benchmarks.chaos_stage import Case, Row, Stage

FORGET = "import anabranch.engine.worker.arrival as arrival\narrival.MAX_BEFORE_NBYTES = 0\n"
"""Run by workers that let nobody know what they have reported."""


def holders_die(stage: Stage) -> Iterator[Row]:
    """Whoever holds values dies between a map and what takes it."""
    wanted = 10 if stage.quick else 200
    chance = stage.chance("values")
    with ExitStack() as stack:
        own = stack.enter_context(stage.cluster(workers=2, threads=1))
        several = stack.enter_context(stage.cluster(workers=1, threads=2))
        (preload := stage.new_folder() / "forget.py").write_text(FORGET, encoding="ascii")
        blind = stack.enter_context(stage.cluster(workers=2, threads=1, options=("--preload", str(preload))))
        python = make_environment(stage.new_folder() / "environment")
        bare = stack.enter_context(bare_cluster(python, stage.new_folder(), workers=2))
        places = {"2 workers": own, "2 threads": several, "nothing known of before": blind, "without anabranch": bare}
        for name, cluster in places.items():
            began, kills, wrong, seen = time.monotonic(), 0, [], Counter[str]()
            while kills < wanted // len(places):
                if cluster is not bare:
                    cluster.heal(1 if cluster is several else 2)  # type: ignore[attr-defined]
                outcome, died = _trial(stage, chance, cluster.address)
                kills += died
                seen[outcome] += 1
                wrong += [outcome] if outcome.startswith("wrong") else []
            found = ", ".join(f"{number} {what}" for what, number in seen.most_common())
            yield Row(
                "values",
                f"SIGKILL of the holders before values are taken, {name}",
                "all values, or a failure that says so",
                found,
                not wrong,
                kills,
                seconds=time.monotonic() - began,
            )


def _trial(stage: Stage, chance: random.Random, address: str) -> tuple[str, int]:
    """What came of one run, and how many processes were killed in it."""
    isolation = "process" if chance.random() < 0.2 else "thread"
    trial = second_time.Case(chance.choice(SHAPES), chance.choice(SECONDS), chance.random() < 0.25, isolation)
    outcome, dead = trial.run(address, stage.new_folder())
    return (f"{outcome} ({trial})" if outcome.startswith("wrong") else outcome), len(dead)


CASES: dict[str, Case] = {"values": holders_die}

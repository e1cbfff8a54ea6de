"""Cases in which drivers are killed at any time and their runs are resumed: nothing that had ended runs again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

from tests.kill_matrix import LARGE, SHAPES, Trial

from benchmarks.chaos_stage import Case, Row, Stage


def drivers_die(stage: Stage) -> Iterator[Row]:
    """Every shape of flow, with small and with large values, on every executor."""
    chance = stage.chance("records")
    with ExitStack() as stack:
        cluster = stack.enter_context(stage.cluster(workers=2, threads=1))
        for place, where in {"local": "local", "threads": "threads", "dask": cluster.address}.items():
            began, runs, kills, wrong = time.monotonic(), 0, 0, []
            for shape in ("chain", "chain of maps") if stage.quick else SHAPES:
                for nbytes in (0, LARGE):
                    plans = [(f"{chance.uniform(0.8, 2.5):.1f}s",), (str(chance.randint(1, 6)), "1.5s")]
                    for plan in plans[:1] if stage.quick else plans:
                        folder = stage.new_folder()
                        trial = Trial(shape, where, folder, nbytes=nbytes, stores=nbytes > 0)
                        wrong += [f"{shape} {nbytes} {plan}: {each}" for each in trial.run(plan)]
                        runs, kills = runs + 1, kills + len(trial.lives)
            yield Row(
                "records",
                f"SIGKILL of drivers after reports and at any time, {place}",
                "right values, and nothing again that had ended a second before",
                f"{runs} runs, {len(wrong)} wrong{': ' + '; '.join(wrong[:3]) if wrong else ''}",
                not wrong,
                kills,
                seconds=time.monotonic() - began,
            )


CASES: dict[str, Case] = {"records": drivers_die}

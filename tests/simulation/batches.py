"""Many worlds in one process."""

from __future__ import annotations

import gc
import logging
import time

from tests.simulation.chance import Chance
from tests.simulation.faults import planted
from tests.simulation.parts import settings_of_simulations
from tests.simulation.story import play

BATCH = 250
"""Seeds that a process plays before it reports."""


def play_batch(first: int, count: int, fault: str | None, end: float) -> tuple[int, list[tuple[int, str]]]:
    """Play the worlds of some seeds, in a process of their own; how many, and which failed, how."""
    logging.disable(logging.CRITICAL)
    failures, played = [], 0
    gc.disable()  # worlds are full of rings, which are dropped together, once in a while
    gc.freeze()
    with settings_of_simulations(), planted(fault):
        for seed in range(first, first + count):
            story = play(Chance(seed))
            played += 1
            if story.broken is not None:
                failures.append((seed, story.broken.kind))
                if fault is not None:
                    break  # it is found
            if not seed % 50:
                gc.collect()
            if time.monotonic() > end:
                break
    gc.enable()
    return played, failures

"""``python -m tests.simulation``: play many worlds, one a seed, and tell what failed."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context

from tests.simulation.batches import BATCH, play_batch
from tests.simulation.chance import Chance
from tests.simulation.faults import FAULTS, planted
from tests.simulation.parts import settings_of_simulations
from tests.simulation.shrinking import shrunk
from tests.simulation.story import Story, play

HASH_SEED = "0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Play worlds; how many kinds of failure there were."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many worlds (default: 10,000)")
    parser.add_argument("--seconds", type=float, help="for how long instead")
    parser.add_argument("--first", type=int, help="first seed (default: a fresh one, which is printed)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--seed", type=int, help="play one world, and tell what happens in it")
    parser.add_argument("--tape", help="the same of a world that was shrunk: its choices, with commas between")
    parser.add_argument("--plant", choices=sorted(FAULTS), help="play with a fault that is put into the library")
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn, and tell the seeds it took")
    parser.add_argument("--no-shrinking", action="store_true", help="tell the seeds of failures only")
    options = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:  # sets are walked through in the same order each time
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
                  {**os.environ, "PYTHONHASHSEED": HASH_SEED})  # fmt: skip
    logging.disable(logging.CRITICAL)
    if options.seed is not None or options.tape is not None:
        chance = Chance(options.seed or 0, tape=_numbers(options.tape) if options.tape else None)
        return _tell(chance, options.plant)
    first = secrets.randbelow(10**9) if options.first is None else options.first
    if options.planted:
        return sum(not _find(fault, first, options.seeds, options.jobs) for fault in FAULTS)
    return _play_many(first, options)


def _play_many(first: int, options: argparse.Namespace) -> int:
    print(f"first seed {first}", flush=True)
    began, played, kinds = time.monotonic(), 0, defaultdict[str, list[int]](list)
    seeds = 10**9 if options.seconds else options.seeds
    with suppress(KeyboardInterrupt):  # what was found until then is told
        for count, failures in _results(first, seeds, options.jobs, options.plant, options.seconds):
            played += count
            for seed, kind in failures:
                if kind not in kinds:
                    print(f"seed {seed}: {kind}", flush=True)
                kinds[kind].append(seed)
    rate = played / (time.monotonic() - began)
    print(f"{played:,} worlds, {rate:,.0f} a second, {rate / options.jobs:,.0f} a second and process")
    for kind, found in kinds.items():
        print(f"{len(found):,} of: {kind}; seeds {', '.join(map(str, found[:5]))}")
        if not options.no_shrinking:
            _shrink(found[0], options.plant)
    print(f"{sum(map(len, kinds.values()))} failures of {len(kinds)} kinds")
    return len(kinds)


def _results(
    first: int, seeds: int, jobs: int, fault: str | None, seconds: float | None = None
) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Worlds played and failures, a batch at a time."""
    end = time.monotonic() + seconds if seconds else float("inf")
    batches = ((low, min(BATCH, first + seeds - low), fault, end) for low in range(first, first + seeds, BATCH))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending: set[Future[tuple[int, list[tuple[int, str]]]]] = set()
        try:
            pending.update(pool.submit(play_batch, *each) for each in islice(batches, 2 * jobs))
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                if time.monotonic() < end:
                    pending.update(pool.submit(play_batch, *each) for each in islice(batches, len(done)))
                for each in done:
                    yield each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _find(fault: str, first: int, seeds: int, jobs: int) -> bool:
    """Play worlds with a planted fault until one fails; whether one did."""
    began, played = time.monotonic(), 0
    for count, failures in _results(first, seeds, jobs, fault):
        if failures:
            seed, kind = min(failures)
            took = seed - first + 1
            print(f"{fault}: {took:,} seeds, {time.monotonic() - began:,.0f} s, as: {kind} (seed {seed})", flush=True)
            return True
        played += count
    print(f"{fault}: NOT FOUND in {played:,} seeds", flush=True)
    return False


def _shrink(seed: int, fault: str | None) -> None:
    """Tell the plainest world that fails as that of a seed does."""
    with settings_of_simulations(), planted(fault):
        story = play(Chance(seed))
        assert story.broken is not None, f"the world of seed {seed} does not fail again"
        kind = story.broken.kind

        def fails(tape: Sequence[int]) -> bool:
            again = play(Chance(tape=tape))
            return again.broken is not None and again.broken.kind == kind

        tape = shrunk(story.chance.tape, fails)
        story = play(Chance(tape=tape))
    print(f"  --tape {','.join(map(str, tape))}")
    print("\n".join(f"  {line}" for line in _lines(story)))


def _tell(chance: Chance, fault: str | None) -> int:
    with settings_of_simulations(), planted(fault):
        story = play(chance)
    print("\n".join(_lines(story)))
    return int(story.broken is not None)


def _lines(story: Story) -> list[str]:
    """What is run in a world, what happened, and what came of it."""
    calls = [f"{each.began - 1.7e9:10.3f} {each}" for each in story.executions]
    counts = Counter(each.what for each in story.executions)
    most = f"{len(calls)} calls of {len(counts)} task runs"
    return [*map(repr, story.plan.statements), repr(story.plan), *story.world.events, *calls, most, str(story.broken)]


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


if __name__ == "__main__":
    raise SystemExit(min(1, main()))

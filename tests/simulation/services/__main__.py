"""``python -m tests.simulation.services``: play many towns, one a seed, and tell what failed."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import secrets
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.simulation.chance import Chance
from tests.simulation.parts import settings_of_simulations
from tests.simulation.services.faults import FAULTS, planted
from tests.simulation.services.found import SEEDS
from tests.simulation.services.story import Story, play
from tests.simulation.shrinking import shrunk

HASH_SEED = "0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Play towns; how many kinds of failure there were, or how many planted faults were not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.services", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many towns (default: 1,000)")
    parser.add_argument("--seconds", type=float, default=1e9, help="for how long at most, each planted fault")
    parser.add_argument("--first", type=int, help="first seed (default: a fresh one, which is printed)")
    parser.add_argument("--seed", type=int, help="play one town, and tell what happens in it")
    parser.add_argument("--tape", help="the same of a town that was shrunk: its choices, with commas between")
    parser.add_argument("--plant", choices=sorted(FAULTS), help="play with a fault that is put into the library")
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn, and tell the seeds it took")
    parser.add_argument("--found", action="store_true", help="look whether towns that found planted faults still do")
    parser.add_argument("--shrink", action="store_true", help="make the towns that fail as plain as can be")
    options = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:  # sets are walked through in the same order each time
        command = [sys.executable, "-m", "tests.simulation.services", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": HASH_SEED})
    logging.disable(logging.CRITICAL)
    with settings_of_simulations():
        if options.seed is not None or options.tape is not None:
            tape = [int(each) for each in options.tape.split(",")] if options.tape else None
            with planted(options.plant):
                story = play(Chance(options.seed or 0, tape=tape))
            print("\n".join([repr(story.plan), *story.town.events, str(story.broken)]))
            return int(story.broken is not None)
        if options.found:
            return _not_found()
        first = secrets.randbelow(10**9) if options.first is None else options.first
        print(f"first seed {first}", flush=True)
        if options.planted:
            return sum(not _find(fault, first, options) for fault in FAULTS)
        with planted(options.plant):
            return _play_many(first, options)


def _towns(first: int, options: argparse.Namespace) -> Iterator[tuple[int, Story]]:
    end = time.monotonic() + options.seconds
    for seed in range(first, first + options.seeds):
        if time.monotonic() > end:
            return
        yield seed, play(Chance(seed))
        if not seed % 20:
            gc.collect()  # a town is full of rings


def _play_many(first: int, options: argparse.Namespace) -> int:
    began, played, runs, kinds = time.monotonic(), 0, 0, defaultdict[str, list[int]](list)
    for seed, story in _towns(first, options):
        played += 1
        runs += len(story.history.slots)
        if story.broken is not None:
            kinds[story.broken.kind].append(seed)
            print(f"seed {seed}: {story.broken}", flush=True)
            if options.shrink and len(kinds[story.broken.kind]) == 1:
                print(f"  --tape {','.join(map(str, shrink(story)))}")
    seconds = time.monotonic() - began
    print(f"{played:,} towns, {runs:,} runs, {played / seconds:.1f} towns a second")
    print(f"{sum(map(len, kinds.values()))} failures of {len(kinds)} kinds: {', '.join(kinds)}")
    return len(kinds)


def shrink(story: Story, *, most_tries: int = 300) -> list[int]:
    """Choices that make the plainest town that was found which fails as this one does."""
    assert story.broken is not None
    kind = story.broken.kind

    def fails(tape: Sequence[int]) -> bool:
        again = play(Chance(tape=tape))
        return again.broken is not None and again.broken.kind == kind

    return shrunk(story.chance.tape, fails, most_tries=most_tries)


def _find(fault: str, first: int, options: argparse.Namespace) -> bool:
    """Play towns with a planted fault until one fails; whether one did."""
    began, played = time.monotonic(), 0
    with planted(fault):
        for seed, story in _towns(first, options):
            played += 1
            if story.broken is not None:
                took = f"{played:,} towns, {time.monotonic() - began:,.0f} s"
                print(f"{fault}: {took}, as: {story.broken.kind} (seed {seed})", flush=True)
                return True
    print(f"{fault}: NOT FOUND in {played:,} towns", flush=True)
    return False


def _not_found() -> int:
    """How many towns that found planted faults do not any more, or find something without one."""
    wrong = 0
    for fault, seed in [*SEEDS.items(), *((None, seed) for seed in set(SEEDS.values()))]:
        with planted(fault):
            broken = play(Chance(seed)).broken
        print(f"seed {seed}, {fault}: {broken and broken.kind}", flush=True)
        wrong += (broken is None) is (fault is not None)
    return wrong


if __name__ == "__main__":
    raise SystemExit(min(1, main()))

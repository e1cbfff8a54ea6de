"""Simulated worlds: some fresh ones, each twice the same, and the plainest ones that find each planted fault."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import pytest
from tests.simulation.chance import Chance
from tests.simulation.faults import planted
from tests.simulation.flows import may_change
from tests.simulation.found import TAPES
from tests.simulation.parts import settings_of_simulations
from tests.simulation.shrinking import shrunk
from tests.simulation.story import Plan, play

FRESH = 50
FURTHER = 1_000
"""Worlds in which a planted fault is looked for if that of its tape is another one now, because the library touches its
store more often, say."""
KILLED = (15, 22, 29, 35)
"""Seeds of flows that are killed at every touch of the store."""


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    with settings_of_simulations():
        yield


def test_fresh_worlds_keep_all_promises() -> None:
    first = secrets.randbelow(10**9)

    broken = {seed: story.broken for seed in range(first, first + FRESH) if (story := play(Chance(seed))).broken}

    assert not broken, "see python -m tests.simulation --seed"


@pytest.mark.parametrize("fault", sorted(TAPES))
def test_a_planted_fault_is_found(fault: str) -> None:
    chances = chain([Chance(tape=TAPES[fault])], map(Chance, range(FURTHER)))
    with planted(fault):
        broken = next((story.broken for story in map(play, chances) if story.broken is not None), None)

    assert broken is not None
    assert "TypeError" not in broken.kind, "the fault does not fit what it takes the place of"


@pytest.mark.parametrize("fault", sorted(TAPES))
def test_what_finds_a_planted_fault_finds_nothing_else(fault: str) -> None:
    assert play(Chance(tape=TAPES[fault])).broken is None


@pytest.mark.parametrize("seed", KILLED)
def test_a_run_that_is_resumed_is_the_one_that_nobody_killed(seed: int) -> None:
    plan = Plan.drawn(Chance(seed)).undisturbed()
    whole = play(Chance(seed), plan)
    assert whole.broken is None
    may_vary = may_change(plan.statements)

    for number in range(1, whole.touches.count + 1):
        again = play(Chance(seed), replace(plan, happens={number: "dies after"}))
        assert again.broken is None, number
        assert any(each.ended for each in again.drivers), number
        assert may_vary or again.seen() == whole.seen(), number


def test_a_seed_gives_the_same_world_in_each_process() -> None:
    def told(hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "tests.simulation", "--seed", "20668"]
        return subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, check=True, timeout=100
        ).stdout

    first, second = told("1"), told("2")

    assert first == second
    assert b"dies" in first


def test_choices_are_made_again_by_their_tape() -> None:
    story = play(Chance(20668))

    again = play(Chance(tape=story.chance.tape))

    assert again.world.events == story.world.events
    assert [(each.what, each.began) for each in again.executions] == [
        (each.what, each.began) for each in story.executions
    ]


def test_shrinking_leaves_what_matters() -> None:
    def fails(tape: list[int]) -> bool:
        return sum(tape) >= 7 and 3 in tape

    assert shrunk([0, 5, 9, 3, 0, 12, 4, 0], fails) in ([3, 4], [4, 3])

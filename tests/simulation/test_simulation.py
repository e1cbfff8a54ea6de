"""Simulated worlds: some fresh ones, each twice the same, and the plainest ones that find each planted fault."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.simulation.chance import Chance
from tests.simulation.faults import planted
from tests.simulation.found import TAPES
from tests.simulation.parts import settings_of_simulations
from tests.simulation.shrinking import shrunk
from tests.simulation.story import play

FRESH = 50


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
    with planted(fault):
        story = play(Chance(tape=TAPES[fault]))

    assert story.broken is not None


@pytest.mark.parametrize("fault", sorted(TAPES))
def test_what_finds_a_planted_fault_finds_nothing_else(fault: str) -> None:
    assert play(Chance(tape=TAPES[fault])).broken is None


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

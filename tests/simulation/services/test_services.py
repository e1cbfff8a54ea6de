"""Simulated towns: some fresh ones, those that find planted faults, and some days of the year."""

from __future__ import annotations

import secrets
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.simulation.chance import Chance
from tests.simulation.parts import settings_of_simulations
from tests.simulation.services.story import play
from tests.simulation.services.year import Year
from tests.simulation.story import IN_MEMORY

FRESH = 10


def test_fresh_towns_keep_all_promises():
    first = secrets.randbelow(10**9)
    with settings_of_simulations():
        broken = {seed: story.broken for seed in range(first, first + FRESH) if (story := play(Chance(seed))).broken}
    assert not broken, "see python -m tests.simulation.services --seed"


def test_planted_faults_are_found_and_nothing_else_is():
    command = [sys.executable, "-m", "tests.simulation.services", "--found"]
    found = subprocess.run(command, capture_output=True, check=False, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr


def test_choices_are_made_again_by_their_tape():
    with settings_of_simulations():
        story = play(Chance(5))
        again = play(Chance(tape=story.chance.tape))
    assert again.town.events == story.town.events
    assert len(story.history.begun) > 3


def test_each_time_of_a_night_in_which_summer_begins_runs_once():
    with TemporaryDirectory(dir=IN_MEMORY) as directory:
        year = Year(Path(directory), seed=7, begin=datetime(2026, 3, 28, 12, tzinfo=UTC), size=1)
        year.live(2)
    assert year.runs > 2_000
    assert year.killed

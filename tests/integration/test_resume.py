"""Runs whose driver is killed, and gone on with by another process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.killed_driver import KilledDriver, was_killed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has other signals")


def test_a_driver_that_is_killed_fifteen_times_in_a_row_loses_nothing_and_repeats_nothing(tmp_path: Path):
    driver = KilledDriver(tmp_path)
    seen = driver.be_killed(times=15, seed=1)
    assert seen.kills >= 10
    assert seen.output == f"Success {driver.total}"
    assert not seen.again
    assert not seen.complaints
    assert driver.elements <= set(driver.ledger())


@pytest.mark.cluster
def test_a_driver_with_a_cluster_that_is_killed_in_a_row_loses_nothing_and_repeats_nothing(tmp_path: Path):
    driver = KilledDriver(tmp_path, executor="dask")
    seen = driver.be_killed(times=4, seed=2)
    assert seen.kills >= 2
    assert seen.output == f"Success {driver.total}"
    assert not seen.again
    assert not seen.complaints


def test_of_two_that_resume_a_run_at_once_one_wins_and_the_other_is_told(tmp_path: Path):
    driver = KilledDriver(tmp_path)
    assert was_killed(driver.start(lines=300))
    both = [driver.start("resume") for _ in range(2)]
    ends = [each.communicate(timeout=100) for each in both]
    told = [errors for (_, errors), each in zip(ends, both, strict=True) if each.returncode]
    won = [output for (output, _), each in zip(ends, both, strict=True) if not each.returncode]
    assert won
    assert all(output.startswith("Success") for output in won)
    assert all("is held by" in errors for errors in told)
    assert driver.ledger().count("total") == 1


def test_an_interrupted_run_shows_as_such_and_is_resumed_from_the_command_line(tmp_path: Path):
    driver = KilledDriver(tmp_path)
    assert was_killed(driver.start(lines=300))

    def anabranch(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anabranch", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=driver.environment, capture_output=True, text=True, timeout=100
        )

    (listed,) = json.loads(anabranch("ls", "--json").stdout)
    assert (listed["run_id"], listed["state"]) == ("run-1", "Interrupted")
    resumed = anabranch("resume", "run-1", "killed.py")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip() == f"total = {driver.total}"
    assert Counter(driver.ledger()).most_common(1)[0][1] <= 2

"""What commands answer to slips: names that there are not, and output that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch.cli import anabranch as command
from anabranch.cli.exits import NOT_WRITTEN

FLOW = """
from anabranch import Flow, task
go = task(lambda: 1, name="go")
with Flow("etl") as flow:
    go()
"""
BACKFILL = ["--from", "2026-01-01", "--to", "2026-01-02", "--every", "1d"]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a flow, and a registered one that had none yet."""
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("etl.py").write_text(FLOW)
    Path("later.py").write_text(FLOW.replace("etl", "later"))
    assert call("run", "etl.py", "-q").exit_code == 0
    assert call("register", "later.py").exit_code == 0


def call(*words: str) -> Result:
    return CliRunner().invoke(command, list(words))


@pytest.mark.parametrize(
    "words",
    [
        ["show", "nosuch"],
        ["logs", "nosuch"],
        ["explain", "nosuch", "go"],
        ["resume", "nosuch"],
        ["replay", "nosuch", "go"],
        ["report", "nosuch"],
        ["schedule", "nosuch"],
        ["schedule", "nosuch", "--pause"],
        ["backfill", "nosuch", *BACKFILL],
        ["cancel", "nosuch", "run"],
        ["attach", "nosuch", "run"],
        ["attach", "nosuch"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_a_slip_and_no_failed_run(words: list[str]) -> None:
    result = call(*words)

    assert result.exit_code == 2
    assert "nosuch" in result.stderr
    assert result.stdout == ""


def test_a_state_that_there_is_not_is_refused_with_those_there_are() -> None:
    result = call("ls", "--state", "Sucess")

    assert result.exit_code == 2
    assert "there is no state 'Sucess'; did you mean 'Success'?; there are: Pending, Running" in result.stderr


@pytest.mark.parametrize("state", ["success", "SUCCESS", "timedout", "TimedOut", "interrupted"])
def test_states_are_meant_whatever_their_case(state: str) -> None:
    result = call("ls", "--state", state)

    assert result.exit_code == 0
    assert ("etl" in result.stdout) == (state.lower() == "success")


def test_a_flow_that_there_is_not_is_refused_with_those_there_are() -> None:
    result = call("ls", "--flow", "etll")

    assert result.exit_code == 2
    assert "there is no flow 'etll'; did you mean 'etl'?; there are: 'etl', 'later'" in result.stderr


def test_a_flow_without_runs_or_without_such_runs_is_none_that_there_is_not() -> None:
    assert call("ls", "--flow", "later").exit_code == 0
    assert call("ls", "--flow", "etl", "--state", "failed").exit_code == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
@pytest.mark.parametrize("words", [["ls"], ["show", "--help"], ["ls", "--json"]], ids=" ".join)
def test_a_full_disk_is_told_in_a_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "anabranch", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert done.returncode == NOT_WRITTEN
    assert done.stderr == "Error: standard output cannot be written: No space left on device\n"

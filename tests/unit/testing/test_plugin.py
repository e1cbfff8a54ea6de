"""The pytest plugin in a project of somebody's."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from distributed import LocalCluster

from anabranch import Flow, task
from anabranch.executors import DaskExecutor
from anabranch.runs import default_path
from anabranch.testing import assert_success

LIGHT = """
import sys

def test_nothing_is_loaded_that_nobody_uses():
    assert [name for name in ("anabranch", "dask", "distributed") if name in sys.modules] == []
"""


def run_pytest(directory: Path) -> subprocess.CompletedProcess[str]:
    """A new interpreter's pytest, with the plugin and nothing of this project's configuration."""
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_anabranch", "-p", "no:cacheprovider", "-q"]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # other plugins may load what they like
    return subprocess.run(command, cwd=directory, env=alone, capture_output=True, text=True, timeout=100)


def test_the_plugin_loads_nothing_that_nobody_uses(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(LIGHT)

    outcome = run_pytest(tmp_path)

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_a_home_is_of_the_tests_own(anabranch_home: Path, tmp_path: Path) -> None:
    assert anabranch_home.is_relative_to(tmp_path)
    assert default_path() == anabranch_home / "runs.db"
    assert not default_path().exists()


def test_the_distribution_declares_the_plugin() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))

    assert pyproject["project"]["entry-points"]["pytest11"] == {"pytest_anabranch": "pytest_anabranch"}
    assert "src/pytest_anabranch" in pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


@pytest.mark.cluster
def test_the_cluster_of_the_session_runs_flows(anabranch_home: Path, anabranch_cluster: LocalCluster) -> None:
    @task
    def double(x: int) -> int:
        return 2 * x

    with Flow("doubling") as flow:
        doubled = double.map([1, 2, 3])

    state = flow.run(executor=DaskExecutor(anabranch_cluster.scheduler_address))

    assert_success(state)
    assert state.result[doubled].result == [2, 4, 6]

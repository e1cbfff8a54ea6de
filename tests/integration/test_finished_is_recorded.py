"""A driver is killed, and the run resumed: what had ended a second before is on record, and does not run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.kill_matrix import LARGE, Trial
from tests.killable_cluster import killable_cluster


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Address of a cluster that outlives its drivers."""
    with killable_cluster(tmp_path_factory.mktemp("cluster"), workers=2, threads=1) as cluster:
        yield cluster.address


def trial(shape: str, where: str, folder: Path, **options: Any) -> Trial:
    """A run of a shape in a folder of its own."""
    (folder / "run").mkdir()
    return Trial(shape, where, folder / "run", **options)


@pytest.mark.parametrize("where", ["local", "threads"])
@pytest.mark.parametrize("shape", ["chain of maps", "loops of a map", "retries in place", "subflow"])
def test_what_had_ended_does_not_run_again(shape: str, where: str, tmp_path: Path) -> None:
    assert trial(shape, where, tmp_path).run(["1.9s"]) == []


@pytest.mark.cluster
@pytest.mark.parametrize("shape", ["chain", "fixed chunks", "calls of a map"])
def test_nor_on_a_cluster_that_goes_on_without_its_driver(shape: str, scheduler: str, tmp_path: Path) -> None:
    assert trial(shape, scheduler, tmp_path, nbytes=LARGE, stores=True).run(["2", "2s"]) == []


@pytest.mark.parametrize("shape", ["calls", "calls of a map", "maps that are called", "calls of calls"])
def test_large_values_of_calls_are_made_again_where_they_are_needed(shape: str, tmp_path: Path) -> None:
    # Given values that the record does not keep, and drivers that are killed after their third, third and fifth report
    run = trial(shape, "threads", tmp_path, nbytes=LARGE, seconds=0.0)
    # When the run is resumed, then it ends as an undisturbed one does.
    assert run.run(["3", "3", "5"]) == []


CHAIN = """
import time
from anabranch import Flow, task

@task
def extract():
    return 1

@task
def transform(x):
    return x

@task
def load(x):
    time.sleep(60)

with Flow("chain") as flow:
    load(transform(extract()))
"""


@pytest.mark.parametrize("executor", ["local", "threads", pytest.param("dask", marks=pytest.mark.cluster)])
def test_another_process_sees_what_runs_and_where(executor: str, tmp_path: Path) -> None:
    (tmp_path / "chain.py").write_text(CHAIN)
    environment = {**os.environ, "ANABRANCH_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "anabranch"]
    options = ["--executor", executor, "--quiet"] + (["--workers", "1"] if executor == "dask" else [])
    driver = subprocess.Popen([*command, "run", "chain.py", *options], cwd=tmp_path, env=environment)

    def asked(*words: str) -> Any:
        done = subprocess.run([*command, *words, "--json"], env=environment, capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else []

    try:
        deadline = time.monotonic() + 60
        tasks: dict[str, Any] = {}
        while tasks.get("load", {}).get("state") != "Running" and time.monotonic() < deadline:
            runs = asked("ls")
            tasks = asked("show", runs[0]["run_id"])["tasks"] if runs else {}
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()

    assert {name: each["state"] for name, each in tasks.items()} == {
        "extract": "Success",
        "transform": "Success",
        "load": "Running",
    }
    assert tasks["load"]["since"]
    assert tasks["load"]["worker"] == "local" or tasks["load"]["worker"].startswith("tcp://")

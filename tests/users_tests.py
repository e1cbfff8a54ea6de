"""Tests that a user of the library might have, for whoever runs pytest where it is installed: not collected here."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed import LocalCluster

from anabranch import Flow, task
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.testing import FakeClock, FlowTester

POURED = [2, 3, "AssertionError: full"]


@task
def pour(x: int) -> int:
    assert x < 9, "full"
    return x + 1


@task(isolation="process")
def pour_apart(x: int) -> int:
    assert x < 9, "full"
    return x + 1


def poured(what, executor):
    with Flow("tea") as flow:
        node = what.map([1, 2, 9])
    states = flow.run(executor=executor).result[node].map_states
    return [each.result if each.is_successful() else each.message for each in states]


@pytest.mark.parametrize("what", [pour, pour_apart], ids=["here", "process"])
@pytest.mark.parametrize("kind", [LocalExecutor, LocalDaskExecutor])
def test_in_this_process(what, kind):
    assert poured(what, kind()) == POURED


@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
def test_on_a_cluster_made_for_the_run(processes: bool):
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": processes}
    assert poured(pour, DaskExecutor(cluster_kwargs=options)) == POURED


@pytest.mark.parametrize("what", [pour, pour_apart], ids=["here", "process"])
def test_on_the_cluster_of_the_fixture(what, anabranch_cluster: LocalCluster):
    assert poured(what, DaskExecutor(anabranch_cluster.scheduler_address)) == POURED


def test_with_a_clock_and_a_home_of_its_own(flow_tester: FlowTester, fake_clock: FakeClock, anabranch_home: Path):
    tries = []

    @task(max_retries=1, retry_delay=3600)
    def boil() -> int:
        tries.append(fake_clock.time())
        assert len(tries) > 1
        return 100

    with Flow("kettle") as flow:
        node = boil()
    assert flow_tester.run(flow).result[node].result == 100
    assert tries[1] - tries[0] >= 3600
    assert any(anabranch_home.iterdir())

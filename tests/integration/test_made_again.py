"""Holders of values die before these are taken, on real clusters: what is taken is what was reported, or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bare_cluster import bare_cluster, make_environment
from tests.killable_cluster import KillableCluster, killable_cluster
from tests.second_time import Case

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableCluster]:
    with killable_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def threaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableCluster]:
    with killable_cluster(tmp_path_factory.mktemp("threads"), workers=1, threads=3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a cluster without this library, on which a run has been before: its workers have the code of that."""
    python = make_environment(tmp_path_factory.mktemp("bare") / "environment")
    with bare_cluster(python, tmp_path_factory.mktemp("bare-cluster")) as cluster, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Case("join", "the same").run(cluster.address, tmp_path_factory.mktemp("first"))[0] == "right"
        yield cluster.address


@pytest.mark.parametrize(
    "case",
    [
        Case("join", "slower"),
        Case("reduce", "slower"),
        Case("next map", "retried"),
        Case("join", "failing", isolation="process"),
        Case("list", "different"),
        Case("single", "failing", is_stored=True),
        Case("next map", "different", is_stored=True),
        Case("calls", "failing"),
    ],
    ids=str,
)
def test_what_is_made_again_is_what_was_reported_or_is_not_taken(
    made: KillableCluster, tmp_path: Path, case: Case
) -> None:
    made.heal(2)

    outcome, dead = case.run(made.address, tmp_path)

    assert dead
    assert outcome in ("right", "failed in words" if case.may_fail and not case.is_stored else "right")


@pytest.mark.parametrize("case", [Case("join", "failing"), Case("reduce", "retried")], ids=str)
def test_in_several_threads_of_one_process_too(threaded: KillableCluster, tmp_path: Path, case: Case) -> None:
    threaded.heal(1)

    assert case.run(threaded.address, tmp_path)[0] in ("right", "failed in words" if case.may_fail else "right")


@pytest.mark.parametrize(
    "case",
    [Case("join", "slower"), Case("list", "the same"), Case("reduce", "different"), Case("single", "failing")],
    ids=str,
)
def test_on_workers_that_came_after_the_code_was_sent_too(bare: str, tmp_path: Path, case: Case) -> None:
    assert case.run(bare, tmp_path)[0] in ("right", "failed in words" if case.may_fail else "right")

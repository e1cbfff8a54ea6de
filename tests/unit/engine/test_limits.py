"""Named limits of concurrency."""

from __future__ import annotations

import pytest
from tests.fake_cluster import FakeCluster

from anabranch import Flow, task
from anabranch.errors import OptionError


@task(concurrency={"db": 2})
def query(x: int) -> int:
    return x


@task(concurrency={"db": 3, "api": 1})
def fetch(x: int) -> int:
    return x


@task
def think(x: int) -> int:
    return x


def _holders(cluster: FakeCluster, *names: str) -> int:
    return sum(any(slug.split("-")[0] in names for slug in unit.nodes) for unit in cluster.submitted.values())


def test_no_more_single_tasks_go_out_than_their_limit_allows() -> None:
    with Flow("singles") as flow:
        for n in range(7):
            query(n)
        for n in range(3):
            think(n)
    cluster = FakeCluster(flow, slots=8)
    cluster.start()

    seen = []
    while cluster.submitted:
        seen.append(_holders(cluster, "query"))
        cluster.go(cluster.runnable()[-1])

    assert max(seen) == 2
    assert all(run.state.is_successful() for run in cluster.machine.runs.values())


def test_of_several_limits_of_one_name_the_lowest_counts_and_all_names_must_have_room() -> None:
    with Flow("names") as flow:
        for n in range(4):
            query(n)
            fetch(n)
    cluster = FakeCluster(flow, slots=8)
    cluster.start()

    seen = []
    while cluster.submitted:
        seen.append((_holders(cluster, "query", "fetch"), _holders(cluster, "fetch")))
        cluster.go(cluster.runnable()[0])

    assert max(both for both, _ in seen) == 2
    assert max(fetches for _, fetches in seen) == 1


def test_chunks_of_a_map_hold_a_limit_and_others_go_past_them() -> None:
    with Flow("maps") as flow:
        limited = query.map(list(range(100)))
        free = think.map(list(range(100)))
    cluster = FakeCluster(flow, slots=4, engine={"probe_elements": 1, "target_chunk_s": 1e-9})
    cluster.start()

    seen = []
    while cluster.submitted:
        seen.append((_holders(cluster, "query"), _holders(cluster, "think")))
        cluster.go(cluster.runnable()[-1])

    assert max(queries for queries, _ in seen) == 2
    assert max(thoughts for _, thoughts in seen) > 2
    assert cluster.state(limited).is_successful()
    assert cluster.state(free).is_successful()


def test_a_lost_unit_gives_its_place_back() -> None:
    with Flow("lost") as flow:
        for n in range(3):
            query(n)
    cluster = FakeCluster(flow, slots=4)
    cluster.start()

    for _ in range(2):
        cluster.crash(cluster.runnable()[0])
    cluster.finish()

    assert all(run.state.is_successful() for run in cluster.machine.runs.values())


@pytest.mark.parametrize("limits", [{"db": 0}, {"db": True}, {"db": 1.5}, {3: 1}, ["db"], "db"])
def test_a_limit_is_a_name_with_a_whole_number(limits: object) -> None:
    with pytest.raises(OptionError, match="concurrency: expected names with whole numbers from 1"):
        task(concurrency=limits)(lambda: None)

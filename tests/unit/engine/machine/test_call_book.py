"""Callers and calls: who waits for which, also where a caller makes its calls again."""

from __future__ import annotations

from tests.fake_cluster import FakeCluster

from anabranch import Flow, task


@task
def inner(x: int) -> int:
    return x + 1


@task
def lister(x: int) -> list[int]:
    return list(range(x, x + 2))


@task
def outer(x: int) -> object:
    return inner.map(lister(x))


def test_calls_of_calls_are_not_made_again_when_what_they_took_is_lost() -> None:
    """A call that has made calls needs its own arguments no more: nobody has to make them again."""
    with Flow("calls") as flow:
        outer(3)
    cluster = FakeCluster(flow, engine={"inline_nbytes": 0})
    cluster.start()
    lists = "outer/lister"
    while "outer/map(inner)/inner" not in cluster.machine.runs:
        cluster.go(cluster.runnable()[0])
    assert [*cluster.machine.runs[lists].elements.codes] == [10]

    cluster.uproot()

    assert all(lists not in unit.nodes for unit in cluster.runnable())
    cluster.finish()
    assert cluster.machine.runs["outer"].state.is_successful()

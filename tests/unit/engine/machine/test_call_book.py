"""Callers and calls: who waits for which, also where a caller makes its calls again."""

from __future__ import annotations

from dataclasses import replace

from tests.fake_cluster import FakeCluster

from anabranch import Flow, task, unmapped
from anabranch.engine.machine.call_book import CallBook, Waiter


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


@task
def loaded(n: int) -> list[int]:
    return list(range(n))


@task
def length(i: int, data: list[int]) -> int:
    return i + len(data)


@task
def lengths(i: int, data: list[int]) -> object:
    return [length(k, data) for k in range(i)]


def borrowing(cluster: FakeCluster) -> None:
    """Go on until calls are known that were given a value of another node."""
    cluster.start()
    while "lengths/length" not in cluster.machine.runs:
        cluster.go(cluster.runnable()[0])


def test_a_value_that_calls_were_given_is_kept_until_they_have_ended() -> None:
    with Flow("calls") as flow:
        lengths(2, loaded(5))
    cluster = FakeCluster(flow, engine={"inline_nbytes": 0})
    borrowing(cluster)

    assert all("loaded" in unit.inputs for unit in cluster.runnable())
    assert cluster.machine.runs["loaded"].key in cluster.machine._known.held()
    cluster.finish()
    assert cluster.machine.runs["lengths"].state.is_successful()
    assert cluster.machine.runs["loaded"].key not in cluster.machine._known.held()


def test_a_value_that_calls_were_given_is_made_again_before_they_are() -> None:
    with Flow("calls") as flow:
        lengths.map([3, 2], unmapped(loaded(5)))
    cluster = FakeCluster(flow, engine={"inline_nbytes": 0})
    borrowing(cluster)

    cluster.uproot()

    assert [unit.nodes for unit in cluster.runnable()] == [("loaded",)]
    cluster.finish()
    assert cluster.machine.runs["lengths"].state.is_successful()
    assert sum(unit.nodes == ("loaded",) for unit in cluster.units) == 2


def test_who_is_called_again_waits_for_the_calls_that_it_makes_then() -> None:
    # given: the calls of one run, placed in the book of another
    with Flow("calls") as flow:
        lengths(2, [0])
    cluster = FakeCluster(flow)
    borrowing(cluster)
    (placed,) = cluster.machine._known.calls.placements()
    (slug,) = placed.slugs
    book, caller = CallBook(), Waiter("lengths", True)
    book.add_group("lengths", "length", slug, None)
    book.place(placed)

    # when: two calls, of which none has ended, are made a second time
    book.place(replace(placed, bases=(2,)))

    # then
    assert book.missing() == {(caller, -1): 2}
    assert book.ended(slug, range(2)) == {}
    assert book.ended(slug, range(2, 4)) == {caller: [-1]}

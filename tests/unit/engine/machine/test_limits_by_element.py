"""Limits and rates whose names are made of arguments: each host, say, has its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fake_cluster import FakeCluster

from anabranch import Flow, task, unmapped
from anabranch.engine.machine.limits import MAX_WANTS
from anabranch.engine.machine.stimuli import Permitted
from anabranch.errors import OptionError


@task(concurrency={"host:{host}": 2}, chunksize=10)
def fetch(host: str, page: int = 0) -> str:
    return f"{host}/{page}"


@task
def double(x: Any) -> Any:
    return 2 * x


def _started(flow: Flow, **options: Any) -> FakeCluster:
    cluster = FakeCluster(flow, **options)
    cluster.start()
    return cluster


def _name(cluster: FakeCluster) -> None:
    """Let all units run that ask for names, and no others."""
    while asking := [unit for unit in cluster.runnable() if unit.asks_names]:
        cluster.go(asking[0])


def _names(cluster: FakeCluster) -> Counter[str]:
    return Counter(name for unit in cluster.submitted.values() for name in unit.names)


def test_elements_of_a_chunk_have_one_name_and_each_name_its_own_limit() -> None:
    hosts = ["a"] * 50 + ["b", "c"] * 20
    with Flow("hosts") as flow:
        pages = fetch.map(hosts)
    cluster = _started(flow, slots=4)
    seen = []
    while cluster.submitted:
        _name(cluster)
        seen.append(_names(cluster))
        cluster.go(cluster.runnable()[-1])

    assert cluster.state(pages).is_successful()
    assert max(max(each.values(), default=0) for each in seen) == 2
    assert seen[0] == {"host:a": 2, "host:b": 2, "host:c": 2}
    for unit in cluster.units:
        if not unit.asks_names:
            assert {f"host:{hosts[index]}" for index in unit.indices or ()} == set(unit.names)


def test_a_host_with_many_elements_keeps_no_other_waiting() -> None:
    with Flow("fair") as flow:
        fetch.map(["a"] * 3_000 + ["b"] * 3)
    cluster = _started(flow, slots=2)

    _name(cluster)

    assert _names(cluster)["host:b"] >= 1


def test_elements_of_a_map_and_single_tasks_share_the_names() -> None:
    with Flow("shared") as flow:
        hosts = double.map(["a", "b"] * 6)
        pages = fetch.map(hosts)
        alone = [fetch(double("a")) for _ in range(4)]
    cluster = _started(flow, slots=8)
    while cluster.submitted:
        assert max(_names(cluster).values(), default=0) <= 2
        cluster.go(cluster.runnable()[-1])

    assert all(cluster.state(node).is_successful() for node in (pages, *alone))
    assert any("host:aa" in unit.names and unit.indices is None for unit in cluster.units)


def test_rates_may_have_names_by_element_too() -> None:
    times: list[tuple[str, float]] = []

    @task(rate={"{host}": "2/min"}, concurrency={"{host}": 1}, max_retries=1, retry_delay=0)
    def ask(host: str) -> str:
        times.append((host, cluster.now))
        if len(times) == 1:
            raise OSError
        return host

    with Flow("rates") as flow:
        asked = ask.map(["a", "b", "c"] * 4)
    cluster = _started(flow, slots=4)
    began = cluster.now
    cluster.finish()

    assert cluster.state(asked).is_successful()
    assert len(times) == 13
    for host in "abc":
        mine = [time for each, time in times if each == host]
        assert all(later - first >= 60.0 for first, later in zip(mine, mine[2:], strict=False))
    assert cluster.now - began < 125.0


def test_defaults_and_whole_arguments_make_names() -> None:
    @task(concurrency={"{host}-{page}": 1})
    def read(host: str, page: int = 7) -> str:
        return host

    with Flow("whole") as flow:
        read.map(unmapped("a"), [1, 2])
        read("b")
    cluster = _started(flow, slots=4)
    _name(cluster)

    assert set(_names(cluster)) == {"a-1", "a-2", "b-7"}
    cluster.finish()


class Unsayable:
    def __format__(self, spec: str) -> str:
        raise RuntimeError("no text")

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("", "host:"),
        ("x" * 100_000, None),
        ("\0\n\x1f60.0", "host:\\x00\\n\\x1f60.0"),
        ("\ud800", "host:\\ud800"),
        ("\u00fc\U0001f600", "host:\u00fc\U0001f600"),
        ("{host}", "host:{host}"),
        (None, "host:None"),
        (3.5, "host:3.5"),
        (b"x", "host:b'x'"),
        (Unsayable(), "host:{host}"),
    ],
)
def test_whatever_the_arguments_are_names_are_printable_and_not_too_long(value: object, name: str | None) -> None:
    @task(concurrency={"host:{host}": 1})
    def take(host: object) -> int:
        return 1

    with Flow("hostile") as flow:
        taken, alone = take.map([value]), take(value)
    cluster = _started(flow, slots=4)
    _name(cluster)
    (found,) = _names(cluster)

    assert found == name if name is not None else len(found) == 200
    cluster.finish()
    assert cluster.state(taken).is_successful()
    assert cluster.state(alone).is_successful()


def test_an_empty_name_is_the_templates_own() -> None:
    @task(concurrency={"{host}": 1})
    def take(host: str) -> int:
        return 1

    with Flow("empty") as flow:
        take.map([""])
    cluster = _started(flow)
    _name(cluster)

    assert _names(cluster) == {"{host}": 1}


def test_what_is_no_argument_is_refused() -> None:
    said = r"limit 'x:\{hots\}' is made of 'hots', which is no argument; there are: 'host'"
    with pytest.raises(OptionError, match=said):

        @task(concurrency={"x:{hots}": 1})
        def take(host: str) -> int:
            return 1

    with pytest.raises(OptionError, match=r"limit '\{\}' is made of '', which is no argument"):
        task(rate={"{}": "1/s"})(lambda host: None)


@pytest.mark.parametrize("name", ["{", "a}b", "{{host}}"])
def test_other_braces_are_text(name: str) -> None:
    @task(concurrency={name: 1})
    def take(host: str) -> int:
        return 1

    with Flow("text") as flow:
        take("a")
    cluster = _started(flow)

    assert not any(unit.asks_names for unit in cluster.submitted.values())


def test_an_upstream_that_failed_names_nothing_and_is_told_as_ever() -> None:
    @task
    def fail(x: str) -> str:
        raise OSError(x)

    with Flow("failed") as flow:
        pages = fetch.map(fail.map(["a", "b"]))
    cluster = _started(flow)
    cluster.finish()

    assert cluster.element_states(pages) == ["TriggerFailed"] * 2


def test_names_are_claimed_as_others_are_and_few_at_a_time() -> None:
    with Flow("claims") as flow:
        fetch.map([f"h{n}" for n in range(500)])
    cluster = _started(flow, slots=1_000, shares_limits=True)
    _name(cluster)

    assert len(cluster.claim.wants) == MAX_WANTS
    assert len(cluster.claim.sizes) == MAX_WANTS
    ((name,), _) = cluster.claim.wants[0]
    cluster.tell(Permitted(cluster.now, {name: 1}))
    (unit,) = cluster.submitted.values()
    assert unit.names == (name,)


def test_units_that_ask_for_names_may_be_lost() -> None:
    with Flow("lost") as flow:
        pages, alone = fetch.map(["a", "b"] * 5), fetch("c")
    cluster = _started(flow)
    for unit in cluster.runnable():
        cluster.crash(unit)
    cluster.finish()

    assert cluster.state(pages).is_successful()
    assert cluster.state(alone).is_successful()


STEPS = ["go", "run", "deliver", "lose", "uproot", "driver"]


@given(
    hosts=st.lists(st.sampled_from("abc"), min_size=1, max_size=30),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9)), max_size=40),
)
def test_whatever_happens_no_name_has_more_units_than_its_limit(
    hosts: Sequence[str], steps: Sequence[tuple[str, int]]
) -> None:
    with Flow("any") as flow:
        pages = fetch.map(double.map(list(hosts)))
        alone = fetch(double("a"))
    cluster = _started(flow, slots=3)
    for step, number in steps:
        if cluster.is_finished:
            break
        runnable = cluster.runnable()
        if step == "go" and runnable:
            cluster.go(runnable[number % len(runnable)])
        elif step == "run" and runnable:
            cluster.run(runnable[number % len(runnable)])
        elif step == "deliver" and cluster.reports:
            cluster.deliver(cluster.reports[number % len(cluster.reports)])
        elif step == "lose" and runnable:
            cluster.crash(runnable[-1])
        elif step == "uproot":
            cluster.uproot()
        elif step == "driver":
            cluster.replace_driver()
        assert max(_names(cluster).values(), default=0) <= 2
    cluster.finish()

    assert cluster.state(pages).is_finished()
    assert cluster.state(alone).is_finished()

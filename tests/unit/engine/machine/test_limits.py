"""Named limits of concurrency."""

from __future__ import annotations

import pytest
from tests.fake_cluster import FakeCluster

from anabranch import Flow, task
from anabranch.engine.machine.stimuli import CancelAsked, Claim, Permitted
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


def test_chunks_of_an_async_map_hold_permits_for_as_many_elements_as_they_await() -> None:
    @task(concurrency={"db": 5}, chunksize=20)
    async def ask(x: int) -> int:
        return x

    with Flow("awaited") as flow:
        asked = ask.map(range(100))
    cluster = FakeCluster(flow, slots=2)
    cluster.start()

    seen = []
    while cluster.submitted:
        seen.append([unit.lanes for unit in cluster.submitted.values()])
        cluster.go(cluster.runnable()[0])

    assert seen[0] == [3, 2]
    assert max(sum(lanes) for lanes in seen) == 5  # type: ignore[arg-type]
    assert cluster.state(asked).is_successful()


def test_permits_for_elements_side_by_side_are_claimed_of_others() -> None:
    @task(concurrency={"db": 5}, chunksize=20)
    async def ask(x: int) -> int:
        return x

    with Flow("awaited") as flow:
        ask.map(range(100))
    cluster = _shared(flow, slots=1)

    assert cluster.claim.wants == ((("db",), 5),)
    _permit(cluster, db=4)
    assert [unit.lanes for unit in cluster.submitted.values()] == [4]
    assert cluster.claim.in_use == {"db": 4}


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


@pytest.mark.parametrize(
    "limits", [{"db": 0}, {"db": True}, {"db": 1.5}, {3: 1}, {"": 1}, {"a\0": 1}, {201 * "n": 1}, ["db"], "db"]
)
def test_a_limit_is_a_name_with_a_whole_number(limits: object) -> None:
    with pytest.raises(OptionError, match="concurrency: expected names with whole numbers from 1"):
        task(concurrency=limits)(lambda: None)


def test_a_limited_task_does_not_hold_its_limit_while_it_waits_for_what_is_upstream() -> None:
    with Flow("upstream") as flow:
        query(think(1))
        query(2)
    cluster = FakeCluster(flow, slots=4)
    cluster.start()

    assert _holders(cluster, "query") == 1
    assert all(unit in cluster.runnable() for unit in cluster.submitted.values())
    cluster.finish()
    assert all(run.state.is_successful() for run in cluster.machine.runs.values())


# Shared with other runs -----------------------------------------------------------------------------------------------


def _shared(flow: Flow, slots: int = 8) -> FakeCluster:
    cluster = FakeCluster(flow, slots=slots, shares_limits=True)
    cluster.start()
    return cluster


def _permit(cluster: FakeCluster, *lost: str, **may_use: int) -> None:
    cluster.tell(Permitted(cluster.now, may_use, frozenset(lost)))


@task(name="query", concurrency={"db": 2}, chunksize=1)
def query_alone(x: int) -> int:
    return x


def test_nothing_limited_goes_out_without_a_permit_and_what_is_not_limited_goes_past() -> None:
    with Flow("shared") as flow:
        for n in range(3):
            query(n)
            think(n)

    cluster = _shared(flow)

    assert _holders(cluster, "query") == 0
    assert _holders(cluster, "think") == 3
    assert cluster.claim == Claim({"db": 2}, {}, ((("db",), 2),), has_more=True)
    while cluster.submitted:
        cluster.go(cluster.runnable()[0])
    assert not cluster.is_finished


def test_as_many_go_out_as_are_permitted_and_one_that_has_ended_makes_room_for_the_next() -> None:
    with Flow("shared") as flow:
        for n in range(5):
            query(n)
    cluster = _shared(flow)

    _permit(cluster, db=1)
    assert cluster.claim == Claim({"db": 2}, {"db": 1}, ((("db",), 1),), has_more=True)
    seen = []
    while cluster.submitted:
        seen.append(_holders(cluster, "query"))
        cluster.go(cluster.runnable()[0])

    assert seen == [1] * 5
    assert cluster.is_finished
    assert cluster.claim == Claim({"db": 2})


def test_a_map_needs_no_word_with_the_store_from_chunk_to_chunk() -> None:
    with Flow("chunks") as flow:
        query_alone.map(list(range(100)))
    cluster = _shared(flow, slots=2)
    _permit(cluster, db=2)

    claims = []
    while not cluster.is_finished:
        before = cluster.claim
        cluster.go(cluster.runnable()[0])
        claims += [cluster.claim] if cluster.claim is not before else []

    assert len(cluster.units) == 100
    assert len(claims) <= 3


def test_no_more_is_wanted_than_can_run_at_the_same_time() -> None:
    with Flow("chunks") as flow:
        query_alone.map(list(range(100)))
        fetch.map(list(range(100)))

    cluster = _shared(flow, slots=1)
    assert [count for _, count in cluster.claim.wants] == [1, 1]
    _permit(cluster, db=1)

    assert cluster.claim.wants == ()
    assert cluster.claim.has_more


def test_where_one_task_runs_after_the_other_a_permit_is_wanted_when_it_is_its_turn() -> None:
    with Flow("sequence") as flow:
        query(1)
        for n in range(3):
            think(n)
    cluster = FakeCluster(flow, slots=1, shares_limits=True, is_sequential=True)
    cluster.start()

    wants = [cluster.claim.wants]
    while cluster.submitted:
        cluster.go(cluster.runnable()[0])
        wants.append(cluster.claim.wants)

    assert wants == [(), (), (), ((("db",), 1),)]


def test_several_names_are_wanted_together() -> None:
    with Flow("names") as flow:
        fetch(1)
    cluster = _shared(flow)

    assert cluster.claim.wants == ((("api", "db"), 1),)
    _permit(cluster, db=2)
    assert not cluster.submitted
    _permit(cluster, db=1, api=1)
    assert len(cluster.submitted) == 1


def test_what_runs_goes_on_when_permits_are_called_back_and_nothing_follows_it() -> None:
    with Flow("fewer") as flow:
        query_alone.map(list(range(100)))
    cluster = _shared(flow)
    _permit(cluster, db=2)

    _permit(cluster, db=1)
    seen = []
    for _ in range(4):
        seen.append(_holders(cluster, "query"))
        cluster.go(cluster.runnable()[0])

    assert seen == [2, 1, 1, 1]


def test_what_runs_with_lost_permits_does_not_count_for_new_ones() -> None:
    with Flow("lost") as flow:
        for n in range(6):
            task(lambda x: x, name="query", concurrency={"db": 4})(n)
    cluster = _shared(flow)
    _permit(cluster, db=2)
    first = list(cluster.submitted)

    _permit(cluster, "db", db=0)
    assert cluster.claim.in_use == {}
    _permit(cluster, db=1)
    assert cluster.claim.in_use == {"db": 1}
    for key in first:
        cluster.go(cluster.submitted[key])

    assert cluster.claim.in_use == {"db": 1}
    assert _holders(cluster, "query") == 1


def test_a_task_that_waits_for_its_next_attempt_holds_no_permit() -> None:
    @task(name="query", concurrency={"db": 2}, max_retries=1, retry_delay=100)
    def fails_once(x: int) -> int:
        if cluster.now < 1_050:
            raise ConnectionError
        return x

    with Flow("retried") as flow:
        fails_once(1)
    cluster = _shared(flow)
    _permit(cluster, db=1)

    cluster.go(cluster.runnable()[0])

    assert cluster.claim == Claim({"db": 2})
    cluster.wake()
    assert cluster.claim.in_use == {"db": 1}
    cluster.finish()
    assert all(run.state.is_successful() for run in cluster.machine.runs.values())


def test_a_cancelled_run_claims_nothing_and_ends_while_it_waits() -> None:
    with Flow("cancelled") as flow:
        for n in range(3):
            query(n)
    cluster = _shared(flow)
    _permit(cluster, db=1)

    cluster.tell(CancelAsked(cluster.now, "enough"))

    assert cluster.claim == Claim({"db": 2})
    assert cluster.is_finished


def test_a_run_without_limits_never_claims_anything() -> None:
    with Flow("free") as flow:
        think.map(list(range(10)))
    cluster = FakeCluster(flow, shares_limits=True)

    commands = cluster.start()
    while cluster.submitted:
        cluster.run(cluster.runnable()[0])
        commands += cluster.deliver(cluster.reports[0]) or []

    assert cluster.is_finished
    assert not any(isinstance(command, Claim) for command in commands)

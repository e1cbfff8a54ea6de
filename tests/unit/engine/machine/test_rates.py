"""Rates: in no window are there more attempts than they allow, and all that is left goes on in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fake_cluster import FakeCluster

from anabranch import Flow, task
from anabranch.engine.machine.permits import rate_limit
from anabranch.engine.machine.stimuli import CancelAsked, Claim, Permitted, Woke
from anabranch.signals import LOOP, RETRY

MIN = rate_limit("api", 60.0)


class Server:
    """Notes when it is asked, by the clock of a cluster."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.cluster: FakeCluster | None = None

    def ask(self) -> None:
        assert self.cluster is not None
        self.times.append(self.cluster.now)

    def busiest(self, window_s: float) -> int:
        """The most requests in any window of that length."""
        return max((sum(t <= u < t + window_s for u in self.times) for t in self.times), default=0)


@pytest.fixture
def server() -> Server:
    return Server()


def _started(server: Server, flow: Flow, **options: object) -> FakeCluster:
    server.cluster = cluster = FakeCluster(flow, **options)  # type: ignore[arg-type]
    cluster.environment = replace(cluster.environment, stopwatch=lambda: cluster.now)
    cluster.start()
    return cluster


def _asking(server: Server, rate: object, **options: object) -> Callable[[int], int]:
    @task(name="ask", rate={"api": rate}, **options)  # type: ignore[call-overload, untyped-decorator]
    def ask(x: int) -> int:
        server.ask()
        return x

    return ask


def test_single_tasks_go_out_as_often_as_the_rate_allows_and_others_go_past_them(server: Server) -> None:
    ask = _asking(server, "2/min")

    @task
    def think(x: int) -> int:
        return x

    with Flow("singles") as flow:
        for n in range(5):
            ask(n)
            think(n)
    cluster = _started(server, flow, slots=8)

    assert sum("ask" in unit.nodes[0] for unit in cluster.submitted.values()) == 2
    began = cluster.now
    cluster.finish()

    assert server.busiest(60.0) == 2
    assert len(server.times) == 5
    assert 120.0 <= cluster.now - began <= 123.0


def test_a_chunk_has_as_many_elements_as_there_may_be_attempts(server: Server) -> None:
    with Flow("map") as flow:
        total = _asking(server, "30/min", chunksize=50).map(range(100))  # type: ignore[attr-defined]
    cluster = _started(server, flow, slots=2)

    assert sum(len(unit.indices or ()) for unit in cluster.submitted.values()) == 30
    cluster.finish()

    assert cluster.state(total).is_successful()
    assert server.busiest(60.0) == 30
    assert server.times[-1] - server.times[0] < 4 * 60.0


def test_no_chunk_has_all_of_a_rate_while_other_slots_have_nothing(server: Server) -> None:
    with Flow("map") as flow:
        _asking(server, "40/min", chunksize=1000).map(range(1000))  # type: ignore[attr-defined]
    cluster = _started(server, flow, slots=4)

    assert [len(unit.indices or ()) for unit in cluster.submitted.values()] == [10] * 4


def test_what_a_chunk_hands_back_it_has_not_spent(server: Server) -> None:
    with Flow("map") as flow:
        _asking(server, "10/min", chunksize=10).map(range(30))  # type: ignore[attr-defined]
    cluster = _started(server, flow, slots=1)

    cluster.go(next(iter(cluster.submitted.values())), only=4)

    assert sum(len(unit.indices or ()) for unit in cluster.submitted.values()) == 6
    cluster.finish()
    assert server.busiest(60.0) == 10
    assert len(server.times) == 30


def test_each_retry_and_each_round_of_a_loop_takes_a_permit(server: Server) -> None:
    tried: list[int] = []

    @task(rate={"api": "3/min"}, max_retries=5, retry_delay=0)
    def fail_twice(x: int) -> int:
        server.ask()
        tried.append(x)
        if tried.count(x) < 3:
            raise OSError
        return x

    @task(rate={"api": "3/min"})
    def go_round() -> int:
        import anabranch

        server.ask()
        if anabranch.context.task_loop_count < 4:
            raise LOOP(result=1)
        return 1

    with Flow("retries") as flow:
        mapped, single, rounds = fail_twice.map([1, 2, 3, 4]), fail_twice(5), go_round()
    cluster = _started(server, flow, slots=4)
    cluster.finish()

    assert all(cluster.state(node).is_successful() for node in (mapped, single, rounds))
    assert len(server.times) == 19
    assert server.busiest(60.0) == 3


def test_elements_awaited_side_by_side_retry_with_permits_of_their_own(server: Server) -> None:
    tried: list[int] = []

    @task(rate={"api": "8/min"}, max_retries=3, retry_delay=0)
    async def ask(x: int) -> int:
        server.ask()
        tried.append(x)
        if tried.count(x) < 2:
            raise RETRY
        return x

    with Flow("awaited") as flow:
        mapped = ask.map(range(20))
    cluster = _started(server, flow, slots=2)
    cluster.finish()

    assert cluster.state(mapped).is_successful()
    assert len(server.times) == 40
    assert server.busiest(60.0) == 8


def test_what_is_lost_may_have_been_begun_just_then(server: Server) -> None:
    with Flow("lost") as flow:
        for n in range(4):
            _asking(server, "4/min")(n)
    cluster = _started(server, flow, slots=8)
    first = cluster.runnable()
    cluster.now += 50.0

    cluster.crash(first[0])
    assert not [unit for unit in cluster.submitted.values() if unit not in first]
    lost_at = cluster.now
    for unit in first[1:]:
        cluster.go(unit)
    cluster.finish()

    assert len(server.times) == 4
    assert server.times[-1] >= lost_at + 60.0


def test_two_windows_of_one_name_both_hold(server: Server) -> None:
    with Flow("windows") as flow:
        _asking(server, "2/s").map(range(12))  # type: ignore[attr-defined]
        _asking(server, "5/min").map(range(3))  # type: ignore[attr-defined]
    cluster = _started(server, flow, slots=4)
    cluster.finish()

    assert len(server.times) == 15
    assert server.busiest(60.0) == 5
    assert server.busiest(1.0) == 2


def test_a_cancelled_run_ends_at_once_whatever_waits_for_a_rate(server: Server) -> None:
    with Flow("cancelled") as flow:
        _asking(server, "1/h").map(range(9))  # type: ignore[attr-defined]
    cluster = _started(server, flow)
    cluster.go(cluster.runnable()[0])

    cluster.tell(CancelAsked(cluster.now, "enough"))

    assert cluster.is_finished


def test_elements_from_a_cache_spend_nothing(server: Server, tmp_path: object) -> None:
    @task(rate={"api": "3/min"}, target="{map_index}.pickle", result=_results(tmp_path))
    def ask(x: int) -> int:
        server.ask()
        return x

    def flow() -> Flow:
        with Flow("cached") as made:
            ask.map(range(9))
        return made

    _started(server, flow()).finish()
    again = _started(server, flow())
    began = again.now
    again.finish()

    assert len(server.times) == 9
    assert again.now == began


def _results(place: object) -> object:
    from anabranch import LocalResult

    return LocalResult(str(place))


def test_a_map_below_runs_in_chunks_of_its_own(server: Server) -> None:
    @task
    def double(x: int) -> int:
        return 2 * x

    with Flow("below") as flow:
        total = double.map(_asking(server, "5/min").map(double.map(range(12))))  # type: ignore[attr-defined]
    cluster = _started(server, flow)
    cluster.finish()

    assert cluster.state(total).is_successful()
    assert all(len(unit.nodes) == 1 for unit in cluster.units if any("ask" in slug for slug in unit.nodes))
    assert server.busiest(60.0) == 5


# Shared with other runs -----------------------------------------------------------------------------------------------


def test_shared_permits_are_claimed_for_attempts_and_held_until_a_window_after_their_ends(server: Server) -> None:
    with Flow("shared") as flow:
        _asking(server, "10/min", chunksize=4).map(range(100))  # type: ignore[attr-defined]
    cluster = _started(server, flow, slots=1, shares_limits=True)

    assert cluster.claim == Claim({MIN: 10}, {}, (((MIN,), 10),), has_more=True)
    cluster.tell(Permitted(cluster.now, {MIN: 3}))
    assert [len(unit.indices or ()) for unit in cluster.submitted.values()] == [3]
    cluster.go(cluster.runnable()[0])
    assert cluster.claim.in_use == {MIN: 3}
    assert not cluster.submitted
    cluster.wake()
    assert cluster.claim.in_use == {MIN: 3}
    assert [len(unit.indices or ()) for unit in cluster.submitted.values()] == [3]
    assert server.busiest(60.0) == 3


def test_permits_that_were_lost_do_not_count_for_others_and_do_here(server: Server) -> None:
    with Flow("lost") as flow:
        _asking(server, "10/min", chunksize=4).map(range(100))  # type: ignore[attr-defined]
    cluster = _started(server, flow, slots=1, shares_limits=True)
    cluster.tell(Permitted(cluster.now, {MIN: 6}))
    cluster.go(cluster.runnable()[0], only=2)

    cluster.tell(Permitted(cluster.now, {}, frozenset({MIN})))
    assert cluster.claim.in_use == {}
    cluster.tell(Permitted(cluster.now, {MIN: 10}))
    cluster.go(cluster.runnable()[0])
    assert cluster.claim.in_use == {MIN: 4}
    cluster.finish()
    assert server.busiest(60.0) == 10


# Whatever happens -----------------------------------------------------------------------------------------------------


@given(
    count=st.integers(1, 5),
    window_s=st.sampled_from([0.3, 1.0, 7.0, 60.0]),
    width=st.integers(1, 25),
    singles=st.integers(0, 3),
    chunksize=st.sampled_from(["auto", 1, 3, 50]),
    fails=st.sets(st.integers(0, 24), max_size=4),
    steps=st.lists(
        st.tuples(st.sampled_from(["run", "run in part", "deliver", "lose", "pass", "slots"]), st.floats(0.0, 40.0)),
        max_size=60,
    ),
)
def test_no_window_has_more_attempts_than_its_rate_allows(
    count: int,
    window_s: float,
    width: int,
    singles: int,
    chunksize: object,
    fails: set[int],
    steps: Sequence[tuple[str, float]],
) -> None:
    server, failed = Server(), set[int]()

    @task(name="ask", rate={"api": (count, window_s)}, chunksize=chunksize, max_retries=1)  # type: ignore[call-overload, untyped-decorator]
    def ask(x: int) -> int:
        server.ask()
        if x in fails and x not in failed:
            failed.add(x)
            raise OSError
        return x

    with Flow("any") as flow:
        mapped = ask.map(range(width))
        alone = [ask(100 + n) for n in range(singles)]
    cluster = _started(server, flow, slots=3)
    for step, amount in steps:
        runnable = cluster.runnable()
        cluster.now += 0.01
        if step == "run" and runnable:
            cluster.run(runnable[int(amount) % len(runnable)])
        elif step == "run in part" and runnable:
            cluster.run(runnable[0], only=1 + int(amount))
        elif step == "deliver" and cluster.reports:
            cluster.deliver(cluster.reports[int(amount) % len(cluster.reports)])
        elif step == "lose" and runnable:
            cluster.crash(runnable[-1])
        elif step == "pass":
            cluster.now += amount
            cluster.tell(Woke(cluster.now))
        elif step == "slots":
            cluster.change_slots(1 + int(amount) % 5)
    cluster.finish()

    assert all(cluster.state(node).is_finished() for node in (mapped, *alone))
    assert server.busiest(window_s) <= count
    left_s = len(server.times) / count * window_s
    assert server.times[-1] - server.times[0] <= left_s + 41.0 * (len(steps) + 1) + window_s * (len(steps) + 1)

"""Values that Dask makes again by itself are taken only if they are what was reported; else their units are lost."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fake_cluster import FakeCluster

from anabranch import Flow, Node, flatten, task, unmapped
from anabranch.definition.caching import inputs
from anabranch.definition.signature import Signature
from anabranch.engine.machine import singles
from anabranch.engine.units.columns import check_whole
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import Before, Column, CutFrom, Holding, Key, Report, SingleReport
from anabranch.engine.worker import arrival
from anabranch.engine.worker.arrival import cut_elements
from anabranch.engine.worker.unit_runner import run_unit
from anabranch.errors import ResultReleased
from anabranch.results import LocalResult
from anabranch.signals import SKIP
from anabranch.states import Cached, Failed, Retrying, Success

LARGE = {"inline_nbytes": 0, "rescued_nbytes": 0}  # no value comes with its report: each is on the cluster only
WIDTH = 12
DISTURBED = 12  # outcomes: those that are made in the place of others are disturbed, too
HOWS = ["as before", "anew", "in part", "refused"]


@task
def numbers() -> list[int]:
    return list(range(WIDTH))


@task
def one(x: int) -> int:
    return x + 1


@task
def more(x: int) -> int:
    return x * 10


@task(reduce=True)
def total(xs: list[int]) -> int:
    return sum(xs)


@task
def add_up(xs: list[int]) -> int:
    return sum(xs)


@task
def larger(x: int, xs: list[int]) -> int:
    return x + len(xs)


@task
def split() -> list[list[int]]:
    return [[1, 2], [3], [4, 5, 6]]


@task
def calls_in_turn(x: int) -> Any:
    return [one(x), one(x + 1)]


def joined() -> Node:
    return add_up(one.map(range(WIDTH)))


def reduced() -> Node:
    return total(one.map(range(WIDTH)))


def cut_from_a_list() -> Node:
    return add_up(one.map(numbers()))


def chained_late() -> Node:
    made = one.map(range(WIDTH))
    return add_up(larger.map(made, unmapped(made)))  # no chain: all elements first


def in_a_line() -> Node:
    return add_up(numbers())


def flattened() -> Node:
    return add_up(one.map(flatten(split())))


def put_together() -> Node:
    return add_up(flatten(calls_in_turn.map([1, 2, 3])))


SHAPES = [joined, reduced, cut_from_a_list, chained_late, in_a_line, flattened, put_together]


def finish_with(cluster: FakeCluster, disturb: Callable[[Key], None]) -> None:
    """Bring a run to its end; each of the first outcomes is disturbed once, as soon as it may be."""
    disturbed: set[Key] = set()
    while not cluster.is_finished:
        for key in cluster.may_be_made_again():
            if key not in disturbed and not cluster.is_finished and len(disturbed) < DISTURBED:
                disturbed.add(key)
                disturb(key)
        if cluster.reports:
            cluster.deliver(cluster.reports[0])
        elif cluster.runnable():
            cluster.run(cluster.runnable()[0])
        elif not cluster.is_finished:
            cluster.wake()


@pytest.mark.parametrize("quick_s", [singles.QUICK_S, -1.0], ids=["fused", "apart"])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("is_late", [False, True], ids=["told first", "taken first"])
@pytest.mark.parametrize("shape", SHAPES, ids=[shape.__name__ for shape in SHAPES])
def test_whatever_is_made_again_the_end_is_that_of_an_undisturbed_run(
    shape: Callable[[], Node], how: str, is_late: bool, quick_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(singles, "QUICK_S", quick_s)

    def run(disturb: Callable[[FakeCluster, Key], None]) -> tuple[Any, dict[str, str]]:
        with Flow("made") as flow:
            node = shape()
        cluster = FakeCluster(flow, engine={**LARGE, "probe_elements": 4})
        cluster.start()
        finish_with(cluster, lambda key: disturb(cluster, key))
        found = cluster.machine.runs[node.slug]
        assert found.key is not None
        value = cluster.outcomes[found.key].singles[node.slug].value
        return value, {slug: each.state.name for slug, each in cluster.machine.runs.items()}

    def make_again(cluster: FakeCluster, key: Key) -> None:
        report = cluster.make_again(key, how=how)
        if not is_late:  # else it is on its way while others take what was made
            cluster.deliver(report)

    assert run(make_again) == run(lambda cluster, key: None)


def test_a_chunk_that_is_made_again_more_slowly_is_lost_before_anybody_takes_it() -> None:
    with Flow("slower") as flow:
        add_up(one.map(range(WIDTH), task_args={"chunksize": 4}))
    cluster = FakeCluster(flow, engine=LARGE, slots=1)
    cluster.start()
    while not cluster.state("one").is_mapped():
        cluster.go(cluster.runnable()[0])
    (key, *_) = cluster.may_be_made_again()

    cluster.make_again(key, how="in part")
    report = cluster.run(cluster.unit_of("add_up"))

    assert report.changed == {key}
    cluster.finish()
    assert cluster.machine.runs["add_up"].state.is_successful()


def test_a_small_value_that_differs_the_second_time_is_taken_as_it_was_reported() -> None:
    given = iter([1, 2])

    @task
    def draw() -> int:
        return next(given)

    @task
    def take(x: int, beside: list[int]) -> tuple[int, list[int]]:
        return x, beside

    with Flow("drawn") as flow:
        take(draw(), numbers())
    cluster = FakeCluster(flow)
    cluster.start()
    drawn = cluster.unit_of("draw")
    cluster.go(drawn)
    # What takes it was sent before anything was reported of it.
    cluster.make_again(drawn.key, how="anew")
    cluster.run(cluster.unit_of("numbers"))
    report = cluster.run(cluster.unit_of("take"))
    assert set(report.taken) == {"draw", "numbers"}

    cluster.deliver(report)  # before that of what was made again
    cluster.finish()

    taken = cluster.machine.runs["take"].value
    assert taken is not None
    assert pickle.loads(taken) == (1, list(range(WIDTH)))
    assert not any(single.state.is_successful() for each in cluster.journal if isinstance(each, Report)
                   for single in each.singles if single.slug == "take" and each.key == report.key)  # fmt: skip


def test_what_cannot_be_made_again_fails_and_says_that_it_had_been_there() -> None:
    calls: Counter[int] = Counter()

    @task
    def fragile(x: int) -> int:
        calls[x] += 1
        if x == 3 and calls[x] > 1:
            raise ConnectionError("gone meanwhile")
        return x

    with Flow("fragile") as flow:
        add_up(fragile.map(range(WIDTH)))
    cluster = FakeCluster(flow, engine=LARGE, slots=1)
    cluster.start()
    while not cluster.state("fragile").is_mapped():
        cluster.go(cluster.runnable()[0])
    for key in cluster.may_be_made_again():
        cluster.make_again(key)
    cluster.finish()

    states = cluster.element_states("fragile")
    assert [index for index, name in enumerate(states) if name != "Success"] == [3]
    assert cluster.state("add_up").name == "TriggerFailed"
    assert cluster.state("add_up").message == (
        "upstream fragile[3] failed with ConnectionError: gone meanwhile (it had succeeded, its value was lost with a "
        "worker, and it cannot be made again)"
    )
    told = [each.columns[0].records[3] for each in cluster.journal if isinstance(each, Report) and each.columns
            and 3 in each.columns[0].records]  # fmt: skip
    assert "cannot be made again" in told[-1].message  # on record, too


@pytest.mark.parametrize("how", HOWS)
def test_elements_of_a_list_that_cannot_be_made_again_are_stopped_by_its_failure(how: str) -> None:
    calls: Counter[str] = Counter()

    @task
    def fragile() -> list[int]:
        calls["fragile"] += 1
        if calls["fragile"] > 1:
            raise ConnectionError("gone meanwhile")
        return [1, 2, 3, 4]

    with Flow("fragile") as flow:
        one.map(fragile(), task_args={"chunksize": 1})
    cluster = FakeCluster(flow, engine=LARGE, slots=1)
    cluster.start()
    cluster.go(cluster.unit_of("fragile"))
    cluster.go(cluster.runnable()[0])

    cluster.deliver(cluster.make_again(cluster.units[0].key, how=how))
    cluster.finish()

    assert cluster.element_states("one") == ["Success"] + ["TriggerFailed"] * 3
    elements = cluster.machine.runs["one"].elements
    assert elements is not None
    assert "fragile failed with ConnectionError: gone meanwhile (it had succeeded" in elements.records[3].message


def test_an_element_that_is_tried_again_elsewhere_does_not_run_when_its_chunk_is_made_again() -> None:
    calls: Counter[int] = Counter()

    @task(max_retries=1, retry_delay=100, chunksize=4)
    def flaky(x: int) -> int:
        calls[x] += 1
        if x == 2 and calls[x] == 1:
            raise ConnectionError("not yet")
        return x

    with Flow("flaky") as flow:
        add_up(flaky.map(range(4)))
    cluster = FakeCluster(flow, engine=LARGE, slots=1)
    cluster.start()
    cluster.go(cluster.runnable()[0])
    key = cluster.may_be_made_again()[0]
    before = calls.copy()

    cluster.deliver(cluster.make_again(key, how="as before"))
    cluster.finish()

    assert calls[2] == before[2] + 1  # its second attempt, and no other
    (last,) = (each for each in cluster.machine.runs.values() if each.node.slug == "add_up")
    assert last.key is not None
    assert cluster.outcomes[last.key].singles["add_up"].value == 6


def test_a_chunk_whose_values_are_stored_reads_them_when_it_is_made_again(tmp_path: Any) -> None:
    calls: Counter[int] = Counter()

    @task(result=LocalResult(tmp_path), chunksize=4)
    def kept(x: int) -> float:
        calls[x] += 1
        return x + calls[x] / 10  # another value each time

    with Flow("kept") as flow:
        node = add_up(kept.map(range(4)))
    cluster = FakeCluster(flow, engine=LARGE, slots=1)
    cluster.start()
    cluster.go(cluster.runnable()[0])
    key = cluster.may_be_made_again()[0]

    cluster.deliver(cluster.make_again(key, how="as before"))
    cluster.finish()

    assert set(calls.values()) == {1}
    found = cluster.machine.runs[node.slug].key
    assert found is not None
    assert cluster.outcomes[found].singles[node.slug].value == pytest.approx(6.4)


def test_a_stored_value_that_differs_the_second_time_is_read_from_where_it_is(tmp_path: Any) -> None:
    given = iter([1, 2, 3])

    @task(result=LocalResult(tmp_path))
    def draw() -> int:
        return next(given)

    with Flow("drawn") as flow:
        node = more(draw())
    cluster = FakeCluster(flow, engine=LARGE)
    cluster.start()
    drawn = cluster.unit_of("draw")
    cluster.go(drawn)
    cluster.make_again(drawn.key, how="anew")
    cluster.finish()

    found = cluster.machine.runs[node.slug].key
    assert found is not None
    assert cluster.outcomes[found].singles[node.slug].value == 10


# Pieces ---------------------------------------------------------------------------------------------------------------

OK, BAD = Success.code, Failed.code


@pytest.mark.parametrize(
    ("indices", "codes", "held", "expected"),
    [
        (range(4), [OK] * 4, Holding(("k", 1), range(4)), [0, 1, 2, 3]),
        (range(4), [OK] * 4, Holding(("k", 1), range(1, 3)), [1, 2]),
        (range(4), [OK] * 4, Holding(("k", 1), (3, 1)), [3, 1]),
        ((2, 5, 7), [OK] * 3, Holding(("k", 1), range(5, 6)), [5]),
        (range(4), [OK] * 4, Holding(("k", 1), None), [0, 1, 2, 3]),
        (range(4), [OK, BAD, OK, OK], Holding(("k", 1), range(4), bytes([OK, BAD, OK, OK])), [0, 1, 2, 3]),
        (range(4), [Cached.code] * 4, Holding(("k", 1), range(4)), [0, 1, 2, 3]),
        (range(3), [OK] * 3, Holding(("k", 1), range(4)), None),
        (range(1, 4), [OK] * 3, Holding(("k", 1), range(4)), None),
        ((2, 5), [OK] * 2, Holding(("k", 1), (2, 7)), None),
        (range(4), [OK, BAD, OK, OK], Holding(("k", 1), range(4)), None),
        (range(4), [OK] * 4, Holding(("k", 1), range(4), bytes([OK, BAD, OK, OK])), None),
        (range(4), [OK, Retrying.code, OK, OK], Holding(("k", 1), range(1, 2)), None),
        ((), [], Holding(("k", 1), range(1)), None),
    ],
)
def test_a_column_gives_what_was_reported_of_it_or_nothing(
    indices: Any, codes: list[int], held: Holding, expected: list[int] | None
) -> None:
    part = Column(indices, bytes(codes), list(indices), {}).part(held)

    assert (list(part.values) if part is not None else None) == expected


def test_a_unit_that_is_made_again_does_what_it_had_begun() -> None:
    with Flow("begun") as flow:
        one.map(range(8))
    cluster = FakeCluster(flow, engine=LARGE, slots=1)
    cluster.start()
    (unit,) = cluster.runnable()[:1]

    again = unit.again(Before(3, {}, {}))

    assert (again.indices, again.give_up_s) == (unit.indices[:3] if unit.indices is not None else None, None)


def test_the_rest_of_a_bundle_that_was_handed_back_is_left_out() -> None:
    ended = SingleReport("a", Success())
    report = Report(("k", 1), singles=(ended, SingleReport.handed_back("b"), SingleReport("c", Retrying()),
                                       SingleReport.handed_back("d")))  # fmt: skip

    assert report.as_before(in_full=False) == Before(3, {"b": frozenset({-1}), "c": frozenset({-1})}, {})


def test_nothing_is_cut_from_a_list_that_has_another_length_now() -> None:
    made = UnitOutcome()  # of a worker that refused to make it

    found = cut_elements("numbers", pickle.dumps((CutFrom(("k", 1), b"seal"), range(3))), made)

    assert found.cut is None
    assert not found.singles


def test_a_list_that_lacks_an_element_is_given_to_nobody() -> None:
    check_whole("one", bytes([OK, BAD, OK]))

    with pytest.raises(ResultReleased) as raised:
        check_whole("one", bytes([OK, 0, 0]))

    assert str(raised.value) == (
        "2 of 3 values of one are not there any more, one[1] first; resume the run to compute them again"
    )


# On a worker ----------------------------------------------------------------------------------------------------------


class StoodIn:
    """As much of a Dask worker as a unit asks for, and of the scheduler what that does with metadata of a task."""

    address = "tcp://there:1"

    def __init__(self, key: Key) -> None:
        self.key = key
        self.events: list[Any] = []
        self.begin()

    def begin(self, metadata: dict[str, Any] | None = None) -> None:
        """The task comes to a worker, with what it left at the last one."""
        task = SimpleNamespace(annotations=metadata, metadata={})
        self.state = SimpleNamespace(tasks={self.key: task})

    @property
    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = self.state.tasks[self.key].metadata
        return found

    def log_event(self, topic: str, message: Any) -> None:
        self.events.append(message)


def executed_twice(
    monkeypatch: pytest.MonkeyPatch, *, engine: dict[str, Any] = LARGE, **options: Any
) -> tuple[UnitOutcome, UnitOutcome, int]:
    """Outcomes of a chunk of four elements that was made, and made again; how many elements were run then."""
    calls: Counter[int] = Counter()

    @task(chunksize=4, **options)
    def counted(x: int) -> int:
        calls[x] += 1
        if x == 2 and engine is not LARGE:
            raise ValueError("two")
        return x

    with Flow("counted") as flow:
        counted.map(range(4))
    cluster = FakeCluster(flow, engine=engine, slots=1)
    cluster.start()
    (unit,) = cluster.runnable()
    there = StoodIn(unit.key)
    monkeypatch.setattr(arrival, "_dask_worker", lambda: there)
    program = cluster.environment.program
    first = arrival.execute("run", program, unit, {}, unit.key, None)
    calls.clear()
    there.begin(there.metadata)
    second = arrival.execute("run", program, unit, {}, unit.key, None)
    return first, second, len(calls)


def test_a_worker_that_makes_a_unit_again_knows_what_was_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, n_calls = executed_twice(monkeypatch)

    assert n_calls == 4
    assert first.columns["counted"].values == second.columns["counted"].values == [0, 1, 2, 3]


def test_a_chunk_of_which_all_was_reported_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, n_calls = executed_twice(monkeypatch, engine={})

    assert n_calls == 0
    assert second.columns["counted"].codes == first.columns["counted"].codes
    assert [repr(value) for value in second.columns["counted"].values] == ["0", "1", "ValueError('two')", "3"]
    assert second.columns["counted"].records[2].failure == first.columns["counted"].records[2].failure


@task
def give(what: str) -> object:
    """Values, and ways not to give one."""
    if what == "skip":
        raise SKIP
    if what == "fail":
        raise KeyError(what)
    return [what] if what != "none" else None


@pytest.mark.parametrize("what", ["a value", "none", "skip", "fail"])
def test_a_task_run_of_which_all_was_reported_is_not_run_again(what: str) -> None:
    with Flow("once") as flow:
        give(what)
    cluster = FakeCluster(flow)
    cluster.start()
    (unit,) = cluster.runnable()
    first, report = run_unit(unit, cluster.environment, {})
    nodes = {"give": replace(cluster.environment.program.nodes["give"], signature=Signature(_not_called, "give"))}
    stopped = replace(cluster.environment, program=replace(cluster.environment.program, nodes=nodes))
    second, again = run_unit(unit.again(report.as_before()), stopped, {})

    assert again.singles == report.singles
    assert repr(second.singles["give"].value) == repr(first.singles["give"].value)
    assert second.singles["give"].seal == first.singles["give"].seal


@pytest.mark.parametrize("cache_for", [None, 1e-6], ids=["for ever", "for a moment"])
@pytest.mark.parametrize("in_full", [True, False])
def test_a_stored_value_of_a_task_run_is_read_whether_or_not_others_may_still_use_it(
    tmp_path: Any, in_full: bool, cache_for: float | None
) -> None:
    kept = task(give.run, result=LocalResult(tmp_path), cache_key=inputs, cache_for=cache_for)
    first, again = run_again(kept, in_full=in_full)

    assert again.singles["give"].value == first.singles["give"].value == ["a value"]
    assert again.singles["give"].seal == first.singles["give"].seal


def test_a_stored_value_that_is_gone_is_computed_again(tmp_path: Any) -> None:
    kept = task(give.run, result=LocalResult(tmp_path), cache_key=inputs)
    with pytest.raises(AssertionError, match="it is run again"):
        run_again(kept, lose=lambda: [each.unlink() for each in tmp_path.rglob("*") if each.is_file()])


def run_again(kept: Any, *, in_full: bool = True, lose: Callable[[], Any] = list) -> tuple[UnitOutcome, UnitOutcome]:
    """A task run's outcome, and the one that is made after it was lost; raises if the function is called for that."""
    with Flow("once") as flow:
        kept("a value")
    cluster = FakeCluster(flow, engine=LARGE)
    cluster.start()
    (unit,) = cluster.runnable()
    first, report = run_unit(unit, cluster.environment, {})
    lose()
    nodes = {"give": replace(cluster.environment.program.nodes["give"], signature=Signature(_not_called, "give"))}
    stopped = replace(cluster.environment, program=replace(cluster.environment.program, nodes=nodes))
    second, again = run_unit(unit.again(report.as_before(in_full=in_full)), stopped, {})
    if again.singles[0].state.is_failed():
        raise AssertionError(again.singles[0].state.message)
    return first, second


def _not_called(what: str) -> None:
    raise AssertionError("it is run again")


def test_what_weighs_too_much_for_the_scheduler_is_not_left_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "MAX_BEFORE_CHUNK_NBYTES", 300)

    _, second, n_calls = executed_twice(monkeypatch, engine={})

    assert n_calls == 4
    assert second.columns["counted"].codes.count(Failed.code) == 1


def test_what_needs_a_permit_is_not_made_again_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _, second, n_calls = executed_twice(monkeypatch, concurrency={"few": 1})

    assert n_calls == 0
    assert isinstance(second.report, Report)
    assert second.report.indices == ()

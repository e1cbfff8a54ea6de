"""A run that goes on, as its record has it: everything that shows a run says the same of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anabranch import Flow, config, task
from anabranch.base.events import (
    ElementBegan,
    Event,
    MapAdvanced,
    RunFinished,
    RunStarted,
    TaskChanged,
    UnitEnded,
    UnitLost,
)
from anabranch.base.running_elements import since_text
from anabranch.base.states import Attempt, Failed, Retrying, Running, State, Submitted, Success
from anabranch.engine.units.units import ColumnReport, Report, SingleReport
from anabranch.flows.running import recorded_plan
from anabranch.monitoring.pages.library import RecordedSource
from anabranch.monitoring.pages.live_run import LiveRun
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.recorded_run import RunFollower, read_model
from anabranch.runs.read.explain import explain
from anabranch.runs.read.run import detail_data, read_run
from anabranch.runs.record.recorder import Recorder
from anabranch.runs.store.records import RunRecord
from anabranch.runs.store.sqlite import InMemoryRunStore

NOW = datetime.now(UTC)


@task
def first() -> int:
    return 1


@task
def check(x: int) -> int:
    return x


@task
def last(xs: list[int]) -> int:
    return len(xs)


class Told:
    """A run of three tasks whose events a test tells, to its record and to a live page."""

    def __init__(self) -> None:
        with Flow("checking") as flow:
            last(check.map(list(range(400)))).set_upstream(first())
        with config.set(backend="none"):
            plan, _ = recorded_plan(flow.graph, flow.reference_tasks(), (), {}, source="", run_id="r")
        self.store = InMemoryRunStore()
        self.recorder = Recorder(self.store, self.store.create_run(RunRecord("r", "checking", NOW)), plan.graph)
        self.live = PageModel()
        self.live.take(RunStarted(NOW.timestamp(), "checking", "r", dict.fromkeys(("first", "check", "last"), "task")))

    def tell(self, *events: Event) -> None:
        for event in events:
            self.recorder.observe(event)
            self.live.take(event)

    def report(self, indices: Sequence[int], code: int = Success.code, *, part: int = 1, serial: int = 1) -> None:
        """Elements have ended in a chunk, which goes on if this is a part of it."""
        codes = bytes([code]) * len(indices)
        report = Report(("check", serial), columns=(ColumnReport("check", codes, {}),), indices=indices, part=part)
        self.recorder.write(report)
        self.live.take(UnitEnded(NOW.timestamp(), "w", 1.0, 0.0, indices=indices, codes={"check": codes}))

    def wait(self) -> None:
        """Let the time pass after which all that was told is on record."""
        self.recorder.write(Report(("first", 0)))

    def assert_alike(self, slug: str, state: str, text: str, counts: dict[int, int]) -> None:
        """The record, its page and the live page say this."""
        shown = {each.slug: each for each in read_run(self.store, "r").tasks}[slug]
        _, recorded = read_model(self.store, "r")
        for node in (self.live.nodes[slug], recorded.nodes[slug]):
            assert (node.name, node.running_text(), node.counts()) == (state, text, counts)
        assert (shown.state, shown.running_text) == (state, text)


@pytest.fixture
def told() -> Iterator[Told]:
    found = Told()
    yield found
    found.recorder.put_down(Success(end_time=NOW))  # ends the thread that writes


def at(index: int, seconds: float = 0.0) -> ElementBegan:
    start = NOW + timedelta(seconds=seconds)
    return ElementBegan(start.timestamp(), "check", Running(map_index=index, start_time=start, worker=f"w{index}"))


def clock(seconds: float = 0.0) -> str:
    return since_text(Running(start_time=NOW + timedelta(seconds=seconds)))


def test_elements_that_run_are_told_alike(told: Told):
    # when fifteen workers are at elements of a map, of which the others were not begun
    told.tell(MapAdvanced(NOW.timestamp(), "check", 400, 0, 0, 0), *(at(index, -index / 100) for index in range(15)))
    # then
    named = ", ".join(f"[{index}] {clock(-index / 100)} on w{index}" for index in (14, 13, 12))
    told.assert_alike("check", "Running", f"running: {named}, and 12 more", {0: 385, Running.code: 15})
    data = detail_data(read_run(told.store, "r"))["tasks"]["check"]
    assert data["elements"]["running"] == 15
    assert data["elements"]["total"] == 400
    assert data["running"][0] == {
        "element": 14,
        "since": (NOW - timedelta(seconds=0.14)).isoformat(),
        "worker": "w14",
    }
    assert explain(told.store, "r", "check[14]").state == "Running"
    assert explain(told.store, "r", "check[14]").reasons[0] == f"it has been running {clock(-0.14)} on w14"


def test_elements_that_have_ended_do_not_run(told: Told):
    # given
    told.tell(MapAdvanced(NOW.timestamp(), "check", 400, 0, 0, 0), *(at(index) for index in range(4)))
    # when
    told.report(range(2))
    told.report((2,), Retrying.code, part=2)
    # then
    counts = {0: 396, Running.code: 1, Success.code: 2, Retrying.code: 1}
    told.assert_alike("check", "Running", f"running: [3] {clock()} on w3", counts)


def test_elements_that_were_lost_do_not_run(told: Told):
    # given
    told.tell(MapAdvanced(NOW.timestamp(), "check", 400, 0, 0, 0), at(1), at(2))
    # when
    told.tell(UnitLost(NOW.timestamp(), ["check"], 5, "its worker died", range(2, 7)))
    told.wait()
    # then
    told.assert_alike("check", "Running", f"running: [1] {clock()} on w1", {0: 399, Running.code: 1})


def test_a_single_task_is_submitted_until_it_runs_and_names_its_worker_then(told: Told):
    # when it is sent, and nothing else happens
    told.tell(TaskChanged(NOW.timestamp(), "first", Submitted()))
    told.wait()
    # then
    told.assert_alike("first", "Submitted", "", {Submitted.code: 1})
    assert explain(told.store, "r", "first").reasons == ["it waits for a worker"]
    # when
    told.tell(TaskChanged(NOW.timestamp(), "first", Running(start_time=NOW, worker="w1", attempt=2)))
    # then
    told.assert_alike("first", "Running", f"{clock()} on w1, attempt 2", {Running.code: 1})


def test_a_task_that_was_sent_again_keeps_its_attempts_on_record(told: Told):
    # given an attempt that failed
    failed: State = Retrying(message="no", attempt=1, start_time=NOW)
    before = Attempt(1, "Failed", "ValueError: no", "w1", NOW, NOW)
    single = SingleReport("first", Retrying(message="no", attempt=1, start_time=NOW, attempts=(before,)))
    told.recorder.write(Report(("first", 1), singles=(single,)))
    told.live.take(TaskChanged(NOW.timestamp(), "first", failed))
    # when
    told.tell(TaskChanged(NOW.timestamp(), "first", Running(start_time=NOW, worker="w1", attempt=2)))
    # then
    found = read_run(told.store, "r")
    assert [(each.name, *each.attempts) for each in found.retried] == [("first", before)]


def test_what_was_told_last_is_on_record_when_a_run_is_put_down(told: Told):
    told.tell(TaskChanged(NOW.timestamp(), "first", Submitted()))
    told.recorder.put_down(Success(end_time=NOW))
    assert [(row.slug, row.state) for row in told.store.task_runs("r")] == [("first", "Submitted")]
    assert told.store.get_run("r").state == "Success"
    assert told.recorder.end is None


def test_a_page_reads_a_run_once_a_second_and_takes_half_of_the_time_at_the_most(told: Told):
    # given a clock that reading takes three seconds of
    now, reads = [0.0], []

    class SlowStore:
        def __getattr__(self, name: str) -> object:
            if name == "task_runs":
                now[0] += cost
                reads.append(now[0])
            return getattr(told.store, name)

    cost = 3.0
    source = RecordedSource(SlowStore(), "r", clock=lambda: now[0])  # type: ignore[arg-type]  # but for its time it is one
    reads.clear()
    # when it is looked at twice a second
    for tick in range(40):
        now[0] = max(now[0], tick / 2)
        source.refresh()
    # then
    assert reads == [9.0, 15.0, 21.0]


def test_the_model_of_a_page_stays_and_changes_only_with_what_is_recorded(told: Told):
    # given
    now = [0.0]
    source = RecordedSource(told.store, "r", clock=lambda: now[0])
    model = source.model

    def is_news() -> bool:
        before = model.version
        now[0] += 10
        source.refresh()
        return model.version != before

    # then
    assert not is_news()
    told.tell(MapAdvanced(NOW.timestamp(), "check", 400, 0, 0, 0), at(3))
    assert is_news()
    assert model.nodes["check"].running_text()
    assert not is_news()
    told.report(range(3))
    assert is_news()
    told.recorder.put_down(Failed(end_time=NOW))
    assert is_news()
    assert model.state.is_failed()
    assert not is_news()
    assert source.model is model


def test_the_time_of_a_run_that_goes_on_passes_though_nothing_is_told(told: Told):
    # given
    now = [NOW.timestamp()]
    live = LiveRun(told.live, clock=lambda: now[0])
    recorded = RunFollower(told.store, "r", clock=lambda: now[0])
    # when
    now[0] += 12.5
    live.refresh()
    recorded.tick()
    # then
    assert live.model.elapsed_s == recorded.model.elapsed_s == pytest.approx(12.5)
    # and it stands when the run has ended
    told.recorder.put_down(Success(end_time=NOW + timedelta(seconds=13)))
    told.tell(RunFinished(NOW.timestamp() + 13, Success()))
    now[0] += 60
    for _ in range(2):
        recorded.follow()
        recorded.tick()
        live.refresh()
    assert live.model.elapsed_s == recorded.model.elapsed_s == pytest.approx(13)


def test_a_live_page_counts_from_when_the_run_was_asked_for_as_its_record_does():
    # given a run whose cluster took three seconds to start
    live = PageModel()
    live.asked = NOW.timestamp()
    # when
    live.take(RunStarted(NOW.timestamp() + 3, "f", "r", {}))
    live.tick(NOW.timestamp() + 10)
    # then
    assert (live.began, live.elapsed_s) == (NOW.timestamp(), 10.0)


def test_a_run_that_is_taken_up_again_has_another_model(told: Told):
    # given a run that has ended, whose page is looked at
    told.tell(MapAdvanced(NOW.timestamp(), "check", 400, 0, 0, 0))
    told.report(range(3))
    told.recorder.put_down(Failed(end_time=NOW))
    follower = RunFollower(told.store, "r")
    before = follower.model
    assert before.ended is not None
    # when
    told.store.take_over("r")
    follower.follow()
    # then
    assert follower.model is not before
    assert follower.model.state.is_running()
    assert follower.model.nodes["check"].counts() == before.nodes["check"].counts()


def test_a_resumed_run_takes_as_long_on_each_page_and_nobody_works_while_it_rests(
    told: Told, monkeypatch: pytest.MonkeyPatch
):
    # given a run that failed after two seconds, and is gone on with an hour later
    start = NOW.timestamp()
    told.recorder.put_down(Failed(end_time=NOW + timedelta(seconds=2)))
    monkeypatch.setattr(told.store.database, "now", lambda: round((start + 3_600) * 1e6))
    told.store.take_over("r")
    rests = told.store.get_run("r").rests
    # when
    live = LiveRun(PageModel(), clock=lambda: start + 3_603)
    live(RunStarted(start + 3_600, "checking", "r", {}, began=start, rests=rests))
    live(UnitEnded(start + 1, "w", start, 1.0, singles={"first": Success()}))
    live(UnitEnded(start + 3_602, "w", start + 3_601, 1.0, singles={"last": Success()}))
    live.refresh()
    recorded = RunFollower(told.store, "r", clock=lambda: start + 3_603)
    recorded.tick()
    # then
    assert live.model.elapsed_s == recorded.model.elapsed_s == pytest.approx(5)
    assert sum(live.model.workers["w"].busy) == pytest.approx(2)
    assert [(round(a), round(b)) for a, b, _ in live.model.workers["w"].stretches(1)] == [(0, 1), (3, 4)]


STEPS = st.one_of(
    st.tuples(st.just("begin"), st.integers(0, 19)),
    st.tuples(st.just("lose"), st.integers(0, 19)),
    st.tuples(st.sampled_from(["success", "retrying", "failed"]), st.integers(0, 19)),
    st.tuples(st.sampled_from(["submitted", "running", "ended", "look"]), st.just(0)),
)


@example([("retrying", 0), ("begin", 0), ("lose", 0)])
@given(st.lists(STEPS, max_size=25))
def test_a_model_that_is_told_bit_by_bit_equals_one_that_is_read_at_once(steps: list[tuple[str, int]]):
    # given
    told = Told()
    told.tell(MapAdvanced(NOW.timestamp(), "check", 20, 0, 0, 0))
    follower, ended = RunFollower(told.store, "r"), set[int]()
    codes = {"success": Success.code, "retrying": Retrying.code, "failed": Failed.code}
    try:
        # when
        for serial, (what, index) in enumerate(steps, 1):
            if what == "look":
                told.wait()
                follower.follow()
            elif what == "begin" and index not in ended:
                told.tell(at(index, serial / 100))
            elif what == "lose":
                told.tell(UnitLost(NOW.timestamp(), ["check"], 1, "its worker died", (index,)))
            elif what in codes and index not in ended:
                told.report((index,), codes[what], serial=serial)
                ended |= {index} if what != "retrying" else set()
            elif what == "submitted":
                told.tell(TaskChanged(NOW.timestamp(), "first", Submitted()))
            elif what == "running":
                told.tell(TaskChanged(NOW.timestamp(), "first", Running(start_time=NOW, worker="w1")))
            elif what == "ended":
                told.tell(TaskChanged(NOW.timestamp(), "last", Success(start_time=NOW, end_time=NOW)))
        told.wait()
        follower.follow()
        # then
        _, whole = read_model(told.store, "r")
        for slug, node in whole.nodes.items():
            found = follower.model.nodes[slug]
            assert (found.name, found.counts(), found.running_text()) == (
                node.name,
                node.counts(),
                node.running_text(),
            )
            assert found.counts() == told.live.nodes[slug].counts()
        assert follower.model.failures.total == whole.failures.total
    finally:
        told.recorder.put_down(Success(end_time=NOW))

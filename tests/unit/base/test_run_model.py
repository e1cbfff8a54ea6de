"""How a run stands, from events that no run has sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.base.events import MapAdvanced, Noticed, RunFinished, RunStarted, TaskChanged, UnitEnded
from anabranch.base.run_model import NodeModel, RunModel
from anabranch.base.states import BY_CODE, Cancelled, Counts, Failed, Mapped, Retrying, Running, Success


def unit(slug: str, indices: range | tuple[int, ...], code: int = Success.code) -> UnitEnded:
    return UnitEnded(1000.0, "w", 1000.0, 0.15, indices=indices, codes={slug: bytes([code]) * len(indices)})


# Maps -----------------------------------------------------------------------------------------------------------------


def test_a_chunk_that_comes_twice_counts_once():
    model = RunModel(NodeModel)
    model.take(unit("parse", range(10), Retrying.code))
    model.take(unit("parse", range(10)))
    model.take(unit("parse", range(10)))
    assert model.nodes["parse"].counts() == {Success.code: 10}


def test_attempts_of_a_chunk_that_comes_twice_count_once():
    model = RunModel(NodeModel)
    first = unit("parse", range(2, 4))
    records = {"parse": {1: Success(attempt=3), 3: Success(attempt=2)}}
    model.take(replace(first, records={"parse": {3: Success(attempt=2)}}))
    model.take(replace(unit("parse", range(5)), records=records))
    assert model.nodes["parse"].retries == 3


@given(st.lists(st.tuples(st.sets(st.integers(0, 20)), st.sampled_from(sorted(BY_CODE)), st.booleans())))
def test_elements_end_where_they_had_not_ended_before(chunks: list[tuple[set[int], int, bool]]):
    node, known = NodeModel("parse"), dict.fromkeys(range(21), 0)
    for chosen, code, whole in chunks:
        # given
        indices: Sequence[int] = range(min(chosen), max(chosen) + 1) if whole and chosen else tuple(sorted(chosen))
        codes = bytes([code]) * len(indices)
        # when
        ended = node.ends(indices, codes)
        node.put(indices, codes)
        # then
        new = [index for index in indices if known[index] < Success.code <= code]
        assert (list(ended[0]), ended[1]) == (new, bytes([code]) * len(new))
        known.update(dict.fromkeys(indices, code))


def test_elements_of_a_cancelled_map_that_never_reported_are_cancelled():
    # given
    model = RunModel(NodeModel)
    model.take(MapAdvanced(1.0, "parse", 100, 0, 0, 0))
    model.take(unit("parse", range(30)))
    # when
    model.take(TaskChanged(2.0, "parse", Cancelled(counts=Counts(100, 30, 0, 70))))
    # then
    assert model.nodes["parse"].counts() == {Success.code: 30, Cancelled.code: 70}


def test_elements_of_a_failed_map_that_were_not_run_are_cancelled():
    # given
    model = RunModel(NodeModel)
    model.take(MapAdvanced(1.0, "parse", 100, 0, 0, 0))
    model.take(unit("parse", range(10), Failed.code))
    # when
    model.take(TaskChanged(2.0, "parse", Failed(counts=Counts(100, 0, 0, 100, 90))))
    # then
    assert model.nodes["parse"].counts() == {Failed.code: 10, Cancelled.code: 90}
    assert model.nodes["parse"].failed() == 10


def test_a_map_of_no_elements_has_its_own_state():
    model = RunModel(NodeModel)
    model.take(TaskChanged(1.0, "parse", Running()))
    model.take(TaskChanged(2.0, "parse", Mapped(counts=Counts())))
    assert model.nodes["parse"].counts() == {Mapped.code: 1}


def test_pace_is_that_of_the_last_ten_seconds() -> None:
    model = RunModel(NodeModel)
    model.take(RunStarted(100.0, "etl", "r1", {"parse": "task"}))
    for second in range(61):
        done = 10 * min(second, 30) + 100 * max(0, second - 30)
        model.take(MapAdvanced(100.0 + second, "parse", 10_000, done, 0, 0))
    node = model.nodes["parse"]
    assert node.pace() == pytest.approx(100.0)
    assert node.left_s() == pytest.approx((10_000 - 3300) / 100)


def test_nothing_is_said_of_the_time_left_while_only_retries_are() -> None:
    model = RunModel(NodeModel)
    for second, done in enumerate((0, 50, 99)):
        model.take(MapAdvanced(100.0 + second, "parse", 100, done, 0, 1 if done == 99 else 0))
    node = model.nodes["parse"]
    assert node.left_s() is None


@given(st.lists(st.tuples(st.sets(st.integers(0, 40), min_size=1), st.sampled_from(sorted(BY_CODE))), max_size=20))
def test_counts_are_those_of_the_elements_whatever_order_they_come_in(reports: list[tuple[set[int], int]]) -> None:
    node, known = NodeModel("parse"), dict[int, int]()
    for indices, code in reports:
        low, high = min(indices), max(indices)
        whole = range(low, high + 1)
        node.put(whole if len(indices) == len(whole) else tuple(sorted(indices)), bytes([code]) * len(indices))
        known.update(dict.fromkeys(indices, code))
    states = [known.get(index, 0) for index in range(max(known, default=-1) + 1)]
    assert list(node.codes) == states
    if states:
        assert node.counts() == Counter(states)


def test_while_a_map_goes_on_the_engine_says_how_far_it_is_and_then_its_state_does() -> None:
    # given two elements that the engine decided, without a unit
    model = RunModel(NodeModel)
    model.take(unit("parse", range(5)))
    model.take(MapAdvanced(1.0, "parse", width=10, done=7, failed=2, retrying=1))
    node = model.nodes["parse"]
    assert (node.width, node.done(), node.failed(), node.retrying(), node.final()) == (10, 7, 2, 1, 5)
    # when
    model.take(TaskChanged(2.0, "parse", Failed(counts=Counts(10, 8, 0, 2))))
    # then
    assert (node.done(), node.failed(), node.retrying(), node.name) == (10, 2, 0, "Failed")


def test_what_an_earlier_run_did_is_no_part_of_how_long_a_map_takes() -> None:
    model = RunModel(NodeModel)
    model.take(replace(unit("parse", range(9)), is_recorded=True))
    model.take(UnitEnded(5_001.0, "w", 5_000.0, 1.0, indices=(9,), codes={"parse": b"\x0a"}))
    model.take(TaskChanged(5_002.0, "parse", Mapped(counts=Counts(10, 10))))
    assert model.nodes["parse"].duration_s() == 2.0


# The run --------------------------------------------------------------------------------------------------------------


def test_a_task_stands_as_its_report_says_even_before_the_engine_does() -> None:
    model = RunModel(NodeModel)
    model.take(TaskChanged(1.0, "load", Running()))
    model.take(UnitEnded(2.0, "w", 1.0, 1.0, singles={"load": Success(attempt=3, result=[1] * 10)}))
    node = model.nodes["load"]
    assert (node.name, node.worker, node.attempt, node.retries) == ("Success", "w", 3, 2)
    assert node.state is not None
    assert node.state.result is None, "a model keeps no values"


def test_silence_lasts_until_something_is_heard() -> None:
    model = RunModel(NodeModel)
    model.take(Noticed(1.0, "no report for 30 s", {"parse": 64}))
    model.take(Noticed(2.0, "the scheduler is back"))  # says nothing of silence
    assert model.silent == {"parse": 64}
    model.take(unit("parse", range(1)))
    assert model.silent == {}
    assert [text for _, text in model.notices] == ["no report for 30 s", "the scheduler is back"]


def test_the_next_run_begins_anew() -> None:
    model = RunModel(NodeModel)
    for run_id, slug in (("r1", "a"), ("r2", "b")):
        model.take(RunStarted(1.0, "etl", run_id, {slug: "task"}))
        model.take(RunFinished(2.0, Success()))
    assert (model.run_id, list(model.nodes), model.state.name) == ("r2", ["b"], "Success")

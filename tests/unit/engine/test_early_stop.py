"""Maps that end before all of their elements have run, and those that bear failures."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fake_cluster import FakeCluster

from anabranch import Flow, task, tasks
from anabranch.errors import OptionError
from anabranch.executors import LocalDaskExecutor, LocalExecutor


def some(x: int) -> int:
    if x % 10 == 7:
        raise ValueError(x)
    return x


@task
def total(xs: list[Any]) -> int:
    return sum(x for x in xs if isinstance(x, int))


@pytest.fixture(params=[LocalExecutor, lambda: LocalDaskExecutor(num_workers=3)], ids=["local", "threads"])
def executor(request: pytest.FixtureRequest) -> Any:
    return request.param()


def test_a_map_with_enough_successes_is_a_success_and_its_join_sees_what_there_is(executor: Any) -> None:
    with Flow("f") as flow:
        found = task(some, name="some", min_success=0.9).map(range(20))
        joined = total(found)
    state = flow.run(executor=executor)

    assert state.is_successful()
    assert state.result[found].name == "Mapped"
    assert state.result[found].counts.failed == 2
    assert state.result[joined].result == sum(range(20)) - 7 - 17


def test_a_map_that_cannot_have_enough_successes_runs_no_further() -> None:
    with Flow("f") as flow:
        found = task(some, name="some", min_success=0.99, chunksize=5).map(range(100))
        joined = total(found)
    cluster = FakeCluster(flow, slots=1)
    cluster.start()
    cluster.finish()

    states = cluster.element_states(found)
    assert states[:9] == ["Success"] * 7 + ["Failed"] + ["Success"]
    assert states[30:] == ["Cancelled"] * 70
    assert cluster.state(joined).name == "TriggerFailed"


def test_the_first_successes_may_be_enough(executor: Any) -> None:
    ran: list[int] = []

    def note(x: int) -> int:
        ran.append(x)
        return x

    with Flow("f") as flow:
        found = task(note, name="some", first_n=3, chunksize=1).map(range(1000))
        after = task(lambda x: x, name="after").map(found)
        joined = total(after)
    state = flow.run(executor=executor)

    counts = state.result[found].counts
    assert (counts.failed, counts.total) == (0, 1000)
    assert 3 <= counts.successful < 20
    assert len(ran) < 20
    assert state.result[after].counts.skipped == counts.skipped
    assert state.result[joined].is_successful()


def test_a_value_may_be_enough(executor: Any) -> None:
    with Flow("f") as flow:
        found = task(lambda x: x, name="search", stop_when=lambda x: x == 5).map(range(10_000))
        joined = tasks.filter()(found)
    state = flow.run(executor=executor)

    values = state.result[joined].result
    assert 5 in values
    assert len(values) < 10_000
    assert state.result[found].name == "Mapped"


def test_a_predicate_that_fails_is_the_element_s_failure() -> None:
    with Flow("f") as flow:
        found = task(lambda x: x, name="search", stop_when=lambda x: 1 / (x - 2)).map([2])
    state = flow.run()

    assert isinstance(state.result[found].map_states[0].result, ZeroDivisionError)


@pytest.mark.parametrize("options", [{"min_success": 1.5}, {"min_success": 0}, {"first_n": 0}, {"stop_when": 3}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        task(some, **options)


def test_filter_is_there_under_its_other_name() -> None:
    assert tasks.FilterTask(filter_func=lambda x: x > 1).run([1, 2, 3]) == [2, 3]

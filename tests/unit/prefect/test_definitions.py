"""Tasks, parameters, branches and schedules with the arguments of Prefect 1."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.refusals import refused

from anabranch.errors import OptionError, ParameterError
from anabranch.prefect import Flow, Task, case, task, unmapped
from anabranch.prefect.definitions import (
    DateTimeParameter,
    FilterTask,
    FunctionTask,
    defaults_from_attrs,
    ifelse,
    merge,
    switch,
)
from anabranch.prefect.times import CronClock, CronSchedule, IntervalSchedule, Schedule
from anabranch.prefect.tools import as_task, is_serializable, pause_task, set_temporary_config
from anabranch.signals import PAUSE


@task
def value(x: Any) -> Any:
    return x


def results(flow: Flow, *nodes: Any) -> list[Any]:
    state = flow.run()
    return [state.result[node].result for node in nodes]


def test_a_task_may_be_named_by_position_and_a_plain_one_is_a_marker():
    class Get(Task):
        def __init__(self, amount: int, **options: Any) -> None:
            self.amount = amount
            super().__init__(**options)

        def run(self) -> int:
            return self.amount

    with Flow("f") as flow:
        get, end = Get(3, name="get")(), Task("end")()
    assert (get.name, end.name) == ("get", "end")
    assert results(flow, get, end) == [3, None]


def test_a_task_may_be_made_of_a_function_by_its_class():
    with Flow("f") as flow:
        double = FunctionTask(fn=lambda x: 2 * x, name="double")
        node = double(double(2))
    assert (results(flow, node), node.name) == ([8], "double")


def test_task_run_names_change_nothing_and_that_is_said():
    with pytest.warns(UserWarning, match="task_run_name= changes nothing; there is none here: elements are parse"):
        named = task(task_run_name="x", max_retries=0)(lambda: 1)
    assert named.name == "lambda"


def test_times_without_a_zone_are_in_utc():
    with Flow("f") as flow:
        given, default = value(DateTimeParameter("at")), value(DateTimeParameter("a", default="2026-01-02"))
    state = flow.run(at="2026-03-04T05:06:07")
    assert state.result[given].result == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert state.result[default].result == datetime(2026, 1, 2, tzinfo=UTC)
    with pytest.raises(ParameterError):
        flow.run(at="soon")
    with Flow("f") as flow:
        node = value(DateTimeParameter("at", required=False))
    assert results(flow, node) == [None]


def test_arguments_that_are_not_given_are_attributes():
    class Copy(Task):
        def __init__(self, source: str = "", place: str = "", **options: Any) -> None:
            self.source, self.place = source, place
            super().__init__(**options)

        @defaults_from_attrs("source", "place")
        def run(self, source: Any, place: Any = None) -> tuple[Any, Any]:
            return source, place

    with Flow("f") as flow:
        nodes = [Copy("a", "b")(), Copy("a", "b")(source="c"), Copy("a", "b")(place=None, source="d")]
    assert results(flow, *nodes) == [("a", "b"), ("c", "b"), ("d", None)]
    assert Copy("a", "b").run() == ("a", "b")
    with pytest.raises(ValueError, match=r"defaults_from_attrs: .*run has no argument 'z'"):

        class Wrong(Task):
            @defaults_from_attrs("z")
            def run(self) -> None: ...


def test_a_filter_keeps_values_or_what_a_function_says(caplog: pytest.LogCaptureFixture):
    with Flow("f") as flow:
        plain = FilterTask()(value([1, None, ValueError(), 0]))
        large = FilterTask(filter_func=lambda x: x > 1, log_func=lambda xs: f"kept {len(xs)}", name="large")([1, 2])
    assert results(flow, plain, large) == [[1, 0], [2]]
    assert "kept 1" in caplog.text


def test_branches_have_the_arguments_of_prefect():
    with Flow("f") as flow:
        found = value("a")
        with case(found, "a"):
            a = value("a")
        with case(found, "b"):
            b = value("b")
        merged = merge(a, b, checkpoint=True, name="merged")
        pairs = merge([1, None], value.map([5, 6]), unmapped(0), mapped=True)
        yes, no, c, d = value("yes"), value("no"), value("c"), value("d")
        ifelse(found, yes, no, mapped=False)
        switch(condition=found, cases={"a": c, "b": d}, mapped=False)
    state = flow.run()
    assert (state.result[merged].result, state.result[pairs].result) == ("a", [1, 6])
    assert [state.result[each].is_skipped() for each in (yes, no, c, d)] == [False, True, False, True]


def test_schedules_begin_with_their_start():
    start = datetime(2026, 1, 1, tzinfo=UTC)
    schedule = IntervalSchedule(start, timedelta(hours=1), datetime(2026, 1, 1, 1, tzinfo=UTC))
    assert len(schedule.next(5, after=start - timedelta(seconds=1))) == 2
    assert Schedule([CronClock("@daily", day_or=True)], [bool], adjustments=[]).filters == (bool,)
    assert CronSchedule("0 6 * * *", start).clocks[0].start_date == start
    with refused(OptionError, "CronSchedule(day_or=) is of Prefect 1"):
        CronSchedule("0 6 1 * 1", day_or=False)


@pytest.mark.parametrize("options", [{}, {"isolation": "process", "timeout": 60}, {"max_retries": 1}])
def test_a_paused_task_goes_on_when_it_is_approved_and_only_that_one(options: dict[str, Any]):
    @task(**options)
    def look(x: int) -> int:
        pause_task("look at it first")
        return x

    with Flow("f") as flow:
        one, many, other = look(1), look.map([2, 3]), look(4)
    paused = flow.run(keep="all")
    states = [paused.result[one], *paused.result[many].map_states, paused.result[other]]
    assert [each.name for each in states] == ["Paused"] * 4
    assert paused.result[one].message == "look at it first"
    state = flow.run(resume=paused.run_id, approve=[one, many], keep="all")
    assert [state.result[one].result, state.result[many].result] == [1, [2, 3]]
    assert state.result[other].name == "Paused"


def test_a_pause_has_no_duration_and_none_is_approved_outside_of_a_run():
    with pytest.raises(PAUSE, match="Pause signal raised during task execution"):
        pause_task()
    with refused(OptionError, "pause_task(duration=) is of Prefect 1", "anabranch resume RUN --approve TASK"):
        pause_task("x", timedelta(hours=1))


def test_tools():
    assert is_serializable(lambda: 1)
    assert not is_serializable(__import__("threading").Lock())
    with pytest.raises(TypeError):
        is_serializable(__import__("threading").Lock(), raise_on_error=True)
    with set_temporary_config({"engine.max_losses": 9}):
        pass
    with Flow("f") as flow:
        node = as_task(5)
        assert as_task(node) is node
        assert as_task(value) is value
        value(as_task([1]))
    assert results(flow, node) == [5]

"""The table of what stands for Prefect 1's names, and refusals of arguments that it had."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from docs import migrating
from tests.refusals import refused

import anabranch
from anabranch import Flow, Parameter, Task, merge, switch, task
from anabranch.base import prefect1
from anabranch.base.prefect1 import refusing, row_of, table
from anabranch.errors import OptionError
from anabranch.executors import DaskExecutor, LocalDaskExecutor
from anabranch.results import LocalResult, S3Result
from anabranch.schedules import CronClock, CronSchedule, IntervalSchedule, Schedule


@task
def one(x: int = 1) -> int:
    return x


def flow_of() -> Flow:
    with Flow("tea") as flow:
        one()
    return flow


def test_the_page_has_the_table():
    assert migrating.page() == migrating.PAGE.read_text(encoding="utf-8"), "run python docs/migrating.py"


def test_every_row_has_a_way_and_words():
    assert len(table()) > 100
    assert {row.way for row in table()} == {"same", "renamed", "otherwise", "no"}
    assert all(row.theirs.startswith("`") and row.ours for row in table())


def test_a_row_is_found_by_the_name_and_told_as_text():
    assert str(row_of("nothing", "Client")) == (
        "here: anabranch ls --json, anabranch show RUN --json, and the HTTP API"
    )
    assert row_of("nothing") is None


def test_a_worker_that_has_the_code_only_knows_no_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(prefect1, "TABLE", tmp_path / "nothing.md")
    assert prefect1.table.__wrapped__() == ()


def test_other_arguments_are_as_ever():
    @refusing("Flow")
    def function(a: int, *, b: int = 2) -> int:
        """Its text."""
        return a + b

    assert function(1, b=3) == 4
    assert (function.__doc__, list(inspect.signature(function).parameters)) == ("Its text.", ["a", "b"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        function(1, nothing=2)  # type: ignore[call-arg]  # on purpose


ARGUMENTS: dict[str, tuple[Callable[..., Any], str]] = {
    "Flow(storage=)": (lambda: Flow("tea", storage=1), "flow.register(storage="),  # type: ignore[call-arg]
    "Flow(run_config=)": (lambda: Flow("tea", run_config=1), "executor="),  # type: ignore[call-arg]
    "Flow(environment=)": (lambda: Flow("tea", environment=1), "executor="),  # type: ignore[call-arg]
    "Flow(validate=)": (lambda: Flow("tea", validate=True), "flow.validate()"),  # type: ignore[call-arg]
    "Flow(terminal_state_handler=)": (
        lambda: Flow("tea", terminal_state_handler=print),  # type: ignore[call-arg]
        "state_handlers=",
    ),
    "flow.register(idempotency_key=)": (lambda: flow_of().register(idempotency_key="k"), "version"),  # type: ignore[call-arg]
    "flow.register(build=)": (lambda: flow_of().register(build=False), "nothing is built"),  # type: ignore[call-arg]
    "flow.run(run_on_schedule=)": (lambda: flow_of().run(run_on_schedule=False), "anabranch serve"),
    "flow.run(task_states=)": (lambda: flow_of().run(task_states={}), "resume="),
    "flow.run(context=)": (lambda: flow_of().run(context={"x": 1}), "give parameters"),
    "flow.update(validate=)": (lambda: flow_of().update(flow_of(), validate=True), "flow.validate()"),  # type: ignore[call-arg]
    "flow.add_edge(validate=)": (lambda: flow_of().add_edge(one, one, validate=True), "each run validates"),  # type: ignore[call-arg]
    "flow.chain(validate=)": (lambda: flow_of().chain(one, validate=True), "each run validates"),  # type: ignore[call-arg]
    "flow.replace(validate=)": (lambda: flow_of().replace(one, 1, validate=True), "each run validates"),  # type: ignore[call-arg]
    "flow.set_dependencies(validate=)": (
        lambda: flow_of().set_dependencies(one, validate=True),  # type: ignore[call-arg]
        "each run validates",
    ),
    "flow.visualize(flow_state=)": (lambda: flow_of().visualize(flow_state=None), "flow.visualize(state)"),  # type: ignore[call-arg]
    "merge(mapped=)": (lambda: merge(1, mapped=True), "maps are recognised"),
    "switch(mapped=)": (lambda: switch(1, {1: one}, mapped=True), "maps are recognised"),  # type: ignore[call-arg]
    "task_run_name=": (lambda: task(task_run_name="x")(one.run), "elements are parse[7]"),  # type: ignore[call-overload]
    "DaskExecutor(debug=)": (lambda: DaskExecutor(debug=True), "config.logging.level"),  # type: ignore[call-arg]
    "LocalDaskExecutor(debug=)": (lambda: LocalDaskExecutor(debug=True), "config.logging.level"),  # type: ignore[call-arg]
    "LocalResult(validate_dir=)": (lambda: LocalResult("x", validate_dir=False), "makes the directory"),
    "S3Result(boto3_kwargs=)": (lambda: S3Result("b", boto3_kwargs={}), "options of s3fs"),
    "Schedule(adjustments=)": (lambda: Schedule([CronClock("@daily")], adjustments=[]), "a clock with the times"),  # type: ignore[call-arg]
    "with context(…)": (lambda: anabranch.context(x=1), "give parameters"),  # type: ignore[operator]
    "Clock(day_or=)": (lambda: CronClock("@daily", day_or=True), "Debian's cron"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_that_prefect_had_is_refused_with_the_way_that_there_is(name: str):
    call, words = ARGUMENTS[name]
    with refused(OptionError, f"{name} is of Prefect 1; ", words):
        call()


def test_a_parameter_of_the_flow_may_have_the_name_of_such_an_argument():
    with Flow("tea") as flow:
        node = one(Parameter("context"))
    assert flow.run(context=7).result[node].result == 7


def test_what_means_the_same_is_taken():
    schedule = IntervalSchedule(timedelta(hours=1))
    assert Flow("tea", schedule).schedule is schedule
    assert flow_of().register(project_name="kitchen").project == "kitchen"
    assert DaskExecutor("host:8786").address == "tcp://host:8786"
    assert CronSchedule("@daily", end_date=None).clocks


def test_a_task_that_is_nothing_more_is_a_marker():
    with Flow("tea") as flow:
        end = Task(name="end")(upstream_tasks=[one()])
    state = flow.run()
    assert (state.result[end].name, state.result[end].result) == ("Success", None)

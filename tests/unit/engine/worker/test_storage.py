"""Values that several task runs need: one computes them, and the others wait, as long as anybody waits for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from anabranch import Flow, config, task
from anabranch.base.context import RunInfo
from anabranch.base.states import Pending
from anabranch.engine.units.units import Program
from anabranch.engine.worker.task_runner import Environment, TaskRun, finish, run_task
from anabranch.results import LocalResult
from anabranch.results.claims import Claim, value_or_claim
from anabranch.runs.stored_values import going_on, with_storing


def test_what_waits_for_a_value_does_not_begin_once_its_run_is_over(tmp_path: Path) -> None:
    # given a value that somebody else computes
    ran, pauses = [], []
    with Flow("f", result=LocalResult(tmp_path)) as flow:
        task(ran.append, name="slow", cache_for=60)(1)
    graph = with_storing(flow.graph.freeze(), flow.result, checkpointing=False)
    node = graph.nodes["slow"]
    program = Program(RunInfo("f", "id", {}, datetime.now(UTC)), dict(graph.nodes), {}, {})
    environment = Environment(program, "worker")
    storage = environment.storage(node)
    assert storage is not None
    errand = storage.errand({"object": 1}, None)
    claim = finish(value_or_claim(storage.result, errand.location, lambda: None, None))  # type: ignore[arg-type]
    assert isinstance(claim, Claim)
    # when the run ends meanwhile, and then the other gives up
    run = TaskRun(
        node,
        {},
        {},
        environment.task_context(node),
        replace(environment, sleep=pauses.append),
        wait_s=0.0,
        storage=storage,
        is_over=lambda: len(pauses) >= 2,
    )
    outcome = run_task(run)
    claim.release()
    # then
    assert isinstance(outcome.state, Pending)
    assert len(pauses) == 2
    assert not ran


@pytest.mark.parametrize("is_resumed", [False, True])
def test_what_a_lost_task_run_had_stored_is_taken_by_the_same_driver_only(is_resumed: bool, tmp_path: Path) -> None:
    # given what was stored before its end was told: in a run that goes on it may have been made of something else
    with Flow("f", result=LocalResult(tmp_path)) as flow:
        task(lambda: "anew", name="slow")()
    graph = with_storing(flow.graph.freeze(), flow.result, checkpointing=False)
    graph = going_on(graph) if is_resumed else graph
    node = graph.nodes["slow"]
    info, settings = RunInfo("f", "id", {}, datetime.now(UTC)), {**config.snapshot()["engine"], "secret_parameters": ()}
    environment = Environment(Program(info, dict(graph.nodes), {}, settings), "worker")
    storage = environment.storage(node)
    assert storage is not None
    storage.errand({}, None).commit("before")
    # when its worker is lost
    context = environment.task_context(node)
    again = TaskRun(node, {}, {}, context, environment, wait_s=0.0, storage=storage, looks_back=True)
    # then
    assert run_task(again).value == ("anew" if is_resumed else "before")

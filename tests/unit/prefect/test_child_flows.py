"""A flow of flows, as Prefect 1 has it."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch.errors import RegistryError
from anabranch.prefect import Flow, Parameter, task
from anabranch.prefect.child_flows import StartFlowRun, create_flow_run, get_task_run_result, wait_for_flow_run
from anabranch.runs.read.lookup import find


@task
def half(n: int) -> float:
    return 6 / n


@task(name="each")
def more(n: int) -> int:
    return n + 1


def child() -> Any:
    with Flow("child") as flow:
        half(Parameter("n", default=2))
        more.map([1, 2])
    return flow.register("family", storage="database")


def outcome(flow: Flow, *nodes: Any) -> list[Any]:
    state = flow.run()
    found = [state.result[node] for node in nodes]
    return [each.result if each.is_successful() else each.message for each in found]


def test_a_registered_flow_is_run_and_its_values_are_read():
    child()
    with Flow("parent") as flow:
        run_id = create_flow_run(flow_name="child", project_name="family", parameters={"n": 3})
        record = wait_for_flow_run(run_id, raise_final_state=True)
        value = get_task_run_result(run_id, "half-1", upstream_tasks=[record])
        element = get_task_run_result(run_id, "each", map_index=1)
    found = outcome(flow, run_id, value, element)
    assert found[1:] == [2.0, 3]
    assert find(found[0])[1].flow_name == "child"


def test_a_failure_of_the_flow_is_one_of_the_task_that_waits():
    child()
    with Flow("parent") as flow:
        run_id = create_flow_run(flow_name="child", parameters={"n": 0})
        quiet = wait_for_flow_run(run_id)
        loud = wait_for_flow_run(run_id, raise_final_state=True)
        value = get_task_run_result(run_id, "half")
        waits = StartFlowRun(flow_name="child", parameters={"n": 0}, wait=True)()
        goes = StartFlowRun(flow_name="child", parameters={"n": 0})()
    found = outcome(flow, quiet, loud, value, waits, goes)
    assert found[0].state == "Failed"
    assert "flow 'child', run " in found[1]
    assert "so that it gives no values" in found[2]
    assert "flow 'child', run " in found[3]
    assert waits.name == goes.name == "Flow child"
    assert find(found[4])[1].state == "Failed"


def test_a_flow_may_be_named_by_what_register_returned_or_with_the_call():
    record = child()
    with Flow("parent") as flow:
        first = create_flow_run(flow_id=record)
        second = StartFlowRun(project_name="family")(flow_name="child", parameters={"n": 1})
    assert all(find(run_id)[1].state == "Success" for run_id in outcome(flow, first, second))


def test_what_is_not_registered_is_said():
    child()
    with pytest.raises(RegistryError, match="flow 'child' is registered in project 'family', not in 'other'"):
        create_flow_run.run(flow_name="child", project_name="other")
    with pytest.raises(ValueError, match="a registered flow is needed"):
        create_flow_run.run()

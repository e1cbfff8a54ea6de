"""A flow of flows as in Prefect 1: tasks that run registered flows, as `anabranch.tasks.run_flow` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anabranch
from anabranch.base.context import entered
from anabranch.flows.requested import check_success, load, start, wait_for
from anabranch.prefect.definitions import Task, defaults_from_attrs
from anabranch.signals import FAIL


def _started(
    flow_id: Any, flow_name: str | None, project_name: str | None, parameters: Mapping[str, Any] | None
) -> str:
    """The id of the run of a registered flow; of the same task run, always the same."""
    name = flow_name or getattr(flow_id, "name", flow_id)
    if not name:
        raise ValueError("a registered flow is needed: flow_name=, or flow_id= with what register() returned")
    return start(name, parameters, project=project_name or "", is_bound=False)


@anabranch.task
def create_flow_run(
    flow_id: Any = None,
    flow_name: str | None = None,
    project_name: str = "",
    parameters: Mapping[str, Any] | None = None,
    context: Any = None,
    labels: Any = None,
    run_name: str | None = None,
    run_config: Any = None,
    scheduled_start_time: Any = None,
    idempotency_key: str | None = None,
) -> str:
    """Run a registered flow, and give the id of the run."""
    return _started(flow_id, flow_name, project_name, parameters)


@anabranch.task
def wait_for_flow_run(
    flow_run_id: str,
    stream_states: bool = True,
    stream_logs: bool = False,
    raise_final_state: bool = False,
    max_duration: Any = None,
) -> Any:
    """The record of a run, which has ended; if it failed, a failure, where `raise_final_state` asks for it."""
    from anabranch.runs.read.lookup import find

    if raise_final_state:
        check_success(flow_run_id)
    wait_for(flow_run_id)
    return find(flow_run_id)[1]


@anabranch.task
def get_task_run_result(flow_run_id: str, task_slug: str, map_index: int = -1, poll_time: int = 5) -> Any:
    """The value of a task in a run that succeeded."""
    from anabranch.runs.read.lookup import find

    wait_for(flow_run_id)
    record = find(flow_run_id)[1]
    if record.state != "Success":
        raise FAIL(f"flow {record.flow_name!r}, run {record.run_id}: {record.state}, so that it gives no values")
    flow = load(record.flow_name)
    slugs = [node.slug for node in flow.tasks]
    slug = task_slug if task_slug in slugs else task_slug.rpartition("-")[0]  # there, every slug has a number
    with entered(None):
        view = flow.run(resume=flow_run_id, keep=[slug])
    return view[slug].result if map_index < 0 else view[slug].map_states[map_index].result


class StartFlowRun(Task):
    """Run a registered flow; with `wait`, to its end, and its failure is one of this task.

    Parameters
    ----------
    flow_name, project_name, parameters
        Of the flow; each may be given with the call, too.
    wait
        Whether the task fails if the run does.
    **options
        Of the task.
    """

    def __init__(
        self,
        flow_name: str | None = None,
        project_name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        run_config: Any = None,
        wait: bool = False,
        new_flow_context: Any = None,
        run_name: str | None = None,
        scheduled_start_time: Any = None,
        poll_interval: Any = None,
        create_link_artifact: bool = True,
        **options: Any,
    ) -> None:
        self.flow_name, self.project_name, self.parameters_of_run = flow_name, project_name, parameters
        self.wait = wait
        if flow_name:
            options.setdefault("name", f"Flow {flow_name}")
        super().__init__(**options)

    @defaults_from_attrs("flow_name", "project_name")
    def run(
        self,
        flow_name: str | None = None,
        project_name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        run_config: Any = None,
        new_flow_context: Any = None,
        run_name: str | None = None,
        idempotency_key: str | None = None,
        scheduled_start_time: Any = None,
    ) -> str:
        """The id of the run."""
        given = self.parameters_of_run if parameters is None else parameters
        run_id = _started(None, flow_name, project_name, given)
        if self.wait:
            check_success(run_id)
        return run_id

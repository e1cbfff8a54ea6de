# gives: {"total": 7}
# registers: child
from prefect import Flow, task
from prefect.tasks.prefect import StartFlowRun, create_flow_run, get_task_run_result, wait_for_flow_run

start = StartFlowRun(flow_name="child", project_name="family", wait=True, parameters={"n": 1})


@task
def total(a, b):
    return a + b


with Flow("parent") as flow:
    first = start()
    run_id = create_flow_run(flow_name="child", project_name="family", parameters={"n": 2})
    waited = wait_for_flow_run(run_id, raise_final_state=True, stream_logs=True, upstream_tasks=[first])
    two = get_task_run_result(run_id, task_slug="double-1", upstream_tasks=[waited])
    other = create_flow_run(flow_name="child", project_name="family")
    three = get_task_run_result(other, "double-1", upstream_tasks=[wait_for_flow_run(other)])
    total(two, three)

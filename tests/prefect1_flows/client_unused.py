# gives: {"answer": 42}
from prefect import Client, Flow, task
from prefect.backend import FlowRunView, FlowView
from prefect.client import Client as SameClient


def start_from_elsewhere(flow_id):
    client = Client()
    run_id = client.create_flow_run(flow_id=flow_id, parameters={"x": 1})
    return FlowRunView.from_flow_run_id(run_id).state, FlowView, SameClient


@task
def answer() -> int:
    return 42


with Flow("client") as flow:
    answer()

# gives: {"where": "here"}
import os

from prefect import Flow, task
from prefect.executors import LocalDaskExecutor
from prefect.run_configs import LocalRun
from prefect.storage import Docker


@task
def where():
    return os.environ.get("WHERE")


with Flow("later") as flow:
    where()

flow.storage = Docker(registry_url="registry/team", python_dependencies=["pandas"])
flow.run_config = LocalRun(env={"WHERE": "here"}, labels=["laptop"])
flow.executor = LocalDaskExecutor(scheduler="threads", num_workers=2)

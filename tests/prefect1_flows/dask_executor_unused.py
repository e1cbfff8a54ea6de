# gives: {"where": "anywhere"}
# executor: threads
from prefect import Flow, task
from prefect.executors import DaskExecutor

EXECUTOR = DaskExecutor(address="scheduler:8786", debug=True, watch_worker_status=False)


@task(tags=["dask-resource:GPU=0"])
def where():
    return "anywhere"


with Flow("dask", executor=EXECUTOR) as flow:
    where()

assert EXECUTOR.address == "tcp://scheduler:8786"

# gives: {"double": [2, 4]}
from prefect import Flow, task
from prefect.environments import DaskKubernetesEnvironment, RemoteDaskEnvironment


@task
def double(x):
    return 2 * x


with Flow("old dask") as flow:
    double.map([1, 2])

if __name__ == "__main__":
    flow.environment = DaskKubernetesEnvironment(min_workers=2, max_workers=5)
    flow.environment = RemoteDaskEnvironment(address="tcp://scheduler:8786")

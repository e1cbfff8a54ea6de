# gives: {"count": 3}
from prefect import Flow, task
from prefect.engine.executors import LocalDaskExecutor
from prefect.environments import LocalEnvironment
from prefect.environments.storage import Docker, Local


@task
def count(rows):
    return len(rows)


with Flow("old", environment=LocalEnvironment(executor=LocalDaskExecutor(), labels=["old"])) as flow:
    count([1, 2, 3])

flow.storage = Local(directory="flows")
print(Docker)

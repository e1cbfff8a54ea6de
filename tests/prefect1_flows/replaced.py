# gives: {"new": "new 1"}
from prefect import Flow, task


@task
def one():
    return 1


@task
def old(x):
    return f"old {x}"


@task
def new(x):
    return f"new {x}"


with Flow("replaced") as flow:
    node = old(one())

flow.replace(node, new, validate=True)

# gives: {"quadruple": 24}
from prefect import Flow, tags, task
from prefect.utilities.tasks import tags as same


@task
def number():
    return 3


@task
def double(x):
    return 2 * x


@task
def quadruple(x):
    return 4 * x


with Flow("tags") as flow, tags("a", "b"):
    number().pipe(double).pipe(quadruple)

assert same is tags
assert [each.name for each in flow.get_tasks(tags=["a"])] == ["number", "double", "quadruple"]

# gives: {"double": 14, "triple": 21}
from prefect import Flow, Parameter, task


@task
def double(x):
    return 2 * x


@task
def triple(x):
    return 3 * x


with Flow("one") as one:
    double(Parameter("x", default=1))

with Flow("two") as two:
    triple(Parameter("x", default=7))

one.update(two, merge_parameters=True, validate=True)
flow = one
del one, two

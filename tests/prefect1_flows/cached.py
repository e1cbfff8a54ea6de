# gives: {"slow": 4, "other": 5}
import datetime

from prefect import Flow, task
from prefect.engine.cache_validators import all_inputs, duration_only, partial_inputs_only


@task(cache_for=datetime.timedelta(hours=1), cache_validator=all_inputs, cache_key="slow")
def slow(x):
    return x + 1


@task(cache_for=datetime.timedelta(hours=1), cache_validator=partial_inputs_only(["x"]))
def other(x, y):
    return x + y


with Flow("cached") as flow:
    slow(3)
    other(2, 3)
print(duration_only)

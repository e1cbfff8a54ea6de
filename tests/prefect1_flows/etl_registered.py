# gives: {"load": 6}
from datetime import timedelta

import prefect
from prefect import Flow, Parameter, task


@task(max_retries=3, retry_delay=timedelta(seconds=1))
def extract(n):
    prefect.context.get("logger").info("extracting %s", n)
    return list(range(n))


@task
def transform(rows):
    return [row + 1 for row in rows]


@task(log_stdout=True)
def load(rows):
    print("loading", rows)
    return sum(rows)


with Flow("etl") as flow:
    n = Parameter("n", default=3)
    load(transform(extract(n)))

flow.register(project_name="warehouse", labels=["nightly"], idempotency_key=flow.name, set_schedule_active=False)

# gives: {"joined": "2026-01-02 Oslo 3"}
from prefect import Flow, Parameter, task
from prefect.core.parameter import DateTimeParameter


@task
def joined(day, city, limit):
    return f"{day:%Y-%m-%d} {city} {limit}"


with Flow("parameters") as flow:
    start = DateTimeParameter("Start Date", required=False, default="2026-01-02T03:04:05")
    city = Parameter("city name", default="Oslo")
    limit = Parameter("max-rows", default=3, required=False, tags=["limit"])
    joined(start, city, limit)

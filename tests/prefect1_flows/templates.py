# gives: {"daily": 5, "named": "x"}
from prefect import Flow, Parameter, task
from prefect.engine.results import LocalResult
from prefect.engine.serializers import JSONSerializer, PandasSerializer

RESULT = LocalResult(dir="results", location="{flow_name}/{today}/{task_full_name}-{parameters[n]}.json")


@task(result=RESULT, checkpoint=True)
def daily(n):
    return n


@task(target="{task_name}-{tomorrow}-{scheduled_start_time:%Y}.pkl", result=LocalResult(serializer=JSONSerializer()))
def named():
    return "x"


with Flow("templates", result=LocalResult(dir="all")) as flow:
    daily(Parameter("n", default=5))
    named()
print(PandasSerializer("csv"))

# gives: {"merge": "10 from eu"}
# executor: threads
# environment: WEBHOOK=https://hooks.example.com/x
import os
from datetime import timedelta

import prefect
from prefect import Client, Flow, Parameter, case, task, unmapped
from prefect.engine.results import LocalResult
from prefect.executors import DaskExecutor
from prefect.run_configs import KubernetesRun
from prefect.schedules import IntervalSchedule
from prefect.storage import GitHub
from prefect.tasks.control_flow import merge
from prefect.tasks.secrets import PrefectSecret
from prefect.tasks.shell import ShellTask
from prefect.utilities.notifications import slack_notifier

shell = ShellTask(name="shell")
handler = slack_notifier(only_states=[prefect.engine.state.Failed])


@task(max_retries=1, retry_delay=timedelta(seconds=1), state_handlers=[handler])
def read(day, region):
    prefect.context.get("logger").info("%s of %s", day, region)
    return day


@task(result=LocalResult("kept"), target="{flow_name}/{today}-{task_name}.pkl")
def total(xs, hook):
    assert hook.startswith("https://")
    return sum(xs)


@task
def publish(n, region):
    return f"{n} from {region}"


with Flow(
    "everything",
    schedule=IntervalSchedule(interval=timedelta(days=1)),
    storage=GitHub(repo="team/flows", path="e.py"),
    run_config=KubernetesRun(image="team/image"),
    executor=DaskExecutor(cluster_class="dask_kubernetes.KubeCluster", adapt_kwargs={"minimum": 1, "maximum": 3}),
    state_handlers=[handler],
) as flow:
    region = Parameter("the region", default="eu")
    days = read.map([1, 2, 3, 4], region=unmapped(region))
    n = total(days, PrefectSecret("WEBHOOK"))
    with case(shell(command="echo yes"), "yes"):
        eu = publish(n, region)
    with case(shell(command="echo no"), "yes"):
        us = publish(n, "us")
    merged = merge(eu, us)

if __name__ == "__main__":
    flow.register(project_name="everything", labels=["prod"])
    Client().create_flow_run(flow_id=os.environ["FLOW"])

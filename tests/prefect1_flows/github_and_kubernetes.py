# gives: {"hello": "hello KUBE"}
# executor: local
import os

from prefect import Flow, task
from prefect.run_configs import KubernetesRun
from prefect.storage import GitHub

STORAGE = GitHub(repo="team/flows", path="flows/hello.py", access_token_secret="TOKEN")
RUN_CONFIG = KubernetesRun(image="team/image:1", env={"WHERE": "KUBE"}, cpu_limit=2, memory_limit="4Gi", labels=["k8s"])


@task
def hello():
    return "hello " + os.environ["WHERE"]


with Flow("hello", storage=STORAGE, run_config=RUN_CONFIG) as flow:
    hello()

flow.register(project_name="hello")

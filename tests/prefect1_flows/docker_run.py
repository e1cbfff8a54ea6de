# gives: {"n": 1}
from prefect import Flow, task
from prefect.run_configs import DockerRun, ECSRun, UniversalRun, VertexRun

CONFIGS = {
    "docker": DockerRun(image="team/image", env={"A": "1"}),
    "ecs": ECSRun(image="team/image", cpu=512, memory=1024),
    "vertex": VertexRun(image="team/image"),
    "any": UniversalRun(labels=["any"]),
}


@task(name="n")
def number():
    return len([CONFIGS["docker"]])


with Flow("docker", run_config=CONFIGS["docker"]) as flow:
    number()

if __name__ == "__main__":
    flow.register("project")

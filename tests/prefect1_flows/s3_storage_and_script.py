# gives: {"n": 1}
from prefect import Flow, task
from prefect.engine.results import S3Result
from prefect.storage import GCS, S3, Azure, Git, Local, Module


@task
def n():
    return 1


with Flow("storage", storage=Local(path=__file__, stored_as_script=True)) as flow:
    n()

STORAGES = [
    S3(bucket="team-flows", key="n.py", stored_as_script=True, local_script_path="n.py"),
    GCS(bucket="team-flows"),
    Azure(container="flows", connection_string_secret="AZURE"),
    Git(repo="team/flows", flow_path="n.py"),
    Module("team.flows"),
]
flow.register(project_name="storage", build=False, add_default_labels=False, no_url=True)
print(S3Result)

# gives: {"query": "open q"}
from prefect import Flow, resource_manager, task
from prefect.tasks.core.resource_manager import resource_manager as same


@resource_manager
class Connection:
    def __init__(self, name):
        self.name = name

    def setup(self):
        return "open"

    def cleanup(self, connection):
        assert connection == "open"


@task
def query(connection, text):
    return f"{connection} {text}"


with Flow("resources") as flow, Connection("db") as connection:
    query(connection, "q")

assert same is resource_manager

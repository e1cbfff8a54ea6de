# gives: {"pour": [1, 2]}
import os

from prefect import Flow, task
from prefect.engine.result import Result


class FolderResult(Result):
    def __init__(self, folder, **kwargs):
        self.folder = folder
        super().__init__(**kwargs)

    def read(self, location):
        new = self.copy()
        new.location = location
        with open(os.path.join(self.folder, location), "rb") as file:
            new.value = self.serializer.deserialize(file.read())
        return new

    def write(self, value_, **kwargs):
        new = self.format(**kwargs)
        new.value = value_
        os.makedirs(os.path.dirname(os.path.join(self.folder, new.location)), exist_ok=True)
        with open(os.path.join(self.folder, new.location), "wb") as file:
            file.write(self.serializer.serialize(new.value))
        return new

    def exists(self, location, **kwargs):
        return os.path.exists(os.path.join(self.folder, location.format(**kwargs)))


@task(result=FolderResult("own", location="{task_name}/{date:%Y}.pkl"), checkpoint=True)
def pour():
    return [1, 2]


@task(target="{task_name}.pkl")
def stir(cup):
    return cup


with Flow("own", result=FolderResult("own")) as flow:
    stir(pour(), task_args={"name": "pour"})

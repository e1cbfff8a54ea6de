# gives: {"speak": "prefect", "Speaker": "self"}
import prefect
from prefect import Flow, Task, task
from prefect.utilities.logging import get_logger

LOGGER = get_logger("etl")


class Speaker(Task):
    def run(self):
        self.logger.info("from self")
        return "self"


@task
def speak():
    for logger in (prefect.context.get("logger"), prefect.context.logger, prefect.context["logger"], LOGGER):
        logger.info("from %s", logger.name)
    return "prefect"


with Flow("loggers") as flow:
    speak()
    Speaker()()

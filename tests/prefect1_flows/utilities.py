# gives: {"check": [true, "2026"]}
import prefect
from prefect import Flow, task
from prefect.engine.state import Running, State
from prefect.utilities.configuration import set_temporary_config
from prefect.utilities.context import context
from prefect.utilities.debug import is_serializable, raise_on_exception
from prefect.utilities.tasks import as_task, pause_task

print(prefect.__version__, set_temporary_config, as_task, pause_task, Running, State)


@task
def check():
    today = context.get("today")
    assert prefect.context.task_run_count == 1
    return [is_serializable(today), context.get("date").strftime("2026")]


with Flow("utilities") as flow:
    check()

if __name__ == "__main__":
    with raise_on_exception():
        flow.run()

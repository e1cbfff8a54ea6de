# gives: {"work": 3}
import prefect
from prefect import Flow, task
from prefect.engine import state


def post(task, old_state, new_state):
    if new_state.is_running():
        prefect.context.get("logger").info("%s began", task.name)
    return new_state


def failed(flow, state):
    flow.logger.error("%s failed: %s", flow.name, state.message)


def watch(obj, old, new):
    if isinstance(new, (state.Failed, state.TimedOut)):
        raise AssertionError(new)
    return new


@task(state_handlers=[post, watch], timeout=60, on_failure=failed)
def work():
    return 3


with Flow("handlers", state_handlers=[watch], on_failure=failed) as flow:
    work()

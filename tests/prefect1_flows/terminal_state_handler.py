# gives: {"broken": null}

from prefect import Flow, task
from prefect.engine.state import Failed, State, Success


@task
def broken():
    raise ValueError("as ever")


@task
def fine():
    return 1


def decide(flow: Flow, state: State, reference_task_states: set[State]) -> State | None:
    if any(isinstance(each, Success) for each in reference_task_states) and isinstance(state, Failed):
        return Success("enough succeeded")
    return state


with Flow("terminal", terminal_state_handler=decide) as flow:
    broken()
    fine()

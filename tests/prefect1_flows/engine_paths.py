# gives: {"safe": "skipped", "fine": 1}
from prefect import Flow, task
from prefect.engine import signals, state
from prefect.engine.cache_validators import all_inputs, partial_parameters_only
from prefect.engine.result import Result
from prefect.engine.results import LocalResult, PrefectResult
from prefect.engine.runner import ENDRUN
from prefect.engine.serializers import JSONSerializer, PickleSerializer
from prefect.engine.signals import SKIP
from prefect.engine.state import Failed, Skipped
from prefect.triggers import all_finished
from prefect.utilities.debug import raise_on_exception

KNOWN = (Result, LocalResult, PrefectResult, ENDRUN, JSONSerializer, PickleSerializer, all_inputs, raise_on_exception)


@task
def skipping():
    raise SKIP("not today")


@task(trigger=all_finished, skip_on_upstream_skip=False)
def safe(value):
    return "skipped" if value is None else value


@task(state_handlers=[lambda t, old, new: state.Success(result=1) if isinstance(new, Failed) else new])
def fine():
    raise signals.FAIL("not so bad")


with Flow("engine") as flow:
    safe(skipping())
    fine()
print(KNOWN, Skipped, partial_parameters_only)

"""What code may ask about its run, while a task runs and elsewhere."""

import logging
import pickle

import cloudpickle
import pytest
from tests.refusals import refused

from anabranch import LOOP, Flow, Task, context, task
from anabranch.base.context import NAMES, TaskContext


def seen_by(function, **options):
    """What a task gives that runs the function."""
    with Flow("asks") as flow:
        node = task(function, name="ask", **options)()
    return flow.run().result[node].result


@pytest.mark.parametrize(
    ("name", "default", "expected"),
    [
        ("map_index", -1, -1),
        ("map_index", None, None),
        ("task_loop_result", 1, 1),
        ("task_run_count", 7, 1),
        ("task_loop_count", 7, 1),
        ("parameters", None, {}),
        ("task_name", None, "ask"),
        ("task_tags", None, frozenset()),
    ],
)
def test_a_default_stands_where_there_is_no_value(name, default, expected):
    assert seen_by(lambda: context.get(name, default)) == expected


def test_a_loop_begins_with_the_default_and_goes_on_with_what_it_gave():
    seen = []

    def climb():
        seen.append(context.get("task_loop_result", "none"))
        if len(seen) < 3:
            raise LOOP(result=None)
        return "task_loop_result" in context

    assert seen_by(climb) is True
    assert seen == ["none", None, None]


def test_names_of_prefect_give_the_same_thing():
    names = ("flow_run_id", "scheduled_start_time")
    by_get, by_item, ours = seen_by(
        lambda: (
            [context.get(name) for name in names],
            [context[name] for name in names],
            [context.run_id, context.date],
        )
    )
    assert by_get == by_item == ours
    assert None not in ours


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("task_run_cuont", "did you mean 'task_run_count'"),
        ("today_nodash", "'today', 'yesterday'"),
        ("flow_run_nam", "did you mean 'flow_run_id' or 'flow_name'?"),
        ("nothing of the kind", "it has: 'flow_name', 'run_id', 'parameters'"),
        ("names", "it has: 'flow_name'"),
    ],
)
def test_a_name_that_there_never_is_is_told(name, hint):
    for ask in (lambda: context.get(name), lambda: getattr(context, name), lambda: context[name]):
        failed = seen_by(lambda ask=ask: refusal_of(ask))
        assert failed.startswith(f"the context has no {name!r}")
        assert hint in failed
    with refused(AttributeError, f"the context has no {name!r}", at=""):
        context.get(name)
    with pytest.warns(UserWarning, match=f"the context has no '{name}'"):
        assert context.get(name, 7) == 7
    assert name not in context


def refusal_of(ask):
    with pytest.raises((AttributeError, KeyError)) as caught:
        ask()
    return caught.value.args[0]


def test_all_that_a_context_shows_can_be_asked_for():
    inner = {"run", "calls", "limits", "is_approved", "is_share", "names", "seen", "artifacts"}
    assert {name for name in dir(TaskContext) if not name.startswith("_")} - inner == set(NAMES)
    assert seen_by(lambda: [name for name in NAMES if name not in context]) == ["map_index", "task_loop_result"]


def test_outside_of_tasks_there_is_a_logger_and_what_shows_nothing():
    assert [name for name in NAMES if name in context] == ["logger", "artifact"]
    context.artifact.metric("loss", 1)
    assert context.logger is context["logger"] is context.get("logger") is logging.getLogger("anabranch")
    assert context.get("run_id", "none") == "none"
    with refused(AttributeError, "context.run_id: no task is running here", at=""):
        _ = context.run_id
    with refused(KeyError, "run_id", at=""):
        _ = context["run_id"]
    with Flow("block"):
        assert context.logger.name == "anabranch"


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_the_context_travels_as_a_module_does(dumps):
    assert pickle.loads(dumps(context)) is context
    assert pickle.loads(cloudpickle.dumps(lambda: context))() is context


class Kettle(Task):
    def run(self):
        self.logger.warning("boiling")
        return self.logger is context.logger


class Own(Task):
    def __init__(self):
        self.logger = "mine"
        super().__init__()

    def run(self):
        return self.logger


MODULES = context.get_logger("etl")


def test_a_logger_is_there_in_modules_blocks_tasks_and_handlers():
    seen = {"module": MODULES.name, "nowhere": context.get_logger().name}

    def handle(made, old, new):
        seen["handler"] = context.get_logger().name
        return new

    @task(state_handlers=[handle])
    def boil():
        return context.get_logger().name, context.get_logger("kettle").name

    with Flow("tea") as flow:
        seen["block"] = context.get_logger("block").name
        boiled = boil()
    state = flow.run()

    assert state.result[boiled].result == ("anabranch.task.boil", "anabranch.task.boil.kettle")
    assert seen == {
        "module": "anabranch.etl",
        "nowhere": "anabranch",
        "block": "anabranch.block",
        "handler": "anabranch.task.boil",
    }


def test_task_objects_have_a_logger_unless_it_is_their_own(caplog):
    with Flow("tea") as flow:
        nodes = Kettle(name="kettle")(), Own()()
    run = flow.run()
    assert [run.result[node].result for node in nodes] == [True, "mine"]
    assert Kettle(name="kettle").logger.name == task(len, name="kettle").logger.name == "anabranch.task.kettle"
    assert "boiling" in caplog.text


def test_handlers_and_triggers_have_the_context_of_their_task_and_those_of_flows_a_logger():
    seen = []

    def note(kind, *names):
        seen.append((kind, *(context.get(name, "none") for name in names), context.logger.name))

    def trigger(upstreams):
        note("trigger", "task_name", "map_index")
        return True

    def condition(error):
        note("retry_on", "task_name", "map_index")
        return False

    @task(trigger=trigger, retry_on=condition, max_retries=1, state_handlers=[lambda *_: note("handler", "map_index")])
    def fails(x):
        raise ValueError

    with Flow("f", state_handlers=[lambda *_: note("flow", "run_id")], on_failure=lambda *_: note("failure")) as flow:
        fails.map([1])
    flow.run()
    assert set(seen) == {
        ("trigger", "fails", 0, "anabranch.task.fails"),
        ("retry_on", "fails", 0, "anabranch.task.fails"),
        ("handler", 0, "anabranch.task.fails"),
        ("flow", "none", "anabranch"),
        ("failure", "anabranch"),
    }


def test_what_handlers_are_given_has_a_logger():
    names = []

    def note(it, old, new):
        names.append(it.logger.name)

    with Flow("tea", state_handlers=[note], on_failure=lambda flow, state: note(flow, None, state)) as flow:
        task(lambda: 1 / 0, name="spill", state_handlers=[note])()
    flow.run()
    assert set(names) == {"anabranch.flow.tea", "anabranch.task.spill"}

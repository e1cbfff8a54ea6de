"""What ``flow.run`` returns: views, which are the states that they show."""

import copy
import pickle
from functools import singledispatch

import cloudpickle
import pytest

from anabranch import Flow, task
from anabranch.runs.view import ElementView, FlowRunView, TaskRunView
from anabranch.signals import CANCEL, SKIP
from anabranch.states import Cached, Cancelled, Failed, Finished, Mapped, Skipped, State, Success, TriggerFailed


@task
def pour(x):
    if x == 2:
        raise ValueError("broken")
    return x


@task
def leave(signal):
    raise signal("no")


@pytest.fixture(scope="module")
def run():
    with Flow("tea") as flow:
        pour(1), pour.map([1, 3]), pour.map([1, 2]), leave(SKIP), leave(CANCEL)
        pour(pour(2))
    return flow.run()


CLASSES = (State, Finished, Success, Mapped, Cached, Skipped, Failed, TriggerFailed, Cancelled)


@pytest.mark.parametrize(
    ("view", "classes"),
    [
        (lambda run: run, (State, Finished, Failed)),
        (lambda run: run["pour"], (State, Finished, Success)),
        (lambda run: run["pour-1"], (State, Finished, Success, Mapped)),
        (lambda run: run["pour-1"].map_states[0], (State, Finished, Success)),
        (lambda run: run["pour-2"], (State, Finished, Failed)),
        (lambda run: run["pour-2"].map_states[1], (State, Finished, Failed)),
        (lambda run: run["leave"], (State, Finished, Success, Skipped)),
        (lambda run: run["leave-1"], (State, Finished, Cancelled)),
        (lambda run: run["pour-4"], (State, Finished, Failed, TriggerFailed)),
    ],
    ids=lambda value: ">".join(each.__name__ for each in value) if isinstance(value, tuple) else "",
)
def test_a_view_is_an_instance_of_its_states_class_and_of_those_above(run, view, classes):
    assert tuple(each for each in CLASSES if isinstance(view(run), each)) == classes


def test_a_view_is_still_the_view_that_it_is(run):
    assert isinstance(run, FlowRunView)
    assert isinstance(run["pour"], TaskRunView)
    assert isinstance(run["pour-1"].map_states[0], ElementView)


@singledispatch
def told(state):
    return "neither"


@told.register
def _(state: Failed):
    return "failed"


@told.register
def _(state: Success):
    return "fine"


def matched(state):
    match state:
        case Failed():
            return "failed"
        case Success(result=value):
            return f"fine with {value}"
    return "neither"


def test_views_match_and_dispatch(run):
    views = run["pour"], run["pour-2"], run["leave-1"], run["pour-2"].map_states[0]
    assert [told(each) for each in views] == ["fine", "failed", "neither", "fine"]
    assert [matched(each) for each in views] == ["fine with 1", "failed", "neither", "fine with 1"]


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, lambda view: pickle.loads(cloudpickle.dumps(view))])
def test_a_view_is_copied_and_pickled_as_a_view(run, through):
    again = through(run["pour"])
    assert type(again) is TaskRunView
    assert (again.result, again.name) == (1, "Success")


def test_a_state_is_not_compared_with_a_value_that_was_not_kept():
    @task
    def make():
        return bytes(100_000)

    with Flow("large") as flow:
        pour(task(len)(made := make()))
    view = flow.run()[made]
    assert Success() != view
    assert view != Success()


def test_what_was_left_out_of_a_map_has_its_index_and_no_value():
    @task(first_n=1, chunksize=1)
    def first(x: int) -> int:
        return x

    with Flow("enough") as flow:
        node = first.map([5, 6, 7])
    run = flow.run()[node]

    assert [each.state.map_index for each in run.map_states] == [0, 1, 2]
    assert [each.name for each in run.map_states] == ["Success", "Skipped", "Skipped"]
    assert [each.result for each in run.map_states] == [5, None, None]

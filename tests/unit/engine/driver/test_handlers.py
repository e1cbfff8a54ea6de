"""What handlers of flows are shown."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch import Flow, task
from anabranch.signals import FAIL
from anabranch.states import Failed, Success


@task
def pour(x: int) -> int:
    return x


@task
def spill(x: int) -> int:
    raise ValueError("wet")


def seen_by(write: Any, **options: Any) -> tuple[Any, list[Any]]:
    """A run, and the states that handlers were shown."""
    shown: list[Any] = []

    def handler(flow: Flow, old: Any, new: Any) -> None:
        shown.append(new)

    with Flow("tea", state_handlers=[handler, *options.pop("state_handlers", [])], **options) as flow:
        write()
    return flow.run(), shown


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (lambda: pour(3), {"pour": "Success"}),
        (lambda: pour(spill(3)), {"spill": "Failed", "pour": "TriggerFailed"}),
        (lambda: pour.map([1, 2]), {"pour": "Mapped"}),
        (lambda: None, {}),
    ],
    ids=["one", "a failure", "a map", "nothing"],
)
def test_at_the_end_a_handler_sees_the_states_of_the_nodes_as_the_caller_does(write: Any, names: Any) -> None:
    run, (running, ended) = seen_by(write)

    assert running.result is None
    assert {node.slug: state.name for node, state in ended.result.items()} == names
    assert {slug: state.name for slug, state in run.states().items()} == names


def test_it_sees_their_values_too() -> None:
    def look(flow: Flow, old: Any, new: Any) -> Any:
        if new.is_finished():
            values.append((new.result["pour"].result, new.result["pour-1"].map_states[1].result))
            values.append(str(new.result["spill"].result))

    values: list[Any] = []

    def write() -> None:
        pour(3), pour.map([1, 2]), spill(1)

    seen_by(write, state_handlers=[look])

    assert values == [(3, 2), "wet"]


def test_on_failure_sees_them_whatever_a_handler_has_made_of_the_state() -> None:
    told: list[Any] = []
    for failed in (Failed("late"), FAIL("late")):

        def refuse(flow: Flow, old: Any, new: Any, failed: Any = failed) -> Any:
            if not new.is_finished():
                return None
            if isinstance(failed, Exception):
                raise failed
            return failed

        run, _ = seen_by(lambda: pour(3), state_handlers=[refuse], on_failure=lambda _, state: told.append(state))

        assert (run.name, run.message) == ("Failed", "late")
        assert run["pour"].result == 3
    assert [each.result["pour"].name for each in told] == ["Success", "Success"]


def test_a_state_of_a_handlers_own_does_not_hide_the_nodes() -> None:
    def better(flow: Flow, old: Any, new: Any) -> Any:
        return Success("it will do", result="nothing") if new.is_failed() else None

    run, _ = seen_by(lambda: spill(3), state_handlers=[better])

    assert (run.name, run.message) == ("Success", "it will do")
    assert run["spill"].name == "Failed"

"""Functions whose annotations name what only a type checker sees."""

from __future__ import annotations

import pickle
import sys
from types import FunctionType
from typing import Any

import pytest

from anabranch import Flow, Parameter, flow, task
from anabranch.base import origins
from anabranch.base.signatures import readable_annotations, signature_of
from anabranch.executors import LocalExecutor

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="Python evaluates annotations where they stand: there is no such function"
)

SOURCE = """
def load(frame: Frame, n: int = 2) -> tuple[Frame, int]:
    return frame * n, n

def target(frame: Frame, **rest: Any) -> Path:
    return f"{frame}.bin"

def wired(n: Number = 3):
    return doubled(n)
"""


def defined(name: str, **values: Any) -> FunctionType:
    """A function as a file has it that does not postpone annotations."""
    names: dict[str, Any] = {**values, "__name__": "__main__"}
    exec(compile(SOURCE, "etl.py", "exec", dont_inherit=True), names)
    return names[name]


def is_unreadable(function: FunctionType) -> bool:
    try:
        return not function.__annotations__
    except NameError:
        return True


def test_a_signature_is_told():
    assert list(signature_of(defined("load")).parameters) == ["frame", "n"]
    with pytest.raises(ValueError, match="no signature found"):
        signature_of(iter)


def test_a_function_travels_with_the_source_of_its_annotations_and_stays_as_it_is():
    function = defined("load")
    sent = pickle.loads(origins.dumps(function))
    assert sent(4) == (8, 2)
    assert sent.__annotations__ == {"frame": "Frame", "n": "int", "return": "tuple[Frame, int]"}
    assert is_unreadable(function)


def test_annotations_that_evaluate_are_left_alone():
    function = defined("load", Frame=float)
    with readable_annotations(function):
        assert function.__annotations__["frame"] is float
    assert pickle.loads(origins.dumps(function)).__annotations__ == function.__annotations__


def test_tasks_targets_and_flows_take_such_functions(tmp_path):
    doubled = task(defined("load"), target=defined("target"), slug="doubled")
    with Flow("f") as one:
        doubled(Parameter("n", 3))
    assert one.run(executor=LocalExecutor()).result["doubled"].result == (6, 2)
    assert flow(defined("wired", doubled=doubled)).run(executor=LocalExecutor()).result["doubled"].result == (6, 2)

"""Values of classes that were loaded twice."""

from __future__ import annotations

import enum
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from anabranch.base.twins import of_this_process

CODE = """
import collections, dataclasses, enum, pydantic

class Plain(enum.Enum):
    HIGH = "high"

class Number(enum.IntEnum):
    HIGH = 2

class Model(pydantic.BaseModel):
    a: int
    level: Plain = Plain.HIGH

@dataclasses.dataclass(frozen=True)
class Row:
    a: int
    models: tuple

Point = collections.namedtuple("Point", "x y")

class Outer:
    class Inner:
        def __init__(self, x):
            self.x = x

        def __eq__(self, other):
            return type(other) is type(self) and other.x == self.x

        __hash__ = None
"""


def load() -> Any:
    module = ModuleType("twice_loaded")
    sys.modules["twice_loaded"] = module
    exec(CODE, module.__dict__)
    return module


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    sys.modules.pop("twice_loaded", None)


VALUES = [
    lambda of: of.Plain.HIGH,
    lambda of: of.Number.HIGH,
    lambda of: of.Model(a=3),
    lambda of: of.Row(1, (of.Model(a=1), of.Plain.HIGH)),
    lambda of: of.Point(1, of.Plain.HIGH),
    lambda of: of.Outer.Inner([of.Number.HIGH]),
    lambda of: [of.Plain.HIGH, {"a": of.Model(a=1)}],
    lambda of: {of.Plain.HIGH: of.Plain},
]


@pytest.mark.parametrize("make", VALUES)
def test_a_value_of_twins_becomes_one_of_this_process(make: Any) -> None:
    before = make(load())
    now = load()
    found = of_this_process(before)
    assert found is not before
    assert found == make(now)
    assert type(found) is type(make(now))


@pytest.mark.parametrize("value", [1, "a", [1], {"a": (1, 2.5)}, threading.Lock(), lambda: 1, enum.Enum, object()])
def test_other_values_are_left_alone(value: Any) -> None:
    assert of_this_process(value) is value


def test_classes_that_are_gone_or_have_changed_are_left_alone() -> None:
    before = load()
    values = before.Plain.HIGH, before.Row(1, ())
    now = load()
    del now.Row
    now.Plain = enum.Enum("Plain", {"LOW": "low"}, module="twice_loaded")
    assert all(of_this_process(value) is value for value in values)

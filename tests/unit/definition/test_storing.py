"""What a task may say of its values, and what is refused while a flow is built."""

from __future__ import annotations

import datetime
import subprocess
import sys
from typing import Any

import pytest

from anabranch import Flow, Parameter, task
from anabranch.definition.caching import (
    CacheKey,
    Facts,
    all_inputs,
    code,
    digest,
    inputs,
    key_of,
    never_use,
    parameters,
    partial_inputs_only,
    partial_parameters_only,
)
from anabranch.definition.storing import goes_by_element, storing_of
from anabranch.errors import FlowValidationError, OptionError, UnstorableValueError
from anabranch.results import InMemoryResult, LocalResult, Template

FACTS = Facts({"x": 1, "y": [2]}, {"day": "monday"}, "3.11-abc")


def identity(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"result": "results/"}, "result: expected a result such as LocalResult('results'), found 'results/'"),
        ({"result": LocalResult}, "found LocalResult; call it"),
        ({"result": InMemoryResult(), "result_handler": InMemoryResult()}, "they are the same, so give one"),
        ({"target": "a", "location": "b"}, "target and location are both given"),
        ({"target": "a", "cache_for": 60}, "target and a cache are both given"),
        ({"location": "a", "cache_for": 60}, "location is given with a cache"),
        ({"checkpoint": "yes"}, "checkpoint: expected True or False, found 'yes'"),
        ({"checkpoint": False, "target": "a"}, "checkpoint=False stores nothing, but a target or a cache is given"),
        ({"cache_for": 0}, "cache_for: expected more than 0"),
        ({"cache_for": "1h"}, "cache_for: expected seconds as a number or a timedelta"),
        (
            {"cache_key": 7},
            "cache_key: expected inputs, parameters, code (of anabranch.definition.caching), a function",
        ),
        ({"cache_key": inputs, "cache_validator": all_inputs}, "both say what must be the same"),
        (
            {"cache_validator": "all_inputs"},
            "cache_validator: expected one of anabranch.definition.caching or a function",
        ),
        ({"target": "{x.y}"}, "target '{x.y}'"),
        ({"target": "{0}"}, "a field has a name"),
        ({"location": ""}, "location: expected a template of 1 to 1000 characters"),
    ],
)
def test_an_option_that_cannot_be_is_refused_where_it_is_written(options: dict[str, Any], said: str):
    with pytest.raises(OptionError) as info:
        task(identity, **options)
    assert said in str(info.value)
    assert "task 'identity'" in str(info.value)
    assert "test_storing.py" in str(info.value)


def test_a_flow_refuses_what_is_no_result():
    with pytest.raises(OptionError, match=r"flow 'etl': result: expected a result such as .* \(.*test_storing.py"):
        Flow("etl", result="results")


def test_options_of_a_call_change_those_of_its_task():
    result = InMemoryResult()
    storing = storing_of({"result": result, "cache_for": datetime.timedelta(minutes=1)})
    assert storing is not None
    changed = storing_of({"cache_for": 5}, storing)
    assert changed is not None
    assert (changed.result, changed.cache_for_s) == (result, 5.0)
    assert storing_of({"result": None}, storing) is storing
    assert storing_of({}) is None


def problems(flow: Flow) -> str:
    with pytest.raises(FlowValidationError) as info:
        flow.validate()
    return "\n".join(info.value.problems)


def test_fields_that_there_will_not_be_are_listed_before_a_run():
    with Flow("etl", result=InMemoryResult(location="{day}/{x}/{task}")) as flow:
        Parameter("day", default="monday")
        task(identity)(1)
        task(identity, name="other", target="{y}.pkl")(2)
    found = problems(flow)
    assert "identity (" in found
    assert "no field 'task'; there are 'flow_name', 'run_id', 'task_name', 'map_index', 'date'" in found
    assert "target '{y}.pkl': no field 'y'" in found
    assert "no field 'x'" not in found


def test_one_target_for_all_elements_and_an_index_without_a_map_are_refused():
    with Flow("etl", result=InMemoryResult()) as flow:
        task(identity, target="{task_name}.pkl").map([1, 2])
        task(identity, name="single", location="{map_index}")(1)
        task(identity, name="keyed", cache_key=inputs("z") + parameters("day"), cache_for=1)(1)
    found = problems(flow)
    assert (
        "all elements of the map would have the same target; add {map_index}, or one of the mapped inputs 'x'" in found
    )
    assert "there is no map_index, as the task is not mapped" in found
    assert "the task has no input 'z'; it has: 'x'" in found
    assert "the flow has no parameter 'day'; it has: none" in found


@pytest.mark.parametrize(
    ("template", "is_by_element"),
    [
        ("{run_id}/{task_name}", False),
        ("{map_index}", True),
        ("{x:.3}", True),
        ("{y}", False),
        (lambda task_name: task_name, False),
        (lambda x: str(x), True),
        (lambda **fields: "a", True),
    ],
)
def test_what_tells_elements_apart_gives_each_an_object(template: Any, is_by_element: bool):
    storing = storing_of({"result": InMemoryResult(), "location": template})
    assert storing is not None
    assert goes_by_element(storing, {"x"}) is is_by_element
    assert isinstance(storing.template, Template)


# Keys


def test_a_key_has_a_digest_for_each_part():
    key = inputs("y") + parameters + code + (lambda inputs: inputs["x"] % 2)
    found = CacheKey.of(key).digests(FACTS)
    assert list(found) == ["input y", "parameter day", "code", "<lambda>() (part 4)"]
    assert found["code"] == "3.11-abc"
    assert repr(inputs("x") + code) == "inputs('x') + code"


def test_keys_differ_where_their_parts_or_what_they_are_for_do():
    one = inputs.digests(FACTS)
    assert key_of("a", one) == key_of("a", dict(reversed(one.items())))
    keys = {
        key_of("a", one),
        key_of("b", one),
        key_of("a", inputs("x").digests(FACTS)),
        key_of("a", inputs.digests(Facts({"x": 1, "y": [3]}, {}, ""))),
        key_of("a", inputs.digests(Facts({"x": "1", "y": [2]}, {}, ""))),
        key_of("a", inputs.digests(Facts({"x": True, "y": [2]}, {}, ""))),
    }
    assert len(keys) == 6


def test_validators_of_prefect_1_are_keys():
    assert partial_inputs_only(["x"]) == inputs("x")
    assert partial_inputs_only("x") == inputs("x")
    assert partial_parameters_only(["day"]) == parameters("day")
    assert all_inputs == CacheKey(inputs.parts)
    assert CacheKey.of(never_use) is never_use


def test_digests_are_the_same_in_another_process():
    values = "[1, 'a', 2.5, None, (1, 'b'), [1, 'b'], {'k': [1], 'l': {'p', 'q', 'r'}}, [frozenset({'p', 'q', 'r'})]]"
    program = f"from anabranch.definition.caching import digest; print(*(digest(value) for value in {values}))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert found == [digest(value) for value in eval(values)]
    assert len(set(found)) == len(found)


def test_a_value_that_is_known_by_its_identity_only_has_no_digest():
    with pytest.raises(UnstorableValueError, match=r"input 'x', a builtins\.object, has no digest"):
        inputs.digests(Facts({"x": object()}, {}, ""))


def test_names_that_are_not_there_are_refused():
    with pytest.raises(OptionError, match="there is no input 'z'; there are 'x', 'y'"):
        inputs("z").digests(FACTS)
    with pytest.raises(OptionError, match="expected names of inputs"):
        inputs()

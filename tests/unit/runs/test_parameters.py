"""Parameters: what they can be, and every problem of a run's values told at once."""

import datetime
import enum
import pathlib
import typing
from collections import abc

import numpy
import pydantic
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch import Flow, Parameter, case, task
from anabranch.errors import OptionError, OutsideFlowError, ParameterError
from anabranch.runs.parameters import resolve_parameters


@task
def same(x):
    return x


@task
def spoil(xs):
    xs.append("spoilt")
    return xs


def resolved(parameter, **given):
    return resolve_parameters("f", [parameter], given)[parameter.name]


# What a parameter is --------------------------------------------------------------------------------------------------


def test_a_parameter_is_a_node_that_can_be_used_anywhere():
    with Flow("f") as flow:
        p = Parameter("p", default=3)
        q = Parameter("q", default=[1, 2])
        nodes = [same(p), p + 1, same.map(q), same({"k": [p]}), q[0]]
        with p:
            nodes.append(same("yes"))
        with case(p, 4):
            nodes.append(same("no"))
    view = flow.run()
    assert [view.result[node].result for node in nodes] == [3, 4, [1, 2], {"k": [3]}, 1, "yes", None]
    assert view.result[p].result == 3
    assert view.parameters == {"p": 3, "q": [1, 2]}


def test_a_parameter_is_required_without_a_default_and_none_is_a_default():
    assert Parameter("p").required
    assert not Parameter("p", default=None).required
    assert Parameter("p", default=1, required=True).required
    assert not Parameter("p", required=False).required


def test_a_parameter_made_before_joins_the_flow_that_uses_it():
    p = Parameter("p", default=1)
    flows = []
    for _ in range(2):
        with Flow("f") as flow:
            same(p)
        flows.append(flow)
    with Flow("g") as called:
        assert p() is p
    assert all(flow.parameters() == {p} for flow in (*flows, called))
    assert flows[1].run(p=5).result["same"].result == 5


def test_a_parameter_that_is_called_needs_an_open_flow():
    with refused(OutsideFlowError, "Parameter('p') was called with no flow open"):
        Parameter("p")()


def test_a_task_may_have_the_name_of_a_parameter():
    with Flow("f") as flow:
        same(1, task_args={"name": "p"})
        p = Parameter("p", default=2)
        node = same(p)
    assert flow.run(p=3).result[node].result == 3


def test_a_parameter_has_one_line_for_people():
    assert repr(Parameter("p")) == "<Parameter 'p'>"


@pytest.mark.parametrize(
    ("name", "usable"),
    [("__class__", "class_"), ("flow", "flow_"), ("mapped", "mapped_"), ("upstream_tasks", "upstream_tasks_")],
)
def test_a_name_with_another_meaning_is_refused(name, usable):
    with refused(OptionError, f"parameter name: {name!r} has another meaning; use a name such as {usable!r}"):
        Parameter(name)


@pytest.mark.parametrize(("name", "usable"), [("a=b", "a_b"), (" a", "a"), ("a b = ", "a_b")])
def test_a_name_that_could_not_be_given_is_refused(name, usable):
    with refused(
        OptionError, "a name without '=', and without blanks around it", f"such as {usable!r}, found {name!r}"
    ):
        Parameter(name)


@pytest.mark.parametrize(
    "name", ["station limit", "my-date", "class", "2nd", "limit%", "größe", "<b>", "a.b[0]", "{x}", "'"]
)
def test_a_name_need_not_be_an_identifier(name):
    with Flow("f") as flow:
        node = same(Parameter(name, default=1, type=int))
    assert flow.run(parameters={name: "3"}).result[node].result == 3
    assert flow.run().parameters == {name: 1}
    assert resolved(Parameter(name), **{name: 5}) == 5
    with refused(ParameterError, f"it has: {name!r}", f"{name}: expected int, found 'x'", at=""):
        flow.run({name: "x"})


@pytest.mark.parametrize(
    ("name", "words"), [("", "found 0"), (None, "found None"), (5, "found 5"), ("p" * 201, "found 201")]
)
def test_a_name_is_a_bounded_string(name, words):
    with refused(OptionError, "parameter name: expected a name", words):
        Parameter(name)


def test_names_may_be_in_any_script():
    assert Parameter("größe", default=1).name == "größe"


def test_a_default_holds_no_node():
    with Flow("f"):
        for default in (same(1), [same(1)], same, {"k": (same,)}):
            with refused(OptionError, "parameter 'p': the default cannot be a node or task"):
                Parameter("p", default=default)


def test_a_default_is_among_the_choices():
    with refused(OptionError, "parameter 'p': the default 3 is not among its choices (1, 2)"):
        Parameter("p", default=3, choices=[1, 2])
    assert Parameter("p", default=None, choices=[1, 2]).choices == (1, 2)


# Values ---------------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Switch(enum.Enum):
    ON = True


class Word(enum.StrEnum):
    ONE = "1"


class Row(typing_extensions.TypedDict):
    a: int


@typing.runtime_checkable
class Goes(typing.Protocol):
    def go(self) -> int: ...


class Going:
    def go(self) -> int:
        return 1

    def __eq__(self, other):
        return type(other) is Going


class Opaque(typing.Protocol):
    def go(self) -> int: ...


class Unknown:
    """A class that pydantic knows nothing of."""


ZONED = datetime.datetime(2026, 11, 20, 6, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, 5, 5),
        (int, "5", 5),
        (float, 3, 3.0),
        (float, "1e400", float("inf")),
        (float, float("-inf"), float("-inf")),
        (bool, "true", True),
        (str, "5", "5"),
        (str | None, None, None),
        (list[int], "[1, 2]", [1, 2]),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (datetime.date, "2026-11-20", datetime.date(2026, 11, 20)),
        (datetime.datetime, "2026-11-20T06:00Z", ZONED),
        (pathlib.Path, "/data", pathlib.Path("/data")),
        (Colour, "red", Colour.RED),
        (Colour, Colour.RED, Colour.RED),
        (typing.Literal["a", "b"], "b", "b"),
        (Level, 2, Level.HIGH),
        (Level, "2", Level.HIGH),
        (Level | None, 1, Level.LOW),
        (list[Level], [1, "2"], [Level.LOW, Level.HIGH]),
        (dict[str, Level], '{"a": 2}', {"a": Level.HIGH}),
        (Access, 3, Access.READ | Access.WRITE),
        (Switch, True, Switch.ON),
        (Word, "1", Word.ONE),
        (int, Level.HIGH, 2),
        (int | None, Level.HIGH, 2),
        (list[int], [Level.LOW, Access.WRITE], [1, 2]),
        (int | str, "1", 1),
        (bool | int, 1, 1),
        (bool | int, True, True),
        (list[bool | int], [True, 1], [True, 1]),
        (int, numpy.int64(5), 5),
        (float, numpy.float32(0.5), 0.5),
        (bool, numpy.True_, True),
        (typing.Iterable[int], [1, "2"], [1, 2]),
        (typing.Iterable[int], (x for x in "12"), [1, 2]),
        (abc.Iterator[str] | None, ("a",), ["a"]),
        (dict[str, abc.Iterable[int]], {"a": (1, 2)}, {"a": [1, 2]}),
        (typing.Annotated[abc.Iterable[int], pydantic.Field(max_length=2)], [1], [1]),
        (abc.Iterable, {1}, [1]),
        (Row, {"a": "1"}, {"a": 1}),
        (Row | None, {"a": 1}, {"a": 1}),
        (list[Row], [{"a": 1}], [{"a": 1}]),
        (typing.NewType("UserId", int), "3", 3),
        (Goes, Going(), Going()),
        (list[Goes] | None, [Going()], [Going()]),
        (list[datetime.datetime], ["2026-11-20T06:00Z"], [ZONED]),
        (typing.Any, "x", "x"),
        (None, "x", "x"),
    ],
)
def test_a_value_is_as_its_type_has_it(kind, value, expected):
    result = resolved(Parameter("p", type=kind), p=value)
    assert result == expected
    assert type(result) is type(expected)


def test_not_a_number_is_a_float():
    assert str(resolved(Parameter("p", type=float), p="nan")) == "nan"


@given(st.integers() | st.floats(allow_nan=False) | st.text() | st.booleans() | st.none() | st.binary())
def test_an_untyped_value_is_left_alone(value):
    assert resolved(Parameter("p", default=0), p=value) == value


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, "many", "p: expected int, found 'many' of type str"),
        (int, 5.5, "p: expected int, found 5.5 of type float"),
        (int, True, "p: expected int, found True of type bool"),
        (bool, 1, "p: expected bool, found 1 of type int"),
        (int, None, "p: expected int, found None"),
        (str, 5, "p: expected str, found 5 of type int"),
        (list[int], [1, True], "p: expected list[int], found [1, True] of type list: bool is not taken for int"),
        (list[int], "[1, true]", "bool is not taken for int"),
        (int, "true", "bool is not taken for int"),
        (int | None, False, "bool is not taken for int"),
        (int | str, True, "bool is not taken for int"),
        (float, True, "bool is not taken for float"),
        (set[int], [True, 1], "bool is not taken for int"),
        (dict[int, str], {True: "a"}, "bool is not taken for int"),
        (tuple[str, tuple[int, ...]], ("a", (0, False)), "bool is not taken for int"),
        (int, numpy.True_, "bool is not taken for int"),
        (Level, True, "bool is not taken for Level"),
        (Access, False, "bool is not taken for Access"),
        (list[bool], [True, 0], "int is not taken for bool"),
        (Level, 7, "p: expected Level, found 7 of type int: Input should be 1 or 2"),
        (Row, {"a": "x"}, "p: expected Row, found {'a': 'x'} of type dict: a: Input should be a valid integer"),
        (Goes, 5, "p: expected Goes, found 5 of type int: Input should be an instance of Goes"),
        (Opaque, Going(), "Opaque'> cannot be checked: "),
        (list[Unknown], [5], "found [5] of type list: 0: Input should be an instance of Unknown"),
        (list[datetime.datetime], ["2026-11-20T06:00"], "a time with its zone, such as 2026-11-20T06:00:00Z"),
        (dict[str, datetime.datetime], {"a": ZONED.replace(tzinfo=None)}, "a time with its zone"),
        (tuple[int, datetime.datetime] | None, '[1, "2026-11-20T06:00"]', "a time with its zone"),
        (list[int], [1, "x"], "p: expected list[int], found [1, 'x'] of type list: 1: Input should be a valid integer"),
        (datetime.date, "2026-02-30", "p: expected date, found '2026-02-30'"),
        (datetime.datetime, "2026-11-20T06:00", "expected a time with its zone, such as 2026-11-20T06:00:00Z"),
        (Colour, "blue", "p: expected Colour, found 'blue'"),
        (Unknown, 5, "p: expected Unknown, found 5 of type int"),
        (typing.Literal["a"], "b", "p: expected typing.Literal['a'], found 'b'"),
        ("Nowhere", 5, "p: its type 'Nowhere' cannot be checked"),
        (None, None, "p: a value is required, found None; give the parameter default=None if None is a value"),
        pytest.param(None, 10**5000, "p: an int of 16,610 bits is too large", id="long"),
        pytest.param(None, "x" * (70 << 20), "p: 70 MiB are more than the 64 that fit; pass a path", id="large"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_with_what_was_expected(kind, value, words):
    with refused(ParameterError, "the parameters do not fit flow 'f'; it has: 'p'", words, at=""):
        resolved(Parameter("p", type=kind), p=value)


def test_choices_are_compared_once_the_value_has_its_type():
    p = Parameter("p", type=int, choices=[1, 2])
    assert resolved(p, p="2") == 2
    with refused(ParameterError, "p: expected one of 1, 2, found 3 of type int", at=""):
        resolved(p, p=3)


@pytest.mark.parametrize(
    ("kind", "default", "words"),
    [
        (int, "five", "expected int, found 'five' of type str"),
        (int, True, "expected int, found True of type bool: bool is not taken for int"),
        (list[int], [1, True], "expected list[int], found [1, True] of type list"),
        (datetime.date, "yesterday", "expected date, found 'yesterday'"),
        (datetime.datetime, "2026-01-01T00:00:00", "expected a time with its zone"),
        (dict[str, float], {"a": "b"}, "expected dict[str, float]"),
    ],
)
def test_a_default_has_to_fit_where_it_is_written(kind, default, words):
    with refused(OptionError, "parameter 'p': its default: ", words):
        Parameter("p", default=default, type=kind)


def test_a_default_that_is_converted_or_left_out_fits():
    assert resolved(Parameter("p", default=None, type=int)) is None
    assert resolved(Parameter("p", default="5", type=int)) == 5
    assert resolved(Parameter("p", default=1, type=float)) == 1.0


def test_every_problem_is_told_at_once():
    with Flow("f") as flow:
        same([Parameter("date"), Parameter("limit", type=int), Parameter("n", default=1)])
    with refused(
        ParameterError,
        "the parameters do not fit flow 'f'; it has: 'date', 'limit', 'n'",
        "there is no parameter 'dat'; did you mean 'date'?",
        "date: a value is required",
        "limit: expected int, found 'many' of type str",
        at="",
    ) as info:
        flow.run(dat=1, limit="many")
    assert len(info.value.problems) == 3


def test_values_come_by_name_or_in_a_dict_and_once():
    with Flow("f") as flow:
        node = same([Parameter("p"), Parameter("executor", default=0)])
    assert flow.run({"p": 1, "executor": 2}).result[node].result == [1, 2]
    assert flow.run(parameters={"executor": 2}, p=1).result[node].result == [1, 2]
    with refused(ParameterError, "p: given twice, in parameters= and by name", at=""):
        flow.run({"p": 1}, p=2)
    with refused(ParameterError, "parameters= takes a dict of values by name, found [1]", at=""):
        flow.run([1])


def test_a_value_that_looks_secret_is_not_shown():
    with refused(ParameterError, "api_key: expected int, found a value of type str (not shown)", at="") as info:
        resolved(Parameter("api_key", type=int), api_key="hunter2")
    assert "hunter2" not in str(info.value)


# Copies ---------------------------------------------------------------------------------------------------------------


def test_each_run_has_a_default_of_its_own():
    with Flow("f") as flow:
        node = spoil(Parameter("xs", default=[1]))
    assert [flow.run().result[node].result for _ in range(2)] == [[1, "spoilt"]] * 2


def test_a_run_does_not_change_what_it_was_given():
    given_list = [1]
    with Flow("f") as flow:
        node = spoil(Parameter("xs"))
    assert flow.run(xs=given_list).result[node].result == [1, "spoilt"]
    assert given_list == [1]


def test_a_value_that_no_store_could_write_is_a_value():
    with Flow("f") as flow:
        node = same(Parameter("p"))
    stranger = object()
    assert flow.run(p=lambda: stranger).is_successful()
    assert flow.run(p=float("nan")).result[node].result != 0

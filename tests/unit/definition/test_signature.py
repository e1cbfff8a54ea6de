"""How the function of a task is called: what fits at once, what is missing, how arguments are passed."""

import functools
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch.base.names import ascii_name, named
from anabranch.definition.signature import STAR, Signature
from anabranch.errors import CallError


def sign(function):
    return Signature(function, "load")


# Against inspect ------------------------------------------------------------------------------------------------------

NAMES = "abcde"


@st.composite
def functions(draw):
    """A function of any mixture of parameters that gives what it was called with."""
    counts = [draw(st.integers(0, 2)) for _ in range(3)]
    names = iter(NAMES)
    has_default = False
    parts = []

    def parameters(count):
        nonlocal has_default
        for name in [next(names, None) for _ in range(count)]:
            if name is not None:
                has_default = has_default or draw(st.booleans())
                yield f"{name}={name!r}" if has_default else name

    only = list(parameters(counts[0]))
    parts += [*only, "/"] if only else []
    parts += parameters(counts[1])
    star = draw(st.booleans())
    parts += ["*rest"] if star else []
    keyword_only = [name for name in [next(names, None) for _ in range(counts[2])] if name is not None]
    parts += ["*"] if keyword_only and not star else []
    parts += [f"{name}={name!r}" if draw(st.booleans()) else name for name in keyword_only]
    parts += ["**more"] if draw(st.booleans()) else []
    code = f"def f({', '.join(parts)}): return locals()"
    space = {}
    exec(code, space)
    return space["f"]


@given(functions(), st.lists(st.integers(), max_size=4), st.dictionaries(st.sampled_from([*NAMES, "z"]), st.integers()))
def test_a_call_fits_if_python_says_so_and_passes_the_same(function, args, kwargs):
    signature = sign(function)
    positional_only = {n for n, p in signature.parameters.items() if p.kind is inspect.Parameter.POSITIONAL_ONLY}
    if positional_only & kwargs.keys():  # with **more, Python would take both; we refuse such a riddle
        return

    try:
        bound = signature.bind(tuple(args), kwargs)
        ours = None if signature.missing(bound) else bound
    except CallError:
        ours = None

    try:
        expected = function(*args, **kwargs)
    except TypeError:
        assert ours is None
    else:
        assert ours is not None
        positional, keywords = signature.split(ours)
        assert function(*positional, **keywords) == expected


# Refusals -------------------------------------------------------------------------------------------------------------


def test_too_many_arguments_name_both_ways_on():
    with refused(
        CallError,
        "load() takes 1 arguments by position (path), found 2",
        "add a parameter to the function, or order the tasks with upstream_tasks=[…]",
        at="",
    ):
        sign(lambda path: path).bind(("a", "b"), {})


def test_an_unknown_argument_names_the_parameters_and_the_nearest():
    with refused(CallError, "no parameter 'pth'; it has: 'path', 'mode'; did you mean 'path'?", at=""):
        sign(lambda path, mode: path).bind((), {"pth": 1})


def test_two_values_for_one_parameter_are_refused():
    with refused(CallError, "got two values for 'path': by position and by name", at=""):
        sign(lambda path: path).bind(("a",), {"path": "b"})


def test_a_positional_only_parameter_is_not_taken_by_name():
    def read(path, /):
        return path

    with refused(CallError, "takes 'path' by position only, found it by name", at=""):
        sign(read).bind((), {"path": "a"})


def test_what_is_missing_is_what_has_no_default():
    def read(path, mode="r", *rest, encoding, **more):
        return path

    assert sign(read).missing({}) == ["path", "encoding"]
    assert sign(read).missing({"path": 1, "encoding": 2}) == []


# Fixed arguments ------------------------------------------------------------------------------------------------------


def test_positions_that_are_taken_are_passed_over():
    signature = sign(lambda a, b, c: (a, b, c))
    assert signature.bind((2, 3), {}, taken={"a"}) == {"b": 2, "c": 3}


# Functions that tell little -------------------------------------------------------------------------------------------


def test_a_builtin_that_does_not_tell_takes_anything():
    signature = sign(max)
    bound = signature.bind((1, 5), {"key": abs})
    assert bound == {STAR: (1, 5), "key": abs}
    assert signature.missing(bound) == []
    positional, keywords = signature.split(bound)
    assert max(*positional, **keywords) == 5


class Callable:
    def __call__(self, x):
        return x

    def method(self, x):
        return x


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (len, "len"),
        (lambda x: x, "<lambda>"),
        (functools.partial(len), "len"),
        (Callable(), "Callable"),
        (Callable().method, "method"),
        (Callable, "Callable"),
    ],
)
def test_any_callable_has_a_name(function, name):
    assert named(function) == name


def test_names_for_dask_are_ascii_and_short():
    assert ascii_name("naïve-tiles [2]") == "na_ve_tiles_2"
    assert ascii_name("日本") == "x"
    assert len(ascii_name("x" * 100)) == 40


def test_a_signature_travels_as_its_function_and_name():
    signature = sign(len)
    assert signature.parameters
    assert pickle.loads(pickle.dumps(signature)) == signature

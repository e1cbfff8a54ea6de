"""Values with nodes in them: taken apart when a call is written, put together where it runs."""

import dataclasses
import pickle
import time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.refusals import refused

from anabranch.definition.expressions import (
    Build,
    Const,
    Output,
    Ref,
    as_now,
    evaluate,
    express,
    holds,
    is_unchanged,
    output,
    refs,
    rename,
)
from anabranch.errors import DefinitionError, MissingOutputError

Point = namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    left: object
    right: object = None


@dataclasses.dataclass
class Area:
    width: object
    height: object
    sides: int = dataclasses.field(default=4, init=False)

    def __post_init__(self):
        self.label = f"{self.width}"  # not a field: kept as it was


class Box(list):
    """A list of the user's own class."""


class Stand:
    """Stands for a node here, as this module knows nothing of nodes."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name

    def __bool__(self):
        raise TypeError("a node has no truth value")

    def __eq__(self, other):
        raise TypeError("a node is not compared")

    __hash__ = object.__hash__


def is_stand(value):
    return isinstance(value, Stand)


def expressed(value):
    return express(value, is_stand, Ref)


def evaluated(value, **values):
    return evaluate(rename(expressed(value), lambda stand: stand.name), values)


# Round trip -----------------------------------------------------------------------------------------------------------

atoms = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
hashable = st.integers() | st.text()
values = st.recursive(
    atoms | st.sampled_from(["a", "b"]).map(Stand),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(Box),
        st.lists(inner, max_size=3).map(deque),
        st.dictionaries(hashable, inner, max_size=3),
        st.dictionaries(hashable, inner, max_size=3).map(OrderedDict),
        st.builds(Pair, inner, inner),
        st.builds(Point, inner, inner),
    ),
    max_leaves=12,
)


def replaced(value, known):
    """What a value is once its nodes have values: the plain way to say it, for collections with and without nodes."""
    if isinstance(value, Stand):
        return known[value.name]
    if isinstance(value, Point):
        return Point(*(replaced(each, known) for each in value))
    if isinstance(value, (list, tuple, deque)):
        return type(value)(replaced(each, known) for each in value)
    if isinstance(value, dict):
        return type(value)((key, replaced(each, known)) for key, each in value.items())
    if isinstance(value, Pair):
        return Pair(replaced(value.left, known), replaced(value.right, known))
    return value


@given(values)
def test_a_value_comes_back_with_values_in_place_of_its_nodes(value):
    known = {"a": 1, "b": [2]}
    result = evaluated(value, **known)
    assert result == replaced(value, known)
    assert type(result) is type(replaced(value, known))


@given(values)
def test_the_refs_of_an_expression_are_the_nodes_in_the_value(value):
    assert bool(list(refs(expressed(value)))) == holds(value, is_stand)


@given(values)
def test_an_expression_holds_no_node_once_it_is_renamed(value):
    frozen = rename(expressed(value), lambda stand: stand.name)
    assert b"Stand" not in pickle.dumps(frozen)


# Collections ----------------------------------------------------------------------------------------------------------


def test_a_collection_without_nodes_is_one_constant_and_the_same_object():
    value = {"a": [1, (2, {3})]}
    expression = expressed(value)
    assert isinstance(expression, Const)
    assert expression.value is value


@pytest.mark.parametrize("kind", [list, tuple, deque])
def test_a_node_in_a_sequence_is_found_and_the_kind_is_kept(kind):
    assert evaluated(kind([1, Stand("a")]), a=2) == kind([1, 2])


class Vector(tuple):
    def __new__(cls, *parts):
        return super().__new__(cls, parts)


class Size(Point):
    def __new__(cls, side):
        return super().__new__(cls, side, side)


class Labelled(frozenset):
    def __new__(cls, items, label):
        self = super().__new__(cls, items)
        self.label = label
        return self

    def __reduce__(self):
        return Labelled, (tuple(self), self.label)


class Lower(dict):
    def update(self, other=(), **more):
        super().update({key.lower(): value for key, value in dict(other, **more).items()})


class Registry(dict):
    def __init__(self, name, **entries):
        super().__init__(entries)
        self.name = name

    def __setitem__(self, key, value):
        raise TypeError("it is closed")


class Picky(list):
    __slots__ = ("limit",)

    def __init__(self, limit, parts):
        super().__init__(parts)
        self.limit = limit

    def extend(self, parts):
        raise TypeError("it has its parts")

    append = extend


class Bag(set):
    def __init__(self, *parts):
        super().__init__(parts)

    def update(self, *others):
        raise TypeError("it has its parts")


class Ring(deque):
    def __init__(self, parts):
        super().__init__(parts, maxlen=2)


def in_other_order(x):
    value = OrderedDict(a=1, b=x)
    value.move_to_end("a")
    return value


KINDS = [
    lambda x: Counter({"a": x, "b": 2}),
    lambda x: defaultdict(list, a=x),
    in_other_order,
    lambda x: deque([x, 2], maxlen=2),
    lambda x: Vector(x, 2),
    lambda x: Size(x),
    lambda x: Labelled([x, 2], "odd"),
    lambda x: Lower({"A": x}),
    lambda x: Registry("r", a=x),
    lambda x: Picky(3, [x, 2]),
    lambda x: Bag(x, 2),
    lambda x: Ring([x, 2]),
]


def looks(value):
    """All that can be seen of a collection."""
    state = object.__getstate__(value)
    about = getattr(value, "maxlen", None), getattr(value, "default_factory", None)
    return (
        type(value),
        sorted(value, key=repr) if isinstance(value, (set, frozenset)) else list(value),
        value,
        state,
        about,
    )


@pytest.mark.parametrize("travels", [False, True], ids=["here", "pickled"])
@pytest.mark.parametrize("make", KINDS, ids=lambda make: type(make(1)).__name__)
def test_a_collection_of_any_class_comes_back_as_what_it_was(make, travels):
    expression = rename(expressed(make(Stand("a"))), lambda stand: stand.name)
    if travels:
        expression = pickle.loads(pickle.dumps(expression))
    assert looks(evaluate(expression, {"a": 7})) == looks(make(7))


def test_a_collection_that_cannot_be_put_together_again_is_refused_by_its_class():
    parts = [Stand("a"), *range(8)]
    with refused(DefinitionError, "a struct_time that holds nodes", "pass a plain tuple, and make it in the task"):
        expressed(time.struct_time(parts))


def test_attrs_classes_and_pydantic_models_hold_nodes_as_dataclasses_do():
    attrs = pytest.importorskip("attrs")
    loose = attrs.make_class("Loose", ["x", "y"], slots=False)
    tight = attrs.make_class("Tight", ["x", "y"], slots=True, frozen=True)

    class Model(BaseModel):
        x: Any
        y: int = 2

    class Sealed(Model, frozen=True):
        pass

    for made in (lambda x: loose(x, 2), lambda x: tight(x, 2), lambda x: Model(x=x), lambda x: Sealed(x=[x], y=3)):
        assert evaluated(made(Stand("a")), a=7) == made(7)
    assert evaluated(Model.model_construct(x=1, y=Stand("a")), a=7) == Model(x=1, y=7)


@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_node_in_a_set_is_found(kind):
    assert evaluated(kind([1, Stand("a")]), a=2) == kind([1, 2])


def test_dicts_of_other_classes_keep_what_they_are():
    # given
    counted = defaultdict(list, {"k": Stand("a")})

    # when
    result = evaluated(counted, a=1)

    # then
    assert result == {"k": 1}
    assert result["new"] == []
    assert "new" not in counted


def test_a_deque_keeps_its_bound():
    assert evaluated(deque([Stand("a")], maxlen=5), a=1).maxlen == 5


def test_dict_keys_are_never_looked_into():
    key = Stand("a")
    assert isinstance(expressed({key: 1}), Const)


def test_a_dataclass_keeps_the_fields_that_its_constructor_does_not_take():
    result = evaluated(Area(Stand("a"), 2), a=1)
    assert (result.width, result.height, result.sides, result.label) == (1, 2, 4, "a")


def test_a_frozen_dataclass_with_slots_can_hold_nodes():
    assert evaluated(Pair(Stand("a"), [Stand("b")]), a=1, b=2) == Pair(1, [2])


def test_the_value_a_user_wrote_is_not_changed():
    value = [Stand("a"), {"k": Stand("b")}]
    evaluated(value, a=1, b=2)
    assert isinstance(value[0], Stand)
    assert isinstance(value[1]["k"], Stand)


def test_each_evaluation_gives_collections_of_its_own():
    expression = rename(expressed([Stand("a"), []]), lambda stand: stand.name)
    first = evaluate(expression, {"a": 1})
    first.append("mine")
    assert evaluate(expression, {"a": 1}) == [1, []]


def test_a_class_of_dataclass_is_a_constant():
    assert isinstance(expressed(Pair), Const)


# Depth ----------------------------------------------------------------------------------------------------------------


def test_a_constant_may_be_nested_a_hundred_thousand_levels_deep():
    value = []
    for _ in range(100_000):
        value = [value]
    assert isinstance(expressed(value), Const)


def test_a_constant_may_hold_itself():
    value = [1]
    value.append(value)
    assert isinstance(expressed(value), Const)


def test_a_collection_of_nodes_that_holds_itself_is_refused():
    value = [Stand("a")]
    value.append(value)
    with refused(DefinitionError, "more than 200 levels deep, or holds itself"):
        expressed(value)


# Outputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        ({"rows": 1}, "rows", 1),
        ({7: 1}, 7, 1),
        ([1, 2, 3], -1, 3),
        ((1, 2), 0, 1),
        (Pair(1, 2), "right", 2),
        (Point(1, 2), "y", 2),
        ({"rows": None}, "rows", None),
    ],
)
def test_an_output_is_a_key_an_index_or_an_attribute(value, key, expected):
    assert output(value, key, "fetch") == expected
    assert evaluate(Output("fetch", key), {"fetch": value}) == expected


@pytest.mark.parametrize(
    ("value", "key", "words"),
    [
        ({"rows": 1, "n": 2}, "row", "fetch has no output 'row'; it has: 'rows', 'n'"),
        ([1, 2], 2, "fetch has no output 2; it has: indexes below 2"),
        (5, 0, "it has: no indexes"),
        (Pair(1), "middle", "it has: 'left', 'right'"),
        ({str(i): i for i in range(1000)}, "x", "… (1,000 in all)"),
    ],
)
def test_a_missing_output_names_those_that_are_there(value, key, words):
    with refused(MissingOutputError, words, at=""):
        output(value, key, "fetch")


def test_a_method_is_no_output():
    with refused(MissingOutputError, "no output 'count'", at=""):
        output([1, 2], "count", "fetch")


def test_nodes_are_listed_in_order_and_with_repetitions():
    a, b = Stand("a"), Stand("b")
    expression = Build(list, (Ref(a), Build(tuple, (Output(b, "k"), Const(1), Ref(a)))))
    assert [each.name for each in refs(expression)] == ["a", "b", "a"]


# As it is at this moment ----------------------------------------------------------------------------------------------


@st.composite
def nests(draw: st.DrawFn) -> Any:
    """Builtin collections in each other, some of them in several places, perhaps in themselves."""
    there: list[Any] = [1, "a", Counter("aab"), object()]
    for make in draw(st.lists(st.sampled_from([list, tuple, deque, dict, OrderedDict, set, bytearray, "itself"]))):
        parts = draw(st.lists(st.sampled_from(there), max_size=3))
        if make == "itself":
            parts.append(parts)
            there.append(parts)
        elif make in (dict, OrderedDict):
            there.append(make(enumerate(parts)))
        elif make is set:
            there.append({1, *map(id, parts)})
        else:
            there.append(bytearray(b"x") if make is bytearray else make(parts))
    return there[-1]


COPIED = (list, deque, dict, OrderedDict, set, bytearray)


def collections_in(value: Any, found: dict[int, Any]) -> list[Any]:
    """What can be changed in a value, each thing once, in order; elsewhere is its place in this order."""
    if id(value) in found or type(value) not in (*COPIED, tuple):
        return []
    found[id(value)] = value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, deque)) else ()
    below = [each for part in parts for each in collections_in(part, found)]
    return [value, *below] if type(value) in COPIED else below


@given(value=nests())
def test_what_is_kept_of_a_value_shares_no_collection_with_it_and_is_equal(value: Any):
    kept = as_now(value)
    theirs, mine = collections_in(value, {}), collections_in(kept, {})
    assert [type(each) for each in mine] == [type(each) for each in theirs]  # what was one thing is one thing
    assert not {id(each) for each in mine} & {id(each) for each in theirs}
    assert repr(kept) == repr(value)
    assert is_unchanged(value, kept)
    for each in theirs:
        each.update(new=0) if isinstance(each, dict) else each.add(0) if isinstance(each, set) else each.append(0)
        assert not is_unchanged(value, kept)
        kept = as_now(value)


@pytest.mark.parametrize("value", [[1] * 4, [[1], [2]], {1: (2, [3])}, deque([1, 2, 3, 4])], ids=repr)
def test_of_a_value_with_more_parts_than_that_nothing_is_kept(value: Any):
    assert as_now(value, 3) is value
    assert as_now(value, 4) is not value


def test_a_value_of_very_many_levels_is_left_as_it_is():
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert as_now(value) is value


@pytest.mark.parametrize("value", [1, (1, "a"), ((), (2,)), Counter("a")], ids=repr)
def test_what_holds_no_builtin_collection_that_can_be_changed_is_left_as_it_is(value: Any):
    assert as_now(value) is value

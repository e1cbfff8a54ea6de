"""Argument values with nodes inside them: taken apart when a call is written, put together where it runs.

An expression is a `Const`, a `Ref` to an upstream node, an `Output` of one, or a `Build` of a collection of these.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import operator
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from anabranch.base.errors import DefinitionError, MissingOutputError, listed
from anabranch.base.names import short
from anabranch.base.where import caller

if TYPE_CHECKING:
    StandIn: TypeAlias = Any
    """Base of what stands for a value that is not there yet: type checkers take it wherever that value is wanted."""
else:
    StandIn = object

MAX_DEPTH = 200  # levels of nesting around a node: far more than anybody writes, far less than Python's stack allows
MAX_SHOWN = 20  # outputs that a message lists
_COPIED = frozenset({list, tuple, dict, set, bytearray, deque, defaultdict, OrderedDict})
ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})


@dataclass(frozen=True, slots=True)
class Const:
    """A value that holds no node."""

    value: Any  # the user's

    def __reduce__(self) -> tuple[Any, ...]:
        # Records of deferred calls hold thousands: what dataclasses do to pickle frozen slots takes ten times as long.
        return Const, (self.value,)


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of an upstream node; `node` is a Node while building and its slug once frozen."""

    node: Any  # a Node or a str: this module is below both

    def __reduce__(self) -> tuple[Any, ...]:
        return Ref, (self.node,)


@dataclass(frozen=True, slots=True)
class Output:
    """One output (mapping key, index or attribute) of an upstream node's value."""

    node: Any  # as in Ref
    key: Any  # a mapping key, an index, or the name of an attribute


@dataclass(frozen=True, slots=True)
class Build:
    """A collection some of whose parts are not constant."""

    maker: Callable[[list[Any]], Any]
    """Makes the collection from the list of its parts' values."""
    parts: tuple[Expression, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return Build, (self.maker, self.parts)


Expression: TypeAlias = Const | Ref | Output | Build


_BASES: tuple[type[Any], ...] = (defaultdict, OrderedDict, dict, list, deque, tuple, set, frozenset)


@dataclass(frozen=True, slots=True)
class _Refilled:
    """Makes a collection of any class with other contents, in the way of the builtin that it is of.

    The class's own constructor and methods are not called: they may do something with the contents, which has been done
    when the call was written.
    """

    cls: type[Any]
    base: type[Any]
    given: tuple[Any, ...]
    """Arguments of the builtin's constructor before the contents."""
    state: Any
    """Attributes, as pickles have them."""
    keys: tuple[Any, ...] | None

    def __call__(self, values: list[Any]) -> Any:
        base: Any = self.base
        if base in (tuple, frozenset):
            filled = base.__new__(self.cls, values)
        else:
            filled = base.__new__(self.cls)
            base.__init__(filled, *self.given)
        attributes, slots = self.state if isinstance(self.state, tuple) else (self.state, None)
        if attributes:
            filled.__dict__.update(attributes)
        for name, value in (slots or {}).items():
            object.__setattr__(filled, name, value)
        if self.keys is not None:
            for key, value in zip(self.keys, values, strict=True):
                base.__setitem__(filled, key, value)
        elif base is set:
            set.update(filled, values)
        elif base in (list, deque):
            base.extend(filled, values)
        return filled


@dataclass(frozen=True, slots=True)
class _Fields:
    """Makes a copy of a dataclass instance. Its ``__post_init__`` ran when the call was written, and not again."""

    blank: Any
    names: tuple[str, ...]

    def __call__(self, values: list[Any]) -> Any:
        filled = copy.copy(self.blank)
        for name, value in zip(self.names, values, strict=True):
            object.__setattr__(filled, name, value)
        return filled


def express(
    value: object, is_node: Callable[[object], bool], as_ref: Callable[[Any], Expression], *, depth: int = 0
) -> Expression:
    """The expression for `value`, in which `as_ref` gives one for whatever `is_node` says stands for a node.

    Lists, tuples, sets, deques, dicts, and instances of dataclasses, attrs classes and pydantic models are looked into,
    at any depth; a collection without nodes is one constant.

    Raises
    ------
    DefinitionError
        A collection that holds nodes holds itself, or is nested beyond reason.
    """
    if is_node(value):
        return as_ref(value)
    if not holds(value, is_node):
        return Const(value)
    if depth > MAX_DEPTH:
        what = f"an argument holds nodes more than {MAX_DEPTH} levels deep, or holds itself"
        raise DefinitionError(f"{what} ({caller()}); pass fewer levels, or put it together in a task")
    maker, parts = _taken_apart(value)
    return Build(maker, tuple(express(part, is_node, as_ref, depth=depth + 1) for part in parts))


def as_now(value: Any, limit: float = math.inf) -> Any:
    """A value with builtin collections of its own, at any depth: a call is given what they hold when it is written.

    Parameters
    ----------
    limit
        Parts in all; what has more, or too many levels, is given as it is.
    """
    made: dict[int, Any] = {}

    def own(value: Any, depth: int) -> Any:
        nonlocal limit
        if type(value) not in _COPIED:
            return value
        if id(value) in made:
            return made[id(value)]
        limit -= len(value)
        if limit < 0 or depth > MAX_DEPTH:
            raise OverflowError
        if type(value) is tuple:
            parts = [own(part, depth + 1) for part in value]
            return value if all(map(operator.is_, parts, value)) else tuple(parts)
        copied = made[id(value)] = value.copy()
        if type(value) in (set, bytearray):
            return copied
        for place, part in copied.items() if isinstance(copied, dict) else enumerate(copied):
            if type(part) in _COPIED:
                copied[place] = own(part, depth + 1)
        return copied

    try:
        return own(value, 0)
    except OverflowError:
        return value


def is_unchanged(value: Any, kept: Any) -> bool:
    """Whether a value holds, thing by thing, what `as_now` has kept of it."""
    left, seen = [(value, kept)], set[int]()
    while left:
        one, other = left.pop()
        if one is other or id(other) in seen:
            continue
        seen.add(id(other))
        if type(one) is not type(other) or type(one) not in _COPIED or len(one) != len(other):
            return False
        if type(one) is bytearray:
            if one != other:
                return False
        elif type(one) is set:
            if set(map(id, one)) != set(map(id, other)):
                return False
        else:
            left.extend(zip(one, other, strict=True))
            if isinstance(one, dict):
                left.extend(zip(one.values(), other.values(), strict=True))
    return True


def holds(value: object, is_wanted: Callable[[object], bool]) -> bool:
    """Whether something is wanted in a value: the value itself, or a part of a collection, at any depth."""
    seen: set[int] = set()
    left = [value]
    while left:
        each = left.pop()
        if is_wanted(each):
            return True
        parts = parts_of(each)
        if parts is not None and id(each) not in seen:
            seen.add(id(each))
            left.extend(part for part in parts if type(part) not in ATOMS)
    return False


def parts_of(value: object) -> Iterable[Any] | None:
    """What a collection consists of; None if it is no collection."""
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return value
    if isinstance(value, dict):
        return dict.values(value)
    names = field_names(value)
    return [getattr(value, name) for name in names] if names is not None else None


def field_names(value: object) -> tuple[str, ...] | None:
    """Fields of an instance of a dataclass, an attrs class or a pydantic model; None of anything else."""
    cls = type(value)
    names: Iterable[str]
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
    elif hasattr(cls, "__attrs_attrs__"):
        names = [field.name for field in cls.__attrs_attrs__]
    elif hasattr(cls, "__pydantic_validator__"):
        names = list(getattr(cls, "model_fields"))  # noqa: B009  # a class that pydantic made
    else:
        return None
    return tuple(name for name in names if hasattr(value, name))


def _taken_apart(value: Any) -> tuple[Callable[[list[Any]], Any], tuple[Any, ...]]:
    """What makes a collection, and of which parts. What makes it holds no node."""
    cls = type(value)
    if cls in (list, tuple, set, frozenset):
        return cls, tuple(value)
    names = field_names(value)
    if names is not None and not isinstance(value, _BASES):
        blank = copy.copy(value)
        for name in names:
            object.__setattr__(blank, name, None)
        return _Fields(blank, names), tuple(getattr(value, name) for name in names)
    base = next(each for each in _BASES if isinstance(value, each))
    keys = tuple(base.__iter__(value)) if issubclass(base, dict) else None
    given = (value.default_factory,) if base is defaultdict else ((), value.maxlen) if base is deque else ()
    maker = _Refilled(cls, base, given, object.__getstate__(value), keys)
    parts = tuple(base.__iter__(value)) if keys is None else tuple(dict.__getitem__(value, key) for key in keys)
    try:
        maker(list(parts))
    except Exception as error:  # a class that is made of something else as well
        raise DefinitionError(
            f"{short(value)}: a {cls.__name__} that holds nodes cannot be put together of their values "
            f"({type(error).__name__}: {error}) ({caller()}); pass a plain {base.__name__}, and make it in the task"
        ) from error
    return maker, parts


def refs(expression: Expression) -> Iterator[Any]:
    """Every node an expression needs, in order, with repetitions."""
    match expression:
        case Ref(node) | Output(node, _):
            yield node
        case Build(_, parts):
            for part in parts:
                yield from refs(part)


def rename(expression: Expression, names: Callable[[Any], Any]) -> Expression:
    """The same expression with every node replaced by ``names(node)``."""
    match expression:
        case Ref(node):
            return Ref(names(node))
        case Output(node, key):
            return Output(names(node), key)
        case Build(maker, parts):
            return Build(maker, tuple(rename(part, names) for part in parts))
    return expression


def evaluate(
    expression: Expression, values: Mapping[str, Any], take: Callable[[Any], Any] = lambda value: value
) -> Any:
    """The value of a frozen expression, given the values of the nodes it needs by slug.

    `take` is given each value that goes into it, and returns what does so instead.
    """
    match expression:
        case Const(value):
            return take(value)
        case Ref(node):
            return take(values[node])
        case Output(node, key):
            return take(output(values[node], key, node))
        case Build(maker, parts):
            return maker([evaluate(part, values, take) for part in parts])


def output(value: Any, key: Any, owner: str) -> Any:
    """One output of a value: a mapping's key, else an index, else an attribute.

    Raises
    ------
    MissingOutputError
        There is none; the message lists the outputs that there are.
    """
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        there = _name_some(map(str, value))
    elif isinstance(key, int):
        try:
            return value[key]
        except (TypeError, LookupError):
            there = f"indexes below {len(value)}" if hasattr(value, "__len__") else "no indexes"
    else:
        found = getattr(value, str(key), None)
        if hasattr(value, str(key)) and not _is_method(found, value):
            return found
        names = (name for name in dir(value) if not name.startswith("_"))
        there = _name_some(name for name in names if not _is_method(getattr(value, name, None), value))
    raise MissingOutputError(f"{owner} has no output {key!r}; it has: {there}")


def _is_method(found: object, owner: object) -> bool:
    return callable(found) and getattr(found, "__self__", None) is owner


def _name_some(names: Iterable[str]) -> str:
    given = list(names)
    more = f" … ({len(given):,} in all)" if len(given) > MAX_SHOWN else ""
    return listed(given[:MAX_SHOWN]) + more

"""Argument values with nodes inside them: taken apart when a call is written, put together where it runs.

An expression is a `Const`, a `Ref` to an upstream node, an `Output` of one, or a `Build` of a collection of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from anabranch.errors import MissingOutputError, listed


@dataclass(frozen=True, slots=True)
class Const:
    """A value that holds no node."""

    value: Any  # the user's


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of an upstream node; `node` is a Node while building and its slug once frozen."""

    node: Any  # a Node or a str: this module is below both


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


Expression: TypeAlias = Const | Ref | Output | Build


@dataclass(frozen=True, slots=True)
class _Dataclass:
    """Makes a copy of a dataclass instance with some fields replaced."""

    template: Any
    names: tuple[str, ...]

    def __call__(self, values: list[Any]) -> Any:
        return dataclasses.replace(self.template, **dict(zip(self.names, values, strict=True)))


@dataclass(frozen=True, slots=True)
class _Dict:
    keys: tuple[Any, ...]

    def __call__(self, values: list[Any]) -> dict[Any, Any]:
        return dict(zip(self.keys, values, strict=True))


@dataclass(frozen=True, slots=True)
class _Namedtuple:
    cls: type

    def __call__(self, values: list[Any]) -> Any:
        return self.cls(*values)


def express(value: object, as_ref: Callable[[object], Expression | None]) -> Expression:
    """The expression for `value`; `as_ref` gives one for what stands for a node, else None.

    Lists, tuples, sets, dicts and dataclass instances are looked into, at any depth; a collection without nodes is one
    constant. Dict keys are never looked into.
    """
    ref = as_ref(value)
    if ref is not None:
        return ref
    inner = _parts_of(value)
    if inner is None:
        return Const(value)
    maker, parts = inner
    expressions = tuple(express(part, as_ref) for part in parts)
    if all(isinstance(each, Const) for each in expressions):
        return Const(value)
    return Build(maker, expressions)


def _parts_of(value: object) -> tuple[Callable[[list[Any]], Any], tuple[Any, ...]] | None:
    cls = type(value)
    if cls in (list, tuple, set, frozenset):
        return cls, tuple(value)  # type: ignore[arg-type, return-value]  # the four take a list
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return _Namedtuple(cls), tuple(value)
    if cls is dict:
        return _Dict(tuple(value)), tuple(value.values())  # type: ignore[arg-type, attr-defined]  # is a dict
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(f.name for f in dataclasses.fields(value) if f.init)
        return _Dataclass(value, names), tuple(getattr(value, name) for name in names)
    return None


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


def evaluate(expression: Expression, values: Mapping[str, Any]) -> Any:
    """The value of a frozen expression, given the values of the nodes it needs by slug."""
    match expression:
        case Const(value):
            return value
        case Ref(node):
            return values[node]
        case Output(node, key):
            return output(values[node], key, node)
        case Build(maker, parts):
            return maker([evaluate(part, values) for part in parts])


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
        there = listed(map(str, value))
    elif isinstance(key, int):
        try:
            return value[key]
        except (TypeError, LookupError):
            there = f"indexes below {len(value)}" if hasattr(value, "__len__") else "no indexes"
    else:
        if hasattr(value, str(key)):
            return getattr(value, str(key))
        there = listed(name for name in dir(value) if not name.startswith("_"))
    raise MissingOutputError(f"{owner} has no output {key!r}; it has: {there}")

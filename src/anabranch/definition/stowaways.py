"""Nodes and calls in places where nobody looks for them: a task would get them as they are, not their values.

An argument may hold them in what `express` takes apart; here are the places around that: keys of dicts, attributes
of objects, arrays of objects, closures.
"""

from __future__ import annotations

import dis
import gc
import types
from collections.abc import Callable, Iterator
from typing import Any

from anabranch.definition.expressions import ATOMS, field_names, parts_of

MAX_LEVELS = 3  # of objects around a node; what is further away belongs to something else that the object knows
MAX_PARTS = 100_000  # half a second at most; whoever passes more puts data into it, not nodes
_LIBRARY = __name__.partition(".")[0]
_BUILTIN_MODULES = frozenset({"builtins", "collections", "functools", "itertools"})
_PLAIN = frozenset({list, tuple, set, frozenset})  # which hide nothing
_NOT_LOOKED_INTO = (type, types.ModuleType, types.CodeType, types.FrameType, types.TracebackType)


def find_stowaway(value: object, is_wanted: Callable[[object], bool], *, hider: str = "") -> tuple[Any, str] | None:
    """Something wanted that is hidden in a value, and what hides it; None if nothing is.

    What an argument may hold openly is not hidden, unless the value itself is part of something, named by `hider`.
    Flows, tasks and whatever else is of this library are not looked into, nor are classes and modules.
    """
    seen: dict[tuple[int, bool], object] = {}
    passed: dict[type, bool] = {}
    left: list[tuple[object, str, int]] = [(value, hider, 0)]
    while left and len(seen) < MAX_PARTS:
        each, hider, level = left.pop()
        if is_wanted(each):
            if hider:
                return each, hider
            continue
        if (id(each), bool(hider)) in seen:
            continue
        seen[id(each), bool(hider)] = each
        if type(each) in _PLAIN:
            left.extend((part, hider, level) for part in each if type(part) not in ATOMS)  # type: ignore[attr-defined]
            continue
        if type(each) not in passed:
            is_ours = any(cls.__module__.partition(".")[0] == _LIBRARY for cls in type(each).__mro__)
            passed[type(each)] = is_ours or issubclass(type(each), _NOT_LOOKED_INTO)
        if passed[type(each)]:
            continue
        parts = parts_of(each)
        left.extend((part, hider, level) for part in parts or () if type(part) not in ATOMS)
        if level < MAX_LEVELS:
            text, hidden, step = _hidden_parts(each, is_collection=parts is not None)
            left.extend((part, hider or text, level + step) for part in hidden if type(part) not in ATOMS)
    return None


def names_in_globals(function: object, is_wanted: Callable[[object], bool]) -> str | None:
    """The name of a global variable that a function reads and whose value is wanted; None if there is none."""
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        return None
    spaces = function.__globals__
    for code in _codes(function.__code__):
        candidates = {name for name in code.co_names if name in spaces and is_wanted(spaces[name])}
        if candidates:  # names of attributes are among them
            read = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
            if candidates & read:
                return min(candidates & read)
    return None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _codes(each)


def _hidden_parts(value: Any, *, is_collection: bool) -> tuple[str, list[Any], int]:
    """What hides something in a value, in words; what it hides; and whether that is a level further away."""
    cls = type(value)
    if isinstance(value, types.FunctionType):
        return f"the function {value.__name__}()", _closed_over(value), 1
    text = "a key of a dict" if cls is dict else f"an object of class {cls.__name__}"
    try:
        if is_collection:
            keys = list(dict.keys(value)) if isinstance(value, dict) else []
            return text, [*keys, *_attributes(value)] if _has_state(cls) else keys, 0
        if hasattr(cls, "dtype") or hasattr(cls, "dtypes"):
            return text, list(_objects_of(value)), 0
        if cls.__module__ in _BUILTIN_MODULES and not cls.__dictoffset__:
            return text, gc.get_referents(value), 0
        return text, _attributes(value), 1
    except Exception:  # a user's class may do anything here
        return "", [], 0


def _has_state(cls: type) -> bool:
    """Whether instances have attributes."""
    return bool(cls.__dictoffset__) or any(each.__dict__.get("__slots__") for each in cls.__mro__)


def _closed_over(function: types.FunctionType) -> list[object]:
    found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    return found


def _attributes(value: object) -> list[object]:
    """Attributes of an instance, without calling code of its class, but for the fields that are looked into openly."""
    fields = set(field_names(value) or ())
    found = {"args": value.args} if isinstance(value, BaseException) else {}
    for cls in type(value).__mro__:
        for name, member in cls.__dict__.items():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    found[name] = member.__get__(value)
                except AttributeError:  # a slot that is empty
                    continue
    if type(value).__dictoffset__:
        found |= object.__getattribute__(value, "__dict__")
    return [part for name, part in found.items() if name not in fields]


def _objects_of(value: Any) -> Iterator[object]:
    """What is in the parts of an array, a column or a frame that may be any object."""
    if hasattr(value, "axes"):  # a frame, or a column
        yield from value.axes
        columns = [column for _, column in value.items()] if value.ndim > 1 else [value]
    else:
        columns = [value]
    for column in columns:
        if getattr(column.dtype, "hasobject", column.dtype.kind == "O"):  # a type of NumPy, or of pandas
            yield getattr(column.dtype, "categories", None)
            yield getattr(column, "iloc", column)[:MAX_PARTS].tolist()

"""What values consist of: pickle's parts of objects, and of the user's own functions and classes all that they name.

Of what is installed the names count. Comments, docstrings, annotations, line numbers and names of modules never do.
What code reaches by other ways than names, such as ``globals()["f"]``, is not seen.
"""

from __future__ import annotations

import _thread
import builtins
import contextvars
import copyreg
import dis
import enum
import functools
import hashlib
import pickle
import sys
import threading
import types
import weakref
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import resolve_name
from typing import Any, TypeAlias

from anabranch.base.where import is_users
from anabranch.definition.own_code import (
    Chain,
    Import,
    find_attributes,
    find_imports,
    find_names,
    find_own_module,
    is_own_class,
    is_own_module,
)

Part: TypeAlias = bytes | int
"""All there is to know of a value, or its number."""
Take: TypeAlias = Callable[[Any, str], Part]
"""Gives the part for a value, which messages call by the name."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a value consists of."""

    label: str
    parts: tuple[Part, ...] = ()
    is_ordered: bool = True
    gap: str = ""
    """Why this is not all of it."""


# Plain values ---------------------------------------------------------------------------------------------------------

_CONSTANTS = frozenset({type(None), bool, type(Ellipsis), type(NotImplemented), float, complex})
_ATOMS = frozenset({type(None), bool, int, float, complex, str})
MAX_SHORT = 64  # bytes of a text that stands for itself


def describe_plain(value: Any) -> bytes | None:
    """All there is to know of a number, a text, bytes, or a collection of such; None of other values."""
    kind = type(value)
    if kind is str:
        return describe_text(value)
    if kind is int:
        return b"int %x" % value
    if kind in _CONSTANTS:
        return f"{kind.__name__} {value!r}".encode()
    if kind in (bytes, bytearray):
        return _describe_buffer(kind.__name__, value)
    if kind in (memoryview, pickle.PickleBuffer):
        return _describe_buffer("buffer", value)
    if kind in (list, tuple) and value:
        return _describe_row(value)
    if kind is dict and set(map(type, value)) == {str} and _ATOMS.issuperset(map(type, value.values())):
        return _describe_atoms("dict", sorted(value.items()))
    return None


def describe_text(text: str) -> bytes:
    """All there is to know of a text."""
    return _describe_buffer("str", text.encode(errors="surrogatepass"))


def _describe_row(row: list[Any] | tuple[Any, ...]) -> bytes | None:
    """That of a list or tuple of plain values, of which there may be millions."""
    kind, kinds = type(row).__name__, set(map(type, row))
    if kinds == {str}:
        hasher = hashlib.sha256()
        for each in row:
            data = each.encode(errors="surrogatepass")
            hasher.update(b"%d " % len(data))
            hasher.update(data)
        return f"{kind} of str {hasher.hexdigest()}".encode()
    if kinds == {float}:
        return _describe_buffer(f"{kind} of float", array("d", row))
    if kinds == {int}:
        try:
            return _describe_buffer(f"{kind} of int", array("q", row))
        except OverflowError:
            return None
    return _describe_atoms(kind, row) if kinds <= _ATOMS else None


def _describe_atoms(kind: str, value: object) -> bytes | None:
    try:
        return describe_text(f"{kind} {value!r}")
    except ValueError:  # a number of more digits than Python writes
        return None


def _describe_buffer(kind: str, data: Any) -> bytes:
    """That of a buffer, which is read once and not copied."""
    view = memoryview(data)
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    if view.nbytes <= MAX_SHORT:
        return kind.encode() + b" " + view.tobytes()
    return f"{kind} of {view.nbytes} bytes {hashlib.sha256(view).hexdigest()}".encode()


# Collections and objects ----------------------------------------------------------------------------------------------


def take_apart(value: Any, name: str, take: Take) -> Shape:
    """The shape of a value that is not plain.

    Raises
    ------
    Exception
        It cannot be taken apart; whatever code of the user's raises, as this runs some.
    """
    kind = type(value)
    if kind is Shape:
        shape: Shape = value
        return shape
    if kind in (list, tuple):
        return Shape(kind.__name__, tuple(take(each, name) for each in value))
    if kind in (dict, types.MappingProxyType):
        return Shape("dict", tuple(take(pair, name) for pair in value.items()), is_ordered=False)
    if kind in (set, frozenset):
        return Shape("set", tuple(take(each, name) for each in value), is_ordered=False)
    if hasattr(kind, "__dask_tokenize__"):
        return Shape("object", (take(kind, name), take(value.__dask_tokenize__(), name)))
    for kinds, take_kind_apart in _KINDS.items():
        if isinstance(value, kinds):
            return take_kind_apart(value, name, take)
    if isinstance(value, (set, frozenset)):  # of its parts pickle makes a list, which has another order in each process
        return Shape("object", (take(kind, name), take(frozenset(value), name), take(vars(value), name)))
    if kind.__module__ == "numpy" and kind.__name__ in ("ndarray", "memmap"):
        return _array(value, name, take)
    if kind is object:
        raise TypeError("it is known by its identity only")
    getattr(value, "__dict__", None)  # some types make it when it is first asked for, and then reduce to more
    reduce = copyreg.dispatch_table.get(kind)
    reduced: Any = reduce(value) if reduce is not None else value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if isinstance(reduced, str):
        return Shape("global", (describe_text(f"{getattr(value, '__module__', '')} {reduced}"),))
    found: list[Any] = [*reduced, None, None, None][:5]
    found[3] = list(found[3] or ())
    found[4] = list(found[4] or ()) if kind is OrderedDict else dict(found[4] or ())
    return Shape("object", (take(kind, name), *(take(each, name) for each in found)))


def _array(value: Any, name: str, take: Take) -> Shape:
    if value.dtype.hasobject:
        data = take(value.tolist(), name)
    else:
        flat = value.reshape(-1)  # in the order of its indices, whatever that of its memory: this may copy it
        data = _describe_buffer("array", flat.view("u1") if flat.size else b"")
    return Shape("array", (describe_text(repr(value.shape)), take(value.dtype, name), data))


# Code -----------------------------------------------------------------------------------------------------------------


def _function(function: types.FunctionType, name: str, take: Take) -> Shape:
    code, called = function.__code__, f"{function.__qualname__}()"
    registry = getattr(function, "registry", None)
    if code.co_filename == functools.__file__ and isinstance(registry, types.MappingProxyType):
        return Shape("singledispatch", (take(registry, name),))  # beside it there are caches
    # What dataclasses and exec make has no file.
    is_own = is_users(code.co_filename) or code.co_filename == "<string>"
    names = find_names(code)
    parts = [
        take(_code(code, called, take), called)
        if is_own
        else describe_text(f"{function.__globals__.get('__name__')} {code.co_qualname}"),
        *(_take_named(value, f"a default of {called}", take) for value in function.__defaults__ or ()),
        take(_members(function.__kwdefaults__ or {}, called, take), name),
        take(_members(function.__dict__, called, take), name),
    ]
    for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        parts += _used(_read_cell(cell), variable, names.get(variable, frozenset()), called, take)
    if is_own:
        known = function.__globals__
        for variable in sorted(names.keys() - set(code.co_freevars)):
            if variable in known and known[variable] is not vars(builtins).get(variable):
                parts += _used(known[variable], variable, names[variable], called, take)
        for wanted in sorted(find_imports(code)):
            parts += _imported(wanted, function, called, take)
    return Shape("function", tuple(parts))


def _read_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it has none yet
        return None


def _take_named(value: Any, name: str, take: Take) -> Part:
    """The part for what code has a name for: of a mark that holds nothing, the name says it all."""
    return b"mark" if type(value) is object else take(value, name)


def _members(members: Mapping[str, Any], owner: str, take: Take) -> Shape:
    pairs = (Shape(key, (_take_named(value, f"{key!r} of {owner}", take),)) for key, value in members.items())
    return Shape("members", tuple(take(pair, owner) for pair in pairs), is_ordered=False)


def _used(value: Any, variable: str, chains: Iterable[Chain], user: str, take: Take) -> Iterator[Part]:
    """What code uses of a variable: of a module, what it names there."""
    yield describe_text(variable)
    if not isinstance(value, types.ModuleType):
        yield _take_named(value, f"{variable!r} of {user}", take)
        return
    for chain in sorted(chains):
        found: Any = value
        for attribute in chain:
            if not isinstance(found, types.ModuleType) or not is_own_module(found):
                break
            found = getattr(found, attribute, _MISSING)
        yield describe_text(".".join(chain))
        yield _take_named(found, f"{'.'.join((variable, *chain))!r} of {user}", take)


def _imported(wanted: Import, function: types.FunctionType, user: str, take: Take) -> Iterator[Part]:
    """What code uses of a module that it imports when it runs: whatever has a name there that it takes of anything."""
    name, level, names = wanted
    package = function.__globals__.get("__package__") or ""
    name = resolve_name("." * level + name, package) if level else name
    yield describe_text(f"import {name}")
    module = find_own_module(name)
    if module is None:
        return
    values: dict[str, Any] = {}
    for each in names:
        value = vars(module).get(each, _MISSING)
        values[each] = find_own_module(f"{name}.{each}") if value is _MISSING else value
    if not names:
        ends = [place for place, letter in enumerate(f"{name}.") if letter == "."]
        values = {name[:end]: sys.modules[name[:end]] for end in ends}
    attributes = find_attributes(function.__code__)
    for key, value in values.items():
        if not isinstance(value, types.ModuleType):
            yield from _used(value, key, (), user, take)
            continue
        for attribute in sorted(attributes & vars(value).keys()):
            if not isinstance(vars(value)[attribute], types.ModuleType):
                yield from _used(vars(value)[attribute], f"{key}.{attribute}", (), user, take)


_MISSING = object()


def _code(code: types.CodeType, name: str, take: Take) -> Shape:
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS
    text = f"{code.co_names} {code.co_varnames} {code.co_cellvars} {code.co_freevars} {counts}"
    instructions, constants = _spell(code)
    held = instructions, code.co_exceptiontable, *constants
    return Shape("code", (describe_text(text), *(take(each, name) for each in held)))


def _spell(code: types.CodeType) -> tuple[bytes, list[Any]]:
    """Instructions, and the constants that they load, in that order: a docstring has a place, but nothing loads it."""
    spelled, prefixes, numbers, number = bytearray(), b"", dict[int, int](), 0
    for operation, argument in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        number = number << 8 | argument
        if operation == dis.EXTENDED_ARG:
            prefixes += bytes((operation, argument))
            continue
        if operation in _LOADS:
            spelled += bytes((operation, *numbers.setdefault(number, len(numbers)).to_bytes(4, "big")))
        else:
            spelled += prefixes + bytes((operation, argument))
        prefixes, number = b"", 0
    return bytes(spelled), [code.co_consts[each] for each in numbers]


_LOADS = frozenset(dis.hasconst)
_FLAGS = 0x2AC  # *args, **kwargs; generators, coroutines, and both


def _method(method: types.MethodType, name: str, take: Take) -> Shape:
    return Shape("method", (take(method.__func__, name), take(method.__self__, name)))


def _builtin(function: Any, name: str, take: Take) -> Shape:
    text = describe_text(f"{getattr(function, '__module__', None)} {function.__qualname__}")
    owner = getattr(function, "__self__", None)
    held = () if owner is None or isinstance(owner, types.ModuleType) else (take(owner, name),)
    return Shape("builtin", (text, *held))


def _class(cls: type, name: str, take: Take) -> Shape:
    if not is_own_class(cls):
        return Shape("class", (describe_text(f"{cls.__module__} {cls.__qualname__}"),))
    members = {key: value for key, value in vars(cls).items() if _is_written(key, value)}
    if issubclass(cls, enum.Enum):
        members = {key: value for key, value in members.items() if key[:1] != "_" or isinstance(value, _WRITTEN)}
        members |= {key: member.value for key, member in cls.__members__.items()}
    heads = describe_text(cls.__qualname__), take(type(cls), name), take(cls.__bases__, name)
    return Shape("own class", (*heads, take(_members(members, cls.__qualname__, take), name)))


_WRITTEN = (types.FunctionType, classmethod, staticmethod, property)
_FIELDS = ("__slots__", "__dataclass_fields__", "__pydantic_fields__", "__attrs_attrs__")


def _is_written(name: str, value: object) -> bool:
    """Whether a member of a class was written by somebody, and not made by the machinery around classes."""
    if isinstance(value, _WRITTEN) or name in _FIELDS:
        return True
    return name != "_abc_impl" and not (name.startswith("__") and name.endswith("__"))


def _module(module: types.ModuleType, name: str, take: Take) -> Shape:
    """A module that is handed about, so that nobody knows what is used of it."""
    if not is_own_module(module):
        return Shape("module", (describe_text(module.__name__),))
    members = {key: value for key, value in vars(module).items() if not key.startswith("__")}
    return Shape("own module", (take(_members(members, module.__name__, take), name),))


def _property(value: property, name: str, take: Take) -> Shape:
    return Shape("property", tuple(take(each, name) for each in (value.fget, value.fset, value.fdel)))


def _wrapper(value: Any, name: str, take: Take) -> Shape:
    return Shape(type(value).__name__, (take(value.__wrapped__, name),))


def _cached_property(value: functools.cached_property[Any], name: str, take: Take) -> Shape:
    return Shape("cached_property", (take(value.func, name),))


def _empty(value: object, name: str, take: Take) -> Shape:
    """What holds nothing, or nothing that another process could have."""
    return Shape(type(value).__name__)


_KINDS: dict[Any, Callable[[Any, str, Take], Shape]] = {
    types.FunctionType: _function,
    types.MethodType: _method,
    (
        types.BuiltinFunctionType,
        types.WrapperDescriptorType,
        types.MethodWrapperType,
        types.MethodDescriptorType,
        types.ClassMethodDescriptorType,
        types.MemberDescriptorType,
        types.GetSetDescriptorType,
    ): _builtin,
    types.CodeType: _code,
    type: _class,
    types.ModuleType: _module,
    property: _property,
    (classmethod, staticmethod, functools._lru_cache_wrapper): _wrapper,
    functools.cached_property: _cached_property,
    (_thread.LockType, _thread.RLock, _thread._local, weakref.ReferenceType, contextvars.ContextVar): _empty,
    (threading.Barrier, threading.Condition, threading.Event, threading.Semaphore): _empty,
}

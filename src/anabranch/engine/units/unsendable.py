"""What in a run's program cannot be sent to workers, by the names that its author gave it."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from anabranch.base import origins
from anabranch.base.texts import headline_of
from anabranch.engine.units.units import Program

MAX_LEVELS = 12  # of variables and attributes around what cannot be sent


def problems_of(program: Program) -> list[str]:
    """A line for each function, option, constant and parameter that cannot be sent; empty if all can."""
    parts: list[tuple[str, Any]] = [(f"parameter {slug!r}", value) for slug, value in program.values.items()]
    for node in program.nodes.values():
        parts.append((f"the function of task {node.slug!r} ({node.where})", node.signature.function))
        parts.append((f"an option of task {node.slug!r} ({node.where})", node.policies))
        parts += [(f"argument {name!r} of {node.slug!r} ({node.where})", each) for name, each in node.arguments.items()]
    problems = []
    for name, part in parts:
        error = _error_of(part)
        if error is not None:
            way = "".join(f"{each}: " for each in _way_to(part))
            problems.append(f"{name}: {way}{headline_of(error)}")
    return problems


def _error_of(value: object) -> Exception | None:
    try:
        origins.dumps(value)
    except Exception as error:  # pickling runs the user's code
        return error
    return None


def _way_to(value: object, level: int = 0) -> list[str]:
    """Names of variables and attributes from a value to the innermost that does not pickle."""
    for name, part in _named_parts(value) if level < MAX_LEVELS else ():
        if _error_of(part) is not None:
            return [*([name] if name else []), *_way_to(part, level + 1)]
    return []


def _named_parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, types.MethodType):
        yield from _named_parts(value.__func__)
        yield "", value.__self__
    elif isinstance(value, types.FunctionType):
        of = f"of {value.__name__}()"
        closed = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
        for name in _names_in(value.__code__):
            if name in value.__globals__:
                yield f"the global variable {name!r} {of}", value.__globals__[name]
        for name, cell in closed.items():
            try:
                yield f"the variable {name!r} around {value.__name__}()", cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        for each in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            yield f"a default {of}", each
    elif isinstance(value, type):
        for name, member in vars(value).items():
            if isinstance(member, Callable | staticmethod | classmethod):  # type: ignore[arg-type]  # it is a class
                yield f"{value.__name__}.{name}", getattr(member, "__func__", member)
    elif isinstance(value, Mapping):
        yield from ((f"the item {key!r}", each) for key, each in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from (("", each) for each in value)
    else:
        for name in (*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())):
            if name not in ("__weakref__", "_anabranch") and hasattr(value, name):
                yield f"the attribute {name!r} of {type(value).__name__}", getattr(value, name)
        yield "", type(value)
        try:
            reduced = value.__reduce_ex__(2)
        except Exception:  # what is not pickled has no parts
            return
        yield from (("", each) for each in (reduced[1:3] if isinstance(reduced, tuple) else ()))


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names_in(each)

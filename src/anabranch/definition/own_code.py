"""What code names, and which modules and classes are the user's own, where code is followed."""

from __future__ import annotations

import dis
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from anabranch.base.where import is_users

Chain: TypeAlias = tuple[str, ...]
"""Attributes that are taken one after the other."""
Import: TypeAlias = tuple[str, int, tuple[str, ...]]
"""A module, the number of dots before it, and the names that are taken from it."""

_LOADS = frozenset(
    {
        "LOAD_GLOBAL",
        "LOAD_NAME",
        "LOAD_DEREF",
        "LOAD_CLASSDEREF",
        "LOAD_FROM_DICT_OR_GLOBALS",
        "LOAD_FROM_DICT_OR_DEREF",
    }
)
_OF_MODULES = frozenset({"__builtins__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__spec__"})


@functools.lru_cache(maxsize=1024)
def find_names(code: types.CodeType) -> Mapping[str, frozenset[Chain]]:
    """Variables from outside that code, and functions in it, name; with what they take of them."""
    found: dict[str, set[Chain]] = {}
    variable = ""
    chain: Chain = ()
    for instruction in _read_instructions(code):
        if variable and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain = (*chain, instruction.argval)
            continue
        if variable:
            found.setdefault(variable, set()).add(chain)
        variable, chain = instruction.argval if instruction.opname in _LOADS else "", ()
    for inner in _find_inner(code):
        for variable, chains in find_names(inner).items():
            found.setdefault(variable, set()).update(chains)
    return {variable: frozenset(chains) for variable, chains in found.items() if variable not in _OF_MODULES}


@functools.lru_cache(maxsize=1024)
def find_imports(code: types.CodeType) -> frozenset[Import]:
    """What code, and functions in it, import when they run."""
    found = set()
    instructions = _read_instructions(code)
    for place, instruction in enumerate(instructions):
        if instruction.opname == "IMPORT_NAME":
            level, names = (each.argval for each in instructions[place - 2 : place])
            found.add((instruction.argval, level or 0, tuple(names or ())))
    return frozenset(found).union(*map(find_imports, _find_inner(code)))


def find_attributes(code: types.CodeType) -> set[str]:
    """Names that code, and functions in it, take of anything."""
    return {*code.co_names, *(name for inner in _find_inner(code) for name in find_attributes(inner))}


def _find_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    return (each for each in code.co_consts if isinstance(each, types.CodeType))


def _read_instructions(code: types.CodeType) -> list[dis.Instruction]:
    return [each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG"]


def is_own_class(cls: type) -> bool:
    """Whether a class is the user's own."""
    module = sys.modules.get(cls.__module__)
    return module is None or cls.__module__ == "__main__" or is_own_module(module)


def is_own_module(module: types.ModuleType) -> bool:
    """Whether a module is the user's own."""
    if module.__name__ == "__main__":
        return True
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", ()))
    return is_users(places[0]) if places else module.__spec__ is None  # which has none if it was made by hand


def find_own_module(name: str) -> types.ModuleType | None:
    """A module of the user's own, which is imported if it has not been; None if it is not there, or not the user's."""
    module = None
    for end in [place for place, letter in enumerate(f"{name}.") if letter == "."]:
        module = sys.modules.get(name[:end])
        if module is None:
            spec = importlib.util.find_spec(name[:end])
            places = [spec.origin, *(spec.submodule_search_locations or ())] if spec is not None else []
            place = next((each for each in places if each), None)
            if place is None or not is_users(place):
                return None
            module = importlib.import_module(name[:end])
        if not is_own_module(module):
            return None
    return module

"""Prefect 1's names and arguments: what stands for each of them here, from the table in ``prefect1.md``.

The table is the second half of ``docs/howto/migrating.md``, too: ``python docs/migrating.py`` puts it there.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from anabranch.base.errors import OptionError
from anabranch.base.where import caller

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

P = ParamSpec("P")
R = TypeVar("R")

TABLE, NAMES = (Path(__file__).with_name(f"prefect1.{ending}") for ending in ("md", "txt"))
VARIABLE = "ANABRANCH_PREFECT"
"""Environment variable with which ``import prefect`` means ``anabranch.prefect``, here and in child processes."""
_TABLES = re.compile(r"^\| Prefect 1 \| \| here \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", flags=re.MULTILINE)
_LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")


class Row(NamedTuple):
    """A line of the table."""

    theirs: str
    """Names and arguments of Prefect 1, as code."""
    way: str
    """``same``, ``renamed``, ``otherwise`` or ``no``."""
    ours: str
    """What there is in place of them."""

    def __str__(self) -> str:
        """What there is, as text of a message."""
        text = _LINK.sub(r"\1", self.ours).replace("`", "").replace("\\", "")
        return {"no": "there is none here: ", "otherwise": "here: "}.get(self.way, "") + text


@cache
def table() -> tuple[Row, ...]:
    """All lines."""
    try:
        text = TABLE.read_text(encoding="utf-8")
    except OSError:  # a worker that was sent this package has its code only
        return ()
    lines = [line for body in _TABLES.findall(text) for line in body.splitlines()]
    return tuple(Row(*(cell.strip() for cell in line.strip("|").split(" | "))) for line in lines)


@cache
def _by_name() -> Mapping[str, Row]:
    return {name: row for row in table() for name in re.findall(r"`([^`]+)`", row.theirs)}


def row_of(*names: str) -> Row | None:
    """The line of the first of these names that has one."""
    return next((row for name in names if (row := _by_name().get(name))), None)


def getter(place: str, ours: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """``__getattr__`` of a module of ours for names that Prefect 1 has in a module; `ours` is asked first."""

    def get(name: str) -> Any:
        if ours is not None:
            try:
                return ours(name)
            except AttributeError:
                if name.startswith("_"):
                    raise
        if name.startswith("_"):
            raise AttributeError(name)
        # By its name: that package is above all others, which do not know it.
        return import_module("anabranch.prefect.modules").found(place, name)

    return get


class OldPaths:
    """Finds modules of Prefect 1 below another name: ``import anabranch.core.flow``."""

    def __init__(self, root: str) -> None:
        self.root = root

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module, if Prefect has one of that name."""
        is_own = fullname == "anabranch" or f"{fullname}.".startswith("anabranch.prefect.")
        if fullname.partition(".")[0] != self.root or is_own or "anabranch" not in sys.modules:
            return None  # a worker may have dropped the library, and have this of it
        spec: ModuleSpec | None = import_module("anabranch.prefect.modules").find_ours(fullname)
        return spec


def find_old_paths() -> None:
    """Let modules of Prefect 1 be found where there is none of ours; with `VARIABLE`, as ``prefect`` before all."""
    # By name: on a worker, another version of the library may have been there.
    sys.meta_path[:] = [each for each in sys.meta_path if type(each).__name__ != OldPaths.__name__]
    sys.meta_path.append(OldPaths("anabranch"))
    if os.environ.get(VARIABLE):
        sys.meta_path.insert(0, OldPaths("prefect"))


def refuse(argument: str) -> None:
    """Raise `OptionError` if Prefect 1 has this argument: ``flow.run(context=)``."""
    if row := row_of(argument):
        raise OptionError(f"{argument} is of Prefect 1; {row} ({caller()})")


def refusing(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function, called `name` in the table, refuse arguments that it has in Prefect 1 only, with their line."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        known = inspect.signature(function).parameters

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            for each in kwargs:
                if each not in known:
                    refuse(f"{name}({each}=)")
            return function(*args, **kwargs)

        return called

    return decorated

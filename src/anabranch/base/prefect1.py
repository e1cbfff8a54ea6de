"""Prefect 1's names and arguments: what stands for each of them here, from the table in ``prefect1.md``.

The table is the second half of ``docs/howto/migrating.md``, too: ``python docs/migrating.py`` puts it there.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache, wraps
from importlib.resources import files
from typing import NamedTuple, ParamSpec, TypeVar

from anabranch.base.errors import OptionError
from anabranch.base.where import caller

P = ParamSpec("P")
R = TypeVar("R")

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
        text = files("anabranch.base").joinpath("prefect1.md").read_text(encoding="utf-8")
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

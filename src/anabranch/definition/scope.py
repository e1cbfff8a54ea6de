"""What is open while a flow is being written: its graph, groups, gates, tags, and the body of an ``apply_map``.

Scopes form a stack of their own for each thread and each asyncio task, so that two flows can be written at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from anabranch.base.errors import OptionError
from anabranch.base.where import caller
from anabranch.definition.graph import Graph


@dataclass(frozen=True, slots=True)
class Scope:
    """What a call that is written now gets from around it."""

    graphs: tuple[Graph, ...] = ()
    """The open flow's graph, then those of the flows nested in it, innermost last."""
    gates: tuple[Any, ...] = ()
    """Condition nodes that must hold."""
    tags: frozenset[str] = frozenset()
    elements: tuple[Any, ...] = ()
    """Mapped nodes that stand for one element each, inside the function of an ``apply_map``."""
    members: Any = None  # set of nodes written in the innermost apply_map, or None outside of one
    switches: tuple[Any, ...] = ()
    """Open `Switch` blocks, innermost last."""
    made: Any = None
    """List of the tasks that were made in the flow's block, each with the scope that it was made in; None outside."""
    outer: Scope | None = None
    """The scope around the block that opened this one."""


_SCOPE: ContextVar[Scope | None] = ContextVar("anabranch_scope", default=None)


def current() -> Scope:
    """The scope at this point of the program."""
    return _SCOPE.get() or Scope()


def enter(**changes: Any) -> None:
    """Open a scope with some things changed; `leave` ends it."""
    around = current()
    _SCOPE.set(replace(around, outer=around, **changes))


def leave() -> None:
    """Go back to the scope around the current one."""
    _SCOPE.set(current().outer)


@contextmanager
def open_scope(**changes: Any) -> Iterator[Scope]:
    """A scope with some things changed, until the block ends, however it ends."""
    enter(**changes)
    try:
        yield current()
    finally:
        leave()


@contextmanager
def reopened(around: Scope) -> Iterator[None]:
    """A scope that was open before, until the block ends."""
    _SCOPE.set(replace(around, outer=current()))
    try:
        yield
    finally:
        leave()


def tags(*names: str) -> AbstractContextManager[Scope]:
    """Add tags to every task called inside the block."""
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise OptionError(f"tags: expected strings, as in tags('a', 'b'), found {wrong[0]!r} ({caller()})")
    return open_scope(tags=current().tags | frozenset(names))

"""What is open while a flow is being written: its graph, groups, gates, tags, and the body of an ``apply_map``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from anabranch.graph import Graph


@dataclass(frozen=True, slots=True)
class Scope:
    """What a call that is written now gets from around it."""

    graphs: tuple[Graph, ...] = ()
    """The open flow's graph, then those of the flows nested in it, innermost last."""
    gates: tuple[Any, ...] = ()
    """Condition nodes that must hold, outermost first."""
    tags: frozenset[str] = frozenset()
    elements: tuple[Any, ...] = ()
    """Mapped nodes that stand for one element each, inside the function of an ``apply_map``."""
    members: Any = None  # set of nodes written in the innermost apply_map, or None outside of one


_SCOPE: ContextVar[Scope] = ContextVar("anabranch_scope", default=Scope())


def current() -> Scope:
    """The scope at this point of the program."""
    return _SCOPE.get()


@contextmanager
def opened(**changes: Any) -> Iterator[Scope]:
    """A scope with some things changed, until the block ends, however it ends."""
    token = _SCOPE.set(replace(_SCOPE.get(), **changes))
    try:
        yield _SCOPE.get()
    finally:
        _SCOPE.reset(token)


@contextmanager
def tags(*names: str) -> Iterator[None]:
    """Add tags to every task called inside the block."""
    with opened(tags=current().tags | frozenset(names)):
        yield

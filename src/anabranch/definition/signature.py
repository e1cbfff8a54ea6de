"""How the function of a task is called: what fits at once when a call is written, and how arguments are passed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any, TypeVar

from anabranch.base.errors import CallError, listed, nearest
from anabranch.base.signatures import signature_of

V = TypeVar("V")

RESERVED = ("upstream_tasks", "task_args", "mapped", "flow")
"""Keywords that a call of a task takes for itself."""

_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)

_ASYNC = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)

STAR = "*args"
"""Name under which the arguments of a ``*args`` parameter are bound, as one tuple."""


@dataclass(frozen=True)
class Signature:
    """A function and the names of its parameters."""

    function: Callable[..., Any]
    name: str

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature, (self.function, self.name)  # what is cached travels badly and is soon made again

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter] | None:
        """Parameters by name; None for a builtin that does not tell."""
        try:
            return dict(signature_of(self.function).parameters)
        except (TypeError, ValueError):
            return None

    @cached_property
    def is_async(self) -> bool:
        """Whether calls of the function give something to await."""
        found = [self.function]
        if type(self.function) is not FunctionType:
            found.append(inspect.getattr_static(type(self.function), "__call__", None))
        return any(is_kind(each) for is_kind in _ASYNC for each in found)

    @cached_property
    def _positional(self) -> tuple[str, ...]:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return tuple(name for name, p in (self.parameters or {}).items() if p.kind in kinds)

    @cached_property
    def takes_any_keyword(self) -> bool:
        """Whether it has a ``**kwargs`` parameter, or does not tell."""
        if self.parameters is None:
            return True
        return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self.parameters.values())

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, taken: Collection[str] = ()) -> dict[str, Any]:
        """Arguments by name; those of a ``*args`` parameter are one tuple under `STAR`.

        Positions of `taken` parameters are filled already: `args` go to those that are left.

        Raises
        ------
        CallError
            Too many arguments, or unknown names. Missing ones are `missing`'s affair.
        """
        if self.parameters is None:
            return {STAR: args, **kwargs} if args else dict(kwargs)
        free = [name for name in self._positional if name not in taken]
        bound: dict[str, Any] = dict(zip(free, args, strict=False))
        rest = args[len(free) :]
        if rest:
            if not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in self.parameters.values()):
                raise CallError(
                    f"{self.name}() takes {len(free)} arguments by position ({', '.join(free) or 'none'}), found "
                    f"{len(args)}; add a parameter to the function, or order the tasks with upstream_tasks=[…]"
                )
            bound[STAR] = tuple(rest)
        for name, value in kwargs.items():
            if name in bound:
                raise CallError(f"{self.name}() got two values for {name!r}: by position and by name")
            parameter = self.parameters.get(name)
            if parameter is not None and parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                raise CallError(f"{self.name}() takes {name!r} by position only, found it by name")
            self.check_name(name)
            bound[name] = value
        return bound

    def check_name(self, name: str) -> None:
        """Refuse the name of an argument that the function does not take.

        Raises
        ------
        CallError
            It has no such parameter.
        """
        known = self.named_parameters
        if name == STAR or (name not in known and not self.takes_any_keyword):
            raise CallError(f"{self.name}() has no parameter {name!r}; it has: {listed(known)}{nearest(name, known)}")

    @cached_property
    def named_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that take one argument each."""
        return tuple(name for name, p in (self.parameters or {}).items() if p.kind not in _VARIADIC)

    def missing(self, bound: Collection[str]) -> list[str]:
        """Names of parameters without a default that are not among the `bound` ones."""
        return [
            name
            for name, p in (self.parameters or {}).items()
            if name not in bound and p.default is inspect.Parameter.empty and p.kind not in _VARIADIC
        ]

    def in_order(self, bound: Mapping[str, V]) -> dict[str, V]:
        """What is bound, in the order of the parameters, however the call was written."""
        known = [name for name in (self.parameters or {}) if name in bound]
        return {name: bound[name] for name in (*known, *(name for name in bound if name not in known))}

    def split(self, bound: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of the call that passes what is bound."""
        positional: list[Any] = []
        keywords = dict(bound)
        star = keywords.pop(STAR, None) or ()  # None where the engine only asks for the shape of a call
        for name in self._positional:
            if name not in keywords:
                break
            positional.append(keywords.pop(name))
        return [*positional, *star], keywords

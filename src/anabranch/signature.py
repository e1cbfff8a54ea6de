"""How the function of a task is called: what fits at once when a call is written, and how arguments are passed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from anabranch.errors import CallError, DefinitionError, listed, nearest

RESERVED = ("upstream_tasks", "task_args", "mapped", "flow")
"""Keywords that a call of a task takes for itself."""

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
            return dict(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):
            return None

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

    def check_reserved(self) -> None:
        """Refuse a function one of whose parameters has a name that calls take for themselves."""
        clash = [name for name in (self.parameters or {}) if name in RESERVED]
        if clash:
            raise DefinitionError(
                f"task {self.name!r}: a parameter cannot be named {listed(clash)}, because calls of a task use "
                f"{listed(RESERVED)} themselves; rename it"
            )

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name; those of a ``*args`` parameter are one tuple under `STAR`.

        Raises
        ------
        CallError
            Too many arguments, or unknown names. Missing ones are `missing`'s affair.
        """
        if self.parameters is None:
            return {STAR: args, **kwargs} if args else dict(kwargs)
        bound: dict[str, Any] = dict(zip(self._positional, args, strict=False))
        rest = args[len(self._positional) :]
        if rest:
            if not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in self.parameters.values()):
                raise CallError(
                    f"{self.name}() takes {len(self._positional)} arguments ({self._shown()}), found {len(args)}; "
                    "add a parameter to the function, or order the tasks with upstream_tasks=[…]"
                )
            bound[STAR] = tuple(rest)
        for name, value in kwargs.items():
            self._check_keyword(name, bound)
            bound[name] = value
        return bound

    def _check_keyword(self, name: str, bound: Mapping[str, Any]) -> None:
        if name in bound:
            raise CallError(f"{self.name}() got two values for {name!r}: by position and by name")
        parameter = (self.parameters or {}).get(name)
        if parameter is not None and parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise CallError(f"{self.name}() takes {name!r} by position only, found it by name")
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        if (parameter is None or parameter.kind in variadic) and not self.takes_any_keyword:
            known = list(self.parameters or {})
            raise CallError(f"{self.name}() has no parameter {name!r}; it has: {listed(known)}{nearest(name, known)}")

    def missing(self, bound: Mapping[str, Any]) -> list[str]:
        """Names of parameters without a default that are not bound."""
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return [
            name
            for name, p in (self.parameters or {}).items()
            if name not in bound and p.default is inspect.Parameter.empty and p.kind not in variadic
        ]

    def split(self, bound: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of the call that passes what is bound."""
        positional: list[Any] = []
        keywords = dict(bound)
        star = keywords.pop(STAR, ())
        for name in self._positional:
            if name not in keywords:
                break
            positional.append(keywords.pop(name))
        return [*positional, *star], keywords

    def _shown(self) -> str:
        return ", ".join(self._positional) or "none"


def named(function: Callable[..., Any]) -> str:
    """A readable name for any callable."""
    name = getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def ascii_name(name: str, limit: int = 40) -> str:
    """A name that Dask's pages group by: ASCII letters, digits and underscores, at most `limit` of them.

    Examples
    --------
    >>> ascii_name("daily-tiles [2]")
    'daily_tiles_2'
    """
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return "_".join(part for part in kept.split("_") if part)[:limit] or "x"

"""Parts of the keys of cached values: inputs, parameters, code, or any function; join them with ``+``.

With ``cache_key=inputs("path") + code``, a cached value is used if the path and the task's code are the same. A key has
a digest for each part, so that it can be explained which part has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from anabranch.base.errors import OptionError, UnstorableValueError, listed
from anabranch.base.names import named, short
from anabranch.base.signatures import signature_of
from anabranch.definition.fingerprints import describe_value

Digests: TypeAlias = dict[str, str]
"""By part, such as ``input x``."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a key can be made of."""

    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any]
    code: str | None
    """A text that changes when the task's code does; None if there is none."""
    code_gap: str = ""
    """Why there is none."""


class CacheKey:
    """Parts of a key. `inputs`, `parameters` and `code` are such; ``+`` puts them together, with functions as well.

    A function is called with as many of ``inputs`` and ``parameters`` (dicts) as it takes arguments.
    """

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts

    @classmethod
    def of(cls, value: object) -> CacheKey:
        """A key, made of what one can be made of.

        Raises
        ------
        OptionError
            None can be made of it.
        """
        if isinstance(value, CacheKey):
            return value
        if callable(value):
            return cls((_Function(value),))
        raise OptionError(
            "cache_key: expected inputs, parameters, code (of anabranch.definition.caching), a function, a sum of "
            f"these, or a name, found {short(value)}"
        )

    def __add__(self, other: object) -> CacheKey:
        return CacheKey((*self.parts, *CacheKey.of(other).parts))

    def __radd__(self, other: object) -> CacheKey:
        return CacheKey((*CacheKey.of(other).parts, *self.parts))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts)) or "constant"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CacheKey) and other.parts == self.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return CacheKey, (self.parts,)

    def digests(self, facts: Facts) -> Digests:
        """Return a digest for each part.

        Raises
        ------
        UnstorableValueError
            A value has no digest that is the same in every process.
        """
        found: Digests = {}
        for number, part in enumerate(self.parts):
            found.update(part.digests(facts, number))
        return found

    @property
    def named_inputs(self) -> frozenset[str]:
        """Inputs that it names, which the task must have."""
        return frozenset().union(*(part.names for part in self.parts if isinstance(part, _Inputs)))

    @property
    def named_parameters(self) -> frozenset[str]:
        """Parameters of the flow that it names."""
        return frozenset().union(*(part.names for part in self.parts if isinstance(part, _Parameters)))


class _Some(CacheKey):
    """All of a kind; called with names, only these."""

    def __init__(self, kind: type[_Inputs] | type[_Parameters]) -> None:
        super().__init__((kind(frozenset()),))
        self._kind = kind

    def __call__(self, *names: str) -> CacheKey:
        """Those with these names.

        Raises
        ------
        OptionError
            There are none, or not all of them are names.
        """
        if not names or not all(isinstance(name, str) and name for name in names):
            raise OptionError(f"{self._kind.word}s(…): expected names of {self._kind.word}s, found {short(names)}")
        return CacheKey((self._kind(frozenset(names)),))


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Inputs:
    names: frozenset[str]
    """None of them: all."""
    word: ClassVar[str] = "input"

    def __repr__(self) -> str:
        return f"inputs({', '.join(map(repr, sorted(self.names)))})" if self.names else "inputs"

    def digests(self, facts: Facts, number: int) -> Digests:
        return _of_named("input", facts.inputs, self.names)


@dataclass(frozen=True, slots=True)
class _Parameters:
    names: frozenset[str]
    word: ClassVar[str] = "parameter"

    def __repr__(self) -> str:
        return f"parameters({', '.join(map(repr, sorted(self.names)))})" if self.names else "parameters"

    def digests(self, facts: Facts, number: int) -> Digests:
        return _of_named("parameter", facts.parameters, self.names)


@dataclass(frozen=True, slots=True)
class _Code:
    def __repr__(self) -> str:
        return "code"

    def digests(self, facts: Facts, number: int) -> Digests:
        if facts.code is None:
            raise UnstorableValueError(
                f"its code has no fingerprint that is the same in every process: {facts.code_gap}; give the class of "
                "that a method __dask_tokenize__, or choose the parts of the key: cache_key=inputs"
            )
        return {"code": facts.code}


@dataclass(frozen=True, slots=True)
class _Function:
    function: Callable[..., Any]

    def __repr__(self) -> str:
        return named(self.function)

    def digests(self, facts: Facts, number: int) -> Digests:
        try:
            count = len(signature_of(self.function).parameters)
        except (TypeError, ValueError):  # a builtin that does not say
            count = 1
        value = self.function(*(facts.inputs, facts.parameters)[:count])
        return {f"{named(self.function)}() (part {number + 1})": digest(value, f"what {named(self.function)} gave")}


Part: TypeAlias = _Inputs | _Parameters | _Code | _Function


def _of_named(word: str, values: Mapping[str, Any], names: Collection[str]) -> Digests:
    if missing := sorted(name for name in names if name not in values):
        raise OptionError(f"cache_key: there is no {word} {listed(missing)}; there are {listed(values)}")
    return {f"{word} {name}": digest(values[name], f"{word} {name!r}") for name in sorted(names or values)}


def digest(value: Any, what: str = "a value") -> str:
    """A text that is the same for an equal value, in any process.

    Raises
    ------
    UnstorableValueError
        There is no such text, since the value is known by its identity only.
    """
    found = describe_value(value)
    if found.gap:
        kind = type(value)
        raise UnstorableValueError(
            f"{what}, a {kind.__module__}.{kind.__qualname__}, has no digest that is the same in every process, so "
            f"it cannot be part of a cache key; give the class a method __dask_tokenize__, or choose the parts: "
            f"cache_key=inputs('…') ({found.gap})"
        )
    return found.text


def key_of(scope: str, digests: Mapping[str, str]) -> str:
    """The key: one text for all parts, and for what they are parts of."""
    lines = [scope, *(f"{part}={text}" for part, text in sorted(digests.items()))]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()


inputs = _Some(_Inputs)
"""The task's inputs, or only some with ``inputs("x", "y")``."""
parameters = _Some(_Parameters)
"""The flow's parameters, or only some with ``parameters("date")``."""
code = CacheKey((_Code(),))
"""The task's code without comments and docstrings, with what it holds, and the user's own code that it names."""

# ---------------------------------------------------------------------------------------------------------------------
# Validators, by the names that Prefect 1 has for them

all_inputs = CacheKey(inputs.parts)
"""Use the value of a run with the same inputs."""
all_parameters = CacheKey(parameters.parts)
"""Use the value of a run with the same parameters of the flow."""
duration_only = CacheKey(())
"""Use any value that is not too old, whatever the inputs."""


class _Never(CacheKey):
    def __reduce__(self) -> tuple[Any, ...]:
        return _never, ()


def _never() -> CacheKey:
    return never_use


never_use: CacheKey = _Never(())
"""Never use a cached value, but store one for others."""


def partial_inputs_only(validate_on: Collection[str]) -> CacheKey:
    """Use the value of a run in which these inputs were the same."""
    return inputs(*_sort_names(validate_on))


def partial_parameters_only(validate_on: Collection[str]) -> CacheKey:
    """Use the value of a run in which these parameters of the flow were the same."""
    return parameters(*_sort_names(validate_on))


def _sort_names(names: Collection[str]) -> Collection[str]:
    return [names] if isinstance(names, str) else names

"""Deferred calls: what a call of a task gives while a task is running. The engine runs them; see `engine.deferring`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from anabranch.base import context
from anabranch.base.errors import MappingError, NodeAttributeError, NodeValueError, OptionError, WidthError
from anabranch.base.names import short
from anabranch.base.where import caller
from anabranch.definition.expressions import ATOMS, StandIn, as_now, is_unchanged
from anabranch.definition.marks import Mark, flat, flatten, mapped, unmappable, unmapped
from anabranch.definition.operators import Operators
from anabranch.definition.policies import PLAIN, Policies
from anabranch.definition.signature import STAR, Signature

MANY = 2_000  # parts, above which collections are shared by the calls that were given them: copies would add up


class DeferredCall(Operators, StandIn):  # type: ignore[misc]  # for a type checker it stands for the value it will have
    """One call of a task, made by a running task: returned by it, it is run, and its value takes its place."""

    __slots__ = ("_given", "_kept", "name", "policies", "signature", "upstreams", "where")

    def __init__(
        self,
        name: str,
        signature: Signature,
        policies: Policies,
        arguments: Mapping[str, Any],
        *,
        upstreams: tuple[DeferredCall, ...] = (),
        where: str = "",
    ) -> None:
        self.name = name
        self.signature = signature
        self.policies = policies
        self._given = arguments
        self._kept: dict[str, Any] = {}
        if not ATOMS.issuperset(map(type, arguments.values())):
            kept = {key: as_now(value, MANY) for key, value in arguments.items()}
            self._kept = {key: each for key, each in kept.items() if each is not arguments[key]}
        self.upstreams = upstreams
        """Calls to run after."""
        self.where = where
        context.note_call(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # Made anew where it is loaded, so that the task whose process has made it is known to have made calls.
        return _remade, (type(self), self._state())

    def _state(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("name", "signature", "policies", "arguments", "upstreams", "where")
        }

    def __repr__(self) -> str:
        return f"<deferred call of {self.name!r}>"

    @property
    def arguments(self) -> Mapping[str, Any]:
        """By name, with what collections held when the call was written; values may hold other deferred calls."""
        if not self._kept:
            return self._given
        changed = {key: kept for key, kept in self._kept.items() if not is_unchanged(self._given[key], kept)}
        return {**self._given, **changed}  # what is unchanged may be known to workers as what the caller was given

    def _operation(self, function: Callable[..., Any], name: str, *operands: object) -> DeferredCall:
        arguments = dict(zip("ab", operands, strict=False))
        elementwise = {key: each for key, each in arguments.items() if isinstance(each, DeferredMap)}
        signature, policies = Signature(function, name), PLAIN
        if not elementwise:
            return DeferredCall(name, signature, policies, arguments, where=self.where)
        return DeferredMap(name, signature, policies, arguments, elementwise=frozenset(elementwise), where=self.where)

    def __getitem__(self, key: object) -> DeferredCall:
        return self._operation(operator.getitem, f"{self.name}[{short(key)}]", self, key)

    def __iter__(self) -> Iterator[DeferredCall]:
        nout = self.policies.nout
        if nout is None or isinstance(self, DeferredMap):
            self._refuse("cannot be unpacked", "; use @task(nout=2) or a return annotation such as tuple[int, str]")
        return iter([self[number] for number in range(nout)])

    def __bool__(self) -> bool:
        self._refuse("has no truth value yet", "; pass it to a task that decides")

    def __len__(self) -> int:
        self._refuse("has no length yet")

    def __contains__(self, value: object) -> bool:
        self._refuse("cannot be searched yet")

    def __str__(self) -> str:
        self._refuse("has no text yet", "; pass it to a task that makes the text")

    def __format__(self, spec: str) -> str:
        return str(self)

    def __array__(self, *args: object, **kwargs: object) -> Any:
        self._refuse("cannot be in an array yet", "; pass a list of calls to a task that makes the array")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle ask for methods that are not there
            raise AttributeError(name)
        raise NodeAttributeError(
            f"{self!r} is a call that has not run, and has no attribute {name!r} ({caller()}); pass it to a task that "
            f"takes {name!r} from its value, or use {self.name}.run(…) to call the function itself"
        )

    def _refuse(self, what: str, cure: str = "") -> NoReturn:
        raise NodeValueError(
            f"{self!r} is not its value, and {what}: it runs once the task that made it has returned it "
            f"({caller()}){cure}, or use {self.name}.run(…) to call the function itself"
        )


class DeferredMap(DeferredCall):
    """Calls of a task for each element of its arguments; the value is the list of theirs."""

    __slots__ = ("elementwise", "width")

    def __init__(
        self,
        name: str,
        signature: Signature,
        policies: Policies,
        arguments: Mapping[str, Any],
        *,
        elementwise: frozenset[str],
        upstreams: tuple[DeferredCall, ...] = (),
        where: str = "",
    ) -> None:
        self.elementwise = elementwise
        """Names of the arguments that are mapped over: sequences, or other maps."""
        self.width = _find_width(name, {key: arguments[key] for key in elementwise})
        super().__init__(name, signature, policies, arguments, upstreams=upstreams, where=where)

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"elementwise": self.elementwise}


def _remade(cls: type[DeferredCall], state: dict[str, Any]) -> DeferredCall:
    options = {name: state.pop(name) for name in ("upstreams", "where", "elementwise") if name in state}
    return cls(state["name"], state["signature"], state["policies"], state["arguments"], **options)


def _find_width(name: str, arguments: Mapping[str, Any]) -> int:
    """Number of elements of the arguments that are mapped over.

    Raises
    ------
    MappingError
        One has no elements in order.
    WidthError
        Their widths differ.
    """
    widths: dict[str, int] = {}
    for key, value in arguments.items():
        if isinstance(value, DeferredMap):
            widths[key] = value.width
            continue
        reason = unmappable(value)
        if reason:
            raise MappingError(f"{name}.map(): cannot map {key!r} over {reason} ({caller()})")
        widths[key] = len(value)
    if len(set(widths.values())) > 1:
        shown = ", ".join(f"{key} has {width:,}" for key, width in widths.items())
        raise WidthError(f"{name}.map(): mapped arguments have different widths: {shown} ({caller()})")
    return next(iter(widths.values()))


def deferred(
    name: str,
    signature: Signature,
    policies: Policies,
    arguments: Mapping[str, Any],
    *,
    is_mapped: bool = False,
    upstreams: tuple[DeferredCall, ...] = (),
    where: str = "",
) -> DeferredCall:
    """A call, or a map, with arguments by name, some of which may be marked as `mapped` or `unmapped`.

    Where it is not known how many elements there are, because a call has to give them, the map is made by a call of its
    own that runs after that one.
    """
    if not is_mapped and not any(isinstance(value, Mark) for value in arguments.values()) and STAR not in arguments:
        ordered = signature.in_order(arguments) if len(arguments) > 1 else arguments
        return DeferredCall(name, signature, policies, ordered, upstreams=upstreams, where=where)
    elementwise: set[str] = set()
    values: dict[str, Any] = {}
    for key, value in signature.in_order(arguments).items():
        values[key] = value.value if isinstance(value, (mapped, unmapped)) else value
        if isinstance(value, mapped) or (is_mapped and not isinstance(value, unmapped)):
            elementwise.add(key)
        if isinstance(values[key], flatten):
            values[key] = _flat(values[key].value, where)
    if is_mapped and not elementwise:
        raise MappingError(
            f"{name}.map() has no argument to map over, all are unmapped ({caller()}); call {name}() for a single run"
        )
    if STAR in values and any(isinstance(each, Mark) for each in values[STAR]):
        raise MappingError(f"{name}: mark arguments by name inside a running task, not those of *args ({caller()})")
    if not elementwise:
        return DeferredCall(name, signature, policies, values, upstreams=upstreams, where=where)
    if policies.may_stop_early:
        options = ("min_success", "first_n", "stop_when")
        given = " and ".join(option for option in options if getattr(policies, option) is not None)
        raise OptionError(
            f"{name}.map(): {given} cannot end a map inside a running task, where all calls of one task are one "
            f"map ({caller()}); map it in the flow, or choose among the values afterwards"
        )
    if STAR in elementwise:
        columns = values[STAR]
        if any(isinstance(each, DeferredCall) for each in columns):
            raise MappingError(
                f"{name}.map(): *args cannot be mapped over calls inside a running task ({caller()}); give it a "
                "parameter with a name"
            )
        width = _find_width(name, {f"argument {number}": each for number, each in enumerate(columns)})
        values[STAR] = [tuple(column[i] for column in columns) for i in range(width)]
    if any(isinstance(values[key], DeferredCall) and not isinstance(values[key], DeferredMap) for key in elementwise):
        maker = _MakeMap(name, signature, policies, frozenset(elementwise), where)
        return DeferredCall(f"map({name})", Signature(maker, name), PLAIN, values, upstreams=upstreams, where=where)
    return DeferredMap(
        name, signature, policies, values, elementwise=frozenset(elementwise), upstreams=upstreams, where=where
    )


class _MakeMap:
    """A function that makes a deferred map of arguments that are there by then."""

    def __init__(
        self, name: str, signature: Signature, policies: Policies, elementwise: frozenset[str], where: str
    ) -> None:
        self.name = name
        self.signature = signature
        self.policies = policies
        self.elementwise = elementwise
        self.where = where

    @property
    def identity(self) -> tuple[Any, ...]:
        """The same for makers that do the same."""
        return ("map", self.name, id(self.signature.function), id(self.policies), self.elementwise)

    def __call__(self, **arguments: Any) -> DeferredMap:
        return DeferredMap(
            self.name, self.signature, self.policies, arguments, elementwise=self.elementwise, where=self.where
        )


def _flat(value: object, where: str) -> Any:
    """One level of nesting less: of a call's value, once it is there."""
    if isinstance(value, DeferredCall):
        return DeferredCall("flatten", Signature(_flattened, "flatten"), PLAIN, {"parts": value}, where=where)
    return _flattened(value)


def _flattened(parts: Any) -> list[Any]:
    reason = unmappable(parts)
    if reason:
        raise MappingError(f"flatten() in a running task needs a list, not {reason} ({caller()})")
    return flat(parts)

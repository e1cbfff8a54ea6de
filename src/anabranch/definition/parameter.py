"""Parameters: the named inputs of a flow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.base.errors import OptionError
from anabranch.base.names import check_name, short
from anabranch.base.where import caller
from anabranch.definition import scope
from anabranch.definition.equality import equal
from anabranch.definition.graph import Graph
from anabranch.definition.lookup import holds_node, join, open_graphs
from anabranch.definition.node import Node
from anabranch.definition.parameter_values import UncheckedType, converted
from anabranch.definition.policies import Policies
from anabranch.definition.signature import RESERVED

_NOT_GIVEN: Any = object()


class Parameter(Node):
    """A named input of a flow. It is a node, so it can be used wherever a node can.

    Parameters
    ----------
    name
        Any text that can be shown, but one with ``=`` in it. What is no Python identifier is given by
        ``flow.run(parameters={…})`` and ``-p NAME=VALUE``.
    default
        Value for runs that give none; each run gets a copy. Without a default the parameter is required.
    required
        Whether runs must give a value, even if there is a default.
    type
        Type of the values: pydantic validates them, and converts strings.
    choices
        Allowed values.
    secret
        Whether values are kept out of the run store, and masked as ``***`` in logs, messages and failures. They travel
        to the workers. A parameter is also secret if its name says so (``password``, ``token``).

    Raises
    ------
    OptionError
        The name, the default or a choice is not valid.
    """

    _ATTRIBUTES = Node._ATTRIBUTES | {"default_value", "required", "type", "secret", "choices"}

    def __init__(
        self,
        name: str,
        default: Any = _NOT_GIVEN,
        *,
        required: bool | None = None,
        type: Any = None,  # any annotation
        choices: Sequence[Any] | None = None,
        secret: bool = False,
        tags: Collection[str] | None = None,
    ) -> None:
        check_name(name, "parameter name")
        if name.startswith("__") or name in RESERVED:
            usable = name.strip("_") + "_"
            raise OptionError(
                f"parameter name: {name!r} has another meaning; use a name such as {usable!r} ({caller()})"
            )
        if "=" in name or name != name.strip():
            usable = "_".join(name.replace("=", " ").split())
            what = "a name without '=', and without blanks around it"
            raise OptionError(f"parameter name: expected {what}, such as {usable!r}, found {name!r} ({caller()})")
        if holds_node(default):
            raise OptionError(
                f"parameter {name!r}: the default cannot be a node or task, found {default!r} ({caller()})"
            )
        super().__init__(name, _no_function, kind="parameter", policies=Policies(tags=_with_open(tags)))
        self.default_value = None if default is _NOT_GIVEN else default  # `default` is a branch, as of any node
        self.required: bool = default is _NOT_GIVEN if required is None else required
        self.type = type
        self.secret = secret
        self.choices = tuple(choices) if choices is not None else None
        is_choice = self.choices is None or any(equal(self.default_value, each) for each in self.choices)
        if self.default_value is not None and not is_choice:
            raise OptionError(
                f"parameter {name!r}: the default {'***' if secret else short(default)} is not among its choices "
                f"{self.choices!r} ({caller()})"
            )
        if type is not None and self.default_value is not None:
            self._check_default()
        join(self, scope.current().graphs)

    def _check_default(self) -> None:
        try:
            converted(self, self.default_value)
        except UncheckedType:  # as what it names is not there yet, say: a run will tell
            pass
        except ValueError as error:
            raise OptionError(f"parameter {self.name!r}: its default: {error} ({caller()})") from None

    def __call__(self) -> Parameter:
        """Add the parameter to the open flow."""
        join(self, open_graphs(f"Parameter({self.name!r})"))
        return self

    def __repr__(self) -> str:
        return f"<Parameter {self.name!r}>"


def _no_function() -> None:
    """Stands for the function that a parameter does not have."""


def _with_open(tags: Collection[str] | None) -> Any:
    return tags if isinstance(tags, str) else frozenset(tags or ()) | scope.current().tags  # a string is refused later


@dataclass(frozen=True)
class FlowParameter:
    """Stands for the flow's parameter of that name, made where the flow has none: ``@task(parameters=["date"])``."""

    name: str

    def nodes_in(self, graph: Graph) -> list[Node]:
        """The parameter."""
        found = graph.find(self.name)
        if isinstance(found, Parameter):
            return [found]
        parameter = Parameter(self.name)
        join(parameter, (graph,))
        return [parameter]

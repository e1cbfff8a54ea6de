"""A flow as plain values: nodes and edges by slug, in topological order, ready to be run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from anabranch.base.context import logger_of
from anabranch.definition.expressions import Expression, Ref
from anabranch.definition.policies import Policies
from anabranch.definition.signature import Signature

EdgeKind = Literal["data", "order", "gate"]


@dataclass(frozen=True, slots=True)
class Edge:
    """Upstream → downstream.

    `key` is the argument a data edge feeds (None where it feeds none, as in a check of an output). `mapped` edges carry
    elements: element by element from a mapped node, or the elements of a plain node's value.
    """

    upstream: Any  # a NodeLike while building, a slug once frozen
    downstream: Any
    kind: EdgeKind = "data"
    key: str | None = None
    mapped: bool = False


@dataclass(frozen=True, slots=True)
class FrozenNode:
    """A node as the engine sees it: plain values, upstream nodes by slug."""

    slug: str
    name: str
    kind: str
    signature: Signature
    policies: Policies
    arguments: Mapping[str, Expression]
    mapped: frozenset[str]
    is_map: bool
    checks: tuple[Expression, ...]
    edges: tuple[Edge, ...]
    """Edges into this node, with slugs at both ends."""
    where: str
    feeds_map: bool = False
    """Whether a map takes its elements from this node's value."""
    depth: int = 0
    """Number of callers around deferred calls; 0 for what is written in the flow."""

    @property
    def logger(self) -> logging.Logger:
        """For handlers: the task's logger."""
        return logger_of(self.name)

    @property
    def is_awaited(self) -> bool:
        """Whether calls of the function are awaited on a loop of the worker's, side by side."""
        return self.signature.is_async and self.policies.isolation == "thread"

    def lanes(self, settings: Mapping[str, Any]) -> int:
        """Elements that run side by side in one chunk."""
        if not self.is_awaited:
            return 1
        most: int = self.policies.concurrency_per_slot or settings["concurrency_per_slot"]
        return most

    @property
    def element_upstreams(self) -> tuple[str, ...]:
        """Slugs of what this map goes through element by element, nodes whose value is a list included."""
        return tuple(dict.fromkeys(edge.upstream for edge in self.edges if edge.mapped))

    @property
    def whole_upstreams(self) -> tuple[str, ...]:
        """Slugs of what every element of this map (or this plain node) needs as a whole."""
        return tuple(dict.fromkeys(edge.upstream for edge in self.edges if not edge.mapped))


@dataclass(frozen=True)
class FrozenGraph:
    """A flow's nodes in topological order, ready to be run."""

    nodes: Mapping[str, FrozenNode]
    reference: tuple[str, ...]

    @cached_property
    def downstream(self) -> Mapping[str, tuple[str, ...]]:
        """Slugs of the direct consumers of each node."""
        found: dict[str, dict[str, None]] = {slug: {} for slug in self.nodes}
        for node in self.nodes.values():
            for edge in node.edges:
                found[edge.upstream][node.slug] = None
        return {slug: tuple(names) for slug, names in found.items()}

    @cached_property
    def terminal(self) -> tuple[str, ...]:
        """Slugs of the nodes that nothing follows."""
        return tuple(slug for slug, names in self.downstream.items() if not names)


def reduced_argument(node: FrozenNode) -> tuple[str, str] | None:
    """Of a node that reduces a map: the argument that takes the values, and the slug upstream. None if it cannot.

    Everything else it takes must be known before anything runs.
    """
    if not node.policies.reduce or node.is_map or node.checks:
        return None
    found = [(name, expression.node) for name, expression in node.arguments.items() if isinstance(expression, Ref)]
    taken = [(edge.key, edge.upstream) for edge in node.edges if edge.kind == "data"]
    return found[0] if len(found) == 1 and taken == found else None

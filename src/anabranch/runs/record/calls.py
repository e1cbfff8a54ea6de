"""Deferred calls in the run store: a row for each time that some were made, and what is made of these to resume."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

from anabranch.base.masking import without_secrets
from anabranch.base.states import Deferred
from anabranch.definition.frozen import FrozenGraph
from anabranch.definition.signature import Signature
from anabranch.engine.units.calls import CallGroup, Placed
from anabranch.engine.units.values import dumps
from anabranch.engine.worker.call_storing import storing_to_read
from anabranch.engine.worker.calls_out import loaded, renewed_identity
from anabranch.runs.store.records import ChunkRow, RunStore

_log = logging.getLogger("anabranch.recording")


def rows_slug(caller: str) -> str:
    """Under which slug the calls of a node are in the store: no node has such a one."""
    return f"{caller}/"


def row_of(placed: Placed, serial: int) -> ChunkRow:
    """The row for calls that were made; rows of a caller are in order by their serial numbers."""
    expansion = placed.expansion
    groups = tuple(_by_value(group) for group in expansion.groups)
    data = without_secrets(pickle.dumps(replace(placed, expansion=replace(expansion, groups=groups)), protocol=5))
    indices = expansion.indices if expansion.indices != (-1,) else range(1)
    return ChunkRow(rows_slug(expansion.slug), serial, indices, bytes([Deferred.code]) * len(indices), data)


def row_of_void(caller: str, serial: int, indices: Sequence[int] = ()) -> ChunkRow:
    """The row that says that calls in rows before it do not count: those of these elements, or all of the caller's."""
    return ChunkRow(rows_slug(caller), serial, indices, bytes(len(indices)))


def _by_value(group: CallGroup) -> CallGroup:
    """The group as another process can take it up."""
    definition = group.definition if isinstance(group.definition, bytes) else dumps(group.definition)
    policies = replace(group.node.policies, storing=None)  # which is in the definition, with code of the user's
    return replace(group, definition=definition, node=replace(group.node, policies=policies))


def calls_of(store: RunStore, run_id: str, slugs: Iterable[str], graph: FrozenGraph) -> list[Placed]:
    """The deferred calls of a run, in the order in which they were made; their tasks have the code that they have now.

    Parameters
    ----------
    slugs
        Of all that the store has rows of.
    """
    callers = dict.fromkeys(prefix for slug in slugs if slug not in graph.nodes for prefix in _prefixes(slug))
    rows = [row for caller in callers for row in store.chunks(run_id, rows_slug(caller))]
    functions = _functions_of(graph)
    found, parcels = list[Placed](), dict[str, bytes]()
    for row in sorted(rows, key=lambda row: row.serial):
        if not any(row.codes):
            found = list(_without(found, row.slug.removesuffix("/"), row.indices))
            continue
        try:
            placed: Placed = pickle.loads(row.values or b"")
            groups = tuple(_renewed(group, functions) for group in placed.expansion.groups)
            parcels.update(placed.expansion.parcels)  # each is in the first row that names it
            named = {digest: parcels[digest] for digest in placed.expansion.named}
        except Exception as error:  # damaged, of another version, or without a value because that has a secret in it
            slug = row.slug.removesuffix("/")
            _log.warning("%s makes its deferred calls again: what is recorded cannot be used: %s", slug, error)
            continue
        found.append(replace(placed, expansion=replace(placed.expansion, groups=groups, parcels=named)))
    return found


def _without(found: Iterable[Placed], caller: str, indices: Sequence[int]) -> Iterator[Placed]:
    """Calls without those that a row has said not to count."""
    for placed in found:
        if placed.expansion.slug != caller:
            yield placed
        elif indices:
            yield replace(placed, void=placed.void | frozenset(indices).intersection(placed.expansion.indices))


def _prefixes(slug: str) -> list[str]:
    parts = slug.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def with_calls(graph: FrozenGraph, calls: Iterable[Placed]) -> FrozenGraph:
    """A graph with the nodes that deferred calls have added, as a driver knows them."""
    added = {
        slug: replace(group.node, slug=slug)
        for placed in calls
        for slug, group in zip(placed.slugs, placed.expansion.groups, strict=True)
    }
    return FrozenGraph({**graph.nodes, **added}, graph.reference)


def _functions_of(graph: FrozenGraph) -> dict[tuple[str, str], Callable[..., Any]]:
    """Functions of a flow by their places in modules, where a place tells which of them is meant."""
    found: dict[tuple[str, str], list[Callable[..., Any]]] = {}
    for node in graph.nodes.values():
        function = node.signature.function
        if _is_alone(function) and function not in found.setdefault(_origin(function), []):
            found[_origin(function)].append(function)
    return {origin: functions[0] for origin, functions in found.items() if len(functions) == 1}


def _is_alone(function: Callable[..., Any]) -> bool:
    """Whether no other function has its place: lambdas share one, and so do functions that are made by functions."""
    names = ("__closure__", "__defaults__", "__kwdefaults__")
    place = _origin(function)
    is_made = "<locals>" in place[1] and any(getattr(function, name, None) for name in names)
    return all(place) and "<lambda>" not in place[1] and not is_made


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    return getattr(function, "__module__", None) or "", getattr(function, "__qualname__", None) or ""


def _renewed(group: CallGroup, functions: Mapping[tuple[str, str], Callable[..., Any]]) -> CallGroup:
    """The group with its function as it is now, where that is found: by its place in a module, or in the flow.

    A function that was mended since must not run as it was. What is not found runs as it was recorded.
    """
    try:
        node = loaded(group.definition, "")
    except Exception:  # the workers may have what is missing here
        return group
    storing = node.policies.storing
    if storing is not None:
        policies = replace(group.node.policies, storing=storing_to_read(storing))
        group = replace(group, node=replace(group.node, policies=policies))
    function = node.signature.function
    now = _in_module(*_origin(function)) or (functions.get(_origin(function)) if _is_alone(function) else None)
    if now is None:
        return group
    if isinstance(function, MethodType):  # of an object that no module and no flow has
        now = MethodType(getattr(now, "__func__", now), function.__self__)
    definition = dumps(replace(node, signature=Signature(now, node.signature.name)))
    return replace(group, definition=definition, identity=renewed_identity(group.identity, now))


def _in_module(module: str, qualname: str) -> Callable[..., Any] | None:
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    signature = getattr(found, "signature", None)  # a decorated function is a task there
    return signature.function if isinstance(signature, Signature) else None

"""Which nodes of a flow store their values in a run, and where: the last word, put into their policies."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Self

from anabranch.base.files import data_directory
from anabranch.base.settings import config
from anabranch.definition.frozen import FrozenGraph, FrozenNode
from anabranch.definition.storing import Storing, completed, describe_code_of
from anabranch.results.local import LocalResult, kept_in
from anabranch.results.result import SWEEP_S, Result

_log = logging.getLogger("anabranch.results")


def with_storing(graph: FrozenGraph, result: Result | None, *, checkpointing: bool) -> FrozenGraph:
    """The graph with what is to be done about each node's value.

    Parameters
    ----------
    result
        The flow's.
    checkpointing
        Whether tasks store their values that say nothing of it.
    """
    default = cache(LocalResult)  # one store for all nodes that need one
    only_in = config.results.only_in
    moved = cache(partial(kept_in, only_in))

    def planned(node: FrozenNode) -> FrozenNode:
        own: Storing | None = node.policies.storing
        if own is None and (node.kind != "task" or _is_ours(node)):
            return node
        is_asked = node.kind == "task"  # conditions and the like are made anew at once
        storing = completed(own, flow_result=result, checkpointing=checkpointing, default=default) if is_asked else None
        if storing is not None:
            if only_in and storing.result is not None:
                storing = replace(storing, result=moved(storing.result))
            storing = describe_code_of(node, storing)
        return node if storing is own else replace(node, policies=replace(node.policies, storing=storing))

    return FrozenGraph({slug: planned(node) for slug, node in graph.nodes.items()}, graph.reference)


def without_storing(graph: FrozenGraph) -> FrozenGraph:
    """The graph for a run that stores nothing, and looks for nothing that is stored."""

    def plain(node: FrozenNode) -> FrozenNode:
        return replace(node, policies=replace(node.policies, storing=None))

    return FrozenGraph({slug: plain(node) for slug, node in graph.nodes.items()}, graph.reference)


def going_on(graph: FrozenGraph) -> FrozenGraph:
    """The graph for a run that goes on: what is stored again takes the place of what it stored before."""

    def again(node: FrozenNode) -> FrozenNode:
        storing: Storing | None = node.policies.storing
        if storing is None:
            return node
        return replace(node, policies=replace(node.policies, storing=replace(storing, is_resumed=True)))

    return FrozenGraph({slug: again(node) for slug, node in graph.nodes.items()}, graph.reference)


class Housekeeping:
    """Keeps the stores of a run in order: closes them at its end, and sweeps them beside it, once an hour.

    Parameters
    ----------
    graph
        Completed for the run.
    """

    def __init__(self, graph: FrozenGraph) -> None:
        found = [node.policies.storing.result for node in graph.nodes.values() if node.policies.storing is not None]
        self._results = {id(result.store): result for result in found}.values()
        self._stale = [result for result in self._results if not _is_swept(result)]
        self.sweeper = threading.Thread(target=self._sweep, name="anabranch-sweep", daemon=True)

    def __enter__(self) -> Self:
        if self._stale:
            self.sweeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        for result in self._results:
            try:
                result.close()
            except Exception as problem:  # of a driver's own kind; the run has ended, and well
                _log.debug("a store could not be closed: %s", problem)

    def _sweep(self) -> None:
        for result in self._stale:
            try:
                n = result.sweep()
            except Exception as error:  # whoever writes there will be told
                _log.debug("%r could not be swept: %s", result, error)
                continue
            if n:
                _log.info("%d files that writers had left in %r are removed", n, result.store)


def _is_swept(result: Result) -> bool:
    """Whether runs of this user have swept its store within the hour; if not, this one does, and that is noted."""
    try:
        name = hashlib.sha256(repr(result.store).encode()).hexdigest()[:16]
    except Exception:  # of a store of the user's own kind
        return False
    mark = data_directory() / "swept" / name
    with suppress(OSError):  # where nothing can be noted, each run sweeps
        if 0 <= time.time() - mark.stat().st_mtime < SWEEP_S:
            return True
    with suppress(OSError):
        mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in mark.parent.iterdir():
            if time.time() - each.stat().st_mtime >= SWEEP_S:
                each.unlink()
        mark.touch()
    return False


def _is_ours(node: FrozenNode) -> bool:
    """Whether it is a helper of this package's, such as an item of a value or a sum of two: these are made at once."""
    module = getattr(node.signature.function, "__module__", None) or ""
    return module.partition(".")[0] in ("anabranch", "_operator", "operator")

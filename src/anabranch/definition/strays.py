"""Tasks that were made in the block of a flow, of which no node was made by its end.

Those that are bound to their arguments are called then. Of the others it is likely that a call was forgotten.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from anabranch.definition import scope
from anabranch.definition.graph import Graph
from anabranch.definition.scope import Scope
from anabranch.definition.stowaways import find_stowaway


def note(task: Any) -> None:
    """Remember a task that is made now, if a flow is open."""
    around = scope.current()
    if around.made is not None:
        around.made.append((task, around))


def call_bound(made: Sequence[tuple[Any, Scope]], graph: Graph) -> None:
    """Call the bound tasks among those that were made, under the conditions that were open when they were bound."""
    for task, around in made:
        is_complete = not task._anabranch.signature.missing(task._anabranch.fixed)
        if (
            task._anabranch.is_unused
            and is_complete
            and around.members is None
            and not _is_used_by_functions(task, graph)
        ):
            with scope.reopened(around):
                task._call((), {}, around.graphs)


def warn(made: Sequence[tuple[Any, Scope]], graph: Graph) -> None:
    """Warn of tasks that are not in the graph."""
    for task, _ in made:
        if (task._anabranch.is_unused or not task._anabranch.called_in) and not _is_used_by_functions(task, graph):
            verb = "bound" if task._anabranch.is_unused else "made"
            missing = ", ".join(f"{name}=…" for name in task._anabranch.signature.missing(task._anabranch.fixed))
            warnings.warn_explicit(
                f"task {task.name!r} was {verb} in the block of flow {graph.name!r} and never called there, so that it "
                f"is not in the flow: call what was {verb}, …({missing})",
                UserWarning,
                task._anabranch.where.file,
                task._anabranch.where.line,
            )


def _is_used_by_functions(task: Any, graph: Graph) -> bool:
    """Whether a task of a graph may call another while it runs."""
    functions = {id(node.signature.function): node.signature.function for node in graph}
    return any(find_stowaway(each, lambda found: found is task) is not None for each in functions.values())

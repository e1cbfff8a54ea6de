"""Whether and where values of deferred calls are stored: as in the flow's block, or as their callers' are."""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anabranch.base.errors import OptionError
from anabranch.definition.frozen import FrozenNode
from anabranch.engine.units.units import Program

if TYPE_CHECKING:
    from anabranch.definition.storing import Storing


def choose_storing(
    storing: Storing | None, name: str, inputs: Collection[str], caller: FrozenNode, program: Program, *, is_many: bool
) -> Storing | None:
    """What is to be done with the values of calls to a task; None if nothing is.

    Parameters
    ----------
    storing
        What the task says of its values.
    inputs
        Names of the arguments.
    is_many
        Whether there may be several calls.

    Raises
    ------
    OptionError
        It cannot be done so, for reasons that a flow would give before it is run.
    """
    near, calls = caller.policies.storing, program.calls
    if calls.is_off:
        return None
    result = near.result if near is not None else calls.result
    if storing is None and result is None and not calls.checkpointing:
        return None
    from anabranch.definition.storing import completed, find_storing_problems  # which few flows need

    def by_default() -> Any:  # a Result, which is loaded where one is needed
        if calls.host != socket.gethostname():
            raise OptionError(
                f"{name}, which {caller.name} calls, is to store its values, and no result says where; this is not the "
                f"machine of the driver, which would not find them: give {name}, {caller.name} or the flow a result=…"
            )
        from anabranch.results.local import LocalResult

        return LocalResult(calls.directory)

    found = completed(storing, flow_result=result, checkpointing=calls.checkpointing, default=by_default)
    if found is None:
        return None
    if calls.only_in and found.result is not None:
        from anabranch.results.local import kept_in

        found = replace(found, result=kept_in(calls.only_in, found.result))
    mapped = inputs if is_many or "map_index" in found.template.fields else None
    problems = find_storing_problems(found, inputs=inputs, parameters=program.run.parameters, mapped=mapped)
    if problem := next(problems, ""):
        raise OptionError(f"{name}, which {caller.name} calls: {problem}")
    return found


def storing_to_read(storing: Storing) -> Storing:
    """What a driver needs to find values: it must not need code of the user's."""
    return type(storing)(result=storing.result)


def with_code(node: FrozenNode, program: Program) -> FrozenNode:
    """The node of calls with what is known of its code here and now, if there is a key that it is part of."""
    storing = node.policies.storing
    if storing is None:
        return node
    from anabranch.definition.storing import describe_code_of

    storing = replace(describe_code_of(node, storing), is_resumed=program.calls.is_resumed)
    return replace(node, policies=replace(node.policies, storing=storing))

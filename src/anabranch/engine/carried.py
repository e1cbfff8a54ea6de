"""Lists some of whose elements have a state and no value: what `flatten` and a list of nodes are mapped over as."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.bindings import Build, Ref, evaluate
from anabranch.engine.units import Outcome
from anabranch.frozen import FrozenNode
from anabranch.states import Counts, Failed, State, Success, tally


@dataclass(frozen=True, slots=True)
class Carried:
    """Stands in a list for an element that failed or was skipped."""

    outcome: Outcome


def carry(outcome: Outcome) -> Any:
    """The value of an outcome, or what stands for it in a list if it has none."""
    state = outcome.state
    return outcome.value if state.is_successful() and not state.is_skipped() else Carried(outcome)


def uncarried(values: Iterable[Any]) -> list[Any]:
    """A list for a task that takes it whole: the exception of a failed element, None for a skipped one."""
    return [value.outcome.value if isinstance(value, Carried) else value for value in values]


def outcome_at(values: Sequence[Any], position: int, state: State) -> Outcome:
    """State and value of one element of a list; `state` is that of the ordinary ones."""
    value = values[position]
    return value.outcome if isinstance(value, Carried) else Outcome(state, value)


def gather_parts(node: FrozenNode, upstreams: Mapping[str, Outcome]) -> list[Any]:
    """The list of a ``collect`` node: the parts it was written with, in their order."""
    expression = node.arguments["parts"]
    parts = expression.parts if isinstance(expression, Build) else (expression,)
    plain = {slug: outcome.value for slug, outcome in upstreams.items()}
    return [carry(upstreams[part.node]) if isinstance(part, Ref) else evaluate(part, plain) for part in parts]


def flat(elements: Iterable[Any]) -> list[Any]:
    """One level of nesting less; what is not a list, or carries a state, counts as one element."""
    result: list[Any] = []
    for element in elements:
        if isinstance(element, (list, tuple, range)) or (
            hasattr(element, "tolist") and getattr(element, "ndim", 0) > 0
        ):
            result.extend(element)
        else:
            result.append(element)
    return result


def counted(values: Sequence[Any]) -> State | None:
    """The state of a list some of whose elements carry states, with its counts; None if none does."""
    states = [value.outcome.state for value in values if isinstance(value, Carried)]
    if not states:
        return None
    plain = len(values) - len(states)
    counts = tally(states) + Counts(plain, plain)
    first = next((state for state in states if not state.is_successful()), None)
    failure = first.failure if first is not None else None
    cls = Failed if counts.failed else Success
    return cls(message=str(counts), counts=counts, failure=failure)

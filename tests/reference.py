"""What a flow means, in the plainest way there is: one node after the other, one element after the other.

It shares no code with the engine and derives triggers and skips from the sentences of the design itself, so that an
engine that is fast, parallel and wrong is found out. It knows nothing of chunks, workers, losses and times.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, TypeAlias

from anabranch import signals, states, triggers
from anabranch.base import context
from anabranch.base.context import RunInfo, TaskContext
from anabranch.definition.deferred import DeferredCall, DeferredMap
from anabranch.definition.expressions import Const, evaluate
from anabranch.definition.frozen import Edge, FrozenGraph, FrozenNode
from anabranch.errors import TaskFailure, UnmappableError, UpstreamFailure, WidthError, WorkerLost

FAILED = frozenset({"Failed", "TimedOut", "TriggerFailed", "ValidationFailed", "Crashed", "Cancelled"})
COLLECTIONS = ("flatten", "collect")


@dataclass(frozen=True)
class Run:
    """How a node or an element ended: its state's name and its value.

    The value of what failed is its exception, of what was skipped None, of a map the list of its elements' values.
    """

    state: str
    value: Any = None
    elements: tuple[Run, ...] | None = None
    """Of a map that has elements, and of a list that carries states: what there is to map over."""


@dataclass(frozen=True)
class Counts:
    """How the upstream task runs ended."""

    total: int
    skipped: int
    failed: int

    @property
    def successful(self) -> int:
        """Skipped ones are successes too."""
        return self.total - self.failed


Seen: TypeAlias = Sequence[tuple[Edge, Run]]


def interpret(
    graph: FrozenGraph,
    parameters: Mapping[str, Any],
    *,
    approved: frozenset[str] = frozenset(),
    crashed: frozenset[tuple[str, int | None]] = frozenset(),
    seen: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Run]:
    """How every node of a flow ends, by slug; `crashed` task runs (slug, index) end so instead of being run.

    Which elements a map leaves out that ends early is chance: it is as in `seen`, the names of elements' states by
    slug, if the map may end so.
    """
    interpreter = Interpreter(graph, parameters, approved, crashed, seen)
    for node in graph.nodes.values():
        interpreter.runs[node.slug] = interpreter.end_of(node)
    return interpreter.runs


class Interpreter:
    """The runs so far; nodes come in topological order."""

    def __init__(
        self,
        graph: FrozenGraph,
        parameters: Mapping[str, Any],
        approved: frozenset[str],
        crashed: frozenset[tuple[str, int | None]],
        seen: Mapping[str, Sequence[str]],
    ) -> None:
        self.parameters = parameters
        self.seen = seen
        self.approved = approved
        self.crashed = crashed
        self.runs: dict[str, Run] = {}
        self.info = RunInfo("reference", "reference")

    def end_of(self, node: FrozenNode) -> Run:
        """How a node ends."""
        if node.kind == "parameter":
            return Run("Success", self.parameters[node.slug])
        seen = [(edge, self.runs[edge.upstream]) for edge in node.edges]
        if node.is_map:
            return self.end_of_map(node, seen)
        arguments = lambda: {name: evaluate(each, self._values()) for name, each in node.arguments.items()}  # noqa: E731
        return self.end_of_one(node, seen, arguments, None)

    def end_of_one(
        self, node: FrozenNode, seen: Seen, arguments: Callable[[], dict[str, Any]], index: int | None
    ) -> Run:
        """How a single node, or one element, ends."""
        if (node.slug, index) in self.crashed:
            return Run("Crashed", WorkerLost())
        refused = verdict(node, seen, is_approved=node.slug in self.approved)
        if refused is not None:
            return refused
        if node.kind in COLLECTIONS:
            return self._list_of(node)
        if node.kind == "merge":
            return Run("Success", next((value for value in arguments().values() if value is not None), None))
        return self._call(node, arguments, index)

    # Maps -------------------------------------------------------------------------------------------------------------

    def end_of_map(self, node: FrozenNode, seen: Seen) -> Run:
        """How a map ends: as a whole, or element by element."""
        whole = [(edge, run) for edge, run in seen if not edge.mapped]
        sources = {edge.upstream: run for edge, run in seen if edge.mapped}
        plain = [run for run in sources.values() if run.elements is None]
        if any(edge.kind == "gate" and run.state == "Skipped" for edge, run in whole):
            return Run("Skipped")
        if any(run.state in FAILED for run in plain):
            return Run("TriggerFailed", UpstreamFailure())
        if is_skipped_by(node, whole) or any(run.state == "Skipped" for run in plain):
            return Run("Skipped")
        if any(not isinstance(run.value, (list, tuple, range)) for run in plain):
            return Run("Failed", UnmappableError())
        columns = {slug: elements_of(run) for slug, run in sources.items()}
        constants = {n: node.arguments[n].value for n in node.mapped if isinstance(node.arguments[n], Const)}
        widths = {len(column) for column in (*columns.values(), *constants.values())}
        if len(widths) > 1:
            return Run("Failed", WidthError())
        runs = tuple(self._element(node, seen, columns, constants, index) for index in range(widths.pop()))
        runs = left_out(node, runs, self.seen.get(node.slug, ()))
        values = [run.value for run in runs]
        failed, least = sum(run.state in FAILED for run in runs), node.policies.min_success
        if (
            least is not None
            and any(run.state == "Success" for run in runs)
            and len(runs) - failed >= least * len(runs)
        ):
            return Run("Mapped", values, runs)
        if failed:
            return Run("Failed", values, runs)
        if runs and all(run.state == "Skipped" for run in runs):
            return Run("Skipped", values, runs)
        return Run("Mapped", values, runs)

    def _element(
        self,
        node: FrozenNode,
        seen: Seen,
        columns: Mapping[str, Sequence[Run]],
        constants: Mapping[str, Sequence[Any]],
        index: int,
    ) -> Run:
        own = [(edge, columns[edge.upstream][index] if edge.mapped else run) for edge, run in seen]

        def arguments() -> dict[str, Any]:
            there = {slug: column[index].value for slug, column in columns.items()}
            given = {}
            for name, expression in node.arguments.items():
                if name in constants:
                    given[name] = constants[name][index]
                else:
                    given[name] = evaluate(expression, there if name in node.mapped else self._values())
            return given

        return self.end_of_one(node, own, arguments, index)

    # Values -----------------------------------------------------------------------------------------------------------

    def _values(self) -> dict[str, Any]:
        return {slug: run.value for slug, run in self.runs.items()}

    def _list_of(self, node: FrozenNode) -> Run:
        """The list of a `flatten` or `collect` node: parts that failed or were skipped are in it with their states."""
        expression = node.arguments["parts"]
        if node.kind == "collect":
            parts = getattr(expression, "parts", (expression,))
            found = [
                carried(self.runs[p.node]) if hasattr(p, "node") else Run("Success", evaluate(p, self._values()))
                for p in parts
            ]
        elif isinstance(expression, Const):
            found = list(flat(elements_of(Run("Success", expression.value))))
        else:
            (upstream,) = (self.runs[edge.upstream] for edge in node.edges if edge.key == "parts")
            if upstream.elements is None and (upstream.state in FAILED or upstream.state == "Skipped"):
                return upstream
            if upstream.elements is None and not isinstance(upstream.value, (list, tuple, range)):
                return Run("Failed", UnmappableError())
            found = list(flat(elements_of(upstream)))
        state = "Failed" if any(run.state in FAILED for run in found) else "Success"
        return Run(state, [run.value for run in found], tuple(found))

    def _call(self, node: FrozenNode, arguments: Callable[[], dict[str, Any]], index: int | None) -> Run:
        """Attempts and rounds of a loop until one ends for good. Each attempt sees the arguments as they were."""
        attempt, asked, loop_round, carried = 1, 0, 1, None
        retries = node.policies.retry.max_retries
        while True:
            ctx = TaskContext(self.info, node.name, node.slug, map_index=index, task_run_count=attempt)
            ctx.task_loop_count, ctx.task_loop_result = loop_round, carried
            try:
                given = arguments() if not retries else copy.deepcopy(arguments())
                args, kwargs = node.signature.split(given)
                with context.entered(ctx):
                    value = node.signature.function(*args, **kwargs)
                    value = list(value) if isinstance(value, Iterator) else value
                    return Called(self).value_of(node, value) if calls_in(value) else Run("Success", value)
            except signals.LOOP as loop:
                if calls_in(loop.result):
                    return Called(self).value_of(node, loop.result)
                attempt, asked, loop_round, carried = 1, 0, loop_round + 1, loop.result
            except signals.RETRY:
                attempt, asked = attempt + 1, asked + 1
            except BaseException as error:
                if isinstance(error, signals.Signal) and not isinstance(error, signals.FAIL):
                    return ended_by(error)
                if attempt - asked > retries:
                    return Run("Failed", error)
                attempt += 1


class Called:
    """The deferred calls of one task run: each is run once, when it is asked for."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.runs: dict[int, Run] = {}

    def value_of(self, node: Any, value: Any) -> Run:
        """How a task run ends that returned a value with calls in it: all these together are upstream as one map."""
        runs: list[Run] = []
        for call in calls_in(value):
            run = self.run_of(call)
            runs += run.elements if isinstance(call, DeferredMap) and run.elements is not None else [run]
        edge = Edge("calls", node.slug, "data", "calls", mapped=True)
        refused = verdict(node, [(edge, as_map(runs))], is_approved=True)
        return refused or Run("Success", replaced(value, lambda call: self.run_of(call).value))

    def run_of(self, call: Any) -> Run:
        """How a call, or a map, ends."""
        if id(call) not in self.runs:
            if isinstance(call, DeferredMap):
                self.runs[id(call)] = as_map([self._end_of(call, position) for position in range(call.width)])
            else:
                self.runs[id(call)] = self._end_of(call, None)
        return self.runs[id(call)]

    def _end_of(self, call: Any, position: int | None) -> Run:
        seen: list[tuple[Edge, Run]] = []
        given: dict[str, Any] = {}
        seen += [(_edge(each, call.name, None), self.run_of(each)) for each in call.upstreams]
        for name, value in call.arguments.items():
            if position is not None and name in call.elementwise:
                if isinstance(value, DeferredMap):
                    run = elements_of(self.run_of(value))[position]
                    seen.append((Edge(f"{id(value)}[{position}]", call.name, "data", name, mapped=True), run))
                    given[name] = run.value
                    continue
                value = value[position]
            seen += [(_edge(each, call.name, name), self.run_of(each)) for each in calls_in(value)]
            given[name] = replaced(value, lambda each: self.run_of(each).value)
        node = SimpleNamespace(
            slug=call.name, name=call.name, kind="task", policies=call.policies, signature=call.signature
        )
        return self.interpreter.end_of_one(node, seen, lambda: given, None)  # type: ignore[arg-type]  # looks like one


def _edge(call: Any, to: str, key: str | None) -> Edge:
    return Edge(f"{id(call)}", to, "data" if key is not None else "order", key, mapped=True)


def as_map(runs: Sequence[Run]) -> Run:
    """Runs as one map."""
    values = [run.value for run in runs]
    if any(run.state in FAILED for run in runs):
        return Run("Failed", values, tuple(runs))
    if runs and all(run.state == "Skipped" for run in runs):
        return Run("Skipped", values, tuple(runs))
    return Run("Mapped", values, tuple(runs))


def calls_in(value: Any) -> list[Any]:
    """The deferred calls in a value, each as often as it is there."""
    if isinstance(value, DeferredCall):
        return [value]
    if isinstance(value, (list, tuple)):
        return [call for each in value for call in calls_in(each)]
    return []


def replaced(value: Any, found: Callable[[Any], Any]) -> Any:
    """A value with something else in place of each call."""
    if isinstance(value, DeferredCall):
        return found(value)
    if isinstance(value, (list, tuple)):
        return type(value)(replaced(each, found) for each in value)
    return value


def ended_by(signal: signals.Signal) -> Run:
    """How a task run ends that raised a signal."""
    state = signal.state
    if state.name in FAILED:
        return Run(state.name, signal)
    return Run(state.name, None if state.name == "Skipped" else state.result)


def left_out(node: FrozenNode, runs: tuple[Run, ...], seen: Sequence[str]) -> tuple[Run, ...]:
    """Elements of a map of which some did not run, as it had enough, or could not have it any more."""
    policies = node.policies
    word = "Skipped" if policies.min_success is None else "Cancelled"
    ended = tuple(
        Run(word, None if word == "Skipped" else TaskFailure()) if state == word else run
        for run, state in zip(runs, seen, strict=False)
    )
    successful = [run.value for run in ended if run.state == "Success"]
    may_end = (
        (policies.first_n is not None and len(successful) >= policies.first_n)
        or (policies.stop_when is not None and any(map(policies.stop_when, successful)))
        or (
            policies.min_success is not None
            and sum(run.state in FAILED for run in ended if run.state != word) > (1 - policies.min_success) * len(runs)
        )
    )
    return ended + runs[len(ended) :] if may_end else runs


def elements_of(run: Run) -> Sequence[Run]:
    """What a map sees one by one: elements with their states, or the values of a plain list."""
    return run.elements if run.elements is not None else [Run("Success", value) for value in run.value]


def carried(run: Run) -> Run:
    """A node as a part of a list: a value if it succeeded, otherwise something that keeps its state."""
    return run if run.state in FAILED or run.state == "Skipped" else Run("Success", run.value)


def flat(runs: Sequence[Run]) -> Iterator[Run]:
    """One level of nesting less; what is not a list, or has no value, counts as one element."""
    for run in runs:
        if run.state not in FAILED and isinstance(run.value, (list, tuple, range)):
            yield from (Run("Success", value) for value in run.value)
        else:
            yield run


# Upstream states ------------------------------------------------------------------------------------------------------


def verdict(node: FrozenNode, seen: Seen, *, is_approved: bool) -> Run | None:
    """How a task run ends that its upstreams do not let run; None if they do.

    "A closed gate skips, always. Otherwise, if any upstream failed, the trigger decides; if none did, the skip rule
    comes first, then the trigger."
    """
    if any(edge.kind == "gate" and run.state == "Skipped" for edge, run in seen) or is_skipped_by(node, seen):
        return Run("Skipped")
    trigger, counts = node.policies.trigger, counted(seen)
    if trigger is triggers.manual_only:
        return None if is_approved else Run("Paused")
    if trigger is triggers.not_all_skipped and not counts.failed and counts.skipped == counts.total:
        return Run("Skipped")
    return None if holds(trigger, seen, counts) else Run("TriggerFailed", UpstreamFailure())


def is_skipped_by(node: FrozenNode, seen: Seen) -> bool:
    """The skip rule: "Skipped if a data or gate upstream was skipped, or if all its order upstreams (≥ 1) were"."""
    if not node.policies.skip_on_upstream_skip or counted(seen).failed:
        return False
    skipped = {
        kind: [run.state == "Skipped" for edge, run in seen if edge.kind == kind] for kind in ("data", "gate", "order")
    }
    return any(skipped["data"]) or any(skipped["gate"]) or (bool(skipped["order"]) and all(skipped["order"]))


def counted(seen: Seen) -> Counts:
    """A plain node counts once, whatever its edges; a map, and a list that carries states, as their elements.

    What an element takes from a map, and the map as a whole, are two.
    """
    by_node = {(edge.upstream, edge.mapped): run for edge, run in seen}
    found: list[str] = []
    for run in by_node.values():
        as_elements = run.elements and (run.state == "Mapped" or any(each.state != "Success" for each in run.elements))
        bears = run.state == "Mapped"  # a map that bears some failures has succeeded
        each_of = run.elements if as_elements and run.elements else (run,)
        found += ["Skipped" if bears and each.state in FAILED else each.state for each in each_of]
    return Counts(len(found), found.count("Skipped"), sum(state in FAILED for state in found))


def holds(trigger: Any, seen: Seen, counts: Counts) -> bool:
    """Whether a trigger lets a task run; one that raises does not."""
    plain: dict[Any, Callable[[Counts], bool]] = {
        triggers.all_successful: lambda c: c.failed == 0,
        triggers.none_failed: lambda c: c.failed == 0,
        triggers.not_all_skipped: lambda c: c.failed == 0,
        triggers.all_failed: lambda c: c.failed == c.total,
        triggers.any_successful: lambda c: c.successful > 0 or c.total == 0,
        triggers.any_failed: lambda c: c.failed > 0 or c.total == 0,
        triggers.all_finished: lambda c: True,
    }
    if trigger in plain:
        return plain[trigger](counts)
    if type(trigger) is type(triggers.some_failed()):
        found = counts.failed if trigger.name == "some_failed" else counts.successful
        low, high = (
            b * counts.total if b is not None and 0 < b < 1 else b for b in (trigger.at_least, trigger.at_most)
        )
        return counts.total == 0 or ((low is None or found >= low) and (high is None or found <= high))
    try:
        return bool(trigger({(e.upstream, e.kind, e.key, e.mapped): getattr(states, run.state)() for e, run in seen}))
    except Exception:
        return False

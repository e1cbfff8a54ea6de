"""Flows as data: descriptions that Hypothesis can draw and shrink, and what makes a `Flow` of one.

A reference to a node is any whole number; it is taken modulo the nodes that there are, so that every description is a
flow.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from anabranch import (
    Flow,
    Parameter,
    Task,
    case,
    context,
    flatten,
    ifelse,
    merge,
    signals,
    states,
    task,
    triggers,
    unmapped,
)
from anabranch.definition import scope
from anabranch.definition.branching import Switch as SwitchBlock
from anabranch.definition.caching import inputs
from anabranch.definition.lookup import home_of
from anabranch.definition.mapping import apply_map
from anabranch.definition.node import Node
from anabranch.errors import ResultReleased
from anabranch.flows.stream import StreamedState
from anabranch.results import Result
from anabranch.runs.view import FlowRunView

# What tasks do --------------------------------------------------------------------------------------------------------


class Trouble(Exception):
    """An exception whose constructor takes more than its text."""

    def __init__(self, what: int, where: int) -> None:
        super().__init__(f"{what} at {where}")
        self.what = what
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return Trouble, (self.what, self.where)


def shown(value: Any) -> Any:
    """A value in a form that can be compared: an exception is the name of its class."""
    if isinstance(value, BaseException):
        return f"!{type(value).__name__}"
    if isinstance(value, (list, tuple)):
        return [shown(each) for each in value]
    return value


def _raise(error: BaseException) -> Any:
    raise error


def _until(attempt: int, n: int, error: BaseException) -> int:
    return n if context.task_run_count >= attempt else _raise(error)


def _looped(n: int, *, retried: bool) -> int:
    """Three rounds that count up; with `retried`, the first attempt of each fails."""
    if retried and context.task_run_count == 1:
        raise ValueError("first attempt of a round")
    so_far, count = context.task_loop_result or 0, context.task_loop_count
    if count < 3:
        raise signals.LOOP(result=so_far + 1000 * count)
    return n + so_far + 10_000 * count


def _mutated(n: int, given: Sequence[Any]) -> int:
    """Fails once, having spoilt its arguments; a second attempt that sees that gives another value."""
    spoilt = sum(len(each) for each in given if isinstance(each, list))
    for each in given:
        if isinstance(each, list):
            each.append(-1)
    return n + 1000 * spoilt if context.task_run_count > 1 else _raise(ValueError("once"))


ACTS: dict[str, Callable[[int, Sequence[Any]], Any]] = {
    "number": lambda n, given: n,
    "small": lambda n, given: n % 3,
    "none": lambda n, given: None,
    "text": lambda n, given: "abc",
    "list": lambda n, given: list(range(n, n + n % 5)),
    "long list": lambda n, given: list(range(n, n + 30)),
    "nested": lambda n, given: [[n], n + 1, [], (n + 2, [n + 3])][: n % 5],
    "iterator": lambda n, given: iter([n, n + 1]),
    "exception as value": lambda n, given: KeyError(n),
    "fail": lambda n, given: _raise(ValueError(n)),
    "trouble": lambda n, given: _raise(Trouble(n, n)),
    "exit": lambda n, given: _raise(SystemExit(n)),
    "FAIL": lambda n, given: _raise(signals.FAIL("asked for")),
    "SKIP": lambda n, given: _raise(signals.SKIP()),
    "SUCCESS": lambda n, given: _raise(signals.SUCCESS(result=n)),
    "CANCEL": lambda n, given: _raise(signals.CANCEL()),
    "TRIGGERFAIL": lambda n, given: _raise(signals.TRIGGERFAIL()),
    "VALIDATIONFAIL": lambda n, given: _raise(signals.VALIDATIONFAIL()),
    "ENDRUN(Success)": lambda n, given: _raise(signals.ENDRUN(states.Success(result=n))),
    "ENDRUN(Skipped)": lambda n, given: _raise(signals.ENDRUN(states.Skipped())),
    "ENDRUN(Failed)": lambda n, given: _raise(signals.ENDRUN(states.Failed())),
    "second attempt": lambda n, given: _until(2, n, ValueError(n)),
    "third attempt": lambda n, given: _until(3, n, ValueError(n)),
    "RETRY": lambda n, given: _until(2, n, signals.RETRY()),
    "LOOP": lambda n, given: _looped(n, retried=False),
    "LOOP, each round twice": lambda n, given: _looped(n, retried=True),
    "mutate": _mutated,
}
# Tasks that tasks call. What they give does not depend on where they stand among their caller's calls.
INNER = task(lambda n, *rest: n * 7 % 101 if isinstance(n, int) else len(str(shown(n))) % 5, name="inner")
FRAGILE = task(
    lambda n: _raise(ValueError(n)) if n % 5 == 0 else _raise(signals.SKIP()) if n % 5 == 1 else n, name="fragile"
)
LISTER = task(lambda n: list(range(n, n + n % 4)), name="lister")
JOIN = task(lambda xs: [shown(x) for x in xs], name="join")
LENIENT = task(lambda xs: [shown(x) for x in xs], name="lenient", trigger=triggers.all_finished)
RETRIED = task(lambda n: _until(2, n, ValueError(n)), name="retried", max_retries=1, retry_delay=0)


def _grow(depth: int, n: int) -> Any:
    """Calls that call on, four deep."""
    if depth >= 4 or n % 4 == 0:
        return n
    below = [GROW(depth + 1, n // 2 + i) for i in range(n % 3)]
    return [below, FRAGILE(n + 2), n] if n % 2 else (below, INNER(n))


GROW = task(_grow, name="grow")
PATIENT = task(lambda n: [FRAGILE(n + i) for i in range(4)], name="patient", trigger=triggers.all_finished)

ACTS.update(
    {
        "defer": lambda n, given: INNER(n, given),
        "defer a list": lambda n, given: [INNER(n + i) for i in range(n % 4)],
        "defer what fails": lambda n, given: [FRAGILE(n + i) for i in range(n % 5)],
        "defer what fails, and bear it": lambda n, given: [PATIENT(n), INNER(PATIENT(n))],
        "defer what is retried": lambda n, given: (RETRIED(n), RETRIED(n + 1)),
        "defer a chain": lambda n, given: INNER(INNER(INNER(n)), INNER(n)),
        "defer a join": lambda n, given: JOIN([FRAGILE(n + i) for i in range(n % 4)]),
        "defer a lenient join": lambda n, given: LENIENT([FRAGILE(n), n, FRAGILE(n + 1)]),
        "defer a map": lambda n, given: INNER.map(list(range(n, n + n % 4))),
        "defer a join of a map": lambda n, given: [JOIN(FRAGILE.map([n, n + 2])), LENIENT(FRAGILE.map(range(n % 3)))],
        "defer maps over maps": lambda n, given: INNER.map(FRAGILE.map([n, n + 1, n + 2]), unmapped(given)),
        "defer a map over a call": lambda n, given: [INNER.map(LISTER(n)), INNER.map(flatten([[n], [1, 2]]))],
        "defer in a nest": lambda n, given: [[INNER(n)], given[1], (FRAGILE(n + 2), [INNER(given)]), []],
        "defer what defers": lambda n, given: GROW(0, n),
        "defer in order": lambda n, given: INNER(n, upstream_tasks=[FRAGILE(n)]),
        "defer the same twice": lambda n, given: [(call := FRAGILE(n)), INNER(call, call), call],
        "defer operators": lambda n, given: [INNER(n) + 1, INNER.map([n, 2]) * 2, LISTER(4 * n + 1)[0]],
        "defer in LOOP": lambda n, given: _raise(signals.LOOP(result=[INNER(n), FRAGILE(n)])),
    }
)
DEFERRING = tuple(act for act in ACTS if act.startswith("defer"))
NEEDS_RETRIES = ("LOOP, each round twice", "mutate")
"""Acts that make sense for a task with retries only: without, nobody promises copies."""


@dataclass(frozen=True)
class Behaviour:
    """The function of a task: which of its acts it does, and what comes of it, follows from its arguments."""

    acts: tuple[str, ...]
    salt: int = 0
    is_pure: bool = False
    """Whether the same arguments give the same value, whichever element they are of."""

    def __call__(self, a: Any = None, b: Any = None, c: Any = None) -> Any:
        given = (a, b, c)
        n = zlib.crc32(repr((self.salt, shown(given))).encode()) % 997
        act = ACTS[self.acts[n % len(self.acts)]]
        return act(n + (0 if self.is_pure else (context.map_index or 0) * 1009), given)


def is_even(value: Any) -> bool:
    """A predicate for cases; what is no number raises."""
    return value % 2 == 0


def is_third(value: Any) -> bool:
    """A predicate for any value."""
    return isinstance(value, int) and value % 3 == 0


def weight(value: Any) -> int:
    """A number that says something of all that is in a value; of a list, the sum: it may be made of parts."""
    if isinstance(value, (list, tuple)):
        return sum(map(weight, value))
    return value if isinstance(value, int) else len(str(shown(value)))


ENDS: dict[str, dict[str, Any]] = {
    "": {},
    "first 2": {"first_n": 2},
    "first third": {"stop_when": is_third},
    "half": {"min_success": 0.5},
}
"""How a map may end early."""
LIMIT = "desk"
"""The limit that tasks share."""


def _fits(value: Any, inputs: Any, parameters: Any) -> bool:
    """A validator that refuses some values."""
    return bool(weight(value) % 3)


STORED: dict[str, dict[str, Any]] = {
    "": {},
    "at a target": {"target": "targets/{task_name}"},
    "at targets": {"target": "targets/{task_name}-{map_index}"},
    "in a cache": {"cache_key": inputs},
    "in a cache, for a while": {"cache_key": inputs, "cache_for": 4.0},
    "in a cache, if valid": {"cache_key": inputs, "cache_validator": _fits},
}
"""How a task's value may be stored where other task runs look for it; those of a cache are of pure tasks."""


def not_one_failed(upstreams: Any) -> bool:
    """A trigger of a user's."""
    return sum(state.is_failed() for state in upstreams.values()) != 1


def broken(upstreams: Any) -> bool:
    """A trigger that raises."""
    raise ZeroDivisionError


TRIGGERS: dict[str, Any] = {
    "all_successful": triggers.all_successful,
    "all_failed": triggers.all_failed,
    "any_successful": triggers.any_successful,
    "any_failed": triggers.any_failed,
    "all_finished": triggers.all_finished,
    "none_failed": triggers.none_failed,
    "not_all_skipped": triggers.not_all_skipped,
    "manual_only": triggers.manual_only,
    "some_failed(1, 2)": triggers.some_failed(at_least=1, at_most=2),
    "some_failed(at most half)": triggers.some_failed(at_most=0.5),
    "some_successful(2)": triggers.some_successful(at_least=2),
    "some_successful(half)": triggers.some_successful(at_least=0.5),
    "not_one_failed": not_one_failed,
    "broken": broken,
}


@dataclass(frozen=True)
class TaskSpec:
    """A task."""

    behaviour: Behaviour
    trigger: str = "all_successful"
    skip_on_upstream_skip: bool = True
    retries: int = 0
    delay_s: float = 0.0
    chunksize: int | str = "auto"
    ends: str = ""
    most: int = 0
    """How many may run at a time; 0: any number."""
    stored: str = ""

    def make(self, name: str, result: Result | None = None) -> Task[..., Any]:
        """The task itself; its value is stored in the result, if it is one of those that are."""
        options = ENDS[self.ends] | STORED[self.stored]
        if self.stored:
            options["result"] = result
        if self.retries:
            options |= {"max_retries": self.retries, "retry_delay": self.delay_s}
        if self.most:
            options["concurrency"] = {LIMIT: self.most}
        return task(
            self.behaviour,
            name=name,
            trigger=TRIGGERS[self.trigger],
            skip_on_upstream_skip=self.skip_on_upstream_skip,
            chunksize=self.chunksize,
            **options,
        )


# What a flow is made of -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ref:
    """A node written before."""

    n: int


@dataclass(frozen=True)
class Flat:
    """``flatten`` of a node."""

    n: int


@dataclass(frozen=True)
class Listed:
    """A list with nodes and numbers in it."""

    parts: tuple[Ref | int, ...]


Source: TypeAlias = Ref | Flat | Listed | tuple[int, ...] | int


@dataclass(frozen=True)
class Whole:
    """An argument of a map that is not mapped over."""

    source: Source


@dataclass(frozen=True)
class Given:
    """A parameter of the flow."""

    value: Any


@dataclass(frozen=True)
class Call:
    """A single task, run after some others."""

    task: TaskSpec
    arguments: tuple[Source, ...] = ()
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Map:
    """A mapped task: over `over`, with the rest as it is."""

    task: TaskSpec
    over: Source
    rest: tuple[Source | Whole, ...] = ()
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reduced:
    """A task that takes a whole map, and may do so chunk by chunk."""

    of: int
    trigger: str = "all_successful"


@dataclass(frozen=True)
class Merge:
    """``merge`` of nodes."""

    branches: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A block under one condition."""

    condition: int
    value: Any
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Switch:
    """A block of branches under 0, 1, …, and perhaps a default."""

    condition: int
    bodies: tuple[tuple[Statement, ...], ...]
    default: tuple[Statement, ...] | None = None


@dataclass(frozen=True)
class IfElse:
    """Two tasks of which one is run, and their merge."""

    condition: int
    if_true: Call
    if_false: Call


@dataclass(frozen=True)
class ApplyMap:
    """A block that is run for each element."""

    over: tuple[Source | Whole, ...]
    body: tuple[Statement, ...]


Statement: TypeAlias = Given | Call | Map | Reduced | Merge | Case | Switch | IfElse | ApplyMap


def build(statements: Sequence[Statement], name: str = "drawn", *, result: Result | None = None) -> Flow:
    """The flow that is described; values that are shared are stored in the result."""
    with Flow(name) as flow:
        builder = Builder(result)
        builder.write(statements)
    return flow


def approved(flow: Flow) -> list[Node]:
    """The nodes that run with an approval only: they have it."""
    return [node for node in flow.tasks if node.policies.trigger is triggers.manual_only]


class Builder:
    """The nodes written so far."""

    def __init__(self, result: Result | None = None) -> None:
        self.nodes: list[Any] = []
        self._result = result
        self._names: Iterator[int] = iter(range(10**6))
        self._switched: list[Any] = []

    def write(self, statements: Sequence[Statement]) -> None:
        """Write statements into the open flow."""
        for statement in statements:
            self._write(statement)

    def _write(self, statement: Statement) -> None:
        match statement:
            case Given(value):
                self.nodes.append(Parameter(f"p{next(self._names)}", default=value))
            case Call(spec, arguments, after):
                made = self._task(spec)
                self.nodes.append(made(*map(self._argument, arguments[:3]), upstream_tasks=self._several(after)))
            case Map(spec, over, rest, after):
                self.nodes.append(self._map(spec, over, rest[:2], after))
            case Reduced(of, trigger):
                if self.nodes:
                    name = f"t{next(self._names)}"
                    self.nodes.append(task(weight, name=name, reduce=True, trigger=TRIGGERS[trigger])(self._node(of)))
            case Merge(branches):
                if found := self._several(branches):
                    self.nodes.append(merge(*found))
            case Case(condition, value, body):
                if self.nodes:
                    on = self._condition(condition, body)
                    # inside a `with Switch(on)`, a case of the same node would be one of its branches
                    with nullcontext() if on in self._switched else case(on, value):
                        self.write(body)
            case Switch(condition, bodies, default):
                if self.nodes and bodies:
                    self._switch(condition, bodies, default)
            case IfElse(condition, if_true, if_false):
                if self.nodes:
                    on = self._condition(condition, [if_true, if_false])
                    self.write([if_true, if_false])
                    ifelse(on, *self.nodes[-2:])
                    self.nodes.append(merge(*self.nodes[-2:]))
            case ApplyMap(over, body):
                self._apply_map(over, body)

    def _task(self, spec: TaskSpec) -> Any:
        return spec.make(f"t{next(self._names)}", self._result)

    def _node(self, n: int) -> Any:
        return self.nodes[n % len(self.nodes)]

    def _condition(self, n: int, *bodies: Sequence[Statement]) -> Any:
        """What decides over these bodies: of a map the width, where not all that it decides over is mapped."""
        on = self._node(n)
        runs_once = any(not isinstance(each, (Given, Map)) for body in bodies for each in body)
        if runs_once and scope.current().members is None and home_of(on).entry(on).is_map:
            return width(on)
        return on

    def _several(self, numbers: Sequence[int]) -> list[Any]:
        return list(dict.fromkeys(self._node(n) for n in numbers)) if self.nodes else []

    def _argument(self, source: Source) -> Any:
        match source:
            case Ref(n):
                return self._node(n) if self.nodes else n
            case Flat(n):
                return flatten(self._node(n)) if self.nodes else n
            case Listed(parts):
                return [self._argument(part) for part in parts]
            case tuple():
                return list(source)
        return source

    def _mapped(self, source: Source) -> Any:
        """Something to map over: in place of what a flow refuses while it is written, a list of it."""
        argument = self._argument(source)
        return [argument] if isinstance(argument, int) else argument

    def _map(self, spec: TaskSpec, over: Source, rest: Sequence[Source | Whole], after: Sequence[int]) -> Any:
        arguments = [self._mapped(over)]
        arguments += [unmapped(self._argument(r.source)) if isinstance(r, Whole) else self._mapped(r) for r in rest]
        lists = [each for each in arguments if isinstance(each, list)]
        for each in lists:  # lists of different widths are refused while the flow is written
            del each[min(map(len, lists)) :]
        return self._task(spec).map(*arguments, upstream_tasks=self._several(after))

    def _switch(
        self, condition: int, bodies: Sequence[Sequence[Statement]], default: Sequence[Statement] | None
    ) -> None:
        on = self._condition(condition, *bodies, default or ())
        self._switched.append(on)
        with SwitchBlock(on) as switch:
            for value, body in enumerate(bodies):
                with switch.case(value):
                    self.write(body)
            if default is not None:
                with switch.default():
                    self.write(default)
        self._switched.pop()

    def _apply_map(self, over: Sequence[Source | Whole], body: Sequence[Statement]) -> None:
        arguments = [unmapped(self._argument(o.source)) if isinstance(o, Whole) else self._mapped(o) for o in over]
        lists = [each for each in arguments if isinstance(each, list)]
        for each in lists:  # as in _map
            del each[min(map(len, lists)) :]
        if all(isinstance(each, unmapped) for each in arguments):
            return
        outside = list(self.nodes)

        def write_body(*elements: Any) -> None:
            self.nodes += [each for each in elements if isinstance(each, Node)]
            self.write(body)

        apply_map(write_body, *arguments)
        assert self.nodes[: len(outside)] == outside


@task
def width(values: list[Any]) -> int:
    """Number of elements."""
    return len(values)


# What came of it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A run in a form that can be compared, and that reads well where two differ."""

    state: str
    value: Any = None
    elements: tuple[Seen, ...] = ()


def seen_in(view: FlowRunView) -> dict[str, Seen]:
    """How every node of a run ended; a value that was not kept is seen as that."""
    found = {}
    for slug in view._whole.plan.graph.nodes:
        run = view.result[slug]
        elements = tuple(Seen(each.state.name, shown(_value(each))) for each in run.map_states)
        found[slug] = Seen(run.state.name, shown(_value(run)), elements)
    return found


def seen_streamed(states: Iterable[StreamedState]) -> dict[str, dict[int | None, Seen]]:
    """How the task runs of some nodes ended, as a stream gave them, each once."""
    found: dict[str, dict[int | None, Seen]] = {}
    for state in states:
        slug = state.node if isinstance(state.node, str) else state.node.slug
        assert state.map_index not in found.setdefault(slug, {}), f"{state!r} was given twice"
        found[slug][state.map_index] = Seen(state.state.name, shown(_value(state)))
    return found


def to_be_streamed(seen: Seen) -> dict[int | None, Seen]:
    """What a stream gives of a node that ended like this."""
    if seen.elements or (seen.state == "Mapped" and seen.value == shown([])):
        return {index: each for index, each in enumerate(seen.elements) if each.state not in ("Paused", "Pending")}
    return {None: seen} if seen.state not in ("Paused", "Pending") else {}


def _value(view: Any) -> Any:
    try:
        return view.result
    except ResultReleased as released:
        return released

"""Runs flows in tests: in this process, on a fake clock, with failures and replacements by task, element, attempt."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from anabranch.base import context
from anabranch.base.errors import OptionError, UnknownNodeError, listed, nearest
from anabranch.base.names import short
from anabranch.base.settings import config
from anabranch.base.where import caller
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.signature import Signature
from anabranch.engine.units.copies import is_immutable
from anabranch.engine.units.loops import run_call
from anabranch.executors.local import LocalExecutor
from anabranch.flows.subflows import run_in
from anabranch.testing.clock import FakeClock
from anabranch.testing.rules import Rule, choose, failing, replacing

if TYPE_CHECKING:
    from anabranch.flows.flow import Flow
    from anabranch.runs.view import FlowRunView

_NONE: Any = object()
_OWN_CODE = ("task", "cleanup")  # kinds of nodes whose function is the user's


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt of a task run in a `FlowTester`."""

    task: str
    """Slug of the node."""
    index: int | None
    """Index of the element; None outside of maps."""
    attempt: int
    """Number of the attempt, from 1."""
    arguments: Mapping[str, Any]
    """Arguments by name."""
    start: datetime
    """When it began, on the fake clock."""
    end: datetime
    """When it ended, on the fake clock."""
    error: BaseException | None = field(default=None, compare=False)
    """Exception or signal that it raised, if any."""
    changed: tuple[str, ...] = ()
    """Names of the arguments that it changed."""


class FlowTester:
    """Runs flows in this process, one task at a time, on a fake clock: an hour of retries takes milliseconds.

    Elements run in order, and the fake clock cuts the chunks, so each run is the same. Tasks with
    ``isolation="process"`` run in this process, too. Flows that run as tasks of others run on the same clock. Values,
    targets and caches are in a directory of the tester's, whatever results flows and tasks name; what is in memory, or
    below the system's temporary directory, stays there.

    Parameters
    ----------
    clock
        The clock of the runs; default: a new one.
    recorded
        Whether runs are recorded, in the run store of the settings, so that they can be resumed.

    Examples
    --------
    >>> from anabranch import Flow, task
    >>> @task(max_retries=3, retry_delay=600)
    ... def fetch() -> str:
    ...     return "page"
    >>> with Flow("pages") as flow:
    ...     page = fetch()
    >>> tester = FlowTester()
    >>> state = tester.fail(fetch, attempts=3, with_=ConnectionError).run(flow)
    >>> state.result[page].result, tester.clock.elapsed_s
    ('page', 1800.0)
    """

    def __init__(self, *, clock: FakeClock | None = None, recorded: bool = False) -> None:
        if clock is not None and not isinstance(clock, FakeClock):
            raise OptionError(f"FlowTester: clock= takes a FakeClock, found {short(clock)} ({caller()})")
        self.clock: FakeClock = clock if clock is not None else FakeClock()
        self.recorded = recorded
        self._failures: list[Rule] = []
        self._replacements: list[Rule] = []
        self._calls: list[tuple[FrozenNode, Call]] = []
        self._nodes: dict[str, FrozenNode] = {}
        self._values = os.path.join(_directory_of_values(), uuid4().hex)

    def fail(
        self,
        task: object,
        *,
        index: int | list[int] | range | None = None,
        attempts: int | list[int] | range | None = None,
        with_: type[BaseException] | BaseException = RuntimeError,
    ) -> FlowTester:
        """Let attempts of a task raise instead of calling its function. Of several rules for one attempt, the last
        wins.

        Parameters
        ----------
        task
            A task, a node, or a name. Calls of the task in running tasks are included.
        index
            Elements of a map; default: all.
        attempts
            The first attempts (2), or attempts with these numbers ([1, 3]); default: all.
        with_
            The exception, or its class. Signals are exceptions; KeyboardInterrupt means Ctrl-C.

        Raises
        ------
        OptionError
            An argument is of another kind.
        """
        self._failures.insert(0, failing(task, index, attempts, with_))
        return self

    def replace(self, task: object, *, by: Callable[..., Any] | None = None, returns: object = _NONE) -> FlowTester:
        """Let a task call another function with the same arguments, or return a fixed value.

        Retries, timeouts, triggers and the rest stay the same. Runs in which a task is replaced neither store values
        nor use stored ones: what a test makes up, and what is made of it, stays in the test.

        Parameters
        ----------
        task
            A task, a node, or a name.
        by
            The function.
        returns
            The value, which may be None, if there is no function.

        Raises
        ------
        OptionError
            An argument is of another kind.
        """
        if (by is None) == (returns is _NONE):
            found = "neither" if by is None else "both"
            raise OptionError(f"replace(): takes a function, by=, or a value, returns=; found {found} ({caller()})")
        self._replacements.insert(0, replacing(task, by, returns))
        return self

    def run(self, flow: Flow, parameters: Mapping[str, Any] | None = None, **options: Any) -> FlowRunView:
        """Run a flow with these parameters and options of `Flow.run`, in this process and on the fake clock.

        Raises
        ------
        OptionError
            It is not a flow, or an executor was given.
        UnknownNodeError
            The run does not have a task or element that should fail or be replaced.
        """
        if not callable(getattr(flow, "run", None)) or not hasattr(flow, "graph"):
            raise OptionError(f"FlowTester.run: expected a flow, found {short(flow)} ({caller()})")
        if "executor" in options:
            raise OptionError(
                f"FlowTester.run: tasks run in this process, found executor={short(options['executor'])} ({caller()}); "
                "use flow.run for a run elsewhere"
            )
        if options.get("resume") is not None and not self.recorded:
            raise OptionError(
                f"FlowTester.run: resume={short(options['resume'])} needs a run that was recorded, and this tester "
                f"records none ({caller()}); make it with FlowTester(recorded=True), as for the first run"
            )
        settings = {} if self.recorded else {"backend": "none"}
        with config.set(settings, results__only_in=config.results.only_in or self._values):
            view = flow.run(parameters, executor=_Executor(self), **options)
        for what, rules in (("fail", self._failures), ("replace", self._replacements)):
            for rule in rules:
                self._check(rule, what, flow.name)
                self._check_indices(rule, view)
        return view

    def _check_indices(self, rule: Rule, view: FlowRunView) -> None:
        """Refuse elements that a map of the run does not have; what other runs have inside it is not known."""
        if rule.indices is None:
            return
        meant = [run for run in view._whole.runs.values() if rule.chosen.fits(run.node)]
        maps = [run for run in meant if run.node.is_map]
        if not meant or any(run.elements is None for run in maps):  # how many there would have been nobody knows
            return
        width, most = (
            max((len(view[run.node.slug].map_states) for run in maps), default=0),
            max(rule.indices, default=-1),
        )
        if most >= width:
            found = f"has {width:,} elements" if maps else "is no map"
            raise UnknownNodeError(
                f"fail({rule.chosen}) ({rule.chosen.where}): there is no element {most}, as {rule.chosen} {found} in "
                "this run; take an index that it has"
            )

    def _check(self, rule: Rule, what: str, flow: str) -> None:
        if any(rule.chosen.fits(node) for node in self._nodes.values()):
            return
        known = [slug for slug, node in self._nodes.items() if node.kind in _OWN_CODE]
        raise UnknownNodeError(
            f"{what}({rule.chosen}) ({rule.chosen.where}): no such task was in the run of flow {flow!r}; it had: "
            f"{listed(known)}{nearest(str(rule.chosen).strip(chr(39)), known)}"
        )

    def calls(self, task: object = None, *, index: int | None = None) -> list[Call]:
        """Attempts in all runs so far, in order: of all tasks, of one task, or of one of its elements.

        Raises
        ------
        OptionError
            It is not a task.
        """
        which = choose(task, "calls") if task is not None else None
        return [
            call
            for node, call in self._calls
            if (which is None or which.fits(node)) and (index is None or call.index == index)
        ]

    # What the engine asks for -----------------------------------------------------------------------------------------

    def _stand_in(self, node: FrozenNode) -> FrozenNode:
        self._nodes[node.slug] = node
        if node.kind not in _OWN_CODE:
            return node
        rules = [rule for rule in (*self._failures, *self._replacements) if rule.chosen.fits(node)]
        double = _Double(self, node, rules)
        policies = replace(node.policies, isolation="thread", memory_limit=None)
        return replace(node, signature=Signature(double, node.signature.name), policies=policies)


@cache
def _directory_of_values() -> str:
    """Where this process stores values of tests; the views of their runs read them until it ends."""
    path = tempfile.mkdtemp(prefix="anabranch-values-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


class _Executor(LocalExecutor):
    """Runs tasks in this process, with the clock and the stand-ins of a test."""

    def __init__(self, tester: FlowTester) -> None:
        super().__init__()
        self.doubles = _TestDoubles(tester)


class _TestDoubles:
    """What the engine takes from a test: see `anabranch.engine.units.units`."""

    def __init__(self, tester: FlowTester) -> None:
        self._tester = tester
        self.time = tester.clock.time
        self.sleep = tester.clock.advance
        self.stand_in = tester._stand_in

    @property
    def has_values(self) -> bool:
        return bool(self._tester._replacements)


class _Double:
    """A task's function with the wishes of a test about it; what is not wished goes to the function."""

    def __init__(self, tester: FlowTester, node: FrozenNode, rules: list[Rule]) -> None:
        self.__wrapped__ = node.signature.function  # whose signature this has
        self._tester = tester
        self._node = node
        self._rules = rules

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        running, clock = context.current(), self._tester.clock
        index, attempt = (running.seen("map_index"), running.task_run_count) if running is not None else (None, 1)
        act: Callable[..., Any] = next((rule.act for rule in self._rules if rule.is_for(index, attempt)), self._own)
        start, error = clock.now(), None
        arguments = self._node.signature.bind(args, kwargs)
        before = _pickles(arguments)
        try:
            with clock.deadline(self._node.policies.timeout_s):
                return act(*args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if running is not None and not running.is_share:
                after = _pickles({name: arguments[name] for name in before})
                changed = tuple(name for name in after if after[name] != before[name])
                call = Call(self._node.slug, index, attempt, arguments, start, clock.now(), error, changed)
                self._tester._calls.append((self._node, call))

    def _own(self, *args: Any, **kwargs: Any) -> Any:
        inside = run_in(self.__wrapped__, _Executor(self._tester))
        if self._node.signature.is_async:  # one at a time, as tests have it
            return run_call(self.__wrapped__(*args, **kwargs), config.engine.max_width)
        return (inside or self.__wrapped__)(*args, **kwargs)


def _pickles(arguments: Mapping[str, Any]) -> dict[str, bytes]:
    """Pickles of those arguments that can be changed; what cannot be pickled is left out."""
    found = {}
    for name, value in arguments.items():
        if not is_immutable(value):
            with contextlib.suppress(Exception):  # pickling runs the user's code
                found[name] = pickle.dumps(value)
    return found

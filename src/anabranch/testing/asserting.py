"""Assertions on the states of a run, whose messages say what happened and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from anabranch.base.errors import OptionError, listed
from anabranch.base.names import short
from anabranch.base.states import BY_CODE, Failed, Skipped, State, Success
from anabranch.base.texts import shortened
from anabranch.monitoring.failures import failure_lines
from anabranch.runs.view import ElementView, FlowRunView, TaskRunView

if TYPE_CHECKING:
    from anabranch.testing.tester import FlowTester

AnyState: TypeAlias = FlowRunView | TaskRunView | ElementView | State
Expected: TypeAlias = "type[State] | str | Sequence[type[State] | str]"

MAX_MESSAGE = 200  # characters of an exception that was not expected
MAX_CAUSES = 5
_KINDS = {cls.__name__: cls for cls in BY_CODE.values()}


def states(run: FlowRunView, task: object) -> list[str]:
    """Names of the states of a task's runs; for a map, one for each element.

    Examples
    --------
    >>> from anabranch import Flow, task
    >>> from anabranch.testing import FlowTester
    >>> @task
    ... def parse(line: str) -> int:
    ...     return int(line)
    >>> with Flow("lines") as flow:
    ...     numbers = parse.map(["1", "b"])
    >>> states(FlowTester().run(flow), parse)
    ['Success', 'Failed']
    """
    view = run[task]
    return [each.state.name for each in view.map_states] if _is_map(view) else [view.state.name]


def assert_success(state: AnyState, *tasks: object) -> None:
    """Assert that a run, or these tasks of it, succeeded; Cached, Mapped and Skipped are successes.

    Parameters
    ----------
    state
        What ``flow.run`` returned, or the state of a task or an element.
    *tasks
        Tasks of the run, if `state` is a run.
    """
    __tracebackhide__ = True
    _assert_all(state, tasks, Success)


def assert_skipped(state: AnyState, *tasks: object) -> None:
    """Assert that a run, or these tasks of it, were skipped."""
    __tracebackhide__ = True
    _assert_all(state, tasks, Skipped)


def assert_failed(
    state: AnyState,
    task: object = None,
    *,
    index: int | None = None,
    with_: type[BaseException] | None = None,
    match: str | None = None,
) -> None:
    """Assert that a run, or a task or element of it, failed.

    Parameters
    ----------
    state
        What ``flow.run`` returned, or the state of a task or an element.
    task
        A task of the run; default: the run itself.
    index
        An element of the task.
    with_
        The class of its exception. For a run or a whole map, the class of one of the original failures.
    match
        A regular expression for the exception's message, as in ``pytest.raises``.
        A regular expression that is found in the exception's message, as in ``pytest.raises``.
    """
    __tracebackhide__ = True
    if index is not None and task is None:
        raise OptionError(f"assert_failed: index={index} is of a task's elements, and no task is given; name it")
    name, seen = _find_state(state, task)
    if index is not None:
        assert isinstance(seen, TaskRunView)
        if not 0 <= index < len(seen.map_states):
            raise AssertionError(f"{name} has {len(seen.map_states):,} elements, and none with index {index}")
        name, seen = f"{name}[{index}]", seen.map_states[index]
    if not _plain_state(seen).is_failed():
        raise AssertionError(_said(name, seen, "Failed", state))
    if with_ is None and match is None:
        return
    causes = _causes(state, name, seen)
    if not any(_is_meant(cause, with_, match) for cause in causes):
        wanted = " ".join(filter(None, [with_.__name__ if with_ else "", f"matching {match!r}" if match else ""]))
        found = "; ".join(f"{type(each).__name__}: {shortened(str(each), MAX_MESSAGE)}" for each in causes[:MAX_CAUSES])
        raise AssertionError(f"{name} failed, expected with {wanted}, found {found or 'no exception'}{_report(state)}")


def assert_inputs_kept(tester: FlowTester, task: object = None) -> None:
    """Assert that no attempt in a tester's runs, or none of a task, has changed what it was given.

    Small values are copied for each attempt, but larger ones are shared with other tasks, which see the change or not,
    depending on where they run. An argument has changed if it pickles differently afterwards; one that cannot be
    pickled is left out.

    Examples
    --------
    >>> from anabranch import Flow, task
    >>> from anabranch.testing import FlowTester
    >>> @task
    ... def longest(words: list[str]) -> str:
    ...     words.sort(key=len)
    ...     return words[-1]
    >>> with Flow("words") as flow:
    ...     word = longest(["abc", "d"])
    >>> tester = FlowTester()
    >>> assert_success(tester.run(flow))
    >>> assert_inputs_kept(tester)
    Traceback (most recent call last):
        ...
    AssertionError: longest changed its argument 'words'; let it work on a copy
    """
    __tracebackhide__ = True
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    for call in tester.calls(task):
        if call.changed:
            name = call.task if call.index is None else f"{call.task}[{call.index}]"
            arguments = ", ".join(map(repr, call.changed))
            noun = "argument" if len(call.changed) == 1 else "arguments"
            found.setdefault((call.task, call.changed), f"{name} changed its {noun} {arguments}")
    if found:
        raise AssertionError("; ".join(found.values()) + "; let it work on a copy")


def assert_states(run: FlowRunView, expected: Mapping[Any, Expected]) -> None:
    """Assert the states of several tasks of a run. The message has all that differ.

    Parameters
    ----------
    expected
        States by task, node or name: a name (``"Success"``) or a class, which includes its subclasses; for a map, a
        list with one for each element.
    """
    __tracebackhide__ = True
    wrong = []
    for task, wanted in expected.items():
        name, seen = _find_state(run, task)
        assert isinstance(seen, TaskRunView)
        if isinstance(wanted, Sequence) and not isinstance(wanted, str):
            found = list(seen.map_states)
            kinds = [_state_class(each) for each in wanted]
            if len(found) != len(kinds):
                wrong.append(f"{name} has {len(found):,} elements, expected {len(kinds):,}")
            for number, (each, kind) in enumerate(zip(found, kinds, strict=False)):
                if not isinstance(each.state, kind):
                    wrong.append(f"{name}[{number}] is {each.state}, expected {kind.__name__}")
        elif not isinstance(seen.state, kind := _state_class(wanted)):
            wrong.append(f"{name} is {seen.state}, expected {kind.__name__}")
    if wrong:
        raise AssertionError("\n".join(wrong) + _report(run))


def _assert_all(state: AnyState, tasks: Sequence[object], kind: type[State]) -> None:
    __tracebackhide__ = True
    for task in tasks or (None,):
        name, seen = _find_state(state, task)
        if not isinstance(_plain_state(seen), kind):
            raise AssertionError(_said(name, seen, kind.__name__, state))


def _find_state(state: AnyState, task: object) -> tuple[str, AnyState]:
    """What is meant, with its name."""
    if not isinstance(state, (FlowRunView, TaskRunView, ElementView, State)):
        raise OptionError(f"expected what flow.run(…) returned, or a state of it, found {short(state)}")
    if task is not None:
        if not isinstance(state, FlowRunView):
            raise OptionError(f"a task, {short(task)}, is looked for in a run; found {short(state)}: give the run")
        view = state[task]
        return view._run.node.slug, view
    if isinstance(state, FlowRunView):
        return f"flow run {state.run_id}", state
    if isinstance(state, TaskRunView):
        return state._run.node.slug, state
    if isinstance(state, ElementView):
        return f"{state._states._run.node.slug}[{state.state.map_index}]", state
    return "the state", state


def _plain_state(state: AnyState) -> State:
    return getattr(state, "state", state)  # a view has its state, and the class of it


def _state_class(wanted: type[State] | str) -> type[State]:
    if isinstance(wanted, type) and issubclass(wanted, State):
        return wanted
    if wanted not in _KINDS:
        raise OptionError(
            f"expected the name of a state, or its class, found {short(wanted)}; there are: {listed(_KINDS)}"
        )
    return _KINDS[str(wanted)]


def _is_map(view: TaskRunView) -> bool:
    return view._run.elements is not None


def _causes(state: AnyState, name: str, seen: AnyState) -> list[Any]:
    """Exceptions of what failed by itself."""
    if isinstance(seen, FlowRunView):
        return [_error(each) for _, each in seen.failures()]
    if isinstance(seen, TaskRunView) and _is_map(seen):
        return [_error(each.state) for each in seen.map_states if isinstance(each.state, Failed)]
    return [_error(_plain_state(seen))]


def _error(state: State) -> BaseException:
    from anabranch.engine.units.failures import restore

    return restore(state.failure, state.message)


def _is_meant(error: BaseException, kind: type[BaseException] | None, match: str | None) -> bool:
    return (kind is None or isinstance(error, kind)) and (match is None or re.search(match, str(error)) is not None)


def _said(name: str, seen: AnyState, wanted: str, run: AnyState) -> str:
    return f"{name} is {_plain_state(seen)}, expected {wanted}{_report(run)}"


def _report(run: AnyState) -> str:
    """What failed in the run, for the end of a message."""
    lines = failure_lines(run) if isinstance(run, FlowRunView) else []
    return "\n\n" + "\n".join(lines) if lines else ""

"""What a test wants in place of a task's function: failures and replacements, by task, element and attempt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from anabranch.base.errors import OptionError
from anabranch.base.names import short
from anabranch.base.where import caller
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.node import Node
from anabranch.definition.task import Task


@dataclass(frozen=True, slots=True)
class Chosen:
    """A task, as a test names it: the task itself, a node of a flow, or a name."""

    task: Task[..., Any] | Node | str
    where: str = ""

    def __str__(self) -> str:
        return repr(self.task) if isinstance(self.task, str) else repr(self.task.name)

    def fits(self, node: FrozenNode) -> bool:
        """Whether a node of a run is meant."""
        if isinstance(self.task, str):
            return self.task in (node.slug, node.name)
        if isinstance(self.task, Node):
            return node.slug == self.task.slug and node.signature is self.task.signature
        return node.signature.function == self.task._anabranch.signature.function


@dataclass(frozen=True, slots=True)
class Rule:
    """One wish: of a task, what its attempts come to that are meant."""

    chosen: Chosen
    act: Callable[..., Any]
    """Called in place of the function, with its arguments."""
    indices: Collection[int] | None = None
    """Elements that are meant; None: all, and a task run that is no element."""
    attempts: Collection[int] | None = None
    """Attempts that are meant, from 1; None: all."""

    def is_for(self, index: int | None, attempt: int) -> bool:
        """Whether this attempt is meant."""
        if self.indices is not None and index not in self.indices:
            return False
        return self.attempts is None or attempt in self.attempts


@dataclass(frozen=True, slots=True)
class _Raising:
    """Raises an exception, a new one of its kind each time where that can be made."""

    error: type[BaseException] | BaseException
    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.error, type):
            raise self.error(f"the test wants {self.name} to fail")
        raise self.error


@dataclass(frozen=True, slots=True)
class _Returning:
    value: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.value


def choose(task: object, what: str) -> Chosen:
    """A task, checked.

    Raises
    ------
    OptionError
        It is something else.
    """
    if not isinstance(task, (Task, Node, str)):
        raise OptionError(f"{what}: expected a task, a node, or the name of one, found {short(task)} ({caller()})")
    return Chosen(task, str(caller()))


def failing(task: object, index: object, attempts: object, error: object) -> Rule:
    """The rule that a task fails.

    Raises
    ------
    OptionError
        An argument is of another kind.
    """
    which = choose(task, "fail")
    is_error = isinstance(error, BaseException) or (isinstance(error, type) and issubclass(error, BaseException))
    if not is_error:
        raise OptionError(
            f"fail({which}): with_= takes an exception, or a class of them, found {short(error)} ({caller()})"
        )
    indices = _numbers(f"fail({which}): index=", index, least=0)
    if isinstance(attempts, int) and not isinstance(attempts, bool) and attempts >= 1:
        attempts = range(1, attempts + 1)  # the first so many
    return Rule(which, _Raising(error, str(which)), indices, _numbers(f"fail({which}): attempts=", attempts, least=1))  # type: ignore[arg-type]  # checked above


def replacing(task: object, function: object, value: object) -> Rule:
    """The rule that a task's function is another one, or always gives the same value.

    Raises
    ------
    OptionError
        The function is none.
    """
    which = choose(task, "replace")
    if function is None:
        return Rule(which, _Returning(value))
    if isinstance(function, Task):
        function = function.run
    if not callable(function):
        raise OptionError(
            f"replace({which}): by= takes a function, found {short(function)} ({caller()}); for a value use returns="
        )
    return Rule(which, function)


def _numbers(what: str, given: object, *, least: int) -> Collection[int] | None:
    if given is None:
        return None
    found: list[Any] = list(given) if isinstance(given, Iterable) else [given]
    wrong = [each for each in found if not isinstance(each, int) or isinstance(each, bool) or each < least]
    if wrong or isinstance(given, str):
        text = f"{what} takes a number from {least}, or several, found {short(given)} ({caller()})"
        raise OptionError(text)
    return given if isinstance(given, range) else frozenset(found)

"""A task that keeps some elements of a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from anabranch.base.triggers import all_finished
from anabranch.definition.task import FunctionTask


def filter(
    predicate: Callable[[Any], object] | None = None, *, name: str = "filter"
) -> FunctionTask[[Iterable[Any]], list[Any]]:
    """A task that gives the elements for which `predicate` is true.

    Without one it drops None and exceptions: what was skipped, and what failed. It runs however its upstreams ended.

    Examples
    --------
    >>> filter(lambda x: x > 1).run([1, 2, 3])
    [2, 3]
    >>> filter().run([1, None, ValueError()])
    [1]
    """
    keeps = predicate if predicate is not None else _is_value

    def kept(elements: Iterable[Any]) -> list[Any]:
        return [element for element in elements if keeps(element)]

    return FunctionTask(kept, name=name, trigger=all_finished, skip_on_upstream_skip=False)


def _is_value(element: Any) -> bool:
    return element is not None and not isinstance(element, BaseException)


def FilterTask(  # noqa: N802  # a class there
    filter_func: Callable[[Any], object] | None = None, *, name: str = "FilterTask"
) -> FunctionTask[[Iterable[Any]], list[Any]]:
    """`filter` under the name that it has in Prefect 1."""
    return filter(filter_func, name=name)

"""Tasks, parameters and branches with the arguments that they have in Prefect 1."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, Any

import anabranch
from anabranch.base.prefect1 import row_of
from anabranch.base.signatures import signature_of
from anabranch.base.triggers import all_finished
from anabranch.definition import task as definition
from anabranch.definition.marks import unmapped
from anabranch.prefect.stored_values import as_result

_NOT_GIVEN: Any = object()


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a task, without those that change nothing here."""
    kept = {name: value for name, value in options.items() if name != "task_run_name"}
    if options.get("task_run_name") is not None:
        warnings.warn(f"task_run_name= changes nothing; {row_of('task_run_name=')}", stacklevel=3)
    return {**kept, "result": as_result(kept["result"])} if "result" in kept else kept


class Task(anabranch.Task[..., Any]):
    """As `anabranch.Task`; its name may be given by position."""

    def __init__(self, name: str | None = None, **options: Any) -> None:
        super().__init__(name=name, **_options(options))

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing, unless a subclass says more."""


class FunctionTask(definition.FunctionTask[..., Any]):
    """A task of a function; `task` makes the same."""

    def __init__(self, fn: Callable[..., Any], name: str | None = None, **options: Any) -> None:
        super().__init__(fn, name=name, **_options(options))


def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """As `anabranch.task`."""
    return anabranch.task(**_options(options)) if function is None else anabranch.task(function)


def _as_utc(time: datetime) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def DateTimeParameter(  # noqa: N802  # a class there
    name: str, default: Any = _NOT_GIVEN, required: bool = True, tags: Any = None
) -> anabranch.Parameter:
    """A parameter whose values are times, or texts of times; those without a zone are in UTC."""
    from pydantic import AfterValidator

    type_ = Annotated[datetime, AfterValidator(_as_utc)]
    if default is _NOT_GIVEN:
        return anabranch.Parameter(name, required=required, type=type_, tags=tags)
    return anabranch.Parameter(name, default, type=type_, tags=tags)


def defaults_from_attrs(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let arguments of a class's ``run`` that are not given be the attributes of these names."""

    def decorated(run: Callable[..., Any]) -> Callable[..., Any]:
        signature = signature_of(run)
        missing = [name for name in names if name not in signature.parameters]
        if missing:
            raise ValueError(f"defaults_from_attrs: {run.__qualname__} has no argument {missing[0]!r}")

        @wraps(run)
        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = signature.bind_partial(self, *args, **kwargs).arguments
            return run(self, *args, **kwargs, **{name: getattr(self, name) for name in names if name not in given})

        called.__signature__ = signature.replace(  # type: ignore[attr-defined]  # inspect looks for it
            parameters=[
                each.replace(default=None) if each.name in names and each.default is each.empty else each
                for each in signature.parameters.values()
            ]
        )
        return called

    return decorated


def FilterTask(  # noqa: N802  # a class there
    filter_func: Callable[[Any], object] | None = None,
    log_func: Callable[[Any], object] | None = None,
    **options: Any,
) -> anabranch.Task[..., Any]:
    """A task that keeps the elements for which the function is true; without one, all but None and exceptions."""
    keeps = filter_func if filter_func is not None else _is_value

    def kept(task_results: list[Any]) -> list[Any]:
        found = [each for each in task_results if keeps(each)]
        if log_func is not None:
            anabranch.context.get_logger().info("%s", log_func(found))
        return found

    options = {"name": "FilterTask", "trigger": all_finished, "skip_on_upstream_skip": False, **options}
    return FunctionTask(kept, **options)


def _is_value(element: object) -> bool:
    return element is not None and not isinstance(element, BaseException)


def _elements(value: object, *, mapped: bool) -> Any:
    return anabranch.mapped(value) if mapped and not isinstance(value, unmapped) else value


def merge(*tasks: object, mapped: bool = False, **options: Any) -> Any:
    """As `anabranch.merge`."""
    return anabranch.merge(*(_elements(each, mapped=mapped) for each in tasks), **_options(options))


def switch(condition: object, cases: Mapping[Any, object], mapped: bool = False) -> None:
    """As `anabranch.switch`: maps are recognised."""
    anabranch.switch(condition, cases)


def ifelse(condition: object, true_task: object, false_task: object, mapped: bool = False) -> None:
    """As `anabranch.ifelse`: maps are recognised."""
    anabranch.ifelse(condition, true_task, false_task)

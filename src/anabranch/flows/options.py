"""Options of flows: what they may be, wherever they are given or assigned."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from anabranch.base.errors import OptionError
from anabranch.base.names import short
from anabranch.base.where import caller

if TYPE_CHECKING:
    from anabranch.executors.base import Executor
    from anabranch.results.result import Result
    from anabranch.schedules import Schedule


def choose_executor(given: object, default: Executor | None) -> Executor:
    """The executor that is given, else the default, else one for this thread.

    Raises
    ------
    OptionError
        What is given is something else.
    """
    from anabranch.executors.local import LocalExecutor

    return _check_executor(given) or default or LocalExecutor()


def _check_executor(value: object) -> Executor | None:
    if value is None:
        return None
    from anabranch.executors.base import Executor

    if isinstance(value, type):
        raise OptionError(f"executor: expected an object, found the class {value.__name__} ({caller()}); call it")
    if not isinstance(value, Executor):
        raise OptionError(
            f"executor: expected an executor such as anabranch.executors.DaskExecutor(), found {short(value)} "
            f"({caller()})"
        )
    return value


def _check_schedule(value: object) -> Schedule | None:
    if value is None:
        return None
    from anabranch.schedules import Schedule

    if not isinstance(value, Schedule):
        raise OptionError(
            f"schedule: expected a schedule such as CronSchedule('0 6 * * *'), found {short(value)} ({caller()})"
        )
    return value


def _check_max_runs(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise OptionError(f"max_runs: expected a number of runs, 1 or more, found {short(value)} ({caller()})")


def _check_timeout(value: object) -> float | None:
    if value is None:
        return None
    from anabranch.definition.policies import to_timeout

    try:
        return to_timeout(value)
    except OptionError as error:
        raise OptionError(f"{error} ({caller()})") from None


def _check_handlers(value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection | None):
        raise OptionError(f"state_handlers takes a list of functions, found {short(value)} ({caller()})")
    return tuple(_check_function(each) for each in value or ())


def _check_function(value: Any) -> Any:
    if value is not None and not callable(value):
        raise OptionError(f"state_handlers and on_failure take functions, found {short(value)} ({caller()})")
    return value


def _check_result(value: Any) -> Result | None:
    if value is None:
        return None
    from anabranch.definition.storing import choose_result

    try:
        return choose_result({"result": value})
    except OptionError as error:
        raise OptionError(f"{error} ({caller()})") from None


CHECKS: dict[str, Callable[[Any], Any]] = {
    "schedule": _check_schedule,
    "max_runs": _check_max_runs,
    "timeout": _check_timeout,
    "executor": _check_executor,
    "state_handlers": _check_handlers,
    "on_failure": _check_function,
    "result": _check_result,
}
"""By name of the option: what gives its value, or refuses it."""

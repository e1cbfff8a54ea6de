"""``@task``: tasks made of functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from anabranch.definition import Task
from anabranch.dependency import Dependency
from anabranch.errors import DefinitionError
from anabranch.marks import flatten, mapped, unmapped
from anabranch.names import named, short
from anabranch.parameter import Parameter
from anabranch.policies import Delay, Handler, RetryOn, Seconds
from anabranch.triggers import Trigger
from anabranch.where import caller

if TYPE_CHECKING:
    from anabranch.caching import CacheKey
    from anabranch.results.base import Result

# The others are used wherever tasks are.
__all__ = ["Dependency", "FunctionTask", "Parameter", "Task", "flatten", "mapped", "task", "unmapped"]

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class FunctionTask(Task[P, R]):
    """A task made from a function; made by `task`."""

    def __init__(self, function: Callable[P, R], *, name: str | None = None, **options: Any) -> None:
        if isinstance(function, Task):
            raise DefinitionError(f"{function.name!r} is a task already: @task was applied twice ({caller()})")
        if not callable(function):
            raise DefinitionError(f"@task needs a function, found {short(function)} ({caller()})")
        self.function = function
        self.run = function  # type: ignore[method-assign]  # `t.run` is the plain function, not a method
        super().__init__(name=name if name is not None else named(function).strip("<>"), **options)
        for attribute in ("__doc__", "__module__", "__qualname__"):
            if hasattr(function, attribute):
                setattr(self, attribute, getattr(function, attribute))
        self.__wrapped__ = function

    def _function(self) -> Callable[..., Any]:
        return self.function


@overload
def task(function: Callable[P, R], /) -> FunctionTask[P, R]: ...
@overload
def task(
    *,
    name: str | None = ...,
    slug: str | None = ...,
    tags: Collection[str] | None = ...,
    max_retries: int | None = ...,
    retry_delay: Delay | None = ...,
    retry_backoff: float | None = ...,
    retry_jitter: float | None = ...,
    retry_max_delay: Seconds | None = ...,
    retry_on: RetryOn | list[type[BaseException]] | None = ...,
    retry_kwargs: Mapping[str, Any] | None = ...,
    timeout: Seconds | None = ...,
    isolation: Literal["thread", "process"] | None = ...,
    memory_limit: int | str | None = ...,
    trigger: Trigger | None = ...,
    skip_on_upstream_skip: bool | None = ...,
    nout: int | None = ...,
    log_stdout: bool | None = ...,
    state_handlers: Sequence[Handler] | None = ...,
    on_failure: Callable[[Any, Any], Any] | None = ...,
    depends_on: object = ...,
    parameters: Mapping[str, object] | Sequence[str] | None = ...,
    chunksize: int | Literal["auto"] | None = ...,
    resources: Mapping[str, float] | None = ...,
    concurrency: Mapping[str, int] | None = ...,
    priority: int | None = ...,
    min_success: float | None = ...,
    first_n: int | None = ...,
    stop_when: Callable[[Any], object] | None = ...,
    reduce: bool | None = ...,
    result: Result | None = ...,
    result_handler: Result | None = ...,
    target: str | Callable[..., str] | None = ...,
    location: str | Callable[..., str] | None = ...,
    checkpoint: bool | None = ...,
    cache_for: Seconds | None = ...,
    cache_key: CacheKey | str | Callable[..., Any] | None = ...,
    cache_validator: CacheKey | Callable[..., Any] | None = ...,
) -> Callable[[Callable[P, R]], FunctionTask[P, R]]: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task of a function.

    Parameters
    ----------
    function
        The function; its signature and types are kept.
    name, slug, tags
        How the task's runs are called, and words to find them by. Default name: the function's.
    max_retries, retry_delay, retry_backoff, retry_jitter, retry_max_delay, retry_on, retry_kwargs
        See `anabranch.policies.Retry`; `retry_kwargs` is a dict of the others. Delays are seconds or timedeltas.
    timeout
        Seconds or timedelta after which an attempt ends as `TimedOut`.
    isolation, memory_limit
        With "process", attempts run in a child process of the worker: at the timeout, or with more resident memory than
        `memory_limit` (bytes, or a text such as ``"500 MB"``), it is killed with everything that it has started.
    trigger, skip_on_upstream_skip
        When to run, seen from upstream states; see `anabranch.triggers`.
    nout
        Number of outputs, to unpack a call; read from a ``tuple[…]`` annotation if that has a fixed length.
    log_stdout
        Whether prints become log records.
    state_handlers, on_failure
        Functions ``(task, old, new) -> new | None`` and ``(task, state)``, called where the task runs.
    depends_on
        Tasks, or `Dependency` objects, that every call runs after.
    parameters
        Arguments fixed in advance (dict), or names of arguments that become parameters of the flow (list).
    chunksize
        Elements of a map in one Dask task, or "auto".
    resources, priority
        Dask worker resources, and priority (larger first).
    concurrency
        Named limits, such as ``{"db": 4}``: of all task runs that share a name, in all runs of a run store, at most so
        many go on at the same time. Who waits takes no worker's slot; of several sizes of one name, the lowest counts.
    min_success, first_n, stop_when
        Of a map: the share of elements that is enough for its success (0.95); the number of successful elements, or a
        predicate on the value of one, after which the rest is skipped. What is below sees what there is.
    reduce
        Whether the function is associative on a list, ``f([f(a), f(b)]) == f(a + b)``: on a whole map it is then
        applied to each chunk where that is made, then to the results.
    result, result_handler
        Where values are stored, such as ``LocalResult("results")``; the two are the same. Default: the flow's, if it
        has one, else none.
    location, target
        Template of the name under which a value is stored, or a function that makes one. A value that is at a `target`
        already will do: the task ends as `Cached` and is not run.
    checkpoint
        Whether values are stored; default: if there is a result, a target or a cache, or ``config.checkpointing``
        is on.
    cache_for, cache_key, cache_validator
        A value of any run will do that is no older than `cache_for` (seconds or timedelta) and has the same key: of
        inputs and code by default, or what of `anabranch.caching` is given, or a function of the inputs. A text is the
        name of a cache that tasks share. A validator is one of Prefect 1's, or a function ``(value, inputs,
        parameters)`` that tells whether a value will do.

    Raises
    ------
    OptionError
        An option is unknown or cannot have that value.

    Examples
    --------
    >>> @task(max_retries=3, retry_delay=2.0)
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double.run(4)
    8
    """
    if function is None:
        return lambda decorated: FunctionTask(decorated, **options)
    return FunctionTask(function, **options)

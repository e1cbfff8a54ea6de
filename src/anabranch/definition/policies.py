"""What a task's options mean, as plain values: retries, timeouts and the rest.

Checks happen here, when the option is written, so that a wrong one never surprises anybody at run time.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import cache
from numbers import Real
from typing import Any, Literal, TypeAlias

from anabranch.base import triggers
from anabranch.base.errors import OptionError, listed, nearest
from anabranch.definition.limit_names import fields_of
from anabranch.definition.rates import rates_of

Seconds: TypeAlias = float | timedelta
RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
Delay: TypeAlias = Seconds | Sequence[Seconds] | Callable[[int], Seconds]

MAX_RETRIES = 1_000_000  # more than that is a loop, or a mistake
MAX_SECONDS = 10 * 366 * 86400.0  # ten years: no wait is longer, and datetimes would overflow
MIN_MEMORY = 64_000_000  # bytes; a new interpreter with this library has 32 MB
MAX_TAG = 200  # characters, as in names


def to_seconds(value: object, option: str, *, zero: bool = True) -> float:
    """Seconds in a number or timedelta; anything else is refused, naming the option."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(f"{option}: expected seconds as a number or a timedelta, found {value!r}")
    result = float(value)
    if not 0 <= result <= MAX_SECONDS or (result == 0 and not zero):
        least = "0" if zero else "more than 0"
        raise OptionError(f"{option}: expected {least} to {MAX_SECONDS:,.0f} seconds, found {value!r}")
    return result


def to_timeout(value: object) -> float:
    """Seconds of a timeout, a millisecond or more."""
    result = to_seconds(value, "timeout", zero=False)
    if result < 0.001:
        raise OptionError(f"timeout: expected at least a millisecond, found {result!r} s")
    return result


@dataclass(frozen=True, slots=True)
class Retry:
    """When to retry, and after which delay.

    Parameters
    ----------
    max_retries
        Attempts after the first.
    delay
        Seconds, a timedelta, a list of them (the last one repeats), or a callable of the attempt that failed (from 1).
    backoff
        Factor on the delay for each further attempt.
    jitter
        Share of the delay by which it varies: 0.2 is ±20 %.
    max_delay_s
        Upper bound of a delay, in seconds.
    on
        Exception types, or a predicate of the exception; None: all exceptions.
    """

    max_retries: int = 0
    delay: Delay = 0.0
    backoff: float = 1.0
    jitter: float = 0.0
    max_delay_s: float = math.inf
    on: RetryOn | None = None

    def __post_init__(self) -> None:
        n = self.max_retries
        if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MAX_RETRIES:
            raise OptionError(f"max_retries: expected a whole number from 0 to {MAX_RETRIES:,}, found {n!r}")
        if isinstance(self.delay, (list, tuple)):
            if not self.delay:
                raise OptionError("retry_delay: the list of delays is empty")
            object.__setattr__(self, "delay", tuple(to_seconds(each, "retry_delay") for each in self.delay))
        elif not callable(self.delay):
            object.__setattr__(self, "delay", to_seconds(self.delay, "retry_delay"))
        for option, value, least in (("retry_backoff", self.backoff, 1.0), ("retry_jitter", self.jitter, 0.0)):
            if isinstance(value, bool) or not isinstance(value, Real) or not least <= value < math.inf:
                raise OptionError(f"{option}: expected a number of at least {least:g}, found {value!r}")
        if self.jitter > 1:
            raise OptionError(f"retry_jitter: expected a part of the delay from 0 to 1, found {self.jitter!r}")
        _check_plain("retry_on", self.on)
        _check_plain("retry_delay", self.delay)
        if self.on is not None and not _is_exception_filter(self.on):
            raise OptionError(f"retry_on: expected exception types or a predicate of the exception, found {self.on!r}")

    def wants(self, exception: BaseException, attempt: int) -> bool:
        """Whether to try again after attempt number `attempt` (from 1) raised `exception`."""
        if attempt > self.max_retries:
            return False
        if self.on is None:
            return True
        if isinstance(self.on, (type, tuple)):
            return isinstance(exception, self.on)
        return bool(self.on(exception))

    def delay_s(self, attempt: int, randomness: float = 0.5) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) failed.

        `randomness`, from 0 to 1, places the delay within the jitter; 0.5 is the middle.
        """
        if isinstance(self.delay, tuple):
            base = to_seconds(self.delay[min(attempt, len(self.delay)) - 1], "retry_delay")
        elif callable(self.delay):
            base = to_seconds(self.delay(attempt), "retry_delay")
        else:
            base = to_seconds(self.delay, "retry_delay")
        try:
            grown = base * self.backoff ** (attempt - 1)
        except OverflowError:  # as 2.0 ** 1100 is
            grown = MAX_SECONDS if base else 0.0
        return min(grown * (1 + self.jitter * (2 * randomness - 1)), self.max_delay_s, MAX_SECONDS)


def _check_plain(option: str, function: object) -> None:
    """Refuse an async function where nobody would await it."""
    if function is not None and inspect.iscoroutinefunction(function):
        raise OptionError(f"{option}: expected a plain function, found one that is async; only tasks are awaited")


def _is_exception_filter(value: object) -> bool:
    if isinstance(value, type):
        return issubclass(value, BaseException)
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(each, type) and issubclass(each, BaseException) for each in value)
    return callable(value)


def retry_from(options: Mapping[str, Any], base: Retry | None = None) -> Retry:
    """The one `Retry` that the retry options of a task describe, seen as changes of `base`.

    Accepts ``max_retries, retry_delay, retry_backoff, retry_jitter, retry_max_delay, retry_on``, and ``retry_kwargs``,
    a dict of these with or without their prefix. An option given twice, and a delay without retries, are refused.
    """
    given = {name: value for name, value in options.items() if name != "retry_kwargs" and value is not None}
    extra = options.get("retry_kwargs") or {}
    if not isinstance(extra, Mapping):
        raise OptionError(f"retry_kwargs: expected a dict such as {{'max_retries': 3}}, found {extra!r}")
    for name, value in extra.items():
        full = name if name in _RETRY_OPTIONS else f"retry_{name}"
        if full not in _RETRY_OPTIONS:
            raise OptionError(f"retry_kwargs: unknown key {name!r}; it takes: {', '.join(_RETRY_OPTIONS)}")
        if full in given:
            raise OptionError(f"{full} is given twice: as an option and in retry_kwargs")
        given[full] = value
    values = {_RETRY_OPTIONS[name]: value for name, value in given.items()}
    if "max_delay_s" in values:
        values["max_delay_s"] = to_seconds(values["max_delay_s"], "retry_max_delay")
    if isinstance(values.get("on"), list):
        values["on"] = tuple(values["on"])
    retry = replace(base or Retry(), **values)
    others = ", ".join(name for name in given if name != "max_retries")
    if not retry.max_retries and others:
        raise OptionError(f"{others} given without max_retries: nothing would be retried; add max_retries=1 or more")
    return retry


_RETRY_OPTIONS = {
    "max_retries": "max_retries",
    "retry_delay": "delay",
    "retry_backoff": "backoff",
    "retry_jitter": "jitter",
    "retry_max_delay": "max_delay_s",
    "retry_on": "on",
}

STORING_OPTIONS = (
    "result",
    "result_handler",
    "target",
    "location",
    "checkpoint",
    "cache_for",
    "cache_key",
    "cache_validator",
)
"""Options of a task that `anabranch.definition.storing` makes a value of, which becomes the policy `storing`."""

Handler: TypeAlias = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Everything that says how the calls of a task are run."""

    retry: Retry = field(default_factory=Retry)
    timeout_s: float | None = None
    isolation: Literal["thread", "process"] = "thread"
    """Where attempts run: in the worker's own process, or in one that can be killed."""
    memory_limit: int | None = None
    """Bytes of resident memory for the process of an attempt and all that it starts."""
    trigger: triggers.Trigger = triggers.all_successful
    skip_on_upstream_skip: bool = True
    tags: frozenset[str] = frozenset()
    nout: int | None = None
    log_stdout: bool = False
    lazy: bool = False
    """Whether the task is given Dask's collections, and gives them away, without anybody computing them."""
    state_handlers: tuple[Handler, ...] = ()
    on_failure: Callable[[Any, Any], Any] | None = None
    chunksize: int | Literal["auto"] = "auto"
    """Elements of a map in one Dask task; "auto" follows their measured durations."""
    concurrency_per_slot: int | None = None
    """Elements of an async task that one worker slot awaits side by side; None: as the settings say."""
    resources: Mapping[str, float] = field(default_factory=dict)
    priority: int = 0
    concurrency: Mapping[str, int] = field(default_factory=dict)
    """Named limits: of all task runs that share a name, in all runs of a run store, at most so many go on at a time."""
    rate: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Rates, as `anabranch.definition.rates` reads them: of all attempts that share a name, in all runs of a run store,
    at most so many in any window of so many seconds."""
    min_success: float | None = None
    """Share of a map's elements that is enough for its success; past what it allows to fail, the rest is not run."""
    first_n: int | None = None
    """Successful elements of a map that are enough: the rest is skipped."""
    stop_when: Callable[[Any], object] | None = None
    """Predicate on the value of an element after which the rest of a map is skipped."""
    reduce: bool = False
    """Whether the function is associative on a list: ``f([f(a), f(b)]) == f(a + b)``, so that chunks can be reduced
    where they are made."""
    storing: Any = None  # an `anabranch.definition.storing.Storing`, which is of a layer above, or None
    """Whether and where values are stored."""

    def __post_init__(self) -> None:
        if self.timeout_s is not None:
            object.__setattr__(self, "timeout_s", to_timeout(self.timeout_s))
        if self.isolation not in ("thread", "process"):
            raise OptionError(f"isolation: expected 'thread' or 'process', found {self.isolation!r}")
        if self.memory_limit is not None:
            self._check_memory_limit(self.memory_limit)
        if not callable(self.trigger):
            raise OptionError(f"trigger: expected a function of the upstream states, found {self.trigger!r}")
        is_collection = isinstance(self.tags, Collection) and not isinstance(self.tags, str)
        if not is_collection or not all(isinstance(tag, str) for tag in self.tags):
            raise OptionError(f"tags: expected a collection of strings, found {self.tags!r}")
        object.__setattr__(self, "tags", frozenset(self.tags))
        if any(len(tag) > MAX_TAG for tag in self.tags):
            raise OptionError(f"tags: expected words of at most {MAX_TAG} characters, found a longer one")
        if isinstance(self.state_handlers, str) or not isinstance(self.state_handlers, Sequence):
            raise OptionError(f"state_handlers: expected a list of functions, found {self.state_handlers!r}")
        object.__setattr__(self, "state_handlers", tuple(self.state_handlers))
        for option in ("trigger", "on_failure", "stop_when"):
            _check_plain(option, getattr(self, option))
        for each in self.state_handlers:
            _check_plain("state_handlers", each)
        for handler in (*self.state_handlers, *([self.on_failure] if self.on_failure is not None else [])):
            if not callable(handler):
                raise OptionError(f"state_handlers / on_failure: expected a function, found {handler!r}")
        if self.nout is not None and (isinstance(self.nout, bool) or not isinstance(self.nout, int) or self.nout < 0):
            raise OptionError(f"nout: expected a whole number of outputs, found {self.nout!r}")
        if self.chunksize != "auto" and (
            isinstance(self.chunksize, bool) or not isinstance(self.chunksize, int) or self.chunksize < 1
        ):
            raise OptionError(f"chunksize: expected 'auto' or a whole number from 1, found {self.chunksize!r}")
        lanes = self.concurrency_per_slot
        if lanes is not None and (isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1):
            raise OptionError(f"concurrency_per_slot: expected a whole number from 1, found {lanes!r}")
        share = self.min_success
        if share is not None and (isinstance(share, bool) or not isinstance(share, Real) or not 0 < share <= 1):
            raise OptionError(f"min_success: expected a share above 0 and up to 1, such as 0.95, found {share!r}")
        if self.first_n is not None and (
            isinstance(self.first_n, bool) or not isinstance(self.first_n, int) or self.first_n < 1
        ):
            raise OptionError(f"first_n: expected a whole number from 1, found {self.first_n!r}")
        if self.stop_when is not None and not callable(self.stop_when):
            raise OptionError(f"stop_when: expected a function of an element's value, found {self.stop_when!r}")
        for option in ("reduce", "lazy", "log_stdout", "skip_on_upstream_skip"):
            if not isinstance(getattr(self, option), bool):
                raise OptionError(f"{option}: expected True or False, found {getattr(self, option)!r}")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise OptionError(f"priority: expected a whole number, found {self.priority!r}")
        amounts = self.resources.items() if isinstance(self.resources, Mapping) else [(None, None)]
        for resource, amount in amounts:
            if not isinstance(resource, str) or isinstance(amount, bool) or not isinstance(amount, Real) or amount <= 0:
                raise OptionError(f"resources: expected names with amounts above 0, found {self.resources!r}")
        limits = self.concurrency.items() if isinstance(self.concurrency, Mapping) else [(None, None)]
        for limit, most in limits:
            is_name = isinstance(limit, str) and 0 < len(limit) <= MAX_TAG and limit.isprintable()
            if not is_name or isinstance(most, bool) or not isinstance(most, int) or most < 1:
                raise OptionError(
                    "concurrency: expected names with whole numbers from 1, such as {'db': 4}, "
                    f"found {self.concurrency!r}"
                )

        object.__setattr__(self, "rate", rates_of(self.rate))

    def _check_memory_limit(self, limit: object) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise OptionError(f"memory_limit: expected bytes, or a text such as '500 MB', found {limit!r}")
        if limit < MIN_MEMORY:
            raise OptionError(
                f"memory_limit: expected at least {MIN_MEMORY:,} bytes, of which Python takes half, found {limit!r}"
            )
        if self.isolation != "process":
            raise OptionError("memory_limit needs isolation='process': only a process of its own can be killed")

    @classmethod
    @cache
    def _names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls) if field.name not in ("retry", "timeout_s", "storing"))

    @classmethod
    @cache
    def options(cls) -> tuple[str, ...]:
        """Names of the options that describe policies."""
        return (*_RETRY_OPTIONS, "retry_kwargs", "timeout", *cls._names(), *STORING_OPTIONS)

    def option(self, name: str) -> Any:
        """What an option is, if it is not one about storing."""
        if name == "retry_kwargs":
            return {option: getattr(self.retry, attribute) for option, attribute in _RETRY_OPTIONS.items()}
        if name in _RETRY_OPTIONS:
            return getattr(self.retry, _RETRY_OPTIONS[name])
        return self.timeout_s if name == "timeout" else getattr(self, name)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], base: Policies | None = None) -> Policies:
        """The policies that a task's options describe; options that are None stay as they are in `base`.

        Raises
        ------
        OptionError
            An option is unknown or cannot have that value.
        """
        base = base or PLAIN
        known = cls.options()
        unknown = [name for name in options if name not in known]
        if unknown:
            hint = nearest(unknown[0], known)
            raise OptionError(f"unknown task option {listed(unknown)}; there are: {', '.join(known)}{hint}")
        given = {name: value for name, value in options.items() if value is not None}
        changes = {name: value for name, value in given.items() if name in cls._names()}
        if "timeout" in given:
            changes["timeout_s"] = given["timeout"]
        retry = {name: value for name, value in given.items() if name in _RETRY_OPTIONS or name == "retry_kwargs"}
        if retry:
            changes["retry"] = retry_from(retry, base.retry)
        return replace(base, **changes) if changes else base

    @property
    def may_stop_early(self) -> bool:
        """Whether a map may end before all of its elements have run."""
        return self.min_success is not None or self.first_n is not None or self.stop_when is not None

    @property
    def templates(self) -> tuple[str, ...]:
        """Those names of limits that are made of arguments."""
        return tuple(name for name in {**self.concurrency, **self.rate} if fields_of(name)) if self.is_limited else ()

    @property
    def is_limited(self) -> bool:
        """Whether a call needs permits, which only the driver gets."""
        return bool(self.concurrency or self.rate)

    @property
    def is_plain(self) -> bool:
        """Whether running the function and keeping its value is all there is to do."""
        return (
            self.timeout_s is None
            and self.isolation == "thread"
            and self.trigger is triggers.all_successful
            and not self.state_handlers
            and self.on_failure is None
            and self.stop_when is None
            and not self.rate
        )


PLAIN = Policies()
"""Of a task without options."""

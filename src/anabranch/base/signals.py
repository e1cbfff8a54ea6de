"""Exceptions with which task code chooses its own state.

A signal carries a state. `FAIL` is retried like any exception, and `RETRY` retries even after ``max_retries``. The
others end the task run with their state.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from anabranch.base import states
from anabranch.base.states import State


class Signal(Exception):
    """Base of all signals.

    Parameters
    ----------
    message
        Message of the state.
    result
        Value of the task run; default: None.
    """

    state_class: ClassVar[type[State]] = State

    def __init__(self, message: str = "", *, result: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as their class called with their args, which are not what the constructors here take.
        return _remade, (type(self), self.args, self.__dict__)

    @property
    def state(self) -> State:
        """The state that this signal asks for."""
        return self.state_class(message=self.message or f"{type(self).__name__} signal raised", result=self.result)


def _remade(cls: type[Signal], args: tuple[Any, ...], attributes: dict[str, Any]) -> Signal:
    signal = cls.__new__(cls)
    signal.args = args
    signal.__dict__.update(attributes)
    return signal


class SUCCESS(Signal):
    """End now as a success, with `result`."""

    state_class = states.Success


class FAIL(Signal):
    """End now as a failure, which is retried like an exception."""

    state_class = states.Failed


class SKIP(Signal):
    """End now as skipped, with `result`. What needs this task's value is skipped, too."""

    state_class = states.Skipped


class TRIGGERFAIL(Signal):
    """End now as if the trigger had not allowed the task to run; never retried."""

    state_class = states.TriggerFailed


class VALIDATIONFAIL(Signal):
    """End now because the result is not valid; never retried."""

    state_class = states.ValidationFailed


class CANCEL(Signal):
    """End now, as cancelled."""

    state_class = states.Cancelled


class PAUSE(Signal):
    """Wait for an approval, then run again."""

    state_class = states.Paused


class LOOP(Signal):
    """Run again at once, with `result` as ``context.task_loop_result``."""

    state_class = states.Looped


class RETRY(Signal):
    """Run again at `start_time` (naive times are UTC; default: now). It uses up none of ``max_retries``."""

    state_class = states.Retrying

    def __init__(self, message: str = "", *, start_time: datetime | None = None, result: Any = None) -> None:
        super().__init__(message, result=result)
        if start_time is not None and start_time.tzinfo is None:
            start_time = start_time.replace(tzinfo=UTC)
        self.start_time = start_time

    @property
    def state(self) -> State:
        """A `Retrying` state with the time."""
        return states.Retrying(message=self.message or "RETRY signal raised", start_time=self.start_time)


class ENDRUN(Signal):
    """End now with the given state; never retried."""

    def __init__(self, state: State) -> None:
        super().__init__(state.message, result=state.result)
        self._state = state

    @property
    def state(self) -> State:
        """The given state."""
        return self._state

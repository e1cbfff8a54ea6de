"""Exit codes, and which errors and states of a run they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from anabranch.base.errors import (
    AnabranchError,
    DefinitionError,
    ExecutorError,
    FlowLoadError,
    FlowNotRegistered,
    ParameterError,
    RunNotFound,
    RunOver,
    RunQueryError,
    SettingError,
)
from anabranch.base.texts import printable_lines

SUCCESS = 0
RUN_FAILED = 1
USAGE = 2
"""A bad option, parameter or setting, or a run or flow that is not there; Click's own code as well."""
NOT_LOADED = 3
"""The flow cannot be loaded or built."""
NO_CLUSTER = 4
"""No scheduler answers, or it has no workers."""
CANCELLED = 5
"""Cancelled from elsewhere, over its timeout, or waiting for an approval."""
NOT_WRITTEN = 74
"""Standard output could not be written: the code that sysexits.h has for it."""
SIGNALLED = 128
"""Plus the number of the signal: 130 after Ctrl-C, 143 after SIGTERM."""


def code_of_state(name: str) -> int:
    """Exit code for a run in a state of this name; one that goes on has not failed."""
    if name in ("Success", "Pending", "Running"):
        return SUCCESS
    return CANCELLED if name in ("Cancelled", "Paused", "TimedOut") else RUN_FAILED


class Problem(click.ClickException):
    """Ends a command with a message and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__("\n".join(printable_lines(message)))
        self.exit_code = exit_code  # type: ignore[misc]  # Click's way to say it, for classes

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to standard error."""
        click.echo(f"Error: {self.format_message()}", file=file, err=True)


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the command with message and exit code where the library raises an error."""
    try:
        yield
    except AnabranchError as error:
        raise Problem(str(error), _choose_exit_code(error)) from error


def _choose_exit_code(error: AnabranchError) -> int:
    if isinstance(error, (ParameterError, SettingError, RunNotFound, RunOver, RunQueryError, FlowNotRegistered)):
        return USAGE
    if isinstance(error, (FlowLoadError, DefinitionError)):
        return NOT_LOADED
    return NO_CLUSTER if isinstance(error, ExecutorError) else RUN_FAILED

"""Ctrl-C and SIGTERM during a run: the first cancels the run, the second ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from anabranch.cli.exits import SIGNALLED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Context manager that turns both signals into one `KeyboardInterrupt`, which cancels the run.

    Parameters
    ----------
    on_first
        Called with the first signal's name, inside the signal handler: it must not write to a stream.
    """

    def __init__(self, on_first: Callable[[str], object]) -> None:
        self._on_first = on_first
        self._before: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    @property
    def exit_code(self) -> int | None:
        """130 or 143; None if no signal came."""
        return None if self.received is None else SIGNALLED + self.received

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python has no signals
            # A signal that the parent had us ignore, as shells do for background jobs, stays ignored.
            wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in wanted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            leave_now(SIGNALLED + number)
        self.received = signal.Signals(number)
        self._on_first(self.received.name)
        raise KeyboardInterrupt(self.received.name)


def leave_now(code: int) -> None:
    """End the process at once. Workers that it started end by themselves when it is gone."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # a live block has hidden the cursor
        os.write(2, b"left at once\n")
    os._exit(code)

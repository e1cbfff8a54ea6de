"""Exceptions with which task code chooses its own state.

A signal carries the state it stands for. `FAIL` is retried like any exception, `RETRY` retries even past
``max_retries``, the others end the task run as they say.
"""

from __future__ import annotations

from anabranch.base.signals import (
    CANCEL,
    ENDRUN,
    FAIL,
    LOOP,
    PAUSE,
    RETRY,
    SKIP,
    SUCCESS,
    TRIGGERFAIL,
    VALIDATIONFAIL,
    Signal,
)

__all__ = [
    "CANCEL",
    "ENDRUN",
    "FAIL",
    "LOOP",
    "PAUSE",
    "RETRY",
    "SKIP",
    "SUCCESS",
    "TRIGGERFAIL",
    "VALIDATIONFAIL",
    "Signal",
]

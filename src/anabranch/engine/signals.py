"""Signals, under the path known from Prefect 1."""

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
    "CANCEL", "ENDRUN", "FAIL", "LOOP", "PAUSE", "RETRY", "SKIP", "SUCCESS", "TRIGGERFAIL", "VALIDATIONFAIL", "Signal",
]  # fmt: skip

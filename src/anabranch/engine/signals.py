"""Signals, under the path known from Prefect 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anabranch.base.prefect1 import getter
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

__path__: list[str] = []

if not TYPE_CHECKING:
    __getattr__ = getter("engine.signals")

"""The words for what a service does with times that were missed, and with those that come while a run goes on."""

from __future__ import annotations

from typing import Literal

CatchUp = Literal["all", "latest", "skip"]
Overlap = Literal["allow", "skip", "queue", "cancel_previous"]
CATCH_UP: tuple[CatchUp, ...] = ("all", "latest", "skip")
OVERLAP: tuple[Overlap, ...] = ("allow", "skip", "queue", "cancel_previous")

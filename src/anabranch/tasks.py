"""Ready-made tasks, and ``map`` as a function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anabranch.base.prefect1 import getter
from anabranch.definition.mapping import apply_map, flatten, map, unmapped
from anabranch.definition.ready_made import FilterTask, filter
from anabranch.flows.requested import run_flow

__all__ = ["FilterTask", "apply_map", "filter", "flatten", "map", "run_flow", "unmapped"]

__path__: list[str] = []
"""No files: modules that Prefect 1 has below it can be imported."""

if not TYPE_CHECKING:
    __getattr__ = getter("tasks")

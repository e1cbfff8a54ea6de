"""Ready-made tasks, and ``map`` as a function."""

from __future__ import annotations

from anabranch.definition.mapping import apply_map, flatten, map, unmapped
from anabranch.definition.ready_made import FilterTask, filter

__all__ = ["FilterTask", "apply_map", "filter", "flatten", "map", "unmapped"]

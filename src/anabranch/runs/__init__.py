"""The run store: the history of flow runs, which is also what a run is resumed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anabranch.runs.store.heart import Heart
from anabranch.runs.store.opening import default_path, open_store
from anabranch.runs.store.records import (
    INTERRUPTED,
    ArtifactRow,
    Batch,
    ChunkRow,
    ElementRow,
    LogQuery,
    LogRow,
    Ownership,
    RunDetails,
    RunQuery,
    RunRecord,
    RunStore,
    TaskRunRow,
)

if TYPE_CHECKING:
    from anabranch.runs.history import LoadedRun as LoadedRun
    from anabranch.runs.history import find as find
    from anabranch.runs.history import load as load

__all__ = [
    "INTERRUPTED",
    "ArtifactRow",
    "Batch",
    "ChunkRow",
    "ElementRow",
    "Heart",
    "LoadedRun",
    "LogQuery",
    "LogRow",
    "Ownership",
    "RunDetails",
    "RunQuery",
    "RunRecord",
    "RunStore",
    "TaskRunRow",
    "default_path",
    "find",
    "load",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name in ("LoadedRun", "find", "load"):  # with the engine's own view of a run, which few who record need
        from anabranch.runs import history

        return getattr(history, name)
    raise AttributeError(f"module 'anabranch.runs' has no attribute {name!r}")

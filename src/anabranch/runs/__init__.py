"""The run store: the history of flow runs, which is also what a run is resumed from."""

from anabranch.runs.base import (
    INTERRUPTED,
    Batch,
    ChunkRow,
    ElementRow,
    LogRow,
    Ownership,
    RunDetails,
    RunQuery,
    RunRecord,
    RunStore,
    TaskRunRow,
)
from anabranch.runs.heart import Heart
from anabranch.runs.opening import default_path, open_store

__all__ = [
    "INTERRUPTED",
    "Batch",
    "ChunkRow",
    "ElementRow",
    "Heart",
    "LogRow",
    "Ownership",
    "RunDetails",
    "RunQuery",
    "RunRecord",
    "RunStore",
    "TaskRunRow",
    "default_path",
    "open_store",
]

"""The run store: the history of flow runs, which is also what a run is resumed from."""

from anabranch.runs.store.heart import Heart
from anabranch.runs.store.opening import default_path, open_store
from anabranch.runs.store.records import (
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

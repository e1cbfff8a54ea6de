"""Flow storage: where the pickles of registered flows are, if neither a file of code nor the database is the place."""

from __future__ import annotations

from anabranch.runs.registry.flow_storage import FlowStorage, LocalStorage, S3Storage

__all__ = ["FlowStorage", "LocalStorage", "S3Storage"]

"""Flow storage: where the pickles of registered flows are, if neither a file of code nor the database is the place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anabranch.base.prefect1 import getter
from anabranch.runs.registry.flow_storage import FlowStorage, LocalStorage, S3Storage

__all__ = ["FlowStorage", "LocalStorage", "S3Storage"]

__path__: list[str] = []
"""No files: modules that Prefect 1 has below it can be imported."""

if not TYPE_CHECKING:
    __getattr__ = getter("storage")

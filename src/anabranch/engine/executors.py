"""Executors, under the path known from Prefect 1."""

from __future__ import annotations

from anabranch.executors.dask import DaskExecutor
from anabranch.executors.local import LocalExecutor
from anabranch.executors.threads import LocalDaskExecutor

__all__ = ["DaskExecutor", "LocalDaskExecutor", "LocalExecutor"]

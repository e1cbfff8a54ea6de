"""Executors, under the path known from Prefect 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anabranch.base.prefect1 import getter
from anabranch.executors.dask import DaskExecutor
from anabranch.executors.local import LocalExecutor
from anabranch.executors.threads import LocalDaskExecutor

__all__ = ["DaskExecutor", "LocalDaskExecutor", "LocalExecutor"]

__path__: list[str] = []

if not TYPE_CHECKING:
    __getattr__ = getter("engine.executors")

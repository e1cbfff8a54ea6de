"""Where compiled regions run: in this thread, in threads, on a Dask cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anabranch.base.prefect1 import getter

if TYPE_CHECKING:
    from anabranch.executors.dask import DaskExecutor as DaskExecutor
    from anabranch.executors.local import LocalExecutor as LocalExecutor
    from anabranch.executors.threads import LocalDaskExecutor as LocalDaskExecutor

_HOMES = {"LocalExecutor": "local", "LocalDaskExecutor": "threads", "DaskExecutor": "dask"}

__all__ = ["DaskExecutor", "LocalDaskExecutor", "LocalExecutor"]


def _loaded(name: str) -> Any:
    """Load an executor, and what it needs, when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'anabranch.executors' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"anabranch.executors.{_HOMES[name]}"), name)


__getattr__ = getter("executors", _loaded)

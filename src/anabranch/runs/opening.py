"""Which run store the settings name."""

from __future__ import annotations

import os
from pathlib import Path

from anabranch.errors import RunStoreError
from anabranch.runs.base import RunStore
from anabranch.settings import config
from anabranch.urls import masked


def open_store(backend: str | None = None, *, read_only: bool = False) -> RunStore:
    """The run store that a backend names; nothing is connected to before it is used.

    Parameters
    ----------
    backend
        ``local`` (the file `default_path`), ``sqlite:///path``, ``memory://``, or ``postgresql://…``; None means
        ``config.backend``.
    read_only
        Open it without the right to write, as what only shows history should.

    Raises
    ------
    RunStoreError
        There is no such kind of run store, or what it needs is not installed.
    """
    backend = config.backend if backend is None else backend
    kind = backend.partition(":")[0].partition("+")[0]
    # Each is imported where it is needed: SQLAlchemy alone takes as long as all else that a small flow imports.
    if backend == "local" or kind == "sqlite":
        from anabranch.runs.sqlite import SQLiteRunStore

        return SQLiteRunStore(default_path() if backend == "local" else _path_of(backend), read_only=read_only)
    if kind == "memory":
        from anabranch.runs.sqlite import InMemoryRunStore

        return InMemoryRunStore()
    if kind in ("postgresql", "postgres"):
        from anabranch.runs.sql import PostgreSQLRunStore

        return PostgreSQLRunStore(backend, read_only=read_only)
    raise RunStoreError(f"backend: expected 'local', 'sqlite:///path' or 'postgresql://…', found {masked(backend)!r}")


def default_path() -> Path:
    """Where the run store of this user is: ``runs.path``, or ``runs.db`` in the data directory of anabranch.

    That is ``$ANABRANCH_HOME``, or else ``anabranch`` in ``$XDG_DATA_HOME``, which most often is ``~/.local/share``.
    """
    if config.runs.path:
        return Path(config.runs.path).expanduser().absolute()
    if home := os.environ.get("ANABRANCH_HOME"):
        return Path(home).expanduser().absolute() / "runs.db"
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "anabranch" / "runs.db"


def _path_of(url: str) -> str:
    """The file that a ``sqlite:`` URL names, with SQLAlchemy's three slashes."""
    _, found, path = url.partition(":///")
    if not found or not path or path == ":memory:":
        raise RunStoreError(f"backend: expected 'sqlite:///' and the path of a file, found {url!r}")
    return path

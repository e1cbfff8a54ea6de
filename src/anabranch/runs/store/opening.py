"""Which run store the settings name."""

from __future__ import annotations

import atexit
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from anabranch.base.errors import RunStoreError
from anabranch.base.files import data_directory
from anabranch.base.settings import config
from anabranch.base.texts import masked
from anabranch.runs.store.records import RunStore

_stores: dict[tuple[Any, ...], RunStore] = {}
"""Stores that this process has open: to open and close a file takes longer than many a run."""
_lock = Lock()


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
    if backend == "local" or kind == "sqlite":
        from anabranch.runs.store.sqlite import SQLiteRunStore

        return SQLiteRunStore(default_path() if backend == "local" else _find_path(backend), read_only=read_only)
    if kind == "memory":
        from anabranch.runs.store.sqlite import InMemoryRunStore

        return InMemoryRunStore()
    if kind in ("postgresql", "postgres"):
        try:
            from anabranch.runs.store.postgresql import PostgreSQLRunStore
        except ImportError as error:
            raise RunStoreError(
                f'the run store {masked(backend)} needs the package psycopg: pip install "anabranch[postgres]"'
            ) from error
        return PostgreSQLRunStore(backend, read_only=read_only)
    raise RunStoreError(f"backend: expected 'local', 'sqlite:///path' or 'postgresql://…', found {masked(backend)!r}")


def default_path() -> Path:
    """Where the run store of this user is: ``runs.path``, or ``runs.db`` in the data directory of anabranch.

    That is ``$ANABRANCH_HOME``, or else ``anabranch`` in ``$XDG_DATA_HOME``, which most often is ``~/.local/share``.
    """
    if config.runs.path:
        return Path(config.runs.path).expanduser().absolute()
    return data_directory() / "runs.db"


def _find_path(url: str) -> str:
    """The file that a ``sqlite:`` URL names, after three slashes."""
    _, found, path = url.partition(":///")
    if not found or not path or path == ":memory:":
        raise RunStoreError(f"backend: expected 'sqlite:///' and the path of a file, found {url!r}")
    return path


# ---------------------------------------------------------------------------------------------------------------------
# The store


def current_store() -> RunStore | None:
    """The run store of the settings, None if they name none; it stays open for as long as this process lives.

    Raises
    ------
    RunStoreError
        There is no such store.
    """
    if config.backend == "none":
        return None
    return _kept_open(config.runs.lease_s)


def close_store(path: Path) -> None:
    """Close the run store that is this file, if it is open: its directory goes, or is another's from now on."""
    with _lock:
        for name in [each for each in _stores if path in each]:
            with suppress(RunStoreError):
                _stores.pop(name).close()


def store_to_show() -> RunStore | None:
    """The same run store opened without the right to write: what pages read from.

    It has a connection of its own, so that a page which reads a long run does not hold up one that is being recorded.

    Raises
    ------
    RunStoreError
        There is no such store.
    """
    if config.backend == "none" or config.backend.startswith("memory:"):  # that one is in the writer's own memory
        return current_store()
    return _kept_open(None, read_only=True)


def _kept_open(lease_s: float | None, *, read_only: bool = False) -> RunStore:
    name = (config.backend, default_path(), lease_s, config.runs.patience_s, read_only)
    with _lock:
        if name not in _stores:
            if not _stores:
                atexit.register(_close_stores)
            _stores[name] = open_store(read_only=read_only)
        return _stores[name]


def _close_stores() -> None:
    for store in _stores.values():
        with suppress(RunStoreError):
            store.close()


def is_by_default() -> bool:
    """Whether nobody has asked for this run store."""
    return bool(config.backend == "local" and not config.runs.path)

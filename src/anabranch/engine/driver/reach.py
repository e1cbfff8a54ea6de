"""Whether workers and driver reach the same stores, looked at before anything is sent to the workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

from anabranch.base.errors import PreflightError
from anabranch.definition.frozen import FrozenNode
from anabranch.executors.base import Executor
from anabranch.executors.entry import Sourced

_log = logging.getLogger("anabranch.driver")


def check_reach(nodes: Iterable[FrozenNode], executor: Executor) -> None:
    """Refuse to store values where only one of the processes of a run could read them.

    Parameters
    ----------
    nodes
        Of the flow, completed for the run.
    executor
        One whose workers are other processes.

    Raises
    ------
    PreflightError
        All reasons at once.
    """
    stores: dict[int, tuple[Any, list[str]]] = {}
    for node in nodes:
        if node.policies.storing is not None:
            store = node.policies.storing.result.store
            stores.setdefault(id(store), (store, []))[1].append(node.slug)
    problems = [text for store, slugs in stores.values() for text in _problems(store, slugs, executor)]
    if problems:
        raise PreflightError("values would be stored where they cannot be found again:", problems)


def _problems(store: Any, slugs: list[str], executor: Executor) -> Iterator[str]:
    who = ", ".join(slugs[:5]) + (f" and {len(slugs) - 5} more" if len(slugs) > 5 else "")
    if getattr(store, "of_one_process", False):
        yield (
            f"{who}: results in memory are those of one process, and the tasks run in others; use "
            "LocalResult('results'), or LocalExecutor or LocalDaskExecutor to run them in this process"
        )
    root = getattr(store, "root", None)
    if root is None or not executor.is_elsewhere:
        return
    seen = _seen(root, executor)
    if not seen:
        _log.warning(
            "results of %s go to the directory %s, and no worker could be asked whether it is the same there", who, root
        )
    elif not all(seen):
        yield (
            f"{who}: results would go to the directory {root}, which {seen.count(False)} of {len(seen)} workers do not "
            "share with this machine; use a directory that all of them mount, FileResult('s3://…') or SQLResult"
        )


def _seen(root: str, executor: Executor) -> list[bool]:
    """Of each worker, whether it finds a file that is made here."""
    marker = os.path.join(root, f".anabranch-tmp-{uuid4().hex}")  # swept like any file of a writer that died
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise PreflightError("results cannot be stored:", [f"{root}: {error}"]) from error
    try:
        return [bool(each) for each in executor.ask_workers(Sourced("sees", (marker,)))]
    finally:
        with suppress(OSError):
            os.unlink(marker)

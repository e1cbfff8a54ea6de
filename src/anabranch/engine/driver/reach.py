"""Whether workers can store values, and where the driver reaches them: looked at before anything is sent there."""

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
    """Refuse to store values where only one of the processes of a run could read them, or that workers cannot write.

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
    nodes = list(nodes)
    stores: dict[int, tuple[Any, list[str]]] = {}
    for node in nodes:
        if node.policies.storing is not None:
            store = node.policies.storing.result.store
            stores.setdefault(id(store), (store, []))[1].append(node.slug)
    problems = [text for store, slugs in stores.values() for text in _problems(store, slugs, executor)]
    if problems:
        raise PreflightError("values would be stored where they cannot be found again:", problems)
    lacks = list(_lacks(nodes, executor)) if executor.is_elsewhere else []
    if lacks:
        raise PreflightError("workers lack what values are stored with:", lacks)


def _lacks(nodes: Iterable[FrozenNode], executor: Executor) -> Iterator[str]:
    """What to install where. Tasks that need resources run on some workers only, which may be those that have it."""
    needed: dict[tuple[str, str, str], list[FrozenNode]] = {}
    for node in nodes:
        if node.policies.storing is not None:
            result = node.policies.storing.result
            for part in (result.store, result.serializer):
                for module, extra in getattr(part, "packages", {}).items():
                    needed.setdefault((module, extra, repr(part)), []).append(node)
    answers = executor.ask_workers(Sourced("lacking", (sorted({each[0] for each in needed}),))) if needed else []
    for (module, extra, what), users in needed.items():
        count = sum(module in each for each in answers)
        if count and (count == len(answers) or not all(node.policies.resources for node in users)):
            package = f'"anabranch[{extra}]"' if extra else module
            yield (
                f"{_names([node.slug for node in users])}: {what} needs the package {module}, which {count} of "
                f"{len(answers)} workers do not have; install it there: pip install {package}"
            )


def _names(slugs: list[str]) -> str:
    return ", ".join(slugs[:5]) + (f" and {len(slugs) - 5} more" if len(slugs) > 5 else "")


def _problems(store: Any, slugs: list[str], executor: Executor) -> Iterator[str]:
    who = _names(slugs)
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

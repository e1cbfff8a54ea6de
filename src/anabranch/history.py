"""The history of runs as a run sees it: where it is, how a run gets into it, and what is noted of it there.

Going on with a run is in `continuation`.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import pickle
import socket
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from anabranch import origins
from anabranch.engine.driver import RunPlan
from anabranch.errors import ResumeError, RunExists, RunStoreError
from anabranch.fingerprints import fingerprints
from anabranch.frozen import FrozenGraph
from anabranch.masking import MASK
from anabranch.names import short
from anabranch.parameter import Parameter
from anabranch.parameters import is_secret
from anabranch.recording import Recorder
from anabranch.runs import INTERRUPTED, RunDetails, RunRecord, RunStore, default_path, open_store
from anabranch.secrecy import Secrets
from anabranch.settings import config
from anabranch.shape import Shape

MAX_SHOWN = 500  # characters of a parameter's value that lists of runs are for

_log = logging.getLogger("anabranch.history")
_stores: dict[tuple[Any, ...], RunStore] = {}
"""Stores that this process has open: to open and close a file takes longer than many a run."""
_lock = Lock()


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
    name = (config.backend, default_path(), config.runs.lease_s, config.runs.patience_s)
    with _lock:
        store = _stores.get(name)
        if store is None:
            if not _stores:
                atexit.register(_close_stores)
            store = _stores[name] = open_store()
        return store


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
    name = ("to show", config.backend, default_path(), config.runs.patience_s)
    with _lock:
        store = _stores.get(name)
        if store is None:
            if not _stores:
                atexit.register(_close_stores)
            store = _stores[name] = open_store(read_only=True)
        return store


def _close_stores() -> None:
    for store in _stores.values():
        with suppress(RunStoreError):
            store.close()


def _is_by_default() -> bool:
    """Whether nobody has asked for this run store."""
    return bool(config.backend == "local" and not config.runs.path)


# ---------------------------------------------------------------------------------------------------------------------
# A run that begins


def begin(
    plan: RunPlan, parameters: Iterable[Parameter], *, source: str = "", shape: Shape | None = None
) -> Recorder | None:
    """Record a run that begins; None if the settings say that nothing is recorded.

    A store that was not asked for and cannot be used is no reason not to run: there is a warning.

    Parameters
    ----------
    source
        Where the flow is, so that it is found for resuming: ``file:name``.
    shape
        Of the flow, so that it can be drawn without it.

    Raises
    ------
    RunStoreError
        The store that the settings name cannot be used, or has a run with this id.
    """
    parameters = list(parameters)
    secret = secret_slugs(plan.graph, parameters)
    by_default = {each.name for each in parameters if _is_default(plan, each)}
    try:
        store = current_store()
        if store is None:
            return None
        facts = _facts(source, by_default)
        if shape is not None:
            facts["shape"] = shape.as_data()
        details = _details(plan, secret, facts)
        version = version_of(details.code)
        begins = RunRecord(plan.run_id, plan.name, plan.now(), flow_version=version, details=details)
        ownership = store.create_run(begins)
    except RunStoreError as error:
        if not _is_by_default() or isinstance(error, RunExists):
            raise
        _log.warning("the run is not recorded, and cannot be resumed: %s", error)
        return None
    return Recorder(store, ownership, plan.graph, secrets=secrets_of(plan, secret))


def version_of(code: Mapping[str, str]) -> str:
    """A short text that changes when the code of a flow's tasks does, or which tasks there are."""
    return hashlib.sha256(json.dumps(sorted(code.items())).encode()).hexdigest()[:8] if code else ""


def _facts(source: str, by_default: Collection[str]) -> dict[str, Any]:
    return {"source": source, "by_default": sorted(by_default), "checkpointing": config.checkpointing}


def secret_slugs(graph: FrozenGraph, parameters: Iterable[Parameter]) -> frozenset[str]:
    """Parameters whose values are not recorded: those marked as secret, and those whose names say that they are."""
    marked = {each.name for each in parameters if is_secret(each)}
    return frozenset(slug for slug, node in graph.nodes.items() if node.kind == "parameter" and node.name in marked)


def secrets_of(plan: RunPlan, slugs: Collection[str]) -> Secrets:
    """The values of these parameters, to be kept out of the record."""
    return Secrets({slug: value for slug, value in plan.parameters.items() if slug in slugs}, plan.graph)


def _is_default(plan: RunPlan, parameter: Parameter) -> bool:
    """Whether a secret parameter has the value that the flow gives it by itself."""
    return any(
        not parameter.required and plan.graph.nodes[slug].name == parameter.name and value == parameter.default_value
        for slug, value in plan.parameters.items()
        if isinstance(value, (str, type(None)))
    )


def _details(plan: RunPlan, secret: Collection[str], facts: Mapping[str, Any]) -> RunDetails:
    names = {slug: plan.graph.nodes[slug].name for slug in plan.parameters}
    return RunDetails(
        parameters=shown_parameters(plan, secret),
        parameters_pickle=_pickled({names[s]: value for s, value in plan.parameters.items() if s not in secret}),
        code=fingerprints(plan.graph),
        versions=_versions(),
        plan=json.dumps(facts).encode(),
    )


def shown_parameters(plan: RunPlan, secret: Collection[str]) -> dict[str, Any]:
    """Values of parameters for people, by name; those of these slugs masked."""
    names = {slug: plan.graph.nodes[slug].name for slug in plan.parameters}
    return {names[s]: MASK if s in secret else _shown(value) for s, value in plan.parameters.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, (bool, int, float, type(None))) or (isinstance(value, str) and len(value) <= MAX_SHOWN):
        return value
    return short(value, MAX_SHOWN)


def _pickled(values: Mapping[str, Any]) -> bytes | None:
    """Each value in a pickle of its own, so that one that does not load here does not hide the others."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = origins.dumps(value)
        except Exception as error:  # a lock, a connection: it has to be given again
            _log.warning("parameter %s cannot be recorded, so resuming needs it again: %s", name, error)
    return pickle.dumps(found)


@cache
def _versions() -> dict[str, str]:
    found = {name: getattr(sys.modules[name], "__version__", "") for name in ("anabranch", "dask")}
    return {"python": sys.version.split()[0], **found}


# ---------------------------------------------------------------------------------------------------------------------
# Runs that were


def find(run_id: str) -> tuple[RunStore, RunRecord]:
    """A recorded run, by its id or a beginning of it.

    Raises
    ------
    RunStoreError
        There is none, or several, or no run store.
    """
    store = current_store()
    if store is None:
        raise ResumeError(
            f"run {run_id}: config.backend is 'none', so no runs are recorded; name the run store that it is in"
        )
    return store, store.get_run(run_id)


def is_dead(owner: str, held_since: datetime | None) -> bool:
    """Whether the process that holds a run is known to be gone, so that its lease need not be waited for."""
    import psutil

    host, _, pid = owner.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        process = psutil.Process(int(pid))
        is_another = held_since is not None and process.create_time() > held_since.timestamp() + 1.0
        return bool(is_another or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def as_it_stands(record: RunRecord) -> RunRecord:
    """A run whose driver is known to be gone is interrupted, whatever its lease says."""
    if record.state == "Running" and is_dead(record.owner, record.held_since):
        return replace(record, state=INTERRUPTED, message=f"its driver {record.owner} is gone")
    return record


def source_of(record: RunRecord) -> str:
    """Where the flow of a recorded run was, as ``file:name``; nothing if that is not known or not there any more."""
    source = str(facts_of(record).get("source", ""))
    file = source.rpartition(":")[0]
    return source if file and Path(file).is_file() else ""


def facts_of(record: RunRecord) -> Mapping[str, Any]:
    """What was noted of a run for resuming it, beside its parameters."""
    data = record.details.plan if record.details is not None else None
    try:
        found = json.loads(data or b"{}")
    except ValueError:  # what another version wrote
        return {}
    return found if isinstance(found, dict) else {}

"""A run that begins: how it gets into the run store, and what is noted of it there."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import socket
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

from anabranch.base import context, origins
from anabranch.base.errors import RunExists, RunStoreError
from anabranch.base.masking import MASK, mask
from anabranch.base.names import short
from anabranch.base.settings import config
from anabranch.definition.equality import equal
from anabranch.definition.fingerprints import fingerprints
from anabranch.definition.frozen import FrozenGraph
from anabranch.definition.parameter import Parameter
from anabranch.definition.parameter_values import is_secret
from anabranch.definition.shape import Shape
from anabranch.engine.driver.plan import RunPlan
from anabranch.runs.record.recorder import Recorder
from anabranch.runs.store.opening import current_store, is_by_default
from anabranch.runs.store.records import RunDetails, RunRecord

MAX_SHOWN = 500  # characters of a parameter's value that lists of runs are for

_log = logging.getLogger("anabranch.history")


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
        if plan.date is not None:
            facts["date"] = [plan.date.isoformat(), str(getattr(plan.date.tzinfo, "key", ""))]
        if shape is not None:
            facts["shape"] = shape.as_data()
        details = _details(plan, secret, facts)
        version = version_of(details.code)
        begins = RunRecord(
            plan.run_id,
            plan.name,
            plan.now(),
            flow_version=version,
            parent_run_id=context.parent_run_id(),
            details=details,
        )
        ownership = store.create_run(begins)
    except RunStoreError as error:
        if not is_by_default() or isinstance(error, RunExists):
            raise
        _log.warning("the run is not recorded, and cannot be resumed: %s", error)
        return None
    return Recorder(store, ownership, plan.graph)


def version_of(code: Mapping[str, str]) -> str:
    """A short text that changes when the code of a flow's tasks does, or which tasks there are."""
    return hashlib.sha256(json.dumps(sorted(code.items())).encode()).hexdigest()[:8] if code else ""


def _facts(source: str, by_default: Collection[str]) -> dict[str, Any]:
    return {"source": source, "by_default": sorted(by_default), "checkpointing": config.checkpointing}


def secret_slugs(graph: FrozenGraph, parameters: Iterable[Parameter]) -> frozenset[str]:
    """Parameters whose values are not recorded: those marked as secret, and those whose names say that they are."""
    marked = {each.name for each in parameters if is_secret(each)}
    return frozenset(slug for slug, node in graph.nodes.items() if node.kind == "parameter" and node.name in marked)


def _is_default(plan: RunPlan, parameter: Parameter) -> bool:
    """Whether a secret parameter has the value that the flow gives it by itself."""
    return any(
        not parameter.required
        and plan.graph.nodes[slug].name == parameter.name
        and equal(value, parameter.default_value)
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
        stores=_stores(plan.graph),
    )


def _stores(graph: FrozenGraph) -> tuple[str, ...]:
    """Directories that values go to, each after the name of this machine: who keeps house looks for them there."""
    storing = [node.policies.storing for node in graph.nodes.values() if node.policies.storing is not None]
    stores = [each.result.store for each in storing if each.result is not None]
    if not stores:  # what stores values is loaded where some are stored
        return ()
    from anabranch.results.local import LocalStore

    roots = {store.root for store in stores if isinstance(store, LocalStore)}
    return tuple(f"{socket.gethostname()}:{root}" for root in sorted(roots))


def shown_parameters(plan: RunPlan, secret: Collection[str]) -> dict[str, Any]:
    """Values of parameters for people, by name; those of these slugs masked."""
    names = {slug: plan.graph.nodes[slug].name for slug in plan.parameters}
    return {names[s]: MASK if s in secret else _shown(value) for s, value in plan.parameters.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, (bool, int, float, type(None))):
        return value
    return mask(value) if isinstance(value, str) and len(value) <= MAX_SHOWN else short(value, MAX_SHOWN)


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

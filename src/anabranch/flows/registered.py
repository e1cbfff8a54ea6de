"""Flows of the registry, loaded: from their source, or from the pickle that was stored of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from anabranch.base import origins
from anabranch.base.errors import AnabranchError, FlowLoadError
from anabranch.flows.flow import Flow
from anabranch.flows.loading import (
    LoadedFlow,
    LoadedModule,
    flows_in,
    load_flow,
    load_module,
    shipped_by_value,
    split_target,
)
from anabranch.runs.registry.flow_storage import read_stored
from anabranch.runs.registry.registration import put, record_of
from anabranch.runs.registry.seal import check_seal
from anabranch.runs.store.flows import FlowRecord


def load_registered(record: FlowRecord) -> LoadedFlow:
    """A registered flow with the module that it is from.

    Raises
    ------
    FlowLoadError
        Its file or module is gone, or does not have it any more; or its pickle does not load here.
    SealError
        The settings have a key, and nobody who has it has registered this; or it is sealed, and they have none.
    """
    check_seal(record)
    if record.source:
        try:
            return load_flow(record.source)
        except AnabranchError as error:
            raise FlowLoadError(f"flow {record.name!r}, registered from {record.source}: {error}") from error
    stored = record.code is None
    data = read_stored(record.storage or "") if stored else record.code or b""
    try:
        found = origins.loads(data)
    except Exception as error:  # a pickle runs code, which may raise anything
        text = f"its pickle does not load here: {type(error).__name__}: {error}"
        raise FlowLoadError(f"flow {record.name!r}: {text}; register it again, with this environment") from error
    if not isinstance(found, Flow):
        raise FlowLoadError(
            f"flow {record.name!r}: its pickle holds a {type(found).__name__}, not a flow; register it again"
        )
    return LoadedFlow(found, sys.modules[__name__], Path(os.getcwd()), is_file=False)


def register_target(
    target: str, *, project: str = "", labels: tuple[str, ...] = (), storage: object = "source"
) -> list[FlowRecord]:
    """Register the flows of a file or module: the one that is named, or all of them; all or none.

    Raises
    ------
    FlowLoadError
        It cannot be loaded, or has no flow.
    UnregistrableFlow
        One of the flows cannot be registered.
    """
    place, name, is_file = split_target(target)
    loaded: LoadedFlow | LoadedModule
    if name:
        loaded = load_flow(target)
        flows = {name: loaded.flow}
    else:
        loaded = load_module(target)
        flows = flows_in(loaded.module)
    if not flows:
        raise FlowLoadError(f"{place} has no flow among its variables; write one with `with Flow(…) as flow:`")
    source = os.path.abspath(place) if is_file else place
    with shipped_by_value(loaded, with_neighbours=storage != "source"):
        records = [
            record_of(flow.registrable(f"{source}:{variable}"), project=project, labels=labels, storage=storage)
            for variable, flow in flows.items()
        ]
    return [put(record) for record in records]

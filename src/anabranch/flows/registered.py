"""Flows of the registry, loaded: from their source, or from the pickle that was stored of them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from anabranch.base import origins
from anabranch.base.errors import AnabranchError, FlowLoadError, UnregistrableFlow
from anabranch.base.settings import config
from anabranch.flows.flow import Flow
from anabranch.flows.kept_files import have_changed, pack_files, use_files
from anabranch.flows.loading import (
    LoadedFlow,
    LoadedModule,
    flows_in,
    is_own,
    load_flow,
    load_module,
    neighbours_by_value,
    own_files,
    shipped_by_value,
    split_target,
)
from anabranch.runs.registry.flow_storage import read_stored
from anabranch.runs.registry.registration import check_free, place_of, put, record_of, registry
from anabranch.runs.registry.seal import check_seal, seal_record
from anabranch.runs.store.flows import FlowRecord

_log = logging.getLogger("anabranch.registry")


def load_registered(record: FlowRecord) -> LoadedFlow:
    """A registered flow with the module that it is from.

    Raises
    ------
    FlowLoadError
        Its file or module is gone, or does not have it any more; or its pickle does not load here.
    SealError
        The settings have a key, and nobody who has it has registered this; or it is sealed, and they have none.
    """
    if record.damage:
        raise FlowLoadError(
            f"flow {record.name!r}: its {record.damage} in the registry cannot be read; register it again"
        )
    check_seal(record)
    return _load(record)


def _load(record: FlowRecord) -> LoadedFlow:
    if record.source:
        place = place_of(record.source)
        is_kept = config.service.reload and os.path.exists(place) and have_changed(record.code)
        use_files(record.code if is_kept else None)
        if is_kept:
            _log.warning(
                "%s, or a file beside it, has changed since flow %r was registered: version %s runs, as it was then",
                *(place, record.name, record.version),
            )
        try:
            loaded = load_flow(record.source)
        except AnabranchError as error:
            text = f"flow {record.name!r}, registered from {record.source}: {error}"
            if not is_kept and have_changed(record.code):
                text += f"; it has changed since version {record.version} was registered: mend it and register it"
            raise FlowLoadError(text) from error
        if loaded.flow.name == record.name:
            return loaded
        same = [flow for flow in flows_in(loaded.module).values() if flow.name == record.name]
        if len(same) != 1:
            raise FlowLoadError(
                f"flow {record.name!r}, registered from {record.source}: that is flow {loaded.flow.name!r} now; "
                "register it again"
            )
        return replace(loaded, flow=same[0])
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
    target: str,
    *,
    project: str = "",
    labels: tuple[str, ...] = (),
    storage: object = "source",
    replaces: bool = False,
) -> list[FlowRecord]:
    """Register the flows of a file or module: the one that is named, or all of them; all or none.

    Parameters
    ----------
    replaces
        Whether flows of the same names may be replaced that are registered from elsewhere.

    Raises
    ------
    FlowLoadError
        It cannot be loaded, or has no flow.
    UnregistrableFlow
        One of the flows cannot be registered.
    RegistryError
        A flow of the same name is registered from elsewhere.
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
    _check_names(place, flows)
    file = loaded.module.__file__ or ""
    # A module that is found only from here would not be found by a service.
    source = os.path.abspath(place) if is_file else file if is_own(loaded.module) and file.endswith(".py") else place
    with shipped_by_value(loaded, with_neighbours=storage != "source"):
        records = [
            record_of(flow.registrable(f"{source}:{variable}"), project=project, labels=labels, storage=storage)
            for variable, flow in flows.items()
        ]
    if not is_file or storage != "source":
        check_loads(records)
    check_free(records, replaces=replaces)
    return _put(records)


def register_flows(
    flows: Iterable[Flow],
    *,
    project: str = "",
    labels: Iterable[str] = (),
    storage: object = None,
    replaces: bool = False,
) -> list[FlowRecord]:
    """Register flows that this process has made; all or none.

    Parameters
    ----------
    storage
        None: their file, if they load back from there, else the registry.
    replaces
        As for `register_target`.

    Raises
    ------
    UnregistrableFlow
        One of the flows cannot be registered.
    RegistryError
        A flow of the same name is registered from elsewhere.
    """
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    records = []
    for flow in flows:
        registrable = flow.registrable(f"{flow.where.file}:{flow.name}")
        place = "source" if storage is None and _may_load(flow) else "database" if storage is None else storage
        with neighbours_by_value(flow):
            record = record_of(registrable, project=project, labels=labels, storage=place)
            if storage is None and place == "source" and (problem := _loading_problems([record])[0]):
                _log.info("flow %r is kept in the registry, as it does not load back: %s", flow.name, problem)
                record = record_of(registrable, project=project, labels=labels, storage="database")
                place = "database"
        if storage is not None or place == "database":
            check_loads([record])
        records.append(record)
    check_free(records, replaces=replaces)
    return _put(records)


def _put(records: Iterable[FlowRecord]) -> list[FlowRecord]:
    """Register flows, and keep with those that are loaded from files what these are like now."""
    kept: dict[str, bytes | None] = {}
    for record in records:
        file = place_of(record.source)
        if file.endswith(".py"):
            kept[record.name] = pack_files(own_files(file))
    found = [replace(each, code=kept.get(each.name, each.code)) for each in records]
    return [put(replace(each, seal=seal_record(each))) for each in found]


def flows_gone(records: Iterable[FlowRecord]) -> list[FlowRecord]:
    """Flows that are registered from the files or modules of these, which have them no more."""
    names, places = {each.name for each in records}, {place_of(each.source) for each in records if each.source}
    return [each for each in registry()[1].all() if place_of(each.source) in places and each.name not in names]


def _check_names(place: str, flows: Mapping[str, Flow]) -> None:
    """Refuse two flows of one name, of which the registry could have one."""
    known: dict[str, Flow] = {}
    for flow in flows.values():
        other = known.setdefault(flow.name, flow)
        if other is not flow:
            where = f"{other.where} and {flow.where}"
            raise FlowLoadError(f"{place} has two flows of the name {flow.name!r}: {where}; give each its own")


# Loading back ---------------------------------------------------------------------------------------------------------


def check_loads(records: Sequence[FlowRecord]) -> None:
    """Refuse flows that a process elsewhere could not load as they are registered.

    Raises
    ------
    UnregistrableFlow
        The first of them that cannot be loaded.
    """
    suspect = [each for each in records if each.source or each.storage is not None or _names_own(each.code or b"")]
    for record, problem in zip(suspect, _loading_problems(suspect), strict=True):
        if problem:
            text = f"flow {record.name!r} cannot be registered, as it does not load back"
            raise UnregistrableFlow(text, [f"{problem}; {_CURE}"])


_CURE = (
    "runs load it in a process of their own: write it in a module, outside of functions and of "
    '`if __name__ == "__main__":`, whose imports lie beside it or are installed'
)
_LOADS = "from anabranch.flows.registered import try_loading; try_loading()"
_TRY_S = 120.0


def _may_load(flow: Flow) -> bool:
    """Whether a flow may be found in its file by who loads that: not if it is a module's that has no such flow."""
    file = flow.where.file
    if not Path(file).is_file():
        return False
    modules = [each for each in list(sys.modules.values()) if getattr(each, "__file__", None) == file]
    return not modules or any(
        each.__name__ == "__main__" or any(flow is found for found in flows_in(each).values()) for each in modules
    )


def _loading_problems(records: Sequence[FlowRecord]) -> list[str]:
    """Why records do not load in a process of its own that is elsewhere; nothing for those that do."""
    if not records:
        return []
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LOADS],
        input=pickle.dumps([replace(each, seal="") for each in records]),
        capture_output=True,
        cwd=os.path.abspath(os.sep),
        timeout=_TRY_S,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return [f"the process that loads it ended with {done.returncode}: {said}"] * len(records)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def try_loading() -> None:
    """Load the records on standard input, and write why they do not load to standard output."""
    records = pickle.loads(sys.stdin.buffer.read())
    problems = []
    for record in records:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                _load(record)
        except AnabranchError as error:
            problems.append(str(error))
        else:
            problems.append("")
    sys.stdout.write(f"\n{json.dumps(problems)}\n")
    sys.stdout.flush()


def _names_own(pickled: bytes) -> bool:
    """Whether a pickle names a module that is not installed: what has no such name in it loads anywhere.

    The script that runs is named, and travels as code.
    """
    texts = {text for _, text, _ in pickletools.genops(pickled) if isinstance(text, str)} if pickled else set()
    return any(is_own(sys.modules[name]) for name in texts & (sys.modules.keys() - {"__main__"}))

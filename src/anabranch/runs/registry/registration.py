"""From a flow to its record in the registry: checked as a whole first, so that nothing is ever half registered."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from anabranch.base.errors import (
    OptionError,
    ParameterError,
    RegistryError,
    ScheduleError,
    UnregistrableFlow,
)
from anabranch.base.names import check_name, short
from anabranch.definition.fingerprints import describe_value, fingerprints
from anabranch.definition.frozen import FrozenGraph
from anabranch.definition.parameter import Parameter
from anabranch.definition.parameter_values import is_secret, written
from anabranch.runs.parameters import resolve_parameters
from anabranch.runs.registry.flow_storage import FlowStorage
from anabranch.runs.registry.seal import pack_schedule, seal_record
from anabranch.runs.store.deeds import note
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.opening import current_store
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Registrable:
    """What the registry needs of a flow."""

    name: str
    graph: FrozenGraph
    parameters: Collection[Parameter]
    schedule: Schedule | None
    max_runs: int | None
    timeout_s: float | None = None
    source: str
    """``file:name`` or ``module:name``, where the flow can be loaded from."""
    pickled: Callable[[], bytes]
    notifiers: bytes | None = None
    """As `FlowRecord.notifiers`."""


def registry() -> tuple[RelationalRunStore, FlowTable, SlotQueue]:
    """The run store of the settings, and in it the flows and the runs that wait.

    Raises
    ------
    RegistryError
        There is no run store.
    """
    store = current_store()
    if not isinstance(store, RelationalRunStore):
        raise RegistryError("backend is 'none', so flows cannot be registered; set it to 'local' or postgresql://…")
    return store, FlowTable(store.database), SlotQueue(store.database)


def record_of(
    flow: Registrable, *, project: str = "", labels: Iterable[str] = (), storage: object = "source"
) -> FlowRecord:
    """The record of a flow.

    Parameters
    ----------
    project, labels
        For people, and for lists.
    storage
        ``"source"``: the flow is loaded from its file or module; ``"database"``: it is pickled into the registry; a
        `FlowStorage`: it is pickled there.

    Raises
    ------
    UnregistrableFlow
        It cannot be registered; all reasons at once.
    """
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    problems = _schedule_problems(flow)
    if project and not isinstance(project, str):
        problems.append(f"project: expected a name, found {short(project)}")
    for each in labels:
        try:
            check_name(each, "labels")
        except OptionError as error:
            problems.append(str(error))
    source, pickled = flow.source, None
    if storage == "source":
        file = place_of(source)
        if (file.endswith(".py") or "/" in file or file.startswith("<")) and not Path(file).is_file():
            problems.append(f"its code is in {file}, which is no file; register it with storage='database'")
    elif storage == "database" or isinstance(storage, FlowStorage):
        source = ""
        try:
            pickled = flow.pickled()
        except Exception as error:  # whatever a user's object raises when it is pickled
            problems.append(f"it cannot be pickled: {type(error).__name__}: {error}")
    else:
        problems.append(f"storage: expected 'source', 'database' or a flow storage, found {short(storage)}")
    schedule = None
    given = _with_plain_parameters(flow.schedule, flow.parameters) if flow.schedule is not None else None
    if given is not None:
        try:
            schedule = pack_schedule(given)
        except Exception as error:  # a filter may hold anything
            problems.append(f"its schedule cannot be pickled: {type(error).__name__}: {error}")
    if problems:
        raise UnregistrableFlow(f"flow {flow.name!r} cannot be registered", problems)
    parameters = {each.name: _schema(each) for each in flow.parameters}
    record = FlowRecord(
        name=flow.name,
        fingerprint=_fingerprint(flow.graph, parameters),
        source=source,
        project=project,
        code=pickled if storage == "database" else None,
        storage=storage.put(flow.name, pickled) if isinstance(storage, FlowStorage) and pickled is not None else None,
        graph=_drawn(flow.graph),
        parameters={
            "type": "object",
            "properties": parameters,
            "required": [each.name for each in flow.parameters if each.required],
            "additionalProperties": False,
        },
        schedule=schedule,
        schedule_text=_schedule_text(given, schedule),
        overlap=flow.schedule.overlap if flow.schedule is not None else "allow",
        catch_up=flow.schedule.catch_up if flow.schedule is not None else "all",
        max_runs=flow.max_runs,
        timeout_s=flow.timeout_s,
        labels=labels,
        notifiers=flow.notifiers,
    )
    return replace(record, seal=seal_record(record))


def _schedule_text(schedule: Schedule | None, pickled: bytes | None) -> str:
    """The schedule in words, with a mark that changes when it does."""
    if schedule is None:
        return ""
    return f"{schedule.describe()} [{hashlib.sha256(_marked(schedule, pickled or b'')).hexdigest()[:8]}]"


def _marked(schedule: Schedule, packed: bytes) -> bytes:
    """What is the same for the same schedule: not its pickle, in which sets have an order of each process's own."""
    if packed.startswith(b"{"):
        return packed
    clocks = [(type(each), {**vars(each), "zone": str(each.zone)}) for each in schedule.clocks]
    found = describe_value([clocks, {name: each for name, each in vars(schedule).items() if name != "clocks"}])
    return packed if found.gap else found.text.encode()


def _with_plain_parameters(schedule: Schedule, parameters: Collection[Parameter]) -> Schedule:
    """The schedule with the parameters of its runs as JSON has them, as far as their types can write and read them."""
    twin = copy.copy(schedule)
    clocks = [copy.copy(each) for each in schedule.clocks]
    for clock in clocks:
        clock.parameter_defaults = _plain_parameters(clock.parameter_defaults, parameters)
    twin.clocks = tuple(clocks)
    return twin


def _plain_parameters(values: Mapping[str, Any], parameters: Collection[Parameter]) -> dict[str, Any]:
    known = {each.name: each for each in parameters}
    return {name: written(known[name], value) if name in known else value for name, value in values.items()}


def put(record: FlowRecord) -> FlowRecord:
    """Register a flow; the version it has now is in what is given back."""
    store, flows, _ = registry()
    registered = flows.put(record, now=read_clock(store))
    note(
        store.database,
        "register",
        registered.name,
        f"version {registered.version}, of {registered.source or 'the registry'}",
    )
    return registered


def place_of(source: str) -> str:
    """The file or module of a source, without the name of the flow."""
    place = source.partition(".py:")[0] if ".py:" in source else source.rpartition(":")[0]
    return os.path.realpath(f"{place}.py") if ".py:" in source else place


def check_free(records: Iterable[FlowRecord], *, replaces: bool = False) -> None:
    """Refuse to replace flows that others have registered: from another file that is still there, or another project.

    Raises
    ------
    RegistryError
        A flow of the same name is registered from elsewhere.
    """
    known = {each.name: each for each in registry()[1].all()} if not replaces else {}
    for record in records:
        before = known.get(record.name)
        if before is None:
            continue
        place, there = place_of(record.source), place_of(before.source)
        if place and there:
            is_another = place != there and (not there.endswith(".py") or Path(there).is_file())
        else:
            is_another = bool(record.project and before.project and record.project != before.project)
        if is_another:
            raise RegistryError(
                f"flow {record.name!r} is registered from {_shown(before)}, and this one is from {_shown(record)}; "
                "give it another name, or replace the other: --replace, replace=True, or `anabranch unregister` first"
            )


def _shown(record: FlowRecord) -> str:
    place = place_of(record.source) or "a pickle"
    return f"{place} (project {record.project!r})" if record.project else place


def read_clock(store: RelationalRunStore) -> datetime:
    """What the clock says that all services go by."""
    return datetime.fromtimestamp(store.database.now() / 1e6, UTC)


# Problems -------------------------------------------------------------------------------------------------------------


def _schedule_problems(flow: Registrable) -> list[str]:
    schedule = flow.schedule
    if schedule is None:
        return []
    problems = []
    for number, clock in enumerate(schedule.clocks):
        where = f"clock {number + 1} of its schedule" if len(schedule.clocks) > 1 else "its schedule"
        known = {each.name: each for each in flow.parameters}
        problems += [
            f"{where}: {name}: a secret would be stored in the database; let the flow find it"
            for name in clock.parameter_defaults
            if name in known and is_secret(known[name])
        ]
        try:
            resolve_parameters(flow.name, flow.parameters, clock.parameter_defaults)
            jsonify(_plain_parameters(clock.parameter_defaults, flow.parameters))
        except ParameterError as error:
            problems += [f"{where}: {problem}" for problem in error.problems]
        except ValueError as error:
            problems.append(f"{where}: parameter_defaults: {error}")
    try:
        if not schedule.next(1):
            problems.append("its schedule has no times any more; give it a later end_date, or none")
    except ScheduleError as error:
        problems.append(f"its schedule: {error}")
    return problems


def parameter_problems(record: FlowRecord, parameters: Mapping[str, Any]) -> list[str]:
    """What is wrong with the names of parameters for a run in the queue. Values are checked when it begins."""
    known = record.parameters.get("properties", {})
    unknown = [name for name in parameters if name not in known]
    secret = record.secrets_among(parameters)
    missing = [name for name in record.parameters.get("required", ()) if name not in parameters]
    problems = [f"there is no parameter {name!r}" for name in unknown]
    problems += [f"{name}: a secret would be stored in the database; let the flow find it" for name in secret]
    return [*problems, *(f"{name}: a value is required" for name in missing)]


def jsonify(parameters: Any) -> dict[str, Any]:
    """Values of parameters as JSON has them: dates and times as texts.

    Raises
    ------
    ValueError
        One of them JSON does not have.
    """

    def plain(value: object) -> str:
        if isinstance(value, (date, Path)):
            return value.isoformat() if isinstance(value, date) else str(value)
        raise ValueError(f"a {type(value).__name__} cannot be kept until the run; use text, numbers, dates or lists")

    found: dict[str, Any] = json.loads(json.dumps(dict(parameters), default=plain))
    return found


# Texts ----------------------------------------------------------------------------------------------------------------


def _fingerprint(graph: FrozenGraph, parameters: dict[str, Any]) -> str:
    text = json.dumps([sorted(fingerprints(graph).items()), parameters, list(graph.reference)], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _drawn(graph: FrozenGraph) -> dict[str, Any]:
    nodes = [
        {"slug": node.slug, "name": node.name, "kind": node.kind, "is_map": node.is_map}
        for node in graph.nodes.values()
    ]
    edges = [[edge.upstream, node.slug, edge.kind] for node in graph.nodes.values() for edge in node.edges]
    return {"nodes": nodes, "edges": edges}


def _schema(parameter: Parameter) -> dict[str, Any]:
    """JSON schema of a parameter; no default of one that is secret."""
    schema: dict[str, Any] = {}
    if parameter.type is not None:
        from pydantic import TypeAdapter

        try:
            schema = TypeAdapter(parameter.type).json_schema()
        except Exception:  # a class that has none
            schema = {}
    if parameter.choices is not None:
        schema["enum"] = [
            each if isinstance(each, (str, int, float, bool)) else short(each) for each in parameter.choices
        ]
    if is_secret(parameter):
        schema["writeOnly"] = True
    elif not parameter.required:
        try:
            schema["default"] = jsonify({"value": parameter.default_value})["value"]
        except (TypeError, ValueError):
            schema["description"] = f"default: {short(parameter.default_value)}"
    return schema

"""Units → regions: Dask graphs of one task per unit, with what they need as dependencies.

The graph carries our entry function as source text, bytes and our keys, and nothing of the user's: the scheduler has to
load graphs, and one task that a worker cannot load ends every worker of a cluster. Graphs are plain dicts: nesting
``delayed`` calls is super-linear.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dask._task_spec import DataNode, Task, TaskRef

from anabranch.engine.units.shipment import Shipment, own_origin
from anabranch.engine.units.units import CutFrom, Key, Program, Report, Unit
from anabranch.engine.worker.arrival import refused_outcome
from anabranch.executors.base import Region
from anabranch.executors.entry import Sourced

MAX_CUTS = 1_000  # lists that one chunk takes elements of, for keys that are all different


def program_key(shipment: Shipment, token: str) -> Key:
    """Key of a run's program; it has another one where the code goes with it, as keys must not change their values."""
    return (f"anabranch.program-{token}", int(shipment.archive is not None))


def compile_program(shipment: Shipment, token: str) -> Region:
    """A region that holds what a run's units need for as long as its key is held."""
    key = program_key(shipment, token)
    return Region({key: DataNode(key, shipment.content)}, (key,), is_data=True)


def compile_units(
    units: Sequence[Unit],
    token: str,
    *,
    program: Program | Shipment,
    resources: Callable[[Unit], dict[str, float]],
    priority: Callable[[Unit], int],
    is_main: bool = False,
    is_told: bool = True,
) -> list[Region]:
    """Regions for units, one for each combination of resources and priority.

    Tasks hold the `program`: as it is, with units as they are, for executors in this process; or pickled, with pickled
    units, where it is small. Otherwise they refer to the key of `compile_program`. `is_told`: a driver hears of units
    that a worker refuses.
    """
    shipped: Any = program
    if isinstance(program, Shipment):
        shipped = program.content if program.is_inline else TaskRef(program_key(program, token))
    sender = program.origin if isinstance(program, Shipment) else own_origin()
    enter, enter_cut = Sourced("enter", (sender, is_told)), Sourced("enter_cut", (sender,))
    graphs: dict[tuple[Any, int], dict[Key, Task]] = {}
    wanted: dict[tuple[Any, int], list[Key]] = {}
    for unit in units:
        group = (tuple(sorted(resources(unit).items())), priority(unit))
        graph = graphs.setdefault(group, {})
        wanted.setdefault(group, []).append(unit.key)
        places = {key: key for key in unit.upstream_keys()}
        if isinstance(program, Shipment):
            for number, (slug, source) in enumerate(unit.elements.items()):
                if isinstance(source, CutFrom):
                    # Dask runs this where the list is, so that its elements and not all of it travel.
                    name, _, run = unit.key[0].rpartition("-")
                    place = (f"{name}_cut-{run}", unit.key[1] * MAX_CUTS + number)
                    graph[place] = Task(
                        place,
                        enter_cut,
                        token,
                        shipped,
                        slug,
                        pickle.dumps((source, unit.indices)),
                        TaskRef(source.key),
                    )
                    places[source.key] = place
        graph[unit.key] = Task(
            unit.key,
            enter,
            unit.key,
            pickle.dumps((unit.nodes, unit.indices)) if isinstance(program, Shipment) else None,
            token,
            shipped,
            _Sealed(program.dumps(unit)) if isinstance(program, Shipment) else unit,
            tuple(places),
            is_main,
            *(TaskRef(key) for key in places.values()),
        )
    return [
        Region(graph, tuple(wanted[group]), resources=dict(group[0]), priority=group[1])
        for group, graph in graphs.items()
    ]


class _Sealed(bytes):
    """Bytes that arrive as such. Dask hashes the text of all that it is sent: of 100 MB, that takes seconds."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"  # keys tell units apart

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(self),)


def read_report(payload: Any) -> Report:
    """A report as it arrived: pickled by a worker, as it is, or what a worker says that refused the unit."""
    if isinstance(payload, Mapping):
        refused = refused_outcome(payload).report
        assert isinstance(refused, Report)
        return refused
    report: Report = pickle.loads(payload) if isinstance(payload, bytes) else payload
    return report


def wants_code(payload: Any) -> bool:
    """Whether a worker has refused a unit only because it does not have this package."""
    return isinstance(payload, Mapping) and payload["kind"] == "code"


def unfit_worker(payload: Any) -> str | None:
    """Address of a worker that has refused a unit and would refuse any other of this run."""
    if isinstance(payload, Mapping) and payload["kind"] in ("python", "version"):
        return payload.get("worker")
    return None


def handed_back(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a worker says that refused a unit, where another one is to have it."""
    return {**payload, "kind": "code"}

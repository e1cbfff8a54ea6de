"""Units → regions: Dask graphs of one task per unit, with what they need as dependencies.

The graph carries our entry function, bytes and our keys, and nothing of the user's: the scheduler has to load graphs,
and one task that a worker cannot load ends every worker of a cluster. Graphs are plain dicts: nesting ``delayed`` calls
is super-linear.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
from dask._task_spec import DataNode, Task, TaskRef

from anabranch.engine.units import CutFrom, Key, Program, Report, Unit
from anabranch.engine.values import dumps
from anabranch.errors import UnsendableError
from anabranch.executors.base import Region

MAX_CUTS = 1_000  # lists that one chunk takes elements of, for keys that are all different


def enter(token: str, program: Any, payload: Any, keys: Any, is_main: bool, /, *outcomes: Any) -> Any:
    """Run a unit: the function of every Dask task of ours. Pickled by value, so that a scheduler needs no anabranch."""
    from anabranch.engine.worker import execute

    return execute(token, program, payload, dict(zip(keys, outcomes, strict=True)), is_main=is_main)


def enter_cut(slug: str, indices: bytes, outcome: Any, /) -> Any:
    """Cut a chunk's elements from a list, where the list is."""
    from anabranch.engine.worker import cut_elements

    return cut_elements(slug, indices, outcome)


enter_cut.__module__ = "__main__"
enter.__module__ = "__main__"  # cloudpickle takes functions of __main__ by value, and Dask then asks cloudpickle


def pickled_program(program: Program) -> bytes:
    """A run's program as bytes.

    Raises
    ------
    UnsendableError
        Functions, constants or parameters that do not pickle; all of them are named.
    """
    try:
        data: bytes = cloudpickle.dumps(program)
    except Exception as error:  # pickling runs the user's code
        raise UnsendableError("this flow cannot be sent to workers:", _unsendable(program) or [str(error)]) from error
    return data


def _unsendable(program: Program) -> list[str]:
    parts: list[tuple[str, Any]] = [(f"parameter {slug!r}", value) for slug, value in program.values.items()]
    for node in program.nodes.values():
        parts.append((f"the function of task {node.slug!r} ({node.where})", node.signature.function))
        parts.append((f"an option of task {node.slug!r} ({node.where})", node.policies))
        parts += [(f"argument {name!r} of {node.slug!r} ({node.where})", each) for name, each in node.arguments.items()]
    problems = []
    for name, part in parts:
        try:
            cloudpickle.dumps(part)
        except Exception as error:
            problems.append(f"{name}: {type(error).__name__}: {error}")
    return problems


def program_key(token: str) -> Key:
    """Key of a run's program."""
    return (f"anabranch.program-{token}", 0)


def compile_program(data: bytes, token: str) -> Region:
    """A region that holds a run's pickled program for as long as its key is held."""
    key = program_key(token)
    return Region({key: DataNode(key, data)}, (key,), is_data=True)


def compile_units(
    units: Sequence[Unit],
    token: str,
    *,
    program: Program | bytes | None,
    resources: Callable[[Unit], dict[str, float]],
    priority: Callable[[Unit], int],
    is_main: bool = False,
) -> list[Region]:
    """Regions for units, one for each combination of resources and priority.

    Tasks hold the `program`: as it is, with units as they are, for executors in this process; or pickled, with pickled
    units, where it is small. Without one they refer to the key of `compile_program`, which makes Dask prefer the worker
    that has it.
    """
    graphs: dict[tuple[Any, int], dict[Key, Task]] = {}
    wanted: dict[tuple[Any, int], list[Key]] = {}
    for unit in units:
        group = (tuple(sorted(resources(unit).items())), priority(unit))
        graph = graphs.setdefault(group, {})
        wanted.setdefault(group, []).append(unit.key)
        places = {key: key for key in unit.upstream_keys()}
        if not isinstance(program, Program):
            for number, (slug, source) in enumerate(unit.elements.items()):
                if isinstance(source, CutFrom):
                    # Dask runs this where the list is, so that its elements and not all of it travel.
                    name, _, run = unit.key[0].rpartition("-")
                    place = (f"{name}_cut-{run}", unit.key[1] * MAX_CUTS + number)
                    graph[place] = Task(place, enter_cut, slug, dumps(unit.indices), TaskRef(source.key))
                    places[source.key] = place
        graph[unit.key] = Task(
            unit.key,
            enter,
            token,
            program if program is not None else TaskRef(program_key(token)),
            unit if isinstance(program, Program) else dumps(unit),
            tuple(places),
            is_main,
            *(TaskRef(key) for key in places.values()),
        )
    return [
        Region(graph, tuple(wanted[group]), resources=dict(group[0]), priority=group[1])
        for group, graph in graphs.items()
    ]


def read_report(payload: Any) -> Report:
    """A report as it arrived: pickled by a worker, or as it is."""
    report: Report = pickle.loads(payload) if isinstance(payload, bytes) else payload
    return report

"""Units → regions: Dask graphs of one task per unit, with what they need as dependencies.

The graph carries our entry function, bytes and our keys, and nothing of the user's: the scheduler has to load graphs,
and one task that a worker cannot load ends every worker of a cluster. Graphs are plain dicts: nesting ``delayed`` calls
is super-linear.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from dask._task_spec import DataNode, Task, TaskRef

from anabranch.engine.units import Key, Program, Report, Unit, UnitOutcome
from anabranch.engine.values import dumps
from anabranch.executors.base import Region


def enter(token: str, program: Any, payload: Any, keys: Any, is_main: bool, /, *outcomes: Any) -> Any:
    """Run a unit: the function of every Dask task of ours. Pickled by value, so that a scheduler needs no anabranch."""
    from anabranch.engine.worker import execute

    return execute(token, program, payload, dict(zip(keys, outcomes, strict=True)), is_main=is_main)


enter.__module__ = "__main__"  # cloudpickle takes functions of __main__ by value, and Dask then asks cloudpickle


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
    groups: dict[tuple[Any, int], dict[Key, Task]] = {}
    for unit in units:
        keys = tuple(unit.keys())
        task = Task(
            unit.key,
            enter,
            token,
            program if program is not None else TaskRef(program_key(token)),
            unit if isinstance(program, Program) else dumps(unit),
            keys,
            is_main,
            *(TaskRef(key) for key in keys),
        )
        amounts = resources(unit)
        groups.setdefault((tuple(sorted(amounts.items())), priority(unit)), {})[unit.key] = task
    return [
        Region(graph, tuple(graph), resources=dict(amounts), priority=level)
        for (amounts, level), graph in groups.items()
    ]


def report_of(outcome: UnitOutcome) -> Report | None:
    """The report that lies beside a unit's values."""
    return outcome.report


def read_report(payload: Any) -> Report:
    """A report as it arrived: pickled by a worker, or as it is."""
    report: Report = pickle.loads(payload) if isinstance(payload, bytes) else payload
    return report

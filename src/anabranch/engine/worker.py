"""Where a unit arrives: loads what it needs, runs it, sends the report. Called inside a Dask task."""

from __future__ import annotations

import pickle
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import cloudpickle

from anabranch.engine.columns import whole_outcome
from anabranch.engine.cutting import cut
from anabranch.engine.failures import describe, revive
from anabranch.engine.prints import captured
from anabranch.engine.task_runner import Environment
from anabranch.engine.unit_runner import run_unit
from anabranch.engine.units import (
    Column,
    ColumnReport,
    Key,
    Outcome,
    Program,
    Report,
    Sealed,
    SingleReport,
    Unit,
    UnitOutcome,
)
from anabranch.engine.values import width_of
from anabranch.errors import CodeNotLoadable
from anabranch.states import Failed

_PROGRAMS: OrderedDict[str, Program] = OrderedDict()
_LOCK = threading.Lock()
MAX_PROGRAMS = 16  # runs that one worker process works on at the same time, generously


def execute(
    token: str,
    program: Program | bytes,
    payload: Unit | bytes,
    outcomes: dict[Key, UnitOutcome],
    *,
    is_main: bool = False,
) -> UnitOutcome:
    """Run a unit and give its outcome; in a Dask worker, send the report first.

    Parameters
    ----------
    token
        The run's, under which its program is kept in this process.
    program, payload
        The program and the unit, or their pickles.
    outcomes
        Outcomes of other units that this one needs.
    """
    worker = _dask_worker()
    unit: Unit = pickle.loads(payload) if isinstance(payload, bytes) else payload
    try:
        loaded = load_program(token, program) if isinstance(program, bytes) else program
        opened = {key: each.open() if isinstance(each, Sealed) else each for key, each in outcomes.items()}
    except BaseException as error:  # the user's modules run while they are imported, and their classes while loaded
        outcome = _not_loadable(unit, error)
    else:
        environment = Environment(loaded, worker=worker.address if worker is not None else "local", is_main=is_main)
        outcome = _run(unit, environment, opened, captures=worker is not None)
    if worker is not None:
        # Sent before the value is announced, so that it is there first; the run's token is the topic.
        worker.log_event(token, (*unit.key, dumps_report(outcome.report)))
    return outcome


def dumps_report(report: Report | None) -> bytes:
    """A report as bytes: by plain pickle, which is many times quicker, where that can."""
    try:
        return pickle.dumps(report, protocol=5)
    except Exception:  # a state that task code made may hold anything
        data: bytes = cloudpickle.dumps(report)
        return data


def _run(unit: Unit, environment: Environment, outcomes: dict[Key, UnitOutcome], *, captures: bool) -> UnitOutcome:
    """Run a unit; take its prints where they must travel or be logged."""
    nodes = environment.program.nodes
    if not captures and not any(nodes[slug].policies.log_stdout for slug in unit.nodes):
        outcome, report = run_unit(unit, environment, outcomes)
    else:
        with captured() as lines:
            outcome, report = run_unit(unit, environment, outcomes)
        report = replace(report, prints=lines.all())
    outcome.report = report
    return outcome


def cut_elements(slug: str, indices: bytes, sealed: UnitOutcome | Sealed) -> UnitOutcome:
    """The elements of an upstream list that a chunk needs, to be sent to where the chunk runs."""
    outcome = sealed.open() if isinstance(sealed, Sealed) else sealed
    elements = cut(outcome.singles[slug].value, pickle.loads(indices))
    share = len(elements) / max(1, width_of(outcome.singles[slug].value))
    return UnitOutcome(cut=list(elements), nbytes=int(outcome.nbytes * share))


def collect_results(token: str, data: bytes, last: Unit, outcomes: dict[Key, UnitOutcome]) -> dict[str, Any]:
    """Values of some nodes by slug; raises the exception of one that failed."""
    program = load_program(token, data)
    opened = {key: each.open() if isinstance(each, Sealed) else each for key, each in outcomes.items()}
    values: dict[str, Any] = {}
    for slug in last.nodes:
        outcome = whole_outcome(slug, last, program, opened)
        if not outcome.state.is_successful():
            raise revive(outcome.state.failure, outcome.state.message)
        values[slug] = outcome.value
    return values


def load_program(token: str, data: bytes) -> Program:
    """The program of a run: loaded once by each process."""
    with _LOCK:
        program = _PROGRAMS.get(token)
        if program is None:
            program = _PROGRAMS[token] = pickle.loads(data)
            while len(_PROGRAMS) > MAX_PROGRAMS:
                _PROGRAMS.popitem(last=False)
        return program


def _dask_worker() -> Any:  # a distributed.Worker, or None outside of one
    import sys

    if "distributed.worker" not in sys.modules:
        return None
    from distributed.worker import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def _not_loadable(unit: Unit, error: BaseException) -> UnitOutcome:
    """The outcome of a unit whose code cannot be loaded here: each of its task runs has failed."""
    text = f"code or values of this flow cannot be loaded on the worker: {type(error).__name__}: {error}"
    now = time.time()
    failure = describe(CodeNotLoadable(text))
    state = Failed(message=text, failure=failure)
    value = CodeNotLoadable(text)
    if unit.indices is None:
        singles = tuple(SingleReport(slug, state) for slug in unit.nodes)
        outcome = UnitOutcome(singles={slug: Outcome(state, value) for slug in unit.nodes})
        outcome.report = Report(unit.key, singles=singles, started=now)
        return outcome
    width = len(unit.indices)
    codes, records = bytes([Failed.code]) * width, dict.fromkeys(unit.indices, state)
    outcome = UnitOutcome(columns={s: Column(unit.indices, codes, [value] * width, records) for s in unit.nodes})
    columns = tuple(ColumnReport(slug, codes, records) for slug in unit.nodes)
    outcome.report = Report(unit.key, columns=columns, indices=unit.indices, started=now)
    return outcome

"""Where a unit arrives: loads what it needs, runs it, sends the report. Called inside a Dask task."""

from __future__ import annotations

import asyncio
import contextlib
import io
import pickle
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import cloudpickle

from anabranch.base import known_secrets, origins
from anabranch.base.errors import CodeNotLoadable, OutsideFlowError, VersionMismatch
from anabranch.base.states import Failed, Success
from anabranch.base.texts import headline_of
from anabranch.engine.isolation import calling
from anabranch.engine.isolation.devices import NOTHING, RESOURCE, Devices, Share
from anabranch.engine.logs import capture
from anabranch.engine.logs.lines import logs_topic
from anabranch.engine.logs.outbox import Outbox, whole_log_path
from anabranch.engine.logs.prints import captured
from anabranch.engine.units.columns import OutcomesChanged, held_outcome, whole_outcome
from anabranch.engine.units.elements import Unread, read, width_of
from anabranch.engine.units.failures import describe, restore
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.outcomes import UnitOutcome, open_parcel
from anabranch.engine.units.units import Before, Column, ColumnReport, Key, Outcome, Program, Report, SingleReport, Unit
from anabranch.engine.worker import interim, slots
from anabranch.engine.worker.interim import Channel
from anabranch.engine.worker.masked import masked_report
from anabranch.engine.worker.seclusion import PROCESS
from anabranch.engine.worker.task_runner import Environment
from anabranch.engine.worker.unit_runner import learn, run_unit
from anabranch.executors.entry import Parcel

NO_KEY: Key = ("", 0)
"""Comes with interim reports, of which no task's own is expected."""
BEFORE = "anabranch-before"  # name of what a task carries from its first run to the next
MAX_BEFORE_NBYTES = 32_768  # the scheduler keeps it for as long as it holds the key: a small value has its place
MAX_BEFORE_CHUNK_NBYTES = 4096  # of which there may be very many
_PROGRAMS: OrderedDict[str, Program] = OrderedDict()
_LOCK = threading.Lock()
MAX_PROGRAMS = 16  # runs that one worker process works on at the same time, generously


def execute(
    token: str,
    program: Program | bytes,
    payload: Unit | bytes,
    outcomes: dict[Key, UnitOutcome],
    key: Key,
    outline: bytes | None,
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
    key, outline
        The unit's, which are known even where the payload does not load.
    """
    worker = _dask_worker()
    before: Before | None = None
    try:
        loaded = load_program(token, program) if isinstance(program, bytes) else program
        unit: Unit = origins.loads(payload) if isinstance(payload, bytes) else payload
        if (before := _reported_before(worker, key)) is not None:
            unit = unit.again(before)
        learn(loaded, unit)
        opened = {each: opened_outcome(outcome) for each, outcome in outcomes.items()}
    except BaseException as error:  # the user's modules run while they are imported, and their classes while loaded
        nodes, indices = (payload.nodes, payload.indices) if isinstance(payload, Unit) else read_outline(outline)
        outcome = not_loaded(key, nodes, indices, error)
    else:
        environment = Environment(loaded, worker=worker.address if worker is not None else "local", is_main=is_main)
        environment = replace(environment, in_process=not isinstance(program, bytes), channel=_channel(worker, token))
        if (doubles := loaded.doubles) is not None:
            environment = replace(environment, clock=doubles.time, sleep=doubles.sleep, stopwatch=doubles.time)
        with PROCESS.entered(alone=unit.is_suspect), _devices(worker, unit, environment) as share:
            if worker is not None:
                _take_logs(worker, token, loaded)
            if unit.is_suspect and worker is not None:
                announce(worker, token, unit.key)
            has_permit = before is None or not any(loaded.nodes[slug].policies.is_limited for slug in unit.nodes)
            if share is None or not has_permit:  # only the driver gets one
                outcome = handed_back(key, unit.nodes, unit.indices)
            else:
                if share.parts:
                    place = f"{environment.worker} {RESOURCE} {','.join(share.names)}"
                    environment = replace(environment, share=share, worker=place)
                outcome = _run(unit, environment, opened, captures=worker is not None)
    if worker is not None:
        capture.flush(token)  # what a unit has logged comes before its report
        # Sent before the value is announced, so that it is there first; the run's token is the topic.
        worker.log_event(token, (*key, dumps_report(outcome.report)))
        if before is None and isinstance(outcome.report, Report):
            _remember_report(worker, key, outcome.report)
    return outcome


def _devices(worker: Any, unit: Unit, environment: Environment) -> AbstractContextManager[Share | None]:
    """The devices that a unit has of its worker's."""
    nodes = [environment.program.nodes[slug] for slug in unit.nodes]
    amount = nodes[0].policies.resources.get(RESOURCE)
    if worker is None or not amount:
        return contextlib.nullcontext(NOTHING)
    with _LOCK:
        devices: Devices = vars(worker).setdefault("anabranch_devices", Devices())
    channel = environment.channel
    return devices.held(
        amount,
        worker.state.total_resources.get(RESOURCE, 0),
        is_over=lambda: channel is not None and not channel.is_wanted(unit.key),
        is_alone=worker.state.nthreads == 1 and not any(node.is_awaited for node in nodes),
        clear=calling.clear,
    )


def _channel(worker: Any, token: str) -> Channel | None:
    """The way to the driver for what it is told before a unit has ended."""
    if worker is None:
        return interim.channel_of(token)

    def send(report: Report) -> None:
        worker.log_event(token, (*NO_KEY, dumps_report(report)))

    def is_wanted(key: Key) -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    return interim.FunctionChannel(send, is_wanted)


def untold(token: str) -> list[bytes]:
    """Pickled reports of what has ended of a run in this process and was not told."""
    return [dumps_report(report) for report in interim.news_of(token)]


def _reported_before(worker: Any, key: Key) -> Before | None:
    """What was reported of a unit that Dask makes again, where the scheduler has let it be known."""
    task = worker.state.tasks.get(key) if worker is not None else None
    data = (task.annotations or {}).get(BEFORE) if task is not None else None
    return pickle.loads(data) if data is not None else None


def _remember_report(worker: Any, key: Key, report: Report) -> None:
    """Let the scheduler know what whoever makes this unit again must know, see `anabranch.executors.deaths`."""
    task = worker.state.tasks.get(key)
    limit = MAX_BEFORE_NBYTES if report.indices is None else MAX_BEFORE_CHUNK_NBYTES
    for in_full in (True, False):
        data = dumps_report(report.as_before(in_full=in_full))
        if task is not None and len(data) <= limit:
            task.metadata[BEFORE] = data
            return


def announce(worker: Any, token: str, key: Key) -> None:
    """Tell the driver that a unit begins, and wait until the scheduler knows: the next moment may be the last."""
    from distributed.utils import sync

    with contextlib.suppress(Exception):  # without an announcement a death is not held against the unit: that is all
        sync(worker.loop, worker.scheduler.log_event, topic=token, msg=(*key, None), callback_timeout=10)


def dumps_report(report: object) -> bytes:
    """A report as bytes, as it is sent now: by plain pickle, which is many times quicker, where that can."""
    if isinstance(report, Report):
        report = replace(report, sent=time.time())
    try:
        return pickle.dumps(report, protocol=5)
    except Exception:  # a state that task code made may hold anything
        return origins.dumps(report)


def _run(unit: Unit, environment: Environment, outcomes: dict[Key, UnitOutcome], *, captures: bool) -> UnitOutcome:
    """Run a unit; take its prints where they must travel or be logged."""
    nodes = environment.program.nodes
    logged = [slug for slug in unit.nodes if nodes[slug].policies.log_stdout]
    prints = captured(logged) if captures or logged else contextlib.nullcontext()
    with no_loop_runs(), slots.held(), prints:
        outcome, report = run_unit(unit, environment, outcomes)
    outcome.report = masked_report(report, environment.program)
    return outcome


@contextlib.contextmanager
def no_loop_runs() -> Iterator[None]:
    """Until the block ends, no event loop runs in this thread, although one waits for it: that of a notebook.

    So task code may run its own, as it may in any other thread.
    """
    loop = asyncio._get_running_loop()
    if loop is None:
        yield
        return
    # From Python 3.14 on, the current task is the thread's; before, it is the loop's.
    name = "_swap_current_task" if sys.version_info >= (3, 14) else ""
    swap = getattr(asyncio.tasks, name, lambda loop, task: None)
    task = swap(loop, None)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio.set_event_loop(loop)  # `asyncio.run` leaves the thread without one
        asyncio._set_running_loop(loop)
        swap(loop, task)


def _take_logs(worker: Any, token: str, program: Program) -> None:
    """Have what tasks of a run log in this process sent to its driver, if there is one that listens."""
    level = program.settings.get("log_level")
    if level is None or capture.is_open(token):
        return
    whole = whole_log_path(program.settings.get("log_directory", ""), token)
    send = partial(worker.log_event, logs_topic(token))
    capture.open_sink(token, lambda: Outbox(level, send, worker=worker.address, whole=whole))


def cut_elements(slug: str, wanted: bytes, closed: Any) -> UnitOutcome:
    """The elements of an upstream list that a chunk needs, to be sent to where the chunk runs; none of another list."""
    source, indices = pickle.loads(wanted)
    try:
        outcome = opened_outcome(closed)
        found = held_outcome(slug, source, {source.key: outcome})
        elements = read(found.value, indices)
        share = len(elements) / max(1, width_of(found.value))
    except OutcomesChanged:
        return UnitOutcome()
    except BaseException as error:  # loading the user's values may raise anything: the elements are told
        unread = UnitOutcome(singles={slug: Outcome(Success(), seal=source.seal)})
        unread.cut = [Unread(error)] * len(indices)
        return unread
    without_list = Outcome(found.state, seal=found.seal)
    return UnitOutcome(singles={slug: without_list}, cut=list(elements), nbytes=int(outcome.nbytes * share))


def collect_results(token: str, data: bytes, last: Unit, outcomes: dict[Key, UnitOutcome]) -> dict[str, Any]:
    """Values of some nodes by slug; raises the exception of one that failed."""
    program = load_program(token, data)
    opened = {key: opened_outcome(each) for key, each in outcomes.items()}
    values: dict[str, Any] = {}
    for slug in last.nodes:
        outcome = whole_outcome(slug, last, program, opened)
        if not outcome.state.is_finished():
            raise OutsideFlowError(
                f"{slug} has made deferred calls, or waits for a task that has: these need a driver, so use flow.run() "
                "instead of flow.to_delayed()"
            )
        if not outcome.state.is_successful():
            raise restore(outcome.state.failure, outcome.state.message)
        values[slug] = outcome.value
    return values


def load_program(token: str, data: bytes) -> Program:
    """The program of a run: loaded once by each process."""
    with _LOCK:
        program = _PROGRAMS.get(token)
        if program is None:
            program = _PROGRAMS[token] = _loaded(data)
            known_secrets.learn(
                token, [program.values.get(slug) for slug in program.settings.get("secret_parameters", ())]
            )
            while len(_PROGRAMS) > MAX_PROGRAMS:
                _let_go(_PROGRAMS.popitem(last=False)[0])
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


def _loaded(data: bytes) -> Program:
    try:
        program: Program = origins.loads(data)
    except Exception as error:
        lenient = _Lenient(io.BytesIO(data))
        try:
            program = lenient.load()
        except Exception:
            raise error from None
        for missing in lenient.missing:
            missing.is_loading = False
    return program


class _Missing:
    """Stands for something that cannot be imported here; a task that uses it fails, and the others do not."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.is_loading = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_loading:  # what is made of it is as good as missing
            return self
        raise CodeNotLoadable(f"the worker cannot import what this task needs: {self._error}") from self._error

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self()


class _Lenient(pickle.Unpickler):
    """Loads a pickle without what cannot be imported."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.missing: list[_Missing] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("cloudpickle.cloudpickle", "subimport"):
            return self._imported
        try:
            return super().find_class(module, name)
        except Exception as error:  # modules of the user's run while they are imported
            return self._stand_in(error)

    def _imported(self, name: str) -> Any:
        try:
            return cloudpickle.cloudpickle.subimport(name)
        except Exception as error:
            return self._stand_in(error)

    def _stand_in(self, error: Exception) -> _Missing:
        self.missing.append(_Missing(error))
        return self.missing[-1]


def forget_program(token: str) -> None:
    """Forget a run that has ended."""
    _let_go(token)
    with _LOCK:
        program = _PROGRAMS.pop(token, None)
    for node in program.nodes.values() if program is not None else ():
        if node.policies.storing is not None:
            with contextlib.suppress(Exception):  # of a store's own driver
                node.policies.storing.result.close()


def _let_go(token: str) -> None:
    capture.close_sink(token)
    known_secrets.forget(token)


def opened_outcome(outcome: Any) -> UnitOutcome:
    """An outcome that can be looked into: of what came from another process, and of what a worker refused.

    Loading the user's values may raise anything.
    """
    if isinstance(outcome, dict):
        return refused_outcome(outcome)
    is_closed = type(outcome).__name__ == Parcel.__name__  # each version of the entry has a class of its own
    found: UnitOutcome = open_parcel(outcome) if is_closed else outcome
    return found


def refused_outcome(refusal: Mapping[str, Any]) -> UnitOutcome:
    """The outcome of a unit that a worker refused to run, see `anabranch.executors.entry`; a Failed state for all of
    it.

    Where all that a worker lacks is our code, the unit is handed back instead.
    """
    key: Key = tuple(refusal["key"])
    nodes, indices = read_outline(refusal["outline"])
    if refusal["kind"] == "code":
        return handed_back(key, nodes, indices)
    kind = CodeNotLoadable if refusal["kind"] == "load" else VersionMismatch
    return not_loaded(key, nodes, indices, kind(refusal["refused"]))


def handed_back(key: Key, nodes: Iterable[str], indices: Indices | None) -> UnitOutcome:
    """The outcome of a unit of which nothing was begun."""
    singles = tuple(map(SingleReport.handed_back, nodes)) if indices is None else ()
    return UnitOutcome(report=Report(key, singles=singles, indices=None if indices is None else ()))


def read_outline(outline: bytes | None) -> tuple[tuple[str, ...], Indices | None]:
    """Nodes and indices of a unit from what travels beside its pickle."""
    nodes, indices = pickle.loads(outline or b"")
    return nodes, indices


def not_loaded(key: Key, nodes: Iterable[str], indices: Indices | None, error: BaseException) -> UnitOutcome:
    """The outcome of a unit whose code cannot be loaded where it is: each of its task runs has failed."""
    if not isinstance(error, (CodeNotLoadable, VersionMismatch)):
        text = f"code or values of this flow cannot be loaded on the worker: {headline_of(error)}"
        error = CodeNotLoadable(text)
    state = Failed(message=str(error), failure=describe(error))
    now = time.time()
    if indices is None:
        singles = tuple(SingleReport(slug, state) for slug in nodes)
        outcome = UnitOutcome(singles={slug: Outcome(state, error) for slug in nodes})
        outcome.report = Report(key, singles=singles, started=now)
        return outcome
    width = len(indices)
    codes, records = bytes([Failed.code]) * width, dict.fromkeys(indices, state)
    outcome = UnitOutcome(columns={slug: Column(indices, codes, [error] * width, records) for slug in nodes})
    columns = tuple(ColumnReport(slug, codes, records) for slug in nodes)
    outcome.report = Report(key, columns=columns, indices=indices, started=now)
    return outcome

"""Runs whose driver is on the cluster: submit them, and ask for their status from any process."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anabranch.base.errors import ExecutorError, OptionError, RunHandleError, UnknownNodeError, listed
from anabranch.base.names import short
from anabranch.base.where import caller
from anabranch.definition.lookup import each_of
from anabranch.engine.driver.detached import ROOT, DetachedRun, control_topic
from anabranch.engine.driver.handlers import FlowHandlers
from anabranch.engine.driver.plan import FinishedRun, RunPlan
from anabranch.engine.logs.lines import Batch, loads, logs_topic
from anabranch.engine.units.shipment import driver_call
from anabranch.engine.worker import slots
from anabranch.engine.worker.arrival import opened_outcome
from anabranch.executors.dask import DaskExecutor
from anabranch.executors.entry import Sourced
from anabranch.flows.stream import OnBreak, Stream
from anabranch.runs.view import FlowRunView

_log = logging.getLogger("anabranch.handle")

if TYPE_CHECKING:
    from distributed import Client, Future, Security

    from anabranch.definition.graph import Graph
    from anabranch.executors.base import Executor

POLL_S = 0.25
"""Seconds between questions for the status while somebody waits; each costs the scheduler about a millisecond."""
MAX_TOLD = 4_000  # batches of log lines that are known again: more than a scheduler keeps
READING = "anabranch.engine.driver.reading"
ANSWER_S = 5.0  # that a driver's worker takes for an answer
START_S = 60.0  # within this a driver that was sent has begun, or there is no worker for it


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Status of a detached run."""

    run_id: str
    flow_name: str
    state: str
    """Name of the flow run's state; ``Pending`` before the driver has begun."""
    message: str = ""
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By slug: ``state``, ``message``, ``since`` and ``ended``, in seconds since the epoch, and ``running``, a text
    about what is being run where; of a map also ``width``, ``done``, ``failed``, ``retrying``."""
    driver: str = ""
    """Address of the worker with the driver."""
    drivers: int = 0
    """Number of drivers that the run has had: more than one if a worker with a driver died."""
    started: datetime | None = None
    updated: datetime | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended, or waits for an approval."""
        return self.state not in ("Pending", "Running")

    def __str__(self) -> str:
        return f"{self.flow_name} {self.run_id}: {self.state}" + (f": {self.message}" if self.message else "")


class RunHandle:
    """A detached run, from anywhere its scheduler can be reached. Use it as a context manager, or close it.

    Parameters
    ----------
    address, security
        Address and certificates of the scheduler.
    run_id
        Id of the run.
    """

    def __init__(
        self,
        address: str,
        run_id: str,
        *,
        security: Security | Mapping[str, Any] | None = None,
        graph: Graph | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.address = address
        self.run_id = run_id
        self._executor = DaskExecutor(address, security=security, client_kwargs=client_kwargs)
        self._graph = graph
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """A client of the scheduler, made when it is first needed."""
        if self._client is None:
            self._client = self._executor.new_client()
        return self._client

    def __enter__(self) -> RunHandle:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect from the scheduler; the run goes on."""
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout=2)

    def status(self) -> RunStatus:
        """Status of the run, as its driver last wrote it (at most half a second ago).

        Raises
        ------
        RunHandleError
            The scheduler knows no such run.
        """
        known = self.client.get_metadata([ROOT, self.run_id], default=None)
        if not known:
            raise RunHandleError(
                f"the scheduler at {self.address} knows no run {self.run_id!r}"
                f"{_other_runs(self.client)}; a restarted scheduler has no runs from before"
            )
        found = known.get("status") or {}
        return RunStatus(
            run_id=self.run_id,
            flow_name=str(known.get("flow", "")),
            state=str(found.get("state", "Pending")),
            message=str(found.get("message", "")),
            tasks=found.get("tasks", {}),
            driver=str(found.get("driver", "")),
            drivers=int(found.get("drivers", 0)),
            started=_to_datetime(found.get("started")),
            updated=_to_datetime(found.get("updated")),
        )

    def wait(self, timeout: float | None = None) -> RunStatus:
        """Wait until the run has ended.

        Parameters
        ----------
        timeout
            Seconds; None: as long as it takes.

        Raises
        ------
        TimeoutError
            It had not ended by then; the run goes on.
        RunHandleError
            The driver is lost, and was not started again.
        """
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        with slots.given_up(), self.task() as future:
            while True:
                status = self.checked(future)
                if status.is_finished and future.status == "finished":
                    return status
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"run {self.run_id} is {status.state} after {timeout:g} s; it goes on")
                time.sleep(POLL_S)

    def result(self, timeout: float | None = None) -> FlowRunView:
        """The finished run, as returned by ``flow.run``. Waits until the run has ended.

        Find nodes by name or, in the process that submitted the run, also by themselves.

        Raises
        ------
        TimeoutError
            The run had not ended after `timeout` seconds.
        RunHandleError
            The driver is lost, and was not started again.
        """
        self.wait(timeout)
        return FlowRunView(self.finished(), self._graph)

    def finished(self) -> FinishedRun:
        """All that is known of the run, which has ended."""
        with self.task() as future:
            done: FinishedRun = pickle.loads(future.result(timeout=60))
        outcomes = {}
        for key, outcome in done.outcomes.items():
            try:
                outcomes[key] = opened_outcome(outcome)
            except BaseException:  # a class that only the workers have; who asks for the value is told
                _log.warning("values of %s cannot be loaded here", key[0], exc_info=True)
        return replace(done, outcomes=outcomes)

    def stream(self, *nodes: object, on_break: OnBreak = "continue") -> Stream:
        """Give the task runs of some nodes as they end, as `Flow.stream` does, and first those that have ended.

        The run does not wait for who reads, and keeps no value for the stream: one above ``engine.inline_nbytes`` that
        the flow does not need afterwards (``keep=`` of `submit`) is there only if its element ends while the stream is
        open and the driver lives.

        Parameters
        ----------
        *nodes
            Nodes, tasks or names of nodes; names alone in a process that has not submitted the run.
        on_break
            What becomes of the run if the stream is closed, or nobody has it any more, before its end: ``"continue"``
            or ``"cancel"``. By Ctrl-C while the stream waits, the same. It does not end with this program.

        Returns
        -------
        Stream
            Iterate over it with ``for`` or ``async for``. That the run is lost is raised there. Its ``wait()`` is
            `result`.

        Raises
        ------
        UnknownNodeError, OptionError, RunHandleError
            There is nothing to read.
        """
        from anabranch.flows.reader import read

        slugs = {slug for each in each_of(nodes) for slug in self._slugs_of(each)}
        if not slugs:
            raise OptionError(
                f"run {self.run_id}: name the nodes of which the stream should give the states ({caller()})"
            )
        if on_break not in ("cancel", "continue"):
            raise OptionError(f"on_break: expected 'cancel' or 'continue', found {short(on_break)} ({caller()})")
        own = RunHandle(self.address, self.run_id, graph=self._graph)
        own._executor = self._executor
        return read(own, slugs, self._graph, on_break)

    def _slugs_of(self, node: Any) -> list[str]:
        graph = self._graph
        if graph is not None and not isinstance(node, str):
            found = [node] if node in graph else graph.calls_of(node)
            slugs = [graph.entry(each).slug for each in found]
        else:
            names = {each: each for each in self.status().tasks}
            names |= {graph.entry(each).slug: each.name for each in graph} if graph is not None else {}
            slugs = [slug for slug in names if slug == node] or [slug for slug, name in names.items() if name == node]
        if not slugs:
            known = [graph.entry(each).slug for each in graph] if graph is not None else self.status().tasks
            raise UnknownNodeError(
                f"run {self.run_id} knows no node {short(node)}; its nodes are: {listed(known)} ({caller()})"
            )
        return slugs

    @contextlib.contextmanager
    def follow_logs(self, take: Callable[[Batch], object]) -> Iterator[Callable[[], None]]:
        """Give `take` what tasks log, in a thread of Dask's, from what the scheduler still has of it.

        It has the last thousand batches of a run that goes on, and none of one that has ended. What is given by the
        block's value reads them anew: for what came before the scheduler knew that somebody follows, and for the last.
        """
        topic, told, lock = logs_topic(self.run_id), dict[int, None](), threading.Lock()
        client = self.client

        def handle(event: tuple[float, bytes]) -> None:
            with lock:
                if hash(event) not in told:
                    told[hash(event)] = None
                    if len(told) > MAX_TOLD:
                        del told[next(iter(told))]
                    take(loads(event[1]))

        def catch_up() -> None:
            for event in client.get_events(topic):
                handle(event)

        client.subscribe_topic(topic, handle)
        try:
            catch_up()
            yield catch_up
        finally:
            client.unsubscribe_topic(topic)

    def cancel(self, reason: str = "asked for") -> None:
        """Ask the driver to cancel the run; `wait` returns when it has ended."""
        self.client.log_event(control_topic(self.run_id), f"cancelled: {reason}")

    def forget(self) -> None:
        """Remove the data of the run from the scheduler, including its result; an active run is dropped."""
        with contextlib.suppress(KeyError):
            self.client.unpublish_dataset(_published(self.run_id))
        self.client.set_metadata([ROOT, self.run_id], None)

    def ask_driver(self, address: str, name: str, *args: object) -> Any:
        """What a function of `anabranch.engine.driver.reading` gives where the driver is; None if nobody answers."""
        ask = Sourced("call_loaded", (READING, name, self.run_id, *args))
        client: Any = self.client
        try:
            found = client.sync(client._run, ask, workers=[address], on_error="return", callback_timeout=ANSWER_S)
        except Exception as error:  # of a worker that is gone, or a scheduler that is busy: who asks has other ways
            _log.debug("the driver of run %s does not answer", self.run_id, exc_info=error)
            return None
        answer = found.get(address)
        return None if isinstance(answer, BaseException) else answer

    def checked(self, future: Future[Any]) -> RunStatus:
        """The run's status, if its driver is not lost."""
        status = self.status()
        if future.status == "error":
            raise RunHandleError(
                f"the driver of run {self.run_id} is lost: {future.exception(timeout=5)}; "
                "its stored values are safe; submit it again"
            )
        return status

    @contextlib.contextmanager
    def task(self) -> Iterator[Future[Any]]:
        """The driver's task, as a future of this client."""
        try:
            future = self.client.get_dataset(_published(self.run_id))
        except KeyError:
            raise RunHandleError(
                f"the scheduler at {self.address} has no result of run {self.run_id!r}{_other_runs(self.client)}"
            ) from None
        try:
            yield future
        finally:
            future.release()

    def __repr__(self) -> str:
        return f"RunHandle({self.address!r}, {self.run_id!r})"


def submit_run(plan: RunPlan, graph: Graph, executor: Executor, handlers: FlowHandlers) -> RunHandle:
    """Send a run and its driver to a cluster.

    Raises
    ------
    OptionError
        The executor is not a cluster that outlives this process.
    ExecutorError
        No driver began there.
    """
    from dask._task_spec import Task

    if not isinstance(executor, DaskExecutor) or executor.address is None:
        raise OptionError(
            f"submit: expected executor=DaskExecutor('tcp://host:8786'), found {executor!r}; a run that outlives this "
            "process needs a cluster that does"
        )
    handle = RunHandle(
        executor.address,
        plan.run_id,
        security=executor.security,
        graph=graph,
        client_kwargs=executor.client_kwargs,
    )
    run = DetachedRun(plan=plan, handlers=handlers or FlowHandlers())
    call, arguments = driver_call(run, plan.run_id)
    client = handle.client
    client.set_metadata([ROOT, plan.run_id], {"flow": plan.name, "sent": time.time()})
    key = f"anabranch-driver-{plan.run_id}-d"
    graph_of_one = {key: Task(key, call, *arguments)}
    (future,) = client.get(graph_of_one, [key], sync=False, priority=1_000)
    client.publish_dataset(future, name=_published(plan.run_id))
    deadline = time.monotonic() + START_S
    while handle.status().drivers == 0:  # once it has begun it needs nothing of this process any more
        if future.status == "error":
            error = future.exception(timeout=5)
            handle.forget()
            handle.close()
            raise ExecutorError(f"the driver of run {plan.run_id} cannot run at {executor.address}: {error}")
        if time.monotonic() >= deadline:
            handle.forget()
            handle.close()
            raise ExecutorError(
                f"no worker at {executor.address} has begun the driver of run {plan.run_id} within {START_S:g} s"
            )
        time.sleep(0.02)
    return handle


def attach(address: str, run: str, *, security: Security | Mapping[str, Any] | None = None) -> RunHandle:
    """A handle of a submitted run, by its id or the beginning of it.

    Raises
    ------
    RunHandleError
        The scheduler knows no such run, or several.
    """
    handle = RunHandle(address, run, security=security)
    runs = find_runs(handle.client)
    if run not in runs:
        found = [each for each in runs if each.startswith(run)]
        if len(found) != 1:
            what = f"{len(found)} runs that begin with" if found else "no run"
            problem = f"the scheduler at {address} knows {what} {run!r}{_other_runs(handle.client)}"
            handle.close()
            raise RunHandleError(problem)
        handle.run_id = found[0]
    return handle


def find_runs(client: Client) -> dict[str, str]:
    """Runs that a scheduler knows: their flows' names by id."""
    known = client.get_metadata([ROOT], default=None) or {}
    return {run_id: str(each.get("flow", "")) for run_id, each in known.items() if each}


def _other_runs(client: Client) -> str:
    runs = find_runs(client)
    return f"; it knows {', '.join(f'{run_id} ({flow})' for run_id, flow in runs.items())}" if runs else ""


def _published(run_id: str) -> str:
    return f"anabranch-{run_id}"


def _to_datetime(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None

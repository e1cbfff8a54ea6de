"""A Dask cluster: one made for the run, or one that is there already."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import queue
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import dask.config

from anabranch.base import dask_settings
from anabranch.base.errors import ExecutorError, OptionError
from anabranch.base.prefect1 import getter, refusing
from anabranch.base.settings import config
from anabranch.executors.arguments import address_in_file, as_address, checked_client_kwargs
from anabranch.executors.base import (
    ANSWER_S,
    CancelWanted,
    Disconnected,
    Dropped,
    Executor,
    Key,
    Logged,
    Message,
    Posted,
    Region,
)
from anabranch.executors.clusters import ClusterClass, MadeCluster, is_cluster, make_cluster, performance_report
from anabranch.executors.connection import as_security, connect
from anabranch.executors.entry import Sourced
from anabranch.executors.fitness import Needs
from anabranch.executors.preflight import check, wait_for_workers
from anabranch.executors.situation import amounts_of

if TYPE_CHECKING:
    from distributed import Client, Future, Security

    from anabranch.executors.scheduler_page_feed import PageFeed

TICK_S = 1.0  # how often the connection is looked at while nothing happens
SWEEP_S = 0.25  # how often futures are looked at for trouble; good news comes by events, at once
GRACE_S = 1.0  # a report that has not come so long after its value is asked for
NEWS_S = 5.0  # the news of a value comes after its report, so much later at most
POLL_S = 0.01  # until then; most often it is there
FIRST_WORKER_S = 5.0  # an adaptive cluster that has no worker after so long is counted as one without
SLOTS_S = 1.0  # how often the workers are counted
REPLACE_S = 10.0  # starting a worker takes seconds: it is not asked for twice meanwhile
FORGET_S = 0.5  # what a worker that is busy remembers of a run is dropped later, for others
ALIVE = ("pending", "finished")

_log = logging.getLogger("anabranch.executors")


class DaskExecutor(Executor):
    """Runs on a Dask cluster.

    Parameters
    ----------
    address
        Address of a scheduler (``"tcp://host:8786"``, or without ``tcp://``). None: that of Dask's own setting
        ``scheduler-address``, if nothing else is given; else make a cluster for the run.
    scheduler_file
        A file with the address, as ``dask scheduler --scheduler-file`` writes it. It is read when a run begins.
    cluster_class
        Class, function or dotted name that makes the cluster, or an existing cluster, which is not closed; default:
        ``distributed.LocalCluster``.
    cluster_kwargs, adapt_kwargs, client_kwargs
        Arguments of `cluster_class`, of the cluster's ``adapt`` method (which is called if they are given), and of the
        client.
    security
        For TLS: a ``distributed.Security``, a dict of its arguments, or True for temporary certificates of a cluster
        that is made for the run.
    performance_report
        Path of an HTML file for Dask's performance report of the run.

    Raises
    ------
    OptionError
        Arguments exclude each other, or cannot work.
    """

    in_process = False

    @refusing("DaskExecutor")
    def __init__(
        self,
        address: str | None = None,
        *,
        scheduler_file: str | os.PathLike[str] | None = None,
        cluster_class: ClusterClass | None = None,
        cluster_kwargs: Mapping[str, Any] | None = None,
        adapt_kwargs: Mapping[str, Any] | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        security: Security | Mapping[str, Any] | bool | None = None,
        performance_report: str | os.PathLike[str] | None = None,
    ) -> None:
        client_kwargs = checked_client_kwargs(client_kwargs or {})
        scheduler_file = client_kwargs.pop("scheduler_file", None) or scheduler_file
        is_made = cluster_class is not None or cluster_kwargs is not None or adapt_kwargs is not None
        if address is not None and scheduler_file is not None:
            raise OptionError("DaskExecutor: give an address, or a scheduler_file, not both")
        is_there = address is not None or scheduler_file is not None
        if is_there and is_made:
            raise OptionError("DaskExecutor: give an address, or cluster_class and its arguments, not both")
        if is_there and security is True:
            raise OptionError(
                "DaskExecutor: security=True is for a new cluster; one at an address has its certificates"
            )
        has_certificates = security is not None and security is not False
        self.address = None if address is None else as_address(address, has_certificates=has_certificates)
        self.scheduler_file = scheduler_file
        self.takes_setting = not is_there and not is_made and security is not True
        """Whether Dask's setting ``scheduler-address`` counts."""
        self.cluster_class = cluster_class
        self.cluster_kwargs: dict[str, Any] = dict(cluster_kwargs or {})
        self.adapt_kwargs = dict(adapt_kwargs) if adapt_kwargs is not None else None
        self.client_kwargs: dict[str, Any] = client_kwargs
        self.security = as_security(security)
        self.performance_report = performance_report
        self.has_page: bool | None = None
        """Whether runs are shown in Dask's own dashboard; None: as the setting ``scheduler_page`` says."""
        self._client: Client | None = None
        self._made: MadeCluster | None = None
        self._latest: Self | None = None
        """What the run has that began last."""
        self._reset()

    def __repr__(self) -> str:
        if self.scheduler_file is not None:
            return f"DaskExecutor(scheduler_file={os.fspath(self.scheduler_file)!r})"
        return f"DaskExecutor({self.address!r})" if self.address else "DaskExecutor()"

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        if is_cluster(self.cluster_class):
            kept["cluster_class"] = None  # it belongs to this process
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._client, self._made, self._latest = None, None, None
        self._reset()

    def for_run(self) -> Self:
        """An executor like this one, for one run; with the address, where a file or Dask's settings have it.

        Raises
        ------
        SchedulerUnreachable
            The `scheduler_file` has none within ``engine.connect_timeout_s``.
        """
        made = super().for_run()
        self._latest, made._latest = made, None
        made._find()
        return made

    def _find(self) -> None:
        """Look up the address where others tell it."""
        if self.scheduler_file is not None:
            self.address = address_in_file(self.scheduler_file, timeout_s=config.engine.connect_timeout_s)
        elif self.takes_setting and (setting := dask.config.get("scheduler-address", None)) is not None:
            self.address = as_address(setting, has_certificates=self.security is not None)

    def _reset(self) -> None:
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._futures: dict[Key, Future[Any]] = {}
        self._expected: dict[Key, float | None] = {}
        """Keys whose report is not here; since when their value is, or None."""
        self._begun: dict[Key, float] = {}
        """When tasks announced that they run alone."""
        self._causes: dict[str, str] = {}
        """How workers died, by address."""
        self._wanted: dict[Key, Mapping[str, float]] = {}
        """What keys ask for that ask for something."""
        self._unoffered: dict[str, float] = {}
        """Amounts of resources that keys ask for and no worker offers, and since when."""
        self._next_sweep = 0.0
        self._slots = (0.0, 1)
        self._idle: dict[str, str] = {}
        """Status of workers that begin nothing."""
        self._addresses: frozenset[str] = frozenset()
        """Workers that there were a moment ago."""
        self._unfit: set[str] = set()
        """Workers that nothing is sent to."""
        self._around = contextlib.ExitStack()
        self._replaced = 0.0
        self._alone_since: float | None = None
        self._token = ""
        self._comm: Any = None
        self._generation = 0
        self._data: list[Key] = []
        """Keys of what tasks need and nobody computes."""
        self._feed: PageFeed | None = None

    @property
    def place(self) -> str:
        """The cluster: its address, or what makes it."""
        if self.address is not None:
            return f"the cluster at {self.address}"
        if self.scheduler_file is not None:
            return f"the cluster of {os.fspath(self.scheduler_file)}"
        if self.cluster_class is None:
            return "a cluster on this machine"
        return str(getattr(self.cluster_class, "__name__", self.cluster_class))

    @property
    def is_elsewhere(self) -> bool:
        """Whether the workers may be on other machines: all but those of a cluster that is made here by default."""
        return self.address is not None or self.scheduler_file is not None or self.cluster_class is not None

    @property
    def dashboard_link(self) -> str | None:
        """Address of Dask's own page, while a run goes on; of several runs, for the one that began last."""
        client = self._client if self._latest is None else self._latest._client
        return client.dashboard_link if client is not None else None

    def start(self, token: str) -> None:
        """Connect; without an address, make the cluster first.

        Raises
        ------
        SchedulerUnreachable
            Nothing answers at the address.
        NoWorkersError
            No worker came within ``engine.no_workers_timeout_s``.
        PreflightError
            The versions there do not fit.
        """
        self._reset()
        self._token = token
        dask_settings.restore()
        if self.address is None:
            self._made = make_cluster(self.cluster_class, self.cluster_kwargs, self.adapt_kwargs, self.security)
        try:
            self._connect(config.engine.no_workers_timeout_s)
            if self.performance_report is not None:
                report = performance_report(self._connected, self.performance_report, title=f"run {token}")
                self._around.enter_context(report)
        except BaseException:
            self.stop()
            raise

    def new_client(self) -> Client:
        """A client of the scheduler, of the caller's own.

        Raises
        ------
        SchedulerUnreachable
            Nothing answers at the address.
        """
        dask_settings.restore()
        where = self._made.cluster if self._made is not None else self.address
        timeout_s = config.engine.connect_timeout_s
        return connect(where, self.security, timeout_s=timeout_s, client_kwargs=self.client_kwargs)

    @property
    def _connected(self) -> Client:
        assert self._client is not None, "the executor has not been started"
        return self._client

    @property
    def _is_cut_off(self) -> bool:
        """Whether the connection was lost. The client may have another by now, but all that it held there is gone."""
        return self._connected.status != "running" or self._connected.scheduler_comm is not self._comm

    @property
    def _is_emptied(self) -> bool:
        """Whether another client has made the scheduler forget all tasks, or what all tasks of the run need."""
        has_restarted = self._connected.generation != self._generation
        return has_restarted or any(self._status(key) == "cancelled" for key in self._data)

    def _status(self, key: Key) -> str | None:
        return self._futures[key].status if key in self._futures else None

    @property
    def _is_of_this_machine(self) -> bool:
        """Whether the workers were started here, in the environment of this process."""
        return self._made is not None and self._made.is_ours and not self.is_elsewhere

    def _connect(self, patience_s: float) -> None:
        from anabranch.executors.deaths import HandBack, plugin_name, topics

        self._client = self.new_client()
        self._comm, self._generation = self._client.scheduler_comm, self._client.generation
        if self._made is None or not self._made.is_adaptive:  # an adaptive cluster has no workers before there is work
            address = self._client.scheduler.address if self._client.scheduler is not None else ""
            wait_for_workers(self._client, patience_s, _log.warning, address=address)
        self.check(Needs())  # before anything that carries code goes anywhere
        for topic, take in zip(
            topics(self._token), (self._take_event, self._take_control, self._take_logs), strict=True
        ):
            self._client.subscribe_topic(topic, take)
        try:
            self._client.register_plugin(HandBack(self._token, self._client.id), name=plugin_name(self._token))
        except Exception as error:  # of a scheduler of another version, say: a death is told later then
            _log.info("the scheduler takes no plug-in (%s): lost tasks come back after allowed-failures deaths", error)
        if config.scheduler_page if self.has_page is None else self.has_page:
            from anabranch.executors.scheduler_page_feed import PageFeed

            self._feed = PageFeed(self._client, self._token)

    def show(self, standing: Callable[[], Mapping[str, Any]]) -> None:
        """Let Dask's own dashboard show how the run stands; nothing is waited for.

        Parameters
        ----------
        standing
            Gives plain values, from any thread.
        """
        if self._feed is not None:
            self._feed.show(standing)

    def recover(self, say: Callable[[str], None]) -> None:
        """After `Disconnected`: make the cluster again, or wait for a scheduler that has workers.

        Raises
        ------
        ExecutorError
            There was none within ``engine.reconnect_timeout_s``.
        """
        token = self._token
        self._let_go(timeout_s=0.1)
        if self.address is None:
            say("the cluster of this run is gone; another one is started")
            self._close_cluster()
            self.start(token)
            return
        limit = config.engine.reconnect_timeout_s
        say(f"waiting up to {limit:g} s for a scheduler with workers at {self.address}")
        deadline = time.monotonic() + limit
        while True:
            try:
                self._find()
                self._reset()
                self._token = token
                self._connect(max(1.0, deadline - time.monotonic()))
                break
            except ExecutorError:
                self._let_go(timeout_s=0.1)
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.5)
        say(f"the scheduler at {self.address} is back")

    def check(self, needs: Needs) -> None:
        """See whether the cluster can run what is to be run; what is odd and no reason to refuse is logged.

        Raises
        ------
        PreflightError
            It cannot; all reasons at once.
        """
        if self._is_of_this_machine and not needs.resources:
            return
        may_grow = self._made is None or not self._made.is_ours or self._made.is_adaptive
        report = check(self._connected, replace(needs, may_grow=may_grow))
        for warning in report.warnings:
            _log.warning("%s", warning)
        report.raise_problems(self.address or "hand")
        if needs.probe is not None and report.good_workers:
            self._unfit = set(self._workers()) - report.good_workers

    def avoid(self, address: str) -> bool:
        """Send nothing to a worker any more, if there are others; whether there are."""
        self._unfit.add(address)
        return bool(self._addresses - self._unfit)

    @property
    def _only(self) -> list[str] | None:
        """Workers that may be used, if not all of them may."""
        return sorted(self._addresses - self._unfit) or None if self._unfit & self._addresses else None

    def ask_workers(self, question: Callable[[], Any], timeout_s: float = ANSWER_S) -> list[Any]:
        """What each worker answers to a function that loads anywhere; nothing if they do not all answer in time."""
        client = self._client
        if client is None or client.status != "running":
            return []
        try:
            answers = client.sync(client._run, question, on_error="return", callback_timeout=timeout_s)
        except Exception as error:  # the connection may end at any time, which others notice
            _log.info("the workers could not be asked: %s", error)
            return []
        return [] if any(isinstance(each, BaseException) for each in answers.values()) else list(answers.values())

    def _workers(self) -> Mapping[str, Any]:
        scheduler: Any = self._connected.scheduler
        # Without a limit, a scheduler that hangs would hang the driver.
        info = self._connected.sync(scheduler.identity, n_workers=-1, callback_timeout=ANSWER_S)
        workers: Mapping[str, Any] = info["workers"]
        self._addresses = frozenset(workers)
        return workers

    def stop(self) -> None:
        """Leave the cluster without a key of this run; close it if it was made for the run."""
        self._let_go(timeout_s=2)
        self._close_cluster()

    def _let_go(self, timeout_s: float) -> None:
        client = self._client
        if client is None:
            return
        with contextlib.suppress(Exception):
            self._around.close()
        if client.status == "running":
            if not self._is_of_this_machine:
                self.ask_workers(Sourced("forget", (self._token,)), FORGET_S)
            with contextlib.suppress(Exception):  # a lost scheduler is no reason to fail now
                for topic in (self._token, f"{self._token}-control", f"{self._token}-logs"):
                    client.unsubscribe_topic(topic)
            for future in self._futures.values():
                with contextlib.suppress(Exception):
                    future.release()
        self._client = None
        self._futures.clear()
        for name in ("distributed.utils", "distributed.client"):  # for good: it may log long after this
            logging.getLogger(name).addFilter(_OWN_CANCELLATIONS)
        with contextlib.suppress(Exception):
            client.close(timeout=timeout_s)

    def _close_cluster(self) -> None:
        made, self._made = self._made, None
        if made is None:
            return
        scheduler = getattr(made.cluster, "scheduler", None)
        if made.is_ours and getattr(getattr(scheduler, "status", None), "name", "") == "closed":
            made.cluster.shutdown_scheduler = False  # else Dask asks it to end, and waits half a minute for an answer
        made.close()

    def slots(self) -> int:
        """Threads of workers that take tasks, or those that an adaptive cluster may come to have."""
        counted, slots = self._slots
        now = time.monotonic()
        client = self._client
        if client is not None and client.status == "running" and now - counted > SLOTS_S:
            try:
                workers = self._workers()
                usable = {address: workers[address] for address in self._only or workers}
                slots = sum(map(slots_of, usable.values()))
                self._give_up_unoffered(self._wanted, workers.values())
                self._idle = {a: worker["status"] for a, worker in usable.items() if worker["status"] != "running"}
            except (OSError, TimeoutError):
                _log.warning("the scheduler did not say within %g s which workers it has", ANSWER_S)
            self._slots = (time.monotonic(), slots)
            self._replace_lost_workers()
        if self._made is not None and (slots or not self._has_waited_long(slots)):
            return self._made.window_slots(slots)
        return slots

    def _give_up_unoffered(self, keys: Iterable[Key], workers: Iterable[Mapping[str, Any]] | None = None) -> None:
        """Give up what asks for resources that no worker has offered for as long as a first worker is waited for.

        Without `workers`, nothing has changed since the last time.
        """
        now, limit = time.monotonic(), config.engine.no_workers_timeout_s
        if workers is not None:
            asked = {amounts_of(self._wanted[key]): self._wanted[key] for key in keys}
            offers = [worker.get("resources") or {} for worker in workers]
            self._unoffered = {
                amounts: self._unoffered.get(amounts, now)
                for amounts, wanted in asked.items()
                if not any(all(offer.get(name, 0) >= wanted[name] for name in wanted) for offer in offers)
            }
        for key in [key for key in keys if key in self._expected]:
            amounts = amounts_of(self._wanted[key])
            if now - self._unoffered.get(amounts, now) >= limit:
                self._expected.pop(key, None)
                reason = (
                    f"no worker has offered {amounts} for {limit:g} s; start one with `dask worker --resources`, or "
                    "wait longer with the setting engine.no_workers_timeout_s"
                )
                self._messages.put(Dropped(key, reason, is_vain=True))

    def shortage(self) -> tuple[str, str]:
        """Why there is no slot, and what to do about it."""
        if not self._idle:
            return super().shortage()
        (address, status), *others = self._idle.items()
        more = f" (+{len(others)} other{'s' * (len(others) > 1)})" if others else ""
        found = f"no worker that begins anything: {address} is {status}{more}"
        return found, "a paused worker lacks memory: restart it, or give it more"

    def _has_waited_long(self, slots: int) -> bool:
        """Whether an adaptive cluster, which begins without workers, has had time to get one."""
        now = time.monotonic()
        self._alone_since = None if slots else self._alone_since or now
        return self._alone_since is not None and now - self._alone_since > FIRST_WORKER_S

    def _replace_lost_workers(self) -> None:
        """A worker that dies while it starts takes its nanny along, and Dask's clusters leave it at that."""
        made = self._made
        if made is None or made.is_adaptive or not made.is_ours or not hasattr(made.cluster, "worker_spec"):
            return
        cluster = made.cluster
        wanted, now = len(cluster.worker_spec), time.monotonic()
        if len(cluster.workers) < wanted and now - self._replaced > REPLACE_S:
            self._replaced = now
            _log.info("%d of %d workers are gone for good; starting them again", wanted - len(cluster.workers), wanted)
            cluster.scale(wanted)

    def submit(self, region: Region) -> None:
        """Send a region to the scheduler."""
        assert self._client is not None
        keys = list(region.keys)
        futures = self._client.get(
            dict(region.graph),
            keys,
            sync=False,
            resources=dict(region.resources) or None,
            priority=region.priority,
            workers=self._only,
        )
        self._futures.update(zip(keys, futures, strict=True))
        if region.is_data:
            self._data += keys
            if self._slots[1]:  # without workers that would wait, without a limit
                self._client.replicate(futures)  # else all tasks would go to the one worker that has it
        else:
            self._expected.update(dict.fromkeys(keys))
            if region.resources:
                self._wanted.update(dict.fromkeys(keys, region.resources))
                self._give_up_unoffered(keys)

    def situation(self) -> list[str]:
        """Where the tasks are that have not reported, and what keeps workers from them; in words."""
        from anabranch.executors.situation import situation

        client = self._client
        if client is None or client.status != "running" or not self._expected:
            return []
        scheduler: Any = client.scheduler
        keys = list(self._expected.copy())

        def ask(question: Callable[..., Any], **arguments: Any) -> Any:
            return client.sync(question, callback_timeout=ANSWER_S, **arguments)

        try:
            workers = self._workers()
            states = ask(scheduler.get_task_status, keys=keys)
            processing = ask(scheduler.processing, workers=None)
        except (OSError, TimeoutError):
            return [f"the scheduler does not answer within {ANSWER_S:g} s"]
        return situation(workers, states, processing, {key: self._wanted[key] for key in keys if key in self._wanted})

    def _take_control(self, event: tuple[float, Any]) -> None:
        self._messages.put(CancelWanted(str(event[1])))

    def _take_logs(self, event: tuple[float, Any]) -> None:
        self._messages.put(Logged(event[1]))

    def _take_event(self, event: tuple[float, Any]) -> None:
        name, number, payload = event[1]
        if payload is None:
            self._begun[name, number] = time.monotonic()
            return
        self._expected.pop((name, number), None)
        began = self._begun.pop((name, number), None)
        if isinstance(payload, dict) and "left" in payload:  # of `anabranch.executors.deaths`
            ran_s = payload["ran_s"] if began is None else time.monotonic() - began
            self._messages.put(_left((name, number), payload["left"], ran_s))
        else:
            self._messages.put(Posted(payload))

    def next_message(self, timeout_s: float | None) -> Message | None:
        """The next report, or a key that is lost."""
        now = time.monotonic()
        end = now + timeout_s if timeout_s is not None else float("inf")
        while True:
            if self._client is not None and self._messages.empty():
                if self._is_cut_off:
                    return Disconnected("the connection to the scheduler is lost")
                if self._is_emptied:
                    return Disconnected("another client has restarted the cluster, or cancelled what the run had there")
            if self._expected and now >= self._next_sweep:
                self._sweep(now)
            until = min(end, self._next_sweep if self._expected else end, now + TICK_S)
            try:
                message: Message = self._messages.get(timeout=max(0.0, until - now) if until < float("inf") else None)
                return message
            except queue.Empty:
                now = time.monotonic()
                if now >= end:
                    return None

    def _sweep(self, now: float) -> None:
        """Look for keys that failed, or whose report has not come."""
        self._next_sweep = now + SWEEP_S
        for key, since in self._expected.copy().items():  # which events change at any time
            status = self._futures[key].status
            if status == "pending":
                continue
            if status == "finished":
                if since is None:
                    self._expected[key] = now
                elif now - since > GRACE_S:
                    del self._expected[key]
                    self._ask(key)
                continue
            if status == "cancelled" and (self._is_cut_off or self._is_emptied):
                return  # everything is
            if status == "cancelled" and since is None:
                self._expected[key] = now  # it may be the first of all: what has been emptied is known a moment later
                continue
            del self._expected[key]
            self._drop(key, status)

    def _drop(self, key: Key, status: str | None) -> None:
        """Tell why a key will not come."""
        from distributed import KilledWorker

        began = self._begun.pop(key, None)
        error = self._futures[key].exception(timeout=5) if status == "error" else None
        if isinstance(error, KilledWorker):
            ran_s = time.monotonic() - began if began is not None else None
            if error.task != str(key) and error.task != key:  # it waited for a value that could not be made again
                ran_s = None
                self._drop_lost_inputs("its value was lost with its worker")
            worker = error.last_worker
            # The cause takes its time, and is worth it where it may be the end of a task run.
            reason = self._cause(worker) if ran_s is not None else f"worker {worker.address} was lost"
            self._messages.put(Dropped(key, reason, is_death=True, ran_s=ran_s))
        elif error is not None:
            self._messages.put(Dropped(key, f"{type(error).__name__}: {error}"))
        else:
            reason = "another client has cancelled it" if status == "cancelled" else f"the scheduler lost it ({status})"
            self._drop_lost_inputs(reason)
            self._messages.put(Dropped(key, reason))

    def _drop_lost_inputs(self, reason: str) -> None:
        """Tell of values that were there and are gone, such as with a worker; what needs them went with them."""
        for key, future in list(self._futures.items()):
            if key not in self._expected and future.status not in ALIVE:
                self._messages.put(Dropped(key, reason, is_death=True))

    def _cause(self, worker: Any) -> str:
        """How a worker died, in words."""
        from anabranch.executors.deaths import cause_of_death

        if worker.address not in self._causes and self._client is not None:
            cause = cause_of_death(self._client, getattr(worker, "nanny", None), getattr(worker, "pid", None))
            self._causes[worker.address] = f"worker {worker.address} was lost" + (f": {cause}" if cause else "")
        return self._causes[worker.address]

    def _ask(self, key: Key) -> None:
        """Get the report that lies beside a value."""
        try:
            outcome = self.gather([key]).get(key)
            if outcome is None:
                self._messages.put(Dropped(key, "its value was lost with its worker", is_death=True))
            else:
                self._messages.put(Posted(getattr(outcome, "report", outcome)))  # a worker may have refused it
        except Exception as error:
            self._messages.put(Dropped(key, f"{type(error).__name__}: {error}"))

    def release(self, keys: Iterable[Key]) -> None:
        """Let the scheduler forget keys."""
        for key in keys:
            self._expected.pop(key, None)
            self._wanted.pop(key, None)
            self._begun.pop(key, None)
            future = self._futures.pop(key, None)
            if future is not None:
                future.release()

    def gather(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Bring values here that are there; what is lost is not waited for while Dask makes it again."""
        client, futures = self._client, {key: self._futures[key] for key in keys if key in self._futures}
        if client is None:
            return {}
        end = time.monotonic() + NEWS_S
        while any(each.status == "pending" for each in futures.values()) and time.monotonic() < end:
            time.sleep(POLL_S)
        while futures := {key: each for key, each in futures.items() if each.status == "finished"}:
            coming = client.gather(futures, errors="skip", asynchronous=True)
            loop = client.loop.asyncio_loop  # type: ignore[union-attr]  # it runs
            gathering = asyncio.run_coroutine_threadsafe(coming, loop)
            try:
                while all(each.status == "finished" for each in futures.values()):
                    if concurrent.futures.wait([gathering], timeout=SWEEP_S).done:
                        return {key: value for key, value in gathering.result().items() if value is not None}
            finally:
                gathering.cancel()
        return {}


def slots_of(worker: Mapping[str, Any]) -> int:
    """Task slots of a worker, from what the scheduler says of it: of one that begins nothing, those that are busy."""
    if worker["status"] == "running":
        return int(worker["nthreads"])
    counts = worker.get("metrics", {}).get("task_counts", {})
    return int(counts.get("executing", 0) + counts.get("long-running", 0))


def _left(key: Key, worker: str, ran_s: float | None) -> Dropped:
    """Tell of a task whose worker left in good order; `ran_s` is None if it may not have begun there."""
    if ran_s is None:
        return Dropped(key, f"it, or what it needs, was with worker {worker}, which left in good order", is_death=True)
    reason = f"worker {worker} left in good order, as at the end of its lifetime, when it had run for {ran_s:.0f} s"
    _log.warning("%s was lost and runs again: %s", key[0].rpartition("-")[0], reason)
    return Dropped(key, reason, is_death=True, ran_s=ran_s)


class _OwnCancellations(logging.Filter):
    """Drops what Dask logs when a client that tries to reconnect is closed: its own cancellation, as an error."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


_OWN_CANCELLATIONS = _OwnCancellations()

if not TYPE_CHECKING:
    __getattr__ = getter("executors.dask")

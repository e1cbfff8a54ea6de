"""A Dask cluster: one made for the run, or one that is there already."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from anabranch.errors import ExecutorError, NoWorkersError, OptionError, SchedulerUnreachable
from anabranch.executors.base import Dropped, Key, Message, Posted, Region
from anabranch.settings import config

if TYPE_CHECKING:
    from distributed import Client, Future, Security

SWEEP_S = 0.25  # how often futures are looked at for trouble; good news comes by events, at once
GRACE_S = 1.0  # a report that has not come so long after its value is asked for
# Ctrl-C in a terminal goes to every process there. It is the driver's to act on, not that of workers in mid-task.
DEAF_TO_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
SLOTS_S = 1.0  # how often the workers are counted


class DaskExecutor:
    """Runs on a Dask cluster.

    Parameters
    ----------
    address
        Of a scheduler (``"tcp://host:8786"``). None: a cluster is made for the run.
    cluster_class
        Class, function or dotted name that makes the cluster; default: ``distributed.LocalCluster``.
    cluster_kwargs, adapt_kwargs, client_kwargs
        Arguments for making the cluster, for its ``adapt`` method (called if given), and for the client.
    security
        A ``distributed.Security``, for TLS.
    """

    in_process = False
    is_sequential = False

    def __init__(
        self,
        address: str | None = None,
        *,
        cluster_class: str | Callable[..., Any] | None = None,
        cluster_kwargs: Mapping[str, Any] | None = None,
        adapt_kwargs: Mapping[str, Any] | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        security: Security | None = None,
    ) -> None:
        if address is not None and (
            cluster_class is not None or cluster_kwargs is not None or adapt_kwargs is not None
        ):
            raise OptionError("DaskExecutor: give an address, or cluster_class and its arguments, not both")
        if address is not None and (not isinstance(address, str) or "://" not in address):
            raise OptionError(f"DaskExecutor: expected an address such as 'tcp://host:8786', found {address!r}")
        self.address = address
        self.cluster_class = cluster_class
        self.cluster_kwargs = dict(cluster_kwargs or {})
        self.adapt_kwargs = dict(adapt_kwargs) if adapt_kwargs is not None else None
        self.client_kwargs = dict(client_kwargs or {})
        self.security = security
        self._client: Client | None = None
        self._cluster: Any = None
        self._reset()

    def __repr__(self) -> str:
        return f"DaskExecutor({self.address!r})" if self.address else "DaskExecutor()"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._client, self._cluster = None, None
        self._reset()

    def _reset(self) -> None:
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._futures: dict[Key, Future[Any]] = {}
        self._expected: dict[Key, float | None] = {}
        """Keys whose report is not here; since when their value is, or None."""
        self._next_sweep = 0.0
        self._slots = (0.0, 1)
        self._token = ""

    @property
    def dashboard_link(self) -> str | None:
        """Address of Dask's own page, while a run goes on."""
        return self._client.dashboard_link if self._client is not None else None

    def start(self, token: str) -> None:
        """Connect; without an address, make the cluster first.

        Raises
        ------
        SchedulerUnreachable
            Nothing answers at the address.
        NoWorkersError
            No worker came within ``engine.no_workers_timeout_s``.
        """
        from distributed import Client

        self._reset()
        self._token = token
        kwargs = {"set_as_default": False, "timeout": config.engine.connect_timeout_s, **self.client_kwargs}
        if self.security is not None:
            kwargs["security"] = self.security
        if self.address is None:
            self._cluster = self._make_cluster()
        try:
            self._client = Client(self._cluster if self._cluster is not None else self.address, **kwargs)
        except (OSError, ValueError, TypeError) as error:
            self._close_cluster()
            raise SchedulerUnreachable(
                f"no Dask scheduler answers at {self.address} within {kwargs['timeout']:g} s "
                f"({type(error).__name__}: {error}); start one with `dask scheduler`, or check the address"
            ) from error
        self._client.subscribe_topic(token, self._take_event)
        if self.adapt_kwargs is None:  # an adaptive cluster has no workers before there is work
            self._wait_for_worker()

    def _make_cluster(self) -> Any:
        cluster_class, kwargs = self.cluster_class, dict(self.cluster_kwargs)
        if cluster_class is None:
            from distributed import LocalCluster

            cluster_class = LocalCluster
            # A page of Dask's own on a port that is free: two runs on one machine must not quarrel about 8787.
            kwargs = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50, "preload": [DEAF_TO_CTRL_C], **kwargs}
        elif isinstance(cluster_class, str):
            cluster_class = _imported(cluster_class)
        try:
            cluster = cluster_class(**kwargs)
        except Exception as error:
            name = getattr(cluster_class, "__name__", cluster_class)
            raise ExecutorError(
                f"{name}({_shown(kwargs)}) could not be made: {type(error).__name__}: {error}"
            ) from error
        if self.adapt_kwargs is not None:
            cluster.adapt(**self.adapt_kwargs)
        return cluster

    def _wait_for_worker(self) -> None:
        assert self._client is not None
        limit = config.engine.no_workers_timeout_s
        try:
            if not self._client.scheduler_info()["workers"]:
                self._client.wait_for_workers(1, timeout=limit)
        except TimeoutError:
            where = self.address or type(self._cluster).__name__
            self.stop()
            raise NoWorkersError(
                f"the scheduler at {where} has no workers and none came within {limit:g} s; start one with "
                "`dask worker`, or wait longer with the setting engine.no_workers_timeout_s"
            ) from None

    def stop(self) -> None:
        """Leave the cluster without a key of this run; close it if it was made for the run."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):  # a lost scheduler is no reason to fail now
                client.unsubscribe_topic(self._token)
            for future in self._futures.values():
                with contextlib.suppress(Exception):
                    future.release()
            self._futures.clear()
            with contextlib.suppress(Exception):
                client.close(timeout=2)
        self._close_cluster()

    def _close_cluster(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            with contextlib.suppress(Exception):
                cluster.close(timeout=5)

    def slots(self) -> int:
        """Threads of all workers."""
        counted, slots = self._slots
        now = time.monotonic()
        if self._client is not None and now - counted > SLOTS_S:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            slots = sum(worker["nthreads"] for worker in workers) or 1
            self._slots = (now, slots)
        return slots

    def submit(self, region: Region) -> None:
        """Send a region to the scheduler."""
        assert self._client is not None
        keys = list(region.keys)
        futures = self._client.get(
            dict(region.graph), keys, sync=False, resources=dict(region.resources) or None, priority=region.priority
        )
        self._futures.update(zip(keys, futures, strict=True))
        if region.is_data:
            # Else all tasks would go to the one worker that has it.
            self._client.replicate(futures)
        else:
            self._expected.update(dict.fromkeys(keys))

    def _take_event(self, event: tuple[float, Any]) -> None:
        name, number, payload = event[1]
        self._expected.pop((name, number), None)
        self._messages.put(Posted(payload))

    def next_message(self, timeout_s: float | None) -> Message | None:
        """The next report, or a key that is lost."""
        now = time.monotonic()
        end = now + timeout_s if timeout_s is not None else float("inf")
        while True:
            if self._expected and now >= self._next_sweep:
                self._sweep(now)
            until = min(end, self._next_sweep if self._expected else end)
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
        for key, since in list(self._expected.items()):
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
            del self._expected[key]
            self._messages.put(Dropped(key, self._reason(key, status)))

    def _reason(self, key: Key, status: str | None) -> str:
        if status == "error":
            from distributed import KilledWorker

            error = self._futures[key].exception(timeout=5)
            if isinstance(error, KilledWorker):
                return f"the workers it was sent to died, {error.last_worker.address} the last of them"
            return f"{type(error).__name__}: {error}"
        return f"the scheduler lost it ({status})"

    def _ask(self, key: Key) -> None:
        """Get the report that lies beside a value."""
        try:
            outcome = self.gather([key])[key]
            self._messages.put(Posted(outcome.report))
        except Exception as error:
            self._messages.put(Dropped(key, f"{type(error).__name__}: {error}"))

    def release(self, keys: Iterable[Key]) -> None:
        """Let the scheduler forget keys."""
        for key in keys:
            self._expected.pop(key, None)
            future = self._futures.pop(key, None)
            if future is not None:
                future.release()

    def gather(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Bring values here."""
        assert self._client is not None
        futures = {key: self._futures[key] for key in keys if key in self._futures}
        gathered: dict[Key, Any] = self._client.gather(futures, errors="skip")
        return gathered


def _imported(name: str) -> Any:
    import importlib

    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(f"DaskExecutor: cluster_class {name!r} cannot be imported: {error}") from error


def _shown(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items())

"""A service from its start to its end: turns in one thread, the web server in another, and signals that drain it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from anabranch.base import known_secrets
from anabranch.base.errors import RunStoreError, ServiceError
from anabranch.base.files import is_public
from anabranch.base.settings import config
from anabranch.monitoring.metrics_export import metrics_route
from anabranch.runs.registry.registration import read_clock
from anabranch.runs.store.flows import FlowTable
from anabranch.runs.store.owners import name_process
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot
from anabranch.service.metering import Meter
from anabranch.service.pulse import Pulse
from anabranch.service.web.actions import Actions
from anabranch.service.web.api import api_routes
from anabranch.service.web.desk import pages_of
from anabranch.service.web.forms import form_routes
from anabranch.service.work.courier import Courier
from anabranch.service.work.dispatcher import Dispatcher
from anabranch.service.work.ear import Ear
from anabranch.service.work.processes import Processes
from anabranch.service.work.reloader import Reloader
from anabranch.service.work.sweeper import Sweeper
from anabranch.service.work.watch import Watch
from anabranch.web.guard import LOOPBACK, Guard
from anabranch.web.handlers import Route
from anabranch.web.listening import check_bind, open_sockets, tls_context
from anabranch.web.proxies import LOCAL_PROXIES, Proxies
from anabranch.web.server import Server, only_routes

POLL_S = 1.0
"""Seconds between looks for what others have asked for and nobody has told. A look costs two short queries."""
_LEAST_S = 0.02  # between two turns: what comes in a burst is dealt with together
_PUT_DOWN_S = 10.0  # for runs to be put down, once they are asked to

_log = logging.getLogger("anabranch.service")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a service is to run."""

    capacity: int = max(2, os.cpu_count() or 1)
    """Runs at a time."""
    runs_per_process: int = 1
    """Runs that a process may have, one after another, if they are short and leave nothing behind."""
    address: str = "127.0.0.1"
    port: int = 8780
    token: str = field(default="", repr=False)
    """Token of operators; without one, whoever reaches the service may do everything."""
    view_token: str = field(default="", repr=False)
    """Token of viewers."""
    hosts: tuple[str, ...] = ()
    proxies: tuple[str, ...] = LOCAL_PROXIES
    tls_cert: str = ""
    tls_key: str = ""
    pages: bool = True
    """Whether there are pages of runs and flows, beside the API."""
    reload: bool = False
    """Whether flows are registered again when their files change."""
    drain_s: float = 30.0
    """Seconds that runs have to end once the service is to end; then they are handed over."""


class Service:
    """One of several processes that run what is due.

    Parameters
    ----------
    store
        The run store that they share.
    options
        How it is to run.
    pages
        Further routes, behind the same guard.
    files
        Of flows: with `Options.reload`, they are registered again as a whole when they change.

    Raises
    ------
    ServiceError
        It would listen where it must not, or its certificate cannot be used.
    """

    def __init__(
        self,
        store: RelationalRunStore,
        options: Options,
        *,
        pages: Sequence[Route] = (),
        files: Sequence[str] = (),
    ) -> None:
        check_bind(options.address, options.token, options.view_token)
        tls = tls_context(options.tls_cert, options.tls_key)
        self._options = options
        self._wake = threading.Event()
        self._over = threading.Event()
        self._pulse = Pulse()
        self._meter = Meter(SlotQueue(store.database), FlowTable(store.database), lambda: read_clock(store))
        self._processes = Processes(
            self._wake.set,
            most=options.capacity,
            runs_each=options.runs_per_process,
            metrics=str(self._meter.directory),
        )
        self._courier = Courier()
        self._sweeper = Sweeper(store)
        self._watch = Watch(store.database, lambda: read_clock(store), self._courier)
        self._ear = Ear(store.database, self._wake.set)
        self._dispatcher = Dispatcher(
            store,
            self._processes,
            owner=name_process(),
            capacity=options.capacity,
            clock=lambda: read_clock(store),
            grace_s=config.service.cancel_grace_s,
            on_ended=self._note_end,
            on_problem=self._courier.tell_of_schedule,
        )
        self._reloader = Reloader(FlowTable(store.database), files) if options.reload else None
        hosts = (*LOOPBACK, options.address, *options.hosts)
        proxies = Proxies(options.proxies)
        guard = Guard(token=options.token, view_token=options.view_token, hosts=hosts, proxies=proxies)
        actions = Actions(store)
        metrics = metrics_route(lambda: self._meter.text(self._dispatcher))
        api = api_routes(actions, self.is_well, guard, is_ready=self.is_ready, broken=lambda: len(self.broken_files()))
        routes: list[Route] = [*api, metrics, *pages]
        if options.pages:
            routes += form_routes(actions, guard)
        make = pages_of(store, guard, self.broken_files) if options.pages else only_routes
        self._web = Server(guard, routes, make=make, tls=tls)
        self._stopping: asyncio.Event | None = None

    @property
    def port(self) -> int:
        """The port, once it listens."""
        return self._web.port

    def is_well(self) -> bool:
        """Whether its turns go on, and processes of runs can be started; if not, it should be started anew."""
        return self._pulse.is_well and self._processes.is_well

    def is_ready(self) -> bool:
        """Whether it can do now what it is asked for: the store answers, and it is not about to end."""
        return self.is_well() and self._pulse.is_answered and not self._dispatcher.is_draining

    def broken_files(self) -> Mapping[str, str]:
        """Files that have changed and cannot be registered, with the reasons."""
        return dict(self._reloader.problems) if self._reloader is not None else {}

    def run(self, started: Callable[[Service], object] = lambda service: None) -> None:
        """Serve until a signal ends it.

        Parameters
        ----------
        started
            Called when it listens.

        Raises
        ------
        ServiceError
            It cannot listen.
        """
        with config.set({"service.reload": self._options.reload}):  # which processes of runs are told
            self._run(started)

    def _run(self, started: Callable[[Service], object]) -> None:
        self._meter.open()
        self._processes.open()  # before there are threads that a fork would copy
        if is_public(self._options.tls_key):
            _log.warning("everybody can read the key of the certificate; chmod o-r %s", self._options.tls_key)
        known_secrets.learn("service", [self._options.token, self._options.view_token])
        try:
            asyncio.run(self._serve(started))
        finally:
            known_secrets.forget("service")

    async def _serve(self, started: Callable[[Service], object]) -> None:
        address, port = self._options.address, self._options.port
        try:
            sockets = open_sockets(address, port)
        except OSError as error:
            problem = (
                f"cannot listen on {address}:{port}: {error}; choose another port with --port, or 0 for any free port"
            )
            raise ServiceError(problem) from error
        self._web.start(sockets)
        self._stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        turns = threading.Thread(target=self._turns, name="anabranch-turns")
        turns.start()
        self._sweeper.open()
        self._watch.open()
        if self._reloader is not None:
            self._reloader.open()
        self._ear.open()
        counting = asyncio.create_task(self._meter.keep_up())
        started(self)
        try:
            await self._stopping.wait()
            self._dispatcher.drain()
            self._wake.set()
            await loop.run_in_executor(None, turns.join)
        finally:
            counting.cancel()
            await self._web.close()
            self._ear.close()
            self._sweeper.close()
            self._watch.close()
            if self._reloader is not None:
                self._reloader.close()
            self._processes.close()
            self._courier.close()
            self._meter.close()

    def _note_end(self, slot: Slot) -> None:
        self._meter.note_end(slot.flow_name, slot.state)
        self._courier.tell(slot.run_id)

    def _signalled(self, number: int) -> None:
        assert self._stopping is not None
        name = signal.Signals(number).name
        if self._stopping.is_set():
            _log.warning("%s again: leaving at once; runs go on by themselves", name)
            os._exit(128 + number)
        _log.warning("%s: draining, for up to %g s; again to leave at once", name, self._options.drain_s)
        self._stopping.set()

    # Turns ------------------------------------------------------------------------------------------------------------

    def _turns(self) -> None:
        until: float | None = None
        handed_over = False
        while True:
            self._wake.wait(self._pause_s())
            self._wake.clear()
            try:
                self._dispatcher.turn()
                self._pulse.note(is_answered=True)
            except RunStoreError as error:
                self._pulse.note(is_answered=False)
                _log.error("%s", error)
            except Exception:  # a bug of ours must not end what keeps a team's flows going
                _log.exception("a turn failed; the next one tries again")
            if not self._dispatcher.is_draining:
                time.sleep(_LEAST_S)
                continue
            if not self._dispatcher.running:
                return
            now = time.monotonic()
            until = until or now + self._options.drain_s
            if now >= until and not handed_over:
                _log.warning("handing over %d runs", len(self._dispatcher.running))
                self._dispatcher.hand_over()
                handed_over, until = True, now + _PUT_DOWN_S
            elif now >= until:
                self._dispatcher.kill()
                until = now + _PUT_DOWN_S

    def _pause_s(self) -> float:
        """Seconds until the next turn, if nothing happens before."""
        if self._dispatcher.is_draining:
            return 0.1
        due = self._dispatcher.next_turn()
        if due is None:
            return POLL_S
        try:
            left = due - self._dispatcher.now()
        except RunStoreError:
            return POLL_S
        return min(POLL_S, max(0.0, left / timedelta(seconds=1)))

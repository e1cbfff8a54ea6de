"""Services of a town and the processes of their runs: the library's code, with processes that are simulated."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from greenlet import GreenletExit
from tests.simulation.parts import simulated
from tests.simulation.services.machines import Event, Life, Signal, System, Threading, Time, Town

from anabranch import Flow
from anabranch.base.errors import RunStoreError
from anabranch.engine.driver import driver, interrupts
from anabranch.flows import running
from anabranch.runs.record import backlog, logs
from anabranch.runs.registry import ending
from anabranch.runs.registry.registration import read_clock
from anabranch.runs.store import heart, relational, slot_queue
from anabranch.runs.store.flows import FlowRecord
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slots import Slot
from anabranch.service import serving
from anabranch.service.pulse import Pulse
from anabranch.service.serving import Options, Service
from anabranch.service.work import one_run
from anabranch.service.work.dispatcher import Dispatcher
from anabranch.service.work.messages import FAILED, LAST, RETURNED, Exit, Job
from anabranch.service.work.one_run import run_job
from anabranch.service.work.processes import WAIT_S

HOP_S = 0.002
"""That a message takes from one process to another."""


class SimulatedNursery:
    """In the place of `Processes` and the nursery behind it: a `Launcher`."""

    def __init__(
        self,
        town: Town,
        service: Life,
        wake: Event,
        *,
        most: int,
        trouble: Callable[[str, str], None],
        on_over: Callable[[Life, str], None],
    ) -> None:
        self._town = town
        self._service = service
        self._wake = wake
        self._most = most
        self._trouble = trouble
        self._on_over = on_over
        self._ended: list[Exit] = []
        self._running: dict[Job, Life] = {}
        """Of each run that has not been heard of, the nursery that has it."""
        self._waiting: deque[tuple[Slot, Life]] = deque()
        self._children: dict[str, Life] = {}
        self._nursery: Life | None = None

    def start(self, slot: Slot) -> None:
        nursery = self._open()
        self._running[_job(slot)] = nursery

        def wait() -> None:
            self._waiting.append((slot, nursery))
            self._town.after(WAIT_S, lambda: self._return(slot), nursery)
            self._assign()

        self._town.after(HOP_S, wait, nursery)

    def exits(self) -> list[Exit]:
        found, self._ended = self._ended, []
        return found

    def give_back(self) -> None:
        for slot, nursery in list(self._waiting):
            self._town.after(HOP_S, lambda slot=slot: self._return(slot), nursery)  # type: ignore[misc]

    def stop(self, run_id: str) -> None:
        self._signal(run_id, signal.SIGTERM)

    def interrupt(self, run_id: str) -> None:
        self._signal(run_id, signal.SIGINT)

    def kill(self, run_id: str) -> None:
        self._signal(run_id, signal.SIGKILL)

    def lose(self) -> None:
        """Let the nursery die: its children go on."""
        if self._nursery is not None and self._nursery.is_alive:
            self._town.kill(self._nursery)

    def _open(self) -> Life:
        if self._nursery is None or not self._nursery.is_alive:
            nursery = self._nursery = self._town.start(self._service.host, lambda: self._town.wait(None))
            nursery.at_end.append(lambda: self._lose(nursery))
            self._children.clear()
            self._waiting.clear()
        return self._nursery

    def _lose(self, nursery: Life) -> None:
        lost = [job for job, its in self._running.items() if its is nursery]
        for job in lost:
            self._say(job, 0, self._service)

    def _signal(self, run_id: str, number: int) -> None:
        nursery = self._nursery
        if nursery is None:
            return

        def pass_on() -> None:
            if run_id in self._children:
                self._town.send(self._children[run_id], number)
            for slot, _ in list(self._waiting):
                if slot.run_id == run_id:
                    self._return(slot)

        self._town.after(HOP_S, pass_on, nursery)

    def _return(self, slot: Slot) -> None:
        for each in list(self._waiting):
            if each[0] is slot:
                self._waiting.remove(each)
                self._say(_job(slot), RETURNED, each[1])

    def _assign(self) -> None:
        while self._waiting and len(self._children) < self._most:
            slot, nursery = self._waiting.popleft()
            self._fork(slot, nursery)

    def _fork(self, slot: Slot, nursery: Life) -> None:
        codes = [-9]
        child = self._town.start(nursery.host, lambda: self._be(slot, codes), run_id=slot.run_id)
        child.handlers[signal.SIGINT] = signal.default_int_handler
        self._children[slot.run_id] = child

        def reap() -> None:
            if self._children.get(slot.run_id) is child:
                del self._children[slot.run_id]
            self._say(_job(slot), codes[0], nursery)
            self._assign()

        child.at_end.append(lambda: self._town.after(HOP_S, reap, nursery))

    def _be(self, slot: Slot, codes: list[int]) -> None:
        """Be the process of a run."""
        town, life = self._town, self._town.here
        code = FAILED
        try:
            code = run_job(_job(slot))
        except GreenletExit:
            raise
        except (RunStoreError, KeyboardInterrupt) as error:
            town.note(f"{life.name}: {type(error).__name__}: {error}")
        except BaseException as error:
            self._trouble("the process of a run raises", f"{type(error).__name__}: {error}")
        codes[0] = 0 if code == LAST else code
        if not codes[0]:
            self._on_over(life, slot.run_id)
        town.die()

    def _say(self, job: Job, code: int, process: Life) -> None:
        """Tell the service, if it is there."""
        if not process.is_alive or self._running.pop(job, None) is None:
            return

        def hear() -> None:
            self._ended.append(Exit(job.run_id, job.token, code))
            self._wake.set()

        self._town.after(HOP_S, hear, self._service)


class SimulatedService(Service):
    """The turns of a service, without its web server; it is made in its process."""

    def __init__(
        self,
        town: Town,
        store: RelationalRunStore,
        *,
        capacity: int,
        drain_s: float,
        trouble: Callable[[str, str], None],
        on_ended: Callable[[Slot], None],
        on_over: Callable[[Life, str], None],
    ) -> None:
        life = town.here
        self._options = Options(capacity=capacity, drain_s=drain_s)
        self._wake = Event()  # type: ignore[assignment]
        self._pulse = Pulse(town.time)
        self.nursery = SimulatedNursery(town, life, self._wake, most=capacity, trouble=trouble, on_over=on_over)  # type: ignore[arg-type]
        self._dispatcher = Dispatcher(
            store,
            self.nursery,
            owner=life.name,
            capacity=capacity,
            clock=lambda: read_clock(store),
            on_ended=on_ended,
            lives=lambda name: lives(town, name, life.host),
        )

    def serve(self) -> None:
        """Take turns until drained."""
        self._turns()

    def drain(self) -> None:
        """What SIGTERM does."""
        self._dispatcher.drain()
        self._wake.set()


def lives(town: Town, name: str, host: str) -> bool:
    """Whether a process is seen to live on a machine."""
    life = town.processes.get(name)
    return life is not None and life.host == host and life.is_alive


def _job(slot: Slot) -> Job:
    return Job(slot.run_id, slot.token)


class Loaded:
    """A flow as it is loaded."""

    is_file = is_kept = False
    directory = Path()

    def __init__(self, flow: Flow) -> None:
        self.flow = flow


class _Log:
    """In the place of a logger: what a turn raises, beside what it says, is a fault."""

    def __init__(self, trouble: Callable[[str, str], None]) -> None:
        self._trouble = trouble

    def exception(self, text: str, *args: Any) -> None:
        import traceback

        self._trouble("a turn raises", traceback.format_exc(limit=-6))

    def error(self, text: str, *args: Any) -> None:
        """A store that does not answer."""

    warning = error


@contextmanager
def inhabited(
    town: Town, store: RelationalRunStore, flows: dict[str, Flow], trouble: Callable[[str, str], None]
) -> Iterator[None]:
    """Within the block, the library lives in a town."""

    def load(record: FlowRecord) -> Loaded:
        return Loaded(flows[record.name])

    def is_dead(owner: str, held_since: object = None) -> bool:
        life = town.processes.get(owner)
        return life is not None and life.host == town.here.host and not life.is_alive

    def here(now: Any = None) -> int:
        return round((now.timestamp() if now is not None else Time.time()) * 1e6)

    numbers = iter(range(1, 10**9))
    changes: list[tuple[Any, str, Any]] = [
        (running, "Heart", heart.Heart),
        (heart, "threading", Threading),
        (logs, "threading", Threading),
        (backlog, "threading", Threading),
        (backlog, "time", Time),
        (one_run, "threading", Threading),
        (one_run, "signal", Signal),
        (one_run, "os", System),
        (one_run, "time", Time),
        (one_run, "kill_below", lambda pid: None),
        (one_run, "load_registered", load),
        (one_run, "tell", lambda *args, **options: None),
        (one_run, "_records", {}),
        (interrupts, "signal", Signal),
        (driver, "time", Time),
        (serving, "time", Time),
        (serving, "_log", _Log(trouble)),
        (relational, "_here", here),
        (relational, "sleepless_clock", Time.monotonic),
        (relational, "birth_of", lambda pid: ""),
        (ending, "is_dead", is_dead),
        (slot_queue, "name_process", lambda: town.here.name),
        (slot_queue, "token_hex", lambda n=12: f"claim-{next(numbers)}"),
    ]
    with simulated(town, store, lambda owner: is_dead(owner)), ExitStack() as stack:
        for where, name, what in changes:
            stack.enter_context(patch.object(where, name, what))
        yield

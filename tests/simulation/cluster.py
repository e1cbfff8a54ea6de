"""A Dask cluster as far as anabranch sees it: a scheduler with our plug-in, workers that die, and a driver's executor.

The rules are those of distributed's scheduler: a task runs once its inputs are in memory; a value stays while a client
holds its key or a task waits for it; a recipe stays for as long as its key is held or another recipe needs it;
what was in memory on a worker that died is made again, as often as ``allowed-failures`` lets it; what was running there
for the first time is handed back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from tests.simulation.chance import Chance
from tests.simulation.parts import TELLER, Doubles
from tests.simulation.world import Inbox, Pipe, Process, Thread, World

from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import Before, Key, Program, Report, Unit
from anabranch.engine.worker.arrival import dumps_report, handed_back
from anabranch.engine.worker.interim import FunctionChannel
from anabranch.engine.worker.task_runner import Environment
from anabranch.engine.worker.unit_runner import learn, run_unit
from anabranch.executors.base import CancelWanted, Disconnected, Dropped, Executor, Message, Posted, Region

ALLOWED_FAILURES = 3
SWEEP_S = 0.5
GRACE_S = 2.0
NOTICE_S = 1.0
"""Until a scheduler sees that a client is gone, at most."""


@dataclass(eq=False)
class Recipe:
    """A task as the scheduler knows it."""

    key: Key
    unit: Unit
    program: Program
    needs: tuple[Key, ...]
    client: SimulatedExecutor
    used_by: set[Key] = field(default_factory=set)
    state: str = "waiting"
    """``waiting``, ``processing``, ``memory``, ``released`` or ``erred``."""
    is_wanted: bool = True
    worker: Worker | None = None
    """Where it runs, or its value is."""
    was_done: bool = False
    before: Before | None = None
    failures: int = 0
    blames: Key | None = None
    """Of an erred one: which task could not be computed."""
    place: int = 0
    """Its turn."""


@dataclass(eq=False)
class Worker:
    """A worker process."""

    process: Process
    slots: int
    to_scheduler: Pipe
    from_scheduler: Pipe
    values: dict[Key, UnitOutcome] = field(default_factory=dict)
    running: dict[Key, Thread] = field(default_factory=dict)
    cancelled: set[Key] = field(default_factory=set)
    queue: list[tuple[Recipe, dict[Key, UnitOutcome]]] = field(default_factory=list)
    """What was sent and waits for a thread: those of cancelled tasks go on to their end."""


class Cluster:
    """A scheduler and its workers."""

    def __init__(
        self,
        world: World,
        chance: Chance,
        *,
        workers: int,
        slots: int,
        loses_messages: bool = False,
        tell_lost: Callable[[Report], object] = lambda report: None,
    ) -> None:
        self.world = world
        self.chance = chance
        self.recipes: dict[Key, Recipe] = {}
        self.workers: list[Worker] = []
        self.clients: list[SimulatedExecutor] = []
        self.slots = slots
        self.loses_messages = loses_messages
        self._tell_lost = tell_lost
        self.is_lost = False
        self._turn = 0
        self._born = 0
        for _ in range(workers):
            self.add_worker()

    def latency(self) -> float:
        """Of one message."""
        return 0.001 + self.chance.seconds(0.2)

    def add_worker(self) -> None:
        """Let a worker come."""
        if self.is_lost:
            return
        self._born += 1
        process = Process(f"worker-{id(self) and self._born}")
        pipes = Pipe(self.world, self.latency), Pipe(self.world, self.latency)
        self.workers.append(Worker(process, self.slots, *pipes))
        self._assign()

    # Clients ----------------------------------------------------------------------------------------------------------

    def take(self, client: SimulatedExecutor, graph: Mapping[Key, Any]) -> None:
        """Take tasks of a client."""
        if self.is_lost:
            return
        for key, task in graph.items():
            assert key not in self.recipes, f"{key} is used twice"
            self._turn += 1
            needs = tuple(task.dependencies)
            unit, program = task.args[4], task.args[3]
            recipe = self.recipes[key] = Recipe(key, unit, program, needs, client, place=self._turn)
            for up in needs:
                known = self.recipes.get(up)
                if known is None:  # Dask says so too: its key is not there any more
                    self._err(recipe, up)
                    break
                known.used_by.add(key)
        for key in graph:
            recipe = self.recipes[key]
            if recipe.state == "waiting":
                self._want_inputs(recipe)
        self._assign()

    def _want_inputs(self, recipe: Recipe) -> None:
        """See that what a waiting task needs is there, or on its way."""
        for up in recipe.needs:
            known = self.recipes[up]
            if known.state == "released":
                known.state = "waiting"
                self._want_inputs(known)
            if known.state == "erred":
                self._err(recipe, known.blames or up)
                return

    def release(self, keys: Iterable[Key]) -> None:
        """Let go of keys that no client holds any more."""
        for key in keys:
            recipe = self.recipes.get(key)
            if recipe is not None:
                recipe.is_wanted = False
        for key in keys:
            self._tidy(key)

    def _tidy(self, key: Key) -> None:
        """Drop the value, and the recipe, of a task that nobody wants."""
        recipe = self.recipes.get(key)
        if recipe is None or recipe.is_wanted:
            return
        waited_for = any(self.recipes[each].state in ("waiting", "processing") for each in recipe.used_by)
        if waited_for:
            return
        if recipe.state == "processing":
            self._stop(recipe)
        elif recipe.state == "memory":
            self._drop_value(recipe)
        recipe.state = "released" if recipe.state != "erred" else "erred"
        if not recipe.used_by:
            del self.recipes[key]
            for known in filter(None, map(self.recipes.get, recipe.needs)):
                known.used_by.discard(key)
        for up in recipe.needs:
            self._tidy(up)

    def _stop(self, recipe: Recipe) -> None:
        worker, key = recipe.worker, recipe.key
        assert worker is not None
        worker.from_scheduler.send(lambda: worker.cancelled.add(key))
        recipe.worker, recipe.state = None, "released"
        self.world.after(0.0, self._assign)

    def _drop_value(self, recipe: Recipe) -> None:
        if recipe.worker is not None:
            recipe.worker.values.pop(recipe.key, None)
        recipe.worker = None

    def leave(self, client: SimulatedExecutor) -> None:
        """See a client go, with all that it holds."""
        if client in self.clients:
            self.clients.remove(client)
            self.release([key for key, recipe in self.recipes.items() if recipe.client is client])

    # Tasks ------------------------------------------------------------------------------------------------------------

    def _is_ready(self, recipe: Recipe) -> bool:
        return all(self.recipes[up].state == "memory" for up in recipe.needs)

    def _assign(self) -> None:
        """Send tasks that have what they need to workers with room; a few more than there are slots are sent ahead."""
        ready = [each for each in self.recipes.values() if each.state == "waiting" and self._is_ready(each)]
        for recipe in sorted(ready, key=lambda each: each.place):
            loads = [
                sum(each.worker is worker and each.state == "processing" for each in self.recipes.values())
                for worker in self.workers
            ]
            free = [w for w, load in zip(self.workers, loads, strict=True) if load < w.slots]
            if not free:
                return
            worker = self.chance.pick(free)
            recipe.state, recipe.worker = "processing", worker
            given = {}
            for up in recipe.needs:
                holder = self.recipes[up].worker
                assert holder is not None
                given[up] = holder.values[up]
            worker.from_scheduler.send(partial(self._begin, worker, recipe, given))

    def _begin(self, worker: Worker, recipe: Recipe, given: dict[Key, UnitOutcome]) -> None:
        if worker.process.is_alive:
            worker.queue.append((recipe, given))
            self._begin_next(worker)

    def _begin_next(self, worker: Worker) -> None:
        while worker.queue and len(worker.running) < worker.slots:
            recipe, given = worker.queue.pop(0)
            if recipe.worker is worker and recipe.state == "processing":
                run = partial(self._work, worker, recipe, given)
                worker.running[recipe.key] = self.world.spawn(worker.process, run)

    def _work(self, worker: Worker, recipe: Recipe, given: dict[Key, UnitOutcome]) -> None:
        """What a worker's thread does with a task; as `anabranch.engine.worker.arrival` has it."""
        world, key, before = self.world, recipe.key, recipe.before
        unit = recipe.unit if before is None else recipe.unit.again(before)
        learn(recipe.program, unit)
        channel = FunctionChannel(
            lambda report: self._post(worker, recipe.client, Posted(report)),
            lambda wanted: worker.process.is_alive and wanted not in worker.cancelled,
        )
        environment = Environment(
            recipe.program,
            worker.process.name,
            clock=world.time,
            sleep=world.sleep,
            stopwatch=world.time,
            channel=channel,
        )
        if unit.is_suspect:
            self._post(worker, recipe.client, key)
        lacks_code = before is not None and self.chance.happens(20)  # it was started again, and is not ours
        if (
            before is not None and any(recipe.program.nodes[slug].policies.concurrency for slug in unit.nodes)
        ) or lacks_code:
            outcome = handed_back(key, unit.nodes, unit.indices)
        else:
            outcome, report = run_unit(unit, environment, given)
            outcome.report = report
        worker.running.pop(key, None)
        self._begin_next(worker)
        is_cancelled = key in worker.cancelled
        worker.cancelled.discard(key)
        self._post(worker, recipe.client, Posted(outcome.report))
        if not is_cancelled:
            remembered = outcome.report.as_before() if before is None else before
            worker.to_scheduler.send(partial(self._finish, worker, recipe, outcome, remembered))

    def _post(self, worker: Worker, client: SimulatedExecutor, message: Message | Key) -> None:
        """An event of the scheduler's: it arrives in the order of what the worker sends, or twice, or never."""
        if worker.process.is_alive:
            times = (
                self.chance.pick((1,) * 19 + (2,)) if not self.loses_messages else self.chance.pick((1,) * 18 + (2, 0))
            )
            if not times and isinstance(message, Posted) and isinstance(message.payload, Report):
                self._tell_lost(message.payload)
            for _ in range(times):
                worker.to_scheduler.send(lambda: client.post(message))

    def _finish(self, worker: Worker, recipe: Recipe, outcome: UnitOutcome, before: Before) -> None:
        if not worker.process.is_alive or recipe.worker is not worker or recipe.state != "processing":
            return
        worker.values[recipe.key] = outcome
        recipe.state, recipe.was_done, recipe.before = "memory", True, before
        for up in recipe.needs:
            self._tidy(up)
        self._tidy(recipe.key)
        if recipe.state == "memory":
            recipe.client.hear(recipe.key, "finished")
        self._assign()

    def _err(self, recipe: Recipe, blames: Key) -> None:
        recipe.state, recipe.blames, recipe.worker = "erred", blames, None
        recipe.client.hear(recipe.key, "error")
        for key in list(recipe.used_by):
            if self.recipes[key].state in ("waiting", "released"):
                self._err(self.recipes[key], blames)

    # Losses -----------------------------------------------------------------------------------------------------------

    def lose_worker(self, worker: Worker) -> None:
        """Let a worker die: what runs there, and all values that are only there, are gone."""
        worker.process.end(self.world.now)
        self.workers.remove(worker)
        mine = [each for each in self.recipes.values() if each.worker is worker]
        for recipe in mine:
            if recipe.state == "processing":
                recipe.failures += 1
                recipe.worker = None
                if not recipe.was_done or recipe.failures > ALLOWED_FAILURES:
                    self._err(recipe, recipe.key)
                else:
                    recipe.state = "waiting"
            elif recipe.state == "memory":
                recipe.worker, recipe.state = None, "released"
        for recipe in mine:
            waited_for = any(self.recipes[each].state == "waiting" for each in recipe.used_by)
            if recipe.state == "released" and (recipe.is_wanted or waited_for):
                recipe.state = "waiting"
                recipe.client.hear(recipe.key, "pending")
        for recipe in list(self.recipes.values()):
            if recipe.state == "waiting":
                self._want_inputs(recipe)
        for recipe in mine:
            self._tidy(recipe.key)
        self._assign()

    def lose(self) -> None:
        """Let the scheduler die, and everything with it."""
        self.is_lost = True
        for worker in self.workers:
            worker.process.end(self.world.now)
        for client in self.clients:
            client.deliver(Disconnected("the connection to the scheduler is lost"))
        self.recipes.clear()
        self.workers.clear()


class SimulatedExecutor(Executor):
    """A driver's side of the cluster: what `anabranch.executors.DaskExecutor` does with a client.

    Parameters
    ----------
    find
        Gives the cluster that there is now.
    submits
        Is told before anything is submitted.
    """

    def __init__(self, find: Any, doubles: Doubles, submits: Callable[[], None] = list) -> None:
        self.doubles = doubles
        self._world: World = doubles.world
        self._find, self._submits = find, submits
        self._token = ""
        self._called_back: set[Key] = set()

    def for_run(self) -> Self:
        return self  # each driver makes its own

    def start(self, token: str) -> None:
        self._token = token
        assert self._world.current is not None
        self.process = self._world.current.process
        self._inbox: Inbox[Message] = Inbox(self._world, self._world.current)
        self._cluster: Cluster = self._find()
        self._cluster.clients.append(self)
        self._statuses: dict[Key, str] = {}
        self._expected: dict[Key, float | None] = {}
        self._begun: dict[Key, float] = {}
        self._down = Pipe(self._world, self._cluster.latency)
        self._up = Pipe(self._world, self._cluster.latency)
        self._next_sweep = 0.0

    def stop(self) -> None:
        cluster = self._cluster
        self._up.send(lambda: cluster.leave(self))

    def cut_off(self) -> None:
        """See the driver's process die: the scheduler notices in a while."""
        if self._token:
            cluster = self._cluster
            self._world.after(NOTICE_S, lambda: cluster.leave(self))

    def recover(self, say: Any) -> None:
        self._world.sleep(self._cluster.latency())
        self.start(self._token)

    def slots(self) -> int:
        return sum(worker.slots for worker in self._cluster.workers)

    def submit(self, region: Region) -> None:
        self._submits()
        keys, graph, cluster = region.keys, dict(region.graph), self._cluster
        self._expected.update(dict.fromkeys(keys))
        self._statuses.update(dict.fromkeys(keys, "pending"))
        self._up.send(lambda: cluster.take(self, graph))

    def release(self, keys: Iterable[Key]) -> None:
        gone, cluster = [key for key in keys if self._statuses.pop(key, None) is not None], self._cluster
        for key in gone:
            if self._expected.pop(key, self) is not self:
                self._called_back.add(key)
            self._begun.pop(key, None)
        self._up.send(lambda: cluster.release(gone))

    def gather(self, keys: Iterable[Key]) -> dict[Key, Any]:
        self._world.sleep(self._cluster.latency())
        recipes = {key: self._cluster.recipes.get(key) for key in keys}
        return {
            key: recipe.worker.values[key]
            for key, recipe in recipes.items()
            if recipe is not None and recipe.state == "memory" and recipe.worker is not None
        }

    def ask_workers(self, question: Any, timeout_s: float = 5.0) -> list[Any]:
        self._world.sleep(self._cluster.latency())
        if question.bound[1] != "untold" or self._cluster.is_lost or self._cluster.chance.happens(8):
            return []
        alive = [worker.process for worker in self._cluster.workers]
        return [[dumps_report(each) for each in TELLER.news_from(alive, self._token)]]

    def situation(self) -> Sequence[str]:
        return ()

    def is_connected_to(self, cluster: Cluster) -> bool:
        """Whether its driver has that cluster, and not one that is gone."""
        return self._cluster is cluster

    def has_called_back(self, key: Key | None) -> bool:
        """Whether a unit was let go before it had ended."""
        return key in self._called_back

    def awaits(self, key: Key) -> bool:
        """Whether the report of a unit is still to come."""
        return key in self._expected

    # What arrives -----------------------------------------------------------------------------------------------------

    def post(self, message: Message | Key) -> None:
        """An event of the run's topic."""
        self._down.send(lambda: self._take(message))

    def hear(self, key: Key, status: str) -> None:
        """News of a key."""
        self._down.send(lambda: self._note_status(key, status))

    def deliver(self, message: Message) -> None:
        """Something that the client sees by itself."""
        self._inbox.put(message)

    def cancel(self) -> None:
        """Let somebody ask for the end of the run."""
        self._down.send(lambda: self._inbox.put(CancelWanted("asked for")))

    def _take(self, message: Message | Key) -> None:
        if isinstance(message, tuple):
            self._begun[message] = self._world.now
            return
        if isinstance(message, Posted) and isinstance(message.payload, Report) and not message.payload.part:
            self._expected.pop(message.payload.key, None)
            self._begun.pop(message.payload.key, None)
        self._inbox.put(message)

    def _note_status(self, key: Key, status: str) -> None:
        if key in self._statuses:
            self._statuses[key] = status

    def next_message(self, timeout_s: float | None) -> Message | None:
        world = self._world
        end = world.now + (timeout_s if timeout_s is not None else 1e9)
        while True:
            if self._inbox.items:
                return self._inbox.items.popleft()
            if self._expected and world.now >= self._next_sweep:
                self._sweep()
                if self._inbox.items:
                    continue
            if world.now >= end:
                return None
            until = min(end, self._next_sweep) if self._expected else end
            world.wait(max(0.0, until - world.now))

    def _sweep(self) -> None:
        now = self._world.now
        self._next_sweep = now + SWEEP_S
        for key, since in list(self._expected.items()):
            status = self._statuses[key]
            if status == "finished" and since is None:
                self._expected[key] = now
            elif status == "finished" and since is not None and now - since > GRACE_S:
                del self._expected[key]
                outcome = self.gather([key]).get(key)
                if outcome is None:
                    self._inbox.put(Dropped(key, "its value is gone"))
                else:
                    self._inbox.put(Posted(outcome.report))
            elif status == "error":
                del self._expected[key]
                self._drop(key)

    def _drop(self, key: Key) -> None:
        began = self._begun.pop(key, None)
        recipe = self._cluster.recipes.get(key)
        ran_s = self._world.now - began if began is not None else None
        if recipe is not None and recipe.blames not in (None, key):
            ran_s = None
            for other, status in list(self._statuses.items()):
                if other not in self._expected and status == "error":
                    self._inbox.put(Dropped(other, "its value was lost with its worker", is_death=True))
        self._inbox.put(Dropped(key, "the worker was lost", is_death=True, ran_s=ran_s))

"""One town, from its choices to its end: what happens in it, and whether promises were kept."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from tests.simulation.chance import Chance
from tests.simulation.services.history import FINAL, Broken, History
from tests.simulation.services.machines import STORE, Life, Time, Town, town
from tests.simulation.services.plans import GATE, FlowPlan, Plan, TaskPlan
from tests.simulation.services.staff import SimulatedService, inhabited
from tests.simulation.services.tables import Tables
from tests.simulation.world import BEGIN_S, Stuck

from anabranch import Flow, task
from anabranch.base import context
from anabranch.base.errors import RunHeld, RunNotFound, RunOver, RunStoreError
from anabranch.definition.frozen import FrozenNode
from anabranch.executors import LocalExecutor
from anabranch.runs.registry.backfill import slots_for
from anabranch.runs.registry.ending import cancel, cancel_group
from anabranch.runs.registry.registration import read_clock
from anabranch.runs.resume.takeover import Taken
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot, slot_id
from anabranch.schedules import IntervalClock, Schedule

LEASE_S = 10.0
TICK_S = 1.0
MOST_BACK_S = 3_600.0
"""By how much clocks are put back altogether: what is due is due again only when they have caught up."""
LIMIT_S = 6_000.0
MOST_STEPS = 300_000
"""Without a task that begins."""
BEGIN = datetime.fromtimestamp(BEGIN_S, UTC)
_PLAYED: list[Story] = []
"""The town that is played."""
CLOSED: set[str] = set()
"""Flows whose filters raise."""


@dataclass(frozen=True)
class Calendar:
    """A filter of a schedule."""

    name: str

    def __call__(self, moment: datetime) -> bool:
        if self.name in CLOSED:
            raise LookupError("the calendar does not answer")
        return True


@dataclass(frozen=True)
class _Doubles:
    """What drivers have in the place of time."""

    here: Town
    has_values: bool = False

    def time(self) -> float:
        return Time.time()

    def sleep(self, seconds: float) -> None:
        self.here.sleep(min(seconds, TICK_S))

    def stand_in(self, node: FrozenNode) -> FrozenNode:
        return node


class _Local(LocalExecutor):
    """Runs tasks in the process of their run."""

    def __init__(self, here: Town) -> None:
        super().__init__()
        self._here = here
        self.doubles = _Doubles(here)

    def __reduce__(self) -> Any:
        return _Local, (self._here,)

    def for_run(self) -> _Local:
        return _Local(self._here)


@dataclass(frozen=True)
class _Work:
    """A task's function, which has nothing of the town in it."""

    flow: str
    slug: str

    def __call__(self) -> None:
        story = _PLAYED[-1]
        flow = next(each for each in story.plan.flows if each.name == self.flow)
        story.work(flow, self.slug, flow.tasks[flow.slugs.index(self.slug)])


@dataclass
class Story:
    """A town that is played."""

    chance: Chance
    plan: Plan
    town: Town = field(default_factory=Town)
    broken: Broken | None = None
    services: dict[Life, SimulatedService] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)
    """Of runs that ended with their processes."""

    def __post_init__(self) -> None:
        plan = self.plan
        self.tables = Tables(self.town, self.chance, one_in=plan.one_in, kinds=plan.kinds)
        self.store = RelationalRunStore(self.tables, lease_s=LEASE_S)  # type: ignore[arg-type]
        self.queue = SlotQueue(self.tables)  # type: ignore[arg-type]
        self.registry = FlowTable(self.tables)  # type: ignore[arg-type]
        self.history = History(
            self.town,
            {each.name: each for each in plan.flows},
            size=plan.size,
            lease_s=LEASE_S,
            trouble=self.trouble,
            fetch=self.fetch,
        )
        self.tables.watch = self.history.see
        self.flows = {each.name: self._flow(each) for each in plan.flows}

    def fetch(self, query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """Read the store without being seen."""
        found: list[Any] = self.tables.peek(lambda transaction: transaction.fetch(query, parameters))
        return found

    def trouble(self, kind: str, text: str) -> None:
        """Note that a promise was not kept."""
        if self.broken is None:
            self.town.note(f"BROKEN: {kind}: {text}")
            self.broken = Broken(kind, text)

    # What runs --------------------------------------------------------------------------------------------------------

    def _flow(self, plan: FlowPlan) -> Flow:
        with Flow(plan.name, executor=_Local(self.town)) as flow:
            before: Any = None
            for slug, each in zip(plan.slugs, plan.tasks, strict=True):
                options: dict[str, Any] = {"concurrency": {GATE: self.plan.size}} if each.gate else {}
                if each.fails:
                    options |= {"max_retries": each.fails, "retry_delay": timedelta(seconds=each.delay_s)}
                node = task(_Work(plan.name, slug), name=slug, **options)()
                if before is not None:
                    node.set_upstream(before)
                before = node
        return flow

    def work(self, flow: FlowPlan, slug: str, plan: TaskPlan) -> None:
        """Be a task's function."""
        here, running = self.town, context.current()
        assert running is not None
        life = here.here
        run_id = life.run_id
        self.history.begins(life, flow, run_id, slug, gate=plan.gate)
        try:
            if plan.seconds:
                Time.sleep(plan.seconds)
            if self.history.executions[run_id, slug] <= plan.deaths:
                here.note(f"{life.name} dies of {slug}")
                here.die()
            if running.task_run_count <= plan.fails:
                raise ValueError("not yet")
        finally:
            self.history.ends(life)

    def _register(self, plan: FlowPlan, code: str = "code") -> None:
        clock = IntervalClock(plan.interval_s, start_date=BEGIN, end_date=BEGIN + timedelta(seconds=self.plan.until_s))
        schedule = Schedule([clock], [Calendar(plan.name)], catch_up=plan.catch_up, overlap=plan.overlap)  # type: ignore[arg-type]
        record = FlowRecord(
            plan.name, code, schedule=pickle.dumps(schedule), schedule_text="x", overlap=plan.overlap,
            catch_up=plan.catch_up, max_runs=plan.max_runs,
        )  # fmt: skip
        self.registry.put(record, now=read_clock(self.store))

    def _times(self, plan: FlowPlan) -> list[int]:
        """All times of a schedule."""
        begin, step = round(BEGIN_S * 1e6), plan.interval_s * 1_000_000
        return [*range(begin + step, begin + self.plan.until_s * 1_000_000 + 1, step)]

    # What happens -----------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Play it to its end.

        Raises
        ------
        Broken
            A promise was not kept.
        """
        here, plan = self.town, self.plan
        CLOSED.clear()
        _PLAYED[:] = [self]
        with inhabited(here, self.store, self.flows, self.trouble):
            try:
                for each in plan.flows:
                    self._register(each)
                for host, capacity in plan.services:
                    self._open(host, capacity)
                for moment, what in plan.events:
                    here.after(moment % plan.until_s, partial(self._happen, what))
                here.after(plan.until_s, self._calm)
                self._look()
                here.run(lambda: self._is_over or self.broken is not None, limit_s=LIMIT_S, most_steps=MOST_STEPS)
                if self.broken is None:
                    self.history.check_end(self._times, self._id)
            except Stuck as stuck:
                left = [each for each in self.history.slots.values() if each.state not in FINAL]
                self.trouble("does not end", f"{stuck}; {left[:3]}")
            finally:
                here.close()
        if self.broken is not None:
            raise self.broken

    @staticmethod
    def _id(flow: FlowPlan, moment: int) -> str:
        return slot_id(flow.name, datetime.fromtimestamp(moment / 1e6, UTC), {})

    _is_over = False
    _settled = 0.0
    """Up to when something went on."""

    def _look(self) -> None:
        """Look, now and then, whether everything has ended."""
        here = self.town
        if here.now > BEGIN_S + self.plan.until_s + 30:
            until = dict(self.fetch("SELECT flow_name, scheduled_until FROM anabranch_flows"))
            is_planned = all(until[each.name] >= max(self._times(each), default=0) for each in self.plan.flows)
            is_open = any(each.state not in FINAL for each in self.history.slots.values())
            is_at_work = any(life.run_id and life.is_alive for life in here.processes.values())
            is_still = is_planned and not is_open and not is_at_work
            self._is_over = is_still and here.now - self._settled > 2 * LEASE_S
            self._settled = self._settled if is_still else here.now
        else:
            self._settled = here.now
        well = (life for life in self.services if life.is_alive)
        is_served = any(here.now - max(life.born, life.woken, life.failed) > LEASE_S for life in well)
        self.history.check_called(is_served=is_served)
        here.after(5.0, self._look)

    def _calm(self) -> None:
        """From now on nothing happens."""
        self.tables.is_calm = True
        self.tables.away_until = 0.0
        CLOSED.clear()
        self.town.note("calm")
        for name in self.flows:
            self._person(lambda name=name: self.registry.pause(name, False, now=read_clock(self.store)))  # type: ignore[misc]

    def _open(self, host: str, capacity: int) -> None:
        """Start a service, and the next one when it ends."""
        here = self.town

        def serve() -> None:
            life = here.here
            service = self.services[life] = SimulatedService(
                here,
                self.store,
                capacity=capacity,
                drain_s=5.0,
                trouble=self.trouble,
                on_ended=lambda slot: self.news.append(slot.run_id),
                on_over=self.history.over,
            )
            service.serve()
            life.end(here.now)

        life = here.start(host, serve)
        here.note(f"{life.name}: a service begins")

        def again() -> None:
            here.note(f"{life.name}: the service is gone")
            self.services.pop(life, None)
            here.after(self.chance.seconds(60.0), lambda: self._open(host, capacity))

        life.at_end.append(again)

    def _person(self, act: Callable[[], Any]) -> None:
        """Let somebody do something."""
        here = self.town

        def do() -> None:
            try:
                act()
            except (RunNotFound, RunOver, RunHeld) as error:
                here.note(f"refused: {error}")
            except RunStoreError as error:
                here.note(f"failed: {error}")
            here.here.is_alive = False

        here.start("desk", do, is_proof=True)

    def _happen(self, what: str) -> None:
        here, chance = self.town, self.chance
        here.note(what)
        services = [life for life in self.services if life.is_alive]
        runs = [life for life in here.processes.values() if life.run_id and life.is_alive]
        flow = chance.pick(self.plan.flows)
        if what == "outage":
            self.tables.away_until = here.now + chance.seconds(120.0)
            for life in here.processes.values():
                life.failed = max(life.failed, self.tables.away_until)
        elif what == "clock jumps":
            seconds = chance.pick((1, -1)) * chance.pick((3.0, 40.0, MOST_BACK_S))
            seconds = max(seconds, -MOST_BACK_S - here.ahead[STORE])
            for clock in (STORE, *(("ham", "eek") if chance.happens(2) else ())):
                here.ahead[clock] += seconds
            self.history.jumped = here.now
        elif what == "machine sleeps":
            host, seconds = chance.pick(("ham", "eek")), 1 + chance.seconds(200.0)
            for life in [*here.processes.values()]:
                if life.host == host and life.is_alive:
                    here.pause(life, seconds)
        elif what == "filter raises":
            CLOSED.add(flow.name)
            here.after(chance.seconds(100.0), lambda: CLOSED.discard(flow.name))
        elif what.endswith("a service") and services:
            life = chance.pick(services)
            if what == "kill a service":
                here.kill(life)
            elif what == "pause a service":
                here.pause(life, 1 + chance.seconds(100.0))
            else:
                self.services[life].drain()
        elif what == "lose a nursery" and services:
            self.services[chance.pick(services)].nursery.lose()
        elif what == "kill a run" and runs:
            here.send(chance.pick(runs), signal.SIGKILL)
        elif what == "pause a run" and runs:
            here.pause(chance.pick(runs), 1 + chance.seconds(100.0))
        elif what == "people take a run" and runs:
            run_id = chance.pick(runs).run_id
            self._person(lambda: self._be_rival(run_id))
        else:
            self._ask(what, flow)

    def _ask(self, what: str, flow: FlowPlan) -> None:
        """Let people ask for something."""
        chance, store, queue = self.chance, self.store, self.queue
        slots = [each for each in self.history.slots.values() if each.goes_on or each.state == "Waiting"]
        ended = [each for each in self.history.slots.values() if each.state in ("Cancelled", "Crashed")]
        groups = sorted({each.group for each in self.history.slots.values()} - {""})
        now = read_clock(store)
        if what == "cancel a run" and slots:
            run_id = chance.pick(slots).run_id
            self._person(lambda: cancel(store, queue, run_id, by="ada"))
        elif what == "cancel a group" and groups:
            group = chance.pick(groups)
            self._person(lambda: cancel_group(store, queue, group, by="ada"))
        elif what == "backfill":
            times = [BEGIN - timedelta(days=1 + number) for number in range(1 + chance.below(6))]
            found = slots_for(flow.name, times, {}, max_parallel=2)
            self._person(lambda: queue.add(found, now=read_clock(store)))
        elif what == "start":
            self._person(lambda: queue.add([Slot(f"manual-{now.timestamp():.3f}", flow.name, now)], now=now))
        elif what == "pause a flow":
            self._person(lambda: self.registry.pause(flow.name, True, now=read_clock(store)))
            later = chance.seconds(100.0)
            self.town.after(
                later, lambda: self._person(lambda: self.registry.pause(flow.name, False, now=read_clock(store)))
            )
        elif what == "register anew":
            self._person(lambda: self._register(flow, f"code {now.timestamp()}"))
        elif what == "resume a run" and ended:
            seen = chance.pick(ended)
            slot = Slot(seen.run_id, seen.flow, now, origin="resume")
            if seen.run_id in self.history.runs:
                self._person(lambda: queue.again(replace(slot), now=read_clock(store)))

    def _be_rival(self, run_id: str) -> None:
        """Ask for a run, and put it down as it was."""
        before = self.store.get_run(run_id)
        Taken(self.store, before, self.store.take_over(run_id), {}).give_back()


def play(chance: Chance) -> Story:
    """Play the town that these choices make; `Story.broken` tells which promise was not kept, if one was not."""
    story = Story(chance, Plan.drawn(chance))
    try:
        story.play()
    except Broken as broken:
        story.broken = broken
    return story


__all__ = ["Story", "play", "town"]

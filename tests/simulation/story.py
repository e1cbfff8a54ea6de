"""One world, from its choices to its end: a flow that is run, what is done to it, and whether promises were kept."""

from __future__ import annotations

import math
import os
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from greenlet import GreenletExit
from tests.descriptions import LIMIT, Seen, Statement, approved, build, seen_in
from tests.properties.test_same_everywhere import seen_from
from tests.reference import interpret
from tests.simulation.chance import Chance
from tests.simulation.cluster import GRACE_S, NOTICE_S, SWEEP_S, Cluster, SimulatedExecutor
from tests.simulation.flows import BENT, bent, drawn_flow, lasting
from tests.simulation.mending import MENDING
from tests.simulation.parts import SHELF, Doubles, Touches, simulated
from tests.simulation.subflows import LEDGERS, Ledger
from tests.simulation.world import BEGIN_S, Process, Stuck, Thread, World

from anabranch import config
from anabranch.base import context
from anabranch.base.errors import RunHeld, RunStoreError
from anabranch.base.events import Event, RunStarted, UnitEnded
from anabranch.base.observers import Recipient
from anabranch.base.states import FIRST_FAILED_CODE, FIRST_FINAL_CODE, Cached, Cancelled, Retrying, State, Success
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.signature import Signature
from anabranch.definition.storing import Storing
from anabranch.engine.units.units import Key, Report
from anabranch.results import Result
from anabranch.runs.store.permit_table import PermitTable
from anabranch.runs.store.records import RunRecord
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.rows import run_of
from anabranch.runs.store.schema import RUNS
from anabranch.runs.view import FlowRunView

RUN = "run"
ITS_ROW = RUNS.select("run_id = ?")
SLACK_S = 0.6
"""That messages may take beside."""
SOON_S = 1.0
"""After it has been recorded for so long, nothing runs again."""
LEASE_S = 10.0
LIMIT_S = 50_000.0
MOST_STEPS = 10_000
"""Without a task that begins, or ends in another way than before."""
STILL_S = (15.0, 3.0, 60.0)
HAPPENS = ("dies after", "dies before", "dies after", "dies before", "stands still", "is cancelled", "is asked to end")
OBEYS_S = 5.0
"""Within which a cancelled run ends, if nothing stands in the way."""
MOST_TASK_RUNS = 4_000
"""A world with more is left before its end: a list of lists of lists takes as long as thousands of others."""
MOST_REPEATED = 4_000
"""Calls beside the first of each task run."""
MOST_DRIVERS = 200
CALM = 8
"""So many drivers have to do with a store that fails now and then."""
DONE = (Success.code, Cached.code)
DURATIONS_S = (0.0, 0.0, 0.1, 0.4, 1.5, 5.0)
OWN_CODE = ("task",)
_ELSEWHERE = {"inline_nbytes": 0, "rescued_nbytes": 0}
AS_BENT: dict[str, dict[str, Any]] = {
    "calls": _ELSEWHERE,
    "few": _ELSEWHERE,
    "joined": {"inline_nbytes": 16384, "rescued_nbytes": 1 << 20},
}
"""Where values are, in worlds that are bent: what is only on workers can be lost."""


IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""A directory whose files need no disk."""


class Broken(AssertionError):
    """A promise was not kept."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@dataclass
class Execution:
    """One call of a task's function, as seen from outside."""

    what: tuple[str, int]
    attempt: int
    loop_round: int
    began: float
    driver: Process | None = field(default=None, repr=False)
    """Who runs the flow when it begins."""


@dataclass
class Plan:
    """What is run, and what is done to it."""

    statements: list[Statement]
    engine: Mapping[str, Any]
    workers: int
    slots: int
    salt: int
    keeps_all: bool
    touch_fails: int
    happens: dict[int, str]
    """By number of a touch of the store: what happens then, to the process that touches it."""
    deaths: list[float]
    """When workers die, in seconds from the beginning."""
    new_worker_s: float
    scheduler_dies: float | None
    pause: tuple[float, float] | None
    """When the driver stands still, and for how long."""
    outage: tuple[float, float] | None
    """When the store does not answer, and for how long."""
    cancel: float | None
    """When somebody cancels the run at its driver."""
    asked: float | None
    """When somebody asks for its end by the run store."""
    goes_on: bool
    """Whether somebody wants it to go on after that."""
    still_workers: list[tuple[float, float]]
    """When workers stand still, and for how long."""
    rival: float | None
    """When somebody else asks for the run to be resumed, whoever runs it."""
    loses_messages: bool
    """Whether events of the scheduler's may not arrive, so that reports are asked for."""
    knows_dead: bool
    """Whether it is seen at once that a driver is gone."""
    stores: bool
    """Whether values are stored as results."""
    mender_dies: int | None = None
    """After how many touches of the store by whoever mends what failed."""

    @classmethod
    def drawn(cls, chance: Chance) -> Plan:
        """A plan; the plainest is one of a flow that nobody disturbs."""
        statements = drawn_flow(chance)
        engine = {
            "inline_nbytes": chance.pick((16384, 16384, 0, 40)),
            "rescued_nbytes": chance.pick((1 << 20, 0)),
            "probe_elements": chance.pick((64, 1)),
            "inplace_retry_delay_s": chance.pick((0.5, 0.0)),
            "target_chunk_s": chance.pick((0.15, 1e-6, 2.0)),
            "chunks_per_slot": chance.pick((3, 1)),
            "max_tracebacks": chance.pick((20, 0)),
            "max_losses": 1000,
        }
        plan = cls(
            statements,
            engine,
            workers=1 + chance.below(3),
            slots=1 + chance.below(2),
            salt=chance.below(1000),
            keeps_all=chance.happens(2),
            touch_fails=chance.pick((0, 0, 0, 20, 5)),
            happens={1 + chance.below(40): chance.pick(HAPPENS) for _ in range(chance.below(5))},
            deaths=[chance.seconds(30.0) for _ in range(chance.below(5))],
            new_worker_s=chance.seconds(5.0),
            scheduler_dies=chance.seconds(20.0) if chance.happens(8) else None,
            pause=(chance.seconds(10.0), 1 + chance.seconds(100.0)) if chance.happens(8) else None,
            outage=(chance.seconds(10.0), chance.seconds(100.0)) if chance.happens(8) else None,
            cancel=chance.seconds(20.0) if chance.happens(20) else None,
            asked=chance.seconds(20.0) if chance.happens(20) else None,
            goes_on=chance.happens(2),
            still_workers=[(chance.seconds(20.0), chance.seconds(40.0)) for _ in range(chance.below(8) - 5)],
            rival=chance.seconds(40.0) if chance.happens(6) else None,
            loses_messages=chance.happens(8),
            knows_dead=True,
            stores=False,
        )
        last = chance.below(4 * len(BENT))
        how = BENT[last // 4]
        engine = {**engine, **AS_BENT.get(how, {})}
        if how == "mended":
            plan = replace(plan, happens={**plan.happens, 6 + chance.below(20): "dies after"})
            plan = replace(plan, mender_dies=1 + chance.below(12))
        plan = replace(plan, statements=lasting(bent(statements, how)), engine=engine)
        return replace(plan, knows_dead=last % 4 != 1, stores=last % 4 == 3)

    def undisturbed(self) -> Plan:
        """The same flow in a world in which nothing happens to it, with all values kept."""
        return replace(
            self,
            keeps_all=True,
            touch_fails=0,
            happens={},
            deaths=[],
            still_workers=[],
            loses_messages=False,
            **dict.fromkeys(("scheduler_dies", "pause", "outage", "cancel", "asked", "rival", "mender_dies")),
        )


class Witness(Recipient):
    """Sees what a driver tells of task runs, for as long as it is the one that runs the flow."""

    def __init__(self, story: Story, process: Process) -> None:
        self.story = story
        self.process = process

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted) and self.process is not self.story.drivers[0]:
            self.story.mend()
        if isinstance(event, UnitEnded) and not event.is_recorded and self.story.process is self.process:
            for slug, state in event.singles.items():
                self.story.told((slug, -1), state.code, state)
            for slug, codes in event.codes.items():
                records = event.records.get(slug, {})
                for index, code in zip(event.indices, codes, strict=True):
                    self.story.told((slug, index), code, records.get(index))


@dataclass
class Story:
    """A world that is played."""

    chance: Chance
    plan: Plan
    world: World = field(default_factory=World)
    executions: list[Execution] = field(default_factory=list)
    begun: set[tuple[str, int]] = field(default_factory=set)
    """Task runs whose function has been called."""
    done: dict[tuple[str, int], float] = field(default_factory=dict)
    """Task runs that are on record as successful, and since when."""
    ended_at: dict[tuple[str, int], tuple[float, Process]] = field(default_factory=dict)
    """Task runs whose function has returned a value, under the driver that there is: when, and where."""
    tried: dict[tuple[str, int], tuple[tuple[int, int], float, float]] = field(default_factory=dict)
    """Round and attempt that come next of task runs that are on record as tried, when they are due, and since when."""
    made: set[tuple[str, int]] = field(default_factory=set)
    """Task runs whose function has returned a value that can be lost: what is told of attempts before comes late."""
    heard: set[tuple[tuple[str, int], int]] = field(default_factory=set)
    """What task runs have come to, with their codes."""
    is_too_large: bool = False
    """Whether it is left before its end."""
    broken: Broken | None = None
    view: FlowRunView | None = None
    viewer: str = ""
    """The driver whose view it is."""
    process: Process | None = None
    executor: SimulatedExecutor | None = None
    has_driver: bool = False
    was_cancelled: bool = False
    ended: float | None = None
    drivers: list[Process] = field(default_factory=list)
    at_work: list[Process] = field(default_factory=list)
    """Drivers that have not returned."""
    cluster: Cluster = field(init=False)
    stored: dict[tuple[str, Any], float] = field(default_factory=dict)
    """Where values were stored that are found there ever after, by task and element, or arguments: since when."""
    _known: tuple[RunRecord | None, int, float] = (None, -1, math.inf)
    """The record as it was last read, how much had been written then, and when its lease runs out."""
    inside: dict[Thread, Process | None] = field(default_factory=dict)
    """Threads that are at a task that shares a limit with others, and the driver that there was when they began."""

    def __post_init__(self) -> None:
        plan = self.plan
        self.touches = Touches(self.chance, one_in=plan.touch_fails)
        for number, what in plan.happens.items():
            when = self.touches.happens_after if what == "dies after" else self.touches.happens
            when[number] = partial(self._happen, number, what)
        self.store = RelationalRunStore(self.touches, lease_s=LEASE_S)  # type: ignore[arg-type]
        self.cluster = self._new_cluster()
        self.result = Result(SHELF)
        self.flow = build(plan.statements, result=self.result)
        self.graph = self.flow.graph.freeze()
        sizes = [node.policies.concurrency.get(LIMIT, 0) for node in self.graph.nodes.values()]
        self.most = min(filter(None, sizes), default=0)
        self.slack_s = SLACK_S + (SWEEP_S + GRACE_S + SLACK_S) * plan.loses_messages
        self.is_healthy = not plan.touch_fails and plan.outage is None
        is_here = plan.engine["inline_nbytes"] == 16384 and plan.engine["rescued_nbytes"] > 0
        self.is_here = is_here
        self.doubles = Doubles(self.world, self._stand_in)

    # What happens -----------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Play it to its end.

        Raises
        ------
        Broken
            A promise was not kept.
        """
        plan, world = self.plan, self.world
        operator = Process("operator")
        for moment in plan.deaths:
            world.after(moment, self._lose_worker)
        if plan.scheduler_dies is not None:
            world.after(plan.scheduler_dies, self._lose_scheduler)
        if plan.pause is not None:
            world.after(plan.pause[0], partial(self._pause, plan.pause[1]))
        if plan.outage is not None:
            world.after(plan.outage[0], partial(self._cut_store, plan.outage[1]))
        if plan.cancel is not None:
            world.after(plan.cancel, self._cancel)
        if plan.asked is not None:
            world.after(plan.asked, self._ask_end)
        if plan.rival is not None:
            world.after(plan.rival, self._be_rival)
        for moment, seconds in plan.still_workers:
            world.after(moment, partial(self._pause_worker, seconds))
        if plan.stores:
            self.flow.result = self.result
        is_asked = plan.asked is not None or "is asked to end" in plan.happens.values()
        # A flow that cannot be recorded fails, and so does the task that runs it: nothing could be said of its value.
        after_s = SOON_S + self.slack_s if self.is_here else LIMIT_S
        MENDING.is_done = False
        LEDGERS[:] = [Ledger(self._break, after_s)] if self.is_healthy else []
        with simulated(world, self.store, self._is_dead, is_asked=is_asked):
            try:
                boss = world.spawn(operator, self._operate)
                world.run(
                    lambda: boss.greenlet.dead or self.broken is not None or self.is_too_large,
                    limit_s=LIMIT_S,
                    most_steps=MOST_STEPS,
                )
                if self.broken is None and not self.is_too_large:
                    self._let_settle()
                    self._check()
            except Stuck as stuck:
                raise Broken("does not end", str(stuck)) from None
            except Broken:
                raise
            except Exception as error:
                text = "".join(traceback.format_exception(error, limit=-6))
                raise Broken(f"raises {type(error).__name__}", text) from None
            finally:
                world.close()
        if self.broken is not None:
            raise self.broken

    def _let_settle(self) -> None:
        end = max(self.world.now, *(each.still_until for each in self.drivers)) + 20.0
        self.world.after(end - self.world.now, lambda: None)
        self.world.run(lambda: self.world.now >= end, limit_s=LIMIT_S, most_steps=2 * MOST_STEPS)

    def _operate(self) -> None:
        """Whoever wants the run to end: has drivers run it until it is on record how it ended."""
        for number in range(MOST_DRIVERS):
            process = self.process = Process(f"driver-{number}")
            self.drivers.append(process)
            self.touches.is_calm = number >= CALM
            self._take_stock()
            self.has_driver = True
            self.world.spawn(process, partial(self._drive, process))
            while self.has_driver and process.is_alive and process.still_until <= self.world.now:
                self.world.sleep(0.5)
            if self._has_ended():
                while any(each.is_alive for each in self.at_work):  # who was slow to ask for the run may still get it
                    self.world.sleep(1.0)
                if self._has_ended():
                    self.ended = self.world.now
                    return
            self.world.sleep(0.5 + self.chance.seconds(20.0))
        raise Stuck(f"{MOST_DRIVERS} drivers have not brought it to an end")

    def _drive(self, process: Process) -> None:
        self.at_work.append(process)
        self._run(process)
        self.at_work.remove(process)
        if process is self.process:
            self.has_driver = False

    def _run(self, process: Process) -> None:
        flow = self.flow
        executor = SimulatedExecutor(lambda: self.cluster, self.doubles, lambda: self._submits(process))
        process.at_end.append(executor.cut_off)
        if process is self.process:
            self.executor = executor
        which = {"resume": RUN} if self._record() is not None else {"run_id": RUN}
        keep: Any = "all" if self.plan.keeps_all else ()
        approve = approved(flow) if process is not self.drivers[0] else ()  # what waits for that is gone on with
        self.world.note(f"{process.name}: {which}")
        try:
            view = flow.run(executor=executor, observers=[Witness(self, process)], keep=keep, approve=approve, **which)  # type: ignore[arg-type]
            self.world.note(f"{process.name}: {view.state}")
            process.left = self.world.now
            record = self._record()
            is_whole = not approved(flow) or bool(approve)
            if is_whole and record is not None and record.owner == process.name:
                self.view, self.viewer = view, process.name
        except RunStoreError as error:
            self.world.note(f"{process.name}: {type(error).__name__}: {error}")
        except GreenletExit:
            raise
        except BaseException as error:
            text = "".join(traceback.format_exception(error, limit=-6))
            self._break(f"the driver raises {type(error).__name__}", text)

    def _submits(self, driver: Process) -> None:
        """See a driver submit: is the run still its own?"""
        record = self._record()
        if self.is_healthy and record is not None and record.owner != driver.name:
            self._break("two drivers", f"{driver.name} submits what {record.owner} runs")

    def _be_rival(self) -> None:
        """Ask for the run: that is refused for as long as its driver lives and can reach the store."""
        driver, record, now = self.process, self._record(), self.world.now
        if driver is None or record is None or record.lease_until is None or record.owner != driver.name:
            return
        if not (driver.is_alive and self.is_healthy) or driver.still_until > now - LEASE_S:
            return
        try:
            self._as_reader(lambda: self.store.take_over(RUN, owner="rival"))
        except RunHeld:
            return
        self._break("two drivers", f"somebody else gets what {driver.name} runs")

    def _record(self) -> RunRecord | None:
        """How the run stands: as it did when it was last looked at, if nothing was written and no lease ran out."""
        writes, now = self.touches.writes, self.world.now
        known, writes_then, until = self._known
        if writes != writes_then or now >= until or self.world.is_over:
            is_over = self.world.is_over
            rows = [] if is_over else self.touches.peek(lambda transaction: transaction.fetch(ITS_ROW, (RUN,)))
            known = run_of(rows[0], self.touches.now()) if rows else None
            lease = known.lease_until if known is not None else None
            until = math.inf if lease is None or lease.timestamp() <= now else lease.timestamp()
            self._known = known, writes, until
        return known

    def _as_reader(self, read: Callable[[], Any]) -> Any:
        """Read the store from another process, which nothing happens to."""
        world, reader = self.world, Process("reader")
        before, world.current = world.current, Thread(reader, None)  # type: ignore[arg-type]
        try:
            return read()
        finally:
            world.current = before

    def _has_ended(self) -> bool:
        record = self._record()
        if record is None or record.lease_until is not None:
            return False
        if record.state == "Cancelled" and self.was_cancelled and self.plan.goes_on:
            self.was_cancelled, self.view = False, None
        elif record.state == "Cancelled" and self.was_cancelled:
            return True
        is_seen = self.view is not None and self.viewer == record.owner
        return is_seen and record.state in ("Success", "Failed", "Cancelled")

    def _break(self, kind: str, text: str) -> None:
        if self.broken is None:
            self.broken = Broken(kind, text)

    # What is done to it -----------------------------------------------------------------------------------------------

    def _new_cluster(self) -> Cluster:
        plan = self.plan
        return Cluster(
            self.world,
            self.chance,
            workers=plan.workers,
            slots=plan.slots,
            loses_messages=plan.loses_messages,
            tell_lost=self._hear_lost,
        )

    def _hear_lost(self, report: Report) -> None:
        """What an interim report would have told is told by the unit's own, which is asked for if it is lost, too."""
        if report.part:
            for each in (*report.columns, *report.singles):
                for index in report.indices or (-1,):
                    self.ended_at.pop((each.slug, index), None)

    def _lose_worker(self) -> None:
        cluster = self.cluster
        if cluster.workers:
            worker = self.chance.pick(cluster.workers)
            self.world.note(
                f"{worker.process.name} dies, at work on {list(worker.running)}, with {list(worker.values)}"
            )
            cluster.lose_worker(worker)
            self.world.after(self.plan.new_worker_s, cluster.add_worker)

    def _lose_scheduler(self) -> None:
        self.world.note("the scheduler dies")
        lost, self.cluster = self.cluster, self._new_cluster()
        lost.lose()

    def _happen(self, number: int, what: str) -> None:
        """Let something happen to a driver at a touch of the store."""
        world = self.world
        if world.current is None or world.current.process not in self.drivers:
            return
        world.note(f"{world.current.process.name} {what} at touch {number}")
        if what == "stands still":
            world.stand_still(STILL_S[number % len(STILL_S)])
        elif what == "is cancelled":
            self._cancel()
        elif what == "is asked to end":
            self._ask_end()
        else:
            world.die()

    def _pause(self, seconds: float) -> None:
        if self.process is not None:
            self.world.note(f"{self.process.name} stands still for {seconds:.1f} s")
            self.process.stand_still(self.world.now, seconds)

    def _pause_worker(self, seconds: float) -> None:
        if self.cluster.workers:
            process = self.chance.pick(self.cluster.workers).process
            self.world.note(f"{process.name} stands still for {seconds:.1f} s")
            process.stand_still(self.world.now, seconds)

    def _cut_store(self, seconds: float) -> None:
        self.world.note(f"the store does not answer for {seconds:.1f} s")
        self.touches.fails_until = self.world.now + seconds

    def _cancel(self) -> None:
        if self.executor is None or not self.executor._token or not self.has_driver:
            return
        if self.executor.is_connected_to(self.cluster):  # else there is nobody who would pass it on
            self.world.note("somebody cancels the run")
            self.executor.cancel()
            self._await_end()

    def _ask_end(self) -> None:
        """Ask for the end of the run by its record."""
        record = self._record()
        if record is not None and record.lease_until is not None:
            self.world.note(f"somebody asks {record.owner} to end the run")
            self._as_reader(lambda: self.store.ask_end(RUN, "asked for"))
            if self.process is not None and record.owner == self.process.name:
                self._await_end()
            self.was_cancelled = True

    def _await_end(self) -> None:
        """See whether the run ends that was cancelled."""
        self.was_cancelled = True
        self.world.after(OBEYS_S, partial(self._see_obeyed, self.process, self.cluster, self.world.now))

    def _see_obeyed(self, driver: Process, cluster: Cluster, since: float) -> None:
        now = self.world.now
        is_there = driver is self.process and self.has_driver and driver.silent_from(since, now) == now
        if self.is_healthy and is_there and cluster is self.cluster:
            self._break("does not obey", f"{driver.name} goes on {OBEYS_S} s after it was cancelled")

    def _is_dead(self, owner: str) -> bool:
        """Whether a process is known to be gone."""
        if not self.plan.knows_dead:
            return False
        if owner.startswith("worker"):
            return all(each.process.name != owner for each in self.cluster.workers)
        return any(each.name == owner and not each.is_alive for each in self.drivers)

    def _is_kept(self, what: tuple[str, int]) -> bool:
        """Whether the value of a task run is kept as soon as it has ended; that of a merge, say, is not stored."""
        node = self.graph.nodes.get(what[0])
        return self.is_here or (self.plan.stores and (node is None or node.kind in OWN_CODE))

    # What is seen -----------------------------------------------------------------------------------------------------

    def _stand_in(self, node: FrozenNode) -> FrozenNode:
        if node.kind not in OWN_CODE:
            return node
        return replace(node, signature=Signature(_Watched(self, node), node.signature.name))

    def told(self, what: tuple[str, int], code: int, state: State | None) -> None:
        """Hear of a driver how a task run stands."""
        if (what, code) not in self.heard:
            self.heard.add((what, code))
            self.world.progress = self.world.steps
        if code in DONE:
            self.done.setdefault(what, self.world.now)
        if isinstance(state, Retrying) and what not in self.made:
            loop_round = state.result[0] if isinstance(state.result, tuple) else 1
            due = state.start_time.timestamp() if state.start_time is not None else 0.0
            self.tried[what] = (loop_round, state.attempt + 1), due, self.world.now
        elif code >= FIRST_FINAL_CODE:
            self.tried.pop(what, None)

    def mend(self) -> None:
        """From now on nothing fails that somebody could mend."""
        if not MENDING.is_done and self.plan.mender_dies is not None:
            number = self.touches.count + self.plan.mender_dies
            self.touches.happens_after[number] = partial(self._happen, number, "dies after")
        MENDING.is_done = True

    def begins(self, execution: Execution) -> None:
        """See a task's function being called."""
        self.executions.append(execution)
        self.begun.add(execution.what)
        self.is_too_large = len(self.begun) > MOST_TASK_RUNS
        self.world.progress = self.world.steps
        if len(self.executions) - len(self.begun) > MOST_REPEATED:
            self._break("does not end", f"{len(self.executions):,} calls of {len(self.begun):,} task runs")
        now, thread = self.world.now, self.world.current
        if self._is_held_elsewhere() or (thread is not None and thread.process.still_until > now - SOON_S):
            return  # who stood still has not heard yet what became of the run
        since = self.done.get(execution.what)
        if since is not None and self._is_kept(execution.what) and now - since > SOON_S:
            slug, index = execution.what
            self._break("ran again", f"{slug}[{index}] was on record {now - since:.2f} s before")
        ended, worker = self.ended_at.get(execution.what, (now, None))
        if (
            worker is not None
            and self._is_kept(execution.what)
            and worker.silent_from(ended, now) - ended > SOON_S + self.slack_s
        ):
            self._break("ran again", f"{execution.what} had ended {now - ended:.2f} s before")
        which, due, when = self.tried.get(execution.what, ((0, 0), 0.0, now))
        if (execution.loop_round, execution.attempt) < which and now - when > SOON_S:
            self._break("repeats an attempt", f"{execution}, and it was the turn of {which} {now - when:.2f} s before")
        if (execution.loop_round, execution.attempt) == which and now < due - 0.001:
            self._break("begins too early", f"{execution} is due {due - now:.2f} s later")
        if self.ended is not None and now - self.ended > SOON_S:
            self._break("begins after the end", str(execution))

    def looks(self, place: tuple[str, Any] | None) -> None:
        """See a task's function begin whose value may be stored where it is looked for."""
        if place in self.stored:
            self._break("computed again", f"{place} was stored {self.world.now - self.stored[place]:.2f} s before")

    def keeps(self, place: tuple[str, Any] | None) -> None:
        """See such a function return a value, which is stored at once."""
        if place is not None:
            self.stored.setdefault(place, self.world.now)

    def enters(self, slug: str) -> None:
        """See a task's function begin that shares a limit with others: are there too many that the driver waits for?"""
        thread = self.world.current
        assert thread is not None
        self.inside[thread] = self.process
        if self._is_held_elsewhere() or not self._is_awaited(thread):
            return
        mine = [each for each, driver in self.inside.items() if driver is self.process and self._is_awaited(each)]
        if len(mine) > self.most:
            self._break("above the limit", f"{len(mine)} at a time, of {self.most}, with {slug}")

    def leaves(self) -> None:
        """See such a function return, or raise."""
        assert self.world.current is not None
        self.inside.pop(self.world.current, None)

    def ends(self, execution: Execution) -> None:
        """See a task's function return a value."""
        if not self._is_kept(execution.what):
            self.tried.pop(execution.what, None)  # where the value is lost, all of it is made again
            self.made.add(execution.what)
        driver, thread = self.process, self.world.current
        assert thread is not None
        is_led = driver is not None and driver.is_alive and self.has_driver and execution.driver is driver
        if is_led and thread.process.is_alive and not self._is_held_elsewhere() and self._is_awaited(thread):
            self.ended_at[execution.what] = self.world.now, thread.process
            self.world.after(SOON_S + self.slack_s, partial(self._look_back, execution.what, self._key_of(thread)))

    def _look_back(self, what: tuple[str, int], key: Key | None) -> None:
        """What was called back before it could be told has ended in vain."""
        if self.executor is not None and self.executor.has_called_back(key):
            self.ended_at.pop(what, None)

    def _key_of(self, thread: Thread) -> Key | None:
        """Of the unit that a worker's thread runs."""
        running = [(key, each) for worker in self.cluster.workers for key, each in worker.running.items()]
        return next((key for key, each in running if each is thread), None)

    def _is_awaited(self, thread: Thread) -> bool:
        """Whether the driver waits for what a worker's thread does: a unit that was called back goes on in vain."""
        key = self._key_of(thread)
        return self.executor is not None and key is not None and self.executor.awaits(key)

    def _is_held_elsewhere(self) -> bool:
        """Whether a driver before has keys: it stands still, or goes, or its end was not noticed yet. These Dask makes
        again."""
        now = self.world.now
        return any(client is not self.executor for client in self.cluster.clients) or any(
            now - each.ended < NOTICE_S + SOON_S if each.ended else each.still_until + SOON_S > now
            for each in self.drivers
        )

    def _take_stock(self) -> None:
        """Another driver takes over: what is in the store holds, and nothing else; but what failed runs again, with
        all below."""
        if self._record() is None:
            self.done.clear()
            self.tried.clear()
            self.ended_at.clear()
            return
        last = self._last_sign(self.drivers[-2]) if self.is_healthy and len(self.drivers) > 1 else 0.0
        promised = {what for what, when in self.done.items() if when < last - SOON_S}
        promised |= {
            what
            for what, (when, worker) in self.ended_at.items()
            if when < min(last, worker.silent_from(when, last)) - SOON_S - self.slack_s
        }
        self.tried = {what: known for what, known in self.tried.items() if known[-1] < last - SOON_S}
        self.ended_at.clear()
        rows = self._as_reader(lambda: self.store.task_runs(RUN))
        done: set[tuple[str, int]] = set()
        failed: set[str] = set()
        slugs = {row.slug for row in rows}
        graph = self.graph
        for row in rows:
            if row.code in DONE:
                done.add((row.slug, -1))
            elif row.code >= FIRST_FAILED_CODE:
                failed.add(row.slug)
        for slug in slugs | set(graph.nodes):
            last: dict[int, int] = {}  # what was made again may have failed
            for chunk in self._as_reader(partial(self.store.chunks, RUN, slug)):
                last.update(zip(chunk.indices, chunk.codes, strict=True))
                failed |= {slug} if max(chunk.codes, default=0) >= FIRST_FAILED_CODE else set()
            done |= {(slug, index) for index, code in last.items() if code in DONE}
        over = {row.slug for row in rows if row.code >= FIRST_FINAL_CODE}
        over &= {slug for slug, node in self.graph.nodes.items() if node.policies.may_stop_early}
        late = {what for what in promised - set(self.done) if what[0] in over}  # the map had enough without them
        called = slugs - set(graph.nodes)
        callers = {slug.rpartition("/")[0] for slug in called}  # theirs is made of those of calls
        missing = {what for what in promised - late - done if self._is_kept(what) and what[0] not in callers}
        if missing:
            self._break("not on record", f"{sorted(missing)}, at least {SOON_S} s before the driver's end")
        tainted: set[str] = set()
        for node in graph.nodes.values():
            if any(edge.upstream in failed | tainted for edge in node.edges):
                tainted.add(node.slug)
        tainted |= called if failed else set()
        self.tried = {
            each: known for each, known in self.tried.items() if each not in done and each[0] not in tainted | failed
        }
        self.done = {each: self.world.now - SOON_S for each in done if each[0] not in tainted}

    def _last_sign(self, driver: Process) -> float:
        """Until when a driver that is gone, or stands still, could do what it promises."""
        last = driver.ended or driver.left
        is_late = driver.still_until > (last or self.world.now) - SOON_S - self.slack_s
        return min(driver.still_from, last or driver.still_from) if is_late else last

    def seen(self) -> dict[str, Seen]:
        """How every node of the run ended, as far as those see it who have the last view of it."""
        assert self.view is not None
        return {slug: _plain(each) for slug, each in seen_in(self.view).items()}

    # What must hold ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        record = self._record()
        held = self._as_reader(lambda: PermitTable(self.touches).all())
        if any(limit.holders for limit in held):
            raise Broken("permits are held", str(held))
        if self.cluster.recipes:
            raise Broken("keys are held", str(list(self.cluster.recipes)))
        if record.state == "Cancelled" and self.was_cancelled:
            self._check_kept()
            return
        view = self.view
        assert view is not None
        flow, graph = self.flow, self.graph
        given = {node.slug: node.default_value for node in flow.parameters()}
        found = self.seen()
        early = {
            slug: [each.state for each in found[slug].elements]
            for slug, node in graph.nodes.items()
            if node.policies.may_stop_early
        }
        for slug, index in self.done:
            if slug in early and index >= 0 and early[slug][index] != "Success":
                raise Broken("left out what had ended", f"{slug}[{index}]: {early[slug][index]}")
        runs = interpret(graph, given, approved=frozenset(node.slug for node in approved(flow)), seen=early)
        expected = {slug: seen_from(run, is_map=graph.nodes[slug].is_map) for slug, run in runs.items()}
        for slug, right in expected.items():
            if found[slug] != _as_far(right, found[slug], keeps_all=self.plan.keeps_all):
                raise Broken("a wrong value or state", f"{slug}: expected {right}, found {found[slug]}")
        rows = {row.slug: row for row in self._as_reader(lambda: self.store.task_runs(RUN))}
        for slug, right in expected.items():
            row = rows.get(slug)
            if graph.nodes[slug].kind != "parameter" and (
                row is None or row.state.replace("Cached", "Success") != right.state
            ):
                raise Broken("the record is not true", f"{slug}: {right.state}, recorded {row and row.state}")
        if record.state != view.state.name:
            raise Broken("the record is not true", f"the run is {view.state.name}, recorded {record.state}")

    def _check_kept(self) -> None:
        """What was on record as successful is not cancelled with the run, though it was to be made again."""
        codes = {(row.slug, -1): row.code for row in self._as_reader(lambda: self.store.task_runs(RUN))}
        for slug in {slug for slug, _ in self.done}:
            for chunk in self._as_reader(partial(self.store.chunks, RUN, slug)):
                codes.update(((slug, index), code) for index, code in zip(chunk.indices, chunk.codes, strict=True))
        gone = sorted(what for what in self.done if codes.get(what) == Cancelled.code)
        if gone:
            raise Broken("cancelled what had ended", str(gone))


def _plain(seen: Seen) -> Seen:
    """What is seen of a run, whether values were computed or found where they had been stored."""
    state = "Success" if seen.state == "Cached" else seen.state
    return replace(seen, state=state, elements=tuple(map(_plain, seen.elements)))


def _as_far(right: Seen, found: Seen, *, keeps_all: bool) -> Seen:
    """What is right, without values that were not asked for and are not there."""
    if keeps_all:
        return right
    elements = (
        tuple(
            replace(r, value=f.value) if f.value == "!ResultReleased" else r
            for r, f in zip(right.elements, found.elements, strict=False)
        )
        + right.elements[len(found.elements) :]
    )
    value = found.value if found.value == "!ResultReleased" else right.value
    return replace(right, value=value, elements=elements)


class _Watched:
    """A task's function: it is seen to begin, and takes its time."""

    def __init__(self, story: Story, node: FrozenNode) -> None:
        self.__wrapped__ = node.signature.function
        self._story = story
        self._shares = LIMIT in node.policies.concurrency
        self._storing: Storing | None = node.policies.storing

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        story, running = self._story, context.current()
        if story.world.is_over:
            raise GreenletExit
        if running is not None and not running.is_share:
            index = -1 if running.map_index is None else running.map_index
            what = (running.task_slug, index)
            execution = Execution(what, running.task_run_count, running.task_loop_count, story.world.now, story.process)
            story.begins(execution)
            place = self._place(what, args, kwargs)
            story.looks(place)
            salt = zlib.crc32(f"{what}{running.task_run_count}{running.task_loop_count}{story.plan.salt}".encode())
            if self._shares:
                story.enters(running.task_slug)
            try:
                if seconds := DURATIONS_S[salt % len(DURATIONS_S)]:
                    story.world.sleep(seconds)
            finally:
                story.leaves()
        value = self.__wrapped__(*args, **kwargs)
        if running is not None and not running.is_share and is_plain(value):
            story.ends(execution)
            story.keeps(place)
        return value

    def _place(self, what: tuple[str, int], args: Any, kwargs: Any) -> tuple[str, Any] | None:
        """Where the value is found ever after, if it is."""
        storing = self._storing
        if storing is None or storing.cache_for_s is not None or storing.validator is not None:
            return None
        if storing.target is not None:
            return what
        return (what[0], repr((args, kwargs))) if storing.is_cached else None


def is_plain(value: Any) -> bool:
    """Whether a task has ended that returned this: no deferred calls are in it."""
    return isinstance(value, int) or (isinstance(value, list) and all(map(is_plain, value)))


def play(chance: Chance, plan: Plan | None = None) -> Story:
    """Play the world that these choices make; `Story.broken` tells which promise was not kept, if one was not.

    Parameters
    ----------
    plan
        What is run and what happens; None: the choices say so, too.
    """
    plan = plan or Plan.drawn(chance)
    story = Story(chance, plan)
    with ExitStack() as stack:
        stack.enter_context(config.set({f"engine.{name}": value for name, value in plan.engine.items()}))
        try:
            story.play()
        except Broken as broken:
            story.broken = broken
    return story


def tally(stories: list[Story]) -> Counter[str]:
    """Failures by kind."""
    return Counter(story.broken.kind for story in stories if story.broken is not None)


__all__ = ["BEGIN_S", "Broken", "Plan", "Story", "play", "tally"]

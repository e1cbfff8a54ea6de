"""What happened in a town, from what was written to the run store and what processes were seen to do; and what of it
must not be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.services.machines import STORE, Life, Town
from tests.simulation.services.plans import GATE, FlowPlan

from anabranch.runs.store.slot_queue import MAX_TRIES

SOON_S = 5.0
"""In which a process that stood still, or whose store did not answer, is to know how things are by now."""
FINAL = ("Success", "Failed", "Cancelled", "Crashed", "Skipped")


class Broken(AssertionError):
    """A promise was not kept."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@dataclass
class SlotSeen:
    """A slot, as it was written last."""

    run_id: str
    state: str = ""
    flow: str = ""
    due: int = 0
    origin: str = ""
    token: str = ""
    owner: str = ""
    cancel: int = 0
    tries: int = 0
    message: str = ""
    group: str = ""
    started: int | None = None
    cancelled: float | None = None
    """Since when it is not to run."""

    @property
    def goes_on(self) -> bool:
        return self.state == "Running" or (self.state == "Waiting" and self.started is not None)


@dataclass
class RunSeen:
    """A run's record, as it was written last."""

    state: str = ""
    epoch: int = 0
    owner: str = ""
    token: str = ""
    since: float = 0.0
    """When its owner took it."""
    tasks: dict[str, str] = field(default_factory=dict)
    successes: int = 0
    """Owners under which it has ended well."""


@dataclass(eq=False)
class Call:
    """A task's function that is being called."""

    life: Life
    run_id: str
    flow: FlowPlan
    slug: str
    gate: bool
    began: float


class History:
    """Hears of everything, and tells of what must not be, once it is seen.

    Parameters
    ----------
    size
        Of the limit that tasks share.
    trouble
        Told of promises that were not kept: what kind, and more.
    fetch
        Reads the store without being seen.
    """

    def __init__(
        self,
        town: Town,
        flows: Mapping[str, FlowPlan],
        *,
        size: int,
        lease_s: float,
        trouble: Callable[[str, str], None],
        fetch: Callable[..., list[Any]],
    ) -> None:
        self._town = town
        self._flows = flows
        self._size = size
        self._lease_s = lease_s
        self._trouble = trouble
        self._fetch = fetch
        self.slots: dict[str, SlotSeen] = {}
        self.runs: dict[str, RunSeen] = defaultdict(RunSeen)
        self.plans: dict[str, list[tuple[int, int, bool]]] = defaultdict(list)
        """Of each flow, how far its schedule was dealt with: from, to, and whether that was a person's wish."""
        self.calls: dict[Life, Call] = {}
        self.begun: dict[str, list[Life]] = defaultdict(list)
        """Processes that began, or went on with, a run."""
        self.freed: set[Life] = set()
        """Processes whose slots wait again, or have waited since."""
        self.executions: Counter[tuple[str, str]] = Counter()
        self.jumped = -1e9
        """When a clock was put forward or back last."""

    # The store --------------------------------------------------------------------------------------------------------

    def see(self, rows: list[tuple[Any, ...]]) -> None:
        """Hear of what a transaction has changed."""
        has_permits = False
        for kind, who, key, *values in rows:
            if kind == "slot":
                self._see_slot(who, key, values)
            elif kind == "run":
                self._see_run(who, key, *values[:5])
            elif kind == "task":
                self._see_task(who, key, *values[:2])
            elif kind == "plan":
                self.plans[key].append((values[0], values[1], self._is_proof(who)))
            elif kind == "permit":
                has_permits = True
        if has_permits:
            self._check_permits()

    def _is_proof(self, who: str) -> bool:
        life = self._town.processes.get(who)
        return life is None or life.is_proof

    def _see_slot(self, who: str, run_id: str, values: list[Any]) -> None:
        town = self._town
        before = self.slots.get(run_id)
        slot = SlotSeen(run_id, *values[:11])
        if before is not None:
            slot.cancelled = before.cancelled
        if before is None or before.state != slot.state or before.token != slot.token or before.cancel != slot.cancel:
            town.note(f"{who}: {slot.flow} {run_id} {slot.state}{' cancel' * slot.cancel} {slot.message}")
        self.slots[run_id] = slot
        if before is not None and before.state == "Running" and slot.state == "Waiting":
            self._see_freed(before, who)
        if slot.state == "Waiting" and not slot.cancel and before is not None and before.state in FINAL:
            slot.cancelled = None  # somebody wants it to go on
        elif (slot.cancel or slot.state == "Cancelled") and slot.cancelled is None:
            slot.cancelled = town.now
        life = town.processes.get(who)
        if slot.state == "Running" and slot.owner == who and life is not None and life.run_id == run_id:
            self._see_begin(slot, life)

    def _see_freed(self, before: SlotSeen, who: str) -> None:
        owner, life = self._town.processes[before.owner], self._town.processes[who]
        self.freed.add(owner)
        is_neighbour = life.host == owner.host  # who sees that it lives
        if owner.run_id and owner is not life and owner.is_alive:
            if is_neighbour or self._is_well(owner, self._lease_s):
                self._trouble("taken from a process that lives", f"{who} lets {before.run_id} of {owner.name} wait")

    def _see_begin(self, slot: SlotSeen, life: Life) -> None:
        if life in self.begun[slot.run_id]:
            return
        for other in self.begun[slot.run_id]:
            if other.is_alive and other not in self.freed:
                self._trouble("two processes", f"{life.name} begins {slot.run_id}, which {other.name} runs")
        self.begun[slot.run_id].append(life)

    def _see_run(
        self, who: str, run_id: str, state: str, epoch: int, owner: str, token: str, lease: int | None
    ) -> None:
        run = self.runs[run_id]
        if (run.state, run.epoch, run.owner) != (state, epoch, owner):
            self._town.note(f"{who}: run {run_id} {state}, epoch {epoch} of {owner}")
        if epoch == run.epoch and who != owner and state != run.state:
            self._trouble("written by a stranger", f"{who} writes {state} of run {run_id}, which is {owner}'s")
        if epoch != run.epoch:
            run.since = self._town.now
            if run.state == "Success" and not self._is_proof(who):
                self._trouble("runs again", f"{who} takes {run_id}, which has ended")
        run.state, run.epoch, run.owner, run.token = state, epoch, owner, token

    def _see_task(self, who: str, run_id: str, slug: str, state: str) -> None:
        run = self.runs[run_id]
        if who != run.owner:
            self._trouble("written by a stranger", f"{who} writes {slug} of run {run_id}, which is {run.owner}'s")
        run.tasks[slug] = state

    def _check_permits(self) -> None:
        now = round(self._town.clock(STORE) * 1e6)
        query = "SELECT name, sum(held) FROM anabranch_permits WHERE lease_until > ? GROUP BY name"
        for name, held in self._fetch(query, (now,)):
            if held > self._size:
                self._trouble("too many permits", f"{held} of {name}, of {self._size}")

    def check_called(self, *, is_served: bool) -> None:
        """Look whether runs that were put down for want of a permit are left although there is room.

        Parameters
        ----------
        is_served
            Whether there is a service to which nothing has happened for a while.
        """
        now = round(self._town.clock(STORE) * 1e6)
        ((held,),) = self._fetch("SELECT coalesce(sum(held), 0) FROM anabranch_permits WHERE lease_until > ?", (now,))
        query = (
            "SELECT p.run_id FROM anabranch_permits p JOIN anabranch_slots s ON s.run_id = p.run_id "
            "WHERE p.token LIKE 'rests %' AND s.state = 'Waiting' AND s.ready > ? ORDER BY p.ticket, p.run_id LIMIT 1"
        )
        found = self._fetch(query, (now,)) if is_served and held < self._size else []
        first = found[0][0] if found else ""
        self._looks = self._looks + 1 if first and first == self._first else 0
        self._first = first
        if self._looks >= 4:
            self._trouble("nobody is called", f"{first} waits for a permit, and there is room")

    _first = ""
    """The first run that was put down for want of a permit, if there was room at the last look."""
    _looks = 0
    """Looks before at which it was the same."""

    # Processes --------------------------------------------------------------------------------------------------------

    def _is_well(self, life: Life, seconds: float) -> bool:
        """Whether nothing has happened to a process for so long."""
        return self._town.now - max(life.woken, life.failed) > seconds

    def _drives(self, life: Life, run_id: str) -> bool:
        """Whether a process has the right to go on with a run."""
        run, slot = self.runs[run_id], self.slots[run_id]
        return run.owner == life.name and slot.owner == life.name and slot.state == "Running"

    def begins(self, life: Life, flow: FlowPlan, run_id: str, slug: str, *, gate: bool) -> None:
        """See a process call a task's function."""
        now, run, slot = self._town.now, self.runs[run_id], self.slots[run_id]
        self._town.progress = self._town.steps
        self._town.note(f"{life.name}: {slug} of {run_id} begins")
        self.executions[run_id, slug] += 1
        if run.owner != life.name:
            if self._is_well(life, SOON_S) and now - run.since > SOON_S:
                self._trouble("goes on without its run", f"{life.name} begins {slug} of {run_id}, {run.owner}'s")
        elif run.tasks.get(slug) == "Success":
            self._trouble("runs again", f"{slug} of {run_id} is on record")
        if slot.cancelled is not None and (
            life.born > slot.cancelled or (now - slot.cancelled > SOON_S and self._is_well(life, SOON_S))
        ):
            self._trouble("a cancelled run goes on", f"{life.name} begins {slug} of {run_id}")
        if self._drives(life, run_id):
            self._check_side_by_side(life, flow, slot)
        if gate and self._drives(life, run_id):
            self._check_permit(life, run)
        self.calls[life] = Call(life, run_id, flow, slug, gate, now)

    def _check_side_by_side(self, life: Life, flow: FlowPlan, slot: SlotSeen) -> None:
        others = [
            self.slots[call.run_id]
            for call in self.calls.values()
            if call.flow is flow and call.run_id != slot.run_id and call.life.is_alive
            if self._drives(call.life, call.run_id)
        ]
        scheduled = [each.run_id for each in others if each.origin == "schedule"]
        if flow.overlap != "allow" and slot.origin == "schedule" and scheduled:
            self._trouble("overlap", f"{slot.run_id} of {flow.name} runs beside {scheduled[0]}")
        if flow.max_runs is not None and len(others) >= flow.max_runs:
            self._trouble("too many runs", f"{len(others) + 1} of {flow.name} at a time, of {flow.max_runs}")
        grouped = [each.run_id for each in others if slot.group and each.group == slot.group]
        if len(grouped) >= 2:
            self._trouble("too many of a backfill", f"{slot.run_id} runs beside {grouped}")

    def _check_permit(self, life: Life, run: RunSeen) -> None:
        moment = round(self._town.clock(STORE) * 1e6)
        query = "SELECT count(*) FROM anabranch_permits WHERE name = ? AND token = ? AND held > 0 AND lease_until > ?"
        has_some = self._fetch(query, (GATE, run.token, moment))[0][0]
        is_excused = not self._is_well(life, self._lease_s + SOON_S)
        if not has_some and not is_excused and self._town.now - self.jumped > self._lease_s:
            self._trouble("without a permit", f"{life.name} begins what shares the limit")

    def ends(self, life: Life) -> None:
        """See that a function returns, or raises."""
        self.calls.pop(life, None)

    def over(self, life: Life, run_id: str) -> None:
        """See a process come to its own end."""
        if self._is_well(life, self._lease_s):
            query = "SELECT name FROM anabranch_permits WHERE run_id = ? AND owner = ? AND token NOT LIKE 'rests %'"
            if held := self._fetch(query, (run_id, life.name)):
                self._trouble("permits are held", f"{held} by {life.name}, which has ended")

    # The end ----------------------------------------------------------------------------------------------------------

    def check_end(self, times: Callable[[FlowPlan], list[int]], slot_id: Callable[[FlowPlan, int], str]) -> None:
        """Look at what must be so once everything has ended.

        Parameters
        ----------
        times
            All times of a flow's schedule, in microseconds.
        slot_id
            The id of the run for one of them.
        """
        for flow in self._flows.values():
            self._check_times(flow, times(flow), slot_id)
        for slot in self.slots.values():
            self._check_slot(slot)
        held = self._fetch("SELECT run_id, name FROM anabranch_permits WHERE lease_until > ?",
                           (round(self._town.clock(STORE) * 1e6),))  # fmt: skip
        if held:
            self._trouble("permits are held", str(held))

    def _check_times(self, flow: FlowPlan, times: list[int], slot_id: Callable[[FlowPlan, int], str]) -> None:
        """Each time is dealt with once, as the catch-up policy says."""
        dealt = -1
        for since, until, is_wish in self.plans[flow.name]:
            assert since >= dealt or dealt < 0, (flow.name, since, dealt)
            dealt = until
            due = [each for each in times if since < each <= until]
            in_time = [each for each in due if each > until - 60_000_000]
            wanted = {"all": due, "skip": in_time, "latest": in_time or due[-1:]}[flow.catch_up]
            for each in due:
                is_there = slot_id(flow, each) in self.slots
                if each in wanted and not is_there and not is_wish:
                    self._trouble("a due time is lost", f"{flow.name}, {each / 1e6:.0f}")
                if is_there and (each not in wanted or is_wish):
                    self._trouble("a missed time runs", f"{flow.name}, {each / 1e6:.0f}")
        if any(each > dealt for each in times):
            self._trouble("a due time is lost", f"the schedule of {flow.name} was followed until {dealt / 1e6:.0f}")

    def _check_slot(self, slot: SlotSeen) -> None:
        flow, run = self._flows[slot.flow], self.runs.get(slot.run_id)
        text = f"{slot.run_id} of {slot.flow}: {slot.state}, {slot.message}, {slot.tries} tries"
        if run is not None and run.state not in FINAL:
            self._trouble("a run is left", f"{text}; its record says {run.state}")
        if run is not None and slot.state == "Success":
            missing = [slug for slug in flow.slugs if run.tasks.get(slug) != "Success"]
            if run.state != "Success" or missing:
                self._trouble("not what it says", f"{text}; {run.state}, without {missing}")
        elif slot.state == "Success":
            self._trouble("not what it says", f"{text}; there is no record")
        elif slot.state == "Skipped":
            if flow.overlap == "allow" and flow.catch_up == "all":
                self._trouble("left out", text)
            if slot.started is not None or self.begun[slot.run_id]:
                self._trouble("left out after it began", text)
        elif slot.state == "Cancelled":
            if slot.cancelled is None or (not slot.cancel and "cancelled" not in slot.message):
                self._trouble("cancelled by nobody", text)
        elif slot.state == "Crashed":
            if sum(life.run_id == slot.run_id for life in self._town.processes.values()) < MAX_TRIES:
                self._trouble("given up too soon", text)
        else:
            self._trouble(f"ends as {slot.state}", text)
        if flow.deaths == 0 and slot.state == "Success":
            for slug in flow.slugs:
                number, most = self.executions[slot.run_id, slug], flow.attempts(slug) * len(self.begun[slot.run_id])
                if number > most:
                    self._trouble("too many attempts", f"{slug} of {text}: {number}")

"""Which single nodes go out now, and which of them in the same unit."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from anabranch.base.states import State
from anabranch.engine.machine.call_book import Waiter
from anabranch.engine.machine.knowledge import Knowledge, NodeRun
from anabranch.engine.machine.pacing import GIVE_UP_TARGETS
from anabranch.engine.units.calls import UnitCalls
from anabranch.engine.units.units import Unit

QUICK_S = 0.005  # a task that takes less costs Dask about as much as it works: it is worth a bundle
BUNDLE_S = 0.05  # a bundle should take about so long: ten times what a Dask task costs

SINGLES_PER_SLOT = 32  # single nodes on their way: enough that no slot waits for the driver, whatever the graph
MAX_ASIDE = 256  # nodes that do not fit into a bundle are looked at again later; so many at a time at the most


class Backlog:
    """Slugs in topological order, with the pace of what has ended.

    Parameters
    ----------
    max_nbytes
        Larger values are not bundled: a worker that needs one of them would be sent all of a bundle.
    """

    def __init__(self, *, max_nbytes: int) -> None:
        self.max_nbytes = max_nbytes
        self._heap: list[tuple[int, str]] = []
        self._paces: dict[str, float] = {}
        self._large: set[str] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, order: int, slug: str) -> None:
        """Add a node by its place in the topological order."""
        heapq.heappush(self._heap, (order, slug))

    @property
    def first(self) -> str:
        """The first node."""
        return self._heap[0][1]

    def pop(self) -> str:
        """Take the first node."""
        return heapq.heappop(self._heap)[1]

    def observe(self, name: str, state: State, *, is_small: bool) -> None:
        """Learn from a call of a task that has ended: the pace rises at once and falls by half steps."""
        duration = state.duration_s
        if duration is None:
            return
        if state.is_successful() and not is_small:
            self._large.add(name)
        before = self._paces.get(name)
        self._paces[name] = duration if before is None or duration > before else (before + duration) / 2

    def is_known(self, name: str) -> bool:
        """Whether a call of the task has ended."""
        return name in self._paces or name in self._large

    def pace_s(self, name: str) -> float | None:
        """Seconds that a call of the task takes; None if that is not known, or its values are large."""
        return None if name in self._large else self._paces.get(name)


class Singles:
    """The single nodes of a run.

    A straight line of nodes goes out as one unit. Where many can run and they are known to be quick, several go out as
    a bundle: what a Dask task costs is shared.
    """

    def __init__(self, known: Knowledge) -> None:
        self._known = known
        self._backlog = Backlog(max_nbytes=known.settings["inline_nbytes"])
        self._waiting: list[NodeRun] = []
        """Nodes that could run if a limit had room."""

    def __len__(self) -> int:
        return len(self._backlog)

    def add(self, run: NodeRun) -> None:
        """A node may run, as far as its upstreams are concerned."""
        if self._known.has_inputs(run):
            self._backlog.push(self._known.order[run.node.slug], run.node.slug)

    @property
    def has_waiting(self) -> bool:
        """Whether nodes could run if a limit had room."""
        return bool(self._waiting)

    def observe(self, run: NodeRun, state: State, *, is_small: bool) -> None:
        """A node has ended: learn how long calls of its task take."""
        self._backlog.observe(run.node.name, state, is_small=is_small)

    def next_unit(self, in_flight: int) -> Unit | None:
        """The next unit to send, if there is one and not too much is on its way."""
        while self._backlog and in_flight < self._most_per_slot * self._known.slots:
            run = self._known.runs[self._backlog.pop()]
            if not (self._known.may_start(run) and self._is_due(run)):
                continue
            if run.names is None and run.node.policies.templates and not run.assembles:
                return self._send(run, [run.node.slug], asks_names=True)
            if self._known.limits.room(run.node, run.names or (), is_call=not run.assembles):
                return self._start(run)
            self._known.limits.turn_away(run.node, names=run.names or ())
            self._waiting.append(run)
        return None

    @property
    def _most_per_slot(self) -> int:
        """Single nodes on their way for each slot: of async ones, which share it, as many as may."""
        lanes = self._known.runs[self._backlog.first].node.lanes(self._known.settings)
        return max(SINGLES_PER_SLOT, lanes)

    def look_again(self) -> None:
        """What waits for room below a limit may have it now."""
        waiting, self._waiting = self._waiting, []
        for run in waiting:
            self._backlog.push(self._known.order[run.node.slug], run.node.slug)

    def _is_due(self, run: NodeRun) -> bool:
        """Whether a node may go out: Dask waits for what is on its way, but a quick one had better be bundled.

        One that may be quick waits as well, if a call of its task is on its way that will tell.
        """
        if any(self._known.runs[up].is_flying for up in run.node.whole_upstreams):
            if run.node.policies.is_limited:
                return False  # it would hold its limits while it waits for them
            if self._is_quick(run) or self._will_be_known(run):
                return False
        return self._known.has_inputs(run)

    def _is_quick(self, run: NodeRun) -> bool:
        pace = self._backlog.pace_s(run.node.name)
        return pace is not None and pace <= QUICK_S

    def _will_be_known(self, run: NodeRun) -> bool:
        return not self._backlog.is_known(run.node.name) and self._known.calls_flying(run.node.name) > 0

    def _start(self, run: NodeRun) -> Unit:
        """Put a node into a unit, and with it what may well run in the same Dask task."""
        if run.assembles:
            return self._assemble(run)
        is_bundle = bool(self._backlog) and self._can_bundle(run, {})
        slugs = self._bundle_from(run) if is_bundle else self._line_from(run)
        return self._send(run, slugs, is_bundle=is_bundle)

    def _send(self, run: NodeRun, slugs: list[str], *, is_bundle: bool = False, asks_names: bool = False) -> Unit:
        unit = Unit(
            key=self._known.new_key(run.node),
            nodes=tuple(slugs),
            inputs=self._known.whole_inputs(slugs),
            attempts={-1: run.attempt} if run.attempt > 1 else {},
            loops={-1: run.loop} if run.loop is not None else {},
            give_up_s=BUNDLE_S * GIVE_UP_TARGETS if is_bundle else None,
            approved=self._known.approved.intersection(slugs),
            is_suspect=run.is_suspect,
            asks_names=asks_names,
            names=run.names or (),
        )
        for slug in slugs:
            each = self._known.runs[slug]
            each.key, each.is_flying, each.was_told = unit.key, True, False
        for slug in slugs:
            self._known.look_below(slug)
        return self._known.send(unit)

    def _assemble(self, run: NodeRun) -> Unit:
        """Put together the value of a node whose deferred calls have ended, alone."""
        slug, calls = run.node.slug, self._known.calls
        waiter = Waiter(slug, True)
        elements = self._known.called_inputs(waiter, (-1,))
        definitions = {each: calls.definitions[each] for each in elements}
        blocks = calls.blocks(waiter, (-1,))
        unit = Unit(
            key=self._known.new_key(run.node),
            nodes=(slug,),
            inputs=self._known.lent_inputs(blocks),
            elements=elements,
            attempts={-1: run.attempt} if run.attempt > 1 else {},
            is_suspect=run.is_suspect,
            names=run.names or (),
            calls=UnitCalls({slug: blocks}, definitions, assembles=True, parcels=calls.parcels_of(blocks)),
        )
        run.key, run.is_flying, run.was_told = unit.key, True, False
        self._known.look_below(slug)
        return self._known.send(unit)

    def _line_from(self, run: NodeRun) -> list[str]:
        """A quick node, and the nodes after it for as long as each is all that follows and waits for nothing else.

        Behind one that is not known to be quick nothing is fused: whoever needs its value would have to wait.
        """
        slugs = [run.node.slug]
        while True:
            if not self._is_quick(self._known.runs[slugs[-1]]):
                return slugs
            below = self._known.graph.downstream[slugs[-1]]
            follower = self._known.runs[below[0]] if len(below) == 1 else None
            if follower is None or follower.node.is_map or not self._go_together(self._known.runs[slugs[-1]], follower):
                return slugs
            if not all(up in slugs or self._known.runs[up].is_final for up in follower.node.whole_upstreams):
                return slugs
            slugs.append(follower.node.slug)

    def _go_together(self, run: NodeRun, other: NodeRun) -> bool:
        """Whether two nodes may share a unit: what was lost runs alone, and they ask the same of a worker."""
        mine, theirs = run.node.policies, other.node.policies
        same = (mine.resources, mine.priority) == (theirs.resources, theirs.priority)
        same = same and not run.assembles and not other.assembles
        same = same and not mine.is_limited and not theirs.is_limited
        same = same and other.attempt == 1 and other.loop is None  # what a unit is told of these is its first node's
        return same and not run.is_suspect and not other.is_suspect and self._known.may_start(other)

    def _bundle_from(self, run: NodeRun) -> list[str]:
        """Nodes of the backlog, and nodes below them, that take a moment only: together about `BUNDLE_S`."""
        slugs: dict[str, None] = {}
        aside: list[str] = []
        queue, budget_s = [run.node.slug], BUNDLE_S
        while (queue or self._backlog) and budget_s > 0 and len(aside) < MAX_ASIDE:
            comes_from_below = bool(queue)
            slug = queue.pop() if queue else self._backlog.pop()
            each = self._known.runs[slug]
            if slug in slugs or not self._known.may_start(each):
                continue
            if not (self._go_together(run, each) and self._can_bundle(each, slugs)):
                if not comes_from_below:
                    aside.append(slug)
                continue
            slugs[slug] = None
            budget_s -= self._backlog.pace_s(each.node.name) or 0.0
            queue += [down for down in self._known.graph.downstream[slug] if not self._known.runs[down].node.is_map]
        for slug in aside:
            self._backlog.push(self._known.order[slug], slug)
        return list(slugs)

    def _can_bundle(self, run: NodeRun, inside: Mapping[str, None]) -> bool:
        """Whether a node is known to be quick, and needs nothing that is still on its way elsewhere."""
        if not self._is_quick(run) or run.is_suspect or run.attempt > 1 or run.assembles:
            return False
        if run.node.policies.is_limited:
            return False
        return all(up in inside or self._known.runs[up].is_final for up in run.node.whole_upstreams)

"""The pure machine of one flow run: ``handle(stimulus)`` gives commands.

It reads no clock, does no I/O and holds no future: stimuli carry their time, commands are carried out by the driver.
What it knows of a node is a `NodeRun`, of a map a `MapRun`, of maps that run together a `Chain`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from anabranch.bindings import Const
from anabranch.engine.backlog import BUNDLE_S, QUICK_S, Backlog
from anabranch.engine.blame import blamed
from anabranch.engine.chunking import GIVE_UP_TARGETS, Pacer
from anabranch.engine.cutting import cut
from anabranch.engine.maps import Chain, MapRun, as_range
from anabranch.engine.reducing import reduced_argument
from anabranch.engine.stimuli import (
    CancelAsked,
    Command,
    Finish,
    Lost,
    Release,
    Reported,
    SlotsChanged,
    Started,
    Stimulus,
    Submit,
    Tell,
    WakeAt,
    Woke,
)
from anabranch.engine.units import CutFrom, Held, Input, Key, Known, Pieces, Report, Sent, SingleReport, Unit
from anabranch.events import MapAdvanced, TaskChanged
from anabranch.graph import FrozenGraph, FrozenNode
from anabranch.signature import ascii_name
from anabranch.states import (
    Cancelled,
    Counts,
    Crashed,
    Failed,
    Failure,
    Finished,
    Mapped,
    Paused,
    Pending,
    Retrying,
    Running,
    Skipped,
    State,
    Success,
    TriggerFailed,
)
from anabranch.triggers import EdgeName, Upstreams, all_finished, verdict

SINGLES_PER_SLOT = 32  # single nodes on their way: enough that no slot waits for the driver, whatever the graph
MAX_ASIDE = 256  # nodes that do not fit into a bundle are looked at again later; so many at a time at the most


@dataclass(slots=True)
class NodeRun:
    """What is known of one node."""

    node: FrozenNode
    state: State
    key: Key | None = None
    """Unit that has, or will have, the node's outcome."""
    is_flying: bool = False
    """Whether it is submitted and its report is not here."""
    value: bytes | None = None
    """The pickled value, where it came with the report."""
    width: int | None = None
    unmappable: str = ""
    elements: MapRun | None = None
    chain: Chain | None = None
    attempt: int = 1
    loop: tuple[int, Any] | None = None
    losses: int = 0

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return isinstance(self.state, Finished)


class Machine:
    """Decides what runs when.

    Parameters
    ----------
    graph
        The flow, frozen.
    name, token
        Of the flow and of the run, for keys.
    widths
        For parameters that maps take their elements from: the width, or why there is none.
    keep
        Slugs of nodes whose values are wanted after the run, beside the reference and terminal ones.
    settings
        The ``engine`` settings.
    slots
        Task runs that can go on at the same time.
    """

    def __init__(
        self,
        graph: FrozenGraph,
        *,
        name: str,
        token: str,
        settings: Mapping[str, Any],
        slots: int = 1,
        widths: Mapping[str, int | str] | None = None,
        keep: Iterable[str] = (),
        approved: Iterable[str] = (),
    ) -> None:
        self.graph = graph
        self.runs = {slug: NodeRun(node, Pending()) for slug, node in graph.nodes.items()}
        self.keep = frozenset((*graph.reference, *graph.terminal, *keep))
        self.slots = slots
        self.is_cancelled = False
        self.is_finished = False
        self.story: list[str] = []
        """What happened, in short, for errors that would be a riddle otherwise; the last thousand lines."""
        self._name, self._token = name, token
        self._settings = settings
        self._widths = dict(widths or {})
        self._approved = frozenset(approved)
        self._units: dict[Key, Unit] = {}
        self._chains: list[Chain] = []
        self._followers: dict[str, list[Chain]] = {}
        self._serial = 0
        self._waiting: list[tuple[float, str]] = []
        self._to_start: dict[str, None] = {}
        self._backlog = Backlog(max_nbytes=settings["inline_nbytes"])
        self._commands: list[Command] = []
        self._consumers_left = {slug: len(down) for slug, down in graph.downstream.items()}
        self._users: dict[Key, set[str]] = {}
        """For each unit that holds values: the nodes there whose values may still be needed."""
        self._order = {slug: i for i, slug in enumerate(graph.nodes)}
        self._unfinished = len(graph.nodes)
        self._reducers: dict[str, tuple[str, ...]] = {}
        for node in graph.nodes.values():
            argument = reduced_argument(node)
            if argument is not None and graph.nodes[argument[1]].is_map:
                self._reducers[argument[1]] = (*self._reducers.get(argument[1], ()), node.slug)
        self._now = 0.0

    def handle(self, stimulus: Stimulus) -> list[Command]:
        """What is to be done about something that happened."""
        self._now = max(self._now, stimulus.now)
        self._tell_story(stimulus)
        match stimulus:
            case _ if self.is_finished:
                return []
            case Started():
                self._start_run()
            case Reported(_, report):
                self._take_report(report)
            case Lost(_, key, reason):
                self._lose(key, reason)
            case SlotsChanged(_, slots):
                self.slots = max(1, slots)
            case CancelAsked(_, reason):
                self._cancel(reason)
            case Woke():
                pass
        self._wake()
        self._advance()
        commands, self._commands = self._commands, []
        return commands

    # Beginning and end ------------------------------------------------------------------------------------------------

    def _start_run(self) -> None:
        for slug, run in self.runs.items():
            if run.node.kind == "parameter":
                given = self._widths.get(slug)
                run.width = given if isinstance(given, int) else None
                run.unmappable = given if isinstance(given, str) else ""
                self._conclude(run, Success(message="given"))
            else:
                self._to_start[slug] = None

    def _advance(self) -> None:
        if not self.is_cancelled:
            self._start_nodes()
            self._fill_window()
        wake = self._next_wake()
        if wake is not None:
            self._commands.append(WakeAt(wake))
        if not self._units and not self._has_work() and wake is None:
            if self._unfinished and not self.is_cancelled and not self._is_paused():
                raise AssertionError("the run is stuck; its story:\n" + "\n".join(self.story[-60:]))
            self.is_finished = True
            self._commands.append(Finish())

    def _has_work(self) -> bool:
        return any(chain.ready for chain in self._chains)

    def _is_paused(self) -> bool:
        return any(
            isinstance(run.state, Paused) or (run.elements is not None and Paused.code in run.elements.codes)
            for run in self.runs.values()
        )

    def _next_wake(self) -> float | None:
        times = [chain.due[0][0] for chain in self._chains if chain.due]
        if self._waiting:
            times.append(self._waiting[0][0])
        return min(times, default=None)

    @property
    def _chunks_in_flight(self) -> int:
        return sum(len(chain.in_flight) for chain in self._chains)

    def _wake(self) -> None:
        for chain in self._chains:
            if chain.due and chain.due[0][0] <= self._now:
                chain.wake(self._now)
        while self._waiting and self._waiting[0][0] <= self._now:
            _, slug = heapq.heappop(self._waiting)
            self.runs[slug].state = Pending(message="due")
            self._to_start[slug] = None

    def _cancel(self, reason: str) -> None:
        self.is_cancelled = True
        state = Cancelled(message=reason)
        for chain in self._chains:
            chain.ready.clear()
            chain.due.clear()
        self._waiting.clear()
        if self._units:
            self._commands.append(Release(tuple(self._units)))
        self._units.clear()
        for run in self.runs.values():
            if run.is_final:
                continue
            run.is_flying = False
            if run.elements is not None:
                elements = run.elements
                for index, code in enumerate(elements.codes):
                    if code < Success.code:
                        elements.settle(index, state)
                counts = elements.counts()
                self._conclude(run, replace(state, message=f"{reason}; {counts}", counts=counts))
            else:
                self._conclude(run, state)

    def flow_state(self) -> State:
        """The state of the flow run, decided by its reference nodes once everything has ended."""
        runs = list(self.runs.values())
        if not runs:
            return Success(message="the flow has no tasks")
        if self.is_cancelled:
            reason = next((run.state.message for run in runs if run.state.is_cancelled()), "cancelled")
            return Cancelled(message=reason)
        if self._unfinished and self._is_paused():
            names = [run.node.slug for run in runs if not run.is_final and isinstance(run.state, Paused)]
            return Paused(message=f"waits for an approval: {', '.join(names) or 'elements of a map'}")
        references = [self.runs[slug] for slug in self.graph.reference]
        cancelled = [run for run in references if run.state.is_cancelled()]
        failed = [run for run in references if run.state.is_failed()]
        if cancelled and not failed:
            return Cancelled(message=f"{cancelled[0].node.slug} was cancelled")
        if failed:
            failure = failed[0].state.failure
            return Failed(message=self._root_message(failed), failure=failure)
        if all(run.state.is_skipped() for run in references):
            return Success(message="all reference tasks were skipped")
        return Success(message="all reference tasks succeeded")

    def _root_message(self, failed: list[NodeRun]) -> str:
        first = failed[0]
        failure = first.state.failure
        root = failure.root if failure and failure.root else first.node.slug
        origin = self.runs.get(root.split("[", 1)[0], first)
        why = origin.state.failure or failure
        headline = why.headline() if why else first.state.message
        others = (
            sum(
                run.state.counts.failed if run.state.counts else 1
                for run in self.runs.values()
                if not run.state.is_successful() and not isinstance(run.state, TriggerFailed) and run.is_final
            )
            - 1
        )
        return f"{root} failed with {headline}" + (f" (+{others:,} others)" if others > 0 else "")

    # Starting nodes ---------------------------------------------------------------------------------------------------

    def _start_nodes(self) -> None:
        units: list[Unit] = []
        window = SINGLES_PER_SLOT * self.slots
        while True:
            self._look_at_candidates()
            if not self._backlog or len(self._units) - self._chunks_in_flight + len(units) >= window:
                break
            run = self.runs[self._backlog.pop()]
            if self._may_start(run) and self._is_due(run):
                units.append(self._start_singles(run))
        if units:
            self._commands.append(Submit(tuple(units)))

    def _look_at_candidates(self) -> None:
        """Expand maps that can be, and put single nodes into the backlog that can run."""
        while self._to_start:
            # Topological order lets whole stretches of the graph go out at once, upstreams first.
            batch = sorted(self._to_start, key=self._order.__getitem__)
            self._to_start.clear()
            for slug in batch:
                run = self.runs[slug]
                if not self._may_start(run):
                    continue
                if run.node.is_map:
                    self._start_map(run)
                elif all(self._is_available(up) for up in run.node.whole_upstreams):
                    self._backlog.push(self._order[slug], slug)

    def _may_start(self, run: NodeRun) -> bool:
        """Whether a node is neither on its way nor at its end, and waits for no time or approval."""
        is_waiting = isinstance(run.state, (Retrying, Paused))
        return not (run.is_final or run.is_flying or is_waiting or run.elements is not None)

    def _is_due(self, run: NodeRun) -> bool:
        """Whether a node may go out: Dask waits for what is on its way, but a quick one had better be bundled."""
        upstreams = run.node.whole_upstreams
        if self._is_quick(run) and any(self.runs[up].is_flying for up in upstreams):
            return False
        return all(self._is_available(up) for up in upstreams)

    def _is_quick(self, run: NodeRun) -> bool:
        pace = self._backlog.pace_s(run.node.name)
        return pace is not None and pace <= QUICK_S

    def _is_available(self, slug: str) -> bool:
        """Whether a single node that needs this one may be submitted: it is final, or a single on its way."""
        run = self.runs[slug]
        return run.is_final or run.is_flying

    def _start_singles(self, run: NodeRun) -> Unit:
        """Put a node into a unit, and with it what may well run in the same Dask task."""
        is_bundle = bool(self._backlog) and self._can_bundle(run, {})
        slugs = self._bundle_from(run) if is_bundle else self._line_from(run)
        unit = Unit(
            key=self._new_key(run.node),
            nodes=tuple(slugs),
            inputs=self._whole_inputs(slugs),
            attempts={-1: run.attempt} if run.attempt > 1 else {},
            loops={-1: run.loop} if run.loop is not None else {},
            give_up_s=BUNDLE_S * GIVE_UP_TARGETS if is_bundle else None,
            approved=self._approved.intersection(slugs),
        )
        for slug in slugs:
            each = self.runs[slug]
            each.key, each.is_flying = unit.key, True
        for slug in slugs:
            self._to_start_below(slug)
        self._units[unit.key] = unit
        self._users[unit.key] = set(slugs)
        return unit

    def _line_from(self, run: NodeRun) -> list[str]:
        """A node, and the nodes after it for as long as each is all that follows and has nothing else to wait for."""
        slugs = [run.node.slug]
        while True:
            below = self.graph.downstream[slugs[-1]]
            follower = self.runs[below[0]] if len(below) == 1 else None
            if follower is None or follower.node.is_map or not self._go_together(self.runs[slugs[-1]], follower):
                return slugs
            if not all(up in slugs or self.runs[up].is_final for up in follower.node.whole_upstreams):
                return slugs
            slugs.append(follower.node.slug)

    def _go_together(self, run: NodeRun, other: NodeRun) -> bool:
        """Whether two nodes may share a unit: what was lost runs alone, and they ask the same of a worker."""
        mine, theirs = run.node.policies, other.node.policies
        same = (mine.resources, mine.priority) == (theirs.resources, theirs.priority)
        return same and not run.losses and not other.losses and self._may_start(other)

    def _bundle_from(self, run: NodeRun) -> list[str]:
        """Nodes of the backlog, and nodes below them, that take a moment only: together about `BUNDLE_S`."""
        slugs: dict[str, None] = {}
        aside: list[str] = []
        queue, budget_s = [run.node.slug], BUNDLE_S
        while (queue or self._backlog) and budget_s > 0 and len(aside) < MAX_ASIDE:
            comes_from_below = bool(queue)
            slug = queue.pop() if queue else self._backlog.pop()
            each = self.runs[slug]
            if slug in slugs or not self._may_start(each):
                continue
            if not (self._go_together(run, each) and self._can_bundle(each, slugs)):
                if not comes_from_below:
                    aside.append(slug)
                continue
            slugs[slug] = None
            budget_s -= self._backlog.pace_s(each.node.name) or 0.0
            queue += [down for down in self.graph.downstream[slug] if not self.runs[down].node.is_map]
        for slug in aside:
            self._backlog.push(self._order[slug], slug)
        return list(slugs)

    def _can_bundle(self, run: NodeRun, inside: Mapping[str, None]) -> bool:
        """Whether a node is known to be quick, and needs nothing that is still on its way elsewhere."""
        if not self._is_quick(run) or run.losses or run.attempt > 1:
            return False
        return all(up in inside or self.runs[up].is_final for up in run.node.whole_upstreams)

    def _to_start_below(self, slug: str) -> None:
        self._to_start.update(dict.fromkeys(self.graph.downstream[slug]))

    def _whole_inputs(self, slugs: Iterable[str]) -> dict[str, Input]:
        inputs: dict[str, Input] = {}
        inside = set(slugs)
        for slug in inside:
            for up in self.graph.nodes[slug].whole_upstreams:
                if up not in inside and self.runs[up].node.kind != "parameter":
                    inputs[up] = self._input(self.runs[up])
        return inputs

    def _input(self, run: NodeRun) -> Input:
        """Where the whole outcome of an upstream node is."""
        if run.elements is not None:
            return Pieces(tuple(run.elements.keys), run.state)
        if run.node.is_map and isinstance(run.state, Mapped):
            return Pieces((), run.state)
        if run.value is not None and run.is_final:
            return Sent(run.state, run.value)
        return Held(run.key) if run.key is not None else Known(run.state)

    def _new_key(self, node: FrozenNode) -> Key:
        self._serial += 1
        return (f"{ascii_name(self._name)}.{ascii_name(node.slug)}-{self._token}", self._serial)

    # Maps -------------------------------------------------------------------------------------------------------------

    def _start_map(self, run: NodeRun) -> None:
        """Expand a map whose elements are known, or end it if it can have none."""
        node = run.node
        if not all(self.runs[up].is_final for up in node.whole_upstreams):
            return
        sources = [self.runs[up] for up in node.element_upstreams]
        if not all(up.is_final or up.elements is not None for up in sources):
            return
        refused = self._refused(run, sources)
        if refused is not None:
            self._conclude(run, refused)
            return
        widths = self._widths_of(run, sources)
        if len(set(widths.values())) > 1:
            shown = ", ".join(f"{name} has {width:,}" for name, width in widths.items())
            self._conclude(run, _failed(node, "WidthError", f"mapped arguments have different widths: {shown}"))
            return
        width = next(iter(widths.values()))
        if width > self._settings["max_width"]:
            text = f"{width:,} elements are more than engine.max_width allows ({self._settings['max_width']:,})"
            self._conclude(run, _failed(node, "WidthError", text))
            return
        if not width:
            self._conclude(run, Mapped(message="no elements", counts=Counts()))
            return
        run.state = Running(message=f"{width:,} elements")
        run.elements = MapRun(node.slug, width, max_tracebacks=self._settings["max_tracebacks"])
        self._join_chain(run, sources)
        self._to_start_below(node.slug)

    def _refused(self, run: NodeRun, sources: list[NodeRun]) -> State | None:
        """The state of a map that gets no elements, seen from what is upstream of all of them."""
        node = run.node
        whole = {
            EdgeName(edge.upstream, edge.kind, edge.key): self.runs[edge.upstream].state
            for edge in node.edges
            if not edge.mapped
        }
        state = verdict(
            Upstreams(whole), trigger=all_finished, skip_on_upstream_skip=node.policies.skip_on_upstream_skip
        )
        if state is not None:
            return state
        for source in sources:
            if source.elements is not None or source.width is not None:
                continue
            if source.node.is_map and isinstance(source.state, Mapped):
                continue
            if source.state.is_skipped():
                return Skipped(message=f"upstream {source.node.slug} was skipped")
            if source.unmappable:
                return _failed(node, "UnmappableError", f"{source.node.slug}: {source.unmappable}")
            if not source.state.is_successful():
                message = f"cannot map over {source.node.slug}"
                return blamed(TriggerFailed(message=message), {source.node.slug: source.state})
        return None

    def _widths_of(self, run: NodeRun, sources: list[NodeRun]) -> dict[str, int]:
        """Width by what gives it: the arguments with their upstream nodes, and the constants."""
        widths: dict[str, int] = {}
        for source in sources:
            width = source.elements.width if source.elements is not None else source.width
            widths[source.node.slug] = width or 0
        for name in sorted(run.node.mapped):
            expression = run.node.arguments[name]
            if isinstance(expression, Const):
                widths[name] = len(expression.value)
        return widths

    def _join_chain(self, run: NodeRun, sources: list[NodeRun]) -> None:
        """Let a map run in the chunks of the map above it where it can, else in its own."""
        assert run.elements is not None
        maps = [source for source in sources if source.elements is not None]
        chains = {id(source.chain): source.chain for source in maps}
        if len(chains) == 1 and all(not source.is_final for source in maps):
            (chain,) = chains.values()
            if chain is not None and not chain.has_begun and self._same_policies(run, chain):
                chain.slugs.append(run.node.slug)
                run.chain = chain
                return
        chain = Chain(run.node.slug, run.elements.width, Pacer(self._settings, run.node.policies.chunksize))
        run.chain = chain
        self._chains.append(chain)
        unfinished = [source for source in maps if not source.is_final]
        for source in unfinished:
            self._followers.setdefault(source.node.slug, []).append(chain)
            chain.needs.add(source.node.slug)
        if not unfinished:
            chain.make_ready(range(chain.width))
            return
        if len(unfinished) > 1:
            chain.missing = bytearray([len(unfinished)]) * chain.width
        for source in unfinished:
            assert source.elements is not None
            if source.elements.done:
                chain.make_ready(source.elements.final_now())

    def _same_policies(self, run: NodeRun, chain: Chain) -> bool:
        first = self.graph.nodes[chain.slugs[0]].policies
        mine = run.node.policies
        return (first.resources, first.chunksize, first.priority) == (mine.resources, mine.chunksize, mine.priority)

    def _fill_window(self) -> None:
        """Hand out chunks while there are fewer in flight than the slots can have at hand."""
        units: list[Unit] = []
        window = self._settings["chunks_per_slot"] * self.slots
        in_flight = self._chunks_in_flight
        open_chains = [chain for chain in self._chains if chain.ready]
        while open_chains and in_flight < window:
            chain = min(open_chains, key=lambda each: len(each.in_flight))
            is_full = chain.pacer.is_probing and len(chain.in_flight) >= self.slots
            if not is_full:
                units.append(self._chunk(chain))
                in_flight += 1
            if is_full or not chain.ready:
                open_chains.remove(chain)
        if units:
            self._commands.append(Submit(tuple(units)))

    def _chunk(self, chain: Chain) -> Unit:
        chain.has_begun = True
        batch = chain.next_batch(self.slots)
        slugs = chain.slugs[batch.first :]
        inputs = self._whole_inputs(slugs)
        for slug in slugs:
            for up in self.graph.nodes[slug].element_upstreams:
                run = self.runs[up]
                if up in slugs or run.node.kind == "parameter":
                    continue
                if run.elements is not None:
                    inputs[up] = Pieces(run.elements.keys_of(batch.indices), Running())
                else:
                    source = self._input(run)
                    inputs[up] = CutFrom(source.key) if isinstance(source, Held) else source
        unit = Unit(
            key=self._new_key(self.graph.nodes[slugs[0]]),
            nodes=tuple(slugs),
            inputs=inputs,
            attempts=batch.attempts,
            loops=batch.loops,
            indices=batch.indices,
            slices=self._slices(slugs, batch.indices),
            keep=frozenset(slug for slug in slugs if self._is_kept(slug, chain)),
            reduces={slug: self._reducers[slug] for slug in slugs if slug in self._reducers},
            give_up_s=None if batch.is_suspect else chain.pacer.give_up_s(self.slots),
            approved=self._approved.intersection(slugs),
        )
        chain.in_flight[unit.key] = batch
        self._units[unit.key] = unit
        self._users[unit.key] = set(slugs)
        return unit

    def _is_kept(self, slug: str, chain: Chain) -> bool:
        users = [down for down in self.graph.downstream[slug] if down not in chain.slugs]
        return slug in self.keep or any(down not in self._reducers.get(slug, ()) for down in users)

    def _slices(self, slugs: Iterable[str], indices: Any) -> dict[tuple[str, str], Any]:
        """Elements of constant arguments that a chunk needs."""
        slices = {}
        for slug in slugs:
            node = self.graph.nodes[slug]
            for name in node.mapped:
                expression = node.arguments[name]
                if isinstance(expression, Const):
                    slices[slug, name] = cut(expression.value, indices)
        return slices

    # Reports ----------------------------------------------------------------------------------------------------------

    def _take_report(self, report: Report) -> None:
        unit = self._units.pop(report.key, None)
        if unit is None:
            return  # a second report of a unit that ran twice, or one of a run that was cancelled
        if unit.indices is not None:
            self._take_chunk(unit, report)
            return
        for single in report.singles:
            self._take_single(single)

    def _take_single(self, report: SingleReport) -> None:
        run = self.runs[report.slug]
        run.is_flying = False
        if run.is_final:
            return
        state = report.state
        if isinstance(state, Finished):
            run.value, run.width, run.unmappable = report.value, report.width, report.unmappable
            self._backlog.observe(run.node.name, state, is_small=report.value is not None)
            self._conclude(run, state)
            return
        if run.key is not None:
            self._release(self._forget(run.key, report.slug))
            run.key = None
        if isinstance(state, Retrying):
            run.state, run.attempt = state, state.attempt + 1
            run.loop = state.result if isinstance(state.result, tuple) else None
            heapq.heappush(
                self._waiting, (state.start_time.timestamp() if state.start_time else self._now, report.slug)
            )
        elif isinstance(state, Paused):
            run.state = state
        else:  # it could not run, because something upstream was not final
            run.state = Pending()
            self._to_start[report.slug] = None
            return
        self._commands.append(Tell(TaskChanged(self._now, report.slug, run.state)))

    def _take_chunk(self, unit: Unit, report: Report) -> None:
        chain = self.runs[unit.nodes[0]].chain
        assert chain is not None
        assert unit.indices is not None
        assert report.indices is not None
        batch = chain.in_flight.pop(unit.key)
        done = report.indices
        rest = unit.indices[len(done) :]
        chain.pacer.observe(width=len(done), seconds=report.seconds, nbytes=report.nbytes)
        if len(rest):
            chain.hand_back(replace(batch, indices=rest), report.last_s)
        finals = []
        for column in report.columns:
            run = self.runs[column.slug]
            assert run.elements is not None
            fresh = run.elements.take(unit.key, done, column)
            number = chain.slugs.index(column.slug)
            for index, state in column.records.items():
                if isinstance(state, Retrying):
                    chain.wait(index, number, state)
            if len(fresh):
                for follower in self._followers.get(column.slug, ()):
                    follower.make_ready(fresh)
            finals.append(run)
        for run in finals:
            assert run.elements is not None
            elements = run.elements
            if elements.is_final and not run.is_final:
                self._conclude(run, elements.state())
            else:
                retrying = elements.codes.count(Retrying.code)
                event = MapAdvanced(self._now, run.node.slug, elements.width, elements.done, elements.failed, retrying)
                self._commands.append(Tell(event))

    def _conclude(self, run: NodeRun, state: State) -> None:
        """A node has ended: what waits for it may start, what nobody needs any more is released."""
        run.state = state
        slug = run.node.slug
        self._unfinished -= 1
        self._commands.append(Tell(TaskChanged(self._now, slug, state)))
        self._to_start_below(slug)
        released: list[Key] = []
        for up in {edge.upstream for edge in run.node.edges}:
            self._consumers_left[up] -= 1
            if not self._consumers_left[up]:
                released += self._let_go(up)
        if not self._consumers_left[slug]:
            released += self._let_go(slug)
        self._release(released)

    def _let_go(self, slug: str) -> list[Key]:
        """Units whose outcomes are not needed once nothing takes this node's value any more."""
        run = self.runs[slug]
        if slug in self.keep and not self._is_inline(run):
            return []
        if not run.is_final:
            return []
        keys = list(run.elements.keys) if run.elements is not None else [run.key] if run.key is not None else []
        released: list[Key] = []
        for key in keys:
            released += self._forget(key, slug)
        return released

    def _forget(self, key: Key, slug: str) -> list[Key]:
        """A node's value in a unit's outcome is not needed any more; the key, if nothing else there is."""
        users = self._users.get(key)
        if users is None:
            return []
        users.discard(slug)
        if users:
            return []
        del self._users[key]
        return [key]

    def _release(self, keys: list[Key]) -> None:
        if keys:
            self._commands.append(Release(tuple(keys)))

    def _is_inline(self, run: NodeRun) -> bool:
        """Whether everything that a caller may want of a node is here already."""
        if run.elements is not None:
            inline = sum(len(indices) for indices, _ in run.elements.values)
            return inline >= run.elements.width
        return run.value is not None or not run.state.is_successful() or run.state.is_skipped()

    # Losses -----------------------------------------------------------------------------------------------------------

    def _lose(self, key: Key, reason: str) -> None:
        unit = self._units.pop(key, None)
        if unit is None:
            return
        self._users.pop(key, None)
        self._commands.append(Release((key,)))
        if unit.indices is None:
            self._lose_singles(unit, reason)
        else:
            self._lose_chunk(unit, reason)

    def _lose_singles(self, unit: Unit, reason: str) -> None:
        for slug in unit.nodes:
            run = self.runs[slug]
            run.is_flying, run.key = False, None
            run.losses += 1  # what was fused runs apart from now on, so that the guilty one is found
            if len(unit.nodes) == 1 and run.losses > self._settings["max_losses"]:
                self._conclude(run, _crashed(slug, run.losses, reason))
            else:
                self._to_start[slug] = None

    def _lose_chunk(self, unit: Unit, reason: str) -> None:
        first = self.runs[unit.nodes[0]]
        chain = first.chain
        assert chain is not None
        assert unit.indices is not None
        batch = chain.in_flight.pop(unit.key)
        if len(batch.indices) > 1:
            middle = len(batch.indices) // 2
            for half in (batch.indices[middle:], batch.indices[:middle]):
                chain.ready.appendleft(replace(batch, indices=half, is_suspect=True))
            return
        (index,) = batch.indices
        chain.losses[index] = chain.losses.get(index, 0) + 1
        if chain.losses[index] <= self._settings["max_losses"]:
            chain.ready.append(replace(batch, is_suspect=True))
            return
        state = replace(_crashed(f"{first.node.slug}[{index}]", chain.losses[index], reason), map_index=index)
        for slug in unit.nodes:
            run = self.runs[slug]
            assert run.elements is not None
            run.elements.settle(index, state if run is first else blamed(
                TriggerFailed(message="", map_index=index), {first.node.slug: state}
            ))  # fmt: skip
            for follower in self._followers.get(slug, ()):
                follower.make_ready(as_range([index]))
            if run.elements.is_final:
                self._conclude(run, run.elements.state())

    # Checks -----------------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Raise `AssertionError`, with the story, if what is known does not fit together."""
        try:
            self._validate()
        except AssertionError as error:
            raise AssertionError(f"{error}\nstory:\n" + "\n".join(self.story[-60:])) from None

    def _validate(self) -> None:
        assert self._unfinished == sum(not run.is_final for run in self.runs.values()), (
            "the count of the unfinished is off"
        )
        flying = {slug for unit in self._units.values() if unit.indices is None for slug in unit.nodes}
        for slug, run in self.runs.items():
            assert run.is_flying == (slug in flying), f"{slug}: flying, and in no unit (or the other way round)"
            assert not (run.is_flying and run.is_final), f"{slug}: final and flying"
            if run.elements is not None:
                final = sum(code >= Success.code for code in run.elements.codes)
                assert final == run.elements.done, f"{slug}: {final} elements final, {run.elements.done} counted"
        for chain in self._chains:
            seen: set[int] = set()
            groups = [batch.indices for batch in (*chain.ready, *chain.in_flight.values())]
            groups.append(tuple(index for _, index, _, _ in chain.due))
            for indices in groups:
                assert not seen.intersection(indices), f"{chain.slugs}: an element is in two places"
                seen.update(indices)
            assert all(key in self._units for key in chain.in_flight), f"{chain.slugs}: a chunk in flight is unknown"

    def _tell_story(self, stimulus: Stimulus) -> None:
        if isinstance(stimulus, Reported):
            report = stimulus.report
            what = ", ".join([*(f"{s.slug} {s.state.name}" for s in report.singles), *(c.slug for c in report.columns)])
            line = f"{stimulus.now:.3f} Reported {report.key[1]} {what} {report.indices or ''}"
        else:
            line = repr(stimulus)
        self.story.append(line[:300])
        if len(self.story) > 2000:
            del self.story[:1000]


def _failed(node: FrozenNode, type_name: str, text: str) -> State:
    message = f"{node.slug} (written at {node.where}): {text}"
    return Failed(message=message, failure=Failure(type_name, message, root=node.slug))


def _crashed(name: str, losses: int, reason: str) -> State:
    message = f"its worker died {losses} times while {name} ran, the last times alone: {reason}"
    failure = Failure("WorkerLost", message, root=name)
    return Crashed(message=message, failure=failure, end_time=None)

"""Which elements of which maps go out now: chunks, in a window that slides over the width."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from anabranch.base.states import (
    FIRST_FINAL_CODE,
    Cancelled,
    Counts,
    Crashed,
    Deferred,
    Failed,
    Failure,
    Mapped,
    Paused,
    Retrying,
    Running,
    Skipped,
    State,
    TriggerFailed,
)
from anabranch.base.triggers import EdgeName, Upstreams, all_finished, verdict
from anabranch.definition.expressions import Const
from anabranch.definition.frozen import FrozenNode, reduced_argument
from anabranch.definition.policies import Policies
from anabranch.engine.machine.call_book import Waiter
from anabranch.engine.machine.knowledge import Knowledge, NodeRun
from anabranch.engine.machine.limits import Names
from anabranch.engine.machine.maps import Batch, Chain, MapRun
from anabranch.engine.machine.pacing import Pacer
from anabranch.engine.units.blame import blamed, noted
from anabranch.engine.units.calls import UnitCalls
from anabranch.engine.units.indices import Indices, as_range, cut, stretches
from anabranch.engine.units.units import ColumnReport, CutFrom, Held, Input, Key, Pieces, Report, Unit

_SHARED = ("resources", "chunksize", "priority", "concurrency", "rate")  # policies that maps of one chunk must agree on
NAMED_AT_ONCE = 1_000  # elements whose names of limits are found out by one unit
PERMIT_S = 5.0  # for which a chunk has permits of a rate that it does not use: they are good for as long as a lease is
RECORD_NBYTES = 500  # about what the state of a failed element weighs


class FanOut:
    """The maps of a run."""

    def __init__(self, known: Knowledge) -> None:
        self._known = known
        self.chains: list[Chain] = []
        self._followers: dict[str, list[Chain]] = {}
        self._reducers: dict[str, tuple[str, ...]] = {}
        self._suspects: dict[str, set[int]] = {}
        """By map that has no chain for a while: elements of chunks that were lost."""
        self.freed: list[tuple[Waiter, tuple[int, ...]]] = []
        """Elements that wait for no deferred call any more, to be looked at by the machine."""
        self._due: dict[str, list[tuple[float, int, int]]] = {}
        """By map that has no chain for a while: retries that wait."""
        for node in known.graph.nodes.values():
            argument = reduced_argument(node)
            if argument is not None and known.graph.nodes[argument[1]].is_map:
                self._reducers[argument[1]] = (*self._reducers.get(argument[1], ()), node.slug)

    @property
    def in_flight(self) -> int:
        """Chunks on their way."""
        return sum(len(chain.in_flight) for chain in self.chains)

    @property
    def has_work(self) -> bool:
        """Whether elements are ready to go out."""
        return any(chain.ready for chain in self.chains)

    @property
    def next_due(self) -> float | None:
        """When the first retry is due."""
        return min((chain.due[0][0] for chain in self.chains if chain.due), default=None)

    def wake(self, now: float) -> None:
        """Retries that are due are ready."""
        for chain in self.chains:
            if chain.due and chain.due[0][0] <= now:
                chain.wake(now)

    def rebuild(self, now: float) -> None:
        """Give each map that has not ended a chain of its own again, with what has to run of it.

        Chunks that are on their way stay there. Attempts, loops, times of retries and suspicions stay what they were.
        """
        self.freed.clear()
        in_flight: dict[str, dict[Key, Batch]] = {}
        for chain in self.chains:
            for key, batch in chain.in_flight.items():
                if key in self._known.units:
                    in_flight.setdefault(chain.slugs[batch.first], {})[key] = replace(batch, first=0)
            back = [batch for key, batch in chain.in_flight.items() if key not in self._known.units]
            for batch in (*back, *chain.ready):
                if batch.is_suspect:
                    self._suspects.setdefault(chain.slugs[batch.first], set()).update(batch.indices)
            for batch in back:
                self._unfinished(chain, batch, now)
            for time, index, number in chain.due:
                self._due.setdefault(chain.slugs[number], []).append((time, index, 0))
        self.chains.clear()
        self._followers.clear()
        for slug in self._known.graph.nodes:
            run = self._known.runs[slug]
            run.chain = None
            if run.elements is not None and not run.is_final:
                self.resume(run, in_flight.get(slug))

    def recall(self, run: NodeRun, key: Key, indices: Indices, column: ColumnReport) -> bool:
        """Take what was recorded of some elements; whether that was all there was to know of the map."""
        elements = run.elements
        assert elements is not None
        if not len(indices) or indices[-1] >= elements.width:
            return False
        has_values = column.values is not None or bool(column.refs)
        is_all_here = has_values and min(column.codes) >= FIRST_FINAL_CODE
        elements.take(None if is_all_here else key, indices, column)
        waiting = ((i, state) for i, state in column.records.items() if isinstance(state, Retrying))
        for index, state in waiting:
            if elements.codes[index] == Retrying.code:
                time = state.start_time.timestamp() if state.start_time else 0.0
                known = self._due.setdefault(run.node.slug, [])
                known[:] = [each for each in known if each[1] != index]
                known.append((time, index, 0))
        return elements.is_final

    def resume(self, run: NodeRun, in_flight: Mapping[Key, Batch] | None = None) -> State | None:
        """Give a map whose elements are known a chain again, once all it needs is there; its state if that cannot be.

        A list that was lost and made again may have another width: then nobody knows which element is which.
        `in_flight` are chunks of the map that are on their way.
        """
        elements, slug = run.elements, run.node.slug
        assert elements is not None
        singles = [up for up in map(self._known.runs.get, run.node.element_upstreams) if up and up.elements is None]
        whole = [self._known.runs[up] for up in (*run.node.whole_upstreams, *run.borrowed)]
        if not all(up.is_final for up in (*singles, *whole)):
            return None
        for up in singles:
            if not self._has_elements(up):
                message = f"cannot map over {up.node.slug}"
                return blamed(TriggerFailed(message=message), {up.node.slug: up.state})
            if up.width != elements.width:
                text = f"{up.node.slug} gave {up.width:,} elements when it ran again, and {elements.width:,} before"
                return _failed(run.node, "WidthError", text)
        chain = run.chain = Chain(slug, elements.width, self._pacer(run))
        chain.has_begun = True
        chain.in_flight.update(in_flight or {})
        waiting = self._due.pop(slug, [])
        chain.due = [each for each in waiting if elements.codes[each[1]] < FIRST_FINAL_CODE]
        heapq.heapify(chain.due)
        self.chains.append(chain)
        self._refill(run, elements, chain, self._suspects.pop(slug, set()))
        return None

    def _refill(self, run: NodeRun, elements: MapRun, chain: Chain, suspects: Container[int]) -> None:
        """Make ready the elements of a map that have not ended and whose elements upstream all have."""
        sources = [self._known.runs[up] for up in run.node.element_upstreams]
        unfinished = [up for up in sources if up.elements is not None and not up.is_final]
        for up in unfinished:
            self._followers.setdefault(up.node.slug, []).append(chain)
            chain.needs.add(up.node.slug)
        waiting = {index for _, index, _ in chain.due}
        away = waiting.union(*(batch.indices for batch in chain.in_flight.values()))
        left = [
            index
            for index, code in enumerate(elements.codes)
            if code < FIRST_FINAL_CODE and code != Paused.code and index not in away
        ]
        calls, slug = self._known.calls, run.node.slug
        if calls:
            callers = [i for i in left if elements.codes[i] == Deferred.code and calls.has_called(slug, i)]
            taken = set(callers)
            left = [i for i in left if i not in taken and not calls.is_waiting(Waiter(slug, False), i)]
            for indices in stretches(i for i in callers if not calls.is_waiting(Waiter(slug, True), i)):
                chain.ready.append(Batch(indices, assembles=True))
        missing = bytearray(chain.width)
        for up in unfinished:
            assert up.elements is not None
            for index in (*left, *waiting):
                missing[index] += up.elements.codes[index] < FIRST_FINAL_CODE
        for index in waiting:
            missing[index] += missing[index] > 0
        if len(unfinished) > 1 or (unfinished and waiting):
            chain.missing = missing
        free = [index for index in left if not missing[index]]
        for index in free:
            if index in suspects:
                chain.ready.append(Batch(range(index, index + 1), is_suspect=True))
        for indices in stretches(index for index in free if index not in suspects):
            chain.ready.append(Batch(indices))

    # Deferred calls ---------------------------------------------------------------------------------------------------

    def grow(self, run: NodeRun, width: int) -> None:
        """Give a map of deferred calls more elements; those that miss nothing are made ready by `free`."""
        if run.elements is None:
            run.elements = MapRun(run.node.slug, 0, max_tracebacks=self._known.settings["max_tracebacks"])
            run.state = Running(message="deferred calls")
            run.chain = Chain(run.node.slug, 0, self._pacer(run))
            run.chain.has_begun = True
            self.chains.append(run.chain)
        run.elements.grow(width)
        if run.chain is not None:
            run.chain.width += width

    def free(self, waiter: Waiter, indices: Indices, *, have_waited: bool = False) -> None:
        """Elements of a map miss nothing any more: calls can run, values of callers can be put together."""
        run = self._known.runs[waiter.slug]
        chain = run.chain
        if chain is None or not len(indices):
            return  # it gets a chain again with all that can run
        if not isinstance(indices, range):
            indices = as_range(sorted(indices))
        if waiter.is_caller:  # before others begin: what is finished first may be enough
            chain.ready.appendleft(Batch(indices, chain.slugs.index(waiter.slug), assembles=True))
        elif have_waited and chain.missing is None:  # somebody has begun who needs them
            chain.ready.appendleft(Batch(indices))
        else:
            chain.make_ready(indices)

    def _pacer(self, run: NodeRun) -> Pacer:
        settings = self._known.settings
        return Pacer(settings, run.node.policies.chunksize, lanes=run.node.lanes(settings))

    def stop(self) -> None:
        """Nothing goes out any more, and nothing that is on its way matters."""
        for chain in self.chains:
            chain.in_flight.clear()
            chain.ready.clear()
            chain.due.clear()

    def expand(self, run: NodeRun) -> State | None:
        """Give a map its elements, where they are known; its final state if it ends without any."""
        node = run.node
        if not all(self._known.runs[up].is_final for up in node.whole_upstreams):
            return None
        sources = [self._known.runs[up] for up in node.element_upstreams]
        if not all(up.is_final or up.elements is not None for up in sources):
            return None
        refused = self._refused(run, sources)
        if refused is not None:
            return refused
        widths = self._widths_of(run, sources)
        if len(set(widths.values())) > 1:
            shown = ", ".join(f"{name} has {width:,}" for name, width in widths.items())
            return _failed(node, "WidthError", f"mapped arguments have different widths: {shown}")
        width = next(iter(widths.values()))
        if width > self._known.settings["max_width"]:
            text = f"{width:,} elements are more than engine.max_width allows ({self._known.settings['max_width']:,})"
            return _failed(node, "WidthError", text)
        if not width:
            return Mapped(message="no elements", counts=Counts())
        self.give_elements(run, width)
        self._join_chain(run, sources)
        return None

    def give_elements(self, run: NodeRun, width: int) -> None:
        """Give a map so many elements. Without a chain, they rest until all that they take is there."""
        node = run.node
        run.state = Running(message=f"{width:,} elements")
        run.elements = MapRun(
            node.slug,
            width,
            max_tracebacks=self._known.settings["max_tracebacks"],
            min_success=node.policies.min_success,
        )
        run.elements.news = [] if node.slug in self._known.streamed else None
        run.elements.is_fleeting = node.slug in self._known.fleeting
        self._known.look_below(node.slug)

    def _refused(self, run: NodeRun, sources: list[NodeRun]) -> State | None:
        """The state of a map that gets no elements, seen from what is upstream of all of them."""
        node = run.node
        whole = {
            EdgeName(edge.upstream, edge.kind, edge.key): self._known.runs[edge.upstream].state
            for edge in node.edges
            if not edge.mapped
        }
        closed = next((e for e, state in whole.items() if e.kind == "gate" and state.is_skipped()), None)
        if closed is not None:
            return Skipped(message=f"{closed.upstream} is closed")
        without = [source for source in sources if not self._has_elements(source)]
        for source in without:
            if not source.state.is_successful():
                message = f"cannot map over {source.node.slug}"
                return blamed(TriggerFailed(message=message), {source.node.slug: source.state})
        state = verdict(
            Upstreams(whole), trigger=all_finished, skip_on_upstream_skip=node.policies.skip_on_upstream_skip
        )
        if state is not None:
            return state
        for source in without:
            if source.state.is_skipped():
                return Skipped(message=f"upstream {source.node.slug} was skipped")
        if without:
            return _failed(node, "UnmappableError", f"{without[0].node.slug}: {without[0].unmappable}")
        return None

    @staticmethod
    def _has_elements(source: NodeRun) -> bool:
        if source.elements is not None or source.width is not None:
            return True
        return source.node.is_map and isinstance(source.state, Mapped)

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
        stops = run.node.policies.may_stop_early  # what is on its way of it must be its own, to be called back
        if len(chains) == 1 and all(not source.is_final for source in maps) and not stops:
            (chain,) = chains.values()
            if chain is not None and not chain.has_begun and self._same_policies(run, chain):
                chain.slugs.append(run.node.slug)
                run.chain = chain
                return
        chain = Chain(run.node.slug, run.elements.width, self._pacer(run))
        run.chain = chain
        self.chains.append(chain)
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
        first, mine = self._known.graph.nodes[chain.slugs[0]], run.node
        is_plain = not (first.is_awaited or mine.is_awaited)  # elements of an async map go on as they come
        is_plain = is_plain and not (first.policies.rate or first.policies.templates)  # permits are each element's
        return is_plain and all(getattr(first.policies, name) == getattr(mine.policies, name) for name in _SHARED)

    def next_chunks(self) -> list[Unit]:
        """Hand out chunks while there are fewer in flight than the slots can have at hand."""
        units: list[Unit] = []
        window = self._known.settings["chunks_per_slot"] * self._known.slots
        in_flight = self.in_flight
        open_chains = [chain for chain in self.chains if chain.ready]
        while open_chains and in_flight < window:
            chain = min(open_chains, key=self._turn_of)
            node, room = self._known.graph.nodes[chain.slugs[0]], 0
            # What is queued would hold permits of a rate that others can use.
            is_eager = not (chain.pacer.is_probing or node.policies.rate)
            is_full = not is_eager and len(chain.in_flight) >= self._known.slots
            if not is_full:
                room = self._room(chain, node)
            if not is_full and not room:
                is_full = True
                for batch in chain.ready:
                    self._known.limits.turn_away(node, len(batch.indices), batch.names or ())
            if not is_full:
                units.append(self._chunk(chain, room))
                in_flight += 1
            if is_full or not chain.ready:
                open_chains.remove(chain)
        return units

    def _turn_of(self, chain: Chain) -> tuple[int, bool, int]:
        """Whose turn it is: of chains with as many chunks on their way, what finishes elements that have begun."""
        return len(chain.in_flight), not chain.ready[0].assembles, -self._known.graph.nodes[chain.slugs[0]].depth

    def _room(self, chain: Chain, node: FrozenNode) -> int:
        """For how many elements there is room of those that come next; they are put first."""
        limits = self._known.limits
        if not node.policies.templates:
            return limits.room(node, is_call=not chain.ready[0].assembles)
        self._part_by_name(chain)
        for place, batch in enumerate(chain.ready):
            if batch.names is not None or batch.assembles:
                room = limits.room(node, batch.names or (), is_call=not batch.assembles)
                if room:
                    chain.ready.rotate(-place)
                    return room
        for place, batch in enumerate(chain.ready):
            if batch.names is None and not batch.assembles:
                chain.ready.rotate(-place)
                return NAMED_AT_ONCE
        return 0

    def _part_by_name(self, chain: Chain) -> None:
        """Put elements together that have the same names of limits, as far as these are known."""
        known = self._elements_of(chain.slugs[0]).names
        ready, is_new = deque[Batch](), False
        for batch in chain.ready:
            if batch.names is not None or batch.assembles or batch.indices[0] not in known:
                ready.append(batch)
                continue
            is_new = True
            parts: dict[Names | None, list[int]] = {}
            for index in batch.indices:
                parts.setdefault(known.get(index), []).append(index)
            ready.extend(replace(batch, indices=as_range(part), names=names) for names, part in parts.items())
        if is_new:
            chain.ready = ready

    def _chunk(self, chain: Chain, room: int) -> Unit:
        chain.has_begun = True
        asks_names = chain.ready[0].names is None and not chain.ready[0].assembles
        asks_names = asks_names and bool(self._known.graph.nodes[chain.slugs[0]].policies.templates)
        batch = self._apart(chain, chain.next_batch(None if asks_names else self._known.slots, room))
        if batch.names and chain.ready:
            chain.ready.rotate(-1)  # others' turn
        slugs = chain.slugs[batch.first : batch.first + 1 if batch.is_apart else None]
        elements: dict[str, Input] = {}
        for slug in slugs[1:] if batch.assembles else slugs:
            for up in self._known.graph.nodes[slug].element_upstreams:
                run = self._known.runs[up]
                if up in slugs or run.node.kind == "parameter":
                    continue
                if run.elements is not None:
                    settled = {i: state for i, state in run.elements.settled.items() if i in batch.indices}
                    given = run.elements.rescued_of(batch.indices)
                    stored = run.elements.stored_of(batch.indices)
                    holdings = run.elements.holdings_of(batch.indices)
                    elements[up] = Pieces(holdings, Running(), settled, given, stored)
                else:
                    source = self._known.input(run)
                    elements[up] = CutFrom(source.key, source.seal) if isinstance(source, Held) else source
        inputs = self._known.whole_inputs(slugs, without=slugs[0] if batch.assembles else None)
        calls = self._calls(slugs[0], batch, elements, inputs)
        retries = self._elements_of(slugs[0]).retries
        tried = {index: retries[index] for index in batch.indices if index in retries} if retries else {}
        unit = Unit(
            key=self._known.new_key(self._known.graph.nodes[slugs[0]]),
            nodes=tuple(slugs),
            inputs=inputs,
            elements=elements,
            attempts={index: state.attempt + 1 for index, state in tried.items()},
            loops={index: state.result for index, state in tried.items() if isinstance(state.result, tuple)},
            indices=batch.indices,
            slices=self._slices(slugs[1:] if batch.assembles else slugs, batch.indices),
            keep=frozenset(slug for slug in slugs if self._is_kept(slug, slugs)),
            reduces={slug: self._reducers[slug] for slug in slugs if slug in self._reducers},
            give_up_s=self._give_up_s(chain, batch),
            approved=self._known.approved.intersection(slugs),
            is_suspect=batch.is_suspect,
            asks_names=asks_names,
            names=batch.names or (),
            lanes=None if asks_names else self._lanes(chain, batch),
            calls=calls,
        )
        chain.in_flight[unit.key] = batch
        return self._known.send(unit)

    def _lanes(self, chain: Chain, batch: Batch) -> int | None:
        """Of an async map with named limits: for how many elements side by side the chunk holds permits."""
        node = self._known.graph.nodes[chain.slugs[0]]
        if not (node.is_awaited and node.policies.concurrency):
            return None
        idle = max(1, self._known.slots - len(chain.in_flight)) if not batch.names else 1
        share = math.ceil(self._known.limits.lanes(node, batch.names or ()) / idle)
        return min(share, node.lanes(self._known.settings), len(batch.indices))

    def _give_up_s(self, chain: Chain, batch: Batch) -> float | None:
        if batch.is_suspect:
            return None
        give_up_s = chain.pacer.give_up_s(self._known.slots, len(batch.indices))
        if self._known.graph.nodes[chain.slugs[0]].policies.rate:
            return min(give_up_s or PERMIT_S, PERMIT_S)
        return give_up_s

    def _calls(self, slug: str, batch: Batch, elements: dict[str, Input], inputs: dict[str, Input]) -> UnitCalls | None:
        """What a chunk needs to run deferred calls, or to put callers' values together."""
        calls = self._known.calls
        if not batch.assembles and slug not in calls.caller_of:
            return None
        waiter = Waiter(slug, batch.assembles)
        elements.update(self._known.called_inputs(waiter, batch.indices))
        definitions = {each: calls.definitions[each] for each in (slug, *elements) if each in calls.definitions}
        blocks = calls.blocks(waiter, batch.indices)
        inputs.update(self._known.lent_inputs(blocks))
        return UnitCalls({slug: blocks}, definitions, assembles=batch.assembles, parcels=calls.parcels_of(blocks))

    def _is_kept(self, slug: str, slugs: list[str]) -> bool:
        if slug in self._known.calls.caller_of:
            return True
        users = [down for down in self._known.graph.downstream[slug] if down not in slugs]
        return slug in self._known.keep or any(down not in self._reducers.get(slug, ()) for down in users)

    def _slices(self, slugs: Iterable[str], indices: Any) -> dict[tuple[str, str], Any]:
        """Elements of constant arguments that a chunk needs."""
        slices = {}
        for slug in slugs:
            node = self._known.graph.nodes[slug]
            for name in node.mapped if slug not in self._known.calls.caller_of else ():
                expression = node.arguments[name]
                if isinstance(expression, Const):
                    slices[slug, name] = cut(expression.value, indices)
        return slices

    def take(self, unit: Unit, report: Report) -> list[NodeRun]:
        """Write down a chunk's report; the maps that it had elements of."""
        chain = self._known.runs[unit.nodes[0]].chain
        assert chain is not None
        assert unit.indices is not None
        assert report.indices is not None
        batch = chain.in_flight.pop(unit.key)
        if unit.asks_names and not report.columns:
            self._elements_of(chain.slugs[0]).names.update(zip(unit.indices, report.names, strict=False))
            chain.ready.appendleft(batch)
            return []
        done = report.indices
        rest = unit.indices[len(done) :]
        chain.pacer.observe(width=len(done), seconds=report.seconds, nbytes=report.nbytes)
        if unit.is_suspect:
            name = (unit.nodes[0], done[0]) if len(done) == len(unit.nodes) == 1 else unit.key
            self._known.verdicts.survived(name, report.seconds)
        if len(rest):
            self._hand_back(chain, replace(batch, indices=rest), report.last_s)
        finals = []
        key = None if self._is_all_here(unit, report) else unit.key
        for column in report.columns:
            run = self._known.runs[column.slug]
            assert run.elements is not None
            fresh = run.elements.take(key, done, column, in_one_piece=bool(unit.reduces))
            number = chain.slugs.index(column.slug)
            for index, state in column.records.items():
                if isinstance(state, Retrying):
                    chain.wait(index, number, state)
            if 0 in column.codes and number == batch.first:
                # Of a unit that Dask has made again before its first report came, and that left these to it.
                pairs = zip(done, column.codes, strict=True)
                left = [index for index, code in pairs if not code and index not in column.records]
                handed_back = replace(batch, indices=as_range(left))
                again = self._unfinished(chain, handed_back, 0.0, is_suspect=batch.is_suspect) if left else None
                if again is not None:
                    chain.ready.append(again)
            if len(fresh):
                self._pass_on(column.slug, fresh)
                if batch.is_apart:
                    self._go_on(chain, column.slug, fresh, is_suspect=batch.is_suspect)
            finals.append(run)
        return finals

    def _hand_back(self, chain: Chain, batch: Batch, last_s: float) -> None:
        """Elements of a chunk go out again, but for those that had ended in it: Dask may have made it again since."""
        codes, indices = self._elements_of(chain.slugs[batch.first]).codes, batch.indices
        is_new = isinstance(indices, range) and not any(codes[indices.start : indices.stop])
        left = batch if is_new else self._unfinished(chain, batch, 0.0, is_suspect=batch.is_suspect)
        if left is not None:
            chain.hand_back(left, last_s)

    def take_part(self, unit: Unit, report: Report) -> list[NodeRun]:
        """Write down what has ended in a chunk that goes on; the maps that it was of."""
        chain = self._known.runs[unit.nodes[0]].chain
        if chain is None or unit.indices is None or report.indices is None:
            return []
        batch = chain.in_flight[unit.key]
        runs = []
        for column in report.columns:
            elements = self._elements_of(column.slug)
            for index, state in column.records.items():
                if isinstance(state, Retrying) and elements.codes[index] < FIRST_FINAL_CODE:
                    elements.retries[index] = state
            final = [position for position, code in enumerate(column.codes) if code >= FIRST_FINAL_CODE]
            if not final:
                continue
            run, indices = self._known.runs[column.slug], as_range(report.indices[position] for position in final)
            codes = bytes(column.codes[position] for position in final)
            records = {index: state for index, state in column.records.items() if state.code >= FIRST_FINAL_CODE}
            ended = replace(column, codes=codes, records=records)
            key = None if self._is_here(ended, self._elements_of(column.slug)) else unit.key
            if unit.reduces and key is not None:  # it comes in one piece, with what is only there
                if not ended.refs:
                    continue
                key, ended = None, replace(ended, values=None)
            fresh = self._elements_of(column.slug).take(key, indices, ended)
            if len(fresh):
                self._pass_on(column.slug, fresh)
                if batch.is_apart:
                    self._go_on(chain, column.slug, fresh, is_suspect=batch.is_suspect)
            runs.append(run)
        return runs

    def _is_here(self, column: ColumnReport, elements: MapRun) -> bool:
        """Whether all that anybody may want of some elements came with a report, and is not too much."""
        nbytes = len(column.values or b"") + RECORD_NBYTES * len(column.records)
        return column.values is not None and elements.rescued_nbytes + nbytes <= self._known.settings["rescued_nbytes"]

    def _is_all_here(self, unit: Unit, report: Report) -> bool:
        """Whether a chunk's outcome is not needed, because all that anybody may want of it came with the report.

        What is here cannot be lost with a worker. Of a map that is so much that it must not travel through the
        scheduler in one piece, the rest stays where it is.
        """
        if not report.columns:  # it was handed back whole
            return True
        nbytes = sum(len(column.values or b"") + RECORD_NBYTES * len(column.records) for column in report.columns)
        held = max(self._elements_of(column.slug).rescued_nbytes for column in report.columns)
        return (
            not unit.reduces
            and held + nbytes <= self._known.settings["rescued_nbytes"]
            and all(column.values is not None for column in report.columns)
        )

    def _elements_of(self, slug: str) -> MapRun:
        elements = self._known.runs[slug].elements
        assert elements is not None
        return elements

    def _pass_on(self, slug: str, fresh: Indices) -> None:
        """Elements of a map have ended: those below, that have not, may go on, and who waits for deferred calls."""
        if slug in self._known.calls.caller_of:
            for waiter, indices in self._known.calls.ended(slug, fresh).items():
                self.freed.append((waiter, tuple(indices)))
        for follower in self._followers.get(slug, ()):
            below = follower.slugs[0]
            codes = self._elements_of(below).codes
            if isinstance(fresh, range) and not any(codes[fresh.start : fresh.stop]):
                follower.make_ready(fresh)
            else:  # some were made again only because their value was lost; who has made calls waits for these alone
                follower.make_ready(as_range(i for i in fresh if self._known.takes_inputs(below, i)))

    def lose(self, unit: Unit, reason: str, ran_s: float | None, now: float, *, is_vain: bool = False) -> list[NodeRun]:
        """A chunk is lost: halve it to find the guilty element, and give that up in the end. The maps that changed.

        Elements that waited in it for their next attempt go on waiting. `ran_s`: seconds that it ran alone in its
        process before that died; None if it did not. `is_vain`: all of it is given up.
        """
        first = self._known.runs[unit.nodes[0]]
        chain = first.chain
        assert chain is not None
        assert unit.indices is not None
        batch = self._unfinished(chain, chain.in_flight.pop(unit.key), now)
        if batch is None:
            return []
        if ran_s is None and batch.is_suspect:
            chain.ready.append(batch)
            return []
        if len(batch.indices) > 1 and not is_vain:
            middle = len(batch.indices) // 2
            for half in (batch.indices[middle:], batch.indices[:middle]):
                chain.ready.appendleft(replace(batch, indices=half, is_suspect=True))
            return []
        if len(unit.nodes) > 1:  # one of several maps is to blame: each runs alone now
            chain.ready.append(replace(batch, is_suspect=True, is_apart=True))
            return []
        slug, verdicts, index = first.node.slug, self._known.verdicts, batch.indices[0]
        if is_vain:
            state = unplaced(slug, reason)
        elif ran_s is None or not verdicts.died((slug, index), ran_s):
            chain.ready.append(replace(batch, is_suspect=True, is_apart=True))
            return []
        else:
            state = crashed(f"{slug}[{index}]", verdicts.deaths((slug, index)), reason)
        assert first.elements is not None
        for each in batch.indices:
            first.elements.settle(each, replace(state, map_index=each))
        self._pass_on(slug, batch.indices)
        if batch.is_apart:
            self._go_on(chain, slug, batch.indices, is_suspect=True)
        return [first]

    def _unfinished(self, chain: Chain, batch: Batch, now: float, *, is_suspect: bool = True) -> Batch | None:
        """What is left of a chunk: the elements that its first map had not told; of later maps, see below.

        Elements that the first map had ended and a later one had not go on there, each map apart.
        """
        columns = [self._elements_of(slug) for slug in chain.slugs[batch.first :]]
        columns = columns[:1] if batch.is_apart else columns
        left: dict[int, list[int]] = {}
        for index in batch.indices:
            number = next((n for n, each in enumerate(columns) if each.codes[index] < FIRST_FINAL_CODE), None)
            if number is None:
                continue
            state = columns[number].retries.get(index)
            if state is not None and state.start_time is not None and state.start_time.timestamp() > now:
                chain.wait(index, batch.first + number, state)
            else:
                left.setdefault(number, []).append(index)
        for number, indices in left.items():
            if number:
                first = batch.first + number
                chain.ready.append(Batch(as_range(indices), first, is_suspect=is_suspect, is_apart=True))
        mine = left.get(0, [])
        if len(mine) == len(batch.indices):
            return batch
        return replace(batch, indices=as_range(mine)) if mine else None

    def vet(self, column: ColumnReport) -> ColumnReport:
        """What is reported of a map; elements that cannot be made again say that they had been there."""
        were_lost = self._elements_of(column.slug).were_lost
        if were_lost.keys().isdisjoint(column.records):
            return column
        records = {i: made_in_vain(each) if i in were_lost else each for i, each in column.records.items()}
        return replace(column, records=records)

    def stop_early(self, run: NodeRun, *, is_enough: bool) -> list[Key]:
        """Let a map end if it has enough (`is_enough`: a value says so) or can never have it; units to call back.

        What had ended before, and runs again for its value, is no part of the rest: it counts, as it did then. Nor are
        elements of a chunk that has told of some already: it is at the maps below, or it has their values.
        """
        elements, policies, chain = run.elements, run.node.policies, run.chain
        if elements is None or elements.is_final or chain is None or chain.slugs[0] != run.node.slug:
            return []
        elements.is_enough |= is_enough
        state = _early_end(elements, policies)
        return self._end_early(run, state, set()) if state is not None else []

    def _end_early(self, run: NodeRun, state: State, needed: set[int]) -> list[Key]:
        """Settle what has not begun of a map, but for what is needed, and of the calls of what was settled."""
        elements, chain = run.elements, run.chain
        if elements is None or elements.is_final or chain is None:
            return []
        codes, had_ended = elements.codes, elements.were_lost.keys() | needed
        flying = {key: batch for key, batch in chain.in_flight.items() if not batch.first}
        is_alone = len(chain.slugs) == 1
        back = [
            key
            for key, batch in flying.items()
            if needed.isdisjoint(batch.indices)
            and not self._known.units[key].reduces  # it comes in one piece, and the record may have some of that
            and (all(codes[i] < FIRST_FINAL_CODE for i in batch.indices) or (is_alone and key not in elements.keys))
        ]
        stay = had_ended.union(*(batch.indices for key, batch in flying.items() if key not in back))
        rest = as_range(i for i, code in enumerate(codes) if code < FIRST_FINAL_CODE and i not in stay)
        if not len(rest):
            return []
        mine = [*(batch for batch in chain.ready if not batch.first), *map(chain.in_flight.pop, back)]
        for key in back:
            self._known.arrived(key)
            self._known.lose(key)
        later = [batch for batch in chain.ready if batch.first]
        chain.ready.clear()
        chain.ready.extend(later)
        for batch in mine:
            if left := [index for index in batch.indices if index in had_ended]:
                chain.ready.append(replace(batch, indices=as_range(left)))
        chain.due = [each for each in chain.due if each[2] or each[1] in had_ended]
        heapq.heapify(chain.due)
        for index in rest:
            elements.settle(index, state)
        for slug, wanted in self._calls_needed(run.node.slug).items():
            back += self._end_early(self._known.runs[slug], state, wanted)
        self._pass_on(run.node.slug, rest)
        self._go_on(chain, run.node.slug, rest, is_suspect=False)
        return back

    def _calls_needed(self, caller: str) -> dict[str, set[int]]:
        """By group: the calls of a map whose values its elements need that have not ended, or other calls for them."""
        calls, codes = self._known.calls, self._elements_of(caller).codes
        found: dict[str, set[int]] = {slug: set() for slug in calls.groups_of(caller)}
        waiting = [(Waiter(caller, True), [i for i, code in enumerate(codes) if code < FIRST_FINAL_CODE])]
        while found and waiting:
            for slug, indices in calls.needs(*waiting.pop()).items():
                fresh = [index for index in indices if index not in found[slug]]
                found[slug].update(fresh)
                if fresh:
                    waiting.append((Waiter(slug, False), fresh))
        return found

    def waits(self, waiter: Waiter, index: int) -> bool:
        """Whether an element has not ended, for which a call may be made."""
        return self._elements_of(waiter.slug).codes[index] < FIRST_FINAL_CODE

    def settle(self, run: NodeRun, index: int, state: State) -> None:
        """Give an element a final state without running it, and let what waits for it go on."""
        assert run.elements is not None
        run.elements.settle(index, state)
        self._pass_on(run.node.slug, as_range([index]))

    def _go_on(self, chain: Chain, slug: str, indices: Indices, *, is_suspect: bool) -> None:
        """Elements of a map that ran apart have ended: maps of the chain that take them can run, if all is there."""
        for number in range(chain.slugs.index(slug) + 1, len(chain.slugs)):
            run = self._known.runs[chain.slugs[number]]
            if slug not in run.node.element_upstreams:
                continue
            own = self._elements_of(run.node.slug).codes
            above = [
                each.elements.codes
                for each in map(self._known.runs.__getitem__, run.node.element_upstreams)
                if each.elements
            ]
            ready = [i for i in indices if not own[i] and all(codes[i] >= FIRST_FINAL_CODE for codes in above)]
            if ready:
                chain.ready.append(Batch(as_range(ready), number, is_suspect=is_suspect, is_apart=True))

    def _apart(self, chain: Chain, batch: Batch) -> Batch:
        """The batch; only the first of its maps runs if later ones have begun with its elements."""
        first = self._elements_of(chain.slugs[batch.first])
        later = [self._elements_of(slug) for slug in chain.slugs[batch.first + 1 :]]
        if batch.is_apart or not later or not (batch.assembles or batch.first or first.retries):
            return batch
        has_begun = any(each.codes[i] or i in each.retries for each in later for i in batch.indices)
        return replace(batch, is_apart=has_begun)


def _early_end(elements: MapRun, policies: Policies) -> State | None:
    """The state of what has not ended of a map that stops now; None if it goes on."""
    counts = elements.counts()
    if elements.is_enough:
        return Skipped(message="an element before was enough (stop_when)")
    if policies.first_n is not None and counts.successful + elements.n_lost >= policies.first_n:
        return Skipped(message=f"{policies.first_n:,} other elements were enough (first_n)")
    if policies.min_success is not None and counts.failed > (1 - policies.min_success) * elements.width + 1e-9:
        share = f"{counts.failed:,} of {elements.width:,} elements failed, and min_success is {policies.min_success}"
        return Cancelled(message=f"not run: {share}")
    return None


def _failed(node: FrozenNode, type_name: str, text: str) -> State:
    message = f"{node.slug} (written at {node.where}): {text}"
    return Failed(message=message, failure=Failure(type_name, message, root=node.slug))


def made_in_vain(state: State) -> State:
    """A state of what ran again because its value was lost; of a failure, it says so."""
    if not state.is_failed():
        return state
    text = "it had succeeded, its value was lost with a worker, and it cannot be made again"
    return noted(state, text)


def crashed(name: str, losses: int, reason: str) -> State:
    """The state of a task run that was lost more often than the budget allows."""
    message = f"it was lost {losses} times while {name} ran alone: {reason}"
    failure = Failure("WorkerLost", message, root=name)
    return Crashed(message=message, failure=failure, end_time=None)


def unplaced(name: str, reason: str) -> State:
    """The state of a task run that nothing can run."""
    return Crashed(message=reason, failure=Failure("NoWorkersError", reason, root=name))

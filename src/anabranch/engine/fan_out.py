"""Which elements of which maps go out now: chunks, in a window that slides over the width."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from anabranch.bindings import Const
from anabranch.engine.blame import blamed
from anabranch.engine.chunking import Pacer
from anabranch.engine.cutting import cut
from anabranch.engine.knowledge import Knowledge, NodeRun
from anabranch.engine.maps import Batch, Chain, MapRun, as_range
from anabranch.engine.reducing import reduced_argument
from anabranch.engine.units import CutFrom, Held, Input, Pieces, Report, Unit
from anabranch.frozen import FrozenNode
from anabranch.states import (
    FIRST_FINAL_CODE,
    Counts,
    Crashed,
    Failed,
    Failure,
    Mapped,
    Retrying,
    Running,
    Skipped,
    State,
    TriggerFailed,
)
from anabranch.triggers import EdgeName, Upstreams, all_finished, verdict


class FanOut:
    """The maps of a run."""

    def __init__(self, known: Knowledge) -> None:
        self._known = known
        self.chains: list[Chain] = []
        self._followers: dict[str, list[Chain]] = {}
        self._reducers: dict[str, tuple[str, ...]] = {}
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
        run.state = Running(message=f"{width:,} elements")
        run.elements = MapRun(node.slug, width, max_tracebacks=self._known.settings["max_tracebacks"])
        self._join_chain(run, sources)
        self._known.look_below(node.slug)
        return None

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
        if len(chains) == 1 and all(not source.is_final for source in maps):
            (chain,) = chains.values()
            if chain is not None and not chain.has_begun and self._same_policies(run, chain):
                chain.slugs.append(run.node.slug)
                run.chain = chain
                return
        chain = Chain(run.node.slug, run.elements.width, Pacer(self._known.settings, run.node.policies.chunksize))
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
        first = self._known.graph.nodes[chain.slugs[0]].policies
        mine = run.node.policies
        return (first.resources, first.chunksize, first.priority) == (mine.resources, mine.chunksize, mine.priority)

    def next_chunks(self) -> list[Unit]:
        """Hand out chunks while there are fewer in flight than the slots can have at hand."""
        units: list[Unit] = []
        window = self._known.settings["chunks_per_slot"] * self._known.slots
        in_flight = self.in_flight
        open_chains = [chain for chain in self.chains if chain.ready]
        while open_chains and in_flight < window:
            chain = min(open_chains, key=lambda each: len(each.in_flight))
            is_full = chain.pacer.is_probing and len(chain.in_flight) >= self._known.slots
            if not is_full:
                units.append(self._chunk(chain))
                in_flight += 1
            if is_full or not chain.ready:
                open_chains.remove(chain)
        return units

    def _chunk(self, chain: Chain) -> Unit:
        chain.has_begun = True
        batch = chain.next_batch(self._known.slots)
        slugs = chain.slugs[batch.first : batch.first + 1 if batch.is_apart else None]
        elements: dict[str, Input] = {}
        for slug in slugs:
            for up in self._known.graph.nodes[slug].element_upstreams:
                run = self._known.runs[up]
                if up in slugs or run.node.kind == "parameter":
                    continue
                if run.elements is not None:
                    settled = {i: state for i, state in run.elements.settled.items() if i in batch.indices}
                    elements[up] = Pieces(run.elements.keys_of(batch.indices), Running(), settled)
                else:
                    source = self._known.input(run)
                    elements[up] = CutFrom(source.key) if isinstance(source, Held) else source
        unit = Unit(
            key=self._known.new_key(self._known.graph.nodes[slugs[0]]),
            nodes=tuple(slugs),
            inputs=self._known.whole_inputs(slugs),
            elements=elements,
            attempts=batch.attempts,
            loops=batch.loops,
            indices=batch.indices,
            slices=self._slices(slugs, batch.indices),
            keep=frozenset(slug for slug in slugs if self._is_kept(slug, slugs)),
            reduces={slug: self._reducers[slug] for slug in slugs if slug in self._reducers},
            give_up_s=None if batch.is_suspect else chain.pacer.give_up_s(self._known.slots, len(batch.indices)),
            approved=self._known.approved.intersection(slugs),
        )
        chain.in_flight[unit.key] = batch
        return self._known.send(unit)

    def _is_kept(self, slug: str, slugs: list[str]) -> bool:
        users = [down for down in self._known.graph.downstream[slug] if down not in slugs]
        return slug in self._known.keep or any(down not in self._reducers.get(slug, ()) for down in users)

    def _slices(self, slugs: Iterable[str], indices: Any) -> dict[tuple[str, str], Any]:
        """Elements of constant arguments that a chunk needs."""
        slices = {}
        for slug in slugs:
            node = self._known.graph.nodes[slug]
            for name in node.mapped:
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
        done = report.indices
        rest = unit.indices[len(done) :]
        chain.pacer.observe(width=len(done), seconds=report.seconds, nbytes=report.nbytes)
        if len(rest):
            chain.hand_back(replace(batch, indices=rest), report.last_s)
        elif batch.is_apart and min(report.columns[-1].codes) >= FIRST_FINAL_CODE:
            self._go_on(chain, batch, unit)
        finals = []
        for column in report.columns:
            run = self._known.runs[column.slug]
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
        return finals

    def lose(self, unit: Unit, reason: str) -> list[NodeRun]:
        """A chunk is lost: halve it to find the guilty element, and give that up in the end. The maps that changed."""
        first = self._known.runs[unit.nodes[0]]
        chain = first.chain
        assert chain is not None
        assert unit.indices is not None
        batch = chain.in_flight.pop(unit.key)
        if len(batch.indices) > 1:
            middle = len(batch.indices) // 2
            for half in (batch.indices[middle:], batch.indices[:middle]):
                chain.ready.appendleft(replace(batch, indices=half, is_suspect=True))
            return []
        (index,) = batch.indices
        if len(unit.nodes) > 1:  # one of several maps is to blame: each runs alone now
            chain.ready.append(replace(batch, is_suspect=True, is_apart=True))
            return []
        lost = (first.node.slug, index)
        chain.losses[lost] = chain.losses.get(lost, 0) + 1
        if chain.losses[lost] <= self._known.settings["max_losses"]:
            chain.ready.append(replace(batch, is_suspect=True, is_apart=True))
            return []
        assert first.elements is not None
        slug = first.node.slug
        state = crashed(f"{slug}[{index}]", chain.losses.pop(lost), reason)
        first.elements.settle(index, replace(state, map_index=index))
        for follower in self._followers.get(slug, ()):
            follower.make_ready(as_range([index]))
        self._go_on(chain, batch, unit)
        return [first]

    def _go_on(self, chain: Chain, batch: Batch, unit: Unit) -> None:
        """After a unit with some of the chain's maps only, the next one can run."""
        after = chain.slugs.index(unit.nodes[-1]) + 1
        if batch.is_apart and after < len(chain.slugs):
            chain.ready.append(Batch(batch.indices, after, is_suspect=True, is_apart=True))


def _failed(node: FrozenNode, type_name: str, text: str) -> State:
    message = f"{node.slug} (written at {node.where}): {text}"
    return Failed(message=message, failure=Failure(type_name, message, root=node.slug))


def crashed(name: str, losses: int, reason: str) -> State:
    """The state of a task run that was lost more often than the budget allows."""
    message = f"its worker died {losses} times while {name} ran, the last times alone: {reason}"
    failure = Failure("WorkerLost", message, root=name)
    return Crashed(message=message, failure=failure, end_time=None)

"""The pure machine of one flow run: ``handle(stimulus)`` gives commands.

It reads no clock, does no I/O and holds no future: stimuli carry their time, commands are carried out by the driver.
What it knows is in `Knowledge`; which single nodes go out is decided by `Singles`, which elements of maps by `FanOut`.
"""

from __future__ import annotations

import heapq
import re
import sys
from collections import Counter, deque
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anabranch.base.events import CallsMade, MapAdvanced, TaskChanged, UnitLost
from anabranch.base.states import (
    Cached,
    Cancelled,
    Crashed,
    Deferred,
    Failed,
    Failure,
    Finished,
    Paused,
    Pending,
    Retrying,
    Running,
    State,
    Submitted,
    Success,
    TimedOut,
    TriggerFailed,
    tally,
)
from anabranch.definition.frozen import FrozenGraph
from anabranch.engine.machine.call_book import Waiter
from anabranch.engine.machine.fan_out import FanOut, crashed, made_in_vain, unplaced
from anabranch.engine.machine.knowledge import Knowledge, NodeRun
from anabranch.engine.machine.maps import MapRun
from anabranch.engine.machine.permits import Spent
from anabranch.engine.machine.recovery import ALL, called_back, reopen
from anabranch.engine.machine.singles import Singles
from anabranch.engine.machine.stimuli import (
    CancelAsked,
    Claim,
    Command,
    Finish,
    GivenUp,
    Lost,
    Permitted,
    Release,
    Reported,
    SlotsChanged,
    Started,
    Stimulus,
    Submit,
    Tell,
    Uprooted,
    WakeAt,
    Woke,
)
from anabranch.engine.units.calls import Expansion, Placed
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.units import Key, Report, SingleReport, Unit

_WITHOUT_ATTEMPT = (Pending.code, Cached.code, TriggerFailed.code)


class Machine:
    """Decides what runs when.

    Parameters
    ----------
    graph
        The flow, frozen.
    name, token
        Of the flow and of the run, for keys.
    widths
        For parameters that maps take their elements from: the width, or why there is none. For maps of which elements
        are recorded: the width that they had.
    keep
        Slugs of nodes whose values are wanted after the run, beside the reference and terminal ones.
    keeps_ends
        Whether those of the reference and terminal ones are.
    settings
        The ``engine`` settings.
    slots
        Task runs that can go on at the same time.
    first_serial
        Number after which keys begin.
    is_sequential
        Whether one unit runs after the other.
    shares_limits
        Whether others share the named limits: then `Claim` says what is used and wanted, and `Permitted` what there is.
    limits_outside
        Limits of which the task that runs this flow holds a permit.
    streamed
        Slugs of nodes whose task runs a stream is given as they end. Its maps' values are not kept for the time after
        the run, unless `keep` names them.
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
        keeps_ends: bool = True,
        approved: Iterable[str] = (),
        is_sequential: bool = False,
        first_serial: int = 0,
        shares_limits: bool = False,
        limits_outside: frozenset[str] = frozenset(),
        streamed: frozenset[str] = frozenset(),
    ) -> None:
        self._known = Knowledge(
            graph,
            name=name,
            token=token,
            settings=settings,
            slots=slots,
            keep=keep,
            keeps_ends=keeps_ends,
            approved=approved,
            shares_limits=shares_limits,
            limits_outside=limits_outside,
            streamed=streamed,
        )
        self._is_sequential = is_sequential
        self._claim = Claim()
        """What the driver was last told to claim."""
        self._known.skip_key(("", first_serial))
        self._singles = Singles(self._known)
        self._fan_out = FanOut(self._known)
        self.is_finished = False
        self._ending: State | None = None
        """The state in which everything ended that had not, when the run was stopped."""
        self.story: list[str] = []
        """What happened, in short, for errors that would be a riddle otherwise; the last thousand lines."""
        self._widths = dict(widths or {})
        self._waiting: list[tuple[float, str]] = []
        """Retries of single nodes: time and slug. A heap."""
        self._commands: list[Command] = []
        self._consumers_left = {slug: len(down) for slug, down in graph.downstream.items()}
        self._unfinished = len(graph.nodes)
        self._now = 0.0

    @property
    def runs(self) -> Mapping[str, NodeRun]:
        """What is known of each node, by slug."""
        return self._known.runs

    @property
    def graph(self) -> FrozenGraph:
        """The flow, and what deferred calls have added."""
        return self._known.graph

    @property
    def keep(self) -> frozenset[str]:
        """Slugs of the nodes whose values are wanted after the run."""
        return self._known.keep

    @property
    def slots(self) -> int:
        """Task runs that can go on at the same time."""
        return self._known.slots

    def spent(self, now: float) -> list[Spent]:
        """Permits of rates that will count for some time when the run is over."""
        self._known.limits.pass_time(max(self._now, now))
        return self._known.limits.spent()

    def on_their_way(self) -> dict[str, int]:
        """How many task runs have been sent and not come back, by slug."""
        found: Counter[str] = Counter()
        for unit in self._known.units.values():
            found.update(dict.fromkeys(unit.nodes, _width(unit)))
        return dict(found)

    def handle(self, stimulus: Stimulus) -> list[Command]:
        """What is to be done about something that happened."""
        self._now = max(self._now, stimulus.now)
        self._known.limits.pass_time(self._now)
        self._tell_story(stimulus)
        match stimulus:
            case _ if self.is_finished:
                return []
            case Started(_, recorded):
                self._start_run()
                if recorded:
                    self._recall(recorded)
            case Reported(_, report):
                self._take_report(report)
            case Lost(_, key, reason, is_death, ran_s, is_vain):
                self._lose(key, reason, ran_s if is_death else 0.0, is_vain=is_vain)
            case Uprooted():
                for unit in self._known.units.values():
                    self._tell_loss(unit, "the place where it ran is gone")
                self._start_again(ALL)
            case GivenUp(_, reason):
                self._end(Crashed(message=reason, failure=Failure("WorkerLost", reason)))
            case SlotsChanged(_, slots):
                self._known.slots = max(1, slots)
            case Permitted(_, may_use, lost):
                self._known.limits.permit(may_use, lost)
            case CancelAsked(_, reason, is_late):
                self._end(Cancelled(message=reason))
                self._ending = TimedOut(message=reason) if is_late else self._ending
            case Woke():
                pass
        self._wake()
        self._advance()
        commands, self._commands = self._commands, []
        return commands

    def reopen(self, keys: Iterable[Key]) -> bool:
        """Outcomes are gone that the caller may ask for, and the run has finished: whether it goes on for them."""
        if self._ending is not None or not any(map(self._known.is_held, keys)):
            return False
        self.is_finished = False
        self._start_again(frozenset(keys))
        return True

    def was_given(self, slug: str, key: Key) -> list[Command]:
        """A stream has been given what a unit holds of a map; what is to be done about that."""
        elements = self._elements_of(slug)
        if not elements.is_fleeting or key not in elements.keys:
            return []
        elements.drop(key)
        keys = self._known.forget(key, slug)
        return [Release(tuple(keys))] if keys else []

    # Beginning and end ------------------------------------------------------------------------------------------------

    def _start_run(self) -> None:
        for slug, run in self.runs.items():
            if run.node.kind == "parameter":
                given = self._widths.get(slug)
                run.width = given if isinstance(given, int) else None
                run.unmappable = given if isinstance(given, str) else ""
                self._conclude(run, Success(message="given"))
            else:
                self._known.to_start[slug] = None

    def _recall(self, reports: Iterable[Report | Placed]) -> None:
        """Take what was recorded as if it had just been reported; what has no value now runs again if it is needed."""
        enough: set[str] = set()
        ahead = deque(run for run in self.runs.values() if run.node.is_map)
        for report in reports:
            if isinstance(report, Placed):
                self._recall_calls(report, ahead, enough)
                continue
            self._known.skip_key(report.key)
            for single in report.singles:
                if single.slug in self.runs and self.runs[single.slug].elements is None:
                    self._take_single(single)
            for column in report.columns:
                run = self.runs.get(column.slug)
                if run is None or report.indices is None:
                    continue
                self._reach(run, ahead, enough)
                if run.elements is None or run.is_final:
                    continue
                if self._fan_out.recall(run, report.key, report.indices, column):
                    self._follow(run)
                if column.slug in report.enough:
                    enough.add(column.slug)
        self._decide(tuple(self.runs), enough)
        self._start_again(ALL)

    def _reach(self, run: NodeRun, ahead: deque[NodeRun], enough: Collection[str]) -> None:
        """Give a map its elements, or its end if it has none, and before it those `ahead`, down from the first ones.

        Of these all is known that is on record.
        """
        place = self._known.order[run.node.slug]
        while ahead and self._known.order[ahead[0].node.slug] < place:
            self._reach(ahead.popleft(), ahead, enough)
        self._decide((edge.upstream for edge in run.node.edges), enough)
        if run.node.is_map and run.elements is None and self._known.may_start(run):
            state, width = self._fan_out.expand(run), self._widths.get(run.node.slug)
            if state is not None:
                self._conclude(run, state)
            elif run.elements is None and isinstance(width, int):  # what it takes its elements from is made again
                self._fan_out.give_elements(run, width)

    def _decide(self, slugs: Iterable[str], enough: Collection[str]) -> None:
        """Let maps end early that had, or would have with the next report; `enough`: those of which a value says so."""
        for run in map(self.runs.__getitem__, slugs):
            if run.node.policies.may_stop_early and run.elements is not None and not run.is_final:
                self._stop_early(run, is_enough=run.node.slug in enough)
                self._follow(run)

    def _recall_calls(self, placed: Placed, ahead: deque[NodeRun], enough: Collection[str]) -> None:
        """Take deferred calls that an earlier driver had placed, if all before them are known."""
        expansion = placed.expansion
        run = self.runs.get(expansion.slug)
        if run is None:
            return
        self._reach(run, ahead, enough)
        if run.node.is_map and (run.elements is None or expansion.indices[-1] >= run.elements.width):
            return
        if not all(up in self.runs for up in expansion.borrowed):
            return
        if placed.bases != self._bases_of(expansion, placed.slugs):
            return  # something before it was not recorded: whoever made these calls makes them again
        self._place(expansion, placed)

    def _advance(self) -> None:
        self._known.limits.look_again()
        if self._ending is None:
            self._send()
        self._claim_permits()
        wake = self._next_wake()
        times = [time for time in (wake, self._known.limits.next_due) if time is not None]
        if times:
            self._commands.append(WakeAt(min(times)))
        if not self._known.units and not self._has_ready and wake is None:
            if self._unfinished and self._ending is None and not self._is_paused():
                left = {slug: str(run.state) for slug, run in self.runs.items() if not run.is_final}
                raise AssertionError(f"the run is stuck with {left}; its story:\n" + "\n".join(self.story[-60:]))
            self.is_finished = True
            self._commands.append(Finish())

    def _claim_permits(self) -> None:
        """Say what is used and wanted of the limits that others share, if that is not what was said last."""
        limits = self._known.limits
        if not (limits and limits.is_shared):
            return
        # Where one unit runs after the other, a permit would lie idle for as long as what was sent before takes.
        ahead = len(self._known.units) - limits.units if self._is_sequential else 0
        claim = limits.claim(self.slots, ahead=ahead)
        if claim != self._claim:
            self._claim = claim
            self._commands.append(claim)

    def _send(self) -> None:
        """Send what can run and has room."""
        units: list[Unit] = []
        self._singles.look_again()
        self._look_at_candidates()
        while (unit := self._singles.next_unit(len(self._known.units) - self._fan_out.in_flight)) is not None:
            units.append(unit)
            for slug in unit.nodes:
                self._tell_submitted(self.runs[slug])
            self._look_at_candidates()
        units += self._fan_out.next_chunks()
        if units:
            self._commands.append(Submit(tuple(units)))

    def _tell_submitted(self, run: NodeRun) -> None:
        """Tell that a node waits for a worker, and for nothing else; what still waits for an upstream is Pending."""
        if not run.is_flying or run.was_told:
            return
        if all(self.runs[edge.upstream].is_final for edge in reversed(run.node.edges)):  # the last ones end last
            run.was_told = True
            state = Submitted(attempt=run.attempt, result=run.loop)
            self._commands.append(Tell(TaskChanged(self._now, run.node.slug, state)))

    def note_begun(self, slug: str) -> None:
        """A worker is at a single node, and has said so: it is not submitted any more. May come from any thread."""
        self.runs[slug].was_told = True

    def _look_at_candidates(self) -> None:
        """Expand maps that can be, and pass on single nodes that can run."""
        candidates = self._known.to_start
        while candidates:
            # Topological order lets whole stretches of the graph go out at once, upstreams first.
            batch = sorted(candidates, key=self._known.order.__getitem__)
            candidates.clear()
            for slug in batch:
                run = self.runs[slug]
                if run.elements is not None and run.chain is None and not run.is_final:
                    self._resume(run)
                self._tell_submitted(run)
                if not self._known.may_start(run):
                    continue
                if not run.node.is_map:
                    self._singles.add(run)
                    continue
                state = self._fan_out.expand(run)
                if state is not None:
                    self._conclude(run, state)
                elif run.elements is not None:
                    self._commands.append(Tell(MapAdvanced(self._now, slug, run.elements.width, 0, 0, 0)))

    def _resume(self, run: NodeRun) -> None:
        """A map whose inputs were lost may go on, if they are there again."""
        refused = self._fan_out.resume(run)
        if refused is not None and run.elements is not None:
            for index, code in enumerate(run.elements.codes):
                if code < Success.code:
                    run.elements.settle(index, replace(refused, map_index=index))
            self._conclude(run, replace(refused, counts=run.elements.counts()))

    @property
    def only_waits(self) -> bool:
        """Whether nothing runs or can, and all that has ended is on record: another driver could go on with the run."""
        return self._is_still and not self._has_ready

    @property
    def waits_for_room(self) -> bool:
        """The same, where what could run has no room below its limits."""
        return self._is_still and self._has_ready

    @property
    def _is_still(self) -> bool:
        if self._known.units or self._known.to_start:
            return False
        return not any(self._holds_unrecorded(run) for run in self.runs.values())

    @property
    def _has_ready(self) -> bool:
        return self._fan_out.has_work or (self._ending is None and self._singles.has_waiting)

    def _holds_unrecorded(self, run: NodeRun) -> bool:
        if run.elements is not None:
            is_here = run.elements.is_inline or run.elements.is_stored
            return not is_here and any(map(self._known.is_held, run.elements.keys))
        return run.key is not None and self._known.is_held(run.key) and run.value is None and run.ref is None

    def _is_paused(self) -> bool:
        return any(
            isinstance(run.state, Paused) or (run.elements is not None and Paused.code in run.elements.codes)
            for run in self.runs.values()
        )

    def _next_wake(self) -> float | None:
        single = self._waiting[0][0] if self._waiting else None
        return min((time for time in (single, self._fan_out.next_due) if time is not None), default=None)

    def _wake(self) -> None:
        self._fan_out.wake(self._now)
        while self._waiting and self._waiting[0][0] <= self._now:
            _, slug = heapq.heappop(self._waiting)
            if isinstance(self.runs[slug].state, Retrying):
                self.runs[slug].state = Pending(message="due")
                self._known.to_start[slug] = None

    def _end(self, state: State) -> None:
        """Give everything that had not ended this state, and let nothing more go out."""
        self._ending, reason = state, state.message
        self._fan_out.stop()
        self._waiting.clear()
        self._release(list(self._known.units))
        for key in tuple(self._known.units):
            self._known.arrived(key)
        for run in self.runs.values():
            if run.is_final:
                continue
            run.is_flying = False
            elements = run.elements
            is_cut = elements.end(state) if elements is not None else run.had_ended is None
            if run.had_ended is not None and not is_cut:
                self._conclude(run, run.had_ended)
            elif elements is not None:
                counts = elements.counts()
                self._conclude(run, replace(state, message=f"{reason}; {counts}", counts=counts))
            else:
                self._conclude(run, state)

    def flow_state(self) -> State:
        """The state of the flow run, decided by its reference nodes once everything has ended."""
        runs = list(self.runs.values())
        if not runs:
            return Success(message="the flow has no tasks")
        if self._ending is not None:
            return self._ending
        if self._unfinished and self._is_paused():
            names = [run.node.slug for run in runs if not run.is_final and isinstance(run.state, Paused)]
            return Paused(message=f"waits for an approval: {', '.join(names) or 'elements of a map'}")
        references = [self.runs[slug] for slug in self._known.graph.reference]
        cancelled = [run for run in references if run.state.is_cancelled()]
        failed = [run for run in references if run.state.is_failed()]
        if cancelled and not failed:
            return Cancelled(message=f"{cancelled[0].node.slug} was cancelled")
        unclean = "".join(
            f"; {run.node.slug} failed with {run.state.failure.headline() if run.state.failure else run.state.message}"
            for run in runs
            if run.node.kind == "cleanup" and run.state.is_failed() and run.node.slug not in self._known.graph.reference
        )
        if failed:
            failure = failed[0].state.failure
            return Failed(message=self._root_message(failed) + unclean, failure=failure)
        if all(run.state.is_skipped() for run in references):
            return Success(message="all reference tasks were skipped" + unclean)
        return Success(message="all reference tasks succeeded" + unclean)

    def _root_message(self, failed: list[NodeRun]) -> str:
        first = failed[0]
        failure = first.state.failure
        root = failure.root if failure and failure.root else first.node.slug
        origin = self.runs.get(re.sub(r"\[\d+\]", "", root), first)
        why = origin.state.failure or failure
        headline = why.headline() if why else first.state.message
        others = (
            sum(
                _roots(run)
                for run in self.runs.values()
                if not run.state.is_successful() and not isinstance(run.state, TriggerFailed) and run.is_final
            )
            - 1
        )
        return f"{root} failed with {headline}" + (f" (+{others:,} others)" if others > 0 else "")

    # Reports ----------------------------------------------------------------------------------------------------------

    def _take_report(self, report: Report) -> None:
        if report.part:
            self._known.limits.spend(report.key, _attempts(report), is_part=True)
            self._take_part(report)
            return
        attempts = sys.maxsize if report.changed else _attempts(report)
        unit = self._known.arrived(report.key, attempts, report.ended_s)
        if unit is None:
            # A second report, as Dask has made a lost value again; or one of a unit that was called back.
            if self._known.is_held(report.key) and self._has_changed(report):
                self._start_again({report.key})
            return
        self._take_results(unit, report)
        self._let_go_inputs(unit)
        if report.changed:
            self._start_again(report.changed)

    def _let_go_inputs(self, unit: Unit) -> None:
        """A unit is not on its way any more: what it would have taken, and is here too, need not be kept for it."""
        for slug in self._known.users_of(unit):
            self._release(self._known.let_go(slug))

    def _take_part(self, report: Report) -> None:
        """Take what has ended in a unit that goes on."""
        unit = self._known.units.get(report.key)
        if unit is None:
            return
        for single in report.singles:
            if isinstance(single.state, Finished):
                self._take_single(single)
            elif isinstance(single.state, Retrying) and not self.runs[single.slug].is_final:
                self.runs[single.slug].note_attempt(single.state)
        for run in self._fan_out.take_part(unit, report):
            self._stop_early(run)
            self._follow(run)
        self._free()

    def _take_results(self, unit: Unit, report: Report) -> None:
        if unit.indices is not None:
            runs = self._fan_out.take(unit, report)
            for run in map(self.runs.__getitem__, unit.nodes):
                if run.elements is not None and unit.key not in run.elements.keys:  # nothing of it is there to be taken
                    self._release(self._known.forget(unit.key, run.node.slug))
            for expansion in report.expansions:
                self._place(expansion)
            for run in runs:
                self._stop_early(run, is_enough=run.node.slug in report.enough)
                self._follow(run)
            self._free()
            self._release(self._known.unused(unit.key))
            return
        if unit.asks_names and report.names:
            self.runs[unit.nodes[0]].names = report.names[0]
        if unit.is_suspect:
            self._known.verdicts.survived(unit.nodes[0], report.seconds)
        told = {each.slug for each in report.singles}
        # A unit that Dask has made again is without what it had handed back, and nobody may have heard of that.
        left = (SingleReport.handed_back(slug) for slug in unit.nodes if slug not in told)
        for single in (*report.singles, *left):
            self._take_single(single)
        for expansion in report.expansions:
            self._place(expansion)
        self._free()
        self._release(self._known.unused(unit.key))

    def expects(self, key: Key) -> bool:
        """Whether the first report of a unit is still to come."""
        return key in self._known.units

    def vet(self, report: Report) -> Report:
        """The report as it is to be taken.

        It is without results that were made of what is not what was reported of it; and what cannot be made again says
        that it had been there.
        """
        changed = {
            run.key
            for run, seal in ((self.runs[slug], seal) for slug, seal in report.taken.items())
            if run.key is not None and run.is_final and run.seal != seal
        }
        if changed and self.expects(report.key):
            if report.part:  # the unit itself will say so
                return replace(report, singles=(), columns=(), indices=(), at=None)
            return report.without_results(changed)
        if not (self._known.has_lost and self.expects(report.key)):
            return report
        singles = tuple(
            replace(each, state=made_in_vain(each.state)) if self.runs[each.slug].had_ended is not None else each
            for each in report.singles
        )
        return replace(report, singles=singles, columns=tuple(map(self._fan_out.vet, report.columns)))

    def _has_changed(self, report: Report) -> bool:
        """Whether a unit that ran a second time came to something else."""
        if report.indices is None:
            runs = ((self.runs[each.slug], each.seal) for each in report.singles if each.slug in self.runs)
            return any(run.key == report.key and run.is_final and run.seal != seal for run, seal in runs)
        codes = {each.slug: each.codes for each in report.columns}
        holders = [(slug, run.elements) for slug, run in self.runs.items() if run.elements is not None]
        return any(
            elements.has_changed(report.key, report.indices if slug in codes else (), codes.get(slug, b""))
            for slug, elements in holders
            if report.key in elements.keys
        )

    # Deferred calls ---------------------------------------------------------------------------------------------------

    def _place(self, expansion: Expansion, recorded: Placed | None = None) -> None:
        """Add calls that were made to the run: each task's to the map of the caller's calls to it."""
        caller = self.runs[expansion.slug]
        if not self._take_callers(caller, expansion, recorded):
            return
        known_parcels = self._known.calls.parcels
        fresh = {digest: data for digest, data in expansion.parcels.items() if digest not in known_parcels}
        expansion = replace(expansion, parcels=fresh)
        known = {group.identity: self._known.calls.group(expansion.slug, group.identity) for group in expansion.groups}
        widths = {slug: len(self._codes_of(slug)) for slug in known.values() if slug is not None}
        most = self._known.settings["max_width"]
        for group in expansion.groups:
            if widths.get(known[group.identity] or "", 0) + group.width > most:
                self._refuse_calls(caller, expansion, f"more than {most:,} deferred calls of {group.name}")
                return
        slugs, nodes = [], {}
        for number, group in enumerate(expansion.groups):
            slug = known[group.identity]
            if slug is None:
                slug = recorded.slugs[number] if recorded is not None else self._free_slug(expansion.slug, group.name)
                nodes[slug] = replace(group.node, slug=slug)
                self._known.calls.add_group(expansion.slug, group.identity, slug, group.definition)
                self._consumers_left[slug] = 0
                self._unfinished += 1
                self._known.add(nodes[slug])
                self._fan_out.grow(self.runs[slug], 0)
            slugs.append(slug)
        bases = self._bases_of(expansion, slugs)
        placed = Placed(expansion, tuple(slugs), bases, recorded.void if recorded is not None else frozenset())
        for slug, group in zip(slugs, expansion.groups, strict=True):
            run = self.runs[slug]
            if run.is_final:  # its caller had ended, and was called again since
                run.state = Running(message="deferred calls")
                self._unfinished += 1
                for up in run.borrowed:
                    self._consumers_left[up] += 1
            self._fan_out.grow(run, group.width)
        for slug in (expansion.slug, *slugs):
            for up in self._known.lend(slug, expansion.borrowed):
                self._consumers_left[up] += not self.runs[slug].is_final
        self._known.calls.place(placed)
        self._commands.append(Tell(CallsMade(self._now, expansion.slug, nodes, placed, is_new=recorded is None)))
        for slug, base, group in zip(slugs, bases, expansion.groups, strict=True):
            waiter = Waiter(slug, False)
            indices = range(base, base + group.width)
            if any(slugs[link.waiting] == slug for link in expansion.links if link.waiting >= 0):
                free = tuple(index for index in indices if not self._known.calls.is_waiting(waiter, index))
                self._fan_out.free(waiter, free)
            else:
                self._fan_out.free(waiter, indices)
        waiter = Waiter(expansion.slug, True)
        free = tuple(index for index in expansion.indices if not self._known.calls.is_waiting(waiter, index))
        self._free_callers(waiter, free)
        for run in map(self.runs.__getitem__, slugs):  # of a caller that had ended, one without elements ends here
            if recorded is not None and run.elements is not None and run.elements.is_final:
                self._follow(run)

    def _bases_of(self, expansion: Expansion, slugs: Sequence[str]) -> tuple[int, ...]:
        """Numbers that the first elements of an expansion's groups get; several groups may be of one map."""
        widths = {slug: len(self._codes_of(slug)) if slug in self.runs else 0 for slug in slugs}
        bases = []
        for slug, group in zip(slugs, expansion.groups, strict=True):
            bases.append(widths[slug])
            widths[slug] += group.width
        return tuple(bases)

    def _free_slug(self, caller: str, name: str) -> str:
        slug, number = f"{caller}/{name}", 1
        while slug in self.runs:
            number += 1
            slug = f"{caller}/{name}-{number}"
        return slug

    def _elements_of(self, slug: str) -> MapRun:
        elements = self.runs[slug].elements
        assert elements is not None
        return elements

    def _codes_of(self, slug: str) -> bytearray:
        return self._elements_of(slug).codes

    def _take_callers(self, caller: NodeRun, expansion: Expansion, recorded: Placed | None) -> bool:
        """Whether some of the elements that made these calls wait for them; those recorded do from now on."""
        if caller.elements is None:
            if recorded is not None and not caller.is_final and not recorded.void:
                caller.state = Deferred(message="made deferred calls")
            return isinstance(caller.state, Deferred) or recorded is not None
        codes = caller.elements.codes
        if recorded is not None:
            for index in expansion.indices:
                if codes[index] < Success.code and index not in recorded.void:
                    codes[index] = Deferred.code
        return recorded is not None or any(codes[index] == Deferred.code for index in expansion.indices)

    def _refuse_calls(self, caller: NodeRun, expansion: Expansion, reason: str) -> None:
        """Let the elements that made calls fail: there are too many."""
        message = f"{caller.node.slug} makes {reason} (engine.max_width)"
        state = Failed(message=message, failure=Failure("UnstorableValueError", message, root=caller.node.slug))
        if caller.elements is None:
            self._conclude(caller, state)
            return
        for index in expansion.indices:
            if caller.elements.codes[index] == Deferred.code:
                self._fan_out.settle(caller, index, replace(state, map_index=index))
        self._follow(caller)

    def _free(self) -> None:
        """Let go on what waits for no deferred call any more."""
        freed, self._fan_out.freed = self._fan_out.freed, []
        for waiter, indices in freed:
            if waiter.is_caller:
                self._free_callers(waiter, indices)
            else:  # those that nobody needs any more were settled
                left = tuple(index for index in indices if self._fan_out.waits(waiter, index))
                self._fan_out.free(waiter, left, have_waited=True)

    def _free_callers(self, waiter: Waiter, indices: Indices) -> None:
        run = self.runs[waiter.slug]
        if run.elements is not None:
            codes = run.elements.codes
            self._fan_out.free(waiter, tuple(index for index in indices if codes[index] == Deferred.code))
        elif len(indices) and isinstance(run.state, Deferred):
            run.state, run.assembles = Pending(message="its deferred calls have ended"), True
            self._known.to_start[waiter.slug] = None

    def _stop_early(self, run: NodeRun, *, is_enough: bool = False) -> None:
        """Let a map end if it has enough, or can never have it."""
        if run.node.policies.may_stop_early:
            self._release(self._fan_out.stop_early(run, is_enough=is_enough))

    def _follow(self, run: NodeRun) -> None:
        """Elements of a map have ended: perhaps the map has."""
        elements = run.elements
        assert elements is not None
        if not elements.is_final:
            retrying = elements.codes.count(Retrying.code)
            event = MapAdvanced(self._now, run.node.slug, elements.width, elements.done, elements.failed, retrying)
            self._commands.append(Tell(event))
        elif not run.is_final and self._is_closed(run):
            self._conclude(run, elements.state())

    def _is_closed(self, run: NodeRun) -> bool:
        """Whether a map gets no more elements: deferred calls may be added for as long as their caller goes on."""
        caller = self._known.calls.caller_of.get(run.node.slug)
        return caller is None or self.runs[caller].is_final

    def _take_single(self, report: SingleReport) -> None:
        run = self.runs[report.slug]
        run.is_flying = False
        if run.is_final:
            return
        state = report.state
        if isinstance(state, Finished):
            run.value, run.width, run.unmappable = report.value, report.width, report.unmappable
            run.ref, run.seal = report.ref, report.seal
            self._singles.observe(run, state, is_small=report.value is not None)
            self._conclude(run, state)
            self._release(self._known.let_go(report.slug))
            return
        if run.key is not None:
            self._release(self._known.forget(run.key, report.slug))
            run.key = None
        if isinstance(state, Retrying):
            run.state = state
            run.note_attempt(state)
            heapq.heappush(self._waiting, (run.due, report.slug))
        elif isinstance(state, (Paused, Deferred)):
            run.state, run.assembles = state, False
        else:  # it could not run, because something upstream was not final
            run.state = Pending(attempt=run.attempt, result=run.loop)
            self._known.to_start[report.slug] = None
        self._commands.append(Tell(TaskChanged(self._now, report.slug, run.state)))

    def _conclude(self, run: NodeRun, state: State) -> None:
        """A node has ended: what waits for it may start, what nobody needs any more is released."""
        run.state = state
        slug = run.node.slug
        self._unfinished -= 1
        self._commands.append(Tell(TaskChanged(self._now, slug, state)))
        self._known.look_below(slug)
        for group in self._known.calls.groups_of(slug):
            called = self.runs[group]
            if called.elements is not None and called.elements.is_final and not called.is_final:
                self._conclude(called, called.elements.state())
        released: list[Key] = []
        for up in run.upstreams:
            self._consumers_left[up] -= 1
            if not self._consumers_left[up]:
                released += self._let_go(up)
        if not self._consumers_left[slug]:
            for each in self._known.calls.siblings_of(slug):
                released += self._let_go(each)
        self._release(released)

    def _let_go(self, slug: str) -> list[Key]:
        """Units whose outcomes are not needed once nothing takes this node's value any more."""
        run = self.runs[slug]
        if slug in self.keep and not self._is_inline(run):
            return []
        if not all(self.runs[each].is_final for each in self._known.calls.siblings_of(slug)):
            return []
        keys = list(run.elements.keys) if run.elements is not None else [run.key] if run.key is not None else []
        released: list[Key] = []
        for key in keys:
            released += self._known.forget(key, slug)
        return released

    def _release(self, keys: list[Key]) -> None:
        if keys:
            self._commands.append(Release(tuple(keys)))

    def _is_inline(self, run: NodeRun) -> bool:
        """Whether everything that a caller may want of a node is here already, or stored for good."""
        if run.elements is not None:
            return run.elements.is_inline or run.elements.is_stored
        has_none = run.state.is_skipped() or (not run.state.is_successful() and run.state.counts is None)
        return run.value is not None or run.ref is not None or has_none

    # Losses -----------------------------------------------------------------------------------------------------------

    def _lose(self, key: Key, reason: str, ran_s: float | None, *, is_vain: bool) -> None:
        """A unit is lost; `ran_s`: seconds that it ran alone in its process, None if it is not to blame.

        `is_vain`: it is not sent again.
        """
        unit = self._known.arrived(key)
        if unit is None:
            if self._known.is_held(key):
                self._start_again({key})
            return
        self._release([key])
        self._tell_loss(unit, reason)
        if unit.indices is None:
            has_told = any(self.runs[slug].is_final and self.runs[slug].key == key for slug in unit.nodes)
            self._known.lose(key)
            self._lose_singles(unit, reason, ran_s, is_vain=is_vain)
        else:
            has_told = any(key in self._elements_of(slug).keys for slug in unit.nodes)
            self._known.lose(key)
            for run in self._fan_out.lose(unit, reason, ran_s, self._now, is_vain=is_vain):
                self._follow(run)
            first = self.runs[unit.nodes[0]]
            if first.node.policies.may_stop_early:
                self._stop_early(first)
                self._follow(first)
            self._free()
        self._let_go_inputs(unit)
        if has_told:  # what had ended in it keeps its state, and its value if that was told; what is needed runs again
            self._start_again({key})

    def _tell_loss(self, unit: Unit, reason: str) -> None:
        self._commands.append(Tell(UnitLost(self._now, unit.nodes, _width(unit), reason, unit.indices or ())))

    def _lose_singles(self, unit: Unit, reason: str, ran_s: float | None, *, is_vain: bool) -> None:
        """Send lost nodes again: each alone, so that the guilty one is found."""
        verdicts = self._known.verdicts
        left = [run for run in map(self.runs.__getitem__, unit.nodes) if not run.is_final]
        for run in left:
            run.is_flying, run.key = False, None
        for run in left:
            slug = run.node.slug
            run.is_suspect = True
            if is_vain:
                self._conclude(run, unplaced(slug, reason))
            elif len(left) == 1 and len(unit.nodes) == 1 and ran_s is not None and verdicts.died(slug, ran_s):
                self._conclude(run, crashed(slug, verdicts.deaths(slug), reason))
            else:
                self._start_or_wait(run)

    def _start_or_wait(self, run: NodeRun) -> None:
        """Send a single node again that was on its way; if it waited there for its next attempt, once that is due."""
        run.is_flying, run.key = False, None
        if run.due > self._now:
            run.state = Retrying(message="waits", attempt=run.attempt - 1, result=run.loop)
            heapq.heappush(self._waiting, (run.due, run.node.slug))
        else:
            self._known.to_start[run.node.slug] = None

    def _start_again(self, gone: Container[Key]) -> None:
        """Outcomes are gone: call back what needs them, and run again what is needed and cannot be had otherwise."""
        back = called_back(self._known, gone)
        self._release([*(unit.key for unit in back), *(key for key in self._known.held() if key in gone)])
        for unit in back:
            self._known.arrived(unit.key)
            self._known.lose(unit.key)
        for unit in back:
            self._let_go_inputs(unit)
            for slug in unit.nodes if unit.indices is None else ():
                if not self.runs[slug].is_final:
                    self._start_or_wait(self.runs[slug])
        for run in reopen(self._known, gone):
            self._unfinished += 1
            for up in run.upstreams:
                self._consumers_left[up] += 1
        self._recount_calls()
        self._fan_out.rebuild(self._now)
        self._known.to_start.update(dict.fromkeys(slug for slug, run in self.runs.items() if not run.is_final))

    def _recount_calls(self) -> None:
        """Find out again who waits for deferred calls; a single node that waits for none can go on."""
        calls = self._known.calls
        if not calls:
            return
        calls.recount(self._codes_of)
        for slug, run in self.runs.items():
            if run.node.is_map or run.is_final or not calls.has_called(slug, -1):
                continue
            is_waiting = calls.is_waiting(Waiter(slug, True), -1)
            run.assembles = not is_waiting
            run.state = Deferred(message="made deferred calls") if is_waiting else Pending()

    def _tell_story(self, stimulus: Stimulus) -> None:
        if isinstance(stimulus, Reported):
            report = stimulus.report
            what = ", ".join([*(f"{s.slug} {s.state.name}" for s in report.singles), *(c.slug for c in report.columns)])
            line = f"{stimulus.now:.3f} Reported {report.key[1]} {what} {report.indices or ''}"
        elif isinstance(stimulus, Started):
            line = f"Started at {stimulus.now:.3f}, {len(stimulus.recorded)} reports on record"
        else:
            line = repr(stimulus)
        self.story.append(line[:300])
        if len(self.story) > 2000:
            del self.story[:1000]


def _roots(run: NodeRun) -> int:
    """How many task runs of a node failed by themselves."""
    if run.elements is not None:
        return run.elements.failed - run.elements.codes.count(TriggerFailed.code)
    return tally([run.state]).by_word()["failed"]


def _attempts(report: Report) -> int:
    """How many attempts a report tells of, which have ended."""
    codes = b"".join([bytes(each.state.code for each in report.singles), *(each.codes for each in report.columns)])
    return len(codes) - sum(map(codes.count, _WITHOUT_ATTEMPT))


def _width(unit: Unit) -> int:
    """How many task runs of each of its nodes a unit has."""
    return 1 if unit.indices is None else len(unit.indices)

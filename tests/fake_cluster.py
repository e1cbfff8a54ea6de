"""A cluster that is a dictionary: it does what a machine commands, in whatever order a test likes.

It keeps to what Dask promises and no more: a unit runs once all it needs is there; an outcome stays for as long as the
driver holds its key or a submitted unit needs it; when a unit is lost, those that wait for it are lost too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.machine_checks import check

from anabranch import Flow, config
from anabranch.base.context import RunInfo
from anabranch.base.events import CallsMade, Event
from anabranch.base.states import BY_CODE, State
from anabranch.engine.driver.outlet import Outlet, Recap
from anabranch.engine.machine.machine import Machine
from anabranch.engine.machine.stimuli import (
    CancelAsked,
    Claim,
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
    Uprooted,
    WakeAt,
    Woke,
)
from anabranch.engine.units.calls import Placed
from anabranch.engine.units.elements import width_of
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import Key, Program, Report, SingleReport, Unit
from anabranch.engine.worker.task_runner import Environment
from anabranch.engine.worker.unit_runner import learn, run_unit
from anabranch.errors import UnmappableError
from anabranch.flows.stream import Inflow, Stream, StreamedState
from anabranch.runs.record.reports import picked


class FakeCluster:
    """A machine, and everything that a driver and a cluster would do around it.

    Parameters
    ----------
    flow
        What is run.
    engine
        Settings of the engine that differ from the usual.
    slots
        Task runs that can go on at the same time.
    call_s
        Seconds that a look at the clock takes; so the time that tasks seem to take.
    shares_limits
        Whether named limits are shared with others: what is claimed of them is in `claim`.
    is_sequential
        Whether one unit runs after the other.
    streamed
        Nodes that a stream is given: `inflow` has what it got.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        engine: Mapping[str, Any] | None = None,
        slots: int = 2,
        call_s: float = 0.0,
        approve: Iterable[str] = (),
        keep: Iterable[str] = (),
        parameters: Mapping[str, Any] | None = None,
        shares_limits: bool = False,
        is_sequential: bool = False,
        streamed: Iterable[str] = (),
    ) -> None:
        self.graph = flow.graph.freeze(flow._reference)
        self.settings = {**config.snapshot()["engine"], **(engine or {})}
        self.now = 1_000.0
        self.call_s = call_s
        given = {node.slug: node.default_value for node in flow.parameters()} | dict(parameters or {})
        self.given = given
        self._new_machine = lambda: Machine(
            self.graph,
            name=flow.name,
            token="run",
            settings=self.settings,
            slots=slots,
            widths={slug: _width(value) for slug, value in given.items()},
            keep=keep,
            approved=approve,
            shares_limits=shares_limits,
            is_sequential=is_sequential,
            streamed=frozenset(streamed),
        )
        self.claim = Claim()
        self._streamed = frozenset(streamed)
        self.late: Inflow | None = None
        """What a stream is given that came while the run went on."""
        self._begin()
        program = Program(RunInfo(flow.name, "run", given), dict(self.graph.nodes), given, self.settings)
        self.environment = Environment(program, worker="fake", clock=self._clock, sleep=self._sleep)
        self.submitted: dict[Key, Unit] = {}
        """Units that have not been run."""
        self.outcomes: dict[Key, UnitOutcome] = {}
        self.used: set[Key] = set()
        """Keys of outcomes that another unit was run with."""
        self.held: set[Key] = set()
        """Keys that were submitted and not released."""
        self.units: list[Unit] = []
        """Everything that was ever submitted."""
        self.batches: list[list[Unit]] = []
        """The same, by `Submit`."""
        self.reports: list[Report] = []
        """On their way to the driver."""
        self.delivered: list[Report] = []
        self.journal: list[Report | Placed] = []
        """What another driver would know."""
        self.lost: list[Key] = []
        """Losses of which the driver does not know yet."""
        self._spare: dict[Key, UnitOutcome | None] = {}
        self._causes: dict[Key, Key | None] = {}
        self._ran: set[Key] = set()
        """Lost units that had all they needed, so that they can have run."""
        self.events: list[Event] = []
        self.wake_at: float | None = None
        self.is_finished = False
        self._parts = 0

    def _begin(self) -> None:
        self.machine = self._new_machine()
        self.inflow = Inflow(self._streamed, "run")
        self._outlet = Outlet(self.inflow, self.machine.runs, self.given, self.gather)
        if self.late is not None:
            self.read_late(self.late.slugs)

    def read_late(self, slugs: Iterable[str]) -> None:
        """Let a stream come while the run goes on."""
        self.late = Inflow(slugs, "run")
        self._recap = Recap(self.late, self.machine.runs, self.given, self.gather)

    def gather(self, keys: Iterable[Key]) -> dict[Key, UnitOutcome]:
        """Outcomes, for streams."""
        return {key: self.outcomes[key] for key in keys if key in self.outcomes}

    def _clock(self) -> float:
        self.now += self.call_s
        return self.now

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    # What the driver does ---------------------------------------------------------------------------------------------

    def tell(self, stimulus: Stimulus) -> list[Command]:
        """Give the machine a stimulus and do what it commands."""
        commands = self.machine.handle(stimulus)
        if self._streamed:
            commands = [*self._outlet.pour(self.machine), *commands]
        if self.late is not None:
            self._recap.recall(self.machine.expects)
        for command in commands:
            match command:
                case Submit(units):
                    self._submit(units)
                case Release(keys):
                    self._release(keys)
                case WakeAt(when):
                    self.wake_at = when
                case Claim() as claim:
                    self.claim = claim
                case Tell(event):
                    self.events.append(event)
                    if isinstance(event, CallsMade) and event.is_new:
                        self.journal.append(event.record)
                case Finish():
                    self.is_finished = True
        check(self.machine)
        return commands

    def start(self) -> list[Command]:
        """Begin the run."""
        return self.tell(Started(self.now))

    def _submit(self, units: Iterable[Unit]) -> None:
        self.batches.append(list(units))
        for unit in self.batches[-1]:
            assert unit.key not in self.held, f"{unit.key} is used twice"
            there = {*self.submitted, *self.outcomes, *self.lost}
            missing = [key for key in unit.upstream_keys() if key not in there]
            assert not missing, f"{unit.nodes} needs {missing}, which are not there (any more)"
            self.submitted[unit.key] = unit
            self.held.add(unit.key)
            self.units.append(unit)
            for key in unit.upstream_keys():
                if key in self.lost:
                    self.lose(unit, because_of=key)
                    break

    def _release(self, keys: Iterable[Key]) -> None:
        self.held.difference_update(keys)
        self._forget()

    def _forget(self) -> None:
        """Drop what nobody holds and nobody waits for, units that have not been run too."""
        while True:
            needed = {key for unit in self.submitted.values() for key in unit.upstream_keys()}
            gone = [key for key in (*self.submitted, *self.outcomes) if key not in self.held and key not in needed]
            if not gone:
                return
            for key in gone:
                self.submitted.pop(key, None)
                self.outcomes.pop(key, None)

    # What the cluster does --------------------------------------------------------------------------------------------

    def runnable(self) -> list[Unit]:
        """Units whose inputs are all there."""
        return [u for u in self.submitted.values() if all(key in self.outcomes for key in u.upstream_keys())]

    def run(self, unit: Unit, *, only: int | None = None) -> Report:
        """Run a unit; its report is on its way afterwards. `only` so many elements are begun, if that is given."""
        del self.submitted[unit.key]
        learn(self.environment.program, unit)
        begun = unit if only is None or unit.indices is None else replace(unit, indices=unit.indices[:only])
        outcome, report = run_unit(begun, self.environment, {key: self.outcomes[key] for key in unit.upstream_keys()})
        self.outcomes[unit.key] = outcome
        self.used.update(unit.upstream_keys())
        self.reports.append(report)
        self._forget()
        return report

    def tell_part(self, unit: Unit, count: int) -> list[Report]:
        """Let a unit that goes on tell of its first nodes, or of the first elements of each of its maps."""
        learn(self.environment.program, unit)
        given = {key: self.outcomes[key] for key in unit.upstream_keys()}
        _, whole = run_unit(unit, self.environment, given)
        if whole.changed:
            return []
        told = []
        if unit.indices is None:
            singles = tuple(each for each in whole.singles[:count] if each.state.is_finished())
            told.append(Report(unit.key, singles=singles, worker=whole.worker, taken=whole.taken))
        for column in whole.columns:
            part = picked(replace(whole, columns=(column,), expansions=()), range(min(count, len(whole.indices or ()))))
            told.append(Report(unit.key, columns=part.columns, indices=part.indices, worker=whole.worker))
        for report in told:
            self._parts += 1
            heard = self.machine.vet(replace(report, part=self._parts))
            if self.machine.expects(report.key):
                self.journal.append(heard)
            self.tell(Reported(self.now, heard))
        return told

    def may_be_made_again(self) -> list[Key]:
        """Units whose outcomes are there, of which the driver knows, and all that they were made of."""
        known = {report.key for report in self.delivered}
        units = {unit.key: unit for unit in self.units}
        there = [key for key in self.outcomes if key in known and key in units]
        return [key for key in there if all(up in self.outcomes for up in units[key].upstream_keys())]

    def make_again(self, key: Key, *, how: str = "as before") -> Report:
        """Let Dask make an outcome again that was lost with its worker; another report of it is on its way.

        Parameters
        ----------
        how
            ``"as before"``, on a worker that knows what had been reported; ``"anew"``, on one that does not;
            ``"in part"``, on one that is so slow that it gives up; ``"refused"`` by one that lacks the code.
        """
        unit = next(unit for unit in self.units if unit.key == key)
        first = next(report for report in self.delivered if report.key == key)
        if how == "refused":
            back = tuple(map(SingleReport.handed_back, unit.nodes)) if unit.indices is None else ()
            self.outcomes[key] = UnitOutcome()
            self.reports.append(Report(key, singles=back, indices=None if unit.indices is None else ()))
            return self.reports[-1]
        if how == "as before":
            unit = unit.again(first.as_before())
        if how == "in part" and unit.indices is not None:
            unit = replace(unit, indices=unit.indices[: max(1, len(unit.indices) // 2)])
        given = {key: self.outcomes[key] for key in unit.upstream_keys()}
        self.outcomes[key], report = run_unit(unit, self.environment, given)
        self.reports.append(report)
        return report

    def lose(self, unit: Unit, *, because_of: Key | None = None) -> None:
        """Let a unit be lost, and all that wait for it.

        If its report arrives before the news of the loss, there was none: Dask makes values again that are held.
        """
        if because_of is None and all(key in self.outcomes for key in unit.upstream_keys()):
            self._ran.add(unit.key)
        self.submitted.pop(unit.key, None)
        self._spare[unit.key] = self.outcomes.pop(unit.key, None)
        self._causes[unit.key] = because_of
        self.lost.append(unit.key)
        for other in list(self.submitted.values()):
            if other.key in self.submitted and unit.key in other.upstream_keys():
                self.lose(other, because_of=unit.key)

    def _find_again(self, key: Key) -> None:
        """What was lost only because of this unit is there again."""
        for unit in self.units:
            if unit.key in self.lost and self._causes[unit.key] == key:
                missing = [up for up in unit.upstream_keys() if up not in self.submitted and up not in self.outcomes]
                if missing:
                    self._causes[unit.key] = missing[0]
                    continue
                self.lost.remove(unit.key)
                self.submitted[unit.key] = unit
                self._find_again(unit.key)

    # What arrives at the driver ---------------------------------------------------------------------------------------

    def deliver(self, report: Report) -> list[Command]:
        """Let a report arrive."""
        self.reports.remove(report)
        self.delivered.append(report)
        report = self.machine.vet(report)
        if self.machine.expects(report.key):
            self.journal.append(replace(report, expansions=()))
        spare = self._spare.pop(report.key, None)
        if report.key in self.lost and spare is not None:
            self.lost.remove(report.key)
            self.outcomes[report.key] = spare
            self._find_again(report.key)
        return self.tell(Reported(self.now, report))

    def deliver_loss(self, key: Key, reason: str = "KilledWorker") -> list[Command]:
        """Let the driver learn of a loss."""
        self.lost.remove(key)
        self._spare.pop(key, None)
        unit = next(unit for unit in self.units if unit.key == key)
        ran_s = 0.0 if unit.is_suspect and key in self._ran else None
        return self.tell(Lost(self.now, key, reason, is_death=True, ran_s=ran_s))

    def go(self, unit: Unit, *, only: int | None = None) -> list[Command]:
        """Run a unit and let its report arrive."""
        return self.deliver(self.run(unit, only=only))

    def unit_of(self, slug: str) -> Unit:
        """The one unit with this node that has been submitted and not run."""
        (unit,) = (unit for unit in self.submitted.values() if slug in unit.nodes)
        return unit

    def lose_value(self, key: Key) -> list[Command]:
        """Lose the outcome of a unit that has been reported, and let the driver know."""
        if key in self.lost or any(report.key == key for report in self.reports):
            return []
        del self.outcomes[key]
        commands = self.tell(Lost(self.now, key, "its value was lost", is_death=True))
        for unit in list(self.submitted.values()):  # of what the driver does not hold, it calls nothing back
            if unit.key in self.submitted and key in unit.upstream_keys():
                self.lose(unit, because_of=key)
        return commands

    def uproot(self) -> list[Command]:
        """Lose everything that is and was there, and let the driver know, who has found another cluster."""
        for everything in (self.submitted, self.outcomes, self._spare, self.held, self.lost, self.reports):
            everything.clear()
        return self.tell(Uprooted(self.now))

    def replace_driver(self) -> list[Command]:
        """Let the driver die, and with it what was on the cluster; another one knows the reports that had arrived."""
        for everything in (self.submitted, self.outcomes, self._spare, self.held, self.lost, self.reports, self.units):
            everything.clear()
        self._begin()
        self.wake_at = None
        return self.tell(Started(self.now, tuple(self.journal)))

    def crash(self, unit: Unit) -> list[Command]:
        """Lose a unit, and let the driver learn of it and of what is lost with it, in that order."""
        self.lose(unit)
        return [command for key in list(self.lost) for command in self.deliver_loss(key)]

    def wake(self) -> list[Command]:
        """Let time pass until the machine wants to be woken."""
        assert self.wake_at is not None, "nothing waits for a time"
        self.now, self.wake_at = max(self.now, self.wake_at), None
        return self.tell(Woke(self.now))

    def cancel(self, reason: str = "asked for") -> list[Command]:
        """Ask for an end."""
        return self.tell(CancelAsked(self.now, reason))

    def change_slots(self, slots: int) -> list[Command]:
        """Let workers come or go."""
        return self.tell(SlotsChanged(self.now, slots))

    def state(self, node: object) -> State:
        """State of a node."""
        return self.machine.runs[node if isinstance(node, str) else node.slug].state  # type: ignore[attr-defined]

    def element_states(self, node: object) -> list[str]:
        """Names of the states of a map's elements."""
        elements = self.machine.runs[node if isinstance(node, str) else node.slug].elements  # type: ignore[attr-defined]
        assert elements is not None
        return [BY_CODE[code].__name__ for code in elements.codes]

    def streamed(self) -> list[StreamedState]:
        """What a stream of the run, which has ended, has not been asked for yet."""
        self._outlet.pour_rest(self.gather(self.held))
        return _read(self.inflow)

    def streamed_late(self) -> list[StreamedState]:
        """What a stream that came late has not been asked for yet."""
        assert self.late is not None
        self._recap.recall_rest(self.gather(self.held))
        return _read(self.late)

    def finish(self) -> None:
        """Go on, first come first served, until nothing is left to do."""
        for _ in range(100_000):
            if self.is_finished:
                return
            if self.lost:
                self.deliver_loss(self.lost[0])
            elif self.reports:
                self.deliver(self.reports[0])
            elif runnable := self.runnable():
                self.run(runnable[0])
            elif self.wake_at is not None:
                self.wake()
            else:
                left = {slug: run.state for slug, run in self.machine.runs.items() if not run.is_final}
                story = "\n".join(self.machine.story)
                raise AssertionError(f"nothing can go on, and the machine has not finished {left}:\n{story}")
        raise AssertionError("the run does not come to an end:\n" + "\n".join(self.machine.story[-60:]))


def _width(value: Any) -> int | str:
    try:
        return width_of(value)
    except UnmappableError as error:
        return str(error)


def _read(inflow: Inflow) -> list[StreamedState]:
    inflow.end(None, RuntimeError("the end"))
    stream, found = Stream(inflow, None, "continue"), list[StreamedState]()
    with pytest.raises(RuntimeError, match="the end"):
        found.extend(stream)
    return found

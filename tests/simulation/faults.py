"""Faults that are put into the library, one at a time, to see that simulated worlds find them.

Each function below says what is wrong, and gives what is put in the place of what. Those at the end had been there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from typing import Any
from unittest.mock import patch

from anabranch.base.errors import RunStoreError
from anabranch.base.states import FIRST_FINAL_CODE, Retrying, State, Success
from anabranch.engine.driver import driver
from anabranch.engine.driver.driver import Driver
from anabranch.engine.driver.plan import RunPlan
from anabranch.engine.machine import fan_out
from anabranch.engine.machine.call_book import CallBook, Waiter
from anabranch.engine.machine.fan_out import FanOut
from anabranch.engine.machine.knowledge import Knowledge, NodeRun
from anabranch.engine.machine.machine import Machine
from anabranch.engine.machine.maps import Chain, MapRun
from anabranch.engine.units.units import Before, Column, Holding, Key, Report, Unit
from anabranch.engine.worker import task_runner
from anabranch.engine.worker.interim import Ongoing
from anabranch.engine.worker.stage import Stage
from anabranch.engine.worker.storage import Errand, Storage
from anabranch.engine.worker.task_runner import TaskRun
from anabranch.flows import subflows
from anabranch.results import claims
from anabranch.runs.record.recorder import Recorder
from anabranch.runs.resume import choice, outdated, recorded, takeover
from anabranch.runs.resume.takeover import Request, Taken
from anabranch.runs.store import relational
from anabranch.runs.store.heart import Heart
from anabranch.runs.store.records import Ownership
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.schema import WISHES

Change = tuple[object, str, Any]
FAULTS: dict[str, Callable[[], list[Change]]] = {}
"""By name: what is put in the place of which attribute."""


def _fault(make: Callable[[], list[Change]]) -> Callable[[], list[Change]]:
    FAULTS[make.__name__.replace("_", "-")] = make
    return make


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Within the block, the library has a fault; None: it has none of these."""
    with ExitStack() as stack:
        for where, attribute, what in FAULTS[name]() if name is not None else ():
            stack.enter_context(patch.object(where, attribute, what))
        yield


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for what is left out."""


def _tell_nothing(self: Ongoing) -> None:
    self.is_over = self.is_over or not self._channel.is_wanted(self.key)


# Attempts and rounds --------------------------------------------------------------------------------------------------


@_fault
def attempts_are_counted_twice() -> list[Change]:
    def note(run: NodeRun, state: Retrying) -> None:
        run.attempt, run.loop = state.attempt + 2, state.result if isinstance(state.result, tuple) else None

    return [(NodeRun, "note_attempt", note)]


@_fault
def attempts_begin_anew() -> list[Change]:
    return [(NodeRun, "note_attempt", _nothing)]


@_fault
def rounds_of_elements_begin_anew() -> list[Change]:
    make = FanOut._chunk

    def chunk(self: FanOut, *args: Any) -> Unit:
        return replace(make(self, *args), loops={})

    return [(FanOut, "_chunk", chunk)]


@_fault
def retries_do_not_wait() -> list[Change]:
    def wait(self: Chain, index: int, number: int, state: Retrying) -> None:
        self.due.append((0.0, index, number))

    return [(Chain, "wait", wait)]


@_fault
def attempts_of_lost_units_are_forgotten() -> list[Change]:
    def take_part(self: Machine, report: Report) -> None:
        take(self, replace(report, singles=tuple(each for each in report.singles if each.state.is_finished())))

    take = Machine._take_part
    return [(Machine, "_take_part", take_part)]


# Losses ---------------------------------------------------------------------------------------------------------------


@_fault
def a_lost_unit_counts_as_done() -> list[Change]:
    def lose(self: Machine, unit: Unit, *args: Any, **options: Any) -> None:
        for run in map(self.runs.__getitem__, unit.nodes):
            if not run.is_final:
                run.is_flying = False
                self._conclude(run, Success(message="done"))

    return [(Machine, "_lose_singles", lose)]


@_fault
def a_lost_value_is_not_missed() -> list[Change]:
    def lose(self: Machine, key: Any, *args: Any, **options: Any) -> None:
        if self.expects(key):
            usual(self, key, *args, **options)

    usual = Machine._lose
    return [(Machine, "_lose", lose)]


@_fault
def half_of_a_lost_chunk_is_forgotten() -> list[Change]:
    usual = FanOut._unfinished

    def unfinished(self: FanOut, *args: Any, **options: Any) -> Any:
        batch = usual(self, *args, **options)
        return replace(batch, indices=batch.indices[: (len(batch.indices) + 1) // 2]) if batch is not None else None

    return [(FanOut, "_unfinished", unfinished)]


@_fault
def what_a_chunk_hands_back_is_forgotten() -> list[Change]:
    return [(Chain, "hand_back", _nothing)]


@_fault
def keys_are_let_go_too_soon() -> list[Change]:
    def unused(self: Knowledge, key: Any) -> list[Any]:
        return [key]

    return [(Knowledge, "unused", unused)]


@_fault
def keys_are_never_let_go() -> list[Change]:
    return [(Machine, "_release", _nothing)]


@_fault
def nothing_is_kept_of_what_was_reported_before() -> list[Change]:
    usual = Report.as_before

    def as_before(self: Report, *, in_full: bool = True) -> Before:
        return usual(self, in_full=False)

    return [(Report, "as_before", as_before)]


@_fault
def a_report_is_taken_for_another_unit() -> list[Change]:
    def arrived(self: Knowledge, key: Any, *args: Any) -> Unit | None:
        unit = usual(self, key, *args)
        return unit if unit is not None else next(iter(self.units.values()), None)

    usual = Knowledge.arrived
    return [(Knowledge, "arrived", arrived)]


# Values ---------------------------------------------------------------------------------------------------------------


@_fault
def elements_are_cut_one_too_far() -> list[Change]:
    def cut(values: Any, indices: Any) -> Any:
        return usual(values, [min(index + (len(indices) > 3), len(values) - 1) for index in indices])

    usual = fan_out.cut
    return [(fan_out, "cut", cut)]


@_fault
def maps_below_are_not_told() -> list[Change]:
    return [(FanOut, "_pass_on", _nothing)]


@_fault
def calls_are_waited_for_one_too_few() -> list[Change]:
    usual = CallBook._count

    def count(self: CallBook, placed: Any, link: Any, unfinished: Any) -> None:
        usual(self, placed, link, lambda slug, low, high: max(0, unfinished(slug, low, high) - 1))

    return [(CallBook, "_count", count)]


# Drivers and the store ------------------------------------------------------------------------------------------------


@_fault
def the_lease_is_not_renewed() -> list[Change]:
    return [(Heart, "beat", lambda self: True)]


@_fault
def stale_owners_may_write() -> list[Change]:
    return [(RelationalRunStore, "_refuse_stale", _nothing)]


@_fault
def every_seventh_report_is_not_recorded() -> list[Change]:
    usual = Recorder.write

    def write(self: Recorder, report: Report) -> None:
        if report.key[1] % 7:
            usual(self, report)

    return [(Recorder, "write", write)]


@_fault
def units_that_go_on_tell_nothing() -> list[Change]:
    return [(Ongoing, "tell", _tell_nothing)]


@_fault
def units_never_ask_whether_they_are_wanted() -> list[Change]:
    return [(Ongoing, "ends", lambda self: False)]


@_fault
def a_resumed_run_numbers_its_keys_from_the_beginning() -> list[Change]:
    return [(Knowledge, "skip_key", _nothing)]


@_fault
def a_resumed_run_does_not_know_retries() -> list[Change]:
    usual = MapRun._take_records

    def take(self: MapRun, records: Any) -> None:
        usual(self, {i: state for i, state in records.items() if state.code >= FIRST_FINAL_CODE})

    return [(MapRun, "_take_records", take)]


# Such as there had been -----------------------------------------------------------------------------------------------


@_fault
def what_dask_makes_again_is_trusted() -> list[Change]:
    """A chunk that was made again gives up after its time, and its elements are taken for all: a sum of too few."""
    usual = Unit.again

    def again(self: Unit, before: Before) -> Unit:
        return replace(usual(self, before), give_up_s=0.1)

    return [
        (Unit, "again", again),
        (Holding, "fits", lambda self, codes: True),
        (Column, "part", lambda self, holding: self),
        (Machine, "_has_changed", lambda self, report: False),
    ]


@_fault
def a_refusal_is_a_value() -> list[Change]:
    """What a worker without our code hands back is taken for the outcome."""
    return [
        (driver, "_holds", lambda outcome, key, run: True),
        (Machine, "_has_changed", lambda self, report: False),
        (Machine, "reopen", lambda self, keys: False),
    ]


@_fault
def a_silent_store_has_no_rows() -> list[Change]:
    return [(recorded, "RunStoreDamaged", RunStoreError)]


@_fault
def values_lost_at_the_end_are_not_made_again() -> list[Change]:
    return [(Machine, "reopen", lambda self, keys: False)]


@_fault
def who_stood_still_goes_on() -> list[Change]:
    return [(Heart, "catch_up", _nothing)]


@_fault
def who_stood_still_before_it_began_begins() -> list[Change]:
    """A driver that stands still between taking a run and its first task submits units beside those of another one."""
    return [(relational, "sleepless_clock", lambda: 0.0)]


@_fault
def inputs_of_lost_units_stay_held() -> list[Change]:
    return [(Machine, "_let_go_inputs", _nothing)]


@_fault
def callers_that_ran_wait_for_their_arguments() -> list[Change]:
    def takes(self: Knowledge, waiter: Waiter, index: int) -> bool:
        return not self.has_ended(waiter, index)

    return [(Knowledge, "takes_calls", takes)]


@_fault
def calls_made_twice_are_counted_twice() -> list[Change]:
    return [(CallBook, "forget", _nothing)]


@_fault
def at_once_means_although_it_is_over() -> list[Change]:
    usual = Stage.run

    def run(self: Stage, *args: Any) -> None:
        self.is_over = task_runner.is_never_over
        usual(self, *args)

    return [(Stage, "run", run)]


@_fault
def the_driver_submits_after_the_end() -> list[Change]:
    return [(Driver, "_why_end", lambda self: "")]


@_fault
def what_was_told_is_handed_back() -> list[Change]:
    return [(FanOut, "_hand_back", lambda self, chain, batch, last_s: chain.hand_back(batch, last_s))]


@_fault
def maps_without_rows_are_not_known_to_have_ended() -> list[Change]:
    def reach(self: Machine, run: NodeRun, *args: Any) -> None:
        if run.node.is_map and run.elements is None and self._known.may_start(run):
            self._fan_out.expand(run)

    return [(Machine, "_reach", reach)]


@_fault
def what_had_ended_may_be_left_out() -> list[Change]:
    usual = FanOut.stop_early

    def stop_early(self: FanOut, run: NodeRun, *, is_enough: bool) -> list[Key]:
        if run.elements is not None:
            run.elements.were_lost.clear()
        return usual(self, run, is_enough=is_enough)

    return [(FanOut, "stop_early", stop_early)]


@_fault
def what_is_made_again_is_cancelled_with_the_run() -> list[Change]:
    """It had ended, and was on record."""
    usual = Machine._end

    def end(self: Machine, state: State) -> None:
        for run in self.runs.values():
            run.had_ended = None
            if run.elements is not None:
                run.elements.were_lost.clear()
        usual(self, state)

    return [(Machine, "_end", end)]


@_fault
def interrupted_runs_do_not_ask_what_has_ended() -> list[Change]:
    """What a chunk has done is thrown away where a run is cancelled."""
    return [(Driver, "_hear_untold", _nothing), (Ongoing, "tell", _tell_nothing)]


@_fault
def a_resumed_run_does_not_know_deferred_calls() -> list[Change]:
    return [(choice, "_keep_calls", _nothing), (recorded, "calls_of", lambda *args: [])]


@_fault
def what_had_made_calls_may_begin_anew() -> list[Change]:
    """Rounds and attempts of a task that had not ended are not on record."""
    return [(recorded, "_interrupted", _nothing)]


@_fault
def what_is_based_on_a_failure_holds_once_that_is_mended() -> list[Change]:
    """Unless nobody dies before all of it has run again."""
    return [(outdated, "outdated", _nothing)]


@_fault
def maps_whose_list_is_made_again_begin_anew() -> list[Change]:
    usual = takeover.go_on

    def go_on(taken: Taken, plan: RunPlan, request: Request) -> tuple[RunPlan, Recorder]:
        plan, recorder = usual(taken, plan, request)
        return replace(plan, widths={}), recorder

    return [(takeover, "go_on", go_on)]


@_fault
def flows_of_tasks_begin_anew() -> list[Change]:
    """A flow that a task runs has an id of its own each time."""
    numbers = count()
    return [(subflows, "id_of", lambda task, given: f"anew-{next(numbers)}")]


@_fault
def elements_that_are_put_together_have_one_key() -> list[Change]:
    """Elements of a map with a cache that had made calls: all got the value of the first."""

    def look_ahead(self: Stage, positions: range) -> None:
        if self.stored is not None:
            self.stored.look_ahead((position, self._run_at(position)) for position in positions)

    return [(Stage, "look_ahead", look_ahead)]


@_fault
def what_waits_for_a_value_does_not_ask_whether_it_is_over() -> list[Change]:
    async def pause(run: TaskRun, seconds: float) -> None:
        run.environment.sleep(seconds)

    return [(task_runner, "_pause", pause)]


# Stored values, and wishes that a run end -----------------------------------------------------------------------------


@_fault
def what_is_stored_is_not_looked_for() -> list[Change]:
    return [(Errand, "_judged", _nothing)]


@_fault
def all_elements_have_the_target_of_the_first() -> list[Change]:
    usual = Storage.errand

    def errand(self: Storage, inputs: Any, index: int | None) -> Errand:
        return usual(self, inputs, index and 0)

    return [(Storage, "errand", errand)]


@_fault
def keys_of_caches_leave_out_an_argument() -> list[Change]:
    usual = Storage.errand

    def errand(self: Storage, inputs: Any, index: int | None) -> Errand:
        return usual(self, dict(list(inputs.items())[:1]), index)

    return [(Storage, "errand", errand)]


@_fault
def claims_of_the_dead_hold_for_ever() -> list[Change]:
    return [(claims, "LEASE_S", float("inf")), (claims, "_is_gone", lambda holder: False)]


@_fault
def wishes_are_not_heard() -> list[Change]:
    return [(Heart, "look", _nothing)]


@_fault
def a_wish_holds_for_whoever_comes_next() -> list[Change]:
    def find_wish(self: RelationalRunStore, ownership: Ownership) -> str:
        rows = self._fetch(WISHES.select("run_id = ?"), (ownership.run_id,))
        return str(rows[0][-1]) if rows else ""

    return [(RelationalRunStore, "find_wish", find_wish)]

"""What holds of a machine after each step, whatever happens: what it knows fits together."""

from __future__ import annotations

from collections import Counter

from anabranch.base.states import Deferred, Success
from anabranch.engine.machine.call_book import Waiter
from anabranch.engine.machine.fan_out import FanOut
from anabranch.engine.machine.knowledge import Knowledge
from anabranch.engine.machine.machine import Machine


def check(machine: Machine) -> None:
    """Raise `AssertionError`, with the story, if what a machine knows does not fit together."""
    known = machine._known
    try:
        unfinished = sum(not run.is_final for run in known.runs.values())
        assert machine._unfinished == unfinished, "the count of the unfinished is off"
        _check_takers(machine)
        _check_flying(known)
        _check_elements(known)
        _check_chains(known, machine._fan_out)
        if known.calls:
            _check_calls(known)
    except AssertionError as error:
        raise AssertionError(f"{error}\nstory:\n" + "\n".join(machine.story[-60:])) from None


def _check_takers(machine: Machine) -> None:
    """The outcome of a node is kept for as long as somebody has not ended who may take it."""
    takers = Counter(up for run in machine._known.runs.values() if not run.is_final for up in run.upstreams)
    for slug, count in machine._consumers_left.items():
        assert count == takers[slug], f"{slug}: {takers[slug]} nodes that take it have not ended, {count} counted"


def _check_flying(known: Knowledge) -> None:
    flying = {slug for unit in known.units.values() if unit.indices is None for slug in unit.nodes}
    for slug, run in known.runs.items():
        is_away = slug in flying and not run.is_final
        assert run.is_flying == is_away, f"{slug}: flying, and in no unit (or the other way round)"
        assert not (run.is_flying and run.is_final), f"{slug}: final and flying"


def _check_elements(known: Knowledge) -> None:
    for slug, run in known.runs.items():
        if run.elements is not None:
            final = sum(code >= Success.code for code in run.elements.codes)
            assert final == run.elements.done, f"{slug}: {final} elements final, {run.elements.done} counted"


def _check_chains(known: Knowledge, fan_out: FanOut) -> None:
    for chain in fan_out.chains:
        seen: set[tuple[int, int]] = {(number, index) for _, index, number in chain.due}
        assert len(seen) == len(chain.due), f"{chain.slugs}: an element waits twice"
        for batch in (*chain.ready, *chain.in_flight.values()):
            places = {(batch.first, index) for index in batch.indices}
            assert not seen & places, f"{chain.slugs}: an element is in two places"
            seen |= places
        assert all(key in known.units for key in chain.in_flight), f"{chain.slugs}: a chunk in flight is unknown"


def _check_calls(known: Knowledge) -> None:
    """What waits for deferred calls waits for those that have not ended, and for no others."""
    calls = known.calls

    def waiting() -> dict[tuple[Waiter, int], int]:
        return {each: n for each, n in calls.missing().items() if not known.has_ended(*each)}

    def codes_of(slug: str) -> bytearray:
        elements = known.runs[slug].elements
        assert elements is not None
        return elements.codes

    counted = waiting()
    calls.recount(codes_of)
    assert counted == waiting(), f"the counts of missing calls are off: {counted}, and should be {waiting()}"
    for slug in calls.caller_of:
        run = known.runs[slug]
        assert run.elements is not None
        assert not run.is_final or run.elements.is_final, f"{slug}: final, with elements that are not"
    for slug, run in known.runs.items():
        if run.elements is None and isinstance(run.state, Deferred):
            assert calls.has_called(slug, -1), f"{slug}: waits for calls that nobody knows"
            assert calls.is_waiting(Waiter(slug, True), -1), f"{slug}: waits, and nothing is missing"

"""What has to run again when outcomes are gone: what is still needed, and cannot be had from anywhere else.

Outcomes live on workers. When a cluster is lost, or a value was lost and could not be made again, the states of what
has finished stay what they are; only values that something unfinished takes, or that the caller wants, are made again.
"""

from __future__ import annotations

from collections.abc import Container

from anabranch.base.states import BY_CODE, Deferred, Pending, Running
from anabranch.engine.machine.knowledge import Knowledge, NodeRun
from anabranch.engine.machine.maps import MapRun
from anabranch.engine.units.units import Key, Unit


class _All:
    """Contains every key."""

    def __contains__(self, key: object) -> bool:
        return True


ALL: Container[Key] = _All()


def called_back(known: Knowledge, gone: Container[Key]) -> list[Unit]:
    """Units on their way that must be called back when the outcomes under these keys are gone.

    Another may go on if nothing that it needs is made again: what it takes is there, or is made by such a unit. Of maps
    that is so where they take all that comes before them, and run apart from other maps: chains are built anew.
    """
    if known.calls:
        return list(known.units.values())
    there = {key for key in known.held() if key not in gone}
    back = []
    for unit in known.units.values():  # in the order in which they were sent: none takes anything of a later one
        if unit.key not in gone and there.issuperset(unit.upstream_keys()) and _is_apart(known, unit):
            there.add(unit.key)
        else:
            back.append(unit)
    return back


def _is_apart(known: Knowledge, unit: Unit) -> bool:
    """Whether a chunk is of one map that has not ended, which takes all that comes before it; or there are none."""
    if unit.indices is None:
        return True
    run = known.runs[unit.nodes[0]]
    return len(unit.nodes) == 1 and not run.is_final and all(edge.kind == "data" for edge in run.node.edges)


class _Gone:
    """Contains the keys of another container, and those that were released."""

    def __init__(self, known: Knowledge, gone: Container[Key]) -> None:
        self._held = frozenset((*known.held(), *known.units))
        self._gone = gone

    def __contains__(self, key: object) -> bool:
        return key in self._gone or key not in self._held


def reopen(known: Knowledge, gone: Container[Key]) -> list[NodeRun]:
    """Forget the outcomes under the keys that are gone; the nodes that had ended and must run again.

    What needs them may not be on its way. Elements of maps that must run again are not final any more. What was
    released, because nobody seemed to need it any more, is gone too.
    """
    gone = _Gone(known, gone)
    reopened = []
    for slug in reversed(tuple(known.graph.nodes)):  # from the end: what runs again needs its inputs again
        if slug in known.calls.caller_of:
            continue
        run = known.runs[slug]
        was_final = run.is_final
        if run.elements is not None:
            _reopen_elements(known, run, run.elements, gone)
        elif (run.key is None or run.key in gone) and not run.node.is_map and run.node.kind != "parameter":
            if run.key is not None:
                known.lose(run.key)
                run.key = None
            # A list some of whose elements failed has counts: it is Failed, and there is a list all the same.
            has_value = run.state.counts is not None or (run.state.is_successful() and not run.state.is_skipped())
            is_gone = run.value is None and run.ref is None
            if was_final and has_value and is_gone and _is_wanted(known, run):
                run.state, run.had_ended, known.has_lost = Pending(message="its value was lost"), run.state, True
        if was_final and not run.is_final:
            reopened.append(run)
    reopened.reverse()
    return reopened + _reopen_calls(known, gone)


def _reopen_calls(known: Knowledge, gone: Container[Key]) -> list[NodeRun]:
    """Let deferred calls run again whose values are gone, and are taken by something that has not ended.

    A call may take what another gives, in any order of their tasks: so it is asked until nothing changes.
    """
    lost: dict[str, list[int]] = {}
    was_final = {slug for slug in known.calls.caller_of if known.runs[slug].is_final}
    for slug in known.calls.caller_of:
        elements = known.runs[slug].elements
        assert elements is not None
        found = elements.lose(key for key in tuple(elements.keys) if key in gone)
        for key in found.keys:
            known.lose(key)
        if found.indices:
            lost[slug] = found.indices
    has_changed = True
    while has_changed:
        has_changed = False
        for slug in list(lost):
            run = known.runs[slug]
            assert run.elements is not None
            wanted = known.calls.wanted(slug, known.takes_calls)
            again = [index for index in lost[slug] if index in wanted]
            if again:
                has_changed = True
                lost[slug] = [index for index in lost[slug] if index not in wanted]
                _run_again(known, run, run.elements, again)
    return [known.runs[slug] for slug in was_final if not known.runs[slug].is_final]


def _run_again(known: Knowledge, run: NodeRun, elements: MapRun, indices: list[int]) -> None:
    """Let elements run again; the values of those that have made calls are put together again."""
    elements.reopen(indices)
    for index in indices:
        if known.calls.has_called(run.node.slug, index):
            elements.codes[index] = Deferred.code
    if run.is_final:
        run.had_ended = run.state
    run.state = Running(message=f"{len(indices):,} elements were lost with their values")
    known.has_lost = True


def _reopen_elements(known: Knowledge, run: NodeRun, elements: MapRun, gone: Container[Key]) -> None:
    lost = elements.lose(key for key in tuple(elements.keys) if key in gone)
    for key in lost.keys:
        known.lose(key)
    if not lost.indices:
        return
    is_wanted = _is_wanted(known, run, whole=True)
    takers, others, has_later = _followers(known, run)
    again = []
    for index in lost.indices:
        if is_wanted or any(known.takes_inputs(taker, index) for taker in takers):
            again.append(index)
        elif has_later or any(known.takes_inputs(other, index) for other in others):  # these look at the state only
            elements.settled[index] = BY_CODE[elements.codes[index]](map_index=index)
    if again:
        _run_again(known, run, elements, again)


def _followers(known: Knowledge, run: NodeRun) -> tuple[list[str], list[str], bool]:
    """Maps below that have not ended: those that take a map's values, those that only follow it.

    And whether there are some that follow it and have no elements yet.
    """
    takers: list[str] = []
    others: list[str] = []
    has_later = False
    for other in map(known.runs.__getitem__, known.graph.downstream[run.node.slug]):
        if other.is_final:
            continue
        if other.elements is None:
            has_later |= any(edge.mapped and edge.upstream == run.node.slug for edge in other.node.edges)
            continue
        mapped = [edge.kind for edge in other.node.edges if edge.mapped and edge.upstream == run.node.slug]
        if mapped:
            (takers if "data" in mapped else others).append(other.node.slug)
    return takers, others, has_later


def _is_wanted(known: Knowledge, run: NodeRun, *, whole: bool = False) -> bool:
    """Whether somebody will ask for a node's value; `whole`: for all of a map's at once."""
    slug = run.node.slug
    if slug in known.keep:
        return True
    for down in known.graph.downstream[slug]:
        other = known.runs[down]
        if not other.is_final and slug in other.borrowed:
            return True
        if other.is_final or (other.elements is None and not known.takes_inputs(down, -1)):
            continue
        for edge in other.node.edges:
            is_taken = edge.upstream == slug and edge.kind == "data"
            if is_taken and not (whole and edge.mapped and other.elements is not None):
                return True
    return False

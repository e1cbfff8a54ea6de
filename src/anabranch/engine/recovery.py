"""What has to run again when outcomes are gone: what is still needed, and cannot be had from anywhere else.

Outcomes live on workers. When a cluster is lost, or a value was lost and could not be made again, the states of what
has finished stay what they are; only values that something unfinished takes, or that the caller wants, are made again.
"""

from __future__ import annotations

from collections.abc import Container

from anabranch.engine.knowledge import Knowledge, NodeRun
from anabranch.engine.maps import MapRun
from anabranch.engine.units import Key
from anabranch.states import BY_CODE, FIRST_FINAL_CODE, Pending, Running


class _All:
    """Contains every key."""

    def __contains__(self, key: object) -> bool:
        return True


ALL: Container[Key] = _All()


def reopen(known: Knowledge, gone: Container[Key]) -> list[NodeRun]:
    """Forget the outcomes under the keys that are gone; the nodes that had ended and must run again.

    Nothing may be on its way. Elements of maps that must run again are not final any more.
    """
    reopened = []
    for slug in reversed(tuple(known.graph.nodes)):  # from the end: what runs again needs its inputs again
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
                run.state = Pending(message="its value was lost")
        if was_final and not run.is_final:
            reopened.append(run)
    reopened.reverse()
    return reopened


def _reopen_elements(known: Knowledge, run: NodeRun, elements: MapRun, gone: Container[Key]) -> None:
    lost = elements.lose(key for key in tuple(elements.keys) if key in gone)
    for key in lost.keys:
        known.lose(key)
    if not lost.indices:
        return
    is_wanted = _is_wanted(known, run, whole=True)
    takers, others = _followers(known, run)
    again = []
    for index in lost.indices:
        if is_wanted or any(codes[index] < FIRST_FINAL_CODE for codes in takers):
            again.append(index)
        elif any(codes[index] < FIRST_FINAL_CODE for codes in others):  # these look at the state only
            elements.settled[index] = BY_CODE[elements.codes[index]](map_index=index)
    if again:
        elements.reopen(again)
        run.state = Running(message=f"{len(again):,} elements were lost with their values")


def _followers(known: Knowledge, run: NodeRun) -> tuple[list[bytearray], list[bytearray]]:
    """Codes of maps below that have not ended: of those that take a map's values, and of those that only follow it."""
    takers: list[bytearray] = []
    others: list[bytearray] = []
    for other in map(known.runs.__getitem__, known.graph.downstream[run.node.slug]):
        if other.elements is None or other.is_final:
            continue
        mapped = [edge.kind for edge in other.node.edges if edge.mapped and edge.upstream == run.node.slug]
        if mapped:
            (takers if "data" in mapped else others).append(other.elements.codes)
    return takers, others


def _is_wanted(known: Knowledge, run: NodeRun, *, whole: bool = False) -> bool:
    """Whether somebody will ask for a node's value; `whole`: for all of a map's at once."""
    slug = run.node.slug
    if slug in known.keep:
        return True
    for down in known.graph.downstream[slug]:
        other = known.runs[down]
        if other.is_final:
            continue
        for edge in other.node.edges:
            is_taken = edge.upstream == slug and edge.kind == "data"
            if is_taken and not (whole and edge.mapped and other.elements is not None):
                return True
    return False

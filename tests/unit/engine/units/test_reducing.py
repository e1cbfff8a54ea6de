"""Reductions are of each element once, in order, wherever its value is."""

from __future__ import annotations

import pickle
from itertools import chain, pairwise

from hypothesis import given
from hypothesis import strategies as st

from anabranch import Flow, config, task
from anabranch.base.context import RunInfo
from anabranch.base.states import Counts, Mapped, Success
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.reducing import gathered_partials
from anabranch.engine.units.units import Column, Holding, Key, Partial, Pieces, Program

WIDTH = 6
DONE = bytes([Success.code])


@st.composite
def pieces(draw: st.DrawFn) -> tuple[Pieces, dict[Key, UnitOutcome]]:
    """Elements of a map, some of them in several places; the value of each is a list of its index."""
    bounds = sorted({0, WIDTH, *draw(st.lists(st.integers(0, WIDTH), max_size=3))})
    chunks = [range(low, high) for low, high in pairwise(bounds)]
    lost = draw(st.sets(st.sampled_from(chunks)))
    outcomes: dict[Key, UnitOutcome] = {}
    holdings, given = [], []
    for number, indices in enumerate(chunks):
        values, codes = [[index] for index in indices], DONE * len(indices)
        if indices in lost:
            given.append((indices, pickle.dumps(values)))
            continue
        outcomes["each", number] = (
            UnitOutcome(partials={"total": Partial(indices, codes, list(indices))})
            if draw(st.booleans())
            else UnitOutcome(columns={"each": Column(indices, codes, values, {})})
        )
        holdings.append(Holding(("each", number), indices))
    for low in draw(st.lists(st.integers(0, WIDTH - 1), max_size=3)):
        again = range(low, draw(st.integers(low + 1, WIDTH)))
        given.append((again, pickle.dumps([[index] for index in again])))
    counts = Counts(WIDTH, WIDTH)
    return Pieces(tuple(holdings), Mapped(counts=counts), given=tuple(given)), outcomes


@given(pieces())
def test_each_element_counts_once_and_in_order(drawn: tuple[Pieces, dict[Key, UnitOutcome]]):
    source, outcomes = drawn
    with Flow("reduced") as flow:
        each = task(lambda x: [x], name="each").map(range(WIDTH))
        task(lambda lists: list(chain(*lists)), name="total", reduce=True)(each)
    nodes = flow.graph.freeze().nodes
    program = Program(RunInfo("reduced", "reduced"), dict(nodes), {}, config.snapshot()["engine"])

    results = gathered_partials(nodes["total"], "each", source, program, outcomes)

    assert list(chain(*results)) == list(range(WIDTH))

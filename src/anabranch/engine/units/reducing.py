"""Reductions: an associative function of a map's values is applied to each chunk where it is made, then to the results.

Memory is constant over any width, because a chunk's values do not outlive its Dask task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from anabranch.base import context
from anabranch.base.context import TaskContext
from anabranch.base.states import FIRST_FINAL_CODE
from anabranch.definition.expressions import evaluate
from anabranch.definition.frozen import FrozenNode, reduced_argument
from anabranch.engine.units.columns import check_whole, found, held_columns, stored_columns, without_value
from anabranch.engine.units.copies import copied
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import Column, Key, Pieces, Program


def reduced(node: FrozenNode, values: list[Any], program: Program) -> Any:
    """The function applied to some of the values, in order; to copies, as in a task run."""
    argument = reduced_argument(node)
    assert argument is not None
    own = partial(copied, limit=program.settings["inline_nbytes"])
    bound = {
        name: own(values) if name == argument[0] else evaluate(expression, program.values, own)
        for name, expression in node.arguments.items()
    }
    args, kwargs = node.signature.split(bound)
    with context.entered(TaskContext(program.run, node.name, node.slug, node.policies.tags, is_share=True)):
        return node.signature.function(*args, **kwargs)


def gathered_partials(
    node: FrozenNode,
    slug: str,
    source: Pieces,
    program: Program,
    outcomes: Mapping[Key, UnitOutcome],
) -> list[Any]:
    """What the chunks of a map were reduced to, in the order of their elements.

    Chunks that could not be reduced where they were made (an element was to be retried) are reduced here.
    """
    counts = source.state.counts
    assert counts is not None, f"{slug} is not taken as a whole"
    there = bytearray(counts.total)
    pieces: list[tuple[int, int, Any]] = []
    apart = []
    for holding in source.holdings:
        made = outcomes[holding.key].partials.get(node.slug)
        if made is not None and made.is_all_of(holding):
            start, stop = made.indices.start, made.indices.stop
            there[start:stop] = bytes([1]) * (stop - start)
            pieces.append((start, stop, made.value))
        else:
            apart.append(holding)
    stored = stored_columns(program.nodes[slug], source.stored)
    columns = chain(found(slug, replace(source, holdings=()), outcomes, stored), held_columns(slug, apart, outcomes))
    settled = ((index, without_value(state).value) for index, state in source.settled.items())
    for index, value in chain(settled, *map(_elements, columns)):
        if not there[index]:  # a value may be in several places: it came with a report, and is stored, say
            there[index] = 1
            pieces.append((index, -1, value))
    check_whole(slug, there)
    pieces.sort(key=lambda piece: piece[0])
    results: list[Any] = []
    run: list[Any] = []
    for _, stop, value in pieces:
        if stop < 0:
            run.append(value)
            continue
        if run:
            results.append(reduced(node, run, program))
            run = []
        results.append(value)
    if run:
        results.append(reduced(node, run, program))
    return results


def _elements(column: Column) -> Iterator[tuple[int, Any]]:
    """Final elements of a column, with their values."""
    for index, code, value in zip(column.indices, column.codes, column.values, strict=True):
        if code >= FIRST_FINAL_CODE:
            yield index, value

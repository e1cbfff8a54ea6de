"""Indices of elements: ranges where they can be, tuples where not; joined, cut, and taken out of what has elements."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

Indices: TypeAlias = range | tuple[int, ...]
Numbers: TypeAlias = "range | array[int]"

MAX_STRETCHES = 1_000  # batches of a map: each is a Dask task at least


def union(spans: Iterable[tuple[int, int]]) -> Indices:
    """The numbers that are in any of some spans (start, stop), in order.

    Examples
    --------
    >>> union([(3, 5), (0, 3)])
    range(0, 5)
    >>> union([(0, 1), (3, 5)])
    (0, 3, 4)
    """
    merged: list[range] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(stop, merged[-1].stop))
        else:
            merged.append(range(start, stop))
    if len(merged) == 1:
        return merged[0]
    return tuple(number for each in merged for number in each)


def as_range(indices: Iterable[int]) -> Indices:
    """Indices in order, as a range if they have no gap."""
    given = tuple(indices)
    if given and given[-1] - given[0] + 1 == len(given):
        return range(given[0], given[-1] + 1)
    return given


def compact(numbers: Sequence[int]) -> Numbers:
    """Numbers in order, as a range where that is all there is to say.

    Examples
    --------
    >>> compact([3, 5, 7])
    range(3, 9, 2)
    >>> compact([0, 1, 5])
    array('q', [0, 1, 5])
    """
    if not numbers:
        return range(0)
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if step > 0:
        candidate = range(numbers[0], numbers[0] + step * len(numbers), step)
        if candidate[-1] == numbers[-1] and all(a == b for a, b in zip(numbers, candidate, strict=True)):
            return candidate
    return array("q", numbers)


def stretches(indices: Iterable[int]) -> list[Indices]:
    """Indices in order as ranges without gaps, where these are long; what lies scattered, together.

    >>> stretches([0, 1, 2, 5, 6, 7, 8])
    [range(0, 3), range(5, 9)]
    """
    runs = runs_of(indices)
    if len(runs) <= MAX_STRETCHES:
        return list(runs)
    return [tuple(index for stretch in runs for index in stretch)]


def runs_of(indices: Iterable[int]) -> list[range]:
    """Indices in order as ranges without gaps."""
    runs: list[range] = []
    for index in indices:
        if runs and runs[-1].stop == index:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


def cut(values: Sequence[Any], indices: Indices) -> Sequence[Any]:
    """The elements at some indices of a sequence; a slice where that is one.

    Examples
    --------
    >>> cut(range(10), range(2, 5))
    range(2, 5)
    >>> cut("abcd", (0, 3))
    ['a', 'd']
    """
    if isinstance(indices, range) and isinstance(values, (list, tuple, range)):
        return values[indices.start : indices.stop]
    return [values[index] for index in indices]

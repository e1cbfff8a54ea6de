"""Elements of a map in one body: serialised in groups, with a table of where each group begins.

Small elements share a group, as serialising each by itself would take longer than the work; a large one has its own,
so that a few can be read without making the others.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any

from anabranch.base.errors import UnstorableValueError
from anabranch.results.serializers import Serializer

GROUP_NBYTES = 1 << 16  # a pickle of that size loads in less than a millisecond
_SAMPLE = 8  # elements serialised by themselves to learn their size
_START = struct.Struct("<QQ")  # number of groups, number of runs


def pack_elements(indices: Sequence[int], values: Sequence[Any], serializer: Serializer) -> bytes:
    """Elements as one body. The table has: runs of indices, first position of each group, and where each one begins.

    Raises
    ------
    ValueError
        Indices are negative, given twice, or not as many as the values.
    UnstorableValueError
        The serializer cannot take an element; the message names the index.
    """
    if len(indices) != len(values) or len(set(indices)) != len(indices):
        raise ValueError(f"expected as many different indices as values, found {len(indices)} and {len(values)}")
    size = _group_size(values, serializer)
    firsts = array("Q", range(0, len(values), size))
    groups = [_dumped(indices, values, first, size, serializer) for first in firsts]
    begins = array("Q", [0])
    for group in groups:
        begins.append(begins[-1] + len(group))
    runs = array("Q", [end for run in _find_ranges(indices) for end in run])
    table = [_little(each) for each in (runs, firsts, begins)]
    return b"".join([_START.pack(len(groups), len(runs) // 2), *table, *groups])


def unpack_elements(
    body: memoryview, serializer: Serializer, wanted: Collection[int] | None = None, *, width: int
) -> dict[int, Any]:
    """Elements of a body by index: all, or those wanted; groups that hold none of them are not loaded.

    Raises
    ------
    KeyError
        An index that is wanted is not there.
    ValueError
        The table is not that of a body with so many elements.
    """
    n_groups, n_runs = _START.unpack_from(body)
    numbers = array("Q")
    numbers.frombytes(body[_START.size : _START.size + 8 * (2 * n_runs + 2 * n_groups + 1)])
    if sys.byteorder == "big":
        numbers.byteswap()
    ends, firsts, begins = numbers[: 2 * n_runs], numbers[2 * n_runs : -n_groups - 1], numbers[-n_groups - 1 :]
    groups = body[_START.size + 8 * len(numbers) :]
    if sum(ends[1::2]) - sum(ends[::2]) != width:  # before memory is taken for what it says
        raise ValueError(f"the table is not that of {width:,} elements")
    indices = list(chain.from_iterable(map(range, ends[::2], ends[1::2])))
    firsts.append(len(indices))

    def load(group: int) -> Iterator[tuple[int, Any]]:
        loaded = serializer.loads(groups[begins[group] : begins[group + 1]])
        values = loaded if serializer.takes_lists else [loaded]
        return zip(indices[firsts[group] : firsts[group + 1]], values, strict=True)

    if wanted is None:
        return {index: value for group in range(n_groups) for index, value in load(group)}
    asked = frozenset(wanted)
    positions = (position for position, index in enumerate(indices) if index in asked)
    chosen = dict.fromkeys(bisect_right(firsts, position) - 1 for position in positions)
    found = {index: value for group in chosen for index, value in load(group)}
    return {index: found[index] for index in wanted}


def _group_size(values: Sequence[Any], serializer: Serializer) -> int:
    """How many elements make a group of about `GROUP_NBYTES`."""
    if not serializer.takes_lists or not values:
        return 1
    sample = values[:: -(-len(values) // _SAMPLE)]
    try:
        nbytes = max(len(serializer.dumps([value])) for value in sample)
    except UnstorableValueError:
        return 1  # the message is to name the element
    return max(1, min(GROUP_NBYTES // nbytes, len(values)))


def _dumped(indices: Sequence[int], values: Sequence[Any], first: int, size: int, serializer: Serializer) -> bytes:
    group = list(values[first : first + size])
    try:
        return serializer.dumps(group if serializer.takes_lists else group[0])
    except UnstorableValueError:
        for index, value in zip(indices[first : first + size], group, strict=True):
            try:
                serializer.dumps(value)
            except UnstorableValueError as error:
                raise UnstorableValueError(f"element {index}: {error}") from error
        raise


def _find_ranges(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Indices as ranges in their order: first, and one past the last."""
    if isinstance(indices, range) and indices.step == 1 and indices:
        return [(indices.start, indices.stop)]
    runs: list[tuple[int, int]] = []
    start = stop = -1
    for index in indices:
        if index != stop:
            if start >= 0:
                runs.append((start, stop))
            start = index
        stop = index + 1
    return [*runs, (start, stop)] if start >= 0 else runs


def _little(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()

"""Taking some elements out of anything that has elements in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anabranch.engine.units import Indices


def cut(values: Any, indices: Indices) -> Sequence[Any]:
    """The elements at some indices of a list, range, array or Series; a slice where that is one.

    Examples
    --------
    >>> cut(range(10), range(2, 5))
    range(2, 5)
    >>> cut("abcd", (0, 3))
    ['a', 'd']
    """
    if isinstance(indices, range) and isinstance(values, (list, tuple, range)):
        return values[indices.start : indices.stop]
    if hasattr(values, "iloc"):  # a pandas Series: [] looks up labels
        values = values.iloc
    return [values[index] for index in indices]

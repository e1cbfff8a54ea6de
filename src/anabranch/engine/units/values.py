"""What a value must be able to do: leave the process it was made in, and be read more than once."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from types import CodeType
from typing import Any

from anabranch.base import origins
from anabranch.base.errors import UnmappableError, UnstorableValueError
from anabranch.base.texts import headline_of
from anabranch.definition.dask_objects import holds_dask, resolved

ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})
"""Types whose values are immutable, hold nothing else, and always pickle."""

SMALL_NBYTES = 65_536
CHECK_NBYTES = 1 << 20  # loading a larger pickle again only to see that it loads would cost as much as the work


def dumps(value: Any) -> bytes:
    """Pickle as Dask would: pickle, and cloudpickle for what only that can do."""
    return pickled(value)[0]


def pickled(value: Any) -> tuple[bytes, list[CodeType]]:
    """The same, with the code that is in the pickle."""
    try:
        data = pickle.dumps(value, protocol=5)
        if b"__main__" not in data:
            return data, []
    except Exception:
        pass
    return origins.pickled(value)


def measured(value: Any) -> tuple[Any, bytes | None, int]:
    """A value that can travel, its pickle if that is a whole one, and its size in bytes.

    Raises
    ------
    UnstorableValueError
        The value does not pickle, or does not load again.
    """
    if type(value) in ATOMS:
        data = pickle.dumps(value, protocol=5)
        return value, data, len(data)
    buffers: list[pickle.PickleBuffer] = []
    try:
        if isinstance(value, io.IOBase) and not isinstance(value, (io.BytesIO, io.StringIO)):
            raise TypeError("an open file belongs to its process")  # cloudpickle would silently copy what is in it
        data = dumps_with_buffers(value, buffers)
        nbytes = len(data) + sum(buffer.raw().nbytes for buffer in buffers)
        if len(data) <= CHECK_NBYTES and not (_is_by_value(data) and _is_at_home(type(value))):
            pickle.loads(data, buffers=buffers)
        if buffers and nbytes <= SMALL_NBYTES:  # small enough to travel in one piece
            data, buffers = dumps(value), []
    except BaseException as error:  # pickling runs the user's code, which may raise anything
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        raise UnstorableValueError(
            f"a result of type {name} cannot leave the process it was made in: {headline_of(error)}"
        ) from None
    return value, None if buffers else data, nbytes


def _is_by_value(data: bytes) -> bool:
    """Whether a pickle holds classes by value: loading it where they are at home would overwrite them."""
    return b"_make_skeleton_" in data


def _is_at_home(cls: type) -> bool:
    """Whether a class may have been made in this process; if not, it has travelled here, and is a copy itself."""
    found: Any = sys.modules.get(cls.__module__)
    if found is not None and "<locals>" in cls.__qualname__:
        return True  # nobody can tell
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls


def dumps_with_buffers(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    """As `dumps`, with large buffers (arrays) beside the pickle and not in it."""
    try:
        data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        if b"__main__" not in data:
            return data
    except Exception:
        pass
    buffers.clear()
    return origins.pickled(value, buffers.append)[0]


def materialised(value: Any, limit: int, *, is_lazy: bool = False) -> Any:
    """A list in place of an iterator, which could be read only once, and values in place of Dask's objects.

    Parameters
    ----------
    limit
        Elements that an iterator may give.
    is_lazy
        Whether Dask's objects stay.

    Raises
    ------
    UnmappableError
        The iterator gave more than `limit` elements.
    """
    if not isinstance(value, Iterator) or hasattr(value, "read"):
        return value if is_lazy or not holds_dask(value) else resolved(value)
    elements: list[Any] = []
    for element in value:
        _append(elements, element, limit)
    return elements if is_lazy or not holds_dask(elements) else resolved(elements)


async def collected(source: AsyncGenerator[Any, None], limit: int) -> list[Any]:
    """A list of what an async generator gives.

    Raises
    ------
    UnmappableError
        That was more than `limit` elements.
    """
    elements: list[Any] = []
    async with aclosing(source):
        async for element in source:
            _append(elements, element, limit)
    return elements


def _append(elements: list[Any], element: Any, limit: int) -> None:
    if len(elements) >= limit:
        raise UnmappableError(f"the returned iterator yielded more than {limit:,} elements (engine.max_width)")
    elements.append(element)

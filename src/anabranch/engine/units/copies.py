"""Copies of what tasks are given: none should see what another one, or an earlier attempt, has done to an input."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from functools import partial
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from anabranch.engine.units.values import ATOMS

_PATHS = {PosixPath, PurePosixPath, PureWindowsPath, WindowsPath}
_CODE = {BuiltinFunctionType, FunctionType, ModuleType, type}
_IMMUTABLE = ATOMS | _PATHS | _CODE | {range, date, datetime, time, timedelta, timezone}
_USUAL: dict[str, Any] = {"__reduce_ex__": object.__reduce_ex__, "__getnewargs__": vars(tuple)["__getnewargs__"]}
_COLLECTIONS = frozenset({list, tuple, dict, set, frozenset})


def copied(value: Any, limit: int | None = None) -> Any:
    """A copy of a value that a task could change; itself if it is immutable, larger than `limit`, or not to be copied.

    Parameters
    ----------
    limit
        Bytes of the value's pickle; None: any number.
    """
    make = None if type(value) in ATOMS else copier(value, limit)
    return value if make is None else make()


def copier(value: Any, limit: int | None = None) -> Callable[[], Any] | None:
    """What makes copies of a value, as long as nobody changes it; None where `copied` gives it back."""
    kind = type(value)
    if is_immutable(value):
        return None
    if kind in _COLLECTIONS:
        if limit is not None and len(value) > limit:  # no element takes less than a byte
            return None
        if kind is list or kind is set:
            is_flat = _IMMUTABLE.issuperset(map(type, value))
        else:
            is_flat = (
                kind is dict
                and _IMMUTABLE.issuperset(map(type, value))
                and _IMMUTABLE.issuperset(map(type, value.values()))
            )
        if is_flat:
            copy: Callable[[], Any] = value.copy
            return copy
    if (kind.__module__, kind.__name__) == ("numpy", "ndarray") and not value.dtype.hasobject:
        return None if limit is not None and value.nbytes > limit else partial(value.copy, "K")
    kept: list[Any] = []
    picklers: tuple[Callable[..., pickle.Pickler], ...] = (_Pickler, partial(_InProcess, kept))
    for pickler in picklers:  # the second one can do what is local to a function
        file = _Bounded(limit)
        try:
            pickler(file, protocol=5, buffer_callback=file.admit).dump(value)
        except _TooLarge:
            return None
        except KeyboardInterrupt:
            raise
        except BaseException:  # pickling runs the user's code
            continue
        return partial(_loaded, value, b"".join(file.parts), kept)
    return None


def is_immutable(value: Any) -> bool:
    """Whether nobody can change a value, as far as that is quickly seen."""
    kind = type(value)
    return kind in _IMMUTABLE or (kind in (tuple, frozenset) and _IMMUTABLE.issuperset(map(type, value)))


class _TooLarge(Exception):
    pass


class _Bounded:
    """A file for a pickle that may have so many bytes, of which no more are made if it has more."""

    def __init__(self, limit: int | None) -> None:
        self.parts: list[bytes] = []
        self._left = float("inf") if limit is None else limit

    def write(self, data: Any) -> None:
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise _TooLarge
        self.parts.append(bytes(data))

    def admit(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the pickle is to have the content of an array."""
        if buffer.raw().nbytes > self._left:
            raise _TooLarge
        return True


class _Pickler(pickle.Pickler):
    """Copies tuples of classes with constructors of their own, which pickle would call with one argument."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if not isinstance(value, tuple) or any(getattr(kind, name) is not usual for name, usual in _USUAL.items()):
            return NotImplemented
        return tuple.__new__, (kind, tuple(value)), getattr(value, "__dict__", None) or None


class _InProcess(_Pickler):
    """Leaves functions, classes and modules out, which are the same in a copy."""

    def __init__(self, kept: list[Any], file: Any, **options: Any) -> None:
        super().__init__(file, **options)
        self._kept = kept

    def persistent_id(self, value: Any) -> int | None:
        kind = type(value)
        if kind not in _CODE and not issubclass(kind, type):
            return None
        self._kept.append(value)
        return len(self._kept) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, kept: list[Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._kept = kept

    def persistent_load(self, number: int) -> Any:
        return self._kept[number]


def _loaded(value: Any, data: bytes, kept: list[Any]) -> Any:
    try:
        return _Unpickler(data, kept).load() if kept else pickle.loads(data)
    except KeyboardInterrupt:
        raise
    except BaseException:  # loading runs the user's code
        return value

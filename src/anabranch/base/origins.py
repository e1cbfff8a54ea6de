"""Where code comes from, kept while it travels: the names of its files, and its lines where there are no such files.

cloudpickle takes functions along without the name of their file, from 3.1.3 on, and never their lines. Tracebacks need
both. Pickles with lines are pickles with something behind them, which `pickle.loads` leaves alone.
"""

from __future__ import annotations

import io
import linecache
import os
import pickle
import sys
from collections.abc import Callable, Collection
from types import CodeType, FunctionType
from typing import Any, TypeAlias

import cloudpickle

from anabranch.base.signatures import readable_annotations
from anabranch.base.where import OURS, is_library

Lines: TypeAlias = dict[str, dict[int, str]]
"""By file and number."""

MAX_FILES = 1_000  # whose lines a process shows that it was sent; each cell of a notebook is one
_FILE = 10  # which argument of `CodeType` it is
_MARK, _SIZE = b"lines", 8  # behind what is behind a pickle; no pickle ends like this, but with a full stop

_shown: dict[str, None] = {}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """cloudpickle's, but code keeps the name of its file, and open files are refused."""

    def __init__(self, file: io.BytesIO, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.codes: list[CodeType] = []

    def reducer_override(self, value: Any) -> Any:
        """How to make a value again, as the pickle module asks for it."""
        if isinstance(value, io.TextIOWrapper) and value not in (sys.stdout, sys.stderr):
            # cloudpickle takes a copy of what there is to read, and what is written to the copy is lost.
            raise TypeError(f"an open file stays where it was opened ({value.name!r}): open it in the task")
        if type(value) is FunctionType:
            with readable_annotations(value):  # cloudpickle reads them
                return super().reducer_override(value)
        if type(value) is not CodeType:
            return super().reducer_override(value)
        self.codes.append(value)
        make, arguments = self.dispatch_table[CodeType](value)
        if make is not CodeType:  # of a cloudpickle to come: better without its file than not at all
            return make, arguments
        file = OURS if is_library(value.co_filename) else value.co_filename
        return make, (*arguments[:_FILE], file, *arguments[_FILE + 1 :])


class _NamingPickler(_Pickler):
    name_of: Callable[[Any], Any]

    def persistent_id(self, value: Any) -> Any:
        return self.name_of(value)


def pickled(
    value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None
) -> tuple[bytes, list[CodeType]]:
    """A value's pickle as cloudpickle makes it, but for the names of files; and the code that is in it."""
    with io.BytesIO() as file:
        pickler = _Pickler(file, buffer_callback)
        pickler.dump(value)
        return file.getvalue(), pickler.codes


def pickled_with_names(value: Any, name_of: Callable[[Any], Any]) -> bytes:
    """A value's pickle with persistent ids, as the pickle module has them, of what `name_of` gives one for."""
    with io.BytesIO() as file:
        pickler = _NamingPickler(file, None)
        pickler.name_of = name_of
        pickler.dump(value)
        return file.getvalue()


def dumps(value: Any) -> bytes:
    """The pickle alone."""
    return pickled(value)[0]


def dumps_to_keep(value: Any) -> bytes:
    """The pickle with all lines of its code: nobody knows where it will be loaded."""
    data, codes = pickled(value)
    return data + lines_of(codes, lambda file: True)


def lines_of(codes: Collection[CodeType], is_missing: Callable[[str], bool]) -> bytes:
    """What to put behind a pickle for `loads` to show: the lines of code whose files are missing where it is loaded."""
    found: Lines = {}
    for code in codes:
        file = code.co_filename
        if is_library(file) or not is_missing(file):
            continue
        last = max(line or 0 for *_, line in code.co_lines())
        linecache.checkcache(file)
        lines = linecache.getlines(file)[:last]
        first = code.co_firstlineno
        found.setdefault(file, {}).update(enumerate(lines[first - 1 :], first))
    sent = {file: lines for file, lines in found.items() if lines}
    data = pickle.dumps(sent, protocol=5) if sent else b""
    return data + len(data).to_bytes(_SIZE, "big") + _MARK if data else data


def is_only_here(file: str) -> bool:
    """Whether only this process knows a file: a cell of a notebook, say."""
    return not os.path.exists(file)


def loads(data: bytes) -> Any:
    """What was pickled; from now on tracebacks show the lines that are behind it."""
    show_lines(data)
    return pickle.loads(data)


def show_lines(data: bytes) -> None:
    """Have tracebacks show the lines that are behind a pickle, if there are any.

    They are what runs, whatever is in a file of that name here.
    """
    if not data.endswith(_MARK):
        return
    end = len(data) - len(_MARK) - _SIZE
    size = int.from_bytes(data[end : end + _SIZE], "big")
    sent: Lines = pickle.loads(data[end - size : end])
    for file, lines in sent.items():
        linecache.checkcache(file)
        known = linecache.getlines(file)
        shown = [*known, *["\n"] * (max(lines) - len(known))]
        for number, line in lines.items():
            shown[number - 1] = line
        if shown != known:
            linecache.cache[file] = sum(map(len, shown)), None, shown, file
            _shown[file] = _shown.pop(file, None)
    while len(_shown) > MAX_FILES:
        oldest = next(iter(_shown))
        del _shown[oldest]
        linecache.cache.pop(oldest, None)

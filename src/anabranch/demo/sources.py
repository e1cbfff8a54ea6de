"""Where the corpus comes from: the Python files below a directory, and their bytes.

Says nothing of what is in a file; `facts` does.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

T = TypeVar("T")

_INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Directories whose children are the packages, wherever they lie below a root."""


class CorpusError(ValueError):
    """A file or directory of the corpus cannot be used; the message starts with its path.

    Parameters
    ----------
    path
        The file or directory.
    kind
        Name of the exception behind it, ``SyntaxError`` for example; failures are counted by it.
    detail
        What was wrong, in the words of that exception.
    """

    def __init__(self, path: str, kind: str, detail: str) -> None:
        # All three go to the base class: exceptions are pickled by their arguments.
        super().__init__(path, kind, detail)
        self.path = path
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the corpus, not read yet."""

    path: str
    package: str
    """The top-level package or module that the file belongs to."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the corpus with its bytes, as they are on disk."""

    file: SourceFile
    data: bytes


def default_roots() -> list[str]:
    """The standard library and the site-packages of this interpreter, without one that holds nothing of its own."""
    paths = sysconfig.get_paths()
    return list(dict.fromkeys(paths[name] for name in ("stdlib", "purelib", "platlib")))


def list_sources(root: str | None = None, *, limit: int | None = None) -> list[SourceFile]:
    """Every Python file below `root`, sorted by path.

    Hidden directories and ``__pycache__`` are not entered, symbolic links to directories are not followed.

    Parameters
    ----------
    root
        A directory, or several with `os.pathsep` between them. None is what `default_roots` gives.
    limit
        How many files to take at most, evenly spaced over the whole list, so that a few of every large package are
        there. None takes all.

    Raises
    ------
    CorpusError
        If a root is not a directory.
    ValueError
        If `limit` is less than 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is the number of files to take, at least 1; it was {limit}")
    roots = default_roots() if root is None else [part for part in root.split(os.pathsep) if part]
    for directory in roots or [""]:
        if not os.path.isdir(directory):
            raise CorpusError(directory, "NotADirectoryError", "root must be a directory that exists")
    found = {
        path: SourceFile(path, package_of(path, directory))
        for directory in map(os.path.abspath, roots)
        for path in _walk(directory, skip=_find_foreign(directory, roots, by_default=root is None))
    }
    return evenly([found[path] for path in sorted(found)], limit)


def package_of(path: str, root: str) -> str:
    """Name of the top-level package or module that a file belongs to.

    Examples
    --------
    >>> package_of("/lib/python3/json/decoder.py", "/lib/python3")
    'json'
    >>> package_of("/lib/python3/abc.py", "/lib/python3")
    'abc'
    >>> package_of("/venv/lib/python3/site-packages/dask/array/core.py", "/venv")
    'dask'
    """
    parts = PurePath(path).relative_to(root).parts
    installed = [place for place, part in enumerate(parts[:-1]) if part in _INSTALLED]
    top = parts[installed[-1] + 1 if installed else 0]
    return top.removesuffix(".py")


def evenly(values: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` of the values, evenly spaced and in their order.

    Examples
    --------
    >>> evenly(range(10), 4)
    [0, 2, 5, 7]
    >>> evenly(range(3), 4)
    [0, 1, 2]
    """
    if limit is None or limit >= len(values):
        return list(values)
    return [values[place * len(values) // limit] for place in range(limit)]


def read_source(file: SourceFile) -> Source:
    """The bytes of one file; an `OSError` goes through as it is, with the path in its message."""
    return Source(file, Path(file.path).read_bytes())


def _walk(directory: str, *, skip: frozenset[str]) -> Iterator[str]:
    for parent, directories, names in os.walk(directory):
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".") and name != "__pycache__" and os.path.join(parent, name) not in skip
        ]
        yield from (os.path.join(parent, name) for name in names if name.endswith(".py"))


def _find_foreign(directory: str, roots: Sequence[str], *, by_default: bool) -> frozenset[str]:
    """Directories below `directory` that are not its own.

    A root inside another is listed once, as itself. The standard library of the interpreter behind a virtual
    environment has a site-packages too: it is not what this interpreter imports.
    """
    nested = {os.path.abspath(root) for root in roots} - {directory}
    foreign = {os.path.join(directory, name) for name in _INSTALLED} if by_default else set()
    return frozenset(nested | foreign)

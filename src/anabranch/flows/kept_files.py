"""Files that a flow was registered from, kept with it, so that it can run as it was, whatever they are by now.

Kept are the flow's file and the modules beside it that it had imported. What it imports only later, or reads, is taken
as it is.
"""

from __future__ import annotations

import json
import linecache
import os
import sys
import zlib
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType

MOST_NBYTES = 1_000_000
"""Of what is kept of a flow: each process that runs it reads it."""

_IN_USE: dict[str, bytes] = {}
"""Files that are loaded as they were kept, by path."""


def pack_files(files: Iterable[str]) -> bytes | None:
    """These files, as the registry keeps them; None if they are too large for it, or cannot be read."""
    try:
        found = {file: _read(file).decode("latin-1") for file in sorted(set(files))}
    except OSError:
        return None
    packed = zlib.compress(json.dumps(found).encode())
    return packed if len(packed) <= MOST_NBYTES else None


def use_files(packed: bytes | None) -> None:
    """Load these files as they were kept, from now on, and all others as they are."""
    for file in _IN_USE:
        linecache.cache.pop(file, None)
    _IN_USE.clear()
    _IN_USE.update(_unpacked(packed))


def are_in_use() -> bool:
    """Whether files are loaded as they were kept, so that who takes them from the disk would have others."""
    return bool(_IN_USE)


def have_changed(packed: bytes | None) -> bool:
    """Whether one of these files is otherwise by now than it was kept."""
    return any(not _is_same(file, data) for file, data in _unpacked(packed).items())


def _unpacked(packed: bytes | None) -> dict[str, bytes]:
    texts = json.loads(zlib.decompress(packed)) if packed is not None else {}
    return {file: text.encode("latin-1") for file, text in texts.items()}


def _read(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()


def _is_same(file: str, data: bytes) -> bool:
    try:
        return _read(file) == data
    except OSError:
        return False


class KeptLoader(SourceFileLoader):
    """Loads a file as it was kept, if it is in use so, else as it is."""

    def get_data(self, path: str) -> bytes:
        """The file."""
        data = _IN_USE.get(path)
        if data is None:
            return super().get_data(path)
        lines = data.decode(errors="replace").splitlines(keepends=True)
        linecache.cache[path] = (len(data), None, lines, path)  # what tracebacks show; never looked for on the disk
        return data

    def get_code(self, fullname: str) -> CodeType:
        """Compiled each time: cached byte code is of the file as it is, or was."""
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


class _Finder(MetaPathFinder):
    """Finds modules that are loaded as they were kept."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.rpartition(".")[2]
        for folder in (sys.path if path is None else path) if _IN_USE else ():
            package = os.path.join(folder, name, "__init__.py")
            file = package if package in _IN_USE else os.path.join(folder, f"{name}.py")
            if file in _IN_USE:
                inside = [os.path.dirname(file)] if file == package else None
                loader = KeptLoader(fullname, file)
                return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)
        return None


sys.meta_path.insert(sys.meta_path.index(PathFinder), _Finder())

"""Makes our code importable on a worker: from what is installed there if it is the same, or from an archive in memory.

The source of this file is executed by itself, by `anabranch.executors.entry`, while nothing of ours is importable: it
needs nothing but the standard library.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import linecache
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

SOURCES = (".py", ".yaml")
IDLE_S = 600.0  # a run that has had no task here for so long does not keep another version of the code away


def load(
    shelf: Any, version: str, digest: str, token: str, archive: bytes | None, sources: Any, home: str
) -> dict[str, Any] | None:
    """Load this package, and make the user's own modules importable; why not, if that cannot be.

    Parameters
    ----------
    shelf
        What is known of the runs in this process.
    version, digest
        Of this package where the run was sent from.
    archive
        The sources of this package as a compressed zip archive; None: it should be installed.
    sources
        The user's modules: name, whether it is a package, file, source.
    home
        The module of this package that runs what arrives.
    """
    try:
        refusal = _get_package(shelf, version, digest, archive)
        if refusal is None:
            import_module(home)
        if refusal is None and sources:
            refusal = _get_sources(shelf, token, sources)
    except Exception as error:  # what our code needs of other packages may be missing
        text = f"anabranch {version} does not load on the worker: {type(error).__name__}: {error}"
        return {"refused": text, "kind": "code" if archive is None else "load"}
    if refusal is None:
        shelf.runs[token] = {"digest": digest, "home": home, "tasks": set(), "last": time.monotonic()}
    return refusal


def _is_in_use(run: dict[str, Any]) -> bool:
    return bool(run["tasks"]) or time.monotonic() - run["last"] < IDLE_S


def installed_digest() -> str | None:
    """Digest of this package as it is installed here; None if it is not."""
    directory = _installed()
    return digest_of(directory) if directory is not None else None


def _get_package(shelf: Any, version: str, digest: str, archive: bytes | None) -> dict[str, Any] | None:
    """Make this package importable in the right version, and import it."""
    package: Any = sys.modules.get("anabranch")
    if package is not None and _digest(package) != digest:
        refusal = _make_way(shelf, package, version, digest)
        if refusal is not None:
            return refusal
        package = None
    finder = _finder_of(package)
    if package is None:
        if installed_digest() != digest:
            if archive is None:
                return {"refused": f"the worker does not have anabranch {version}", "kind": "code"}
            finder = Finder(digest)
            sys.meta_path.insert(0, finder)
    if finder is not None and archive is not None:
        _unpack(finder, archive, version)
    package = import_module("anabranch")
    vars(package)["__digest__"] = digest
    if finder is not None:
        vars(package)["__version__"] = version
        if archive is not None:
            vars(package)["__archive__"] = archive  # for new interpreters, which could not import it
    return None


def _make_way(shelf: Any, package: Any, version: str, digest: str) -> dict[str, Any] | None:
    """Drop another version of this package that travelled here, if no run needs it any more.

    The new one is there after 0.2 s; a restart takes 1.3 s, and what other users of the worker have on it.
    """
    found, finder = _digest(package), _finder_of(package)
    is_used = any(run["digest"] == found and _is_in_use(run) for run in shelf.runs.values())
    if finder is not None and not is_used:
        finder.drop()
        return None
    try:
        other = package.__version__
    except Exception:  # it is in no environment, only on the path
        other = "of an unknown version"
    same = other == version
    theirs, ours = (f"{each} ({of[:8]})" if same else each for each, of in ((other, found), (version, digest)))
    text = f"the worker has loaded anabranch {theirs}, the flow was sent by anabranch {ours}"
    return {"refused": text, "kind": "version"}


def _finder_of(package: Any) -> Any:
    """What this package was imported by, if it travelled here; of any version."""
    finder = getattr(package, "__loader__", None)
    return finder if type(finder).__name__ == "Finder" and hasattr(finder, "drop") else None


def _digest(package: Any) -> str:
    known: str | None = getattr(package, "__digest__", None) or getattr(_finder_of(package), "digest", None)
    return known or digest_of(package.__path__[0])


def _installed() -> str | None:
    """Directory of this package where it is installed; nothing of it is imported."""
    spec = find_spec("anabranch")
    return next(iter(spec.submodule_search_locations or ()), None) if spec is not None else None


def _unpack(finder: Any, archive: bytes, version: str) -> None:
    root = f"<anabranch {version} {finder.digest[:8]}>"
    with zipfile.ZipFile(io.BytesIO(bz2.decompress(archive))) as opened:
        for name in opened.namelist():
            data = opened.read(name)
            if not name.endswith(".py"):
                finder.files[f"{root}/{name}"] = data
                continue
            is_package = name.endswith("/__init__.py")
            module = name[: -len("/__init__.py") if is_package else -len(".py")].replace("/", ".")
            finder.modules[module] = is_package, f"{root}/{name}", data.decode()


def _get_sources(shelf: Any, token: str, sources: Any) -> dict[str, Any] | None:
    """Make the user's own modules importable, for imports inside functions and for what cannot travel by value."""
    finder = Finder(token)
    for name, is_package, file, source in sources:
        finder.modules[name] = is_package, file, source
    for other, each in list(shelf.sources.items()):
        clashes = {n for n, m in each.modules.items() if n in finder.modules and finder.modules[n][2] != m[2]}
        if not clashes:
            continue
        run = shelf.runs.get(other)
        if run is None or not _is_in_use(run):
            each.drop()
            del shelf.sources[other]
            continue
        for name in sorted(clashes):
            if getattr(sys.modules.get(name), "__loader__", None) is each:
                text = f"another run on this worker has another module {name!r}; run this one when that has ended"
                return {"refused": text, "kind": "load"}
        each.clashing |= clashes
        finder.clashing |= clashes
    sys.meta_path.insert(0, finder)
    shelf.sources[token] = finder
    _show_lines(finder)
    return None


def _show_lines(finder: Finder) -> None:
    """Let tracebacks show the lines that run, whatever is in files of these names here."""
    for _, file, source in finder.modules.values():
        linecache.cache[file] = len(source), None, io.StringIO(source).readlines(), file


def digest_of(directory: str) -> str:
    """What tells this package from every other version of it: a digest of its files."""
    digest = hashlib.sha256()
    for name, data in sorted(_files_below(directory)):
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _files_below(directory: str) -> Iterator[tuple[str, bytes]]:
    """Path below a directory, which may be in a zip file, and content, of each file that counts."""
    if not os.path.isdir(directory):
        yield from _files_in_zip(directory)
    for folder, _, files in os.walk(directory):
        for file in files:
            if file.endswith(SOURCES):
                path = os.path.join(folder, file)
                with open(path, "rb") as opened:
                    yield os.path.relpath(path, directory).replace(os.sep, "/"), opened.read()


def _files_in_zip(directory: str) -> Iterator[tuple[str, bytes]]:
    archive = directory
    while not os.path.isfile(archive):
        archive, below = os.path.split(archive)
        if not below:
            raise FileNotFoundError(directory)
    root = os.path.relpath(directory, archive).replace(os.sep, "/") + "/"
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            if name.startswith(root) and name.endswith(SOURCES):
                yield name[len(root) :], opened.read(name)


class Finder:
    """Imports modules from memory; `digest` names what they are of."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.modules: dict[str, tuple[bool, str, str]] = {}
        """By name: whether it is a package, the name of its file, its source."""
        self.files: dict[str, bytes] = {}
        """Other files that modules may ask for."""
        self.clashing: set[str] = set()
        """Modules of which another run has other sources."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Where a module comes from, if it is one of these."""
        if name not in self.modules:
            return None
        if name in self.clashing:
            raise ImportError(f"runs that are on this worker now have different modules {name!r}", name=name)
        is_package, file, _ = self.modules[name]
        loader: Any = self
        spec = ModuleSpec(name, loader, origin=file, is_package=is_package)
        spec.has_location = True
        return spec

    def create_module(self, spec: Any) -> None:
        """An ordinary module will do."""

    def exec_module(self, module: Any) -> None:
        """Run a module's code."""
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> Any:
        """A module's code."""
        _, file, source = self.modules[name]
        return compile(source, file, "exec", dont_inherit=True)

    def get_source(self, name: str) -> str:
        """A module's source, which tracebacks show."""
        return self.modules[name][2]

    def is_package(self, name: str) -> bool:
        """Whether a module may have others below it."""
        return self.modules[name][0]

    def get_data(self, path: str) -> bytes:
        """What is in a module's file, or in one beside it."""
        for _, file, source in self.modules.values():
            if file == path:
                return source.encode()
        try:
            return self.files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def drop(self) -> None:
        """Take back all that was imported."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name, module in list(sys.modules.items()):
            if getattr(module, "__loader__", None) is self:
                del sys.modules[name]
                parent = sys.modules.get(name.rpartition(".")[0])
                if getattr(parent, name.rpartition(".")[2], None) is module:
                    delattr(parent, name.rpartition(".")[2])
        for _, file, _ in self.modules.values():
            linecache.cache.pop(file, None)
        others: list[Any] = [each for each in sys.meta_path if type(each).__name__ == Finder.__name__]
        for other in others:  # another run may have the same files
            _show_lines(other)

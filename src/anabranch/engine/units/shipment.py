"""What of a run travels to its workers: the program, the user's own modules, and this package where it is missing.

What is done with it there is in `anabranch.executors.entry` and `anabranch.executors.shelf`.
"""

from __future__ import annotations

import bz2
import io
import pickle
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeAlias, cast

import cloudpickle

from anabranch.base import origins, package_files
from anabranch.base.errors import UnsendableError
from anabranch.base.texts import headline_of
from anabranch.base.version import VERSION
from anabranch.base.where import is_users
from anabranch.engine.units.units import Program, Unit
from anabranch.engine.units.unsendable import problems_of
from anabranch.engine.units.values import pickled
from anabranch.executors.base import Executor
from anabranch.executors.entry import Sourced
from anabranch.executors.shelf import Finder, digest_of

Origin: TypeAlias = tuple[tuple[int, int], str, str | None, str]
"""Python version, version of this package, digest of its files or None where nobody need look at it, and `HOME`."""
HOME = "anabranch.engine.worker.arrival"
"""The module that runs what arrives."""
DRIVER_HOME = "anabranch.engine.driver.detached"
"""The module that is a driver where a run is sent with its driver."""

SMALL_NBYTES = 65_536  # travels with each unit: few are on their way at a time, and any worker may take them
MAX_SOURCES_NBYTES = 2 << 20  # of the user's modules; what is imported by nobody here is left out first
_ROOT = Path(__file__).parents[2]
# The same for every run, as a worker keeps what the first one brought: what only some load is there for all of them.
_ALWAYS = (
    HOME,
    *(f"anabranch.{name}" for name in ("context", "signals", "states", "triggers", "flows.flow")),  # for users' code
    *(f"anabranch.definition.{name}" for name in ("branching", "mapping", "resources", "scope")),
    "anabranch.base.secret",
    "anabranch.executors.entry",
    "anabranch.executors.shelf",
    "anabranch.engine.worker.chunk_storage",
    "anabranch.results.memory",
    "anabranch.results.remote",
    "anabranch.results.sql",
)
DRIVER_MODULES = frozenset({DRIVER_HOME, "anabranch.executors.deaths", "anabranch.executors.scheduler_page_feed"})
_TEXT = re.compile(r'""".*?"""', re.DOTALL)
# At the end of a line, what has a quotation mark may be part of a text; an apostrophe within a word is none.
_COMMENT = re.compile(r"""^ *#.*$|  #(?:[^'"\n]|(?<=\w)'(?=\w))*$""", re.MULTILINE)
_IMPORT = re.compile(r"^(?:import (anabranch[\w.]*)|from (anabranch[\w.]*) import (\([^)]*\)|.*))", re.MULTILINE)
_NAMED = re.compile(rb"\x8c.(anabranch(?:\.\w+)+)", re.DOTALL)  # as pickle writes names of modules
_registry = threading.RLock()

Source: TypeAlias = tuple[str, bool, str, str]
"""Of a module: name, whether it is a package, file, source."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """What a run's units need on any worker, as bytes."""

    origin: Origin
    program: bytes
    """The pickled program, with the lines of its code that workers do not have."""
    archive: bytes | None = None
    """This package, for workers that do not have it."""
    sources: tuple[Source, ...] = ()
    """The user's own modules, for workers that cannot import them."""
    by_value: tuple[str, ...] = ()
    """Those of them whose functions and classes travel inside of pickles."""

    @property
    def is_inline(self) -> bool:
        """Whether it travels with each unit, and not once to each process."""
        return self.archive is None and not self.sources and len(self.program) <= SMALL_NBYTES

    @property
    def content(self) -> Any:
        """What `anabranch.executors.entry.enter` takes as the program."""
        return self.program if self.archive is None and not self.sources else (self.archive, self.sources, self.program)

    def dumps(self, unit: Unit) -> bytes:
        """A unit as bytes."""
        data, codes = pickled(unit)
        if _mentioned(data, [*self.by_value, *cloudpickle.list_registry_pickle_by_value()]):
            data, codes = _pickled(unit, self.by_value)
        return data + origins.lines_of(codes, _is_missing(self.origin, self.sources))

    def with_code(self) -> Shipment:
        """The same for workers that do not have this package."""
        named = {match.decode() for match in _NAMED.findall(self.program)}
        return replace(self, archive=archive_of(frozenset(named)))


def pack(program: Program, *, is_elsewhere: bool, has_code: bool = True) -> Shipment:
    """A run's program, made ready to travel.

    Parameters
    ----------
    is_elsewhere
        Whether workers may be unable to import what this process can.
    has_code
        Whether they have this package, in the same version.

    Raises
    ------
    UnsendableError
        Functions, constants or parameters that do not pickle; all of them are named.
    """
    if not is_elsewhere:
        data, codes = _program_pickled(program)
        return Shipment(own_origin(), data + origins.lines_of(codes, origins.is_only_here))
    own = own_modules()
    data, codes = _program_pickled(program)
    by_value: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    while new := _mentioned(data, [name for name in own if name not in wanted]):
        wanted = (*wanted, *new)
        try:
            (data, codes), by_value = _pickled(program, wanted), wanted
        except Exception:  # a lock, say, in a module's variables: what cannot travel by value is imported from source
            by_value = _pickling(program, wanted)
            data, codes = _pickled(program, by_value)
    sources = _sources_of(own, wanted)
    data += origins.lines_of(codes, _is_missing(origin(), sources))
    shipment = Shipment(origin(), data, sources=sources, by_value=by_value)
    return shipment if has_code else shipment.with_code()


def driver_call(run: Any, token: str) -> tuple[Sourced, tuple[Any, ...]]:
    """A function, and its arguments, that is the driver of a detached run on any worker.

    Raises
    ------
    UnsendableError
        The run does not pickle.
    """
    own = own_modules()
    try:
        wanted = tuple(_mentioned(origins.dumps(run), own))
        by_value = _pickling(run, wanted)
        data, codes = _pickled(run, by_value)
    except Exception as error:
        raise UnsendableError("this run cannot be sent to a cluster:", [f"{headline_of(error)}"]) from error
    sources = _sources_of(own, wanted)
    data += origins.lines_of(codes, _is_missing(origin(), sources))
    content = (archive_of(DRIVER_MODULES), sources, data)
    return Sourced("enter_driver", (origin(), DRIVER_HOME)), (token, content)


def have_code(executor: Executor) -> bool:
    """Whether all workers that there are have this package, in the same version."""
    answers = executor.ask_workers(Sourced("look"))
    return bool(answers) and all(answer["anabranch"] == origin()[2] for answer in answers)


def _is_missing(origin: Origin, sources: Iterable[Source]) -> Callable[[str], bool]:
    """What tells whether a file's lines are needed where a shipment goes."""
    if origin[2] is None:  # to processes of this machine
        return origins.is_only_here
    sent = {file for _, _, file, _ in sources}
    return lambda file: file not in sent


def _program_pickled(program: Program) -> tuple[bytes, list[CodeType]]:
    try:
        return _pickled(program, ())
    except Exception as error:  # pickling runs the user's code
        raise UnsendableError("this flow cannot be sent to workers:", problems_of(program) or [str(error)]) from error


# The user's modules ---------------------------------------------------------------------------------------------------


def own_modules() -> dict[str, ModuleType]:
    """Modules that are the user's own, by name: neither installed, nor of the standard library, nor of this package."""
    return {name: module for name, module in list(sys.modules.items()) if _is_own(name, module)}


def _is_own(name: str, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not _is_own_file(file) or getattr(module, "__name__", None) != name:
        return False
    return name not in ("__main__", "__mp_main__") and name.partition(".")[0] != "anabranch"


@cache
def _is_own_file(file: str) -> bool:
    return file.endswith(".py") and is_users(file)


def _mentioned(data: bytes, names: Iterable[str]) -> list[str]:
    """Modules whose names are in a pickle."""
    return [name for name in names if b"\x8c" + bytes([len(name.encode()) % 256]) + name.encode() in data]


def _pickled(value: Any, by_value: Iterable[str]) -> tuple[bytes, list[CodeType]]:
    """A value's pickle, with functions and classes of these modules as code; and that code."""
    with _by_value(by_value):
        return origins.pickled(value)


@contextmanager
def _by_value(names: Iterable[str]) -> Iterator[None]:
    with _registry:  # cloudpickle has one list for all threads
        new = [name for name in names if name not in cloudpickle.list_registry_pickle_by_value()]
        modules = [sys.modules[name] for name in new if name in sys.modules]
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


def _pickling(value: Any, names: Iterable[str]) -> tuple[str, ...]:
    """Those modules with which a value pickles by value."""
    kept: tuple[str, ...] = ()
    for name in names:
        try:
            _pickled(value, (*kept, name))
        except Exception:  # pickling runs the user's code
            continue
        kept = (*kept, name)
    return kept


def _sources_of(own: dict[str, ModuleType], wanted: Iterable[str]) -> tuple[Source, ...]:
    """Sources of the modules that are mentioned, and of all that is in the same packages: functions import late."""
    roots = {name.partition(".")[0] for name in wanted}
    found: dict[str, Source] = {}
    left = MAX_SOURCES_NBYTES
    for name, file in _files_of(own, roots):
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        left -= len(text)
        if name not in found and left >= 0:
            found[name] = (name, Path(file).name == "__init__.py", file, text)
    return tuple(found.values())


def _files_of(own: dict[str, ModuleType], roots: set[str]) -> Iterator[tuple[str, str]]:
    for name, module in own.items():
        if name.partition(".")[0] in roots:
            yield name, str(module.__file__)
    for root in sorted(roots):
        for folder in getattr(own.get(root), "__path__", ()):
            for path in sorted(Path(folder).rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                if all(part.isidentifier() for part in parts):
                    yield ".".join([root, *(part for part in parts if part != "__init__")]), str(path)


# This package ---------------------------------------------------------------------------------------------------------


@cache
def origin() -> Origin:
    """Where runs of this process are sent from, to workers that may have other code."""
    return (sys.version_info[0], sys.version_info[1]), VERSION, _digest(), HOME


def own_origin() -> Origin:
    """The same for workers that have this code: reading all of it takes longer than many a run."""
    return (sys.version_info[0], sys.version_info[1]), VERSION, None, HOME


@cache
def archive_of(named: frozenset[str] = frozenset()) -> bytes:
    """The part of this package that workers need, as a compressed zip archive of sources.

    Its files are alike, so all of it compresses better than each of them. `named`: with these modules as well.
    """
    files = {
        "anabranch/base/anabranch.yaml": _without_prose(package_files.read("base/anabranch.yaml").decode()).encode()
    }
    todo, seen = [*_ALWAYS, *sorted(named)], set()
    while todo:
        name = todo.pop()
        found = None if name in seen else _source_of(name)
        if found is None:
            continue
        seen.add(name)
        file, data = found
        files[file] = _without_prose(data.decode()).encode()
        todo += [name.rpartition(".")[0], *_imports_of(data.decode())]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(file), data)  # without a date: the same each time
    return bz2.compress(buffer.getvalue())  # a quarter smaller than zlib makes it, as its window is wider


def _without_prose(source: str) -> str:
    """A module of ours, line by line, without the docstrings and comments that only its readers need."""

    def spare(match: re.Match[str]) -> str:
        begins = source.rfind("\n", 0, match.start()) + 1
        is_statement = source[begins : match.start()].isspace() or begins == match.start()
        return '""' + "\n" * match[0].count("\n") if is_statement else match[0]

    return _COMMENT.sub("", _TEXT.sub(spare, source))


def _shelf() -> Finder | None:
    """What this package was imported from if it travelled here itself, with the driver of a detached run."""
    loader = sys.modules["anabranch"].__loader__
    return cast(Finder, loader) if type(loader).__name__ == Finder.__name__ else None


def _digest() -> str:
    shelf = _shelf()
    return shelf.digest if shelf is not None else digest_of(str(_ROOT))


def _source_of(name: str) -> tuple[str, bytes] | None:
    """Path in an archive, and content, of a module of ours; None if there is no such module."""
    root, _, rest = name.partition(".")
    if root != "anabranch":
        return None
    stem = rest.replace(".", "/")
    for file in (f"{stem}/__init__.py".lstrip("/"), f"{stem}.py"):
        with suppress(OSError):
            return f"anabranch/{file}", package_files.read(file)
    return None


def _imports_of(source: str) -> Iterator[str]:
    """What a module of ours imports of ours when it is imported; what functions import, they need not on a worker."""
    for match in _IMPORT.finditer(source):
        module, package, names = match.groups()
        yield module or package
        for name in re.findall(r"\w+", names or ""):
            yield f"{package}.{name}"  # a submodule, or nothing


# On request -----------------------------------------------------------------------------------------------------------


def probe_call(shipment: Shipment, token: str) -> tuple[Sourced, bytes]:
    """A function and its argument: on a worker it gives None if the run's code loads there, else what is wrong."""
    return Sourced("probe", (shipment.origin, token)), pickle.dumps(shipment.content)

"""The first thing of ours that runs in a Dask process, whatever is installed there: this file travels as source text.

Dask loads what tasks are made of in the middle of its own work, where something that does not load ends every worker of
the cluster. So all that Dask itself loads of ours is `Sourced`: text that defines this module wherever it arrives. It
needs nothing but the standard library of any Python, and touches no other byte that was sent before it knows that the
rest can be loaded, which is the business of `anabranch.executors.shelf`. It is sent with every task, so it is short.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from threading import RLock
from typing import Any

# Compiled each time that it is loaded, so as short as can be; MAKE only where this module has not been made yet.
EXPRESSION = "(__import__('sys').modules.get(key) or eval(make)).Sourced(name, bound)"
MAKE = (
    "(lambda new: (new.__dict__.update(TEXT=text), exec(__import__('zlib').decompress(text), new.__dict__), "
    "__import__('sys').modules.setdefault(key, new))[2])(type(__import__('sys'))(key))"
)


class Sourced:
    """A function of this module, with its first arguments; pickled as text, so that any process can load it."""

    def __init__(self, name: str, bound: tuple[Any, ...] = ()) -> None:
        self.name = self.__name__ = name
        self.bound = bound

    def __call__(self, *args: Any) -> Any:
        """What the function gives."""
        return globals()[self.name](*self.bound, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        key, text = own_text()
        names = {"key": key, "make": MAKE, "text": text, "name": self.name, "bound": self.bound}
        return eval, (EXPRESSION, names)

    def __dask_tokenize__(self) -> Any:
        return own_text()[0], self.name, repr(self.bound)


def own_text() -> tuple[str, bytes]:
    """Name of the module that this source text makes, and the text, compressed, without what only a reader needs."""
    found = globals().get("TEXT")
    if found is None:
        import ast
        import zlib

        from anabranch.base import package_files

        tree = ast.parse(package_files.read("executors/entry.py"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
                del node.body[0]
            if isinstance(node, ast.FunctionDef):
                node.returns = None
            if isinstance(node, ast.arg):
                node.annotation = None
        found = globals()["TEXT"] = zlib.compress(ast.unparse(tree).encode(), 9)
    if "KEY" not in globals():
        import hashlib

        globals()["KEY"] = "_anabranch_entry_" + hashlib.sha256(found).hexdigest()[:12]
    return globals()["KEY"], found


# Tasks ----------------------------------------------------------------------------------------------------------------


def enter(
    origin: Any,
    is_told: bool,
    key: Any,
    outline: Any,
    token: str,
    program: Any,
    payload: Any,
    keys: Any,
    is_main: bool,
    /,
    *outcomes: Any,
) -> Any:
    """Run a unit: the function of every Dask task of ours.

    Parameters
    ----------
    origin
        Where the run was sent from: version of Python, version and digest of this package, and the name of the module
        that runs what arrives. A digest of None is not checked.
    is_told
        Whether a driver listens; otherwise a refusal is raised.
    key, outline
        The unit's key, and what the driver needs in order to know what was refused.
    program
        The pickled program; or the archive of the code, sources of the user's modules, and the program.
    """
    refusal = refused(origin, token, program)
    for each in outcomes:
        if refusal is None and isinstance(each, dict) and "outline" not in each:
            refusal = each  # of a cut, which nobody was told
    if refusal is not None:
        if not is_told:
            raise ImportError(refusal["refused"])
        return _post(token, {**refusal, "key": key, "outline": outline})
    if isinstance(program, tuple):
        program = program[-1]
    with _Use(token):
        found = dict(zip(keys, outcomes))  # noqa: B905  # `strict` is newer than some Pythons that this must run on
        return import_module(origin[3]).execute(token, program, payload, found, key, outline, is_main=is_main)


def enter_cut(origin: Any, token: str, program: Any, slug: str, indices: Any, outcome: Any, /) -> Any:
    """Cut a chunk's elements from a list, where the list is."""
    refusal = refused(origin, token, program)
    if refusal is not None:
        return {**refusal, "worker": _dask_worker().address}
    if isinstance(outcome, dict):
        return outcome
    return import_module(origin[3]).cut_elements(slug, indices, outcome)


def enter_results(origin: Any, token: str, program: Any, last: Any, keys: Any, /, *outcomes: Any) -> Any:
    """Values of the reference nodes of a flow that is one Dask graph; raises the exception of one that failed."""
    refusal = refused(origin, token, program)
    if refusal is not None:
        raise ImportError(refusal["refused"])
    import pickle

    found = dict(zip(keys, outcomes))  # noqa: B905
    return import_module(origin[3]).collect_results(token, program, pickle.loads(last), found)


def enter_driver(origin: Any, home: str, token: str, program: Any, /) -> Any:
    """Be the driver of a run that was sent to the cluster, driver and all; `home` is the module that has it."""
    refusal = refused(origin, token, program)
    if refusal is not None:
        raise ImportError(refusal["refused"])
    with _Use(token):
        return import_module(home).drive(program[-1])


def _post(token: str, refusal: dict[str, Any]) -> dict[str, Any]:
    """Tell the driver that a unit was not run, and because of which worker; the outcome is what it is told."""
    worker = _dask_worker()
    refusal = {"worker": worker.address, **refusal}
    worker.log_event(token, (*refusal["key"], refusal))
    return refusal


def _dask_worker() -> Any:
    return import_module("distributed.worker").get_worker()


# Outcomes -------------------------------------------------------------------------------------------------------------


class Parcel:
    """An outcome that has come from another process and stays closed until a unit needs it; Dask may pass it on."""

    def __init__(self, nbytes: int, data: bytes, buffers: Any, report: Any) -> None:
        self.nbytes = nbytes
        self.data = data
        self.buffers = buffers
        self.report = report
        self.opened: Any = None

    def __sizeof__(self) -> int:
        return 512 + self.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return Sourced("Parcel"), (self.nbytes, self.data, [bytes(each) for each in self.buffers], self.report)


# Code -----------------------------------------------------------------------------------------------------------------


def refused(origin: Any, token: str, program: Any) -> dict[str, Any] | None:
    """None once all that a run needs of our code is loaded here; else why it is not, and of what kind the reason is.

    Kinds are ``python`` and ``version``, where this process will never do, ``code``, where it would if the program came
    with an archive, and ``load``.
    """
    python, version, digest, home = origin
    if tuple(sys.version_info[:2]) != tuple(python):
        here, there = (".".join(map(str, each)) for each in (sys.version_info[:2], python))
        return {"refused": f"the worker has Python {here}, the flow was sent by Python {there}", "kind": "python"}
    shelf = _shelf()
    if digest is None or token in shelf.runs:
        return None
    with shelf.lock:
        if token in shelf.runs:
            return None
        archive, sources = program[:2] if isinstance(program, tuple) else (None, ())
        if digest not in shelf.loaders:
            text = _loader_text(archive)
            if text is None:
                return {"refused": f"the worker does not have anabranch {version}", "kind": "code"}
            names: dict[str, Any] = {"__name__": "_anabranch_loader"}
            exec(text, names)
            shelf.loaders[digest] = names["load"]
        refusal: dict[str, Any] | None = shelf.loaders[digest](shelf, version, digest, token, archive, sources, home)
        return refusal


def _loader_text(archive: bytes | None) -> bytes | None:
    """Source of what loads our code: from the archive, or from where it is installed, without importing it."""
    import bz2
    import io
    import os
    import zipfile
    from contextlib import suppress
    from importlib.util import find_spec

    if archive is not None:
        with zipfile.ZipFile(io.BytesIO(bz2.decompress(archive))) as opened:
            return opened.read("anabranch/executors/shelf.py")
    spec = find_spec("anabranch")
    for directory in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = os.path.join(directory, "executors", "shelf.py")
        if os.path.exists(path):
            with open(path, "rb") as file:
                return file.read()
        loader: Any = spec.loader if spec is not None else None
        with suppress(AttributeError, OSError):
            text: bytes = loader.get_data(path)  # of a zip file
            return text
    return None


def _shelf() -> Any:
    """What all versions of this text, and of the loader, know of each other in one process."""
    shelf: Any = sys.modules.get("_anabranch_shelf")
    if shelf is None:
        shelf = type(sys)("_anabranch_shelf")
        shelf.lock = RLock()
        shelf.loaders = {}  # by digest of the code
        shelf.runs = {}  # by token: digest of the code, what runs it, tasks that are running, when the last one ended
        shelf.sources = {}  # by token: what imports the user's modules
        shelf = sys.modules.setdefault("_anabranch_shelf", shelf)
    return shelf


class _Use:
    """While a task of a run is running, its code is in use."""

    def __init__(self, token: str) -> None:
        self.run = _shelf().runs.get(token)

    def __enter__(self) -> None:
        if self.run is not None:
            self.run["tasks"].add(self)

    def __exit__(self, *error: object) -> None:
        if self.run is not None:
            self.run["tasks"].discard(self)
            self.run["last"] = time.monotonic()


# On request -----------------------------------------------------------------------------------------------------------


def call_loaded(home: str, name: str, *args: Any) -> Any:
    """What a function gives whose module has been loaded here; else None."""
    module = sys.modules.get(home)
    return getattr(module, name)(*args) if module is not None else None


def forget(token: str) -> None:
    """Forget what a run has brought here. Its code stays until another version of it comes."""
    shelf = _shelf()
    with shelf.lock:
        run = shelf.runs.pop(token, None)
        finder = shelf.sources.pop(token, None)
        if finder is not None:
            finder.drop()
    if run is not None:
        call_loaded(run["home"], "forget_program", token)


def sees(path: str) -> bool:
    """Whether there is such a file here."""
    import os

    return os.path.exists(path)


def lacking(modules: Any) -> list[str]:
    """Those of some modules that are not installed here."""
    from importlib.util import find_spec

    return [each for each in modules if find_spec(each) is None]


def look() -> dict[str, Any]:
    """What there is of ours on a worker: version of Python, and digest of this package or None.

    What an earlier run has brought does not count: a worker that comes later does not have it.
    """
    package = sys.modules.get("anabranch")
    has_travelled = hasattr(getattr(package, "__loader__", None), "drop")
    digest = None if has_travelled else getattr(package, "__digest__", None)
    text = _loader_text(None) if digest is None and not has_travelled else None
    if text is not None:
        names: dict[str, Any] = {"__name__": "_anabranch_loader"}
        exec(text, names)
        digest = names["installed_digest"]()
    return {"python": ".".join(map(str, sys.version_info[:2])), "anabranch": digest}


def probe(origin: Any, token: str, data: bytes) -> str | None:
    """Load a run's code on a worker: None if that works, else what is wrong. `data` is pickled as a task gets it."""
    import pickle

    program = pickle.loads(data)
    refusal = refused(origin, token, program)
    if refusal is not None:
        return str(refusal["refused"])
    try:
        import_module(origin[3]).load_program(token, program[-1] if isinstance(program, tuple) else program)
    except BaseException as error:  # the user's modules run while they are imported
        return f"{type(error).__name__}: {error}"
    return None

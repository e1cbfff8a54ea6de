"""Flows from files and modules: what ``etl.py``, ``etl.py:name`` and ``package.module:name`` stand for.

A file is loaded as ``python etl.py`` would, with its directory first on ``sys.path``, but under its own name, so that
what it has below ``if __name__ == "__main__":`` does not run. Workers elsewhere cannot import it: `shipped_by_value`
sends its code along. Running the flow is left to others.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from threading import get_ident
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from anabranch.base.errors import AnabranchError, FlowLoadError, listed, nearest
from anabranch.base.prefect1 import VARIABLE
from anabranch.base.where import Where, caller, is_library
from anabranch.flows.flow import Flow
from anabranch.flows.kept_files import KeptLoader

if TYPE_CHECKING:
    from anabranch.runs.store.flows import FlowRecord

_OURS: set[str] = set()
"""Names in ``sys.modules`` that flow files have; the next file may take them over."""
_MADE: WeakKeyDictionary[ModuleType, list[Flow]] = WeakKeyDictionary()
"""Flows that were made while a module was executed, whatever variables it has."""


@dataclass(frozen=True, slots=True)
class LoadedFlow:
    """A flow, and what is known of where it came from."""

    flow: Flow
    module: ModuleType
    directory: Path
    """First on ``sys.path``: modules below it are the user's own."""
    is_file: bool
    stopped: Where | None = None
    """Line that wanted to run a flow while the file was loaded; nothing after it was executed."""


def load_flow(target: str) -> LoadedFlow:
    """Load a flow.

    Parameters
    ----------
    target
        ``FILE``, ``FILE:NAME``, ``module`` or ``module:NAME``. NAME is a variable, or the name of a flow.

    Raises
    ------
    FlowLoadError
        There is no such file, module or flow, it raised, or it has several flows and none was named.
    AnabranchError
        A flow in it cannot be built.
    """
    place, name, is_file = split_target(target)
    module, stopped, directory = _module_of(target, place, is_file)
    try:
        flow = _find_named(module, name, place) if name else _only(module, place)
    except FlowLoadError as error:
        if stopped is None:
            raise
        raise FlowLoadError(f"{error}; nothing after {stopped} was executed, because that line runs a flow") from None
    return LoadedFlow(flow, module, directory, is_file, stopped)


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A file or module that has been loaded for its flows."""

    module: ModuleType
    directory: Path
    is_file: bool
    stopped: Where | None = None


def load_module(target: str) -> LoadedModule:
    """Load a file or module, whatever flows it has.

    Raises
    ------
    FlowLoadError
        There is no such file or module, or it raised.
    """
    place, _, is_file = split_target(target)
    module, stopped, directory = _module_of(target, place, is_file)
    return LoadedModule(module, directory, is_file, stopped)


def _module_of(target: str, place: str, is_file: bool) -> tuple[ModuleType, Where | None, Path]:
    """The module, the line where it wanted to run a flow, and its directory."""
    if not place:
        raise FlowLoadError(f"expected a file such as etl.py, or a module; found {target!r}")
    if is_file:
        path = Path(os.path.abspath(place))
        return *_load_file(path, shown=place), root_of(path)
    return *_import(place), Path.cwd()


def split_target(target: str) -> tuple[str, str, bool]:
    """File or module, name of the flow (or nothing), and whether it is a file.

    Examples
    --------
    >>> split_target("etl.py:daily"), split_target("package.flows:daily")
    (('etl.py', 'daily', True), ('package.flows', 'daily', False))
    """
    place, mark, name = target.partition(".py:")
    if mark and name and not os.path.exists(target):  # the name of a flow may have anything in it
        return f"{place}.py", name, True
    place, colon, name = target.rpartition(":")
    # A colon may be part of the path: of "C:\etl.py", or of any name elsewhere.
    if not colon or os.path.exists(target) or "/" in name or "\\" in name:
        place, name = target, ""
    is_file = place.endswith(".py") or os.path.exists(place) or not _is_dotted(place)
    return place, name, is_file


def _is_dotted(place: str) -> bool:
    return all(part.isidentifier() for part in place.split("."))


# Files and modules ----------------------------------------------------------------------------------------------------


def _load_file(path: Path, *, shown: str) -> tuple[ModuleType, Where | None]:
    if path.is_dir():
        raise FlowLoadError(f"{shown} is a directory; name the file that has the flow")
    if not path.exists():
        raise FlowLoadError(f"there is no file {shown}{_similar(path)}")
    root = root_of(path)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    _put_first(path.parent)
    name = _name_in_package(path, root, shown) or _module_name(path)
    loader = KeptLoader(name, str(path))
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # there is a loader
    module = module_from_spec(spec)

    def execute() -> None:
        # Compiled here, each time: a cached byte code would be trusted if the file was changed within a second.
        code = loader.source_to_code(loader.get_data(str(path)), str(path))
        exec(code, module.__dict__)

    _OURS.add(name)
    return module, _execute_module(module, execute, root, shown)


def root_of(path: Path) -> Path:
    """The directory from which a file is imported: its own, or the one that its outermost package is in."""
    directory = path.parent
    while (directory / "__init__.py").is_file() and directory.name.isidentifier() and directory != directory.parent:
        directory = directory.parent
    return directory


def _name_in_package(path: Path, root: Path, shown: str) -> str:
    """The name of a module of a package that can be imported from there; nothing if it is in none."""
    if root == path.parent or not path.stem.isidentifier():
        return ""
    package = ".".join(path.parent.relative_to(root).parts)
    try:
        _wrap_errors(lambda: import_module(package), root, shown)
    except AnabranchError:
        if _RELATIVE.search(path.read_bytes()):
            raise
        return ""  # the file needs nothing of the package that it is in
    paths = getattr(sys.modules.get(package), "__path__", ())
    return f"{package}.{path.stem}" if str(path.parent) in paths else ""


_RELATIVE = re.compile(rb"^\s*from\s+\.", re.MULTILINE)


def _similar(path: Path) -> str:
    stems = [each.stem for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
    close = get_close_matches(path.stem, stems, n=1, cutoff=0.7)
    return f"; did you mean {path.with_name(close[0] + '.py').name!r}?" if close else ""


def _module_name(path: Path) -> str:
    """The file's stem as a module name, unless another module has it."""
    stem = "".join(char if char.isalnum() else "_" for char in path.stem)
    taken = sys.modules.get(stem)
    is_free = taken is None or stem in _OURS or getattr(taken, "__file__", None) == str(path)
    return stem if is_free and stem not in sys.stdlib_module_names and stem != "anabranch" else f"flow_{stem}"


def _import(name: str) -> tuple[ModuleType, Where | None]:
    here = Path.cwd()
    _put_first(here)
    if name in sys.modules:
        return sys.modules[name], None
    found: list[ModuleSpec | None] = []
    try:
        stopped = _wrap_errors(lambda: found.append(find_spec(name)), here, name)  # imports the packages that it is in
    except FlowLoadError as error:
        missing = error.__cause__
        if not isinstance(missing, ModuleNotFoundError) or not f"{name}.".startswith(f"{missing.name}."):
            raise
        found = [None]
        stopped = None
    spec = found[0] if found else None
    if stopped is not None:
        raise FlowLoadError(f"importing {name} runs a flow ({stopped}); put that under {_GUARD}")
    if spec is None or spec.loader is None:
        hint = f"; for a file, say {name}.py" if "." not in name else ""
        raise FlowLoadError(f"there is no module {name!r}, seen from {here}{hint}")
    module, loader = module_from_spec(spec), spec.loader
    # Not by an import statement, which would throw away a module that stops before its end.
    stopped = _execute_module(module, lambda: loader.exec_module(module), here, name)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module, stopped


def _execute_module(module: ModuleType, execute: Callable[[], object], directory: Path, shown: str) -> Where | None:
    """Run a module's code; the line where it wanted to run a flow, if it did."""
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    made = _MADE[module] = []
    try:
        return _wrap_errors(execute, directory, shown, made)
    except BaseException:
        sys.modules.pop(module.__name__, None)
        if before is not None:
            sys.modules[module.__name__] = before
        raise


def _put_first(directory: Path) -> None:
    if sys.path[:1] != [str(directory)]:
        sys.path.insert(0, str(directory))


_GUARD = '`if __name__ == "__main__":`'


class _RunReached(BaseException):
    """The file wants to run a flow, which is not what loading is for."""

    def __init__(self, where: Where) -> None:
        self.where = where


def _wrap_errors(
    execute: Callable[[], object], directory: Path, shown: str, made: list[Flow] | None = None
) -> Where | None:
    """Execute the user's code, with errors in it made ours; the line that wanted to run a flow, if one did.

    Flows that it makes are added to `made`.
    """
    init, run, serve, register = Flow.__init__, Flow.run, Flow.serve, Flow.register
    thread = get_ident()  # others are of tasks that run here meanwhile

    def initialize(self: Flow, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if made is not None and get_ident() == thread:
            made.append(self)

    def reached(self: Flow, *args: Any, **kwargs: Any) -> Any:
        if get_ident() != thread:
            return run(self, *args, **kwargs)
        raise _RunReached(caller())

    def registered(self: Flow, *args: Any, **options: Any) -> FlowRecord:
        """Loading a flow does not put it into the registry."""
        if get_ident() != thread:
            return register(self, *args, **options)
        from anabranch.runs.registry.registration import record_of

        project = args[0] if args else options.get("project") or options.get("project_name") or ""
        return record_of(self.registrable(f"{self.where.file}:{self.name}"), project=project)

    Flow.__init__ = initialize  # type: ignore[method-assign]
    Flow.register = registered  # type: ignore[method-assign]
    Flow.run = reached  # type: ignore[method-assign]  # only while the user's file is executed
    Flow.serve = reached  # type: ignore[method-assign]  # or each run would begin a service
    try:
        execute()
    except _RunReached as end:
        return end.where
    except AnabranchError:
        raise  # its message says where
    except SystemExit as error:
        text = f"{shown} ends the program while it is loaded, with exit({error.code!r}); put that under {_GUARD}"
        raise FlowLoadError(f"{text}{_user_line(error, directory)}") from error
    except SyntaxError as error:
        raise FlowLoadError(f"{shown} cannot be loaded: {_syntax_error(error)}") from error
    except Exception as error:
        where = _user_line(error, directory)
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "prefect":
            where += f"\n  it is written for Prefect 1: use `anabranch run --prefect`, or set {VARIABLE}=1"
        raise FlowLoadError(f"{shown} cannot be loaded: {type(error).__name__}: {error}{where}") from error
    finally:
        Flow.__init__, Flow.run, Flow.serve, Flow.register = init, run, serve, register  # type: ignore[method-assign]
    return None


def _user_line(error: BaseException, directory: Path) -> str:
    """The innermost line below `directory` that led to an error, else the innermost that is not ours."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_library(f.filename)]
    own = [frame for frame in frames if _is_below(frame.filename, directory)]
    frame = next(iter((own or frames)[::-1]), None)
    if frame is None:
        return ""
    return f"\n  {frame.filename}:{frame.lineno} in {frame.name}\n    {frame.line}"


def _syntax_error(error: SyntaxError) -> str:
    text = f"{type(error).__name__}: {error.msg}\n  {error.filename}:{error.lineno}"
    if error.text:
        line = error.text.rstrip("\n")
        text += f"\n    {line.lstrip()}"
        if error.offset and error.offset > 0:
            text += f"\n    {' ' * (error.offset - 1 - (len(line) - len(line.lstrip())))}^"
    return text


# Flows in a module ----------------------------------------------------------------------------------------------------


def flows_in(module: ModuleType) -> dict[str, Flow]:
    """Flows that a module has made: its variables, what lists and dicts of its variables hold, and what is in neither.

    Each is there once, by its variable or its name, without groups of others. If it has made none, those that it has
    imported.
    """
    held = _held(module)
    own = {name: flow for name, flow in held.items() if not _is_imported(flow, module)} or held
    own = {name: flow for name, flow in own.items() if not _is_group(flow, own.values())}
    known = list(held.values())
    for flow in _MADE.get(module, ()):
        is_left = flow.where.file == module.__file__ and all(flow is not each for each in known)
        if is_left and not _is_within(flow, known):
            known.append(flow)
            own[_free(flow.name, own)] = flow
    return own


def _held(module: ModuleType) -> dict[str, Flow]:
    """Flows among a module's variables by their names, and by names of their own those in lists and dicts."""
    values = list(vars(module).items())
    found: dict[str, Flow] = {}
    for name, value in values:
        if isinstance(value, Flow) and all(value is not each for each in found.values()):
            found[name] = value
    for name, value in values:
        if not name.startswith("__"):
            for flow in _flows_within(value, set()):
                if all(flow is not each for each in found.values()):
                    found[_free(flow.name, found)] = flow
    return found


def _flows_within(value: object, seen: set[int], depth: int = 3) -> Iterator[Flow]:
    """Flows in plain collections, and in collections of these."""
    if isinstance(value, Flow):
        yield value
    elif depth and isinstance(value, (list, tuple, set, frozenset, dict)) and id(value) not in seen:
        seen.add(id(value))
        for each in list(value.values() if isinstance(value, dict) else value):
            yield from _flows_within(each, seen, depth - 1)


def _free(name: str, taken: Mapping[str, Flow]) -> str:
    """The name, or one like it that is not taken."""
    return name if name not in taken else _free(f"{name}'", taken)


def _is_imported(flow: Flow, module: ModuleType) -> bool:
    """Whether a flow is another module's, which has it, too."""
    if flow.where.file == module.__file__:
        return False
    others = (each for each in list(sys.modules.values()) if getattr(each, "__file__", None) == flow.where.file)
    return any(flow is each for other in others for each in _held(other).values())


def _is_group(flow: Flow, others: Iterable[Flow]) -> bool:
    nodes = set(flow.graph)
    return bool(nodes) and any(nodes < set(other.graph) for other in others)


def _is_within(flow: Flow, others: Iterable[Flow]) -> bool:
    """Whether others have all that a flow has, so that it was a step towards one of them."""
    nodes = set(flow.graph)
    return any(nodes <= set(other.graph) for other in others)


def _only(module: ModuleType, place: str) -> Flow:
    flows = flows_in(module)
    variables = [name for name in flows if isinstance(getattr(module, name, None), Flow)]
    if len(variables) == 1:
        return flows[variables[0]]
    if not flows:
        raise FlowLoadError(f"{place} has no flow among its variables; write one with `with Flow(…) as flow:`")
    if len(flows) > 1:
        shown = ", ".join(f"{place}:{name}" for name in flows)
        raise FlowLoadError(f"{place} has {len(flows)} flows; say which: {shown}")
    return next(iter(flows.values()))


def _find_named(module: ModuleType, name: str, place: str) -> Flow:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if isinstance(value, Flow):
        return value
    flows = flows_in(module)
    same = [flow for flow in flows.values() if flow.name == name]
    if len(same) == 1:
        return same[0]
    if value is not None:
        raise FlowLoadError(f"{place}:{name} is {_name_kind(value)}, not a flow; {place} has: {listed(flows)}")
    raise FlowLoadError(f"{place} has no flow {name!r}; it has: {listed(flows)}{nearest(name, flows)}")


def _name_kind(value: object) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


# On to the workers ----------------------------------------------------------------------------------------------------


@contextmanager
def shipped_by_value(loaded: LoadedFlow | LoadedModule, *, with_neighbours: bool) -> Iterator[tuple[str, ...]]:
    """Within it, functions and classes of the flow's file travel as code, as those of ``__main__`` do.

    Parameters
    ----------
    with_neighbours
        Whether modules that the file imported from its own directory travel too. Workers that this process starts have
        the same ``sys.path`` and can import them; workers elsewhere cannot.

    Yields
    ------
    tuple of str
        Names of the modules that travel.
    """
    modules = [loaded.module] if loaded.is_file else []
    if with_neighbours:
        modules += [each for each in _modules_below(loaded.directory) if each is not loaded.module]
    with by_value(modules) as names:
        yield names


@contextmanager
def neighbours_by_value(flow: Flow) -> Iterator[None]:
    """Within it, the modules beside a flow's file and beside the script that runs travel as code."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    files = [each for each in (flow.where.file, main) if each is not None and Path(each).is_file()]
    directories = {root_of(Path(os.path.abspath(each))) for each in files} or {Path.cwd()}
    modules = {id(module): module for each in directories for module in _modules_below(each) if is_own(module)}
    with by_value(list(modules.values())):
        yield


@contextmanager
def by_value(modules: Iterable[ModuleType]) -> Iterator[tuple[str, ...]]:
    """Within it, functions and classes of these modules travel as code; their names are given."""
    import cloudpickle

    before = set(cloudpickle.list_registry_pickle_by_value())
    names = [each.__name__ for each in modules if each.__name__ not in before]
    for name in names:
        cloudpickle.register_pickle_by_value(sys.modules[name])
    try:
        yield tuple(names)
    finally:
        for name in names:
            if name in sys.modules:
                cloudpickle.unregister_pickle_by_value(sys.modules[name])


def _modules_below(directory: Path) -> list[ModuleType]:
    """Modules loaded from below a directory, those that are installed there left out."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name != "__main__"
        and isinstance(getattr(module, "__file__", None), str)
        and module.__name__ == name
        and name.partition(".")[0] != "anabranch"
        and _is_below(str(module.__file__), directory)
    ]


def own_files(file: str) -> list[str]:
    """A flow's file, and those of the modules beside it that have been loaded."""
    beside = [str(each.__file__) for each in _modules_below(root_of(Path(file))) if is_own(each)]
    return [file, *(each for each in beside if each.endswith(".py"))]


def is_own(module: ModuleType) -> bool:
    """Whether a module is the user's: of a file that is not installed, as Python's own and those of libraries are."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or module.__name__.partition(".")[0] == "anabranch":
        return False
    return _is_below(file, Path(Path(file).anchor)) and not Path(file).is_relative_to(_STANDARD)


_STANDARD = Path(os.__file__).parent


def _is_below(file: str, directory: Path) -> bool:
    path = Path(file)
    if not path.is_absolute() or not path.is_relative_to(directory):
        return False
    # Python itself, and a virtual environment, may lie below it.
    homes = [Path(home) for home in (sys.prefix, sys.base_prefix) if Path(home).is_relative_to(directory)]
    if any(path.is_relative_to(home) for home in homes):
        return False
    return not {"site-packages", "dist-packages"}.intersection(path.relative_to(directory).parts)

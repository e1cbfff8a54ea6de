"""Modules of Prefect 1 under their old paths, made when they are imported: what they have is elsewhere.

`OldModules` makes them below ``anabranch.prefect``, as ``anabranch.core.flow`` where there is no such module of ours,
and, for a file that is run with ``--prefect``, below ``prefect``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from anabranch.base.prefect1 import NAMES, VARIABLE, find_old_paths
from anabranch.prefect.missing import Missing
from anabranch.prefect.places import PLACES

ROOT = "anabranch.prefect"
OLD = "prefect"


@cache
def names_by_module() -> Mapping[str, frozenset[str]]:
    """Public names of Prefect 1, by module without that part of their names."""
    text = NAMES.read_text(encoding="utf-8")
    pairs = [line.partition(":")[::2] for line in text.splitlines()]
    return {module: frozenset(names.split()) for module, names in pairs}


def found(place: str, name: str) -> Any:
    """What stands for a name in a module of Prefect's.

    Raises
    ------
    AttributeError
        Prefect has no such name there.
    """
    known = names_by_module()
    inner = f"{place}.{name}".lstrip(".")
    is_known = name in known.get(place, ())
    home = PLACES.get(f"{place}:{name}") or (PLACES.get(name) if is_known or inner not in known else None)
    if home is not None:
        module, _, attribute = home.partition(":")
        return getattr(import_module(module), attribute or name)
    if inner in known and not is_known:
        return import_module(f"{ROOT}.{inner}")
    if is_known:
        return Missing(name, place)
    raise AttributeError(f"module 'prefect{place and '.'}{place}' has no attribute {name!r}")


class OldModule(ModuleType):
    """A module of Prefect's: its names are found when they are asked for."""

    _place: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return found(self._place, name)

    def __setattr__(self, name: str, value: object) -> None:
        # An import of control_flow.case puts that module over the class of its name, but for this.
        if not (isinstance(value, ModuleType) and name in names_by_module().get(self._place, ())):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *names_by_module().get(self._place, ())})


class OldModules(MetaPathFinder, Loader):
    """Makes modules below `root` that Prefect has and nobody else."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A module of Prefect's of that name."""
        if fullname != self.root and not fullname.startswith(f"{self.root}."):
            return None
        return ModuleSpec(fullname, self, is_package=True) if self._place(fullname) in names_by_module() else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module; of another root, the one below ours."""
        place = self._place(spec.name)
        if self.root != ROOT:
            module = import_module(f"{ROOT}.{place}" if place else ROOT)
            self._specs[spec.name] = module.__spec__
            return module
        module = OldModule(spec.name)
        vars(module)["_place"] = place
        vars(module)["__all__"] = sorted(names_by_module()[place])
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Names are found when they are asked for; a module under a second name keeps the first one."""
        name = module.__spec__.name if module.__spec__ is not None else ""
        if name in self._specs:
            module.__spec__ = self._specs[name]

    def _place(self, fullname: str) -> str:
        return fullname[len(self.root) + 1 :]


def find_ours(fullname: str) -> ModuleSpec | None:
    """A module of Prefect's below ``anabranch``, or below ``prefect``."""
    return OldModules(fullname.partition(".")[0]).find_spec(fullname)


sys.meta_path.append(OldModules(ROOT))


@contextmanager
def as_prefect() -> Iterator[None]:
    """Within it, ``import prefect`` means this package, also in processes that begin in it."""
    variable, modules = os.environ.get(VARIABLE), _taken_out()
    os.environ[VARIABLE] = "1"
    find_old_paths()
    try:
        yield
    finally:
        _taken_out()
        sys.modules.update(modules)
        os.environ.pop(VARIABLE, None)
        if variable is not None:
            os.environ[VARIABLE] = variable
        find_old_paths()


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == OLD or name.startswith(f"{OLD}.")]
    return {name: sys.modules.pop(name) for name in names}

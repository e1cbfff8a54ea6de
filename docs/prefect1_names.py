"""Lists the public names of Prefect 1 by module: ``python docs/prefect1_names.py WHEEL…`` writes them into the package.

The names are facts about these wheels (``pip download --no-deps prefect==1.4.1``, and of 0.x); nothing else is taken.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

from anabranch.base.prefect1 import NAMES


def names_in(source: str, *, is_package: bool) -> Iterator[str]:
    """What a module defines; of a package, what it imports from its own modules, too."""
    for node in ast.walk(ast.parse(source)) if is_package else ast.parse(source).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name, col_offset=0):
                yield name
            case (
                ast.Assign(targets=[ast.Name(id=name)], col_offset=0)
                | ast.AnnAssign(target=ast.Name(id=name), col_offset=0)
            ):
                yield name
            case ast.ImportFrom(module=module, level=level, names=names) if is_package:
                if level or (module or "").startswith("prefect"):
                    yield from (each.asname or each.name for each in names)


def modules_of(wheel: Path) -> Iterator[tuple[str, set[str]]]:
    """Modules below ``prefect``, without that part of their names, and what they have."""
    with ZipFile(wheel) as archive:
        for file in archive.namelist():
            *path, last = file.removeprefix("prefect/").removesuffix(".py").split("/")
            is_package = last == "__init__"
            parts = path if is_package else [*path, last]
            if not file.startswith("prefect/") or not file.endswith(".py") or any(p.startswith("_") for p in parts):
                continue
            names = set(names_in(archive.read(file).decode(), is_package=is_package))
            yield ".".join(parts), {name for name in names if name.isidentifier() and not name.startswith("_")}


def main(*wheels: str) -> None:
    """Write the names of all wheels together."""
    found: dict[str, set[str]] = {}
    for wheel in wheels:
        for module, names in modules_of(Path(wheel)):
            found.setdefault(module, set()).update(names)
    lines = [f"{module}: {' '.join(sorted(names))}".strip() for module, names in sorted(found.items())]
    NAMES.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

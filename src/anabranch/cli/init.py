"""``anabranch init``: a project to start from, with a flow, its tests, and how to run them."""

from __future__ import annotations

import re
import shlex
from importlib.resources import files
from pathlib import Path

import click

from anabranch.base.texts import printable
from anabranch.cli.exits import USAGE, Problem

_FILES = {
    "words.py": "words.py.tmpl",
    "tests/test_words.py": "test_words.py.tmpl",
    "README.md": "README.md.tmpl",
    "pyproject.toml": "pyproject.toml.tmpl",
}
"""Of the project, with the templates that they are made of."""


@click.command(short_help="Create a project to start from.")
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(file_okay=False))
def init(directory: str) -> None:
    """Create a project in a directory: a flow, its tests, a README and pyproject.toml.

    The directory is created if it does not exist. If one of the four files exists, nothing is written.
    """
    root = Path(directory)
    there = [name for name in _FILES if (root / name).exists() or (root / name).is_symlink()]
    if there:
        raise Problem(
            f"{directory} already has {', '.join(there)}, so nothing was written; "
            "name another directory (anabranch init NAME), or move them away",
            USAGE,
        )
    name = project_name(root.absolute().name)
    try:
        for file, template in _FILES.items():
            _write(root / file, template, name)
    except OSError as error:
        raise Problem(
            f"{error.filename} cannot be written: {error.strerror}; name another directory (anabranch init NAME)",
            USAGE,
        ) from error
    where = "" if directory == "." else f"cd {shlex.quote(printable(directory))}; "
    click.echo("\n".join(printable(str(root / file)) for file in _FILES))
    click.echo(f"run it: {where}anabranch run words.py\ntest it: {where}python -m pytest", err=True)


def _write(path: Path, template: str, name: str) -> None:
    text = (files("anabranch.cli") / "starter" / template).read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as file:  # "x": nothing is written over, whoever was quicker
        file.write(text.replace("{{name}}", name))


def project_name(text: str) -> str:
    """The name of a directory, changed as little as packaging tools require.

    Examples
    --------
    >>> project_name("My flows (2026)")
    'my-flows-2026'
    >>> project_name("наше")
    'flows'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "flows"

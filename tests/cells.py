"""Code of a notebook's cells: in no file, with lines that only this process knows."""

from __future__ import annotations

import itertools
import linecache
import textwrap
from typing import Any

_numbers = itertools.count(1)


def run_cell(text: str, **names: Any) -> dict[str, Any]:
    """The names that a cell defines; ``names["__file__"]`` is the file that its code claims to be from."""
    text = textwrap.dedent(text).lstrip("\n")
    file = f"/tmp/ipykernel_77/{next(_numbers)}.py"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    names |= {"__name__": "__main__", "__file__": file}
    exec(compile(text, file, "exec"), names)
    return names

"""What tests need of a machine. Where it is missing they are skipped, and fail in CI, where that would hide a gap.

``python tests/needs.py`` prints which of Debian's packages are missing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

PACKAGES = {
    "bash": "bash",
    "chromium": "chromium",
    "curl": "curl",
    "dot": "graphviz",
    "git": "git",
    "initdb": "postgresql",
    "nginx": "nginx-light",
    "npm": "npm",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
}
"""Debian's, by program."""


def find(name: str) -> Path | None:
    """A program, if it is there; Debian keeps PostgreSQL's off the path."""
    folders = [*os.get_exec_path(), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    found = shutil.which(name, path=os.pathsep.join(folders))
    return Path(found) if found is not None else None


def program(name: str) -> Path:
    """A program; without it the test cannot be."""
    found = find(name)
    return found if found is not None else miss(name, f"apt-get install {PACKAGES[name]}")


def miss(what: str, cure: str) -> NoReturn:
    """End a test for what is missing."""
    import pytest

    reason = f"{what} is missing: {cure}"
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (where CI is set, no test is skipped for that)")
    pytest.skip(reason)


def closing_line(reasons: Iterable[str]) -> str:
    """What to install for the tests that were skipped for these reasons; nothing if none was for what is missing.

    >>> closing_line(["dot is missing: apt-get install graphviz", "root may write anywhere"])
    '1 test was skipped for what is missing here: apt-get install graphviz'
    """
    cures = Counter(found[1] for each in reasons if (found := re.search(r" is missing: (\w.+)", each)))
    commands: dict[str, list[str]] = {}
    for cure in sorted(cures):
        command, _, what = cure.rpartition(" ")
        commands.setdefault(command, []).append(what)
    count = cures.total()
    tests = "1 test was" if count == 1 else f"{count} tests were"
    told = "; ".join(" ".join([command, *words]) for command, words in commands.items())
    return f"{tests} skipped for what is missing here: {told}" if count else ""


if __name__ == "__main__":
    print(*sorted({package for name, package in PACKAGES.items() if find(name) is None}))

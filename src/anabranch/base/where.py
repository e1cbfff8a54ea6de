"""Where in the user's own code something was written."""

from __future__ import annotations

import re
import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])
OURS = "<anabranch>"
"""The file of this package's own code where that has travelled: it means no file of the user's anywhere."""
# Frames of these files are never where a user wrote something.
_LIBRARY = (_PACKAGE, OURS.rstrip(">"), "<frozen", "<string>")
_INSTALLED = tuple(set(sysconfig.get_paths(vars={}).values()) - {sysconfig.get_path("data")})
# What is installed on another machine, from where frames come too, has no other mark.
_ELSEWHERE = re.compile(r"[/\\](site-packages|dist-packages|lib[/\\]python3\.\d+)[/\\]")


@dataclass(frozen=True, slots=True)
class Where:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def caller() -> Where:
    """The innermost line outside this package on the current stack."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_library(frame.f_code.co_filename):
        frame = frame.f_back
    return Where(frame.f_code.co_filename, frame.f_lineno)


@lru_cache(maxsize=4096)
def is_users(filename: str) -> bool:
    """Whether a file is the user's own: neither this package's, nor installed, nor of the standard library."""
    return not (is_library(filename) or is_installed(filename))


@lru_cache(maxsize=4096)
def is_installed(filename: str) -> bool:
    """Whether a file is of an installed package or of the standard library, here or on another machine."""
    return filename.startswith(_INSTALLED) or _ELSEWHERE.search(filename) is not None


@lru_cache(maxsize=4096)
def is_library(filename: str) -> bool:
    """Whether a file belongs to this package; the flows it ships are user code."""
    return filename.startswith(_LIBRARY) and "/demo/" not in filename.replace("\\", "/")

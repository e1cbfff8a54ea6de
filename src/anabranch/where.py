"""Where in the user's own code something was written."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)
# Frames of these files are never where a user wrote something.
_LIBRARY = (_PACKAGE, "<frozen", "<string>")


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


def is_library(filename: str) -> bool:
    """Whether a file belongs to this package; the flows it ships are user code."""
    return filename.startswith(_LIBRARY) and "/demo/" not in filename.replace("\\", "/")

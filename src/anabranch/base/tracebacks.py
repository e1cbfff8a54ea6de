"""Tracebacks as failures keep them, as text, and made of that again: frames that have a place and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType, TracebackType

HEAD = "Traceback (most recent call last):\n"
LED = "\n(which led to)\n"
"""Stands between what an exception was raised from and its own traceback."""

_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)')
_LINE = re.compile(r"(?P<file>.*):(?P<line>\d+) in (?P<function>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Frame:
    """A line that was running."""

    file: str
    line: int
    function: str
    text: str = ""
    """The line itself, where it is known, without its indent."""


def frames_of(text: str) -> list[Frame]:
    """Frames of a failure's traceback; what looks like frames in the messages around it is none."""
    cause, led, own = text.partition(LED)
    found: list[Frame] = []
    for line in (own if led else cause).removeprefix(HEAD).split("\n"):
        match = _FRAME.fullmatch(line)
        if match is not None:
            found.append(_frame(match))
        elif not line.startswith("  "):
            break
        elif line.startswith("    ") and found and not found[-1].text:
            last = found[-1]
            found[-1] = Frame(last.file, last.line, last.function, line.strip())
    return found


def frame_of(text: str) -> Frame | None:
    """The frame that a failure's line tells of, if it tells of one."""
    match = _LINE.fullmatch(text)
    return _frame(match) if match is not None else None


def _frame(match: re.Match[str]) -> Frame:
    return Frame(match["file"], int(match["line"]), match["function"])


def make_traceback(frames: Sequence[Frame]) -> TracebackType | None:
    """A traceback with these frames; it holds nobody's variables, and shows lines without marks below them."""
    made: TracebackType | None = None
    for frame in reversed(frames):
        code = _CODE.replace(
            co_filename=frame.file,
            co_name=frame.function,
            co_qualname=frame.function,
            co_firstlineno=frame.line,
        )
        names = {"__name__": frame.function, "__file__": frame.file}
        # A frame that has run would keep those who called it; a generator's that has not begun keeps none.
        made = TracebackType(made, FunctionType(code, names)().gi_frame, 0, frame.line)
    return made


def _stand_in() -> Iterator[None]:
    yield


def _without_columns(size: int) -> bytes:
    """A line table for so many instructions, all of them in the first line.

    An entry says no more than that, of up to eight instructions: Objects/locations.md in the sources of CPython.
    """
    return b"".join(bytes([0x80 | 13 << 3 | min(8, size - at) - 1, 0]) for at in range(0, size, 8))


_CODE = _stand_in.__code__.replace(co_linetable=_without_columns(len(_stand_in.__code__.co_code) // 2))

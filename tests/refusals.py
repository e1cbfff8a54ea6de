"""What a refusal has to say: its kind, the words that help, and the line of the user's that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import pytest

from anabranch.base.where import is_library


@contextmanager
def refused(kind: type[BaseException], *words: str, at: str | None = None) -> Iterator[pytest.ExceptionInfo]:
    """Within it, an error of that kind is raised whose message has the words, and the user's file and line.

    `at`: the place that the message names, where that is not the line that raised; "" for errors that have none.
    """
    with pytest.raises(kind) as info:
        yield info
    text = str(info.value)
    for word in (*words, _line(info.tb) if at is None else at):
        assert word in text, f"{word!r} is not in: {text}"


def _line(tb: TracebackType | None) -> str:
    """The innermost line of the traceback that is not the library's own."""
    place = ""
    while tb is not None:
        if not is_library(tb.tb_frame.f_code.co_filename):
            place = f"{tb.tb_frame.f_code.co_filename}:{tb.tb_lineno}"
        tb = tb.tb_next
    return place

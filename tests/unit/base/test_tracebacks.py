"""Tracebacks of text."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from anabranch.base.tracebacks import Frame, frame_of, frames_of, make_traceback
from anabranch.engine.units.failures import describe, restore
from anabranch.states import Failure

TEXT = """\
Traceback (most recent call last):
  File "/app/my etl.py", line 3, in outer
    inner(1)
  …
  File "<nowhere>", line 7, in <lambda>
  File "/app/b.py", line 9, in inner
    return 1 / 0
  [Previous line repeated 3 more times]
ValueError: no
  File "/app/of_the_message.py", line 1, in nothing
"""
FRAMES = [
    Frame("/app/my etl.py", 3, "outer", "inner(1)"),
    Frame("<nowhere>", 7, "<lambda>"),
    Frame("/app/b.py", 9, "inner", "return 1 / 0"),
]


def test_frames_are_read_from_text() -> None:
    assert frames_of(TEXT) == FRAMES
    assert frames_of("") == []
    assert frames_of("ValueError: no\n") == []


def test_frames_in_the_message_of_a_cause_are_none_of_the_failures() -> None:
    cause = 'RemoteError: Traceback (most recent call last):\n  File "/remote/x.py", line 1, in y\n'
    assert frames_of(f"{cause}\n(which led to)\n{TEXT}") == FRAMES


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("/app/etl.py:9 in inner", Frame("/app/etl.py", 9, "inner")),
        ("C:\\etl.py:9 in <lambda>", Frame("C:\\etl.py", 9, "<lambda>")),
        ("", None),
        ("nothing of the kind", None),
    ],
)
def test_a_frame_is_read_from_a_line(text: str, frame: Frame | None) -> None:
    assert frame_of(text) == frame


def test_a_traceback_has_the_frames_it_was_made_of_and_nobodys_variables() -> None:
    made = make_traceback(FRAMES)
    found = []
    while made is not None:
        code = made.tb_frame.f_code
        assert made.tb_frame.f_lineno == made.tb_lineno
        assert made.tb_frame.f_back is None
        assert made.tb_frame.f_locals == {}
        found.append((code.co_filename, made.tb_lineno, code.co_name))
        made = made.tb_next
    assert found == [(frame.file, frame.line, frame.function) for frame in FRAMES]
    assert make_traceback([]) is None


def test_an_exception_that_nobody_catches_shows_the_lines_without_marks(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text("def ratio(x):\n    return 1 / (x - 1)  # here\n", encoding="utf-8")
    code = (
        "from anabranch.base.tracebacks import *\n"
        "raise ValueError('no').with_traceback(make_traceback([Frame('steps.py', 2, 'ratio')]))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert outcome.stderr.endswith(
        '  File "steps.py", line 2, in ratio\n    return 1 / (x - 1)  # here\nValueError: no\n'
    )


# Exceptions -----------------------------------------------------------------------------------------------------------


def ratio(x: int) -> float:
    return 1 / x


def deep(n: int) -> float:
    return ratio(0) if not n else deep(n - 1)


def failure_of(n: int, *, in_full: bool = True) -> Failure:
    with pytest.raises(ZeroDivisionError) as raised:
        deep(n)
    return describe(raised.value, in_full=in_full)


def lines_of(error: BaseException) -> list[str]:
    return [f"{frame.name}: {frame.line}" for frame in traceback.extract_tb(error.__traceback__)]


def test_an_exception_comes_back_with_its_traceback() -> None:
    error = restore(failure_of(1))
    assert type(error) is ZeroDivisionError
    assert lines_of(error)[-3:] == [
        "deep: return ratio(0) if not n else deep(n - 1)",
        "deep: return ratio(0) if not n else deep(n - 1)",
        "ratio: return 1 / x",
    ]


def test_one_of_many_comes_back_with_its_last_line() -> None:
    failure = failure_of(1, in_full=False)
    assert failure.traceback == ""
    assert lines_of(restore(failure)) == ["ratio: return 1 / x"]


def test_a_thousand_of_a_kind_share_their_frames() -> None:
    first, second = (restore(failure_of(1, in_full=False)) for _ in range(2))
    assert first is not second
    assert first.__traceback__ is second.__traceback__
    with pytest.raises(ZeroDivisionError):
        raise first
    assert len(lines_of(first)) == len(lines_of(second)) + 1, "and raising one leaves the other as it was"


def test_a_very_deep_traceback_comes_back_as_bounded_as_it_went() -> None:
    error = restore(failure_of(900))
    lines = lines_of(error)
    assert len(lines) <= 30
    assert lines[-1] == "ratio: return 1 / x"


def test_what_is_no_exception_any_more_has_the_traceback_too() -> None:
    error = restore(Failure("remote.Unknown", "gone", traceback=TEXT))
    assert str(error) == "remote.Unknown: gone"
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["outer", "<lambda>", "inner"]
    assert restore(Failure("remote.Unknown", "gone")).__traceback__ is None
    assert restore(None, "lost").__traceback__ is None

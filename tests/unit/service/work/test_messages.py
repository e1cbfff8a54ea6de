"""What services and processes of runs tell one another crosses a pipe as lines."""

from __future__ import annotations

import signal

import pytest

from anabranch.service.work.messages import Exit, Job, Message, Signal, from_line, to_line


@pytest.mark.parametrize(
    "message",
    [
        Job("run\n1", "t"),
        Job("r", "t", is_alone=True),
        Signal("r", signal.SIGTERM),
        Signal(""),
        Exit("ü", "t", -9, False),
    ],
    ids=str,
)
def test_a_message_is_one_line_and_comes_back_as_it_was(message: Message):
    line = to_line(message)
    assert line.index(b"\n") == len(line) - 1
    assert from_line(line) == message


def test_tokens_are_not_shown():
    assert "secret" not in repr(Job("r", "secret"))

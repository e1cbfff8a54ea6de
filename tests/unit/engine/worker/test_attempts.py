"""Deadlines of attempts, and code that does not heed them."""

from __future__ import annotations

import signal
import time

import pytest

from anabranch.engine.worker.attempts import call_within, telling_overdue
from anabranch.errors import TaskTimeout


def insist(told: list[str], caught: list[str]) -> str:
    """Catch everything, until that is told."""
    while not told:
        try:
            while not told:
                pass
        except BaseException as error:
            caught.append(type(error).__name__)
    return "done"


def test_who_wants_to_hears_of_a_call_that_catches_its_deadline():
    told: list[str] = []
    caught: list[str] = []
    with telling_overdue(0.0, told.append):
        assert call_within(0.01, insist, [told, caught], {}) == "done"
    assert len(caught) == 1  # it is told of, and not raised again
    (text,) = told
    assert text == "ran longer than its timeout of 0.01 s and could not be stopped: its code catches everything"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_call_that_heeds_its_deadline_is_not_told_of():
    told: list[str] = []
    with telling_overdue(0.0, told.append), pytest.raises(TaskTimeout, match="ran longer than its timeout"):
        call_within(0.01, time.sleep, [600], {})
    assert told == []


def test_nobody_is_told_outside():
    caught: list[str] = []
    assert call_within(0.01, insist, [caught, caught], {}) == "done"

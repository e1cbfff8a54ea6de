"""The time that a run may take."""

from __future__ import annotations

import signal
import threading

import pytest

from anabranch.engine.driver.deadline import Deadline, Overdue


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def block():
    """Wait for what never comes, in C."""
    threading.Event().wait(60)


def test_a_deadline_is_over_when_its_time_has_passed():
    clock = Clock()
    deadline = Deadline(5, clock)
    assert (deadline.left_s, deadline.is_over) == (5, False)
    clock.now += 4.5
    assert (deadline.left_s, deadline.is_over) == (0.5, False)
    clock.now += 4.5
    assert (deadline.left_s, deadline.is_over) == (0, True)


@pytest.mark.parametrize("timeout_s", [0, -3.0])
def test_nothing_begins_when_no_time_is_left(timeout_s):
    deadline = Deadline(timeout_s)
    with pytest.raises(Overdue), deadline.interrupting():
        pytest.fail("it began")


def test_a_run_without_a_timeout_is_never_late_and_takes_no_signal():
    deadline, before = Deadline(None), signal.getsignal(signal.SIGURG)
    with deadline.armed(), deadline.interrupting():
        assert signal.getsignal(signal.SIGURG) is before
    assert (deadline.left_s, deadline.is_over) == (None, False)


def test_what_blocks_in_the_main_thread_is_interrupted_and_the_handler_before_is_back():
    deadline, before = Deadline(0.01), signal.getsignal(signal.SIGURG)
    with deadline.armed(), pytest.raises(Overdue), deadline.interrupting():
        block()
    assert signal.getsignal(signal.SIGURG) is before


def test_code_of_the_driver_itself_is_not_interrupted():
    clock = Clock()
    deadline = Deadline(0.01, clock)
    with deadline.armed():
        clock.now += 1
        signal.raise_signal(signal.SIGURG)
        assert deadline.is_over


def test_a_signal_before_the_time_is_none_of_ours():
    deadline = Deadline(3600)
    with deadline.armed(), deadline.interrupting():
        signal.raise_signal(signal.SIGURG)


def test_the_run_around_another_interrupts_what_blocks_in_the_inner_one():
    outer, inner = Deadline(0.01), Deadline(3600)
    with outer.armed(), pytest.raises(Overdue), outer.interrupting(), inner.armed(), inner.interrupting():
        block()
    assert not inner.is_over


def test_it_interrupts_once_so_that_cleaning_up_is_left_in_peace():
    cleaned = []

    def work():
        try:
            block()
        finally:
            signal.raise_signal(signal.SIGURG)
            cleaned.append(True)

    deadline = Deadline(0.01)
    with deadline.armed(), pytest.raises(Overdue), deadline.interrupting():
        work()
    assert cleaned == [True]


def test_python_code_in_another_thread_is_interrupted_and_what_follows_is_not():
    seen = []

    def work():
        deadline = Deadline(0.01)
        with deadline.armed():
            try:
                with deadline.interrupting():
                    while True:
                        pass
            except Overdue:
                seen.append("interrupted")
            for _ in range(10_000):
                pass
            seen.append("went on")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert seen == ["interrupted", "went on"]

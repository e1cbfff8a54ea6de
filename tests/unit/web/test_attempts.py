"""Wrong tokens are counted by address, for a minute."""

from __future__ import annotations

from anabranch.web.attempts import MAX_ADDRESSES, MOST, WINDOW_S, Attempts


def test_an_address_waits_after_too_many_and_no_other_does():
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(MOST):
        assert not attempts.is_exhausted("a")
        attempts.note("a")
    assert attempts.is_exhausted("a")
    assert not attempts.is_exhausted("b")
    now[0] += WINDOW_S
    assert not attempts.is_exhausted("a")
    assert attempts._times == {}


def test_what_is_remembered_does_not_grow():
    attempts = Attempts(lambda: 0.0)
    for number in range(2 * MAX_ADDRESSES):
        attempts.note(f"2001:db8::{number:x}")
    assert len(attempts._times) == MAX_ADDRESSES

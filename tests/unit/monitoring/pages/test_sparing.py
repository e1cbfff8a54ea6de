"""What takes long is asked for seldom."""

from __future__ import annotations

import pytest

from anabranch.monitoring.pages.sparing import MAX_KNOWN, SHARE, Sparing


class Slow:
    """Answers with how often it was asked, and takes its time."""

    def __init__(self) -> None:
        self.now, self.takes, self.asked = 0.0, 1.0, 0

    def __call__(self, *question: object) -> int:
        self.now += self.takes
        self.asked += 1
        return self.asked


def test_an_answer_is_given_again_for_ten_times_as_long_as_it_took() -> None:
    slow = Slow()
    spared = Sparing(slow, clock=lambda: slow.now)
    assert [spared("a"), spared("a"), spared("b"), spared("a")] == [1, 1, 2, 1]
    slow.now += SHARE
    assert [spared("a"), spared("b")] == [3, 4]
    # and what takes no time is asked for each time
    slow.takes = 0.0
    slow.now += SHARE
    assert [spared("a"), spared("a")] == [5, 6]


def test_no_more_than_a_few_answers_are_kept_and_no_error_is() -> None:
    slow = Slow()
    spared = Sparing(slow, clock=lambda: slow.now)
    for question in range(3 * MAX_KNOWN):
        spared(question)
    assert len(spared._known) <= MAX_KNOWN
    broken = Sparing(int)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            broken("x")

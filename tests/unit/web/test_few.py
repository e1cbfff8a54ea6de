"""Lines that strangers cause are few, and what was left out is told."""

from __future__ import annotations

import logging

from anabranch.web.few import MOST, WINDOW_S, Few


def test_so_many_lines_are_let_through_in_a_minute_and_the_next_says_how_many_were_not():
    # given
    now = [0.0]
    few = Few(lambda: now[0])

    def lines(count: int) -> list[str]:
        records = [
            logging.makeLogRecord({"msg": "from %s", "args": ("%s%d",), "levelno": logging.WARNING})
            for _ in range(count)
        ]
        return [each.getMessage() for each in records if few.filter(each)]

    # when, then
    assert lines(MOST + 1_800) == ["from %s%d"] * MOST
    now[0] += WINDOW_S
    assert lines(2) == ["from %s%d (1,800 such lines before it were left out)", "from %s%d"]
    now[0] += WINDOW_S
    assert lines(1) == ["from %s%d"]

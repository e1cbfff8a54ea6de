"""How long a run waits for workers."""

from __future__ import annotations

from anabranch.engine.driver.waiting import Patience


def test_it_speaks_once_and_gives_up_at_its_limit() -> None:
    said: list[str] = []
    patience = Patience(60, said.append, lambda: ("no workers", "start one"))

    over = [patience.is_over(0, now) for now in (100, 105, 111, 120, 159, 160)]

    assert over == [False, False, False, False, False, True]
    assert said == ["no workers for 11 s; waiting up to 60 s in all"]
    assert patience.reason == (
        "no workers for 60 s; start one, or wait longer with the setting engine.no_workers_timeout_s"
    )


def test_a_worker_that_comes_ends_the_wait() -> None:
    patience = Patience(60, lambda text: None, lambda: ("no workers", "start one"))
    patience.is_over(0, 0)

    assert not patience.is_over(2, 59)
    assert not patience.is_over(0, 61)

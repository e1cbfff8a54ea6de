from __future__ import annotations

from anabranch.service.pulse import AWAY_S, STUCK_S, Pulse


def test_a_service_whose_store_is_away_works_and_is_not_ready():
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    assert (pulse.is_well, pulse.is_answered) == (True, True)
    while now[0] < 10 * STUCK_S:
        now[0] += AWAY_S
        pulse.note(is_answered=False)
        assert (pulse.is_well, pulse.is_answered) == (True, False)
    pulse.note(is_answered=True)
    assert (pulse.is_well, pulse.is_answered) == (True, True)


def test_a_service_whose_turns_do_not_end_does_not_work():
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    now[0] += STUCK_S
    assert (pulse.is_well, pulse.is_answered) == (False, False)

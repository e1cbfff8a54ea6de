"""Exit codes of commands."""

from __future__ import annotations

import pytest

from anabranch.cli.exits import code_of_state


@pytest.mark.parametrize(
    ("code", "states"),
    [(0, ["Success", "Pending", "Running"]), (5, ["Cancelled", "Paused", "TimedOut"]), (1, ["Failed", "Crashed"])],
)
def test_the_state_of_a_run_has_one_exit_code_wherever_it_is_told(code: int, states: list[str]):
    assert {code_of_state(each) for each in states} == {code}

"""How states look on pages."""

from __future__ import annotations

from anabranch.base.states import BY_CODE
from anabranch.monitoring.pages.looks import SEVERITY, look_of_code


def test_every_state_has_its_place_and_its_look() -> None:
    assert sorted(SEVERITY) == sorted({0, *BY_CODE})
    assert all(look_of_code(code).fill for code in BY_CODE)

"""Tasks of simulated worlds that fail until somebody else has taken their run over, who has mended them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests import descriptions

ACT = "until it is mended"


class Mending:
    """Whether that has happened in the world that is played."""

    def __init__(self) -> None:
        self.is_done = False


MENDING = Mending()


def _mended(n: int, given: Sequence[Any]) -> int:
    from tests.simulation.mending import MENDING  # that of this process, where the function came here by value

    if not MENDING.is_done:
        raise ValueError("not mended yet")
    return n


descriptions.ACTS[ACT] = _mended

"""What a service hears of: that there is news, for as long as its database tells of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from anabranch.errors import RunStoreUnavailable
from anabranch.service.work import ear as module
from anabranch.service.work.ear import Ear


class Teller:
    """A database with news, away for a moment, and with news again."""

    def __init__(self) -> None:
        self.asked = 0

    def news(self, pause_s: float) -> Iterator[bool]:
        self.asked += 1
        yield False
        yield True
        if self.asked == 1:
            raise RunStoreUnavailable("the database does not answer")
        while True:
            yield False


def test_it_listens_again_where_the_database_was_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    database, heard, twice = Teller(), [], threading.Event()

    def hear() -> None:
        heard.append(database.asked)
        if len(heard) == 2:
            twice.set()

    ear = Ear(database, hear)  # type: ignore[arg-type]
    ear.open()
    assert twice.wait(60)
    ear.close()
    assert heard == [1, 2]
    assert not ear._thread.is_alive()

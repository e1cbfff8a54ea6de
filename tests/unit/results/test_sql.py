"""What a database says that will be there again."""

from __future__ import annotations

import pytest

from anabranch.results.sql import _is_refused


@pytest.mark.parametrize(
    "said",
    [
        "connection refused",
        "server closed the connection unexpectedly",
        "connection timeout expired",
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is shutting down",
        "FATAL:  the database system is in recovery mode",
        "FATAL:  the database system is not yet accepting connections",
    ],
)
def test_a_server_that_starts_or_stops_is_waited_for(said: str) -> None:
    assert _is_refused(f"connection failed: {said}\nDETAIL:  more")


def test_one_that_does_not_know_us_is_not() -> None:
    assert not _is_refused('FATAL:  password authentication failed for user "tester"')

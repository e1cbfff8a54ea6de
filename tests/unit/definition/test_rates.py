"""Rates of attempts, as tasks are given them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from anabranch import Flow, task
from anabranch.definition.rates import MAX_COUNT, rate_of
from anabranch.errors import OptionError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("100/min", (100, 60.0)),
        (" 10 / s ", (10, 1.0)),
        ("5/10s", (5, 10.0)),
        ("5/10 seconds", (5, 10.0)),
        ("3/0.5s", (3, 0.5)),
        ("1000/hours", (1000, 3600.0)),
        ("7/2days", (7, 2 * 86400.0)),
        ("20/250ms", (20, 0.25)),
        ((4, 2), (4, 2.0)),
        ([4, timedelta(minutes=1)], (4, 60.0)),
        (f"{MAX_COUNT}/day", (MAX_COUNT, 86400.0)),
    ],
)
def test_a_rate_is_a_count_and_a_window(value: object, expected: tuple[int, float]) -> None:
    assert rate_of(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "100",
        "100/",
        "/min",
        "100/fortnight",
        "100 per min",
        "-1/s",
        "0/s",
        "1.5/s",
        "1/0s",
        "1/0.0001ms",
        "1/400days",
        "1/infs",
        "1/1e3s",
        f"{MAX_COUNT + 1}/s",
        "1" * 5000 + "/s",
        "\u0661/s",  # a digit, in Arabic
        (True, 1),
        (1, True),
        (1, float("nan")),
        (1, float("inf")),
        (1.0, 1.0),
        (1, "s"),
        (1,),
        100,
        None,
        b"1/s",
        {"api": "1/s"},
    ],
)
def test_what_is_no_rate_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match="rate: expected 1 to 1,000,000 in a millisecond to a year, such as") as found:
        task(rate={"api": value})(lambda: None)

    assert len(str(found.value)) < 500


@pytest.mark.parametrize(
    "rates", [{"": "1/s"}, {3: "1/s"}, {"a\0": "1/s"}, {"a\x1fb": "1/s"}, {201 * "n": "1/s"}, ["api"], "api"]
)
def test_names_of_rates_are_short_printable_texts(rates: object) -> None:
    with pytest.raises(OptionError, match="rate: expected names with rates, such as"):
        task(rate=rates)(lambda: None)


def test_a_rate_can_be_changed_for_a_call() -> None:
    ask = task(rate={"api": "100/min", "\u00fcber alles": "1/s"})(lambda: None)
    assert ask.rate == {"api": (100, 60.0), "\u00fcber alles": (1, 1.0)}

    with Flow("calls"):
        node = ask(task_args={"rate": {"api": (3, 1)}})

    assert node.policies.rate == {"api": (3, 1.0)}

"""Interrupts that come while a step is carried out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from anabranch.engine.driver.interrupts import InterruptsLater


@pytest.fixture
def came() -> Iterator[list[int]]:
    """Signals that the handler of SIGTERM has seen; that of SIGINT raises KeyboardInterrupt."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: seen.append(signum))
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield seen
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, interrupts)


def test_handlers_run_at_the_end_of_the_block_in_the_order_of_what_came(came: list[int]) -> None:
    def step() -> None:
        with InterruptsLater():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert came == []

    with pytest.raises(KeyboardInterrupt):
        step()

    assert came == [signal.SIGTERM]


def test_handlers_are_afterwards_what_they_were(came: list[int]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    with InterruptsLater():
        assert signal.getsignal(signal.SIGTERM) not in before
    with pytest.raises(ZeroDivisionError), InterruptsLater():
        _ = 1 / 0

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_the_system_does_by_itself_stays_so(came: list[int], handler: signal.Handlers) -> None:
    signal.signal(signal.SIGTERM, handler)

    with InterruptsLater():
        assert signal.getsignal(signal.SIGTERM) is handler


def test_other_threads_are_not_interrupted_and_change_nothing(came: list[int]) -> None:
    def within() -> object:
        with InterruptsLater():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(within).result() is signal.getsignal(signal.SIGTERM)

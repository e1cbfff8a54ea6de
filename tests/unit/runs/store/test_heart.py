"""The lease of a run, and a process that stood still for longer than it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from anabranch.errors import RunStoreUnavailable, StaleOwner
from anabranch.runs.store.heart import Heart
from anabranch.runs.store.records import Ownership

MINE = Ownership("run", "here:1", 1, "token")


class Store:
    """As much of a run store as a heart needs."""

    lease_s = 10.0

    def __init__(self) -> None:
        self.beats = 0
        self.is_taken = False
        self.wish = ""
        self.silent = False

    def heartbeat(self, ownership: Ownership) -> None:
        self.beats += 1
        if self.is_taken:
            raise StaleOwner("somebody else has it")

    def find_wish(self, ownership: Ownership) -> str:
        if self.silent:
            raise RunStoreUnavailable("no answer")
        return self.wish


@pytest.fixture
def clock() -> Any:
    """A clock that a test moves."""
    return SimpleNamespace(now=100.0)


def _heart(store: Any, clock: Any, lost: list[StaleOwner]) -> Heart:
    return Heart(store, MINE, on_lost=lost.append, clock=lambda: clock.now)


@pytest.mark.parametrize(("still_s", "beats"), [(0.0, 0), (9.9, 0), (10.1, 1), (1e6, 1)])
def test_who_stood_still_for_longer_than_the_lease_renews_it_before_anything_begins(
    clock: Any, still_s: float, beats: int
) -> None:
    store, lost = Store(), list[StaleOwner]()
    heart = _heart(store, clock, lost)

    clock.now += still_s
    heart.catch_up()
    heart.catch_up()

    assert (store.beats, lost) == (beats, [])


def test_who_stood_still_before_it_had_a_heart_renews_the_lease_before_anything_begins(clock: Any) -> None:
    store = Store()
    ownership = replace(MINE, since=clock.now - 10.1)

    Heart(store, ownership, clock=lambda: clock.now).catch_up()  # type: ignore[arg-type]

    assert store.beats == 1


def test_who_stood_still_learns_that_the_run_is_somebody_elses(clock: Any) -> None:
    store, lost = Store(), list[StaleOwner]()
    heart = _heart(store, clock, lost)
    store.is_taken = True

    clock.now += 60.0
    heart.catch_up()

    assert len(lost) == 1
    assert heart.lost.is_set()


def test_who_stood_still_hears_a_wish_of_that_time_before_anything_begins(clock: Any) -> None:
    store = Store()
    heart = _heart(store, clock, [])
    store.wish = "cancelled by ann"

    clock.now += 60.0
    heart.catch_up()

    assert heart.wish == "cancelled by ann"


def test_a_wish_stays_though_the_store_falls_silent(clock: Any) -> None:
    store = Store()
    heart = _heart(store, clock, [])

    store.silent = True
    heart.look()
    assert heart.wish == ""
    store.silent, store.wish = False, "cancelled by ann"
    heart.look()
    store.silent = True
    heart.look()

    assert heart.wish == "cancelled by ann"
    assert store.beats == 0

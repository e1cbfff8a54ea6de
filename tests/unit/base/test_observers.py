"""Observers never change a run, whatever they do."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from anabranch import Flow, task
from anabranch.base.events import Event, MapAdvanced, RunFinished, RunStarted, TaskChanged
from anabranch.base.observers import Apart, Recipient, apart
from anabranch.states import Running, Success


def started() -> RunStarted:
    return RunStarted(0.0, "etl", "r", {"parse": "task"})


def advanced(done: int) -> MapAdvanced:
    return MapAdvanced(float(done), "parse", 10, done, 0, 0)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_an_observer_that_is_quick_has_been_told_when_the_call_returns() -> None:
    told: list[Event] = []
    observer = Apart(told.append)
    for event in (started(), advanced(1), RunFinished(2.0, Success())):
        observer(event)
        assert told[-1] is event
    observer.close()
    assert len(told) == 3


def test_an_observer_that_blocks_is_not_waited_for_and_learns_the_newest_of_a_map(released: threading.Event) -> None:
    told: list[Event] = []

    def block(event: Event) -> None:
        released.wait(60)
        told.append(event)

    observer = Apart(block, patience_s=0.0)
    observer(started())
    observer(TaskChanged(0.0, "parse", Running()))
    for done in range(1, 6):
        observer(advanced(done))
    assert told == []
    released.set()
    observer.close(60)
    assert [type(event) for event in told] == [RunStarted, TaskChanged, MapAdvanced]
    assert told[-1] == advanced(5)


def test_a_recipient_is_told_in_the_runs_own_thread_and_the_others_are_not() -> None:
    threads: dict[str, int] = {}

    class Noting(Recipient):
        def __call__(self, event: Event) -> None:
            threads["recipient"] = threading.get_ident()

    def note(event: Event) -> None:
        threads["observer"] = threading.get_ident()

    with apart([Noting(), note]) as observers:
        for observer in observers:
            observer(started())

    assert threads["recipient"] == threading.get_ident() != threads["observer"]


def test_one_that_is_too_far_behind_is_told_nothing_more(
    monkeypatch: pytest.MonkeyPatch, released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anabranch.base.observers.MAX_BEHIND", 3)
    observer = Apart(lambda event: released.wait(60), patience_s=0.0)
    for _ in range(6):
        observer(started())
    assert "3 events behind" in caplog.text


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_an_observer_that_raises_does_not_change_the_run(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Event] = []

    def fail(event: Event) -> None:
        raise error

    with Flow("observed") as flow:
        task(lambda x: x, name="each").map([1, 2, 3])

    view = flow.run(observers=[fail, told.append])

    assert view.result["each"].result == [1, 2, 3]
    assert caplog.text.count("an observer failed") == 1
    assert isinstance(told[0], RunStarted)
    assert isinstance(told[-1], RunFinished)


def test_an_observer_that_never_returns_does_not_hold_up_the_run(
    monkeypatch: pytest.MonkeyPatch, released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anabranch.base.observers.PATIENCE_S", 0.05)
    monkeypatch.setattr("anabranch.base.observers.FAREWELL_S", 0.05)
    told: list[Event] = []
    with Flow("observed") as flow:
        task(lambda x: x, name="each").map([1, 2, 3])

    view = flow.run(observers=[lambda event: released.wait(60), told.append])

    assert view.is_successful()
    assert isinstance(told[-1], RunFinished)
    assert "has not come back" in caplog.text

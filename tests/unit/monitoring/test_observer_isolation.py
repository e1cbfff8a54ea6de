"""Whoever watches a run, whatever they do, never changes it: metrics, traces, notifiers, pages, users' observers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from anabranch import Flow, task
from anabranch.base.events import Event
from anabranch.monitoring.metrics import Metrics
from anabranch.monitoring.pages import live_page
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.tracing import Tracing
from anabranch.notifiers import Notifier

Misbehaviour = Callable[..., Any]


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(params=["raises", "blocks"])
def misbehave(
    request: pytest.FixtureRequest, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> Misbehaviour:
    """Does what nobody who watches should do."""
    for name in ("base.observers.PATIENCE_S", "base.observers.FAREWELL_S", "monitoring.notifiers.TIMEOUT_S"):
        monkeypatch.setattr(f"anabranch.{name}", 0.05)

    def raises(*args: object, **options: object) -> None:
        raise RuntimeError("of one who watches")

    def blocks(*args: object, **options: object) -> None:
        released.wait(60)

    return {"raises": raises, "blocks": blocks}[request.param]


def watched_run(released: threading.Event, **options: Any) -> None:
    """Run a flow that ends as it should, and before whoever watches it is let go."""

    @task
    def part(x: int) -> int:
        if x == 3:
            raise ValueError("three")
        return x

    with Flow("watched", **options.pop("of_flow", {})) as flow:
        parts = part.map([1, 2, 3, 4])

    view = flow.run(**options)

    assert not released.is_set()
    assert view.is_failed()
    assert [state.is_successful() for state in view.result[parts].map_states] == [True, True, False, True]
    assert view.result[parts].map_states[3].result == 4


def test_metrics(misbehave: Misbehaviour, released: threading.Event, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Metrics, "_count_unit", misbehave)
    watched_run(released, observers=[Metrics()])


def test_traces(misbehave: Misbehaviour, released: threading.Event, monkeypatch: pytest.MonkeyPatch):
    tracer = TracerProvider().get_tracer("test")
    monkeypatch.setattr(type(tracer), "start_span", misbehave)
    watched_run(released, observers=[Tracing(tracer)])


@pytest.mark.parametrize("place", ["state_handlers", "on_failure"])
def test_notifiers(misbehave: Misbehaviour, released: threading.Event, place: str):
    class Telling(Notifier):
        def send(self, text: str) -> None:
            misbehave()

    notifier = Telling(states={"Running", "Failed"}) if place == "state_handlers" else Telling()
    watched_run(released, of_flow={place: [notifier] if place == "state_handlers" else notifier})


def test_the_live_page(misbehave: Misbehaviour, released: threading.Event, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anabranch.web.thread.START_S", 5.0)
    monkeypatch.setattr(PageModel, "take", misbehave)
    try:
        watched_run(released, dashboard=lambda address: None)
    finally:
        released.set()
        live_page.stop_serving()


def test_a_users_observer(misbehave: Misbehaviour, released: threading.Event):
    told: list[Event] = []
    watched_run(released, observers=[misbehave, told.append])
    assert told, "the others are told all the same"

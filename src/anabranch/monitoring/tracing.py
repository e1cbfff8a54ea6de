"""Runs as OpenTelemetry traces: a span for the run, one for each task run, and one for each chunk of a map.

An element has no span of its own: a million of them would bury any collector. What is done with spans is up to the
application's OpenTelemetry SDK; without one they cost next to nothing and go nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anabranch.base.errors import ExtraMissing
from anabranch.base.events import Event, RunFinished, RunStarted, UnitEnded
from anabranch.base.states import State, counts_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

MAX_SPANS = 10_000  # of a run; what comes later is counted in an attribute of the run's span


class Tracing:
    """An observer that makes spans; give it to one run at a time.

    Parameters
    ----------
    tracer
        Default: the one named ``anabranch`` of the application's provider.

    Raises
    ------
    ExtraMissing
        OpenTelemetry is not there.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        try:
            from opentelemetry import trace
        except ImportError as error:
            raise ExtraMissing('traces need OpenTelemetry: pip install "anabranch[otel]"') from error
        self._api = trace
        self._tracer = tracer or trace.get_tracer("anabranch")
        self._run: Span | None = None
        self._left = MAX_SPANS
        self._dropped = 0
        self._told: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, RunStarted):
            self._left, self._dropped, self._told = MAX_SPANS, 0, set()
            about = {"anabranch.flow": event.flow_name, "anabranch.run_id": event.run_id}
            self._run = self._tracer.start_span(event.flow_name, start_time=_ns(event.now), attributes=about)
        elif isinstance(event, UnitEnded) and self._run is not None and not event.is_recorded:
            self._take(event)
        elif isinstance(event, RunFinished) and self._run is not None:
            if self._dropped:
                self._run.set_attribute("anabranch.dropped_spans", self._dropped)
            self._end(self._run, event.state, event.now)
            self._run = None

    def _take(self, unit: UnitEnded) -> None:
        for slug, state in unit.singles.items():
            if (
                slug not in self._told
                and state.is_finished()
                and state.start_time is not None
                and state.end_time is not None
            ):
                about = {"anabranch.task": slug, "anabranch.attempt": state.attempt, "anabranch.worker": unit.worker}
                self._told.add(slug)
                span = self._span(slug, state.start_time.timestamp(), about)
                if span is not None:
                    self._end(span, state, state.end_time.timestamp())
        for slug, codes in unit.codes.items() if unit.started and unit.seconds else ():
            failed = counts_of(codes).by_word()["failed"]
            about = {
                "anabranch.task": slug,
                "anabranch.elements": len(codes),
                "anabranch.failed": failed,
                "anabranch.first_element": min(unit.indices, default=0),
                "anabranch.worker": unit.worker,
            }
            span = self._span(f"{slug}[…]", unit.started, about)
            if span is not None:
                if failed:
                    span.set_status(self._api.StatusCode.ERROR, f"{failed:,} of {len(codes):,} elements failed")
                span.end(end_time=_ns(unit.started + unit.seconds))

    def _span(self, name: str, start: float, about: dict[str, Any]) -> Span | None:
        if not self._left:
            self._dropped += 1
            return None
        self._left -= 1
        assert self._run is not None
        context = self._api.set_span_in_context(self._run)
        return self._tracer.start_span(name, context=context, start_time=_ns(start), attributes=about)

    def _end(self, span: Span, state: State, now: float) -> None:
        span.set_attribute("anabranch.state", state.name)
        if state.is_failed() or state.is_cancelled():
            text = state.failure.type_name if state.failure is not None else state.name  # messages may hold secrets
            span.set_status(self._api.StatusCode.ERROR, text)
        span.end(end_time=_ns(now))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)

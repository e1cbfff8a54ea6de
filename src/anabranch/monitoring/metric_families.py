"""Counters, gauges and histograms that several processes can add up, and their text, which prometheus-client writes.

What counts in prometheus-client takes neither a chunk of elements at once nor what another process has counted. It is
loaded when a text is asked for, as that takes a tenth of a second.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from anabranch.base.errors import ExtraMissing

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Labels: TypeAlias = tuple[str, ...]
Relabel: TypeAlias = Callable[[Labels, Labels], Labels]
"""Gives the values of labels with these names and values anew: those that there is room for."""


@dataclass(slots=True)
class Family:
    """A metric with its values by labels."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: Labels = ()
    joins: Literal["sum", "max"] = "sum"
    """What several processes come to together."""
    is_lasting: bool = True
    """Whether a value still means something when the process that had it is gone."""
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, amount: float, *labels: str) -> None:
        """Change a value by so much."""
        self.values[labels] = self.values.get(labels, 0.0) + amount

    def put(self, value: float, *labels: str) -> None:
        """Set a value."""
        self.values[labels] = value

    def dump(self) -> list[Any]:
        """All values, as JSON has them."""
        return [[list(labels), value] for labels, value in self.values.items()]

    def absorb(self, dumped: list[Any], relabel: Relabel) -> None:
        """Join the values of another process."""
        for labels, value in dumped:
            place = relabel(self.labels, tuple(labels))
            if self.joins == "max":
                self.values[place] = max(value, self.values.get(place, -math.inf))
            else:
                self.add(value, *place)

    def collected(self) -> Metric:
        """The metric as prometheus-client has it."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = make(self.name, self.help, labels=self.labels)
        for labels, value in self.values.items():
            metric.add_metric(_encodable(labels), value)
        return metric


@dataclass(slots=True)
class Histogram:
    """A metric of sizes: how many were at most so large, by labels."""

    name: str
    help: str
    labels: Labels
    bounds: Sequence[float]
    """Upper bounds, ascending, without the infinite one."""
    is_lasting: bool = True
    values: dict[Labels, tuple[list[int], float]] = field(default_factory=dict)

    def expect(self, *labels: str) -> None:
        """Have the buckets of these labels begin at zero."""
        self.values.setdefault(labels, ([0] * (len(self.bounds) + 1), 0.0))

    def observe(self, size: float, *labels: str, times: int = 1) -> None:
        """Note something of that size, so many times: a million elements cost no more than one."""
        counts, total = self.values.get(labels) or ([0] * (len(self.bounds) + 1), 0.0)
        counts[bisect_left(self.bounds, size)] += times
        self.values[labels] = (counts, total + size * times)

    def dump(self) -> list[Any]:
        """All values, as JSON has them."""
        return [[list(labels), counts, total] for labels, (counts, total) in self.values.items()]

    def absorb(self, dumped: list[Any], relabel: Relabel) -> None:
        """Join the values of another process, which has the same bounds."""
        for labels, added, amount in dumped:
            place = relabel(self.labels, tuple(labels))
            counts, total = self.values.get(place) or ([0] * (len(self.bounds) + 1), 0.0)
            self.values[place] = ([mine + its for mine, its in zip(counts, added, strict=True)], total + amount)

    def collected(self) -> Metric:
        """The metric as prometheus-client has it."""
        from prometheus_client.core import HistogramMetricFamily

        metric = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        names = [*map(str, self.bounds), "+Inf"]
        for labels, (counts, total) in self.values.items():
            metric.add_metric(_encodable(labels), list(zip(names, accumulate(counts), strict=True)), total)
        return metric


def check_client() -> None:
    """See that there is a prometheus-client to write metrics with.

    Raises
    ------
    ExtraMissing
        There is none.
    """
    try:
        import prometheus_client  # noqa: F401  # whether it is there
    except ImportError as error:
        raise ExtraMissing('metrics need the package prometheus-client: pip install "anabranch[metrics]"') from error


def render_families(families: Iterable[Family | Histogram]) -> str:
    """All of them in Prometheus's text format; those without a value are left out.

    Raises
    ------
    ExtraMissing
        There is no prometheus-client.
    """
    check_client()
    from prometheus_client import generate_latest
    from prometheus_client.registry import Collector, CollectorRegistry

    class Given(Collector):
        def collect(self) -> Iterable[Metric]:
            return [family.collected() for family in families if family.values]

    registry = CollectorRegistry()
    registry.register(Given())
    return generate_latest(registry).decode()


def _encodable(labels: Labels) -> Labels:
    """Values of labels without lone surrogates, which cannot be sent."""
    return tuple(each.encode("utf-8", "replace").decode() for each in labels)

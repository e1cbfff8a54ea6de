"""Counters, gauges and histograms, and the text in which Prometheus reads them. No clock, no network, no events."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

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

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield from _head(self.name, self.kind, self.help)
        for labels, value in self.values.items():
            yield f"{self.name}{_shown(self.labels, labels)} {_number(value)}"


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

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield from _head(self.name, "histogram", self.help)
        for labels, (counts, total) in self.values.items():
            below = 0
            for bound, count in zip((*self.bounds, math.inf), counts, strict=True):
                below += count
                shown = _shown((*self.labels, "le"), (*labels, _number(bound)))
                yield f"{self.name}_bucket{shown} {below}"
            yield f"{self.name}_sum{_shown(self.labels, labels)} {_number(total)}"
            yield f"{self.name}_count{_shown(self.labels, labels)} {below}"


def text_of(families: Sequence[Family | Histogram]) -> str:
    """All of them as Prometheus reads them; those without a value are left out."""
    return "".join(f"{line}\n" for family in families if family.values for line in family.lines())


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _shown(names: Labels, values: Labels) -> str:
    pairs: Mapping[str, str] = dict(zip(names, values, strict=True))
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs.items())
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    value = value.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)

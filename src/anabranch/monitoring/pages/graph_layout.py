"""Where the nodes of a graph are drawn: layers from left to right, few crossings, lines that go round boxes. Pure.

A layer is as far right as the longest way to it; what nothing leads to stands next to its first consumer. Long edges
pass through a point in each layer between. Sweeps over the layers put each node at the middle of its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

SWEEPS = 8  # after as many, crossings hardly change
SWEEPS_LARGE = 2  # of them for graphs that would take a second each
LARGE = 600


@dataclass(frozen=True, slots=True)
class GraphLayout:
    """Places by name: layer as x, row as y, both from 0; y grows downwards."""

    places: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    routes: Mapping[tuple[str, str], Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Points of each edge from its tail to its head."""
    layers: int = 0
    rows: float = 0.0


def layered(names: Sequence[str], edges: Iterable[tuple[str, str]]) -> GraphLayout:
    """A layout of a graph without cycles.

    Parameters
    ----------
    names
        Nodes in topological order.
    edges
        Pairs of tail and head; those with an unknown end, and loops, are left out.
    """
    if not names:
        return GraphLayout()
    known = set(names)
    pairs = list(dict.fromkeys((a, b) for a, b in edges if a in known and b in known and a != b))
    depth = _depths(names, pairs)
    columns, links, chains = _with_points(names, pairs, depth)
    _order_columns(columns, links, SWEEPS if len(links) < LARGE else SWEEPS_LARGE)
    ys = _place_rows(columns, links)
    places = {name: (float(depth[name]), ys[name]) for name in names}
    routes = {
        (tail, head): [places[tail], *((float(x), ys[point]) for x, point in chains[tail, head]), places[head]]
        for tail, head in pairs
    }
    return GraphLayout(places, routes, len(columns), max(ys.values()) + 1.0)


def _depths(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    above: dict[str, list[str]] = {name: [] for name in names}
    below: dict[str, list[str]] = {name: [] for name in names}
    for tail, head in pairs:
        above[head].append(tail)
        below[tail].append(head)
    depth: dict[str, int] = {}
    for name in names:
        depth[name] = max((depth[up] + 1 for up in above[name] if up in depth), default=0)
    for name in names:  # parameters would all stand at the left edge otherwise
        if not above[name] and below[name]:
            depth[name] = max(0, min(depth[down] for down in below[name]) - 1)
    return depth


def _with_points(
    names: Sequence[str], pairs: Sequence[tuple[str, str]], depth: Mapping[str, int]
) -> tuple[list[list[str]], list[tuple[str, str]], dict[tuple[str, str], list[tuple[int, str]]]]:
    """Columns with a point for each edge that passes through, links between neighbouring columns, points by edge."""
    columns: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in names:
        columns[depth[name]].append(name)
    links: list[tuple[str, str]] = []
    chains: dict[tuple[str, str], list[tuple[int, str]]] = {}
    shared: dict[tuple[str, int], str] = {}
    for tail, head in pairs:
        before, chain = tail, []
        for x in range(depth[tail] + 1, depth[head]):
            point = shared.get((tail, x))  # edges of one tail travel together as far as they can
            if point is None:
                point = shared[tail, x] = f"\0{len(shared)}"  # no name begins like this
                columns[x].append(point)
                links.append((before, point))
            chain.append((x, point))
            before = point
        links.append((before, head))
        chains[tail, head] = chain
    return columns, links, chains


def _order_columns(columns: list[list[str]], links: Sequence[tuple[str, str]], sweeps: int) -> None:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for tail, head in links:
        after.setdefault(tail, []).append(head)
        before.setdefault(head, []).append(tail)
    place = {name: float(i) for column in columns for i, name in enumerate(column)}
    for sweep in range(sweeps):
        forward = sweep % 2 == 0
        sides = before if forward else after
        for column in columns if forward else reversed(columns):
            middle = {n: fmean(place[o] for o in sides[n]) if n in sides else place[n] for n in column}
            column.sort(key=middle.__getitem__)
            place.update((name, float(i)) for i, name in enumerate(column))


def _place_rows(columns: Sequence[Sequence[str]], links: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Rows of all nodes: near the middle of their neighbours, one apart within a column (points half of that)."""
    near: dict[str, list[str]] = {}
    for tail, head in links:
        near.setdefault(tail, []).append(head)
        near.setdefault(head, []).append(tail)
    tallest = max(map(len, columns))
    ys = {
        name: (tallest - len(column)) / 2 + i for column in columns for i, name in enumerate(column)
    }  # middles on one line
    for _ in range(4):
        for column in columns:
            wanted = [fmean(ys[o] for o in near[n]) if n in near else ys[n] for n in column]
            _spread_nodes(column, wanted, ys)
    top = min(ys.values())
    return {name: y - top for name, y in ys.items()}


def _spread_nodes(column: Sequence[str], wanted: Sequence[float], ys: dict[str, float]) -> None:
    """Put nodes where they want to be, in order and far enough apart: blocks of those that collide move as one."""
    blocks: list[tuple[float, int, list[float]]] = []  # sum of wishes of the block's start, members, offsets
    for name, wish in zip(column, wanted, strict=True):
        gap = 0.5 if name.startswith("\0") else 1.0
        blocks.append((wish, 1, [0.0, gap]))
        while len(blocks) > 1:
            (sum_a, n_a, off_a), (sum_b, n_b, off_b) = blocks[-2:]
            if sum_a / n_a + off_a[-1] <= sum_b / n_b:
                break
            base = off_a[-1]
            merged = (sum_a + sum_b - n_b * base, n_a + n_b, [*off_a[:-1], *(base + off for off in off_b)])
            blocks[-2:] = [merged]
    at = 0
    for total, members, offsets in blocks:
        for offset in offsets[:members]:
            ys[column[at]] = total / members + offset
            at += 1

"""What values and the code of tasks are, as short texts: equal ones have the same in each process, edited ones another.

A value is a graph of what `anabranch.definition.anatomy` takes it apart into.
"""

from __future__ import annotations

import hashlib
import sys
from collections import ChainMap, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anabranch.base.texts import headline_of
from anabranch.definition.anatomy import Part, Shape, describe_plain, describe_text, take_apart
from anabranch.definition.expressions import Build, Const, Expression, Output, Ref
from anabranch.definition.frozen import FrozenGraph, FrozenNode

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}-"  # byte code of another Python compares with nothing
_GAP = "?"  # ends the text of what is not whole
_NDIGITS = 24  # 96 bits: two of a thousand million values are the same once in 10^11 tries


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What something is, as far as that can be told."""

    text: str
    gap: str = ""
    """What cannot be told, so that equal texts mean little; empty if there is nothing."""


def describe_value(value: Any) -> Fingerprint:
    """The fingerprint of a value."""
    return _Survey().describe(value)


def describe_code(function: Callable[..., Any]) -> Fingerprint:
    """The fingerprint of a function, with what it holds and what it names of the user's own code."""
    found = _Survey().describe(function)
    return Fingerprint(_PYTHON + found.text, found.gap)


def fingerprints(graph: FrozenGraph) -> dict[str, str]:
    """Texts for the nodes that are no parameters, by slug: of their functions, their constants and their places."""
    survey = _Survey()
    found = {slug: survey.describe_node(node) for slug, node in graph.nodes.items() if node.kind != "parameter"}
    return {slug: f"{_PYTHON}{each.text}{_GAP if each.gap else ''}" for slug, each in found.items()}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Slugs of nodes that were there before and are others now, as far as the two compare."""
    return [slug for slug in _comparable(before, now) if before[slug].rstrip(_GAP) != now[slug].rstrip(_GAP)]


def unknown_changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Slugs of nodes that may be others now: what can be told of them is the same, and that is not all."""
    known = set(changes(before, now))
    return [slug for slug in _comparable(before, now) if slug not in known and now[slug].endswith(_GAP)]


def _comparable(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    return (slug for slug in now if slug in before and before[slug].startswith(_PYTHON))


class _Survey:
    """Values that have been looked at, by number. They may hold each other in rings, as functions do."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        """By the identity of the value."""
        self._values: list[tuple[Any, str]] = []
        """With what each is called; they stay alive, so that no two have the same identity."""
        self._shapes: list[Shape] = []
        self._known: dict[int, Fingerprint] = {}
        """Of values that are in no ring, and hold none."""
        self._in_rings: dict[int, Fingerprint] = {}
        """Of others, as far as they were asked for; whatever was asked for before."""

    def describe(self, value: Any) -> Fingerprint:
        """The fingerprint of a value."""
        return self._settle(Shape("value", (self._part(value, ""),)))

    def describe_node(self, node: FrozenNode) -> Fingerprint:
        """The fingerprint of a node of a flow."""
        edges = sorted(f"{edge.upstream} {edge.kind} {edge.key} {edge.mapped}" for edge in node.edges)
        parts = [describe_text(f"{node.kind} {node.is_map} {edges}"), self._part(node.signature.function, "")]
        for name, expression in node.arguments.items():
            parts += (describe_text(name), *self._parts_of(expression))
        return self._settle(Shape("node", tuple(parts)))

    def _parts_of(self, expression: Expression) -> Iterator[Part]:
        match expression:
            case Const(value):
                yield self._part(value, "")
            case Ref(node):
                yield describe_text(f"ref {node}")
            case Output(node, key):
                yield describe_text(f"output {node}")
                yield self._part(key, "")
            case Build(maker, parts):
                yield describe_text(f"{len(parts)} parts")
                yield self._part(maker, "")
                for part in parts:
                    yield from self._parts_of(part)

    def _part(self, value: Any, name: str) -> Part:
        """What there is to know of a plain value, or the number of another, which is looked at later."""
        plain = describe_plain(value)
        if plain is not None:
            return plain
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._values)
            self._values.append((value, name))
        return number

    def _settle(self, top: Shape) -> Fingerprint:
        """The fingerprint of a shape, once all below it has been looked at."""
        first = len(self._shapes)
        while len(self._shapes) < len(self._values):
            self._shapes.append(self._look_at(*self._values[len(self._shapes)]))
        self._close(range(first, len(self._shapes)))
        for part in top.parts:
            if isinstance(part, int) and part not in self._known and part not in self._in_rings:
                self._in_rings[part] = self._join_rings(part)
        return self._join(top, ChainMap(self._known, self._in_rings))

    def _look_at(self, value: Any, name: str) -> Shape:
        try:
            return take_apart(value, name, self._part)
        except BaseException as error:  # this runs code of the user's
            if isinstance(error, KeyboardInterrupt) and not error.args:  # Ctrl-C says nothing
                raise
            kind = type(value)
            gap = f"{name}{', ' if name else ''}a {kind.__module__}.{kind.__qualname__}"
            return Shape(kind.__qualname__, gap=f"{gap} ({headline_of(error)[:200]})")

    def _close(self, numbers: range) -> None:
        """Find the fingerprints of values that are in no ring, from the bottom up."""
        users: dict[int, list[int]] = {}
        missing: dict[int, int] = {}
        ready: deque[int] = deque()
        for number in numbers:
            below = {part for part in self._shapes[number].parts if isinstance(part, int) and part not in self._known}
            missing[number] = len(below)
            for part in below:
                users.setdefault(part, []).append(number)
            if not below:
                ready.append(number)
        while ready:
            number = ready.popleft()
            self._known[number] = self._join(self._shapes[number], self._known)
            for user in users.get(number, ()):
                missing[user] -= 1
                if not missing[user]:
                    ready.append(user)

    def _join(self, shape: Shape, known: Mapping[int, Fingerprint]) -> Fingerprint:
        """The fingerprint of a shape, from those of its parts."""
        found = [part if isinstance(part, bytes) else known[part] for part in shape.parts]
        texts = [part if isinstance(part, bytes) else part.text.encode() for part in found]
        gaps = (part.gap for part in found if isinstance(part, Fingerprint))
        return Fingerprint(_digest(shape, texts), shape.gap or next(filter(None, gaps), ""))

    def _join_rings(self, top: int) -> Fingerprint:
        """The fingerprint of a value that holds rings.

        Each shape has a colour, which is made anew of those of its parts until no round tells more shapes apart. Then
        two shapes have the same colour if all ways down from them see the same, however often a thing was copied.
        """
        shapes = self._find_open(top)
        colours = {number: Fingerprint(shape.label, shape.gap) for number, shape in shapes.items()}
        known = dict(self._known)
        before, n_before = colours, 0
        while len({found.text for found in colours.values()}) > n_before:
            before, n_before = colours, len({found.text for found in colours.values()})
            known.update(before)
            colours = {number: self._join(shape, known) for number, shape in shapes.items()}
        gap = next((found.gap for found in colours.values() if found.gap), "")
        steps = sorted({f"{before[number].text} {colours[number].text}" for number in shapes})  # who holds whom
        texts = [text.encode(errors="surrogatepass") for text in (colours[top].text, *steps)]
        return Fingerprint(_digest(Shape("rings"), texts), gap)

    def _find_open(self, top: int) -> dict[int, Shape]:
        """Shapes below a value whose fingerprints are not known, and that of the value itself."""
        found = {top: self._shapes[top]}
        left = [self._shapes[top]]
        while left:
            for part in left.pop().parts:
                if isinstance(part, int) and part not in self._known and part not in found:
                    found[part] = self._shapes[part]
                    left.append(self._shapes[part])
        return found


def _digest(shape: Shape, parts: Iterable[bytes]) -> str:
    hasher = hashlib.sha256(shape.label.encode(errors="surrogatepass"))
    for part in parts if shape.is_ordered else sorted(parts):
        hasher.update(b"\n%d " % len(part))
        hasher.update(part)
    return hasher.hexdigest()[:_NDIGITS]

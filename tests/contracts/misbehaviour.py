"""Everything that a task can do to its runner: functions that raise, return and do what is hard to carry."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


class ThreeArguments(Exception):
    """Pickles and does not unpickle: its constructor wants more than its text."""

    def __init__(self, what: str, where: str, why: str) -> None:
        super().__init__(f"{what} at {where}: {why}")


class HoldsLock(Exception):
    """Does not pickle."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class BadReduce(Exception):
    """Raises when it is pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle for you")


class BadText(Exception):
    """Raises when it is shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


class ExitsWhenPickled(Exception):
    """Ends the process, if one lets it, when it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit("pickled")


def raiser(make: Callable[[], BaseException]) -> Callable[[], Any]:
    """A function that raises what is made where it is called."""

    def misbehave() -> Any:
        raise make()

    return misbehave


def endless() -> Any:
    """Recurse for ever."""
    return endless()


def deep(frames: int = 900) -> Any:
    """Raise below so many frames."""
    if frames:
        return deep(frames - 1)
    raise ValueError("from far below")


def circle() -> Any:
    """Raise an exception that is the cause of its own cause."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def heavy() -> BaseException:
    """An exception with a large payload."""
    error = ValueError("heavy")
    error.payload = b"x" * 20_000_000  # type: ignore[attr-defined]
    return error


RAISES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "ValueError": (raiser(lambda: ValueError("plain")), "ValueError", "plain"),
    "no text": (raiser(ValueError), "ValueError", ""),
    "pickles, does not unpickle": (
        raiser(lambda: ThreeArguments("fire", "home", "matches")), "ThreeArguments", "fire at home: matches"
    ),
    "does not pickle": (raiser(lambda: HoldsLock("locked")), "HoldsLock", "locked"),
    "__reduce__ raises": (raiser(lambda: BadReduce("reduced")), "BadReduce", "reduced"),
    "__reduce__ exits": (raiser(lambda: ExitsWhenPickled("out")), "ExitsWhenPickled", "out"),
    "__str__ raises": (raiser(BadText), "BadText", "str() of the exception failed"),
    "ExceptionGroup": (
        raiser(lambda: ExceptionGroup("several", [ValueError(1), KeyError(2)])), "ExceptionGroup", "several"
    ),
    "50 MB of text": (raiser(lambda: ValueError("x" * 50_000_000)), "ValueError", "50,000,000 characters"),
    "20 MB of payload": (raiser(heavy), "ValueError", "heavy"),
    "lone surrogates": (raiser(lambda: ValueError("half \ud800 a pair")), "ValueError", "half \\ud800 a pair"),
    "cyclic causes": (circle, "ValueError", "first"),
    "RecursionError": (endless, "RecursionError", "maximum recursion depth"),
    "900 frames": (deep, "ValueError", "from far below"),
    "GeneratorExit": (raiser(lambda: GeneratorExit("gone")), "GeneratorExit", "gone"),
    "CancelledError": (raiser(lambda: asyncio.CancelledError("away")), "CancelledError", "away"),
    "StopIteration": (raiser(lambda: StopIteration("over")), "StopIteration", "over"),
    "SystemExit": (raiser(lambda: SystemExit(3)), "SystemExit", "3"),
    "sys.exit with text": (lambda: sys.exit("bye"), "SystemExit", "bye"),
}  # fmt: skip
"""What is called, and the type and text that its task run fails with."""


class DoesNotUnpickle:
    """Pickles, and raises when it is loaded."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> Any:
    raise RuntimeError("not here")


def nested(depth: int = 100_000) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def generator_that_breaks() -> Iterator[int]:
    """Gives some elements and raises."""
    yield 1
    raise ValueError("half-way")


RETURNS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "lock": (threading.Lock, "UnstorableValueError", "lock"),
    "socket": (socket.socket, "UnstorableValueError", "socket"),
    "open file": (lambda: open(os.devnull, encoding="utf-8"), "UnstorableValueError", "TextIOWrapper"),  # noqa: SIM115
    "list with a lock": (lambda: [1, threading.Lock()], "UnstorableValueError", "lock"),
    "does not unpickle": (DoesNotUnpickle, "UnstorableValueError", "DoesNotUnpickle"),
    "too deep": (nested, "UnstorableValueError", "recursion"),
    "generator that breaks": (generator_that_breaks, "ValueError", "half-way"),
}
"""What is called, and the type and text that its task run fails with, because its value cannot be kept."""

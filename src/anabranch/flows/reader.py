"""A stream of a run whose driver is on a cluster: a thread asks the driver for what has ended, again and again.

What the driver cannot tell, because it has ended or is lost with its worker, is taken from the finished run.
"""

from __future__ import annotations

import pickle
import secrets
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anabranch.engine.driver.outlet import Given, Recap
from anabranch.flows.stream import Inflow, OnBreak, Stream
from anabranch.runs.view import FlowRunView

if TYPE_CHECKING:
    from anabranch.definition.graph import Graph
    from anabranch.flows.handle import RunHandle

POLL_S = 0.2
"""Seconds between questions while nothing ends; each costs the scheduler about a millisecond."""


def read(handle: RunHandle, slugs: Iterable[str], graph: Graph | None, on_break: OnBreak) -> Stream:
    """A stream of a run by a handle that nobody else uses."""
    inflow = _Remote(slugs, handle, cancels=on_break == "cancel")
    threading.Thread(target=inflow.run, name="anabranch-stream", daemon=True).start()
    return Stream(inflow, graph, on_break)


class _Remote(Inflow):
    """What the driver of a run gives to a stream, in another process."""

    def __init__(self, slugs: Iterable[str], handle: RunHandle, *, cancels: bool) -> None:
        super().__init__(slugs, handle.run_id)
        self._handle = handle
        self._cancels = cancels
        self._name = secrets.token_hex(6)
        self._driver = ""
        self._stirred = threading.Event()
        self._has_told = False
        self._seen: dict[str, bytearray] = {}
        """By node: whether it, and then each element, was given; by more than one driver perhaps."""

    def interrupt(self) -> None:
        """The run is that of others, too."""
        if self._cancels:
            super().interrupt()

    def ask_end(self, reason: str) -> None:
        """Have the run cancelled, by the thread that reads."""
        super().ask_end(reason)
        self._stirred.set()

    def leave(self) -> None:
        """Nobody takes anything any more."""
        super().leave()
        self._stirred.set()

    def give(self, given: Given) -> None:
        """Keep what was not given before."""
        seen = self._seen.setdefault(given.slug, bytearray())
        places = [index + 1 for index in given.indices]
        seen.extend(bytes(max(0, max(places) + 1 - len(seen))))
        codes = bytes(0 if seen[place] else code for place, code in zip(places, given.codes, strict=True))
        for place, code in zip(places, codes, strict=True):
            seen[place] |= code > 0
        if any(codes):
            super().give(replace(given, codes=codes))

    def run(self) -> None:
        """Read until the run has ended, or nobody wants that any more."""
        try:
            with self._handle, self._handle.task() as future:
                self._read(future)
        except BaseException as error:  # it is raised where the stream is read
            self.end(None, error)
        else:
            self.end(self._view)

    def _view(self) -> FlowRunView:
        with self._handle:
            return self._handle.result()

    def _read(self, future: Any) -> None:
        while not self.is_left or self._wish:
            if self._wish and not self._has_told:
                self._has_told = True
                self._handle.cancel(self._wish)
            answer = self._take()
            if answer is None:
                status = self._handle.checked(future)
                is_new, self._driver = self._driver != status.driver, status.driver
                answer = self._take() if is_new or status.is_finished else None
                if answer is None and status.is_finished:
                    self._read_rest()
                    return
            if answer is not None:
                self.nodes, found, is_over = pickle.loads(answer)
                for given in found:
                    self.give(given)
                if is_over:
                    return
                if found:
                    continue
            self._stirred.wait(POLL_S)
            self._stirred.clear()
        self._handle.ask_driver(self._driver, "leave", self._name)

    def _take(self) -> bytes | None:
        if self.is_left or not self._driver:
            return None
        answer: bytes | None = self._handle.ask_driver(self._driver, "take", self._name, tuple(self.slugs))
        return answer

    def _read_rest(self) -> None:
        if not self.is_left:
            done = self._handle.finished()
            Recap(self, done.runs, done.plan.parameters, lambda keys: {}).recall_rest(done.outcomes)

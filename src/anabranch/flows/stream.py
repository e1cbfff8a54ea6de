"""Streams: the task runs of a run as they end, for code that takes them while the run goes on."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any, Literal, Self

from anabranch.base.errors import ResultReleased
from anabranch.base.events import Event, RunStarted
from anabranch.base.states import BY_CODE, State
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.graph import Graph
from anabranch.engine.driver.outlet import Given, Tap
from anabranch.engine.units.columns import result_of, stored_columns, uncarried
from anabranch.engine.units.failures import restore
from anabranch.engine.units.values import dumps
from anabranch.engine.worker import slots
from anabranch.runs.view import Delegate, FlowRunView

_log = logging.getLogger("anabranch.stream")

MEMORY_NBYTES = 16 << 20  # that wait for a consumer in memory: what is further behind is in a file
OnBreak = Literal["cancel", "continue"]


class StreamedState(Delegate):
    """State of a task run, with its value, as a stream gives it.

    It answers everything that a `State` does: ``is_successful()``, ``message``, ``map_index`` (None of a node that is
    no map) …
    """

    node: Any
    """The node that it is of, as in the keys of ``state.result``."""
    state: State
    _batch: _Batch
    _position: int

    def __init__(self, node: Any, state: State, batch: _Batch, position: int) -> None:
        self.node = node
        self.state = state
        self._batch = batch
        self._position = position

    @property
    def result(self) -> Any:
        """The value; the exception of a failed task run; of a skipped one, what ``SKIP(result=…)`` gave.

        Raises
        ------
        ResultReleased
            The value was lost with its worker.
        """
        if self.state.is_skipped():
            return self.state.result
        if not self.state.is_successful() and self.state.counts is None:
            return restore(self.state.failure, self.state.message)
        return self._batch.value(self._position)

    def __repr__(self) -> str:
        return f"<{self._batch.name(self._position)}: {self.state}>"


class _Batch:
    """Task runs that were given together, and their values once somebody asks for one."""

    def __init__(self, given: Given, node: FrozenNode) -> None:
        self.given = given
        self._node = node
        self._values: Sequence[Any] | None = None

    def name(self, position: int) -> str:
        index = self.given.indices[position]
        return self.given.slug if index < 0 else f"{self.given.slug}[{index}]"

    def state(self, position: int) -> State | None:
        """State of a task run; None of one that is not given."""
        code, index = self.given.codes[position], self.given.indices[position]
        if not code or index < 0:
            return self.given.records[index] if code else None
        record = self.given.records.get(index)
        if record is None:
            return BY_CODE[code](message="done", map_index=index)
        return record if record.map_index == index else replace(record, map_index=index)

    def value(self, position: int) -> Any:
        if self._values is None:
            self._values = self._read(position)
            self.given = replace(self.given, values=None)
        return self._values[position]

    def _read(self, position: int) -> Sequence[Any]:
        given, is_single = self.given, self.given.indices[0] < 0
        values: Sequence[Any] | bytes | None = given.values
        if values is None and given.refs:
            if is_single:
                values = [result_of(self._node).read(given.refs[0][1])]
            else:
                read = {i: value for each in stored_columns(self._node, given.refs) for i, value in _pairs(each)}
                values = [read.get(index) for index in given.indices]
        elif isinstance(values, bytes):
            loaded = pickle.loads(values)
            values = [loaded] if is_single else list(loaded)
        if values is None:
            raise ResultReleased(
                f"the value of {self.name(position)} is not there any more: it was lost, or nothing kept it"
            )
        if is_single and self._node.kind in ("flatten", "collect") and isinstance(values[0], list):
            return [uncarried(values[0])]
        return values


def _pairs(column: Any) -> Iterator[tuple[int, Any]]:
    return zip(column.indices, column.values, strict=True)


class Backlog:
    """What waits for a consumer, first in, first out: in memory, and what is too much for that in a temporary file."""

    def __init__(self, max_nbytes: int | None = None) -> None:
        self._max_nbytes = MEMORY_NBYTES if max_nbytes is None else max_nbytes
        self._here: deque[tuple[Given, int]] = deque()
        self._nbytes = 0
        self._file: IO[bytes] | None = None
        self._lengths: deque[int] = deque()
        """Of what is in the file."""
        self._read_at = self._write_at = 0

    def __bool__(self) -> bool:
        return bool(self._here or self._lengths)

    def put(self, given: Given) -> None:
        """Add something."""
        nbytes = given.nbytes + 8 * len(given.codes) + 500 * len(given.records)
        if (self._lengths or self._nbytes + nbytes > self._max_nbytes) and self._write(given):
            return
        self._here.append((given, nbytes))
        self._nbytes += nbytes

    def _write(self, given: Given) -> bool:
        values = given.values
        try:
            if values is not None and not isinstance(values, bytes):  # loaded by who asks for one: that may fail
                given = replace(given, values=dumps(values[0] if given.indices[0] < 0 else list(values)))
            data = dumps(given)
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="anabranch-stream-")  # noqa: SIM115  # `_close` closes it
            self._file.seek(self._write_at)
            self._file.write(data)
        except BaseException as error:  # it cannot be pickled, or the disk is full: it stays in memory
            _log.debug("what a stream has not given yet stays in memory", exc_info=error)
            return False
        self._lengths.append(len(data))
        self._write_at += len(data)
        return True

    def get(self) -> Given:
        """Take what has waited longest."""
        if self._here:
            given, nbytes = self._here.popleft()
            self._nbytes -= nbytes
            return given
        assert self._file is not None
        self._file.seek(self._read_at)
        length = self._lengths.popleft()
        self._read_at += length
        read: Given = pickle.loads(self._file.read(length))
        if not self._lengths:
            self._close()
        return read

    def clear(self) -> None:
        """Drop everything."""
        self._here.clear()
        self._lengths.clear()
        self._nbytes = 0
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        self._read_at = self._write_at = 0


class Inflow(Tap):
    """What a run gives to a stream, between the run's thread and the consumer's."""

    def __init__(self, slugs: Iterable[str], run_id: str) -> None:
        super().__init__(slugs)
        self.run_id = run_id
        self.nodes: Mapping[str, FrozenNode] = {}
        self.changed = threading.Condition()
        self.backlog = Backlog()
        self.is_left = False
        """Whether nobody takes anything any more."""
        self.view: Callable[[], FlowRunView] | None = None
        """Gives the run that has ended."""
        self.error: BaseException | None = None
        self._wish = ""
        self._wakers: list[Callable[[], object]] = []

    def __call__(self, event: Event) -> None:
        """Take note of the run's id."""
        if isinstance(event, RunStarted):
            self.run_id = event.run_id

    def begin(self, nodes: Mapping[str, FrozenNode]) -> None:
        """The run begins, with these nodes."""
        self.nodes = nodes

    def give(self, given: Given) -> None:
        """Keep something until it is taken."""
        with self.changed:
            if not self.is_left:
                self.backlog.put(given)
                self._wake()

    def wants_end(self) -> str:
        """Why the run should be cancelled."""
        if not self._wish and not threading.main_thread().is_alive():
            self._wish = "the program has ended before its run: wait for that with Stream.wait()"
        return self._wish

    def ask_end(self, reason: str) -> None:
        """Have the run cancelled."""
        self._wish = self._wish or reason

    def interrupt(self) -> None:
        """Whoever waits has pressed Ctrl-C."""
        self.ask_end("interrupted by Ctrl-C")

    def end(self, view: Callable[[], FlowRunView] | None, error: BaseException | None = None) -> None:
        """The run has ended, or could not go on."""
        with self.changed:
            self.view, self.error = view, error
            self._wake()

    def leave(self) -> None:
        """Nobody takes anything any more."""
        with self.changed:
            self.is_left = True
            self.backlog.clear()
            self._wake()

    @property
    def is_over(self) -> bool:
        """Whether nothing comes any more."""
        return self.view is not None or self.error is not None

    def when_changed(self, wake: Callable[[], object]) -> None:
        """Call a function, from any thread, as soon as there is something to take or to know."""
        with self.changed:
            self._wakers.append(wake)
            if self.backlog or self.is_over:
                self._wake()

    def _wake(self) -> None:
        self.changed.notify_all()
        wakers, self._wakers = self._wakers, []
        for wake in wakers:
            with suppress(RuntimeError):  # its loop is closed
                wake()


class Stream(Iterator[StreamedState]):
    """Task runs of a run, as they end: iterate over it with ``for`` or ``async for``, in any thread.

    Use it as a context manager (``with`` or ``async with``), or close it, to leave it before its end in good order.
    """

    def __init__(self, inflow: Inflow, graph: Graph | None, on_break: OnBreak) -> None:
        self._inflow = inflow
        self._graph = graph
        self._on_break = on_break
        self._batch: _Batch | None = None
        self._position = 0
        self._lock = threading.Lock()

    @property
    def run_id(self) -> str:
        """Id of the run; empty until a run that is resumed has begun."""
        return self._inflow.run_id

    # Taking -----------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamedState:
        """The next task run that has ended; waits for it.

        Raises
        ------
        StopIteration
            The run has ended.
        """
        inflow = self._inflow
        try:
            while (state := self._take()) is None:
                if self._has_ended():
                    raise StopIteration
                with slots.given_up(), inflow.changed:
                    inflow.changed.wait_for(lambda: inflow.backlog or inflow.is_over or inflow.is_left)
        except KeyboardInterrupt:
            inflow.interrupt()
            raise
        return state

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamedState:
        """As `__next__`, while the loop goes on."""
        while (state := self._take()) is None:
            if self._has_ended():
                raise StopAsyncIteration
            await self._change()
        if self._position == 1:  # others of this loop have their turn, however much there is to take
            await asyncio.sleep(0)
        return state

    async def _change(self) -> None:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        self._inflow.when_changed(lambda: loop.call_soon_threadsafe(changed.set))
        await changed.wait()

    def _take(self) -> StreamedState | None:
        """The next task run, if one is here."""
        with self._lock:
            while not self._inflow.is_left:
                if self._batch is None:
                    with self._inflow.changed:
                        if not self._inflow.backlog:
                            return None
                        given = self._inflow.backlog.get()
                    self._batch, self._position = _Batch(given, self._inflow.nodes[given.slug]), 0
                batch, position = self._batch, self._position
                if position == len(batch.given.codes):
                    self._batch = None
                    continue
                self._position += 1
                state = batch.state(position)
                if state is not None:
                    return StreamedState(self._node(batch.given.slug), state, batch, position)
        return None

    def _node(self, slug: str) -> Any:
        return slug if self._graph is None else self._graph.by_slug(slug)

    def _has_ended(self) -> bool:
        """Whether nothing more is to be taken. Raises what the run has raised."""
        inflow = self._inflow
        with inflow.changed:
            if inflow.is_left:
                return True
            if inflow.error is not None and not inflow.backlog:
                raise inflow.error
            return inflow.is_over and not inflow.backlog

    # The run ----------------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> FlowRunView:
        """Wait until the run has ended, and give what ``flow.run`` gives. What has not been taken can still be.

        Values of streamed maps are not in it, unless ``keep=`` names them.

        Parameters
        ----------
        timeout
            Seconds; None: as long as it takes.

        Raises
        ------
        TimeoutError
            It had not ended by then; the run goes on.
        """
        inflow = self._inflow
        with slots.given_up(), inflow.changed:
            if not inflow.changed.wait_for(lambda: inflow.is_over, timeout):
                raise TimeoutError(f"run {self.run_id} has not ended after {timeout:g} s; it goes on")
        if inflow.error is not None:
            raise inflow.error
        assert inflow.view is not None
        return inflow.view()

    def cancel(self, reason: str = "asked for") -> None:
        """Ask the run to end; the rest of its task runs come as Cancelled."""
        self._inflow.ask_end(reason)

    def close(self) -> None:
        """Leave the stream. The run is cancelled, and has ended when this returns; or goes on, as ``on_break`` says."""
        if self._leave():
            with self._inflow.changed:
                self._inflow.changed.wait_for(lambda: self._inflow.is_over)

    async def aclose(self) -> None:
        """As `close`, while the loop goes on."""
        if self._leave():
            while not self._inflow.is_over:
                await self._change()

    def _leave(self) -> bool:
        """Take nothing any more; whether the run is to be waited for."""
        cancels = self._on_break == "cancel"
        if cancels:
            self._inflow.ask_end("its stream was left")
        self._inflow.leave()
        return cancels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if hasattr(self, "_on_break"):
            self._leave()

    def __repr__(self) -> str:
        return f"<stream of {', '.join(sorted(self._inflow.slugs))} of run {self.run_id}>"


def start(run: Callable[[], FlowRunView], inflow: Inflow) -> None:
    """Begin a run, in a thread of its own, that gives what it has to a stream."""
    threading.Thread(target=contextvars.copy_context().run, args=(_run, run, inflow), name="anabranch-run").start()


def _run(run: Callable[[], FlowRunView], inflow: Inflow) -> None:
    try:
        view = run()
    except BaseException as error:  # it is raised where the stream is read
        inflow.end(None, error)
    else:
        inflow.end(lambda: view)

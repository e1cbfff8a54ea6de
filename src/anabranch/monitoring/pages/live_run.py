"""A run of this process as pages see it: events wait in a queue until the pages' own thread takes them.

The run never waits for a page: telling it costs an append. If nobody takes events, they are dropped, and the page says
so.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from anabranch.base.errors import RunStoreError
from anabranch.base.events import Event
from anabranch.base.observers import Recipient
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.runs import ArtifactRow, LogQuery, LogRow, RunStore

if TYPE_CHECKING:
    from anabranch.monitoring.pages.recorded_run import ArtifactReader

T = TypeVar("T")

MAX_WAITING = 50_000  # events: the pages take them twice a second, so that is more than any driver can tell


class LiveRun(Recipient):
    """An observer of a run, and the source of its page.

    Parameters
    ----------
    model
        What the events are for; touched by `refresh` alone.
    store
        Where the run's log lines are; None if it is not recorded.
    dask_link
        Gives the address of Dask's own page, once there is one.
    clock
        Seconds since the epoch, by which the run's time passes between events.
    """

    def __init__(
        self,
        model: PageModel,
        *,
        store: RunStore | None = None,
        dask_link: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model = model
        self._store = store
        self._dask_link = dask_link
        self._clock = clock
        self._waiting: deque[Event] = deque()
        self._lost = False
        self._wish = ""
        self._artifacts: ArtifactReader | None = None

    # In the run's thread ----------------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Take note of an event; it is looked at later, elsewhere."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(event)
        else:
            self._lost = True

    def wants_end(self) -> str:
        """Why somebody wants the run to end; nothing if nobody does. A wish is told once."""
        wish, self._wish = self._wish, ""
        return wish

    # In the pages' thread ---------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring the model up to date."""
        for _ in range(len(self._waiting)):
            self.model.take(self._waiting.popleft())
        self.model.tick(self._clock())
        self.model.is_incomplete = self._lost

    def cancel(self, reason: str) -> None:
        """Ask the run to end."""
        self._wish = reason

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.model.ended is not None

    @property
    def state(self) -> str | None:
        """The state's word where it is not the model's."""
        return None

    @property
    def standing(self) -> tuple[str, int] | None:
        """None: no record was read."""
        return None

    def links(self) -> Sequence[tuple[str, str]]:
        """Addresses beside the page, with texts."""
        link = self._dask_link()
        return [(link, "Dask's page")] if link and link.startswith(("http://", "https://")) else []

    def log_rows(self, query: LogQuery | None = None) -> Sequence[LogRow]:
        """The last log lines; none if the run is not recorded."""
        from anabranch.monitoring.pages.recorded_run import last_lines

        return self._ask(lambda store: last_lines(store, self.model.run_id, query))

    def artifacts(self) -> Sequence[ArtifactRow]:
        """What tasks have shown; nothing if the run is not recorded."""
        from anabranch.monitoring.pages.recorded_run import ArtifactReader

        reader = self._artifacts = self._artifacts or ArtifactReader()
        return self._ask(lambda store: reader.read(store, self.model.run_id))

    def lines_of(self, slug: str, index: int | None) -> Sequence[LogRow]:
        """Log lines of a task run; none if the run is not recorded."""
        from anabranch.monitoring.pages.recorded_run import lines_of

        return self._ask(lambda store: lines_of(store, self.model.run_id, slug, index))

    def earlier(self) -> Sequence[float]:
        """Seconds that the last successful runs of the flow took before this one, the newest first."""
        from anabranch.monitoring.pages.recorded_run import earlier_seconds

        return self._ask(lambda store: earlier_seconds(store, self.model))

    def _ask(self, ask: Callable[[RunStore], Sequence[T]]) -> Sequence[T]:
        try:
            return ask(self._store) if self._store is not None else ()
        except RunStoreError:  # the run goes on without its record, and so does its page
            return ()

    def __repr__(self) -> str:
        return f"<live page of run {self.model.run_id or 'to come'}>"

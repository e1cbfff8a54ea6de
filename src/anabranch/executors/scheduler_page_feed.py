"""Puts a run on the page in Dask's dashboard: brings the page there, and tells it how the run stands."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from distributed.protocol.pickle import dumps

from anabranch.executors.scheduler_page import OWN, Page

if TYPE_CHECKING:
    from distributed import Client

EVERY_S = 0.5  # people look a few times a minute

_log = logging.getLogger("anabranch.executors")
_said: set[str] = set()
"""Reasons that were told once in this process."""


class PageFeed:
    """A run's place on the page. Nothing here waits: what can be done is done on the client's own loop.

    Parameters
    ----------
    client
        Of the driver.
    token
        The run's id.
    """

    def __init__(self, client: Client, token: str) -> None:
        self._client = client
        self._token = token
        self._is_up = False
        self._is_due = False
        self._sent = 0.0
        self._standing: Callable[[], Mapping[str, Any]] | None = None
        loop: Any = client.loop  # Dask's annotation has it that there may be none
        self._loop = loop
        self._loop.add_callback(self._open)

    def show(self, standing: Callable[[], Mapping[str, Any]]) -> None:
        """Let the page show how the run stands now; it is asked when the page is told, at most twice a second.

        Parameters
        ----------
        standing
            Gives plain values, in any thread.
        """
        self._standing = standing
        if not self._is_due and self._client.status == "running":
            self._is_due = True
            self._loop.add_callback(self._send_soon)

    async def _open(self) -> None:
        scheduler: Any = self._client.scheduler
        try:
            plugin = dumps(Page(self._token, self._client.id))
            name = f"anabranch-page-{self._token}"
            await scheduler.register_scheduler_plugin(plugin=plugin, name=name, idempotent=False)
            told = await scheduler.get_metadata(keys=[OWN, self._token], default=None)
        except Exception as error:  # a scheduler of another version, a run that is over: it did without the page
            reason: str | None = str(error) or type(error).__name__
        else:
            reason = (told or {}).get("refused")
        if reason is None:
            self._is_up = True
            await self._send()
        elif reason and self._client.status == "running" and reason not in _said:
            _said.add(reason)
            _log.info("Dask's dashboard has no page of this run: %s", reason)

    def _send_soon(self) -> None:
        if self._is_up:
            self._loop.call_later(max(0.0, self._sent + EVERY_S - time.monotonic()), self._send)

    async def _send(self) -> None:
        self._is_due, self._sent = False, time.monotonic()
        scheduler: Any = self._client.scheduler
        if self._standing is None or scheduler is None:
            return
        try:
            await scheduler.set_metadata(keys=[OWN, self._token], value=dict(self._standing()))
        except OSError as error:  # the scheduler, or this client, has gone, which others notice
            _log.debug("the page of run %s is not up to date: %s", self._token, error)

"""Looks for bad news, which are to be told once whatever services there are.

They are: runs that ended badly, that are late, or that are silent; flows with too many runs that wait; and flows that
do well again. Whom they are told is decided in `courier`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from anabranch.base.errors import RunStoreError
from anabranch.base.settings import config
from anabranch.base.texts import seconds
from anabranch.monitoring.bulletins import Bulletin, page_of
from anabranch.runs.store.database import Database
from anabranch.runs.store.notices import admit
from anabranch.runs.store.troubles import TroubleTable

LOOK_S = 5.0
"""Seconds between looks: six short queries."""
SINCE = timedelta(hours=1)
"""News that are older are not told any more: no service has been there for so long."""
KEEP = timedelta(days=7)
"""Time for which it is known what was told."""
HOUR_S = 3_600.0
LEAVE_S = 2.0
"""Seconds for which a service that ends waits for a look."""
MOST_NAMES = 3

_log = logging.getLogger("anabranch.service")


class Teller(Protocol):
    """Who tells of what was found."""

    def tell_of_runs(self, left_out: Mapping[str, int]) -> None:
        """Tell the service's own notifiers of runs that have ended."""

    def tell_news(self, news: Bulletin) -> None:
        """Tell the notifiers of a flow, and the service's own."""


class Watch:
    """Looks now and then, in a thread.

    Parameters
    ----------
    database
        Of the run store.
    clock
        What time it is, for all services alike.
    teller
        Tells of what was found.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime], teller: Teller) -> None:
        self._database = database
        self._clock = clock
        self._teller = teller
        self._troubles = TroubleTable(database)
        self._forgot: datetime | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="anabranch-watch", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, after a look."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(LEAVE_S)

    def _work(self) -> None:
        while not self._over.wait(LOOK_S):
            try:
                self.look()
            except RunStoreError as error:
                _log.debug("the next look for bad news may find more: %s", error)
            except Exception:  # a bug of ours must not end what keeps a team's flows going
                _log.exception("a look for bad news failed; the next one tries again")

    def look(self) -> None:
        """Tell of all that there is to tell now.

        Raises
        ------
        RunStoreError
            The store does not answer; the next look finds what was left.
        """
        now = self._clock()
        self._tell_ends(now)
        self._tell_waiting(now)
        self._tell_silent(now)
        for name, run_id in self._troubles.take_recovered():
            self._tell(name, "Recovered", "it has succeeded again", run_id)
        if self._forgot is None or abs(now - self._forgot) >= SINCE:
            self._troubles.forget(before=now - KEEP)
            self._forgot = now

    def _tell_ends(self, now: datetime) -> None:
        told: dict[str, int] = {}
        for slot in self._troubles.ended(since=now - SINCE):
            at = slot.ended or now
            if not self._troubles.claim(slot.run_id, "End", at):
                continue
            left_out = self._admitted(slot.flow_name)
            if left_out is None:
                continue
            told[slot.run_id] = left_out
            if slot.state != "Cancelled":
                self._troubles.note_trouble(slot.flow_name, slot.run_id, at)
        if told and config.service.notifiers:
            self._teller.tell_of_runs(told)

    def _tell_waiting(self, now: datetime) -> None:
        late_s, most = config.service.late_s, config.service.backlog
        for name, number, since in self._troubles.waiting(now=now):
            waited = now - since
            kinds = {"Late": 0 < late_s <= waited / timedelta(seconds=1), "Backlog": 0 < most <= number}
            for kind in (kind for kind, is_so in kinds.items() if is_so):
                if admit(self._database, f"{kind} {name}", most=1, per_s=HOUR_S) is None:
                    continue
                many = f"{number:,} runs of it are due and have not begun, the first since"
                what = many if number > 1 else "a run is due and has not begun since"
                text = f"{what} {_time(since)} ({seconds(waited.total_seconds())})"
                self._tell_once(name, kind, text, self._troubles.first_waiting(name, now=now), now)

    def _tell_silent(self, now: datetime) -> None:
        if not (limit_s := config.service.silent_s):
            return
        for slot, since in self._troubles.silent(now=now, before=now - timedelta(seconds=limit_s)):
            if not self._troubles.claim(slot.run_id, "Stuck", since):
                continue
            names = self._troubles.running(slot.run_id)
            more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
            at = f"; running: {', '.join(names[:MOST_NAMES])}{more}" if names else ""
            waited = seconds((now - since).total_seconds())
            text = f"its process lives, and nothing has begun, ended or been logged since {_time(since)} ({waited}){at}"
            self._tell_once(slot.flow_name, "Stuck", text, slot.run_id, now, task=names[0] if names else "")

    def _tell_once(self, flow_name: str, kind: str, text: str, run_id: str, now: datetime, *, task: str = "") -> None:
        left_out = self._admitted(flow_name)
        if left_out is not None:
            self._troubles.note_trouble(flow_name, run_id, now)
            self._tell(flow_name, kind, text, run_id, left_out=left_out, task=task)

    def _tell(self, flow_name: str, kind: str, text: str, run_id: str, *, left_out: int = 0, task: str = "") -> None:
        _log.warning("flow %s: %s: %s (run %s)", flow_name, kind, text, run_id)
        url = page_of(run_id=run_id, flow=flow_name)
        self._teller.tell_news(
            Bulletin(
                what=flow_name,
                flow=flow_name,
                state=kind,
                message=text,
                run_id=run_id,
                url=url,
                task=task,
                left_out=left_out,
            )
        )

    def _admitted(self, flow_name: str) -> int | None:
        """How many news of a flow were left out before this one; None if this one is, too."""
        return admit(self._database, f"news of {flow_name}", most=config.service.notices_per_hour, per_s=HOUR_S)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"

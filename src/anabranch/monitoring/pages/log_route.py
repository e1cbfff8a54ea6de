"""The whole log of a run as a file; written as it is read, however long it is."""

from __future__ import annotations

import asyncio
import logging
from itertools import islice

from anabranch.base.errors import AnabranchError
from anabranch.base.texts import printable
from anabranch.monitoring.pages.library import Library
from anabranch.runs import LogRow
from anabranch.web.handlers import Handler, Route

LINES = 5_000  # that are read at a time


def log_route(library: Library) -> Route:
    """The route of whole logs, as text."""
    return (r"/log", _Log, {"library": library})


class _Log(Handler):
    """The log of a run as a file, written as it is read."""

    def initialize(self, library: Library) -> None:
        self._library = library

    async def get(self) -> None:
        """Send it."""
        loop, run_id, is_begun = asyncio.get_running_loop(), self.get_query_argument("id", ""), False
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        lines = self._library.log_lines(run_id)
        while True:
            try:
                rows = await loop.run_in_executor(None, lambda: list(islice(lines, LINES)))
            except AnabranchError as error:
                if not is_begun:
                    self.set_status(404)
                self.finish(f"{error}\n")
                return
            if not is_begun:
                name = "".join(
                    each if each.isalnum() or each in "-_" else "_" for each in run_id[:80] if each.isascii()
                )
                self.set_header("Content-Disposition", f'attachment; filename="anabranch-{name}.log"')
            is_begun = True
            self.write("".join(map(_line, rows)))
            await self.flush()
            if len(rows) < LINES:
                self.finish()
                return


def _line(row: LogRow) -> str:
    who = "" if row.slug is None else row.slug if row.index is None else f"{row.slug}[{row.index}]"
    first, *rest = row.text.split("\n")
    head = f"{row.time.isoformat()} {logging.getLevelName(row.level):8} {printable(who)}: {printable(first)}\n"
    return head + "".join(f"    {printable(line)}\n" for line in rest)

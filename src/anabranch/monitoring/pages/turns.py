"""Code of pages runs in the thread of the server's loop, where pages are fed: from 3.10 on, Bokeh has others for it."""

from __future__ import annotations

from collections.abc import Callable

from bokeh.application.handlers.document_lifecycle import DocumentLifecycleHandler
from bokeh.document import Document, without_document_lock
from bokeh.models import Model


class PageHandler(DocumentLifecycleHandler):  # type: ignore[misc]  # of all handlers, Bokeh gives these no thread
    """Makes the document of each page."""

    def __init__(self, make: Callable[[Document], None]) -> None:
        super().__init__()
        self._make = make

    def modify_document(self, doc: Document) -> None:
        """Make it."""
        self._make(doc)


def follow(doc: Document, update: Callable[[], None], every_ms: int) -> None:
    """Bring a page up to date again and again, while a browser has it open."""

    async def look() -> None:
        context = doc.session_context
        session = context.session if context is not None else None
        if session is not None and session.connection_count:  # else it has to be left alone, or it is never discarded
            await session.with_document_locked(in_turn)

    async def in_turn() -> None:
        update()

    doc.add_periodic_callback(without_document_lock(look), every_ms)


def act_in_turn(model: Model, act: Callable[[], object]) -> None:
    """Do what somebody has asked for by a widget, in the loop's next turn."""

    async def in_turn() -> None:
        act()

    doc = model.document
    if doc is None or doc.session_context is None:  # it is on no page that is served
        act()
    else:
        doc.add_next_tick_callback(in_turn)

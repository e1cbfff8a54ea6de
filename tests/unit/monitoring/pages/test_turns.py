"""Code of pages runs in the thread of the server's loop, whatever threads Bokeh has."""

from __future__ import annotations

import asyncio
import inspect
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.models import Button
from tests.unit.monitoring.pages.test_strain import Fed, Visitor, until

from anabranch.monitoring.pages import documents, run_page
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.server import Pages
from anabranch.monitoring.pages.turns import act_in_turn, follow


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads in which pages of runs were made and brought up to date."""
    found: list[str] = []

    class Watched(run_page.RunPage):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            found.append(threading.current_thread().name)
            super().__init__(*args, **kwargs)

        def update(self, **kwargs: Any) -> None:
            found.append(threading.current_thread().name)
            super().update(**kwargs)

    monkeypatch.setattr(documents, "RunPage", Watched)
    monkeypatch.setattr(documents, "FOLLOW_MS", 20)
    return found


def test_pages_are_made_and_followed_in_the_thread_that_feeds_them(seen: list[str]):
    library = Library(lambda: None)
    library.add("r1", Fed().run)
    with Pages(library) as pages:
        client = Visitor(pages.address("r1")).websocket()
        until(lambda: len(seen) > 3)
        client.close()
    assert {*seen} == {"anabranch-pages"}


def document(connections: int) -> tuple[Document, list[str]]:
    """A page with so many browsers, and what happens to it."""
    doc, story = Document(), []  # type: ignore[var-annotated]

    def lock(act: object) -> object:
        story.append("locked")
        return act()  # type: ignore[operator]

    session = SimpleNamespace(connection_count=connections, with_document_locked=lock)
    context = SimpleNamespace(session=session)
    doc._session_context = lambda: context  # type: ignore[assignment]
    return doc, story


@pytest.mark.parametrize(("connections", "expected"), [(0, []), (1, ["locked", "updated"])])
def test_a_page_without_a_browser_is_left_alone(connections: int, expected: list[str]):
    doc, story = document(connections)
    follow(doc, lambda: story.append("updated"), 20)
    (callback,) = doc.session_callbacks
    asyncio.run(callback.callback())
    assert story == expected


def test_what_a_widget_asks_for_is_done_by_a_coroutine_which_the_loop_runs():
    doc, story = document(1)
    button = Button()
    act_in_turn(button, lambda: story.append("before it was on a page"))
    doc.add_root(button)
    act_in_turn(button, lambda: story.append("in turn"))
    assert story == ["before it was on a page"]
    (callback,) = doc.session_callbacks
    assert inspect.iscoroutinefunction(inspect.unwrap(callback.callback))
    asyncio.run(inspect.unwrap(callback.callback)())
    assert story[1:] == ["in turn"]

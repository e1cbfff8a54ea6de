"""Bokeh's pages in our server: sessions are bounded however they are opened, and nothing but pages opens any."""

from __future__ import annotations

import asyncio
import gc
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

import pytest
from bokeh.util.token import generate_jwt_token, generate_session_id
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.server import Pages
from anabranch.web import bokeh


@pytest.fixture
def pages() -> Iterator[Pages]:
    with Pages(Library(lambda: None)) as found:
        yield found


def bearer(pages: Pages) -> dict[str, str]:
    return {"Authorization": f"Bearer {urlsplit(pages.address()).query.partition('token=')[2]}"}


def ask(pages: Pages, path: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{pages.port}{path}", headers=bearer(pages))
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def token_of(page: str) -> str:
    found = re.search(r'"token":\s*"([^"]+)"', page)
    assert found is not None
    return found[1]


def first_message(pages: Pages, token: str) -> str | bytes | None:
    """What a page is told first by its websocket; None if that is closed."""

    async def listen() -> str | bytes | None:
        request = HTTPRequest(f"ws://127.0.0.1:{pages.port}/ws", headers=bearer(pages))
        connection = await websocket_connect(request, subprotocols=["bokeh", token])
        found = message = await connection.read_message()
        connection.close()
        while message is not None:  # until it is closed
            message = await connection.read_message()
        return found

    return asyncio.run(listen())


def test_a_websocket_opens_no_page_beyond_the_bound(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    # given one page, and room for no other
    monkeypatch.setattr(bokeh, "MAX_SESSIONS", 1)
    monkeypatch.setattr(bokeh, "LEFT_MS", 600_000)
    token = token_of(ask(pages, "/"))
    # when a websocket comes for a page that nobody has made
    made_up = generate_jwt_token(generate_session_id(signed=False), signed=False)
    # then
    assert first_message(pages, made_up) is None
    assert pages.sessions == 1
    assert first_message(pages, token) is not None


def test_pages_that_browsers_have_left_make_room_for_others(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    # given room for two, and two that nobody looks at
    monkeypatch.setattr(bokeh, "MAX_SESSIONS", 2)
    monkeypatch.setattr(bokeh, "LEFT_MS", 600_000)
    first, _ = (token_of(ask(pages, "/")) for _ in range(2))
    # when they may be looked at yet, then there is no room
    with pytest.raises(urllib.error.HTTPError, match="503") as info:
        ask(pages, "/")
    info.value.close()
    # and when they cannot be any more, there is
    monkeypatch.setattr(bokeh, "LEFT_MS", -1)
    ask(pages, "/")
    assert pages.sessions == 1
    # and one that is looked at after all is made again
    ask(pages, "/")
    assert first_message(pages, first) is not None


def test_garbage_is_collected_once_however_many_pages_are_discarded(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    # given as many pages as there may be, all of them left
    collected: list[int] = []
    collect = gc.collect
    monkeypatch.setattr(bokeh, "MAX_SESSIONS", 5)
    monkeypatch.setattr(bokeh, "LEFT_MS", -1)
    monkeypatch.setattr(gc, "collect", lambda *args: collected.append(1) or collect(*args))
    for _ in range(5):
        ask(pages, "/")
    assert collected == []
    # when there must be room
    ask(pages, "/")
    # then
    assert pages.sessions == 1
    assert collected == [1]


def test_what_bokeh_has_for_pages_of_other_servers_is_not_there(pages: Pages):
    for path in ("/autoload.js?bokeh-autoload-element=1", "/metadata", "/run/metadata", "/flow/autoload.js"):
        with pytest.raises(urllib.error.HTTPError, match="404") as info:
            ask(pages, path)
        info.value.close()
    assert pages.sessions == 0


def test_scripts_may_be_kept_by_browsers_and_pages_may_not(pages: Pages):
    request = urllib.request.Request(f"http://127.0.0.1:{pages.port}/", headers=bearer(pages))
    with urllib.request.urlopen(request, timeout=20) as answer:
        script = re.findall(r'src="([^"]*bokeh.min.js[^"]*)"', answer.read().decode())[0]
        assert answer.headers["Cache-Control"] == "no-store"
    request = urllib.request.Request(urljoin(request.full_url, script), headers=bearer(pages))
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert "max-age" in answer.headers["Cache-Control"]

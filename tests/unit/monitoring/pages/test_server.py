"""The pages' server: nobody without the token gets anything, from anywhere; with it the pages are there."""

from __future__ import annotations

import http.client
import logging
import re
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from bokeh.server.tornado import BokehTornado

from anabranch import Flow, task
from anabranch.errors import PagesError
from anabranch.monitoring.pages import live_page, log_route
from anabranch.monitoring.pages.documents import applications
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.server import Pages
from anabranch.runs.read import lines
from anabranch.runs.store.opening import current_store


@task
def one() -> int:
    return 1


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with Pages(Library(current_store)) as serving:
        yield serving


def ask(pages: Pages, path: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", pages.port, timeout=20)
    try:
        connection.request(method, path, headers={"Host": f"127.0.0.1:{pages.port}", **headers})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def cookie_of(pages: Pages) -> str:
    address = urlsplit(pages.address())
    status, headers, _ = ask(pages, f"{address.path}?{address.query}")
    assert status == 303
    return headers["Set-Cookie"].partition(";")[0]


def routes(pages: Pages) -> list[str]:
    """A path for every route that the application has, Bokeh's own included."""
    app = BokehTornado(applications(pages.library), use_index=False)
    rules = [rule for router in app.default_router.rules for rule in router.target.rules]
    patterns = [rule.matcher.regex.pattern for rule in [*rules, *app.wildcard_router.rules]]
    assert len(patterns) > 10
    return [re.sub(r"\(.*?\)", "js/bokeh.min.js", pattern).replace("/?", "/").rstrip("$") for pattern in patterns]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_no_route_answers_without_the_token(pages: Pages, method: str):
    for path in [*routes(pages), "/run?id=x", "/nothing/of/the/kind"]:
        status, headers, text = ask(pages, path, method=method)
        assert (path, status) == (path, 401)
        assert "Set-Cookie" not in headers
        assert len(text) < 200


def test_a_websocket_is_refused_without_the_cookie(pages: Pages):
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": f"http://127.0.0.1:{pages.port}",
    }  # fmt: skip
    assert ask(pages, "/run/ws", **upgrade)[0] == 401
    assert ask(pages, "/run/ws", **{**upgrade, "Origin": "http://evil.example", "Cookie": cookie_of(pages)})[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "127.0.0.1:1"])
def test_a_name_that_is_not_the_servers_own_is_refused(pages: Pages, host: str):
    status, _, _ = ask(pages, "/", Host=host, Cookie=cookie_of(pages))
    assert status in (400, 403)


def test_another_sites_request_is_refused_even_with_the_cookie(pages: Pages):
    assert ask(pages, "/", Origin="https://evil.example", Cookie=cookie_of(pages))[0] == 403
    assert ask(pages, "/", Origin="null", Cookie=cookie_of(pages))[0] == 403


def test_the_token_becomes_a_cookie_and_leaves_the_address(pages: Pages):
    # given
    address = urlsplit(pages.address("a/b&c"))
    # when
    status, headers, _ = ask(pages, f"{address.path}?{address.query}")
    # then
    assert status == 303
    assert headers["Location"] == "./run?id=a%2Fb%26c"
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    token = address.query.partition("token=")[2]
    assert token not in headers["Set-Cookie"]


def test_logging_in_never_leads_to_another_server(pages: Pages):
    token = urlsplit(pages.address()).query.partition("token=")[2]
    _, headers, _ = ask(pages, f"//evil.example/x?token={token}")
    assert headers["Location"] == "../../evil.example/x"


def test_wrong_tokens_are_refused_and_slowed_down_and_the_right_one_is_not():
    with Pages(Library(lambda: None)) as serving:
        statuses = [ask(serving, "/?token=wrong")[0] for _ in range(25)]
        assert statuses == [401] * 20 + [429] * 5
        assert ask(serving, f"/?{urlsplit(serving.address()).query}")[0] == 303
        assert ask(serving, "/", Cookie="anabranch=; =;;")[0] == 401


def test_a_page_has_a_policy_that_lets_no_other_script_run(pages: Pages):
    # when
    status, headers, text = ask(pages, "/", Cookie=cookie_of(pages))
    # then
    assert status == 200
    policy = headers["Content-Security-Policy"]
    (nonce,) = re.findall(r"'nonce-([^']+)'", policy)
    assert "unsafe-eval" not in policy
    assert re.search(r"script-src[^;]*unsafe-inline", policy) is None
    assert text.count("<script") == text.count(f'<script nonce="{nonce}"') > 0
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not re.findall(r"(?:src|href)=\"https?://", text)
    assert cookie_of(pages).partition("=")[2] not in text


def test_pages_listen_on_loopback_only(pages: Pages):
    assert [each.getsockname()[0] for each in pages._sockets] == ["127.0.0.1"]


def test_a_page_of_no_run_says_so(pages: Pages):
    # given
    cookie = cookie_of(pages)
    # when
    status, _, text = ask(pages, "/run?id=%3Cscript%3Enosuch%3C/script%3E", Cookie=cookie)
    # then: the sentence comes with the document, which is asked for later
    assert status == 200
    assert "<script>nosuch" not in text


def test_a_port_that_is_taken_is_an_error_that_names_it(pages: Pages):
    with pytest.raises(PagesError, match=f"port {pages.port}: .*name another port"):
        Pages(Library(lambda: None), port=pages.port)


def test_a_run_is_not_disturbed_when_there_can_be_no_page(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # given
    def refuse() -> Pages:
        raise PagesError("no port is left")

    monkeypatch.setattr(live_page, "serving", refuse)
    with Flow("pageless") as flow:
        one()
    # when
    state = flow.run(dashboard=True)
    # then
    assert state.is_successful()
    assert "the run has no live page: no port is left" in caplog.text


def test_runs_of_a_process_share_one_server(capsys: pytest.CaptureFixture[str]):
    # given
    with Flow("paged") as flow:
        one()
    addresses: list[str] = []
    try:
        # when
        first = flow.run(dashboard=addresses.append)
        second = flow.run(dashboard=True)
        told = capsys.readouterr().err
        # then
        assert first.is_successful()
        assert second.is_successful()
        serving = live_page.serving()
        assert addresses == [serving.address(first.run_id)]
        assert f"live page of paged: {serving.address(second.run_id)}\n" in told
        status, _, _ = ask(serving, urlsplit(addresses[0]).path + "?" + urlsplit(addresses[0]).query)
        assert status == 303
    finally:
        live_page.stop_serving()
    with pytest.raises(ConnectionRefusedError):
        ask(serving, "/")


@task
def speak(x: int) -> int:
    logging.getLogger("anabranch.task").warning("x is %d\nand \x1b[31m more", x)
    return x


def test_the_whole_log_of_a_run_is_a_file(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    # given a run that logged more than is read at a time
    monkeypatch.setattr(log_route, "LINES", 2)
    monkeypatch.setattr(lines, "PAGE", 3)
    with Flow("speaking") as flow:
        speak.map([1, 2, 3, 4])
    view = flow.run()
    cookie = cookie_of(pages)
    # when
    status, headers, text = ask(pages, f"/log?id={view.run_id}", Cookie=cookie)
    # then
    assert status == 200
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Content-Disposition"] == f'attachment; filename="anabranch-{view.run_id}.log"'
    written = text.splitlines()
    assert [line.partition("WARNING")[2].strip() for line in written[::2]] == [
        f"speak[{x - 1}]: x is {x}" for x in (1, 2, 3, 4)
    ]
    assert written[1] == "    and \\x1b[31m more"
    # and of no run there is none
    status, _, text = ask(pages, "/log?id=nosuch", Cookie=cookie)
    assert status == 404
    assert "nosuch" in text


def test_what_is_not_there_is_said_as_a_page_to_browsers(pages: Pages):
    cookie = cookie_of(pages)
    status, headers, text = ask(pages, "/no/such", Cookie=cookie, Accept="text/html,*/*")
    assert (status, headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert "there is nothing here" in text
    assert 'href="../">All runs' in text
    status, headers, text = ask(pages, "/no/such", Cookie=cookie)
    assert (status, headers["Content-Type"]) == (404, "application/json")


def test_metrics_are_there_or_say_what_to_install(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    cookie = cookie_of(pages)
    status, _, text = ask(pages, "/metrics", Cookie=cookie)
    assert (status, text[:7]) == (200, "# HELP ")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    status, _, text = ask(pages, "/metrics", Cookie=cookie)
    assert status == 501
    assert 'pip install "anabranch[metrics]"' in text

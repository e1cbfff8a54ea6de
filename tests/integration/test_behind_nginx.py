"""A service below a path of the real nginx, with the configuration of the documentation."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from urllib.parse import urlencode, urljoin

import pytest
from tests.browser import Watched, chromium
from tests.nginx_server import nginx
from tests.web_server import Server, make_certificate, serving
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

TOKEN = "a-token-of-some-length"
NAME = "flows.example.com"
HTML = {"Accept": "text/html"}
FORM = {**HTML, "Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    with serving(TOKEN, hosts=[NAME]) as found:
        yield found


class Client:
    """A browser that trusts the certificate, and looks at https://flows.example.com/flows/ and below."""

    def __init__(self, port: int, cert: str) -> None:
        self.port = port
        self.base = f"https://{NAME}:{port}/flows/"
        self.trusting = ssl.create_default_context(cafile=cert)
        self.trusting.check_hostname = False  # the certificate is for no name
        self.cookie = ""

    def ask(self, method: str, place: str, body: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
        """Status, headers and body of an answer; what leads elsewhere is not followed."""
        url = urljoin(self.base, place)
        assert url.startswith(self.base)
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.trusting)
        own = {"Host": f"{NAME}:{self.port}", "Origin": f"https://{NAME}:{self.port}", "Cookie": self.cookie}
        connection.request(method, url.removeprefix(f"https://{NAME}:{self.port}"), body or None, {**own, **headers})
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        text = answer.read().decode("utf-8", "replace")
        connection.close()
        return answer.status, found, text

    def log_in(self) -> str:
        """Where the form of the login leads."""
        _, _, page = self.ask("GET", "run?id=run-1", **HTML)
        (action,) = re.findall(r'action="([^"]+)"', page)
        (after,) = re.findall(r'name="next" value="([^"]+)"', page)
        status, headers, _ = self.ask("POST", action, urlencode({"token": TOKEN, "next": after}), **FORM)
        assert status == 303
        assert headers["set-cookie"].endswith("; Secure")
        self.cookie = headers["set-cookie"].partition(";")[0]
        return urljoin(self.base, headers["location"])


@pytest.fixture
def client(service: Server, certificate: tuple[str, str], tmp_path: Path) -> Iterator[Client]:
    with nginx(tmp_path, service.web.port, certificate=certificate) as port:
        yield Client(port, certificate[0])


def test_who_logs_in_by_the_form_gets_pages_with_their_scripts_and_websockets(client: Client):
    # given
    assert client.log_in() == f"{client.base}run?id=run-1"
    # when
    status, _, page = client.ask("GET", "run?id=run-1", **HTML)
    # then
    assert status == 200
    scripts = re.findall(r'src="([^"]+)"', page)
    assert scripts
    assert {client.ask("GET", each)[0] for each in scripts} == {200}
    (token,) = re.findall(r'"token":\s*"([^"]+)"', page)

    async def listen() -> str | bytes | None:
        own = {"Host": f"{NAME}:{client.port}", "Origin": f"https://{NAME}:{client.port}", "Cookie": client.cookie}
        request = HTTPRequest(f"wss://127.0.0.1:{client.port}/flows/run/ws", headers=own, ssl_options=client.trusting)
        connection = await websocket_connect(request, subprotocols=["bokeh", token])
        found = message = await connection.read_message()
        connection.close()
        while message is not None:  # until it is closed
            message = await connection.read_message()
        return found

    assert asyncio.run(listen()) is not None


def test_forms_of_runs_and_the_logout_work_below_the_path(client: Client):
    client.log_in()
    _, _, page = client.ask("GET", "do/cancel?run=run-2", **HTML)
    (form,) = re.findall(r'name="form" value="(\w+)"', page)
    status, headers, _ = client.ask("POST", "do/cancel?run=run-2", urlencode({"form": form}), **FORM)
    assert status == 303
    assert urljoin(f"{client.base}do/cancel", headers["location"]) == f"{client.base}run?id=run-2&said=cancel"
    status, headers, _ = client.ask("POST", "logout", **FORM)
    assert urljoin(client.base, headers["location"]) == f"{client.base}login"
    assert client.ask("GET", "run?id=run-1")[0] == 401


def test_programs_use_the_api_with_the_token(client: Client):
    known = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    assert client.ask("GET", "api/runs", **known)[0] == 200
    body = json.dumps({"parameters": {"x": 1}})
    assert client.ask("POST", "api/flows/etl/runs", body, **known)[0] == 202


def test_without_the_host_the_refusal_names_it(service: Server, certificate: tuple[str, str], tmp_path: Path):
    changes = {"proxy_set_header Host $http_host;": ""}
    with nginx(tmp_path, service.web.port, certificate=certificate, **changes) as port:
        status, _, text = Client(port, certificate[0]).ask("POST", "login", f"token={TOKEN}", **FORM)
    assert status == 403
    assert f"Origin is &#x27;https://{NAME}:{port}&#x27;" in text
    assert f"Host is &#x27;127.0.0.1:{service.web.port}&#x27;" in text


def test_a_browser_sees_a_page_that_is_alive(service: Server, tmp_path: Path):
    changes = {
        "location /flows/ {": "location = /favicon.ico { return 204; } location /flows/ {"
    }  # as a host may have it
    with chromium() as browser, nginx(tmp_path, service.web.port, certificate=None, **changes) as port:
        visit = Watched(browser)
        visit.page.goto(f"http://127.0.0.1:{port}/flows")
        visit.page.fill("[name=token]", TOKEN)
        visit.page.click("button:has-text('Log in')")
        visit.complaints.clear()  # that the first answer was 401
        visit.page.goto(f"http://127.0.0.1:{port}/flows/run?id=none")
        visit.page.click("a:has-text('All runs')")  # which comes by the websocket
        visit.page.wait_for_url(f"http://127.0.0.1:{port}/flows/")
        assert visit.complaints == []

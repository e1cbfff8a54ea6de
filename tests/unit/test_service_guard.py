"""Who may talk to a service: rules S1 and S7, asked of every route there is."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from typing import Any

import pytest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from anabranch.errors import ServiceError
from anabranch.runs import RunRecord
from anabranch.runs.flow_table import FlowRecord, FlowTable
from anabranch.runs.slot_queue import SlotQueue
from anabranch.runs.slots import Slot
from anabranch.runs.sqlite import InMemoryRunStore
from anabranch.service import openapi
from anabranch.service.actions import Actions
from anabranch.service.api import api_routes
from anabranch.service.guard import Guard, check_bind
from anabranch.service.server import WebServer

TOKEN = "a-token-of-some-length"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Page(RequestHandler):
    def get(self) -> None:
        self.finish("page")


class Echo(WebSocketHandler):
    def check_origin(self, origin: str) -> bool:
        return True  # careless, as pages of others may be: the guard is before it

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class Server:
    """A web server in a thread."""

    def __init__(self, store: InMemoryRunStore, guard: Guard) -> None:
        self.store = store
        self.loop = asyncio.new_event_loop()
        self.web: Any = None
        self.guard = guard

    def call(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.web.port, timeout=10)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@contextmanager
def serving(token: str = "", **options: Any) -> Iterator[Server]:
    store = InMemoryRunStore()
    flows = FlowTable(store.database)
    schema = {"type": "object", "properties": {"x": {}}, "required": ["x"]}
    flows.put(FlowRecord("etl", "code", parameters=schema), now=NOON)
    store.finish_run(store.create_run(RunRecord("run-1", "etl", NOON)), "Failed", end=NOON)
    SlotQueue(store.database).add([Slot("run-2", "etl", NOON)], now=NOON)
    server = Server(store, Guard(token=token, **options))
    ready = threading.Event()

    async def serve() -> None:
        routes = [*api_routes(Actions(store), lambda: True), (r"/page", Page, {}), (r"/live", Echo, {})]
        server.web = WebServer(routes, server.guard)
        server.web.listen("127.0.0.1", 0)
        ready.set()

    server.loop.run_until_complete(serve())
    thread = threading.Thread(target=server.loop.run_forever)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.web.close(), server.loop).result(10)
        server.loop.call_soon_threadsafe(server.loop.stop)
        thread.join()
        server.loop.run_until_complete(server.loop.shutdown_default_executor())
        server.loop.close()


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    with serving(TOKEN, hosts=["etl.example"]) as server:
        yield server


@pytest.fixture(scope="module")
def open_one() -> Iterator[Server]:
    with serving() as server:
        yield server


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# Listening ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "192.0.2.1", "example.com"])
def test_a_wide_bind_without_a_token_refuses(address: str):
    with pytest.raises(ServiceError, match="would let anybody who reaches it start runs; give a token"):
        check_bind(address, "")
    check_bind(address, TOKEN)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_no_token(address: str):
    check_bind(address, "")


def test_a_short_token_refuses():
    with pytest.raises(ServiceError, match="has 5 characters, and 16 are needed"):
        check_bind("127.0.0.1", "short")


# Every route ----------------------------------------------------------------------------------------------------------

ROUTES = [
    (method.upper(), path.replace("{name}", "etl").replace("{run_id}", "run-1"))
    for path, operations in openapi.document()["paths"].items()
    for method in operations
]
ROUTES += [("GET", "/page"), ("GET", "/live"), ("GET", "/api/openapi.json"), ("GET", "/nothing"), ("GET", "/")]


def test_every_route_of_the_api_is_in_the_list():
    served = {pattern for pattern, _, _ in api_routes(Actions(InMemoryRunStore()), lambda: True)}
    documented = {
        path.replace("{name}", r"([^/]+)").replace("{run_id}", r"([^/]+)") for path in openapi.document()["paths"]
    }
    assert served == documented | {r"/healthz", r"/api/openapi\.json"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_without_the_token_to_another_host_or_from_another_origin(
    locked: Server, method: str, path: str
):
    json_type = {"Content_Type": "application/json"}
    status, headers, _ = locked.call(method, path, **json_type)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert locked.call(method, path, Host="evil.example", **json_type, **bearer())[0] == 403
    assert locked.call(method, path, Origin="http://evil.example", **json_type, **bearer())[0] == 403
    assert locked.call(method, path, Origin="null", **json_type, **bearer())[0] == 403
    assert locked.call(method, path, b"{}", **json_type, **bearer())[0] not in (401, 403, 500)


def test_headers_keep_browsers_from_doing_more(open_one: Server):
    for path in ("/healthz", "/api/flows", "/nothing"):
        _, headers, _ = open_one.call("GET", path)
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_of_another_site_can_send_starts_nothing(open_one: Server, kind: str):
    status, _, body = open_one.call("POST", "/api/flows/etl/runs", b'{"parameters": {"x": 1}}', Content_Type=kind)
    assert status == 415, body


def test_other_sites_are_known_by_what_browsers_say_of_them(open_one: Server):
    headers = {"Content_Type": "application/json", "Sec_Fetch_Site": "cross-site"}
    assert open_one.call("POST", "/api/runs/run-2/cancel", b"{}", **headers)[0] == 403


def test_the_service_is_known_by_the_names_that_it_is_given(locked: Server):
    for host in ("etl.example", "ETL.example:443", f"localhost:{locked.web.port}", "[::1]:80"):
        assert locked.call("GET", "/api/flows", Host=host, **bearer())[0] == 200
    for host in ("", "etl.example.evil.example", "[", "2130706433"):
        assert locked.call("GET", "/api/flows", Host=host, **bearer())[0] == 403


def test_health_says_nothing_and_needs_nothing(locked: Server):
    status, _, body = locked.call("GET", "/healthz", Host="10.0.0.7")
    assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_a_websocket_of_another_origin_is_refused_though_its_handler_would_take_it(open_one: Server):
    from tornado.httpclient import HTTPClientError, HTTPRequest

    async def talk(origin: str) -> str | bytes | None:
        url = f"ws://127.0.0.1:{open_one.web.port}/live"
        connection = await websocket_connect(HTTPRequest(url, headers={"Origin": origin}))
        await connection.write_message("hello")
        answer = await connection.read_message()
        connection.close()
        await connection.read_message()  # until it is closed
        return answer

    assert asyncio.run(talk(f"http://127.0.0.1:{open_one.web.port}")) == "hello"
    with pytest.raises(HTTPClientError, match="403"):
        asyncio.run(talk("http://evil.example"))
    with pytest.raises(HTTPClientError, match="403"):
        asyncio.run(talk(f"http://127.0.0.1:{open_one.web.port + 1}"))


def test_a_browser_logs_in_by_a_link_and_is_known_by_its_cookie(locked: Server):
    status, headers, _ = locked.call("GET", f"/login?token={TOKEN}")
    assert (status, headers["location"]) == (302, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert locked.call("GET", "/page", Cookie=cookie.partition(";")[0])[0] == 200
    assert locked.call("GET", "/login?token=wrong")[0] == 401


def test_tokens_cannot_be_tried_for_long():
    now = [0.0]
    with serving(TOKEN, clock=lambda: now[0]) as server:
        statuses = [server.call("GET", "/api/flows", **bearer(f"wrong-{number}"))[0] for number in range(25)]
        assert statuses == [401] * 19 + [429] * 6
        assert server.call("GET", "/login?token=wrong")[0] == 429
        now[0] += 61
        assert server.call("GET", "/api/flows", **bearer())[0] == 200


# What it answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/api/flows/none", None, 404, "the registry has no flow 'none'; it has: 'etl'"),
        ("GET", "/api/runs/none", None, 404, "the run store has no run 'none'"),
        ("GET", "/api/runs?limit=0", None, 400, "limit: expected a number from 1 to 1,000, found '0'"),
        ("GET", "/api/runs?limit=x", None, 400, "limit: expected a number"),
        ("GET", "/api/runs?limit=1&limit=2", None, 400, "limit: given twice"),
        ("GET", "/api/runs?stat=x", None, 400, "there is no 'stat' to ask for; there are: flow, state, limit, offset"),
        ("POST", "/api/flows/etl/runs", b"", 400, "the body is not JSON"),
        ("POST", "/api/flows/etl/runs", b"{", 400, "the body is not JSON"),
        ("POST", "/api/flows/etl/runs", b"[" * 100_000, 400, "the body is not JSON"),
        ("POST", "/api/flows/etl/runs", b"[]", 400, "the body: expected an object, found list"),
        (
            "POST",
            "/api/flows/etl/runs",
            b'{"parameter": {}}',
            400,
            "there is no 'parameter'; there are: parameters, due",
        ),
        ("POST", "/api/flows/etl/runs", b'{"parameters": NaN}', 400, "NaN is no number of JSON"),
        (
            "POST",
            "/api/flows/etl/runs",
            b'{"parameters": {"y": 1}}',
            422,
            "there is no parameter 'y'; x: a value is required",
        ),
        ("POST", "/api/flows/etl/runs", b'{"parameters": {"x": 1}, "due": "soon"}', 422, "due: expected a time"),
        ("POST", "/api/flows/etl/pause", b"{}", 400, "paused is missing"),
        ("POST", "/api/runs/none/cancel", b"{}", 404, "no run 'none'"),
        ("POST", "/api/runs/run-1/cancel", b"{}", 409, "is not one of a service's"),
        ("POST", "/api/runs/run/resume", b"{}", 404, ""),
        ("POST", "/api/runs/run-1/approve", b'{"tasks": []}', 400, "tasks: expected 1 to 1000 entries"),
        ("POST", "/api/runs/run-1/approve", b'{"tasks": [1]}', 400, r"tasks[0]: expected a string, found int"),
        ("POST", "/api/runs", b"{}", 405, ""),
        ("GET", "/<script>", None, 404, "there is nothing here"),
    ],
)
def test_what_cannot_be_done_is_said(open_one: Server, method: str, path: str, body: bytes, status: int, text: str):
    found, headers, answer = open_one.call(method, path, body, Content_Type="application/json")
    assert (found, headers["content-type"]) == (status, "application/json")
    assert text in json.loads(answer)["error"]


def test_an_idempotency_key_starts_one_run(open_one: Server):
    body = b'{"parameters": {"x": 1}, "idempotency_key": "k"}'
    answers = [
        json.loads(open_one.call("POST", "/api/flows/etl/runs", body, Content_Type="application/json")[2])
        for _ in range(2)
    ]
    assert [each["is_new"] for each in answers] == [True, False]
    assert answers[0]["run_id"] == answers[1]["run_id"]


def test_a_failed_run_resumes_with_what_was_approved(open_one: Server):
    body = b'{"tasks": ["deploy"]}'
    assert open_one.call("POST", "/api/runs/run-1/approve", body, Content_Type="application/json")[0] == 202
    slot = SlotQueue(open_one.store.database).get("run-1")
    assert slot is not None
    assert (slot.state, slot.approve, slot.origin) == ("Waiting", ("deploy",), "resume")


def test_names_are_data_in_answers(open_one: Server):
    name = "<script>alert(1)</script>"
    FlowTable(open_one.store.database).put(FlowRecord(name, "code"), now=NOON)
    try:
        _, _, body = open_one.call("GET", "/api/flows")
        assert b"<" not in body
        assert name in [each["name"] for each in json.loads(body)["flows"]]
    finally:
        FlowTable(open_one.store.database).remove(name)


def test_the_document_is_valid_openapi():
    from openapi_spec_validator import validate

    validate(openapi.document())


@pytest.mark.timeout(600)  # ANABRANCH_FUZZ=1000 asks for minutes of other requests than last time
def test_a_fuzzer_finds_nothing_that_the_document_does_not_say(open_one: Server):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    base = f"http://127.0.0.1:{open_one.web.port}"
    schema = schemathesis.openapi.from_dict(openapi.document())
    tried: list[str] = []
    for operation in schema.get_all_operations():

        @settings(
            max_examples=int(os.environ.get("ANABRANCH_FUZZ", "15")),
            deadline=None,
            database=None,
            derandomize="ANABRANCH_FUZZ" not in os.environ,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.ok().as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(base_url=base)

        check()
        tried.append(operation.ok().label)
    assert len(tried) == 10

"""Who may talk to a service: one policy, asked of every route there is."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
from tests.web_server import Server, serving
from tornado.websocket import websocket_connect

from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.service.web import openapi
from anabranch.web.guard import TOO_MANY, WRONG_TOKEN, Guard
from anabranch.web.proxies import Proxies

TOKEN = "a-token-of-some-length"
VIEW_TOKEN = "another-one-to-look-with"
FORM = {"Content_Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    with serving(TOKEN, view_token=VIEW_TOKEN, hosts=["etl.example"]) as server:
        yield server


@pytest.fixture(scope="module")
def open_one() -> Iterator[Server]:
    with serving() as server:
        yield server


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# Every route ----------------------------------------------------------------------------------------------------------

ROUTES = [
    (method.upper(), path.replace("{name}", "etl" if method != "delete" else "none").replace("{run_id}", "run-1"))
    for path, operations in openapi.build_document()["paths"].items()
    for method in operations
]
ROUTES += [
    ("GET", path) for path in ("/page", "/live", "/api/openapi.json", "/nothing", "/", "/flows", "/run?id=run-1")
]
ROUTES += [(method, "/do/cancel?run=run-1") for method in ("GET", "POST")]


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
    if not path.startswith("/do/"):  # forms have a token of their own, too
        assert locked.call(method, path, b"{}", **json_type, **bearer())[0] not in (401, 403, 500)


def every_route(server: Server) -> list[str]:
    """A path for each route of the application, whoever has added it: Bokeh's websockets and static files, too."""
    app = server.web.application
    rules = [rule for router in app.default_router.rules for rule in getattr(router.target, "rules", [])]
    patterns = [rule.matcher.regex.pattern for rule in [*rules, *app.wildcard_router.rules]]
    return [re.sub(r"\(.*?\)\+?\)?", "x", each).replace("/?", "/").replace("\\", "").rstrip("$") for each in patterns]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_each_route_that_the_application_has_answers_401_without_a_token(locked: Server, method: str):
    routes = set(every_route(locked))
    assert {"/ws", "/run/ws", "/flow/ws", "/static/x", "/do/approve", "/api/runs/x/cancel", "/favicon.ico"} <= routes
    for path in routes - {"/healthz", "/readyz", "/login"}:
        status, headers, body = locked.call(method, path, Content_Type="application/json")
        assert (path, status) == (path, 401)
        assert "set-cookie" not in headers
        assert len(body) < 100


def test_people_are_asked_for_the_token_where_programs_are_refused(locked: Server):
    status, headers, body = locked.call("GET", "/run?id=run-1", Accept="text/html,*/*")
    assert (status, headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert b'name="token" type="password"' in body
    assert b'name="next" value="/run?id=run-1"' in body
    assert b"<script" not in body


# Two roles ------------------------------------------------------------------------------------------------------------


def test_who_has_the_token_to_look_with_can_look_and_change_nothing(locked: Server):
    viewer = bearer(VIEW_TOKEN)
    for path in ("/", "/api/runs", "/api/flows/etl", "/run?id=run-1"):
        assert locked.call("GET", path, **viewer)[0] == 200
    for path in ("/api/runs/run-2/cancel", "/api/flows/etl/runs", "/do/cancel?run=run-2"):
        status, _, body = locked.call("POST", path, b"{}", Content_Type="application/json", **viewer)
        assert status == 403
        assert b"viewers' token; changing something requires the operators' token" in body
    slot = SlotQueue(locked.store.database).get("run-2")
    assert slot is not None
    assert not slot.cancel


def test_headers_keep_browsers_from_doing_more(open_one: Server):
    for path in ("/healthz", "/readyz", "/api/flows", "/nothing"):
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


def cookie_of(server: Server, token: str) -> str:
    status, headers, _ = server.call("GET", f"/login?token={token}")
    assert (status, headers["location"]) == (303, "./")
    return headers["set-cookie"]


def test_a_browser_logs_in_by_a_link_and_is_known_by_its_cookie(locked: Server):
    cookie = cookie_of(locked, TOKEN)
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert locked.call("GET", "/page", Cookie=cookie.partition(";")[0])[0] == 200
    assert locked.call("GET", "/page", Cookie=cookie.partition(";")[0][:-1])[0] == 401
    assert locked.call("GET", "/login?token=wrong")[0] == 401


def test_a_cookie_has_the_role_of_the_token_that_it_was_had_for(locked: Server):
    body, json_type = b"{}", {"Content_Type": "application/json"}
    viewer, operator = (cookie_of(locked, each).partition(";")[0] for each in (VIEW_TOKEN, TOKEN))
    assert viewer.partition("=")[0] == operator.partition("=")[0]
    assert locked.call("POST", "/api/runs/none/cancel", body, Cookie=viewer, **json_type)[0] == 403
    assert locked.call("POST", "/api/runs/none/cancel", body, Cookie=operator, **json_type)[0] == 404


def test_services_with_the_same_token_know_each_others_cookies_and_no_others(locked: Server):
    cookie = cookie_of(locked, TOKEN).partition(";")[0]
    with serving(TOKEN, view_token=VIEW_TOKEN) as same, serving("quite-another-token", view_token=VIEW_TOKEN) as other:
        assert same.call("GET", "/page", Cookie=cookie)[0] == 200
        assert other.call("GET", "/page", Cookie=cookie)[0] == 401
    with serving(TOKEN, view_token="the-viewers-have-another") as changed:
        assert changed.call("GET", "/page", Cookie=cookie)[0] == 401


def test_the_form_logs_in_and_leads_back_to_the_page_that_was_asked_for(locked: Server):
    form = {"Content_Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{locked.web.port}"}
    status, headers, _ = locked.call("POST", "/login", f"token={TOKEN}&next=%2Frun%3Fid%3D1".encode(), **form)
    assert (status, headers["location"]) == (303, "./run?id=1")
    assert "HttpOnly" in headers["set-cookie"]
    for elsewhere in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        status, headers, _ = locked.call("POST", "/login", f"token={TOKEN}&next={elsewhere}".encode(), **form)
        assert (status, headers["location"]) == (303, "./")
    status, headers, body = locked.call("POST", "/login", b"token=wrong&next=%2F%22%3E%3Cscript%3E", **form)
    assert status == 401
    assert "set-cookie" not in headers
    assert b"this is not the token" in body
    assert b"<script" not in body


def test_tokens_cannot_be_tried_for_long():
    now = [0.0]
    with serving(TOKEN, clock=lambda: now[0]) as server:
        cookie = cookie_of(server, TOKEN).partition(";")[0]
        statuses = [server.call("GET", "/api/flows", **bearer(f"wrong-{number}"))[0] for number in range(25)]
        assert statuses == [401] * 20 + [429] * 5
        assert server.call("GET", "/login?token=wrong")[0] == 429
        assert server.call("POST", "/login", b"token=wrong", **FORM)[0] == 429
        assert server.call("GET", "/page", Cookie=cookie)[0] == 200
        now[0] += 61
        assert server.call("GET", "/api/flows", **bearer("wrong"))[0] == 401


def test_wrong_tokens_keep_nobody_out_who_has_a_right_one():
    with serving(TOKEN, view_token=VIEW_TOKEN, clock=lambda: 0.0) as server:
        for number in range(30):
            server.call("GET", "/api/flows", **bearer(f"wrong-{number}"))
        for token in (TOKEN, VIEW_TOKEN):
            assert server.call("GET", "/api/flows", **bearer(token))[0] == 200
            assert server.call("GET", f"/?token={token}")[0] == 303
            assert server.call("POST", "/login", f"token={token}".encode(), **FORM)[0] == 303
        assert server.call("GET", "/api/flows", **bearer("wrong"))[0] == 429


def test_wrong_tokens_of_one_address_slow_no_other():
    guard = Guard(token=TOKEN, clock=lambda: 0.0)
    for _ in range(30):
        guard.role_of_token("wrong", "192.0.2.1")
    assert guard.role_of_token("wrong", "192.0.2.1") == TOO_MANY
    assert guard.role_of_token("wrong", "192.0.2.2") == WRONG_TOKEN
    for number in range(2_000):  # addresses are forgotten before they are too many
        guard.role_of_token("wrong", f"2001:db8::{number:x}")
    assert guard.role_of_token("wrong", "192.0.2.1") == WRONG_TOKEN


def test_wrong_tokens_are_logged_with_their_address_and_in_few_lines(caplog: pytest.LogCaptureFixture):
    guard = Guard(token=TOKEN, clock=lambda: 0.0)
    for number in range(1_900):
        guard.role_of_token(f"wrong-{number}", "192.0.2.7")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["a wrong token from 192.0.2.7"] * 19 + [
        "a wrong token from 192.0.2.7; further ones are not logged for 60 s"
    ]


def test_what_another_sites_page_loads_uses_up_nobodys_attempts():
    loaded = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}
    link = {**loaded, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    with serving(TOKEN) as server:
        for path in ("/login?token=wrong", "/?token=wrong", "/static/js/bokeh.min.js"):
            for _ in range(25):
                assert server.call("GET", path, **loaded)[0] == 403
        assert server.call("GET", f"/?token={TOKEN}", **{**link, "Sec_Fetch_Dest": "iframe"})[0] == 403
        assert server.call("GET", f"/?token={TOKEN}", **link)[0] == 303


def test_a_form_is_good_for_the_session_that_it_was_shown_to() -> None:
    with serving(TOKEN, hosts=["etl.example"]) as server:
        # given
        mine, others = (cookie_of(server, TOKEN).partition(";")[0] for _ in range(2))
        _, _, page = server.call("GET", "/do/resume?run=run-1", Cookie=mine)
        found = re.search(rb'name="form" value="(\w+)"', page)
        assert found is not None
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        # when
        answers = [
            server.call("POST", "/do/resume?run=run-1", b"form=" + found[1], Cookie=each, **form)
            for each in (mine, others)
        ]
        # then
        assert [status for status, _, _ in answers] == [303, 403]
        assert b"from another server" in answers[1][2]


# Behind a proxy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/run?id=1", "/login", "/nothing", "/do/cancel?run=run-1", "/api/flows/etl"])
@pytest.mark.parametrize("known", [True, False])
def test_no_address_of_an_answer_leads_out_of_the_path_below_which_a_proxy_serves_it(
    locked: Server, path: str, known: bool
):
    # given
    base, form = "https://host.example/flows", {**FORM, "Accept": "text/html"}
    session = {"Cookie": cookie_of(locked, TOKEN).partition(";")[0]} if known else {}
    asked = [
        ("GET", path, None),
        ("POST", path, b"token=wrong&next=/run"),
        ("GET", f"{path}{'&' if '?' in path else '?'}token={TOKEN}", None),
    ]
    for method, place, body in asked:
        # when
        _, headers, text = locked.call(method, place, body, **form, **session)
        # then
        found = re.findall(r'(?:href|src|action)="([^"#][^"]*)"', text.decode())
        for each in [*found, *filter(None, [headers.get("location")])]:
            assert urljoin(f"{base}{place}", each).startswith(f"{base}/"), (method, place, each)


def test_forms_lead_to_pages_below_the_path_of_a_proxy():
    with serving(TOKEN) as server:
        cookie = cookie_of(server, TOKEN).partition(";")[0]
        _, _, page = server.call("GET", "/do/cancel?run=run-2", Cookie=cookie)
        (token,) = re.findall(r'name="form" value="(\w+)"', page.decode())
        _, done, _ = server.call("POST", "/do/cancel?run=run-2", f"form={token}".encode(), Cookie=cookie, **FORM)
        _, over, _ = server.call("POST", "/logout", b"", Cookie=cookie, **FORM)
    assert urljoin("/flows/do/cancel?run=run-2", done["location"]) == "/flows/run?id=run-2&said=cancel"
    assert urljoin("/flows/logout", over["location"]) == "/flows/login"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_behind_a_proxy_with_tls_the_cookie_is_for_https_only(locked: Server, method: str):
    for proto, is_secure in (("https", True), ("http", False), ("", False)):
        told = {"X_Forwarded_Proto": proto} if proto else {}
        asked = (
            ("GET", f"/login?token={TOKEN}", None) if method == "GET" else ("POST", "/login", f"token={TOKEN}".encode())
        )
        _, headers, _ = locked.call(*asked, **FORM, **told)
        assert headers["set-cookie"].endswith("; Secure") is is_secure


def test_a_trusted_proxy_names_who_is_slowed_down_and_logged(caplog: pytest.LogCaptureFixture):
    def ask(server: Server, client: str, token: str = "wrong") -> int:
        return server.call("GET", "/api/flows", X_Forwarded_For=client, **bearer(token))[0]

    with serving(TOKEN, clock=lambda: 0.0) as server:
        assert [ask(server, "10.0.0.7") for _ in range(21)] == [401] * 20 + [429]
        assert ask(server, "10.0.0.8") == 401
        assert ask(server, "10.0.0.7", TOKEN) == 200
        assert server.call("GET", "/api/flows", **bearer("wrong"))[0] == 401
    assert {line.rpartition("from ")[2] for line in caplog.messages if line.startswith("a wrong token from 1")} >= {
        "10.0.0.7", "10.0.0.8", "127.0.0.1"
    }  # fmt: skip
    caplog.clear()
    with serving(TOKEN, proxies=Proxies([]), clock=lambda: 0.0) as server:
        assert [ask(server, f"10.0.0.{number}") for number in range(21)] == [401] * 20 + [429]
    assert {line for line in caplog.messages if line.startswith("a wrong token")} >= {"a wrong token from 127.0.0.1"}
    assert "10.0.0" not in caplog.text


def test_one_connection_of_a_proxy_has_many_clients(locked: Server, caplog: pytest.LogCaptureFixture):
    connection = http.client.HTTPConnection("127.0.0.1", locked.web.port, timeout=20)
    for client in ({"X-Forwarded-For": "192.0.2.1"}, {}, {"X-Forwarded-For": "192.0.2.2"}):
        connection.request("GET", "/api/flows", headers={**client, **bearer("wrong")})
        connection.getresponse().read()
    connection.close()
    assert [line.split()[4] for line in caplog.messages] == ["192.0.2.1", "127.0.0.1", "192.0.2.2"]


def test_a_proxy_that_keeps_the_host_to_itself_is_told_so(locked: Server):
    status, _, body = locked.call("POST", "/login", f"token={TOKEN}".encode(), Origin="https://etl.example", **FORM)
    assert status == 403
    assert json.loads(body)["error"] == (
        "requests from other origins are not served: Origin is 'https://etl.example', and Host is "
        f"'127.0.0.1:{locked.web.port}'; a proxy before the server has to pass on Host as it came"
    )
    told = {"Host": "etl.example", "Origin": "https://etl.example"}
    assert locked.call("POST", "/login", f"token={TOKEN}".encode(), **told, **FORM)[0] == 303


def test_no_word_of_a_proxy_makes_another_host_or_origin_ours(locked: Server):
    told = {"X_Forwarded_Host": "localhost", "X_Forwarded_For": "127.0.0.1", "Forwarded": "host=localhost"}
    assert locked.call("GET", "/api/flows", Host="evil.example", **told, **bearer())[0] == 403
    assert locked.call("GET", "/api/flows", Origin="http://evil.example", **told, **bearer())[0] == 403

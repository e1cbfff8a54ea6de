"""Logging in by an address or a form, and out again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.web_server import Server, serving

TOKEN = "a-token-of-some-length"
VIEW_TOKEN = "another-one-to-look-with"
FORM = {"Content_Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    with serving(TOKEN, view_token=VIEW_TOKEN) as server:
        yield server


def log_in(server: Server, token: str, path: str = "/login") -> str:
    status, headers, _ = server.call("GET", f"{path}?token={token}")
    assert status == 303
    return headers["set-cookie"].partition(";")[0]


@pytest.mark.parametrize("token", [TOKEN, VIEW_TOKEN])
def test_who_logs_out_is_asked_and_then_known_no_more(locked: Server, token: str):
    # given
    cookie, others = log_in(locked, token), log_in(locked, token)
    status, _, body = locked.call("GET", "/logout", Cookie=cookie)
    assert status == 200
    assert b'<form method="post"><button' in body
    # when
    status, headers, _ = locked.call("POST", "/logout", b"", Cookie=cookie, **FORM)
    # then
    assert (status, headers["location"]) == (303, "./login")
    assert "Max-Age=0" in headers["set-cookie"]
    assert locked.call("GET", "/page", Cookie=cookie)[0] == 401
    assert locked.call("GET", "/page", Cookie=others)[0] == 200


def test_another_site_logs_nobody_out(locked: Server):
    cookie = log_in(locked, TOKEN)
    for said in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        assert locked.call("POST", "/logout", b"", Cookie=cookie, **FORM, **said)[0] == 403
    assert locked.call("GET", "/page", Cookie=cookie)[0] == 200


def test_a_token_in_any_address_becomes_a_cookie_and_leaves_the_address(locked: Server):
    status, headers, _ = locked.call("GET", f"/run?id=a%2Fb&token={TOKEN}&said=run")
    assert (status, headers["location"]) == (303, "./run?id=a%2Fb&said=run")
    assert "HttpOnly" in headers["set-cookie"]


def test_a_wrong_token_in_an_address_asks_for_the_right_one(locked: Server):
    status, headers, body = locked.call("GET", "/run?id=1&token=wrong", Accept="text/html")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert b"this is not the token" in body
    assert b'name="next" value="/run?id=1"' in body
    assert b"wrong" not in body.replace(b"wrong tokens", b"")


def test_an_old_address_is_good_for_who_is_known(locked: Server):
    cookie = log_in(locked, VIEW_TOKEN)
    status, headers, _ = locked.call("GET", "/run?id=1&token=old", Cookie=cookie)
    assert (status, headers["location"]) == (303, "./run?id=1")
    assert "set-cookie" not in headers


def test_where_no_token_is_needed_there_is_nothing_to_log_in_to():
    with serving() as server:
        answers: list[tuple[int, dict[str, str], Any]] = [
            server.call("GET", "/login?token=any"), server.call("POST", "/login", b"next=/", **FORM)
        ]  # fmt: skip
    assert [(status, headers["location"]) for status, headers, _ in answers] == [(303, "./"), (303, "./")]
    assert not [headers for _, headers, _ in answers if "set-cookie" in headers]

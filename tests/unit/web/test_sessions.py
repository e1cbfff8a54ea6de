"""Sessions: known by who has the same tokens, for a day, until they are ended."""

from __future__ import annotations

import pytest

from anabranch.web.sessions import LIFETIME_S, Session, Sessions


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions("secret", clock=clock)


def cookie_of(header: str) -> str:
    return header.partition(";")[0]


def begun(sessions: Sessions, role: str = "viewer") -> str:
    return cookie_of(sessions.begin(role, is_tls=False))


def test_a_session_has_a_role_an_id_of_its_own_and_an_end(sessions: Sessions):
    one, other = (sessions.find(begun(sessions)) for _ in range(2))
    assert one is not None
    assert other is not None
    assert (one.role, one.end) == ("viewer", 1_000 + LIFETIME_S)
    assert one.id != other.id


def test_a_session_is_over_after_a_day(sessions: Sessions, clock: Clock):
    cookie = begun(sessions)
    clock.now += LIFETIME_S - 1
    assert sessions.find(cookie) is not None
    clock.now += 1
    assert sessions.find(cookie) is None


def test_who_has_logged_out_is_known_no_more_and_others_are(sessions: Sessions, clock: Clock):
    # given
    mine, others = begun(sessions), begun(sessions)
    # when
    header = sessions.end(mine, is_tls=False)
    # then
    assert "Max-Age=0" in header
    assert sessions.find(mine) is None
    assert sessions.find(others) is not None
    # and what is remembered goes with what it is about
    clock.now += LIFETIME_S
    sessions.end(others, is_tls=False)
    assert sessions._ended == {}


def test_only_who_has_the_same_tokens_knows_a_session(sessions: Sessions, clock: Clock):
    cookie = begun(sessions)
    assert Sessions("secret", clock=clock).find(cookie) is not None
    value = cookie.partition("=")[2]
    for other in (Sessions("another", clock=clock), Sessions(clock=clock)):
        name = begun(other).partition("=")[0]
        assert other.find(f"{name}={value}") is None


@pytest.mark.parametrize("change", [lambda each: each[:-1], lambda each: each.replace("viewer", "operator")])
def test_a_cookie_that_was_changed_is_none(sessions: Sessions, change):
    cookie = begun(sessions)
    assert sessions.find(change(cookie)) is None


def test_what_is_signed_for_a_form_is_no_session(sessions: Sessions):
    name, _, _ = begun(sessions).partition("=")
    session = Session("viewer", "x")
    assert sessions.find(f"{name}=form viewer x.{sessions.form_token(session)}") is None
    assert sessions.form_token(session) != sessions.form_token(Session("viewer", "y"))


LONG = ["a=" + "\\" * 60_000, '"' * 60_000, "é=ü;" * 9_000]


@pytest.mark.parametrize("cookies", ["", ";", "=", "; =;;", "a=1; b", *LONG])
def test_any_cookies_are_read(sessions: Sessions, cookies: str):
    assert sessions.find(cookies) is None
    mine = begun(sessions)
    assert sessions.find(f"{cookies}; {mine}; {cookies}") is not None
    assert sessions.find(f"{mine.partition('=')[0]}={cookies}") is None


def test_cookies_are_for_this_server_alone(sessions: Sessions):
    plain, secure = sessions.begin("viewer", is_tls=False), sessions.begin("viewer", is_tls=True)
    for each in (plain, secure):
        assert "; HttpOnly; SameSite=Strict; Path=/" in each
    assert [each.endswith("; Secure") for each in (plain, secure)] == [False, True]

"""Where servers listen: not where others could start runs unasked, and at ports that can be had."""

from __future__ import annotations

import socket

import pytest

from anabranch.errors import ServiceError
from anabranch.web.listening import bind, check_bind

TOKEN = "a-token-of-some-length"
VIEW_TOKEN = "another-one-to-look-with"


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


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (("", VIEW_TOKEN), "a token for viewers and none for operators"),
        ((TOKEN, TOKEN), "the same token"),
        ((TOKEN, "short"), "the viewers' token has 5 characters"),
        (("a token with spaces in it", ""), "other characters than letters"),
        (("ein-geheimes-Wört-chen", ""), "other characters than letters"),
    ],
)
def test_tokens_that_will_not_do_refuse(tokens: tuple[str, str], problem: str):
    with pytest.raises(ServiceError, match=problem):
        check_bind("127.0.0.1", *tokens)


def test_sockets_listen_at_one_port_that_was_free():
    # when
    found = bind("localhost", 0)
    # then
    ports = {each.getsockname()[1] for each in found}
    assert len(ports) == 1
    with socket.create_connection(("127.0.0.1", *ports)):
        pass
    for each in found:
        each.close()


@pytest.mark.parametrize(
    ("address", "port", "problem"),
    [
        ("127.0.0.1", 65_536, "numbers from 0 to 65535"),
        ("no address", 1, "not known"),
        ("x" * 300, 1, "too long"),
        ("192.0.2.1", 0, "Cannot assign requested address"),
    ],
)
def test_what_cannot_be_had_is_an_error_of_the_system(address: str, port: int, problem: str):
    with pytest.raises(OSError, match=problem):
        bind(address, port)

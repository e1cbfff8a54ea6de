"""Where servers listen: not where others could start runs unasked, and at ports that can be had."""

from __future__ import annotations

import re
import socket
import ssl
from http.client import HTTPConnection, HTTPSConnection, RemoteDisconnected
from pathlib import Path

import pytest
from tests.web_server import make_certificate, serving

from anabranch.errors import ServiceError
from anabranch.web.listening import check_bind, open_sockets, tls_context

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
        (("a token with spaces in it", ""), "characters other than ASCII letters"),
        (("ein-geheimes-Wört-chen", ""), "characters other than ASCII letters"),
    ],
)
def test_tokens_that_will_not_do_refuse(tokens: tuple[str, str], problem: str):
    with pytest.raises(ServiceError, match=problem):
        check_bind("127.0.0.1", *tokens)


def test_sockets_listen_at_one_port_that_was_free():
    # when
    found = open_sockets("localhost", 0)
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
        open_sockets(address, port)


# TLS ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_a_service_speaks_https_and_its_cookie_goes_nowhere_else(certificate: tuple[str, str]):
    cert, key = certificate
    with serving(TOKEN, tls=tls_context(cert, key)) as server:
        trusting = ssl.create_default_context(cafile=cert)
        trusting.check_hostname = False  # the certificate is for no name
        connection = HTTPSConnection("127.0.0.1", server.web.port, timeout=10, context=trusting)
        connection.request("GET", f"/login?token={TOKEN}")
        answer = connection.getresponse()
        assert answer.status == 303
        assert "Secure" in str(answer.getheader("Set-Cookie"))
        connection.close()
        plain = HTTPConnection("127.0.0.1", server.web.port, timeout=10)
        plain.request("GET", "/healthz")
        with pytest.raises((RemoteDisconnected, ConnectionResetError)):
            plain.getresponse()
        plain.close()


def test_a_certificate_with_another_key_is_refused(certificate: tuple[str, str], tmp_path: Path):
    cert, key = certificate
    assert tls_context("", "") is None
    with pytest.raises(ServiceError, match=re.escape(f"TLS with the certificate {cert} and the key {cert}")):
        tls_context(cert, "")
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ServiceError, match="TLS with the certificate"):
        tls_context(str(tmp_path / "empty.pem"), key)

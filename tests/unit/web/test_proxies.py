"""What a proxy says of a client counts if the proxy is trusted, and harms nobody whatever it says."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.errors import ServiceError
from anabranch.web.proxies import Proxies


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("127.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "10.0.0.1, 192.0.2.1", "192.0.2.1"),  # who comes to the proxy may have sent the first
        ("::1", "2001:DB8::1", "2001:db8::1"),
        ("127.0.0.1", "192.0.2.1, 127.0.0.2", "192.0.2.1"),  # by two proxies
        ("127.0.0.1", "192.0.2.1, made up", "127.0.0.1"),
        ("127.0.0.1", "made up, 192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("192.0.2.9", "192.0.2.1", "192.0.2.9"),
    ],
)
def test_the_client_is_whom_trusted_proxies_name(peer: str, forwarded: str, address: str):
    assert Proxies().client(peer, "http", {"X-Forwarded-For": forwarded}) == (address, "http")


@pytest.mark.parametrize(
    ("told", "protocol"),
    [("https", "https"), ("HTTPS, http", "https"), ("http", "http"), ("wss", "http"), ("", "http")],
)
def test_the_protocol_is_what_a_trusted_proxy_says(told: str, protocol: str):
    assert Proxies().client("127.0.0.1", "http", {"X-Forwarded-Proto": told})[1] == protocol
    assert Proxies([]).client("127.0.0.1", "http", {"X-Forwarded-Proto": told})[1] == "http"


@given(st.text(), st.text(), st.sampled_from(["127.0.0.1", "::1", "10.1.2.3"]))
def test_whatever_a_proxy_says_the_client_has_an_address(forwarded: str, told: str, peer: str):
    address, protocol = Proxies(["10.0.0.0/8", "127.0.0.1", "::1"]).client(
        peer, "http", {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": told}
    )
    assert str(ipaddress.ip_address(address)) == address
    assert protocol in ("http", "https")


@pytest.mark.parametrize("wrong", ["proxy.example", "10.0.0.1/8", "10.0.0", ""])
def test_a_proxy_that_is_no_address_is_refused(wrong: str):
    with pytest.raises(ServiceError, match=r"a trusted proxy is an address or a network \(10\.0\.0\.0/8\), found"):
        Proxies([wrong])

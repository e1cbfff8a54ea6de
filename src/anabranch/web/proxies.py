"""Who asks by a proxy: what the proxies that are trusted say of a client, and nothing of what others say."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from anabranch.base.errors import ServiceError
from anabranch.base.texts import printable

LOCAL_PROXIES = ("127.0.0.0/8", "::1")
"""Proxies on this machine."""


class Proxies:
    """Proxies that are trusted.

    What they are trusted with harms nobody else: the address that is logged and slowed down for wrong tokens, and
    whether a cookie is for HTTPS only. So a user of this machine who claims to be a proxy gains no access.

    Parameters
    ----------
    given
        Addresses or networks.

    Raises
    ------
    ServiceError
        One of them is neither.

    Examples
    --------
    >>> proxies = Proxies(["10.0.0.0/8"])
    >>> proxies.client("10.0.0.2", "http", {"X-Forwarded-For": "192.0.2.1, 10.0.0.3", "X-Forwarded-Proto": "https"})
    ('192.0.2.1', 'https')
    >>> proxies.client("192.0.2.9", "http", {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"})
    ('192.0.2.9', 'http')
    """

    def __init__(self, given: Iterable[str] = LOCAL_PROXIES) -> None:
        self._networks = [_network(each) for each in given]

    def client(self, peer: str, protocol: str, headers: Mapping[str, str]) -> tuple[str, str]:
        """Address and protocol of who sent a request.

        Parameters
        ----------
        peer, protocol
            Of who is connected.
        headers
            Of the request.
        """
        if not self._has(peer):
            return peer, protocol
        told = headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
        address = peer
        for each in reversed(headers.get("X-Forwarded-For", "").split(",")):  # each proxy adds who came to it
            try:
                address = str(ipaddress.ip_address(each.strip()))
            except ValueError:
                break
            if not self._has(address):
                break
        return address, told if told in ("http", "https") else protocol

    def user(self, peer: str, headers: Mapping[str, str]) -> str:
        """Who sent a request, as a trusted proxy says that has asked for a login; empty if none says so."""
        return printable(headers.get("Remote-User", "").strip())[:200] if self._has(peer) else ""

    def _has(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ServiceError(f"a trusted proxy is an address or a network (10.0.0.0/8), found {text!r}") from error

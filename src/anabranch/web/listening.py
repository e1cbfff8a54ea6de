"""Where a server listens: addresses that need a token, ports, and certificates for HTTPS."""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from typing import Any

from anabranch.base.errors import ServiceError

MIN_TOKEN = 16
"""Characters: a shorter token can be guessed."""


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def check_bind(address: str, token: str, view_token: str = "") -> None:
    """Refuse to listen where others could start runs unasked.

    Raises
    ------
    ServiceError
        The address can be reached from other machines and there is no token, or a token will not do.
    """
    for name, each in (("token", token), ("viewers' token", view_token)):
        problem = ""
        if each and len(each) < MIN_TOKEN:
            problem = f"has {len(each)} characters, and {MIN_TOKEN} are needed"
        elif not (each.isascii() and each.isprintable()) or " " in each:  # neither could be sent in a header
            problem = "contains characters other than ASCII letters, digits and signs"
        if problem:
            cure = 'python -c "import secrets; print(secrets.token_urlsafe())"'
            raise ServiceError(f"the {name} {problem}; make one with: {cure}")
    if view_token and not token:
        raise ServiceError("there is a token for viewers and none for operators; without one anybody may do everything")
    if view_token and view_token == token:
        raise ServiceError("viewers and operators have the same token; give them different ones")
    if not is_loopback(address) and not token:
        raise ServiceError(
            f"listening on {address or 'all addresses'} would let anybody who reaches it start runs; give a token "
            "(--token-file, or ANABRANCH_SERVICE_TOKEN in the environment), or listen on 127.0.0.1"
        )


def open_sockets(address: str, port: int) -> list[socket.socket]:
    """Sockets that listen at an address; port 0 takes a free one.

    Raises
    ------
    OSError
        The address or port cannot be had.
    """
    if not 0 <= port <= 65_535:
        raise OSError("ports are numbers from 0 to 65535")
    found: list[socket.socket] = []
    try:
        infos = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, place in sorted(infos):
            try:
                at: Any = (place[0], port, *place[2:])
                found.append(socket.create_server(at, family=family, backlog=128))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL or family != socket.AF_INET6 or not found:
                    raise  # else a machine that has no IPv6, though its name has
            port = found[0].getsockname()[1]
    except (OSError, UnicodeError) as error:
        for each in found:
            each.close()
        raise OSError(str(error)) from error
    for each in found:
        each.setblocking(False)  # Tornado accepts until there is nobody left
    return found


def tls_context(cert: str, key: str) -> ssl.SSLContext | None:
    """What serves HTTPS; None where there is no certificate.

    Parameters
    ----------
    cert, key
        Files in PEM form: the certificate with those that vouch for it, and its key; without a file of its own the key
        is in that of the certificate.

    Raises
    ------
    ServiceError
        They cannot be read, or do not belong together.
    """
    if not cert:
        if key:
            raise ServiceError("there is a key for TLS and no certificate; give --tls-cert too")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key or None, password=_no_password)
    except (OSError, ValueError) as error:
        raise ServiceError(f"TLS with the certificate {cert} and the key {key or cert}: {error}") from error
    return context


def _no_password() -> str:
    """Asked for where a key is encrypted; without this OpenSSL would ask at the terminal, and wait."""
    raise ValueError("the key is encrypted; a service can ask nobody for its password")

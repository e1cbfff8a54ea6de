"""Who may talk to the service: checks of address, host, origin and token that hold for every route there is.

A browser on this machine can be made to send requests here by any page it shows. So a request must name this service
as its host (a name that an attacker points at 127.0.0.1 is another), come from no other origin, and, where it changes
something, be JSON, which no page can send elsewhere without being asked. Tokens are for people on other machines.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from anabranch.errors import ServiceError

MIN_TOKEN = 16
"""Characters: a shorter token can be guessed."""
COOKIE = "anabranch_token"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAFE = ("GET", "HEAD", "OPTIONS")
_OPEN = ("/healthz",)
"""Paths that anybody may ask for: they say nothing."""
_FAILURES, _WINDOW_S = 20, 60.0  # wrong tokens that are answered in a minute; then all wait


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served."""

    status: int
    text: str


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def check_bind(address: str, token: str) -> None:
    """Refuse to listen where others could start runs unasked.

    Raises
    ------
    ServiceError
        The address can be reached from other machines and there is no token, or the token is too short.
    """
    if token and len(token) < MIN_TOKEN:
        raise ServiceError(
            f"the token has {len(token)} characters, and {MIN_TOKEN} are needed; make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    if not is_loopback(address) and not token:
        raise ServiceError(
            f"listening on {address or 'all addresses'} would let anybody who reaches it start runs; give a token "
            "(--token-file, or ANABRANCH_SERVICE_TOKEN in the environment), or listen on 127.0.0.1"
        )


class Guard:
    """Checks each request before any handler sees it.

    Parameters
    ----------
    token
        What requests must bring, as ``Authorization: Bearer …`` or in the cookie that `/login` sets; empty for none.
    hosts
        Names under which the service is known, beside those of loopback.
    clock
        Seconds, for the limit on wrong tokens.
    """

    def __init__(
        self, *, token: str = "", hosts: Collection[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._digest = _digest(token) if token else b""
        self._hosts = frozenset(host.lower() for host in (*_LOOPBACK, *hosts))
        self._clock = clock
        self._failures: list[float] = []

    @property
    def needs_token(self) -> bool:
        """Whether requests need one."""
        return bool(self._digest)

    def refusal(self, request: HTTPServerRequest) -> Refusal | None:
        """Why a request is not served; None if it is."""
        if request.path in _OPEN and request.method in _SAFE:
            return None
        host = _name(f"//{request.headers.get('Host', '')}")
        if host not in self._hosts:
            return Refusal(403, f"the service is not known as {host!r}; --allow-host adds names")
        origin = request.headers.get("Origin")
        if origin is not None and (_name(origin) != host or urlsplit(origin).netloc != request.headers.get("Host")):
            return Refusal(403, "requests from other origins are not served")
        if request.headers.get("Sec-Fetch-Site") not in (None, "same-origin", "none") and request.method not in _SAFE:
            return Refusal(403, "requests from other sites are not served")
        if request.path == "/login":
            return None if request.method == "GET" else Refusal(405, "only GET")
        if not self.needs_token or self.is_token(_given(request)):
            if request.method not in _SAFE and not _is_json(request):
                return Refusal(415, "a request that changes something has Content-Type: application/json")
            return None
        if self.is_exhausted():
            return Refusal(429, "too many wrong tokens; wait a minute")
        return Refusal(401, "a token is needed: Authorization: Bearer TOKEN")

    def is_token(self, given: str) -> bool:
        """Whether this is the token; how long it takes says nothing about it."""
        if not given:
            return False
        if self.is_exhausted():
            return False
        is_right = secrets.compare_digest(_digest(given), self._digest)
        if not is_right:
            self._failures.append(self._clock())
        return is_right

    def is_exhausted(self) -> bool:
        """Whether so many wrong tokens came that none is looked at for a while."""
        now = self._clock()
        self._failures = [each for each in self._failures[-_FAILURES:] if now - each < _WINDOW_S]
        return len(self._failures) >= _FAILURES


def _given(request: HTTPServerRequest) -> str:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    try:
        cookie = SimpleCookie(request.headers.get("Cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie is not None else ""


def _is_json(request: HTTPServerRequest) -> bool:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()

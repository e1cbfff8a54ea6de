"""Who may talk to the service: checks of address, host, origin and token that hold for every route there is.

A browser on this machine can be made to send requests here by any page it shows. So a request must name this service
as its host (a name that an attacker points at 127.0.0.1 is another), come from no other origin, and, where it changes
something, be JSON, which no page can send elsewhere without being asked, or a form of the service's own.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from anabranch.base.errors import ServiceError

MIN_TOKEN = 16
"""Characters: a shorter token can be guessed."""
OPERATOR = "operator"
"""The role that may do everything."""
VIEWER = "viewer"
"""The role that may look, and change nothing."""
LOGIN = "/login"
FORMS = "/do/"
"""Below it are the forms of pages; what they send has a token of its own in it, instead of being JSON."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAFE = ("GET", "HEAD", "OPTIONS")
_OPEN = ("/healthz",)
"""Paths that anybody may ask for: they say nothing."""
_FAILURES, _WINDOW_S = 20, 60.0  # wrong tokens of an address that are answered in a minute; then it waits
_MAX_ADDRESSES = 1_000  # that sent wrong tokens of late; what is known of them must not grow


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
            problem = "has other characters than letters, digits and signs of ASCII in it"
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


class Guard:
    """Checks each request before any handler sees it.

    Parameters
    ----------
    token
        What requests must bring, as ``Authorization: Bearer …`` or in the cookie that `/login` sets; empty for none.
    view_token
        One with which one may look, and change nothing; empty for none.
    hosts
        Names under which the service is known, beside those of loopback.
    clock
        Seconds, for the limit on wrong tokens.
    """

    def __init__(
        self,
        *,
        token: str = "",
        view_token: str = "",
        hosts: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._digests = {role: _digest(each) for role, each in ((OPERATOR, token), (VIEWER, view_token)) if each}
        # Of the token, so that all services that have it know each other's cookies; without one, of nothing.
        self._key = _digest(f"key {token}") if token else secrets.token_bytes(32)
        self.cookie = f"anabranch-{self._mac('name')[:8]}"
        """Name of the cookie; another one for another token, as browsers share cookies between ports."""
        self._hosts = frozenset(host.lower() for host in (*_LOOPBACK, *hosts))
        self._clock = clock
        self._failures: dict[str, list[float]] = {}

    @property
    def needs_token(self) -> bool:
        """Whether requests need one."""
        return bool(self._digests)

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
        if request.path == LOGIN:
            return None if request.method in ("GET", "POST") else Refusal(405, "only GET and POST")
        role = self.role_of(request)
        if role is None:
            if self.is_exhausted(_address(request)):
                return Refusal(429, "too many wrong tokens; wait a minute")
            return Refusal(401, "a token is needed: Authorization: Bearer TOKEN")
        if request.method not in _SAFE:
            if role != OPERATOR:
                return Refusal(403, "this token is one to look with; to change something takes the operators' token")
            if not _is_json(request) and not (request.path.startswith(FORMS) and _is_form(request)):
                return Refusal(415, "a request that changes something has Content-Type: application/json")
        return None

    def role_of(self, request: HTTPServerRequest) -> str | None:
        """What a request may do: `OPERATOR`, `VIEWER`, or None for nothing."""
        if not self.needs_token:
            return OPERATOR
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.role_of_token(token.strip(), _address(request))
        return self._role_of_cookie(request)

    def role_of_token(self, given: str, address: str) -> str | None:
        """The role of a token, as `address` has sent it; how long it takes says nothing about it."""
        if not given or self.is_exhausted(address):
            return None
        found = [role for role, digest in self._digests.items() if secrets.compare_digest(_digest(given), digest)]
        if not found:
            while len(self._failures) >= _MAX_ADDRESSES and address not in self._failures:
                del self._failures[next(iter(self._failures))]
            self._failures.setdefault(address, []).append(self._clock())
        return found[0] if found else None

    def is_exhausted(self, address: str) -> bool:
        """Whether so many wrong tokens came from an address that none of it is looked at for a while."""
        now = self._clock()
        found = [each for each in self._failures.get(address, ())[-_FAILURES:] if now - each < _WINDOW_S]
        if found:
            self._failures[address] = found
        else:
            self._failures.pop(address, None)
        return len(found) >= _FAILURES

    # Browsers ---------------------------------------------------------------------------------------------------------

    def cookie_of(self, role: str) -> str:
        """The cookie's value for a role. The token cannot be told from it."""
        return self._mac(f"cookie {role}")

    def form_token(self, role: str) -> str:
        """What a form has to send, so that it is one of ours."""
        return self._mac(f"form {role}")

    def is_form_token(self, given: str, role: str) -> bool:
        """Whether a form has sent it."""
        return secrets.compare_digest(_digest(given), _digest(self.form_token(role)))

    def _role_of_cookie(self, request: HTTPServerRequest) -> str | None:
        try:
            cookie = SimpleCookie(request.headers.get("Cookie", "")).get(self.cookie)
        except CookieError:
            return None
        given = _digest(cookie.value) if cookie is not None else b""
        found = [role for role in self._digests if secrets.compare_digest(given, _digest(self.cookie_of(role)))]
        return found[0] if found else None

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _address(request: HTTPServerRequest) -> str:
    return str(request.remote_ip)


def _is_json(request: HTTPServerRequest) -> bool:
    return _content_type(request) == "application/json"


def _is_form(request: HTTPServerRequest) -> bool:
    return _content_type(request) == "application/x-www-form-urlencoded"


def _content_type(request: HTTPServerRequest) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()

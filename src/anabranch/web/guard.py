"""Who may ask for what: one policy before every route of every server, decided by the head of a request alone.

A browser on this machine can be made to send requests here by any page it shows. So a request must name this server
as its host (a name that an attacker points at 127.0.0.1 is another), come from no other site, and, where it changes
something, be JSON, which no page can send elsewhere without being asked, or a form of our own.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from tornado.httputil import HTTPServerRequest

from anabranch.web.attempts import WINDOW_S, Attempts
from anabranch.web.few import Few
from anabranch.web.proxies import Proxies
from anabranch.web.sessions import Session, Sessions, digest_text

OPERATOR = "operator"
"""The role that may do everything."""
VIEWER = "viewer"
"""The role that may look, and change nothing."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine for itself."""
TOKEN = "token"
"""The argument of an address that may hold a token."""
HEALTH, READY = "/healthz", "/readyz"
"""The paths that anybody may ask for: they say nothing."""
LOGIN = "/login"
"""The path that asks for no token before, as it takes one."""
LOGOUT = "/logout"
FORMS = "/do/"
"""Below it are the forms of pages; what they send has a token of its own in it, instead of being JSON."""
MAX_LOGIN_NBYTES = 8 << 10  # of the form, which anybody may send
_SAFE = ("GET", "HEAD", "OPTIONS")


_log = logging.getLogger("anabranch.web")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a browser gets that had the token in an address: a cookie, and the address without the token."""

    role: str
    """Empty if its session goes on."""
    place: str


NO_TOKEN = Refusal(401, "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN in the address")
WRONG_TOKEN = Refusal(401, "this is not the token")
TOO_MANY = Refusal(429, "this is not the token, as many before it; wait a minute")
TOO_LARGE = Refusal(413, f"the form of the login has at most {MAX_LOGIN_NBYTES >> 10} KiB")


class Guard:
    """Checks each request before any handler sees it.

    Parameters
    ----------
    token
        What requests must bring: as ``Authorization: Bearer …``, in their address, or by the cookie that they got for
        it; empty for none.
    view_token
        One with which one may look, and change nothing; empty for none.
    hosts
        Names under which the server is known; one with a port is good for that port only.
    proxies
        Those whose word of a client counts; None for those on this machine.
    clock
        Seconds, for the limits on wrong tokens and on what is logged of them.
    """

    def __init__(
        self,
        *,
        token: str = "",
        view_token: str = "",
        hosts: Collection[str] = LOOPBACK,
        proxies: Proxies | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._digests = {role: digest_text(each) for role, each in ((OPERATOR, token), (VIEWER, view_token)) if each}
        self.sessions = Sessions(f"{token} {view_token}" if token else "")  # no token has a space in it
        self._hosts = frozenset(host.lower() for host in hosts)
        self.proxies = proxies or Proxies()
        self._attempts = Attempts(clock)
        self._few = Few(clock)

    @property
    def needs_token(self) -> bool:
        """Whether requests need one."""
        return bool(self._digests)

    def answer(self, request: HTTPServerRequest) -> Refusal | Welcome | None:
        """What a request gets instead of what it asks for; None if it may have that."""
        is_safe = request.method in _SAFE
        if request.path in (HEALTH, READY) and is_safe:
            return None
        if foreign := self._foreign(request, is_safe=is_safe):
            return foreign
        if self.needs_token and request.method == "GET" and TOKEN in request.query_arguments:
            return self._exchange(request)
        if request.path == LOGIN:
            return None if request.method in ("GET", "POST") else Refusal(405, "only GET and POST")
        visitor = self.visitor_of(request)
        if isinstance(visitor, Refusal):
            return visitor
        if is_safe or request.path == LOGOUT:
            return None
        if visitor.role != OPERATOR:
            return Refusal(403, "this is the viewers' token; changing something requires the operators' token")
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        is_form = request.path.startswith(FORMS) and kind == "application/x-www-form-urlencoded"
        # No form can send DELETE, and no script of another site without asking first.
        if kind != "application/json" and not is_form and request.method != "DELETE":
            return Refusal(415, "a request that changes something has Content-Type: application/json")
        return None

    def _foreign(self, request: HTTPServerRequest, *, is_safe: bool) -> Refusal | None:
        """Why a request is another site's, or for another one."""
        host = request.headers.get("Host", "").lower()
        if host not in self._hosts and _name(host) not in self._hosts:
            return Refusal(
                403, f"the server is not known as {_name(host)[:200]!r}; anabranch serve --allow-host adds names"
            )
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return Refusal(
                403,
                f"requests from other origins are not served: Origin is {origin[:200]!r}, and Host is {host[:200]!r}; "
                "a proxy before the server has to pass on Host as it came",
            )
        if request.headers.get("Sec-Fetch-Site") in (None, "same-origin", "none"):
            return None
        # A link may lead here. What a page loads may not, or twenty images would use up the attempts of the browser's
        # machine. Browsers do not agree what the site of a websocket is; its origin has been compared already.
        fetched = request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")
        if is_safe and (origin is not None or fetched == ("navigate", "document")):
            return None
        return Refusal(403, "requests from other sites are not served")

    # Tokens -----------------------------------------------------------------------------------------------------------

    def visitor_of(self, request: HTTPServerRequest) -> Session | Refusal:
        """Who sent a request, or why nobody may have."""
        if not self.needs_token:
            return Session(OPERATOR)
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            role = self.role_of_token(token.strip(), str(request.remote_ip))
            return role if isinstance(role, Refusal) else Session(role)
        return self.sessions.find(request.headers.get("Cookie", "")) or NO_TOKEN

    def role_of(self, request: HTTPServerRequest) -> str:
        """The role of who sent a request; empty for none."""
        visitor = self.visitor_of(request)
        return "" if isinstance(visitor, Refusal) else visitor.role

    def name_of(self, request: HTTPServerRequest) -> str:
        """Who sent a request, for others: the role and the address, and the name that a trusted proxy gives."""
        peer = str(request.connection.context.address[0])  # type: ignore[union-attr]  # set for each request
        user = self.proxies.user(peer, request.headers)
        role = self.role_of(request) or "nobody"
        return f"{user} ({role}, by the proxy {peer})" if user else f"{role} at {request.remote_ip}"

    def role_of_token(self, given: str, address: str) -> str | Refusal:
        """The role of a token that `address` has sent, or why it has none; how long it takes says nothing about it.

        A right one is let in whatever else its address has sent: others may share the address, as behind a proxy.
        """
        found = [role for role, known in self._digests.items() if secrets.compare_digest(digest_text(given), known)]
        if found:
            return found[0]
        if self._attempts.is_exhausted(address):
            return TOO_MANY
        self._attempts.note(address)
        more = f"; further ones are not logged for {WINDOW_S:g} s" if self._attempts.is_exhausted(address) else ""
        if (left_out := self._few.count()) is not None:
            _log.warning("a wrong token from %s%s%s", address, more, left_out)
        return WRONG_TOKEN

    def _exchange(self, request: HTTPServerRequest) -> Refusal | Welcome:
        """Take the token from an address, where it must not stay."""
        given = request.query_arguments[TOKEN][0].decode("utf-8", "replace")
        role = self.role_of_token(given, str(request.remote_ip))
        if not isinstance(role, Refusal):
            return Welcome(role, place_of(request))
        session = self.sessions.find(request.headers.get("Cookie", ""))
        return role if session is None else Welcome("", place_of(request))

    # Forms ------------------------------------------------------------------------------------------------------------

    def form_token(self, request: HTTPServerRequest) -> str:
        """What a form has to send that is shown to who sent this request."""
        visitor = self.visitor_of(request)
        return "" if isinstance(visitor, Refusal) else self.sessions.form_token(visitor)

    def is_form_token(self, given: str, request: HTTPServerRequest) -> bool:
        """Whether a form has sent it."""
        return secrets.compare_digest(digest_text(given), digest_text(self.form_token(request)))


def root_of(request: HTTPServerRequest) -> str:
    """The way from the address of a request to the first page: relative, as a proxy may serve us below a path."""
    return "../" * (request.path.count("/") - 1) or "./"


def way_to(place: str, request: HTTPServerRequest) -> str:
    """The way from the address of a request to a path of this server."""
    return root_of(request) + place.removeprefix("/")


def place_of(request: HTTPServerRequest) -> str:
    """The address of a request without the token; what asks for the login leads to the first page."""
    arguments = [
        (name, each.decode("utf-8", "replace"))
        for name, values in request.query_arguments.items()
        if name != TOKEN
        for each in values
    ]
    path = "/" if request.path in (LOGIN, LOGOUT) else "/" + request.path.lstrip("/\\")
    return local_path(path + (f"?{urlencode(arguments)}" if arguments else ""))


def local_path(text: str) -> str:
    r"""A path of this server: what would lead elsewhere leads to the first page.

    Examples
    --------
    >>> [local_path(each) for each in ("/run?id=1", "//evil.example", "https://evil.example", "/\\evil.example")]
    ['/run?id=1', '/', '/', '/']
    """
    is_local = text.startswith("/") and text[1:2] not in ("/", "\\") and text.isprintable() and text.isascii()
    return text if is_local else "/"


def _name(host: str) -> str:
    """A host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""

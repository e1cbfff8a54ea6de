"""How a browser gets the cookie by which it is known: for a token, from an address or from a form."""

from __future__ import annotations

from anabranch.service.web.frame import login_form
from anabranch.service.web.guard import Guard
from anabranch.service.web.server import PageHandler


class Login(PageHandler):
    """Sets the cookie by which a browser is known: `/login?token=…` is what people open, or they fill in the form."""

    def initialize(self, guard: Guard) -> None:
        """Keep the guard."""
        self._guard = guard

    def get(self) -> None:
        """Take a token from the address, or ask for one."""
        token = self.get_query_argument("token", None)
        if token is not None or not self._guard.needs_token:
            self._take(token or "", "/")
        else:
            self.page(login_form(self.get_query_argument("next", "/")))

    def post(self) -> None:
        """Take a token from the form."""
        self._take(self.get_body_argument("token", ""), self.get_body_argument("next", "/"))

    def _take(self, token: str, after: str) -> None:
        address = str(self.request.remote_ip)
        role = self._guard.role_of_token(token, address) if self._guard.needs_token else None
        if role is None and self._guard.needs_token:
            is_waiting = self._guard.is_exhausted(address)
            problem = "too many wrong tokens; wait a minute" if is_waiting else "this is not the token"
            self.page(login_form(after, problem), status=429 if is_waiting else 401)
            return
        if role is not None:
            is_tls = self.request.protocol == "https"
            value = self._guard.cookie_of(role)
            self.set_cookie(self._guard.cookie, value, httponly=True, samesite="Strict", secure=is_tls, path="/")
        self.to(local_path(after))


def local_path(text: str) -> str:
    r"""A path of this server: what would lead elsewhere leads to the first page.

    Examples
    --------
    >>> [local_path(each) for each in ("/run?id=1", "//evil.example", "https://evil.example", "/\\evil.example")]
    ['/run?id=1', '/', '/', '/']
    """
    is_local = text.startswith("/") and text[1:2] not in ("/", "\\") and text.isprintable() and text.isascii()
    return text if is_local else "/"

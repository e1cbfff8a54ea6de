"""How a browser gets the cookie by which it is known, and how it is known no more."""

from __future__ import annotations

from anabranch.web.guard import LOGIN, LOGOUT, TOKEN, Guard, Refusal, local_path
from anabranch.web.handlers import PageHandler, Route
from anabranch.web.plain import login_form, logout_form


def login_routes(guard: Guard) -> list[Route]:
    """Routes of the forms with which people log in and out; the guard itself takes tokens from addresses."""
    return [(each, kind, {"guard": guard}) for each, kind in ((LOGIN, _Login), (LOGOUT, _Logout))]


class _Login(PageHandler):
    def initialize(self, guard: Guard) -> None:
        self._guard = guard

    def get(self) -> None:
        """Ask for a token."""
        if self._guard.needs_token:
            self.page(login_form("./", self.get_query_argument("next", "/")))
        else:
            self.to("/")

    def post(self) -> None:
        """Take one from the form."""
        after = local_path(self.get_body_argument("next", "/"))
        if self._guard.needs_token:
            role = self._guard.role_of_token(self.get_body_argument(TOKEN, ""), str(self.request.remote_ip))
            if isinstance(role, Refusal):
                self.page(login_form("./", after, role.text), status=role.status)
                return
            is_tls = self.request.protocol == "https"
            self.add_header("Set-Cookie", self._guard.sessions.begin(role, is_tls=is_tls))
        self.to(after)


class _Logout(PageHandler):
    def initialize(self, guard: Guard) -> None:
        self._guard = guard

    def get(self) -> None:
        """Ask whether it is meant."""
        self.page(logout_form())

    def post(self) -> None:
        """End the session."""
        cookies, is_tls = self.request.headers.get("Cookie", ""), self.request.protocol == "https"
        self.add_header("Set-Cookie", self._guard.sessions.end(cookies, is_tls=is_tls))
        self.to(LOGIN)

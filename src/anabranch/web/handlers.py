"""What handlers have in common: headers, a log without secrets, and answers in JSON, plain pages or text."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from tornado.web import RequestHandler

from anabranch.base.errors import ExtraMissing
from anabranch.base.texts import printable
from anabranch.web import plain
from anabranch.web.guard import Guard, root_of, way_to
from anabranch.web.headers import HEADERS, JSON

Route: TypeAlias = tuple[str, type[RequestHandler], dict[str, Any]]
"""Pattern of a path, its handler, and what the handler's ``initialize`` takes."""

_log = logging.getLogger("anabranch.web")


def log_answer(method: str | None, path: str, address: str | None, status: int, *, subject: str = "") -> None:
    """The one access log: neither queries nor headers, in which tokens may be.

    It tells of what was changed, and from where, by default; of the rest where it is asked for.
    """
    is_change = method not in ("GET", "HEAD", "OPTIONS") and status < 400
    level = logging.ERROR if status >= 500 else logging.INFO if is_change else logging.DEBUG
    about = f" {printable(subject)}" if subject else ""
    _log.log(level, "%s %s%s from %s: %d", method, printable(path), about, address, status)


class Handler(RequestHandler):
    """A handler whose answers let a browser do no more than show them."""

    subject = ""
    """What a change is about, for the log."""

    def set_default_headers(self) -> None:
        """Allow nothing: whoever needs more says so."""
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def log_exception(self, *exc_info: Any) -> None:
        """As Tornado does, without what is in the request."""
        kind, error, trace = exc_info
        if not isinstance(getattr(error, "status_code", None), int):  # else it stands for a status
            _log.error("%s %s", self.request.method, printable(self.request.path), exc_info=(kind, error, trace))


class JsonHandler(Handler):
    """A handler that answers in JSON, errors too."""

    def set_default_headers(self) -> None:
        """Say that it is JSON."""
        super().set_default_headers()
        self.set_header("Content-Type", JSON)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """An error that no handler has foreseen; what it was is in the log."""
        self.finish(json.dumps({"error": self._reason}))

    def reply(self, value: Any, *, status: int = 200) -> None:
        """Send a value; what JSON does not have is a text."""
        self.set_status(status)
        self.finish(json.dumps(value, default=str).replace("<", "\\u003c"))


class NotFound(JsonHandler):
    """Answers for all paths that nobody else answers for, and for those that have been taken out."""

    def initialize(self, **of_another: Any) -> None:
        """Nothing is needed."""

    def prepare(self) -> None:
        """Say so, whatever the method."""
        if "text/html" not in self.request.headers.get("Accept", ""):
            self.reply({"error": "there is nothing here"}, status=404)
            return
        for name, value in plain.HEADERS.items():
            self.set_header(name, value)
        self.set_status(404)
        self.finish(plain.build_notice("there is nothing here", root_of(self.request), title="404"))


class PageHandler(Handler):
    """A handler that answers in plain pages."""

    def page(self, text: str, *, status: int = 200) -> None:
        """Send a page."""
        self.set_status(status)
        for name, value in plain.HEADERS.items():
            self.set_header(name, value)
        self.finish(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """An error that no handler has foreseen; what it was is in the log."""
        self.notice(self._reason, status=status_code)

    def notice(self, text: str, *, status: int) -> None:
        """Send a page that says one thing."""
        self.page(plain.build_notice(text, root_of(self.request)), status=status)

    def to(self, place: str) -> None:
        """Send the browser to a path of this server, to look."""
        self.redirect(way_to(place, self.request), status=303)


class FormHandler(PageHandler):
    """A page with a form, which is taken only from the browser that it was shown to."""

    guard: Guard

    def prepare(self) -> None:
        """Refuse forms of others."""
        given = self.get_body_argument("form", "") if self.request.method == "POST" else None
        if given is not None and not self.guard.is_form_token(given, self.request):
            self.notice("this form is old, or from another server; load its page again", status=403)

    def form(self, inner: str) -> str:
        """A form around some fields."""
        token = f'<input type="hidden" name="form" value="{self.guard.form_token(self.request)}">'
        return f'<form method="post">{token}{inner}</form>'


class TextHandler(Handler):
    """A text that is made anew for each request, in a thread."""

    def initialize(self, text: Callable[[], str], kind: str) -> None:
        """Keep what makes the text, and its content type."""
        self._text, self._kind = text, kind

    async def get(self) -> None:
        """Make it."""
        try:
            body = await asyncio.get_running_loop().run_in_executor(None, self._text)
        except ExtraMissing as error:  # what makes it is not installed
            self.set_status(501)
            body = f"# {error}\n"
        self.set_header("Content-Type", self._kind)
        self.finish(body)

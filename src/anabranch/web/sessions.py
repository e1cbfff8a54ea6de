"""Sessions of browsers: what their cookies say, for how long, and who has logged out.

A cookie is signed, so that several services with the same tokens know it, and a service that is started anew; only
who has logged out is remembered, by the process that was told.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

LIFETIME_S = 24 * 3600.0  # a day of work; after it a browser needs the token again


@dataclass(frozen=True, slots=True)
class Session:
    """Who is known, and until when."""

    role: str
    id: str = ""
    """Empty for who sends a token with each request."""
    end: float = 0.0
    """Seconds since the epoch."""


class Sessions:
    """Begins, knows and ends sessions.

    Parameters
    ----------
    secret
        Who has the same knows the same sessions, and with another one all of them are over; empty for one made up.
    clock
        Seconds since the epoch.
    """

    def __init__(self, secret: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self._key = digest_text(f"sessions {secret}") if secret else secrets.token_bytes(32)
        self._clock = clock
        self._ended: dict[str, float] = {}
        self._cookie = f"anabranch-{self._mac('name')[:8]}"  # of its own: browsers share cookies between ports

    def begin(self, role: str, *, is_tls: bool) -> str:
        """Begin a session; the ``Set-Cookie`` that tells a browser."""
        text = f"{role}.{int(self._clock() + LIFETIME_S)}.{secrets.token_urlsafe(16)}"
        return self._set_cookie(f"{text}.{self._mac(f'cookie {text}')}", is_tls=is_tls)

    def find(self, cookies: str) -> Session | None:
        """The session of a ``Cookie`` header, if it goes on."""
        for each in cookies.split(";"):  # one pass: the standard library takes seconds for a header of 60 kB
            name, _, value = each.strip().partition("=")
            text, _, mac = value.rpartition(".")
            if name == self._cookie and hmac.compare_digest(digest_text(mac), digest_text(self._mac(f"cookie {text}"))):
                role, end, session_id = text.split(".")
                session = Session(role, session_id, float(end))
                return session if session.end > self._clock() and session_id not in self._ended else None
        return None

    def end(self, cookies: str, *, is_tls: bool) -> str:
        """End the session of a ``Cookie`` header; the ``Set-Cookie`` with which the browser forgets it."""
        now = self._clock()
        self._ended = {session_id: end for session_id, end in self._ended.items() if end > now}
        if session := self.find(cookies):
            self._ended[session.id] = session.end
        return f"{self._set_cookie('', is_tls=is_tls)}; Max-Age=0"

    def form_token(self, session: Session) -> str:
        """What the forms of a session send, so that they are known to be ours."""
        return self._mac(f"form {session.role} {session.id}")

    def _set_cookie(self, value: str, *, is_tls: bool) -> str:
        return f"{self._cookie}={value}; HttpOnly; SameSite=Strict; Path=/{'; Secure' if is_tls else ''}"

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def digest_text(text: str) -> bytes:
    """What is compared in place of a text: it takes as long whatever the text is."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()

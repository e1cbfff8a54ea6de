"""Notifiers: handlers that report states to people, by a webhook in Slack's format or by e-mail.

Use a notifier as a handler: ``Flow(…, state_handlers=[notify])``, ``@task(on_failure=notify)``. If it fails, this is
logged, and changes nothing. If it has too many messages, it says how many it left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import smtplib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from anabranch.base import context
from anabranch.base.errors import OptionError, RunStoreError
from anabranch.base.names import short
from anabranch.base.states import State
from anabranch.monitoring.bulletins import Bulletin, bulletin_of, check_template, fill

TIMEOUT_S = 5.0
"""Seconds that a run waits for a notifier."""

if TYPE_CHECKING:
    from anabranch.runs.store.database import Database

_log = logging.getLogger("anabranch.notifiers")


class Notifier:
    """Base of all notifiers: which states they report, and how often.

    Secrets that this process knows are masked in what is sent.

    Parameters
    ----------
    states
        Names of states to report, such as ``"Success"``, and of what services tell beside states: ``"Late"``,
        ``"Stuck"``, ``"Backlog"``, ``"Recovered"``; default: those, and all failures and cancellations.
    most, per_s
        Send at most `most` messages in `per_s` seconds; the next message says how many were left out. Of a flow, the
        limit holds for all its runs of a run store together, else in each process.
    clock
        Returns seconds, for the limit in this process alone; default: a clock of the system, or of the run store.
    """

    def __init__(
        self,
        *,
        states: Collection[str] | None = None,
        most: int = 10,
        per_s: float = 60.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if isinstance(states, str):
            states = (states,)
        if most < 1 or per_s <= 0:
            raise OptionError(
                f"{type(self).__name__}: expected most=1 or more and per_s above 0, found {most}, {per_s}"
            )
        self._states = frozenset(states) if states is not None else None
        self._most = most
        self._per_s = per_s
        self._clock = clock
        self._sent: list[float] = []
        self._left_out = 0
        self._lock = threading.Lock()
        self._last: State | None = None
        self._stuck: threading.Thread | None = None
        """What has been waited for in vain."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_stuck", "_last")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _stuck=None, _last=None)

    def __call__(self, subject: Any, *states: State) -> None:
        """Tell of the last of these states, if it is one to tell of: a state handler, and an ``on_failure``."""
        try:
            state = states[-1]
            if not self._is_wanted(state) or state is self._last:  # on_failure and a state handler may be one
                return
            self._last = state
            self._tell(bulletin_of(subject, state), subject)
        except Exception as error:  # the run does not depend on it
            self._could_not(short(subject), error)

    def tell(self, news: Bulletin) -> None:
        """Tell of something that is no state of a run which goes on here, if its kind is wanted."""
        is_wanted = news.state in self._states if self._states is not None else news.state != "Success"
        try:
            if is_wanted:
                self._tell(news, news.flow)
        except Exception as error:
            self._could_not(news.what, error)

    def _tell(self, news: Bulletin, subject: Any) -> None:
        left_out = self._admitted(subject)
        if left_out is not None:
            self._send_apart(replace(news, left_out=news.left_out + left_out), short(subject))

    def _send_apart(self, news: Bulletin, subject: str) -> None:
        """Send a message from a thread, and wait for it as long as a run may be held up."""

        def send() -> None:
            try:
                self.send_bulletin(news)
            except Exception as error:
                self._could_not(subject, error)

        sending = threading.Thread(target=send, name="anabranch-notifier", daemon=True)
        sending.start()
        sending.join(TIMEOUT_S)
        if sending.is_alive():
            self._stuck = sending
            _log.warning("%s has not come back from telling of %s, and is left behind", type(self).__name__, subject)

    def _could_not(self, subject: str, error: Exception) -> None:
        # An error's text may have the address in it, its kind has not.
        _log.warning("%s could not tell of %s: %s", type(self).__name__, subject, _harmless(error))

    def send_bulletin(self, news: Bulletin) -> None:
        """Send what is told; may raise anything. Replace this, or `send` if a short text is enough."""
        self.send(_short_text(news))

    def send(self, text: str) -> None:
        """Send a message; may raise anything."""
        raise NotImplementedError

    def _is_wanted(self, state: State) -> bool:
        if self._states is not None:
            return state.name in self._states
        return state.is_failed() or state.is_cancelled()

    def _admitted(self, subject: object) -> int | None:
        """How many messages were left out before this one; None if this one is left out, too."""
        is_stuck = self._stuck is not None and self._stuck.is_alive()  # a run waits for it once, not each time
        database = _database() if self._clock is None and not is_stuck else None
        if database is not None:
            from anabranch.runs.store.notices import admit

            teller = f"{getattr(subject, 'name', subject)!s:.200} {self._digest()}"
            try:
                left_out = admit(database, teller, most=self._most, per_s=self._per_s)
            except RunStoreError as error:
                _log.warning("what was told lately is not known, so a limit holds in this process only: %s", error)
            else:
                with self._lock:
                    here = self._left_out
                    self._left_out = here if left_out is None else 0
                return None if left_out is None else left_out + here
        with self._lock:
            now = (self._clock or time.monotonic)()
            self._sent = [each for each in self._sent if now - each < self._per_s]
            if is_stuck or len(self._sent) >= self._most:
                self._left_out += 1
                return None
            self._sent.append(now)
            left_out, self._left_out = self._left_out, 0
            return left_out

    def _digest(self) -> str:
        """What is the same for a notifier with these options in each process, and tells nothing of them."""
        from anabranch.definition.fingerprints import describe_value

        own = {name: value for name, value in self.__getstate__().items() if name not in ("_sent", "_left_out")}
        text = repr((type(self).__qualname__, sorted((name, describe_value(each).text) for name, each in own.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _database() -> Database | None:
    """The run store's, where there is one: not in a task, which may run on any machine."""
    if context.is_running():
        return None
    from anabranch.runs.store.opening import current_store
    from anabranch.runs.store.relational import RelationalRunStore

    try:
        store = current_store()
    except RunStoreError:
        return None
    return store.database if isinstance(store, RelationalRunStore) else None


class WebhookNotifier(Notifier):
    """Sends ``{"text": …}`` to a URL, as Slack, Mattermost, Rocket.Chat and workflows of Teams accept it.

    The text has the run, the task run that failed first with the line of your code, and the address of the run's page
    (setting ``service.url``).

    Parameters
    ----------
    url
        The URL, a secret that is neither shown nor logged.
    env
        Name of an environment variable that has the URL where the message is sent. It is safer than `url`, which is in
        the flow's pickle.
    body
        What is sent instead: a text, dict or list in which ``{run_id}``, ``{task}`` and other parts of a `Bulletin` are
        filled in, or a function of a `Bulletin` that gives one of these. What is no text is sent as JSON.
    **options
        As for `Notifier`.

    Raises
    ------
    OptionError
        There is no URL, or it is not HTTP; or there is no such part.

    Examples
    --------
    >>> from anabranch.notifiers import WebhookNotifier
    >>> WebhookNotifier(env="HOOK", body={"summary": "{title}", "custom_details": {"run": "{run_id}", "at": "{line}"}})
    WebhookNotifier(env='HOOK')
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        env: str | None = None,
        body: str | Mapping[str, Any] | list[Any] | Callable[[Bulletin], Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if body is not None:
            check_template(body)
        if (url is None) == (env is None):
            raise OptionError("WebhookNotifier: expected either url= or env=")
        if url is not None:
            _check_notifier_url(url)
        self._url = url
        self._env = env
        self._body = body

    def __repr__(self) -> str:
        return f"WebhookNotifier({f'env={self._env!r}' if self._env else '***'})"

    _body: Any = None  # of one that an earlier version has pickled, too

    def send_bulletin(self, news: Bulletin) -> None:
        """Send what is told."""
        if self._body is None:
            self.send(news.details)
        else:
            self._post(fill(self._body, news))

    def send(self, text: str) -> None:
        """Send a message."""
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        self._post(json.dumps({"text": escaped}).encode())

    def _post(self, body: bytes) -> None:
        url = self._url or os.environ.get(self._env or "", "")
        if not url:
            raise OptionError(f"the environment has no {self._env}")
        _check_notifier_url(url)
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S):
            pass


class EmailNotifier(Notifier):
    """Sends e-mail.

    Parameters
    ----------
    to
        One address, or several.
    sender
        Address of the sender.
    host, port
        The mail server.
    starttls
        Encrypt, and check the server's certificate; required with a password.
    username, password_env
        User name, and the environment variable that has the password where the message is sent.
    **options
        As for `Notifier`.

    Raises
    ------
    OptionError
        An address is not valid, or a password would be sent in the clear.
    """

    def __init__(
        self,
        to: str | Sequence[str],
        *,
        sender: str,
        host: str = "localhost",
        port: int = 25,
        starttls: bool = False,
        username: str | None = None,
        password_env: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._to = (to,) if isinstance(to, str) else tuple(to)
        for address in (*self._to, sender):
            if not isinstance(address, str) or "@" not in address or not address.isprintable():
                raise OptionError(
                    f"EmailNotifier: expected an address such as team@example.com, found {short(address)}"
                )
        if not self._to:
            raise OptionError("EmailNotifier: expected one address or more")
        if username is not None and not starttls:
            raise OptionError("EmailNotifier: a password would be sent in the clear; use starttls=True")
        self._sender = sender
        self._host, self._port, self._starttls = host, port, starttls
        self._username, self._password_env = username, password_env

    def __repr__(self) -> str:
        return f"EmailNotifier({self._host!r})"

    def send_bulletin(self, news: Bulletin) -> None:
        """Send what is told."""
        self.send(news.details)

    def send(self, text: str) -> None:
        """Send a message."""
        import ssl

        message = EmailMessage()
        first = text.splitlines()[0] if text else ""
        message["Subject"] = "".join(char if char.isprintable() else " " for char in first)[:200]
        message["From"] = self._sender
        message["To"] = ", ".join(self._to)
        message.set_content(text)
        with smtplib.SMTP(self._host, self._port, timeout=TIMEOUT_S) as server:
            if self._starttls:
                server.starttls(context=ssl.create_default_context())
            if self._username is not None:
                server.login(self._username, os.environ.get(self._password_env or "", ""))
            server.send_message(message)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirects of a webhook: the message is for the given URL only."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none."""


def _check_notifier_url(url: str) -> None:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise OptionError("WebhookNotifier: expected a URL that begins with https://")


def _short_text(news: Bulletin) -> str:
    """What happened, and in which run if it is a task's: its flow tells of more."""
    run_id = news.run_id if news.what != news.flow else ""
    return replace(news, run_id=run_id, task="", line="", url="").details


def _harmless(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it is the answer, too
        return f"HTTP {error.code}"
    return str(error) if isinstance(error, OptionError) else type(error).__name__

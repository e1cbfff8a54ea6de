"""Handlers and tasks that tell people, as in Prefect 1: by a webhook of Slack's, and by e-mail."""

from __future__ import annotations

import json
import smtplib
import ssl
import urllib.request
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from functools import partial, wraps
from pathlib import Path
from typing import Any

from anabranch.monitoring.notifiers import TIMEOUT_S, Notifier, WebhookNotifier
from anabranch.prefect.credentials import Secret
from anabranch.prefect.definitions import Task


def _curried(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler that may be given its options first: ``slack_notifier(only_states=[Failed])``."""

    @wraps(handler)
    def called(*args: Any, **options: Any) -> Any:
        return handler(*args, **options) if len(args) >= 3 else partial(called, *args, **options)

    return called


def callback_factory(fn: Callable[[Any, Any], Any], check: Callable[[Any], bool]) -> Callable[[Any, Any, Any], Any]:
    """A state handler that calls a function for the states that pass a check."""

    def called(subject: Any, old: Any, new: Any) -> Any:
        if check(new):
            fn(subject, new)
        return new

    return called


def _is_wanted(state: Any, ignored: Sequence[type] | None, only: Sequence[type] | None) -> bool:
    return not (ignored and isinstance(state, tuple(ignored))) and (not only or isinstance(state, tuple(only)))


@_curried
def slack_notifier(
    tracked_obj: Any,
    old_state: Any,
    new_state: Any,
    ignore_states: Sequence[type] | None = None,
    only_states: Sequence[type] | None = None,
    webhook_secret: str | None = None,
    backend_info: bool = True,
    proxies: Any = None,
) -> Any:
    """A state handler that tells Slack; the address is the secret ``SLACK_WEBHOOK_URL``."""
    if _is_wanted(new_state, ignore_states, only_states):
        url = Secret(webhook_secret or "SLACK_WEBHOOK_URL").get()
        WebhookNotifier(url, states=[new_state.name])(tracked_obj, new_state)
    return new_state


class _Gmail(Notifier):
    """Sends the message by Gmail, from and to the address of the account."""

    def send(self, text: str) -> None:
        """Send a message."""
        user = Secret("EMAIL_USERNAME").get()
        _mail("smtp.gmail.com", 465, "SSL", _message(text.splitlines()[0], user, [user], text))


@_curried
def gmail_notifier(
    tracked_obj: Any,
    old_state: Any,
    new_state: Any,
    ignore_states: Sequence[type] | None = None,
    only_states: Sequence[type] | None = None,
) -> Any:
    """A state handler that writes to the account of the secrets ``EMAIL_USERNAME`` and ``EMAIL_PASSWORD``."""
    if _is_wanted(new_state, ignore_states, only_states):
        _Gmail(states=[new_state.name])(tracked_obj, new_state)
    return new_state


def _message(subject: str, sender: str, to: Sequence[str], text: str, html: str = "") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "".join(char if char.isprintable() else " " for char in subject)
    message["From"], message["To"] = sender, ", ".join(to)
    message.set_content(text or html)
    if html:
        message.add_alternative(html, subtype="html")
    return message


def _mail(host: str, port: int, kind: str, message: EmailMessage) -> None:
    if kind not in ("SSL", "STARTTLS", "INSECURE"):
        raise ValueError(f"smtp_type: expected SSL, STARTTLS or INSECURE, found {kind!r}")
    is_ssl = kind == "SSL"
    context = ssl.create_default_context()
    opened: Any = smtplib.SMTP_SSL(host, port, context=context) if is_ssl else smtplib.SMTP(host, port)
    with opened as server:
        if kind == "STARTTLS":
            server.starttls(context=context)
        if kind != "INSECURE":
            server.login(Secret("EMAIL_USERNAME").get(), Secret("EMAIL_PASSWORD").get())
        server.send_message(message)


def _list(addresses: str | None) -> list[str]:
    return [each.strip() for each in (addresses or "").split(",") if each.strip()]


class EmailTask(Task):
    """Send an e-mail. Each argument may be given with the call, too."""

    def __init__(
        self,
        subject: str | None = None,
        msg: str | None = None,
        email_to: str | None = None,
        email_from: str = "anabranch@localhost",
        smtp_server: str = "smtp.gmail.com",
        smtp_port: int = 465,
        smtp_type: str = "SSL",
        msg_plain: str | None = None,
        email_to_cc: str | None = None,
        email_to_bcc: str | None = None,
        attachments: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.defaults = {
            "subject": subject, "msg": msg, "email_to": email_to, "email_from": email_from, "smtp_server": smtp_server,
            "smtp_port": smtp_port, "smtp_type": smtp_type, "msg_plain": msg_plain, "email_to_cc": email_to_cc,
            "email_to_bcc": email_to_bcc, "attachments": attachments,
        }  # fmt: skip
        super().__init__(**options)

    def run(
        self,
        subject: str | None = None,
        msg: str | None = None,
        email_to: str | None = None,
        email_from: str | None = None,
        smtp_server: str | None = None,
        smtp_port: int | None = None,
        smtp_type: str | None = None,
        msg_plain: str | None = None,
        email_to_cc: str | None = None,
        email_to_bcc: str | None = None,
        attachments: Sequence[str] | None = None,
    ) -> None:
        """Send it."""
        passed = {name: value for name, value in locals().items() if name in self.defaults and value is not None}
        given: dict[str, Any] = {**self.defaults, **passed}
        message = _message(
            given["subject"] or "", given["email_from"], _list(given["email_to"]), given["msg_plain"] or "",
            given["msg"] or "",
        )  # fmt: skip
        for field, name in (("Cc", "email_to_cc"), ("Bcc", "email_to_bcc")):
            if given[name]:
                message[field] = ", ".join(_list(given[name]))
        for path in given["attachments"] or ():
            name = Path(path).name
            message.add_attachment(
                Path(path).read_bytes(), maintype="application", subtype="octet-stream", filename=name
            )
        _mail(given["smtp_server"], given["smtp_port"], given["smtp_type"], message)


class SlackTask(Task):
    """Send a message to Slack. The address is a secret; each argument may be given with the call, too."""

    def __init__(self, message: Any = None, webhook_secret: str | None = "SLACK_WEBHOOK_URL", **options: Any) -> None:
        self.message, self.webhook_secret = message, webhook_secret
        super().__init__(**options)

    def run(self, message: Any = None, webhook_secret: str | None = None, webhook_url: str | None = None) -> None:
        """Send it."""
        message = self.message if message is None else message
        url = webhook_url or Secret(webhook_secret or self.webhook_secret or "SLACK_WEBHOOK_URL").get()
        if not str(url).startswith(("https://", "http://")):
            raise ValueError("SlackTask: expected an address of a webhook that begins with https://")
        body = json.dumps(message if isinstance(message, dict) else {"text": message}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            pass

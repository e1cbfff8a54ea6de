"""Notifiers: handlers that tell people of states, by a webhook that Slack understands or by e-mail.

A notifier goes where handlers go: ``Flow(…, state_handlers=[notify])``, ``@task(on_failure=notify)``. One that fails is
told of in the log, and changes nothing; one that would say too much says how much it left out.
"""

from __future__ import annotations

from anabranch.monitoring.bulletins import Bulletin
from anabranch.monitoring.notifiers import EmailNotifier, Notifier, WebhookNotifier

__all__ = ["Bulletin", "EmailNotifier", "Notifier", "WebhookNotifier"]

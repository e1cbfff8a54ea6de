"""Who does something that others share: a person at a command line, or who has sent a request to a service."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ACTOR: ContextVar[str] = ContextVar("anabranch_actor", default="")


def name_user() -> str:
    """``user@host``, by which others find who has asked for something."""
    try:
        user = getpass.getuser()
    except (
        ImportError,
        OSError,
        KeyError,
    ):  # in a container, the user may have a number only; on Windows, not even that
        user = str(os.getuid()) if hasattr(os, "getuid") else "somebody"
    return f"{user}@{socket.gethostname()}"


def actor() -> str:
    """Who acts here: by default the user of this process."""
    return _ACTOR.get() or name_user()


@contextmanager
def acting(who: str) -> Iterator[None]:
    """Until the block ends, somebody else acts."""
    before = _ACTOR.set(who)
    try:
        yield
    finally:
        _ACTOR.reset(before)

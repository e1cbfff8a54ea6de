"""The error tree: one class per kind of mistake, each also the builtin that a caller expects."""

from __future__ import annotations

from anabranch.base.errors import *  # noqa: F403  # all of them

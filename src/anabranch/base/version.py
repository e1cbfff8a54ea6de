"""The version of this package: here, because asking the installed metadata takes 15 ms of a script's start."""

from __future__ import annotations

VERSION = "0.1.0"

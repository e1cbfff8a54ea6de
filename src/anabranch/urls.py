"""URLs as they may be shown."""

from __future__ import annotations

import re


def masked(url: str) -> str:
    """A database URL without its passwords, however malformed it is.

    Examples
    --------
    >>> masked("postgresql://ann:p@ss:word@db/runs?password=x&sslmode=require")
    'postgresql://ann:***@db/runs?password=***&sslmode=require'
    """
    url = re.sub(r"(?<=://)([^:/@?]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(?<=[?&])([^=&]*(?:password|passwd|secret|token)[^=&]*)=[^&]*", r"\1=***", url)

"""Classes that travel to a scheduler as the source text of their module: nothing of ours need be installed there.

A scheduler outlives thousands of runs, so a process makes the module of a text once, and keeps it.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

from anabranch.executors.entry import MAKE

_EXPRESSION = "getattr(__import__('sys').modules.get(key) or eval(make), name)(*arguments)"


def reduced(text: bytes, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What ``__reduce__`` gives of an object that is made by a class of a source text.

    >>> make, what = reduced(b"Wave = int", "Wave", ("7",))
    >>> make(*what)
    7
    """
    key = f"_anabranch_{name.lower()}_{hashlib.sha256(text).hexdigest()[:12]}"
    names = {"key": key, "make": MAKE, "text": zlib.compress(text, 9), "name": name, "arguments": arguments}
    return eval, (_EXPRESSION, names)

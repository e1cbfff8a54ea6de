"""Names of limits that are made of a call's arguments, such as ``host:{host}``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from string import Formatter
from typing import Any

from anabranch.base.masking import mask
from anabranch.base.texts import printable

MAX_NAME = 200  # characters, as in tags


@cache
def fields_of(name: str) -> tuple[str, ...]:
    """Arguments that a name is made of; none, if it stands for itself."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(name) if field is not None]
    except ValueError:
        return ()
    return tuple(field.partition(".")[0].partition("[")[0] for field in fields)


def made_of(template: str, inputs: Mapping[str, Any]) -> str:
    """The name that these arguments make, which is printable and not too long. It may raise whatever they do."""
    name = mask(printable(str(template.format_map(inputs))))
    if len(name) > MAX_NAME:
        digest = hashlib.blake2b(name.encode(), digest_size=12).hexdigest()
        name = f"{name[: MAX_NAME - 25]}…{digest}"
    return name or template

"""Signatures of users' functions, whose annotations may name what only a type checker sees.

Python evaluates annotations when it defines a function, and from 3.14 on when somebody asks for them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

_UNEVALUATED: dict[str, Any] = {}
if sys.version_info >= (3, 14):
    from annotationlib import Format, get_annotations

    _UNEVALUATED["annotation_format"] = Format.FORWARDREF


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function.

    Raises
    ------
    TypeError, ValueError
        It does not tell: it is a builtin, say.
    """
    return inspect.signature(function, **_UNEVALUATED)


@contextmanager
def readable_annotations(function: FunctionType) -> Iterator[None]:
    """Within it, annotations that cannot be evaluated are their own source."""
    annotate = None
    if sys.version_info >= (3, 14) and not _evaluates(function):
        annotate = function.__annotate__
        function.__annotations__ = get_annotations(function, format=Format.STRING)
    try:
        yield
    finally:
        if annotate is not None:
            function.__annotate__ = annotate


def _evaluates(function: FunctionType) -> bool:
    try:
        return function.__annotations__ is not None
    except Exception:  # an annotation is any code of the user's
        return False

"""What the code of a node is, as a short text that changes when it does: to say what changed since a run.

Comments, docstrings and line numbers do not count. The functions of the user's own that a task's function names do.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from anabranch.base.where import is_users
from anabranch.definition.expressions import Build, Const, Expression, Output, Ref
from anabranch.definition.frozen import FrozenGraph, FrozenNode

MAX_DEPTH = 8  # of functions that call functions
MAX_PARTS = 100  # of a constant collection; a longer one counts by its length and its ends
_PLAIN = (int, float, complex, bool, str, bytes, type(None), type(Ellipsis))
_PREFIX = f"{sys.version_info.major}.{sys.version_info.minor}-"  # byte code of another Python compares with nothing


def fingerprints(graph: FrozenGraph) -> dict[str, str]:
    """Fingerprint of each node that is no parameter, by slug: of its function, its constants and its place."""
    known: dict[int, str] = {}
    return {
        slug: _PREFIX + hashlib.sha256(_node(node, known).encode(errors="surrogatepass")).hexdigest()[:16]
        for slug, node in graph.nodes.items()
        if node.kind != "parameter"
    }


def describe_code(function: Callable[..., Any]) -> str:
    """A text that changes when a function, or one of the user's own that it calls, does."""
    return _PREFIX + hashlib.sha256(_spell(function, 0, set()).encode(errors="surrogatepass")).hexdigest()[:16]


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Slugs of nodes that were there before and have another fingerprint now, as far as the two compare."""
    return [
        slug
        for slug, text in now.items()
        if slug in before and before[slug] != text and before[slug].startswith(_PREFIX)
    ]


def _node(node: FrozenNode, known: dict[int, str]) -> str:
    function = node.signature.function
    code = known.get(id(function))
    if code is None:
        code = known[id(function)] = _spell(function, 0, set())
    edges = sorted(f"{edge.upstream} {edge.kind} {edge.key} {edge.mapped}" for edge in node.edges)
    arguments = {name: _expression(each) for name, each in node.arguments.items()}
    return f"{node.kind} {node.is_map} {code} {edges} {arguments}"


def _expression(expression: Expression) -> str:
    match expression:
        case Const(value):
            return _spell(value, 0, set())
        case Ref(node):
            return f"ref {node}"
        case Output(node, key):
            return f"output {node} {_spell(key, 0, set())}"
        case Build(maker, parts):
            return f"{type(maker).__name__} {[_expression(part) for part in parts]}"
    return ""


def _spell(value: Any, depth: int, seen: set[int]) -> str:
    """A text for a function, a constant or a collection of these; of anything else, its type."""
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}"
    if depth > MAX_DEPTH or id(value) in seen:
        return "…"
    seen = seen | {id(value)}
    if isinstance(value, FunctionType):
        return _function(value, depth, seen)
    if isinstance(value, MethodType):
        return _spell(value.__func__, depth + 1, seen)
    if isinstance(value, partial):
        return f"partial {[_spell(each, depth + 1, seen) for each in (value.func, *value.args, value.keywords)]}"
    if isinstance(value, CodeType):
        return _code(value, depth, seen)
    if isinstance(value, (list, tuple)):
        parts = value if len(value) <= MAX_PARTS else (*value[: MAX_PARTS // 2], *value[-MAX_PARTS // 2 :])
        return f"{type(value).__name__} {len(value)} {[_spell(each, depth + 1, seen) for each in parts]}"
    if isinstance(value, (set, frozenset)):
        texts = sorted(_spell(each, depth + 1, seen) for each in value) if len(value) <= MAX_PARTS else ()
        return f"set {len(value)} {texts}"
    if isinstance(value, dict):
        pairs = list(value.items())[:MAX_PARTS]
        return f"dict {len(value)} {[(_spell(k, depth + 1, seen), _spell(v, depth + 1, seen)) for k, v in pairs]}"
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__} {getattr(value, '__qualname__', '')}"


def _function(function: FunctionType, depth: int, seen: set[int]) -> str:
    code = function.__code__
    cells = [_cell(cell, depth, seen) for cell in function.__closure__ or ()]
    helpers = [
        _spell(helper, depth + 1, seen)
        for name in sorted(_find_names(code))
        if isinstance(helper := function.__globals__.get(name), FunctionType) and is_users(helper.__code__.co_filename)
    ]
    defaults = _spell((function.__defaults__, function.__kwdefaults__), depth + 1, seen)
    return f"{_code(code, depth, seen, function.__doc__)} {defaults} {cells} {helpers}"


def _find_names(code: CodeType) -> set[str]:
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return {*code.co_names, *(name for each in inner for name in _find_names(each))}


def _cell(cell: Any, depth: int, seen: set[int]) -> str:
    try:
        return _spell(cell.cell_contents, depth + 1, seen)
    except ValueError:  # it has none yet
        return ""


def _code(code: CodeType, depth: int, seen: set[int], doc: str | None = None) -> str:
    has_place_for_doc = code.co_consts[:1] in ((None,), (doc,))  # where there is none, it is None
    constants = [_spell(each, depth + 1, seen) for each in code.co_consts[has_place_for_doc:]]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"

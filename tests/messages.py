"""Every message that the library raises, read from its source; `{}` is in the place of what varies."""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import anabranch
from anabranch import errors

SOURCE = Path(anabranch.__file__).parent
_OWN = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, BaseException)}
_USAGE = {"Problem", "UsageError", "BadParameter"}  # of the command line
HOLE = "{}"
FEWEST_LETTERS = 12  # of words of its own


@dataclass(frozen=True)
class Message:
    """One `raise` of the library's."""

    kind: str
    """The class of the exception."""
    text: str
    """With `{}` for what varies; only that if it is made elsewhere."""
    file: str
    lines: range

    @property
    def name(self) -> str:
        """What it is found by in a table: unlike its line, it stays when others are written above it."""
        return f"{self.file}: {self.text}"

    @property
    def pieces(self) -> list[str]:
        """What does not vary."""
        return [piece for piece in self.text.split(HOLE) if piece.strip()]

    @property
    def is_passed_on(self) -> bool:
        """Whether it has no words of its own: it says what it was given, and that is a message of another place."""
        return sum(character.isalpha() for piece in self.pieces for character in piece) < FEWEST_LETTERS

    def is_said_by(self, text: str) -> bool:
        """Whether a text could be this message."""
        return re.fullmatch(".*".join(map(re.escape, self.text.split(HOLE))), text, re.DOTALL) is not None


@cache
def messages(root: Path = SOURCE) -> list[Message]:
    """All of them, in order."""
    found = []
    for file in sorted(root.rglob("*.py")):
        tree = ast.parse(file.read_bytes())
        found += [_message(*each, file.relative_to(root).as_posix()) for each in _raised(tree, tree)]
    return found


def _raised(scope: ast.AST, node: ast.AST) -> Iterator[tuple[ast.AST, ast.Raise, ast.Call]]:
    """Each `raise` of a library's exception, with the function that it is in."""
    for child in ast.iter_child_nodes(node):
        inner = child if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else scope
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and _kind(child.exc) in _OWN | _USAGE:
            yield scope, child, child.exc
        yield from _raised(inner, child)


def _kind(call: ast.Call) -> str:
    function = call.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _message(scope: ast.AST, statement: ast.Raise, call: ast.Call, file: str) -> Message:
    said = call.args[0] if call.args else None
    return Message(_kind(call), _text(said, scope) if said is not None else "", file, _lines(statement))


def _lines(statement: ast.stmt) -> range:
    return range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)


def _text(said: ast.expr, scope: ast.AST) -> str:
    match said:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(each, scope) if isinstance(each, ast.Constant) else HOLE for each in values)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _text(left, scope) + _text(right, scope)
        case ast.Name(id=name):
            given = [
                each.value
                for each in ast.walk(scope)
                if isinstance(each, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in each.targets)
            ]
            texts = [_text(each, scope) for each in given if isinstance(each, (ast.Constant, ast.JoinedStr))]
            return texts[-1] if texts else HOLE
    return HOLE


def raised_by(error: BaseException) -> set[tuple[str, int]]:
    """Files and lines of the library that raised an error, and those before it that it stands for."""
    found: set[tuple[str, int]] = set()
    link: BaseException | None = error
    while link is not None:
        frames = list(traceback.walk_tb(link.__traceback__))
        inner = [(frame.f_code.co_filename, line) for frame, line in frames]
        found |= {
            (Path(name).relative_to(SOURCE).as_posix(), line)
            for name, line in inner
            if Path(name).is_relative_to(SOURCE)
        }
        link = link.__cause__ or link.__context__
    return found

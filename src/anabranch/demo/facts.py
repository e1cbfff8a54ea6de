"""What one Python file holds, counted: lines by kind, functions, classes, branches, docstrings.

A pure function of the file's bytes. The syntax tree never leaves it: a tree weighs some thirty times its source, and
what is asked of it fits in a few numbers.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from importlib.util import decode_source

from dask.utils import SerializableLock

from anabranch.demo.sources import CorpusError, Source

_PARSING = SerializableLock("anabranch.demo.facts")
"""`warnings.catch_warnings` changes the whole process and worker threads share one. The parser holds the GIL anyway, so
waiting here costs nothing. A plain lock could not be pickled with this module."""

_LOOPS_AND_CONDITIONS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Definition = ast.ClassDef | _Function
_Documented = ast.Module | _Definition


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """One function or method."""

    name: str
    """Qualified within its module: ``Class.method``."""
    line: int
    """Line of its ``def``, from 1."""
    lines: int
    complexity: int
    """Cyclomatic: 1 + its branches, without those of functions defined inside it."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What was counted in one file. Small: this is what travels between processes."""

    path: str
    package: str
    nbytes: int
    code: int
    """Lines that are none of the following three."""
    docs: int
    """Lines of docstrings."""
    comments: int
    """Lines that hold only a comment."""
    blank: int
    classes: int
    branches: int
    """Ways that control can take besides straight on: conditions, loops, handlers, cases, ``and`` and ``or``."""
    documentable: int
    """The module, unless it is empty, and its public classes, functions and methods."""
    documented: int
    """Those of them that have a docstring."""
    shapes: tuple[tuple[int, int], ...]
    """Lines and complexity of each function, in no particular order."""
    most_complex: FunctionFacts | None

    @property
    def lines(self) -> int:
        """All lines of the file."""
        return self.code + self.docs + self.comments + self.blank

    @property
    def functions(self) -> int:
        """Number of functions and methods, nested ones included, lambdas not."""
        return len(self.shapes)


def measure_source(source: Source) -> FileFacts:
    r"""Parse one file and count what is in it.

    Raises
    ------
    CorpusError
        If it cannot be decoded or parsed, from the exception that says why.

    Examples
    --------
    >>> from anabranch.demo.sources import SourceFile
    >>> facts = measure_source(Source(SourceFile("a.py", "a"), b"def f(x):\n    return 1 if x else 2\n"))
    >>> facts.lines, facts.functions, facts.branches, facts.shapes
    (2, 1, 1, ((2, 2),))
    """
    file = source.file
    try:
        text = decode_source(source.data)
        tree = parse_quietly(text)
    except SyntaxError as error:
        where = f" (line {error.lineno})" if error.lineno else ""
        raise CorpusError(file.path, type(error).__name__, f"{error.msg}{where}") from error
    except MemoryError as error:
        # How the parser says that its own stack is full; it gives no message.
        raise CorpusError(file.path, "MemoryError", "nested too deeply for the parser") from error
    except (ValueError, LookupError, RecursionError) as error:
        # Null bytes; bytes that are not in the encoding; an encoding that is none of text; thousands of nested calls.
        raise CorpusError(file.path, type(error).__name__, str(error)) from error
    found = _Found()
    found.visit(tree)
    code, docs, comments, blank = line_kinds(text, found.docstrings)
    return FileFacts(
        path=file.path,
        package=file.package,
        nbytes=len(source.data),
        code=code,
        docs=docs,
        comments=comments,
        blank=blank,
        classes=found.classes,
        branches=found.branches,
        documentable=found.documentable,
        documented=found.documented,
        shapes=tuple((function.lines, function.complexity) for function in found.functions),
        most_complex=max(found.functions, key=lambda function: (function.complexity, function.lines), default=None),
    )


def parse_quietly(text: str) -> ast.Module:
    """The syntax tree, without the warnings that the compiler has about other people's code."""
    with _PARSING, warnings.catch_warnings():
        # Deprecations too: invalid escapes were one before Python 3.12.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(text)


def line_kinds(text: str, docstrings: list[tuple[int, int]]) -> tuple[int, int, int, int]:
    r"""Number of lines of code, docstrings, comments and nothing.

    Parameters
    ----------
    text
        Source with ``\n`` as its only line end.
    docstrings
        First and last line of each docstring, from 1.

    Examples
    --------
    >>> line_kinds('"One.\n\nTwo."\n# Why.\n\nx = 1\n', [(1, 3)])
    (1, 3, 1, 1)
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    inside = {number for first, last in docstrings for number in range(first, last + 1)}
    rest = [line.strip() for number, line in enumerate(lines, start=1) if number not in inside]
    blank = rest.count("")
    comments = sum(line.startswith("#") for line in rest)
    return len(rest) - blank - comments, len(lines) - len(rest), comments, blank


class _Found:
    """What a walk over one tree has counted so far."""

    def __init__(self) -> None:
        self.classes = 0
        self.branches = 0
        self.documentable = 0
        self.documented = 0
        self.docstrings: list[tuple[int, int]] = []
        self.functions: list[FunctionFacts] = []

    def visit(self, tree: ast.Module) -> None:
        """Count the whole tree, function by function. A list of what is left, as recursion would end on deep code."""
        scopes: list[_OpenScope] = [_OpenScope(tree, name="", public=True)]
        while scopes:
            scope = scopes.pop()
            self._document(scope)
            branches = 0
            pending: list[ast.AST] = list(ast.iter_child_nodes(scope.node))
            while pending:
                node = pending.pop()
                if isinstance(node, _Definition):
                    scopes.append(scope.inner(node))
                else:
                    branches += branches_at(node)
                    pending.extend(ast.iter_child_nodes(node))
            self.branches += branches
            if isinstance(scope.node, ast.ClassDef):
                self.classes += 1
            elif isinstance(scope.node, _Function):
                first, last = scope.node.lineno, scope.node.end_lineno or scope.node.lineno
                self.functions.append(FunctionFacts(scope.name, first, last - first + 1, 1 + branches))

    def _document(self, scope: _OpenScope) -> None:
        lines = docstring_lines(scope.node)
        if lines is not None:
            self.docstrings.append(lines)
        if scope.public and scope.node.body:
            self.documentable += 1
            self.documented += lines is not None


@dataclass(frozen=True, slots=True)
class _OpenScope:
    """A module, class or function that is still to be walked."""

    node: _Documented
    name: str
    public: bool
    """Whether users of the module can name it: no leading underscore, not inside a function."""

    def inner(self, node: _Definition) -> _OpenScope:
        in_function = isinstance(self.node, _Function)
        name = f"{self.name}.{node.name}" if self.name else node.name
        return _OpenScope(node, name, self.public and not in_function and not node.name.startswith("_"))


def branches_at(node: ast.AST) -> int:
    """Number of branches that this one node of a tree adds, not counting what is below it."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, _LOOPS_AND_CONDITIONS))


def docstring_lines(node: _Documented) -> tuple[int, int] | None:
    """First and last line of the docstring, if there is one."""
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str()) as text), *_]:
            return text.lineno, text.end_lineno or text.lineno
    return None

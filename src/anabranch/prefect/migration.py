"""What of a file that is written for Prefect 1 works here: read from its text, which is not run.

Names are followed from the imports of the file, and from variables that are flows. What only a run can tell is not
seen: a name that is made from text, or an argument in a dict.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any, Literal

from anabranch.base.context import NAMES as CONTEXT
from anabranch.base.context import PREFECTS
from anabranch.base.prefect1 import Row, row_of
from anabranch.definition.task import Task
from anabranch.prefect.code_places import Storage
from anabranch.prefect.flows import Flow
from anabranch.prefect.machines import RunConfig
from anabranch.prefect.missing import Missing, told
from anabranch.prefect.modules import OLD, ROOT, found, names_by_module

Kind = Literal["works", "changed", "hand"]
MEANT = {"hand": "needs a hand", "changed": "is otherwise", "works": "works as it is"}
_QUIET = (None, False)
"""Values of arguments that ask for nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A use of a name or argument of Prefect 1."""

    line: int
    name: str
    kind: Kind
    text: str
    """What there is in place of it, or what is otherwise."""

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def read(source: str) -> list[Finding]:
    """What a file uses of Prefect 1, by line; each name and line once.

    Raises
    ------
    SyntaxError
        It is not Python as this interpreter reads it.
    """
    seen = _Reader(ast.parse(source))
    return sorted(dict.fromkeys(seen.findings()), key=lambda each: (each.line, each.name))


class _Reader:
    """A module's text, with what its names stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.names: dict[str, tuple[str, str]] = {}
        """Names of the file: the module of Prefect's, and the name in it, or nothing for the module itself."""
        self.flows: set[str] = set()
        self.registers = False
        self.assigned = {
            node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        """Names that may mean something else in places."""
        for node in ast.walk(tree):
            self._learn(node)

    def _learn(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=names):
                for each in names:
                    if each.name.partition(".")[0] == OLD:
                        self.names[each.asname or OLD] = (each.name[8:] if each.asname else "", "")
            case ast.ImportFrom(module=str(module), names=names, level=0) if module.partition(".")[0] == OLD:
                for each in names:
                    self.names[each.asname or each.name] = (module[8:], each.name)
            case ast.Call(func=ast.Attribute(attr="register", value=ast.Name(id=name))) if name in self.flows:
                self.registers = True
            case ast.withitem(context_expr=ast.Call(func=made), optional_vars=ast.Name(id=name)):
                self._learn_flow(made, name)
            case ast.Assign(value=ast.Call(func=made), targets=[ast.Name(id=name)]):
                self._learn_flow(made, name)

    def _learn_flow(self, made: ast.expr, name: str) -> None:
        place = self.place_of(made)
        if place is not None and place[1] == "Flow":
            self.flows.add(name)

    def place_of(self, node: ast.AST) -> tuple[str, str] | None:
        """Module and name that an expression stands for in Prefect 1."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        place = self.place_of(node.value)
        if place is None:
            return None
        module = f"{place[0]}.{place[1]}".strip(".")
        return (module, node.attr) if not place[1] or module in names_by_module() else None

    def findings(self) -> Iterator[Finding]:
        """What it uses."""
        yield from self._of(self.tree, frozenset())

    def _of(self, node: ast.AST, own: frozenset[str]) -> Iterator[Finding]:
        """What a part of the text uses; `own` are names that mean something else there."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            arguments = node.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            own |= {each.arg for each in named if each is not None}
        hidden = {name: self.names.pop(name) for name in own if name in self.names}
        try:
            yield from self._of_node(node)
        finally:
            self.names.update(hidden)
        inner = node
        while isinstance(inner, ast.Attribute) and (place := self.place_of(inner.value)) is not None:
            if not place[1] or ".".join(place).strip(".") in names_by_module():
                inner = inner.value  # `prefect.engine` of `prefect.engine.signals` is no use of its own
                continue
            break
        for child in ast.iter_child_nodes(inner if inner is not node else node):
            yield from self._of(child, own)

    def _of_node(self, node: ast.AST) -> Iterator[Finding]:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == OLD:
            yield from self._of_import(node)
        elif isinstance(node, (ast.Name, ast.Attribute)):
            place = self.place_of(node)
            if place is not None and place[1] and ".".join(place).strip(".") not in names_by_module():
                if _thing(*place) is not None or not self._may_be_another(node):
                    yield self._of_name(node.lineno, *place)
            if isinstance(node, ast.Attribute):
                yield from self._of_attribute(node)
        elif isinstance(node, ast.Call):
            yield from self._of_call(node)
        elif isinstance(node, ast.Subscript) and self._is_context(node.value):
            yield from self._of_context(node.lineno, node.slice)

    def _may_be_another(self, node: ast.AST) -> bool:
        while isinstance(node, ast.Attribute):
            if node.attr.startswith("__"):  # of any module
                return True
            node = node.value
        return isinstance(node, ast.Name) and node.id in self.assigned

    def _of_import(self, node: ast.ImportFrom) -> Iterator[Finding]:
        module = (node.module or "")[8:]
        for each in node.names:
            if each.name != "*" and _thing(module, each.name) is None:
                text = "neither Prefect 1 nor anabranch.prefect has it"
                yield Finding(node.lineno, f"{node.module}.{each.name}", "hand", text)

    def _of_name(self, line: int, module: str, name: str) -> Finding:
        shown = ".".join(part for part in (OLD, module, name) if part)
        thing = _thing(module, name)
        if thing is None:
            return Finding(line, shown, "hand", "neither Prefect 1 nor anabranch.prefect has it")
        if isinstance(thing, Missing):
            return Finding(line, shown, "hand", told(name, module))
        row = row_of(f"storage.{name}", name)
        if isinstance(thing, type) and issubclass(thing, (Storage, RunConfig)) and _is_refused(thing):
            return Finding(line, shown, "hand" if self.registers else "changed", str(row))
        is_changed = row is not None and row.way == "otherwise" and "anabranch.prefect" in row.ours
        return Finding(line, shown, "changed" if is_changed else "works", str(row) if row and is_changed else "")

    def _of_attribute(self, node: ast.Attribute) -> Iterator[Finding]:
        if isinstance(node.value, ast.Name) and node.value.id in self.flows:
            row = row_of(f"flow.{node.attr}")
            if row is not None and not hasattr(Flow, node.attr) and row.way in ("otherwise", "no"):
                yield Finding(node.lineno, f"flow.{node.attr}", "hand", str(row))
        if self._is_context(node.value) and node.attr not in ("get", "get_logger"):
            yield from self._of_context(node.lineno, ast.Constant(node.attr))

    def _is_context(self, node: ast.AST) -> bool:
        place = self.place_of(node)
        return place is not None and place[1] == "context"

    def _of_context(self, line: int, name: ast.AST) -> Iterator[Finding]:
        if isinstance(name, ast.Constant) and isinstance(name.value, str) and name.value not in {*CONTEXT, *PREFECTS}:
            row = row_of(f"context.{name.value}")
            text = str(row) if row is not None else "the context has no such name"
            yield Finding(line, f"context.{name.value}", "hand", text)

    def _of_call(self, node: ast.Call) -> Iterator[Finding]:
        match node.func:
            case ast.Attribute(value=inner, attr="get") if self._is_context(inner) and node.args:
                yield from self._of_context(node.lineno, node.args[0])
            case ast.Attribute(value=ast.Name(id=name), attr=method) if name in self.flows:
                yield from self._of_arguments(node, f"flow.{method}", getattr(Flow, method, None))
        place = self.place_of(node.func)
        if place is None:
            return
        if place[1] == "context":
            yield Finding(node.lineno, "with context(…)", "hand", str(row_of("with context(…)")))
            return
        thing = _thing(*place)
        if thing is not None and not isinstance(thing, (Missing, Task)):
            yield from self._of_arguments(node, place[1], thing)

    def _of_arguments(self, node: ast.Call, name: str, thing: Any) -> Iterator[Finding]:
        try:
            known = inspect.signature(thing).parameters if thing is not None else {}
        except (TypeError, ValueError):
            return
        takes_all = any(each.kind is each.VAR_KEYWORD for each in known.values())
        for each in node.keywords:
            if each.arg is None:
                continue
            row = row_of(f"{name}({each.arg}=)", *([f"{each.arg}="] if name in ("task", "Task") else []))
            row = row if row is not None and row.way in ("no", "otherwise") else None
            value = each.value.value if isinstance(each.value, ast.Constant) else ...
            asks = not any(value is quiet for quiet in _QUIET)
            is_unknown = each.arg not in known and (row is not None or not takes_all) and thing is not None
            if each.arg == "task_run_name":
                yield Finding(each.value.lineno, f"{name}({each.arg}=)", "changed", str(row))
            elif is_unknown or (asks and (name, each.arg) in _REFUSED):
                yield Finding(each.value.lineno, f"{name}({each.arg}=)", "hand", _text(row))


_REFUSED = {("flow.run", "run_on_schedule"), ("flow.run", "runner_cls"), ("pause_task", "duration")}
"""Arguments that are taken where they ask for nothing."""


def _text(row: Row | None) -> str:
    return str(row) if row is not None else "there is no such argument here"


def _thing(module: str, name: str) -> Any:
    try:
        return found(module, name)
    except (AttributeError, ImportError):
        return None


def _is_refused(thing: type) -> bool:
    """Whether a registration with it is refused."""
    return any(base.__name__ == "_Elsewhere" for base in thing.__mro__) or thing is Storage


# Changed --------------------------------------------------------------------------------------------------------------


def rewritten(source: str) -> str:
    """The text with imports of ``anabranch.prefect`` in place of those of ``prefect``, and nothing else changed."""
    lines = list(StringIO(source, newline=""))
    for node in sorted(_imports(ast.parse(source)), key=lambda each: (each.lineno, each.col_offset), reverse=True):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        # Columns are of bytes, as the parser counts.
        before = lines[first].encode()[: node.col_offset].decode()
        after = lines[last].encode()[node.end_col_offset :].decode()
        text = before + _renamed(node, "".join(lines[first : last + 1]), before, after) + after
        lines[first : last + 1] = [text]
    return "".join(lines)


def _imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), level=0) if module.partition(".")[0] == OLD:
                yield node
            case ast.Import(names=names) if any(each.name.partition(".")[0] == OLD for each in names):
                yield node


def _renamed(node: ast.Import | ast.ImportFrom, text: str, before: str, after: str) -> str:
    own = text[len(before) : len(text) - len(after)]
    if isinstance(node, ast.ImportFrom):
        return own.replace(OLD, ROOT, 1)
    parts = []
    for each in node.names:
        is_old = each.name.partition(".")[0] == OLD
        name = f"{ROOT}{each.name[len(OLD) :]}" if is_old else each.name
        if each.asname:
            parts.append(f"{name} as {each.asname}")
        elif is_old:  # `import prefect.engine` binds `prefect`, with the module in it
            parts += [f"{ROOT} as {OLD}", *([name] if name != ROOT else [])]
        else:
            parts.append(name)
    return f"import {', '.join(dict.fromkeys(parts))}"

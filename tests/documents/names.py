"""Checks code that is not run here against the package: names, options and arguments that a reader would miss."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, get_overloads

import click

import anabranch
from anabranch.cli import anabranch as command_line
from anabranch.context import TaskContext
from anabranch.flows.handle import RunHandle
from anabranch.runs.view import FlowRunView
from anabranch.states import State

_UNKNOWN = object()


class _View(FlowRunView):
    """What `flow.run` returns, with what it hands on to the state in it."""


for _name in dir(State):
    if not hasattr(_View, _name):
        setattr(_View, _name, getattr(State, _name))

# What readers know a variable of this name to be, where a fragment does not make it itself.
_USUAL: dict[str, Any] = {
    "anabranch": anabranch,
    "config": anabranch.config,
    "context": anabranch.context,
    "flow": anabranch.Flow,
    "handle": RunHandle,
    "node": anabranch.Node,
    "state": _View,
    "task": anabranch.task,
}


def problems_of_python(code: str, *, names: dict[str, Any] | None = None) -> list[str]:
    """What of the package the code names or passes that is not there; `SyntaxError` if it is no Python.

    Parameters
    ----------
    names
        What stands for which names before the code begins; by default those that pages use.
    """
    tree = ast.parse(code)
    known = {**_USUAL, **(names or {})}
    found = list(_imports(tree, known))
    for each in ast.walk(tree):
        if isinstance(each, ast.Attribute):
            owner = _value(each.value, known)
            if owner is not _UNKNOWN and not _has(owner, each.attr):
                found.append(f"{ast.unparse(each.value)} has no {each.attr!r}")
        elif isinstance(each, ast.Call):
            found += _arguments(each, known)
    return found


def _imports(tree: ast.AST, known: dict[str, Any]) -> Iterator[str]:
    for each in ast.walk(tree):
        if isinstance(each, ast.Import):
            for name in each.names:
                if name.name.split(".")[0] == "anabranch":
                    module = import_module(name.name)
                    known[name.asname or "anabranch"] = module if name.asname else anabranch
        elif isinstance(each, ast.ImportFrom) and (each.module or "").split(".")[0] == "anabranch":
            module = import_module(each.module or "")
            for name in each.names:
                if name.name == "*":
                    known |= {public: getattr(module, public) for public in module.__all__}
                elif not hasattr(module, name.name):
                    yield f"{each.module} has no {name.name!r}"
                else:
                    known[name.asname or name.name] = getattr(module, name.name)
        elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            if each.id not in _USUAL:
                known[each.id] = _UNKNOWN


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """What an expression is, as far as the package alone can tell."""
    if isinstance(node, ast.Name):
        return known.get(node.id, _UNKNOWN)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, known)
        value = getattr(owner, node.attr, _UNKNOWN) if owner is not _UNKNOWN else _UNKNOWN
        # Of an instance, whose class is all that is known here, fields and properties have values of any kind.
        return value if isinstance(owner, ModuleType) or inspect.isroutine(value) else _UNKNOWN
    return _UNKNOWN


def _has(owner: Any, name: str) -> bool:
    if hasattr(owner, name) or name in dir(owner):
        return True
    if owner is anabranch.context:  # what only running tasks may ask
        return name in dir(TaskContext)
    if not isinstance(owner, type):
        return False
    # Of a class, what its instances are given as they are made is there, too.
    return any(
        name in inspect.get_annotations(each) or f"self.{name} = " in inspect.getsource(each)
        for each in owner.__mro__
        if each.__module__.startswith("anabranch")
    )


def _arguments(call: ast.Call, known: dict[str, Any]) -> Iterator[str]:
    """Keywords that what is called does not take."""
    called = _value(call.func, known)
    if called is _UNKNOWN or not callable(called):
        return
    try:
        signatures = [inspect.signature(each) for each in get_overloads(called) or [called]]
    except (TypeError, ValueError):  # one that has none, such as a class of C
        return
    parameters = {name: each for signature in signatures for name, each in signature.parameters.items()}
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return
    for keyword in call.keywords:
        if keyword.arg is not None and keyword.arg not in parameters:
            yield f"{ast.unparse(call.func)} takes no {keyword.arg!r}"


# ---------------------------------------------------------------------------------------------------------------------
# Command lines

_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")


def problems_of_shell(code: str) -> list[str]:
    """What the ``anabranch`` commands in a block ask for that there is not."""
    return [problem for words in _simple_commands(code) for problem in _problems_of_command(words)]


def _simple_commands(code: str) -> Iterator[list[str]]:
    """The words of each command, without pipes and what joins commands."""
    pending = ""
    for line in re.sub(r"\\\n\s*", " ", code).splitlines():
        pending += re.sub(r"^\$ ", "", line)
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation goes on in the next line
            pending += "\n"
            continue
        pending = ""
        command: list[str] = []
        for word in words:
            if set(word) <= set("&|;()<>"):
                yield command
                command = []
            else:
                command.append(word)
        yield command


def _problems_of_command(words: list[str]) -> list[str]:
    """What one command asks for that there is not; of other programs than ours nothing is known."""
    while words and _ASSIGNMENT.match(words[0]):
        words.pop(0)
    if words[:2] == ["dask", "anabranch"]:
        words.pop(0)
    if len(words) < 2 or words[0] != "anabranch":
        return []
    name, arguments = words[1], words[2:]
    if name.startswith("-"):
        options = command_line.get_params(click.Context(command_line))
        return [] if any(name in option.opts for option in options) else [f"anabranch has no {name}"]
    if name not in command_line.commands:
        return [f"there is no 'anabranch {name}'"]
    command = command_line.commands[name]
    context = click.Context(command)
    # What `run` does not know may be a parameter of the flow, and loading that is not for here.
    context.ignore_unknown_options = name == "run"
    try:
        command.make_parser(context).parse_args(args=list(arguments))
    except click.UsageError as error:
        return [f"anabranch {name}: {error.format_message()}"]
    return []

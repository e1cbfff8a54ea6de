"""``anabranch completion``: the script for a shell, and what arguments are completed with.

A key press waits for the answer. So no code of the user is run or imported, no run store is created, and an error means
no completion.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

if TYPE_CHECKING:
    from anabranch.runs import RunStore

SHELLS = ("bash", "zsh", "fish")
MAX_RUNS = 50
MAX_SOURCE = 1 << 20  # bytes of a file that is looked through for flows


HELP = """Print a script with which a shell completes commands, options, runs, files and flows.

\b
bash:  echo 'eval "$(anabranch completion bash)"' >> ~/.bashrc
zsh:   echo 'eval "$(anabranch completion zsh)"' >> ~/.zshrc
fish:  anabranch completion fish > ~/.config/fish/completions/anabranch.fish
"""  # \b keeps Click from filling the lines that follow


@click.command(help=HELP, short_help="Print a completion script for a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a completion script for a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root()
    click.echo(kind(root.command, {}, "anabranch", "_ANABRANCH_COMPLETE").source())


# What arguments are completed with ------------------------------------------------------------------------------------


def run_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of recorded runs, newest first."""
    from anabranch.runs import RunQuery

    with _quietly(), _open_run_store() as store:
        query = RunQuery(text=incomplete or None, limit=MAX_RUNS)
        found = store.list_runs(query) if store is not None else []
        return [
            CompletionItem(each.run_id, help=f"{each.flow_name} {each.state} {each.start.astimezone():%d %b %H:%M}")
            for each in found
            if each.run_id.startswith(incomplete)
        ]
    return []


def targets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Python files and directories, the flows in a file (``etl.py:``), and flows that are registered."""
    file, colon, begun = incomplete.rpartition(":")
    if colon and file.endswith(".py"):
        return [CompletionItem(f"{file}:{name}") for name in find_flow_names(Path(file)) if name.startswith(begun)]
    names = _files(incomplete)
    if len(names) == 1 and names[0].endswith(os.sep):  # or the shell would put a space behind it
        names += _files(names[0])
    return [*map(CompletionItem, names), *flow_names(context, parameter, incomplete)]


def flow_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of registered flows."""
    with _quietly(), _open_run_store() as store:
        from anabranch.runs.store.flows import FlowTable
        from anabranch.runs.store.relational import RelationalRunStore

        if not isinstance(store, RelationalRunStore):
            return []
        names = [each.name for each in FlowTable(store.database).all()]
        return [CompletionItem(name, help="registered") for name in names if name.startswith(incomplete)]
    return []


def find_flow_names(file: Path) -> list[str]:
    """Names of the flows that a file makes, as its text tells: variables of flows, and functions marked as one."""
    try:
        if file.stat().st_size > MAX_SOURCE:
            return []
        module = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    return list(dict.fromkeys(_named_flows(module)))


def _named_flows(module: ast.Module) -> Iterator[str]:
    for statement in module.body:
        match statement:
            case ast.With(items=items):
                yield from (
                    item.optional_vars.id
                    for item in items
                    if isinstance(item.optional_vars, ast.Name) and _makes_flow(item.context_expr)
                )
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _makes_flow(value):
                yield name
            case ast.FunctionDef(name=name, decorator_list=marks) if any(_is(mark, "flow") for mark in marks):
                yield name


def _makes_flow(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and _is(value, "Flow")


def _is(value: ast.expr, name: str) -> bool:
    """Whether an expression is this name, of a module perhaps, called perhaps."""
    if isinstance(value, ast.Call):
        value = value.func
    return value.id == name if isinstance(value, ast.Name) else isinstance(value, ast.Attribute) and value.attr == name


def _files(incomplete: str) -> list[str]:
    directory, begun = os.path.split(incomplete)
    found = []
    try:
        with os.scandir(os.path.expanduser(directory) or ".") as entries:
            for entry in entries:
                if not entry.name.startswith(begun) or (entry.name.startswith(".") and not begun):
                    continue
                if not entry.name.isprintable():  # a line each is what shells read
                    continue
                if entry.is_dir():
                    found.append(os.path.join(directory, entry.name) + os.sep)
                elif entry.name.endswith(".py"):
                    found.append(os.path.join(directory, entry.name))
    except OSError:
        return []
    return sorted(found)


@contextmanager
def _quietly() -> Iterator[None]:
    """Within it, a run store that is damaged, or not to be had, has nothing to complete with."""
    from anabranch.base.errors import AnabranchError

    with suppress(AnabranchError):
        yield


@contextmanager
def _open_run_store() -> Iterator[RunStore | None]:
    """The run store, if there is one."""
    from anabranch.base.settings import config
    from anabranch.runs import default_path, open_store

    if config.backend == "none" or (config.backend == "local" and not default_path().exists()):
        yield None
        return
    with open_store(read_only=True) as store:
        yield store


class _Bash(BashComplete):
    """Click's, for words with colons: ``etl.py:flow`` is three words to bash, which replaces the last.

    Unlike other shells, bash puts on the line what it is given: a name with ``$(…)`` in it must not be a command.
    """

    _replaces_last = False

    def get_completion_args(self) -> tuple[list[str], str]:
        """Words before the cursor, and the one that is being written."""
        words, last = super().get_completion_args()
        *words, incomplete = re.sub("\0:(\0|$)", ":", "\0".join([*words, last])).split("\0")
        self._replaces_last = incomplete != last
        return words, incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """As the script reads it, by a `read` that takes away a backslash before each character."""
        value = item.value.rpartition(":")[2] if self._replaces_last else item.value
        quoted = re.sub(r"([^\w./:=@%+,~-])", r"\\\1", value)
        return f"{item.type},{quoted.replace(chr(92), chr(92) * 2)}"


add_completion_class(_Bash, "bash")

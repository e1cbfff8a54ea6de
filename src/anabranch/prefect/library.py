"""Ready-made tasks of Prefect 1 that need nothing but Python."""

from __future__ import annotations

import glob
import operator
import os
import shutil
import sqlite3
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from anabranch import context
from anabranch.prefect.definitions import Task, defaults_from_attrs
from anabranch.signals import FAIL


class ShellTask(Task):
    """Run a command in a shell; the value is the last line that it prints, or all lines.

    Parameters
    ----------
    command, env, helper_script
        The command, variables beside those of this process, and lines that run before it; each may be given with the
        call, too.
    shell
        The shell.
    return_all
        Whether the value is a list of all lines.
    log_stderr, stream_output
        Whether the log has what a command that fails prints, and what any command prints.
    **options
        Of the task.
    """

    def __init__(
        self,
        command: str | None = None,
        env: Mapping[str, str] | None = None,
        helper_script: str | None = None,
        shell: str = "bash",
        return_all: bool = False,
        log_stderr: bool = False,
        stream_output: bool | int | str = False,
        **options: Any,
    ) -> None:
        self.command, self.env, self.helper_script, self.shell = command, env, helper_script, shell
        self.return_all, self.log_stderr, self.stream_output = return_all, log_stderr, stream_output
        super().__init__(**options)

    @defaults_from_attrs("command", "env", "helper_script")
    def run(
        self, command: str | None = None, env: Mapping[str, str] | None = None, helper_script: str | None = None
    ) -> Any:
        """The last line, or all of them."""
        if command is None:
            raise TypeError("run() missing required argument: 'command'")
        lines = []
        with tempfile.TemporaryDirectory(prefix="anabranch-") as folder:
            script = os.path.join(folder, "script")
            with open(script, "w", encoding="utf-8", newline="\n") as file:
                file.write(f"{helper_script}\n{command}" if helper_script else command)
            with subprocess.Popen(
                [self.shell, script],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
            ) as process:
                for each in process.stdout or ():
                    lines.append(each.decode(errors="replace").rstrip("\r\n"))
                    if self.stream_output:
                        context.get_logger().info("%s", lines[-1])
        if process.returncode:
            last = lines[-1] if lines else ""
            if self.log_stderr:
                context.get_logger().error("%s", "\n".join(lines))
            raise FAIL(f"Command failed with exit code {process.returncode}: {last}", result=None)
        return lines if self.return_all else (lines[-1] if lines else None)


class StringFormatter(Task):
    """Fill in a template by ``str.format``, with the arguments of the call."""

    def __init__(self, template: str | None = None, **options: Any) -> None:
        self.template = template
        super().__init__(**options)

    @defaults_from_attrs("template")
    def run(self, template: str | None = None, **fields: Any) -> str:
        """The text."""
        return (template or "").format(**fields)


class JinjaTemplate(Task):
    """Fill in a template of Jinja2, with the arguments of the call."""

    def __init__(self, template: str | None = None, **options: Any) -> None:
        self.template = template
        super().__init__(**options)

    @defaults_from_attrs("template")
    def run(self, template: str | None = None, **fields: Any) -> str:
        """The text."""
        import jinja2

        text: str = jinja2.Template(template or "").render(**fields)
        return text


class SQLiteQuery(Task):
    """Run a query on a database of SQLite; the value is its rows."""

    def __init__(
        self, db: str | None = None, query: str | None = None, data: Sequence[Any] = (), **options: Any
    ) -> None:
        self.db, self.query, self.data = db, query, data
        super().__init__(**options)

    @defaults_from_attrs("db", "query", "data")
    def run(self, db: str | None = None, query: str | None = None, data: Sequence[Any] | None = None) -> list[Any]:
        """The rows."""
        with closing(sqlite3.connect(str(db))) as connection, connection:
            return connection.execute(str(query), data or ()).fetchall()


class SQLiteScript(Task):
    """Run statements on a database of SQLite."""

    def __init__(self, db: str | None = None, script: str | None = None, **options: Any) -> None:
        self.db, self.script = db, script
        super().__init__(**options)

    @defaults_from_attrs("db", "script")
    def run(self, db: str | None = None, script: str | None = None) -> None:
        """Run them."""
        with closing(sqlite3.connect(str(db))) as connection, connection:
            connection.executescript(str(script))


# Files ----------------------------------------------------------------------------------------------------------------


class _Paths(Task):
    """A task of two paths."""

    def __init__(self, source_path: str = "", target_path: str = "", **options: Any) -> None:
        self.source_path, self.target_path = source_path, target_path
        super().__init__(**options)


class Copy(_Paths):
    """Copy a file or a directory; the value is the path of the copy."""

    @defaults_from_attrs("source_path", "target_path")
    def run(self, source_path: str = "", target_path: str = "") -> Path:
        """The path."""
        is_folder = os.path.isdir(source_path)
        copied: Callable[..., Any] = shutil.copytree if is_folder else shutil.copyfile
        return Path(copied(source_path, target_path))


class Move(_Paths):
    """Move a file or a directory; the value is its new path."""

    @defaults_from_attrs("source_path", "target_path")
    def run(self, source_path: str = "", target_path: str = "") -> Path:
        """The path."""
        return Path(shutil.move(source_path, target_path))


class Remove(Task):
    """Remove a file or a directory."""

    def __init__(self, path: str = "", **options: Any) -> None:
        self.path = path
        super().__init__(**options)

    @defaults_from_attrs("path")
    def run(self, path: str = "") -> None:
        """Remove it."""
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


class Glob(Task):
    """Paths below a directory that match a pattern."""

    def __init__(self, path: str = "", pattern: str = "*", **options: Any) -> None:
        self.path, self.pattern = path, pattern
        super().__init__(**options)

    @defaults_from_attrs("path", "pattern")
    def run(self, path: str = "", pattern: str = "*") -> list[Path]:
        """The paths."""
        return [Path(each) for each in sorted(glob.glob(os.path.join(path or ".", pattern), recursive=True))]


class Zip(Task):
    """Put files into a zip archive; the value is its path."""

    def __init__(self, source_path: Any = "", zip_path: str = "", **options: Any) -> None:
        self.source_path, self.zip_path = source_path, zip_path
        super().__init__(**options)

    @defaults_from_attrs("source_path", "zip_path")
    def run(self, source_path: Any = "", zip_path: str = "") -> Path:
        """The path."""
        sources = [source_path] if isinstance(source_path, (str, Path)) else list(source_path)
        with zipfile.ZipFile(zip_path, "w", zipfile.ZIP_DEFLATED) as archive:
            for source in map(Path, sources):
                for each in [source, *sorted(source.rglob("*"))]:
                    archive.write(each, each.relative_to(source.parent))
        return Path(zip_path)


class Unzip(Task):
    """Take files out of a zip archive; the value is the directory."""

    def __init__(self, zip_path: str = "", extract_dir: str = "", **options: Any) -> None:
        self.zip_path, self.extract_dir = zip_path, extract_dir
        super().__init__(**options)

    @defaults_from_attrs("zip_path", "extract_dir")
    def run(self, zip_path: str = "", extract_dir: str = "") -> Path:
        """The directory."""
        folder = Path(extract_dir or Path.cwd())
        shutil.unpack_archive(zip_path, folder)
        return folder


# Values ---------------------------------------------------------------------------------------------------------------


class Constant(Task):
    """Gives a value."""

    def __init__(self, value: Any, **options: Any) -> None:
        self.value = value
        super().__init__(**options)

    def run(self) -> Any:
        """The value."""
        return self.value


class GetItem(Task):
    """An item of a value."""

    def __init__(self, default: Any = None, **options: Any) -> None:
        self.fallback = default
        super().__init__(**options)

    def run(self, task_result: Any, key: Any) -> Any:
        """The item; a default that was given, where there is none."""
        try:
            return task_result[key]
        except (KeyError, IndexError):
            if self.fallback is None:
                raise
            return self.fallback


class GetAttr(Task):
    """An attribute of a value, by its name; dots lead further."""

    def __init__(self, default: Any = None, **options: Any) -> None:
        self.fallback = default
        super().__init__(**options)

    def run(self, task_result: Any, attr: str) -> Any:
        """The attribute; a default that was given, where there is none."""
        try:
            return operator.attrgetter(attr)(task_result)
        except AttributeError:
            if self.fallback is None:
                raise
            return self.fallback


class List(Task):
    """A list of the arguments."""

    def run(self, *values: Any) -> list[Any]:
        """The list."""
        return list(values)


class Tuple(Task):
    """A tuple of the arguments."""

    def run(self, *values: Any) -> tuple[Any, ...]:
        """The tuple."""
        return values


class Set(Task):
    """A set of the arguments."""

    def run(self, *values: Any) -> set[Any]:
        """The set."""
        return set(values)


class Dict(Task):
    """A dict of keys and values."""

    def run(self, keys: Sequence[Any], values: Sequence[Any]) -> dict[Any, Any]:
        """The dict."""
        if len(keys) != len(values):
            raise ValueError(f"Dict: {len(keys)} keys, and {len(values)} values")
        return dict(zip(keys, values, strict=True))


def _operator(name: str, function: Callable[..., Any]) -> type[Task]:
    """A task class of an operator with two operands."""

    def run(self: Task, x: Any, y: Any) -> Any:
        return function(x, y)

    told = f"``{function.__name__}`` of two values."
    return type(name, (Task,), {"run": run, "__module__": __name__, "__doc__": told})


Add = _operator("Add", operator.add)
Sub = _operator("Sub", operator.sub)
Mul = _operator("Mul", operator.mul)
Div = _operator("Div", operator.truediv)
FloorDiv = _operator("FloorDiv", operator.floordiv)
Mod = _operator("Mod", operator.mod)
Pow = _operator("Pow", operator.pow)
Equal = _operator("Equal", operator.eq)
NotEqual = _operator("NotEqual", operator.ne)
GreaterThan = _operator("GreaterThan", operator.gt)
GreaterThanOrEqual = _operator("GreaterThanOrEqual", operator.ge)
LessThan = _operator("LessThan", operator.lt)
LessThanOrEqual = _operator("LessThanOrEqual", operator.le)


class And(Task):
    """Whether both values are true."""

    def run(self, x: Any, y: Any) -> bool:
        """The answer."""
        return bool(x and y)


class Or(Task):
    """Whether one of two values is true."""

    def run(self, x: Any, y: Any) -> bool:
        """The answer."""
        return bool(x or y)


class Not(Task):
    """Whether a value is false."""

    def run(self, x: Any) -> bool:
        """The answer."""
        return not x

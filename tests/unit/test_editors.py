"""What editors and type checkers other than mypy see of tasks: the function's own signature."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
from pathlib import Path

from tests.needs import miss

from anabranch import task

ROOT = Path(__file__).parents[2]
SHOWN = """
from anabranch import Flow, task

@task(max_retries=3)
def parse(path: str, encoding: str = "utf-8") -> dict[str, int]:
    return {path: len(encoding)}

with Flow("f"):
    called = parse("a")
reveal_type(parse)
reveal_type(parse.run)
reveal_type(parse.map)
reveal_type(called)
"""


def test_a_task_shows_the_signature_and_the_text_of_its_function() -> None:
    @task(max_retries=3)
    def parse(path: str, encoding: str = "utf-8") -> dict[str, int]:
        """Read a file."""
        return {path: len(encoding)}

    assert str(inspect.signature(parse)) == "(path: 'str', encoding: 'str' = 'utf-8') -> 'dict[str, int]'"
    assert inspect.getdoc(parse) == "Read a file."
    assert parse.__name__ == "parse"


def pyright(*arguments: str, cwd: Path) -> tuple[int, list[dict[str, object]]]:
    """Pyright's exit code and diagnostics."""
    if importlib.util.find_spec("pyright") is None:
        miss("pyright", 'pip install "pyright[nodejs]"')
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *arguments]
    outcome = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100)
    assert outcome.stdout.lstrip().startswith("{"), outcome.stderr
    return outcome.returncode, json.loads(outcome.stdout)["generalDiagnostics"]


def test_an_editor_shows_the_functions_own_signature(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(SHOWN)

    _, diagnostics = pyright("shown.py", cwd=tmp_path)

    shown = [str(each["message"]) for each in diagnostics if each["severity"] == "information"]
    assert shown[0] == ('Type of "parse" is "FunctionTask[(path: str, encoding: str = "utf-8"), dict[str, int]]"'), (
        diagnostics
    )
    assert shown[1] == 'Type of "parse.run" is "(path: str, encoding: str = "utf-8") -> dict[str, int]"'
    assert "list[dict[str, int]]" in shown[2]
    assert shown[3] == 'Type of "called" is "dict[str, int]"'


def test_what_users_write_is_clean_in_pyrights_strict_mode() -> None:
    code, diagnostics = pyright(cwd=ROOT)

    assert (code, diagnostics) == (0, [])

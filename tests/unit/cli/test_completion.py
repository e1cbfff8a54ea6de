"""What shells complete ``anabranch …`` with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.needs import program

from anabranch import Flow, task
from anabranch.cli import anabranch as command
from anabranch.cli.completion import SHELLS, find_flow_names
from anabranch.testing import isolated_home

FLOWS = """
from anabranch import Flow, flow
import anabranch as ab

raise SystemExit("completion runs nobody's file")

with Flow("corpus") as corpus, open("x") as file:
    pass
other = ab.Flow("other")

@flow(name="third")
def third(x): ...

@ab.task
def no_flow(): ...
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to be in, and a home without runs."""
    monkeypatch.chdir(tmp_path)
    with isolated_home(tmp_path / ".home"):
        yield tmp_path


def completed(line: str) -> list[str]:
    """Values that bash would be given for this line, its cursor at the end."""
    words = [word for word in re.split(r"\s+|(:)", line) if word is not None]  # as bash has them
    words = [word for word in words[:-1] if word] + words[-1:]
    position = len(words) - 1 if words[-1] or words[-2] != ":" else len(words) - 2
    environment = {"_ANABRANCH_COMPLETE": "bash_complete", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(position)}
    result = CliRunner().invoke(command, prog_name="anabranch", env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return [each.partition(",")[2] for each in result.output.splitlines() if each]


def test_commands_and_options_are_completed(directory: Path) -> None:
    assert completed("anabranch re") == ["register", "replay", "report", "resume"]
    assert completed("anabranch ls --js") == ["--json"]


def test_run_ids_are_those_of_the_run_store_newest_first(directory: Path) -> None:
    with Flow("one") as flow:
        task(lambda: 1, name="first")()
    for name in ("aaa1", "aab2", "bbb3"):
        flow.run(run_id=name)

    assert completed("anabranch show aa") == ["aab2", "aaa1"]
    assert completed("anabranch logs ") == ["bbb3", "aab2", "aaa1"]


def test_without_a_run_store_nothing_is_completed_and_none_is_made(directory: Path) -> None:
    assert completed("anabranch show ") == []
    assert not (directory / ".home" / "runs.db").exists()


def test_a_run_store_that_is_damaged_is_no_completion(directory: Path) -> None:
    (directory / ".home" / "runs.db").write_bytes(b"no database" * 100)

    assert completed("anabranch show ") == []


def test_files_directories_and_registered_flows_are_completed(directory: Path) -> None:
    (directory / "etl.py").write_text('from anabranch import Flow\nwith Flow("corpus") as flow:\n    pass\n')
    (directory / "notes.txt").write_text("")
    (directory / "flows").mkdir()
    (directory / "flows" / "daily.py").write_text("")
    assert CliRunner().invoke(command, ["register", "etl.py"]).exit_code == 0

    assert completed("anabranch run ") == ["etl.py", "flows/", "corpus"]
    assert completed("anabranch run flows/d") == ["flows/daily.py"]
    assert completed("anabranch run fl") == ["flows/", "flows/daily.py"]  # two, so that no space follows
    assert completed("anabranch backfill c") == ["corpus"]


def test_flows_of_a_file_are_completed_without_running_it(directory: Path) -> None:
    (directory / "etl.py").write_text(FLOWS)

    assert find_flow_names(Path("etl.py")) == ["corpus", "other", "third"]
    assert completed("anabranch run etl.py:") == ["corpus", "other", "third"]  # bash replaces what is behind the colon
    assert completed("anabranch validate etl.py:o") == ["other"]
    assert completed("anabranch run etl.py:corpus --js") == ["--json"]


def test_a_file_that_cannot_be_read_has_no_flows(directory: Path) -> None:
    (directory / "broken.py").write_text("with Flow(")

    assert completed("anabranch run broken.py:") == []
    assert completed("anabranch run missing.py:") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    result = CliRunner().invoke(command, ["completion", shell])

    assert result.exit_code == 0
    assert "_ANABRANCH_COMPLETE" in result.stdout
    assert f"{shell}_complete" in result.stdout


def test_another_shell_is_refused_with_those_there_are() -> None:
    result = CliRunner().invoke(command, ["completion", "tcsh"])

    assert result.exit_code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.stderr


def test_bash_completes_words_with_colons(directory: Path) -> None:
    (directory / "etl.py").write_text(FLOWS)
    (directory / "anabranch").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m anabranch "$@"\n')
    (directory / "anabranch").chmod(0o755)
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    source = CliRunner().invoke(command, ["completion", "bash"]).stdout
    script = f"""{source}
COMP_WORDS=(anabranch run etl.py : co) COMP_CWORD=4
_anabranch_completion anabranch
echo "${{COMPREPLY[*]}}" "$COMP_WORDBREAKS"
"""

    outcome = subprocess.run(
        [program("bash"), "--norc", "-c", script],
        cwd=directory,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )

    assert outcome.stdout.startswith("corpus "), outcome  # bash replaces what is behind the colon
    assert ":" in outcome.stdout


NAMES = (
    *("a b.py", "c$(touch PWNED).py", "d`touch PWNED`.py", "e;touch PWNED;.py", "f&touch PWNED&.py", "g|touch X.py"),
    *("h'$(touch PWNED)'.py", 'i"$(touch PWNED)".py', "j\\$(touch PWNED).py", "k*[a]?.py", "l{1,2}!~#.py"),
    *("mößgrün,x.py", "n<x>.py", "o==\\\\ .py", "p\nplain,$(touch PWNED).py"),
)


def test_bash_takes_what_is_completed_for_words(directory: Path) -> None:
    (directory / "anabranch").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m anabranch "$@"\n')
    (directory / "anabranch").chmod(0o755)
    place = directory / "files"
    place.mkdir()
    for name in NAMES:
        (place / name).touch()
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    source = CliRunner().invoke(command, ["completion", "bash"]).stdout
    script = f"""{source}
for begun in {" ".join(name[0] for name in NAMES)}; do
    COMPREPLY=() COMP_WORDS=(anabranch validate $begun) COMP_CWORD=2
    _anabranch_completion anabranch
    eval "printf '%s\\0' ${{COMPREPLY[*]}}"  # as when it is entered
done
"""

    outcome = subprocess.run(
        [program("bash"), "--norc", "-c", script],
        cwd=place,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )

    assert outcome.stdout.split("\0") == [*NAMES[:-1], "", ""], outcome.stderr  # a name of two lines is left out
    assert set(os.listdir(place)) == set(NAMES)


def test_completion_loads_nothing_heavy(directory: Path) -> None:
    (directory / "etl.py").write_text(FLOWS)
    with Flow("one") as flow:
        task(lambda: 1, name="first")()
    flow.run(run_id="aaa1")
    code = (
        "import sys, atexit; from anabranch.cli import main\n"
        "atexit.register(lambda: print('loaded', *({'bokeh', 'distributed', 'networkx', 'rich', "
        "'pydantic'} & set(sys.modules))))\nmain()"
    )
    for line, found in (("anabranch show ", "plain,aaa1"), ("anabranch run etl.py:c", "plain,etl.py:corpus")):
        words = {"COMP_WORDS": line.replace(" ", "\n"), "COMP_CWORD": "2"}
        environment = {**os.environ, **words, "_ANABRANCH_COMPLETE": "bash_complete"}
        outcome = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

        assert outcome.stdout.splitlines() == [found, "loaded"], outcome.stderr

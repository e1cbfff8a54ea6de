"""``anabranch init``: the project works as it comes, and nothing is ever written over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch.cli import anabranch as command
from anabranch.testing import isolated_home

FILES = ["README.md", "pyproject.toml", "tests/test_words.py", "words.py"]


def init(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["init", *arguments])


def files_below(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_a_project_is_made_with_the_directorys_name(tmp_path: Path) -> None:
    result = init(str(tmp_path / "My flows"))

    assert result.exit_code == 0, result.output
    assert files_below(tmp_path / "My flows") == FILES
    assert 'name = "my-flows"' in (tmp_path / "My flows" / "pyproject.toml").read_text()
    assert (tmp_path / "My flows" / "README.md").read_text().startswith("# my-flows\n")
    assert "anabranch run words.py" in result.stderr


def test_its_own_tests_pass(tmp_path: Path) -> None:
    init(str(tmp_path))
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-p", "pytest_anabranch", "-p", "no:cacheprovider", "-W", "error", "-q"]

    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=100
    )

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "3 passed" in outcome.stdout


def test_its_flow_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init(str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path / "project")
    (tmp_path / "project" / "README.md").write_text("three words here")

    with isolated_home():
        result = CliRunner().invoke(command, ["run", "words.py", "--quiet", "--json"])

    assert result.exit_code == 0, result.output
    assert '"total": 3' in result.stdout.replace("\n", "")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")

    result = init(str(tmp_path))

    assert result.exit_code == 2
    assert "already has README.md, so nothing was written" in result.stderr
    assert files_below(tmp_path) == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "words.py").symlink_to(tmp_path / "elsewhere.py")

    assert init(str(tmp_path)).exit_code == 2
    assert not (tmp_path / "elsewhere.py").exists()


def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = init(str(tmp_path / "file" / "below"))

    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert "anabranch init NAME" in result.stderr

"""What holds for the repository as a whole: its import order, its weight, and what README.md promises."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from tests.needs import program

import anabranch

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")

HEAVY = ("bokeh", "click", "distributed", "networkx", "pydantic", "rich")

# Spelt so that this file does not match itself.
REGISTRY = re.compile(r"pypi[.](org|io)|python[h]osted[.]org|npmj[s][.](com|org)|conda[.]anaconda[.]org|crates[.]io")
PRIVATE_PATH = re.compile(r"(?<![\w.<}])/(home|root|work|Users)/\w")


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A new interpreter's outcome, warnings not being our subject here."""
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100)


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file that belongs to the repository."""
    listing = subprocess.run(
        [program("git"), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listing.stdout.decode().split("\0"):
        try:
            yield ROOT / name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, IsADirectoryError, FileNotFoundError):
            continue  # a picture, the empty last name, or a file that is being deleted


def test_imports_only_point_down():
    outcome = python("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_importing_the_library_loads_nothing_heavy():
    outcome = python("-c", f"import sys, anabranch; print(*({set(HEAVY)} & set(sys.modules)))")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.split() == []


def test_the_version_is_the_one_of_the_distribution():
    assert anabranch.__version__ == importlib.metadata.version("anabranch")


def test_extras_and_dependency_groups_are_the_same_lists():
    extras = PYPROJECT["project"]["optional-dependencies"]
    groups = PYPROJECT["dependency-groups"]
    assert extras["test"] == groups["test"]
    assert extras["lint"] == groups["lint"]


def test_the_extra_all_has_every_extra_that_users_want():
    extras = PYPROJECT["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    names = re.fullmatch(r"anabranch\[(.+)\]", everything)
    assert names is not None
    assert set(names[1].split(",")) == set(extras) - {"all", "docs", "lint", "test"}


def test_what_is_imported_is_declared():
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {re.split(r"[^\w.-]", line)[0].lower().replace("-", "_") for line in lines}
    brought = {"yaml": "pyyaml", "opentelemetry": "opentelemetry_api", "pydantic_core": "pydantic"}
    imported = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
    others = imported - set(sys.stdlib_module_names) - {"anabranch", "annotationlib"}  # which comes with 3.14
    assert {brought.get(name, name) for name in others} <= declared


def test_the_versions_that_have_passed_are_of_all_that_the_tests_need():
    project = PYPROJECT["project"]
    needed = {
        re.split(r"[^\w.-]", line)[0].lower()
        for line in (*project["dependencies"], *project["optional-dependencies"]["test"])
    }
    passed = dict(re.findall(r"^([^#=]+)==(.+)$", (ROOT / ".ci" / "newest.txt").read_text(), flags=re.MULTILINE))
    assert not needed - set(passed), "bash .ci/run --renew"


def test_no_file_names_a_package_registry():
    found = {f"{file.relative_to(ROOT)}: {hit[0]}" for file, text in texts() for hit in REGISTRY.finditer(text)}
    assert not found


def test_no_file_names_a_path_of_somebodys_machine():
    found = {f"{file.relative_to(ROOT)}: {hit[0]}…" for file, text in texts() for hit in PRIVATE_PATH.finditer(text)}
    assert not found


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_readme_has_the_command_that_ci_runs(name: str):
    blocks = re.findall(rf"^<!-- command: {name} -->\n```bash\n(.+?)\n```$", README, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    assert blocks[0].startswith("python -m pip install -e ")


def test_the_flow_in_readme_runs(tmp_path: Path):
    (code,) = re.findall(r"^```python\n(.+?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "words.py").write_text(code, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("one two three", encoding="utf-8")
    (tmp_path / "docs" / "b.md").write_text("four", encoding="utf-8")
    outcome = python("words.py", cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines() == ["4"]


def test_each_promise_of_the_security_policy_names_tests_that_are_there():
    # given
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    kept = policy.partition("## What is protected")[2].partition("\n## ")[0]
    promises = re.findall(r"^- (.+?)(?=^- |^\S|\Z)", kept, flags=re.MULTILINE | re.DOTALL)
    there = {
        name for file in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    # then
    assert len(promises) > 20
    assert [each for each in promises if not re.search(r"`test_\w+`", each)] == []
    assert set(re.findall(r"`(test_\w+)`", policy)) - there == set()

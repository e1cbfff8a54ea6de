"""Build the sdist and the wheel, look into them, and use the wheel in an environment that has nothing else.

Run it from a checkout, with a Python that has ``build``: ``python .ci/check_distribution.py``. Ends with 1 and all
problems if there are any.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "src"  # the library, and its plugin for pytest
FLOW = """
from anabranch import Flow, Parameter, task

@task
def double(number: int) -> int:
    return 2 * number

@task
def add_up(numbers: list) -> int:
    return sum(numbers)

with Flow("smoke") as flow:
    add_up(double.map([1, 2, Parameter("last", default=3, type=int)]))
"""


def main() -> int:
    """Print what was found; 1 if anything is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run("-m", "build", "--outdir", str(work / "dist"), cwd=ROOT)  # the sdist, and the wheel from that
        run("-m", "build", "--wheel", "--outdir", str(work / "direct"), cwd=ROOT)
        (sdist,) = (work / "dist").glob("*.tar.gz")
        (wheel,) = (work / "dist").glob("*.whl")
        (direct,) = (work / "direct").glob("*.whl")
        problems = [*wrong_in_wheel(wheel), *wrong_in_sdist(sdist)]
        if digests(wheel) != digests(direct):
            problems.append("the wheel that the sdist builds is not the one that the checkout builds")
        problems += wrong_in_use(wheel, work)
        print(f"{sdist.name}: {sdist.stat().st_size:,} bytes; {wheel.name}: {wheel.stat().st_size:,} bytes")
    for problem in problems:
        print(f"problem: {problem}")
    return 1 if problems else 0


def run(*arguments: str, python: str = sys.executable, cwd: Path, **variables: str) -> str:
    """Standard output of a Python; ends this program with all that was said if it fails."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("ANABRANCH", "PYTHON"))}
    done = subprocess.run(
        [python, *arguments], cwd=cwd, env={**known, **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def digests(wheel: Path) -> Mapping[str, str]:
    """A digest of each file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def wrong_in_wheel(wheel: Path) -> list[str]:
    """The packages, all of them and nothing else, with the licence."""
    names = set(digests(wheel))
    wanted = tracked(PACKAGES)
    found = {name for name in names if ".dist-info/" not in name}
    problems = [f"{wheel.name} lacks {name}" for name in sorted(wanted - found)]
    problems += [f"{wheel.name} has {name}" for name in sorted(found - wanted)]
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        problems.append(f"{wheel.name} lacks the licence")
    return problems


def wrong_in_sdist(sdist: Path) -> list[str]:
    """Everything that is needed to build it and to test it."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "conftest.py"}
    for folder in ("src", "tests", "examples", "benchmarks", "docs"):
        wanted |= {f"{folder}/{name}" for name in tracked(ROOT / folder)}
    return [f"{sdist.name} lacks {name}" for name in sorted(wanted - names)]


def tracked(folder: Path) -> set[str]:
    """Files below a folder that belong to the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, text=True, check=True)
    return set(filter(None, listed.stdout.split("\0")))


def wrong_in_use(wheel: Path, work: Path) -> list[str]:
    """Install the wheel where nothing else is, and do what a newcomer would do."""
    venv.create(work / "venv", with_pip=True)
    (python,) = map(str, (work / "venv").glob("*/python"))
    run("-m", "pip", "install", "--quiet", str(wheel), python=python, cwd=work)
    (work / "smoke.py").write_text(FLOW, encoding="utf-8")
    home = {"ANABRANCH_HOME": str(work / "home"), "PYTHONWARNINGS": "error"}
    version = wheel.name.split("-")[1]
    said = run("-m", "anabranch", "--version", python=python, cwd=work)
    problems = [] if version in said else [f"anabranch --version says {said!r}, and the wheel is {version}"]
    said = run(
        "-m", "anabranch", "run", "smoke.py", "--last", "4", "--executor", "dask", python=python, cwd=work, **home
    )
    problems += [] if said.split() == ["add_up", "=", "14"] else [f"the flow said {said!r}, expected 14"]
    said = run("-m", "anabranch", "demo", "--limit", "20", python=python, cwd=work, **home)
    problems += [] if "files" in said else [f"anabranch demo said {said!r}"]
    # pytest treats distributions that have a plugin in a way of its own, which an editable one is not part of.
    run("-m", "pip", "install", "--quiet", "pytest", "pytest-cov", python=python, cwd=work)
    (work / "test_tea.py").write_bytes((ROOT / "tests" / "users_tests.py").read_bytes())
    run("-m", "pytest", "--quiet", "--cov=anabranch", "test_tea.py", python=python, cwd=work, **home)
    return problems


if __name__ == "__main__":
    raise SystemExit(main())

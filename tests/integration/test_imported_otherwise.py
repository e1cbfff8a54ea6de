"""This package where it is not imported from a directory by Python's own loader, and what it ships from there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from hashlib import sha256
from importlib.metadata import requires
from pathlib import Path

import pytest
from tests.bare_cluster import make_environment

from anabranch.engine.units.shipment import archive_of, origin

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "anabranch"
SCRIPT = """
from hashlib import sha256

import anabranch
from anabranch import Flow, task
from anabranch.engine.units.shipment import archive_of, origin
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor

@task
def double(x):
    return 2 * x

@task(isolation="process")
def double_apart(x):
    return 2 * x

if __name__ == "__main__":
    print(anabranch.__loader__.__class__.__name__, origin()[2], sha256(archive_of()).hexdigest())
    cluster = DaskExecutor(cluster_kwargs={"n_workers": 1, "threads_per_worker": 1})
    for executor in (LocalExecutor(), LocalDaskExecutor(), cluster):
        for what in (double, double_apart):
            with Flow("doubles") as flow:
                doubles = what.map([1, 2])
            print(flow.run(executor=executor).result[doubles].result)
"""
# A loader that can do no more than it must, as import hooks have them.
HOOK = """
import sys
from importlib.machinery import PathFinder

class Loader:
    def __init__(self, loader):
        self.create_module, self.exec_module = loader.create_module, loader.exec_module

class Finder:
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target) if name.startswith("anabranch") else None
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec

sys.meta_path.insert(0, Finder())
"""

pytestmark = pytest.mark.cluster


def said_by(python: Path | str, *arguments: str, folder: Path, **variables: str) -> str:
    """Standard output of a Python that is told nothing of this checkout."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("ANABRANCH", "DASK", "PY"))}
    environment = {**known, "ANABRANCH_HOME": str(folder / "home"), **variables}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tests_of_flows_pass_with_a_wheel_that_pytest_knows_the_plugin_of(tmp_path: Path):
    # given
    said_by(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), folder=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    needed = [re.split(r"[^\w.-]", line)[0] for line in requires("anabranch") or () if "extra ==" not in line]
    python = make_environment(tmp_path / "env", "pytest", *needed)
    install = ("--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(wheel))
    said_by(sys.executable, "-m", "pip", *install, folder=tmp_path)
    (tmp_path / "test_tea.py").write_bytes((ROOT / "tests" / "users_tests.py").read_bytes())
    # when
    said = said_by(python, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "test_tea.py", folder=tmp_path)
    # then
    assert "9 passed" in said
    loaded = "import pytest_anabranch as found; print(found.__file__)"
    assert str(tmp_path) in said_by(python, "-c", loaded, folder=tmp_path)


@pytest.mark.parametrize("way", ["a zip file", "an import hook"])
def test_runs_go_everywhere_with_a_package_that_comes_from(way: str, tmp_path: Path):
    # given
    (tmp_path / "doubles.py").write_text(SCRIPT, encoding="utf-8")
    if way == "a zip file":
        path, loader = tmp_path / "library.zip", "zipimporter"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(PACKAGE.rglob("*.*")):
                archive.write(file, file.relative_to(PACKAGE.parent))
    else:
        path, loader = tmp_path / "hook", "Loader"
        path.mkdir()
        (path / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    # when
    said = said_by(sys.executable, "doubles.py", folder=tmp_path, PYTHONPATH=str(path), PYTHONWARNINGS="error")
    # then
    first, *rest = said.splitlines()
    assert first.split() == [loader, origin()[2], sha256(archive_of()).hexdigest()]
    assert rest == ["[2, 4]"] * 6

"""``anabranch run`` stores values, ``resume`` reads them back, ``explain`` says why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch import config
from anabranch.cli import anabranch as command
from anabranch.runs import open_store

ETL = """
import pathlib
from anabranch import *

@task
def large(x):
    with open("ledger", "a") as file:
        file.write(f"{x} ")
    return bytes([x]) * 40_000

@task
def check(parts):
    if not pathlib.Path("mended").exists():
        raise ValueError("not yet")
    return len(b"".join(parts))

@task(cache_for=600)
def square(x):
    return x * x

with Flow("etl") as flow:
    check(large.map([1, 2, 3]))
    square(Parameter("x", default=3))
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test with a directory and a store of its own, without modules of others."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    (tmp_path / "etl.py").write_text(ETL)
    before = set(sys.modules)
    with config.set(backend=f"sqlite:///{tmp_path / 'runs.db'}"):
        yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / "etl.py"):
            del sys.modules[name]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def last_run() -> str:
    with open_store() as store:
        return store.list_runs()[0].run_id


def test_what_a_run_has_made_is_read_back_when_it_goes_on():
    assert call("run", "etl.py", "-q").exit_code == 1
    assert Path("ledger").read_text().split() == ["1", "2", "3"]
    Path("mended").touch()

    outcome = call("resume", last_run(), "-q")

    assert outcome.exit_code == 0, outcome.output
    assert Path("ledger").read_text().split() == ["1", "2", "3"]
    assert "120000" in outcome.output


@pytest.mark.parametrize("how", ["option", "setting"])
def test_nothing_is_stored_that_did_not_ask_for_it_if_that_is_said(how: str, monkeypatch: pytest.MonkeyPatch):
    if how == "setting":
        monkeypatch.setenv("ANABRANCH__CHECKPOINTING", "false")
    call("run", "etl.py", "-q", *(["--no-checkpoint"] if how == "option" else []))
    found = [path.name for path in Path("home/results").iterdir()]
    assert found == ["cache"]  # the task asks for that itself


def test_explain_tells_what_has_changed():
    call("run", "etl.py", "-q")
    call("run", "etl.py", "-q", "--x", "4")
    run = last_run()

    text = call("explain", run, "square")
    assert text.exit_code == 0, text.output
    assert "square: Success\n  it ran, as no value was stored for its key\n" in text.output
    assert "'input x' changed" in text.output

    data = json.loads(call("explain", run, "square", "--json").output)
    assert data["changed"] == ["input x"]
    assert data["state"] == "Success"
    assert "it ended as Failed on local: ValueError: not yet" in call("explain", run, "check").output
    assert "it ran on local" in call("explain", run, "large[1]").output


def test_explain_refuses_what_is_not_there():
    call("run", "etl.py", "-q")
    outcome = call("explain", last_run(), "squar")
    assert outcome.exit_code == 2
    assert "did you mean 'square'?" in outcome.output
    assert call("explain", "nothing", "square").exit_code == 2

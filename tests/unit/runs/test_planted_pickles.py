"""What shows a run store loads no pickle of it, whatever somebody has written there."""

from __future__ import annotations

import os
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from anabranch import Flow, Parameter, task
from anabranch.cli import anabranch
from anabranch.runs import default_path


class Planted:
    """Makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@task
def halve(number: int) -> float:
    print("halving")
    return 1 / (number - 1)


with Flow("planted") as flow:
    halve.map([0, 1, Parameter("last", default=3)])


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What would be there if a pickle had been loaded; in the store is a run whose every value is such a pickle."""
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    flow.run(run_id="planted-1")
    data = pickle.dumps(Planted(tmp_path / "loaded"))
    with closing(sqlite3.connect(default_path())) as database, database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        planted = 0
        for table in tables:
            for _, column, kind, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                if kind.upper() == "BLOB" and column not in ("codes", "indices"):  # those are plain bytes
                    where = f'"{column}" IS NOT NULL'
                    planted += database.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE {where}', [data]).rowcount
    assert planted
    return tmp_path / "loaded"


@pytest.mark.parametrize(
    "command",
    [
        ["ls"],
        ["show", "planted-1"],
        ["show", "planted-1", "--json"],
        ["logs", "planted-1"],
        ["explain", "planted-1", "halve[1]"],
        ["report", "planted-1", "-o", "run.html"],
        ["doctor"],
        ["prune", "--older-than", "1d"],
    ],
    ids=" ".join,
)
def test_what_shows_runs_loads_no_pickle(command: list[str], marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(marker.parent)

    done = CliRunner().invoke(anabranch, command)

    assert done.exit_code == 0 or "has no place in it" in done.stderr, done.output
    assert not marker.exists()


def test_the_pickle_would_have_been_noticed(marker: Path) -> None:
    with pytest.raises(Exception):  # noqa: B017  # whichever: a path is not what was written
        flow.run(resume="planted-1")

    assert marker.exists()  # who resumes from a run store trusts it

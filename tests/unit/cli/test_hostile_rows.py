"""What somebody else has written into the run store: commands show it as data."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from anabranch.cli import anabranch as command

FLOW = """
from anabranch import Flow, task, context

@task
def bad(x):
    context.logger.warning("hm")
    if x:
        raise ValueError("no")

with Flow("etl") as flow:
    bad.map([0, 1])
    bad(1)
"""
HOSTILE = "x\x1b[31m\r\nERR \u202e\x07 {"


def call(*words: str) -> str:
    result = CliRunner().invoke(command, list(words), color=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def text_columns(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        filled = [each for each in tables if database.execute(f"SELECT count(*) FROM {each}").fetchone()[0]]
        return [
            (table, row[1])
            for table in filled
            for row in database.execute(f"PRAGMA table_info({table})")
            if row[2].upper() == "TEXT"
        ]


def test_commands_show_the_rows_of_others_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    Path("etl.py").write_text(FLOW)
    call("run", "etl.py", "-q")
    call("register", "etl.py")
    run = call("ls").split()[0]
    path = tmp_path / "home" / "runs.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, tmp_path / "before.db")
    columns = text_columns(path)
    assert len(columns) > 20
    for table, column in columns:
        # when
        for each in path.parent.glob("runs.db*"):
            each.unlink()
        shutil.copy(tmp_path / "before.db", path)
        with closing(sqlite3.connect(path)) as database, database:
            try:
                database.execute(f"UPDATE {table} SET {column} = ?", (HOSTILE,))
            except sqlite3.IntegrityError:  # keys of several rows
                continue
        # then
        for words in (["ls"], ["show", run], ["logs", run], ["explain", run, "bad"], ["flows"]):
            shown = call(*words)
            assert not any(each in shown for each in ("\x1b[31m", "\r", "\u202e", "\x07")), (table, column, words)
            assert not any(line.startswith("ERR") for line in shown.splitlines()), (table, column, words)

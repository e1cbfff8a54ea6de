"""Tasks on databases that are servers, with a database of SQLite in place of each."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from tests.refusals import refused

from anabranch.errors import ExtraMissing
from anabranch.prefect import Flow, tasks
from anabranch.prefect.databases import (
    MySQLExecute,
    MySQLFetch,
    PostgresExecute,
    PostgresExecuteMany,
    PostgresFetch,
    SqlServerExecute,
    SqlServerExecuteMany,
    SqlServerFetch,
)

TASKS = [
    (MySQLExecute, MySQLFetch, "pymysql", "mysql+pymysql://me:pw@there:3306/tea"),
    (PostgresExecute, PostgresFetch, "psycopg2", "postgresql+psycopg2://me:pw@there:5432/tea"),
    (SqlServerExecute, SqlServerFetch, "pyodbc", "mssql+pyodbc://me:pw@there:1433/tea?driver=ODBC+Driver+17+for+SQL+Server"),
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database with a table of two rows."""
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.executescript("create table t (n int, word text); insert into t values (1, 'a'), (2, '50 %');")
    return tmp_path / "x.db"


@pytest.fixture
def opened(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Addresses that were asked for, and options, by tasks whose drivers are all there."""
    found: list[tuple[str, dict[str, Any]]] = []
    make: Callable[..., Any] = sqlalchemy.create_engine

    def create_engine(url: sqlalchemy.URL, poolclass: Any, **options: Any) -> Any:
        found.append((url.render_as_string(hide_password=False), options))
        return make(f"sqlite:///{file}", poolclass=poolclass)

    for each in ("pymysql", "psycopg2", "pyodbc"):
        (tmp_path / f"{each}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sqlalchemy, "create_engine", create_engine)
    return found


def rows(file: Path) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("select * from t order by n").fetchall()


def call(kind: Any, *, password: str = "pw", **options: Any) -> Any:
    """The value of a task that is made with these options; MySQL's password is one of them, others are run with it."""
    if kind.__name__.startswith("MySQL"):
        return kind(db_name="tea", user="me", host="there", password=password, **options).run()
    return kind(db_name="tea", user="me", host="there", **options).run(password=password)


def test_they_are_found_under_their_old_paths():
    assert tasks.postgres.PostgresFetch is tasks.postgres.postgres.PostgresFetch is PostgresFetch
    assert (tasks.mysql.MySQLExecute, tasks.sql_server.SqlServerExecuteMany) == (MySQLExecute, SqlServerExecuteMany)


@pytest.mark.parametrize(("execute", "fetch", "driver", "url"), TASKS)
def test_a_statement_changes_what_is_committed(
    execute: Any, fetch: Any, driver: str, url: str, opened: list[Any], file: Path
):
    before = rows(file)
    call(execute, query="delete from t where word like '%a%'")
    assert rows(file) == before
    changed = call(execute, query="delete from t where word like '%a%'", commit=True)
    assert (rows(file), changed) == ([(2, "50 %")], 1 if execute is MySQLExecute else None)
    assert {address for address, _ in opened} == {url}


@pytest.mark.parametrize(("execute", "fetch", "driver", "url"), TASKS)
def test_a_query_gives_one_row_some_or_all(
    execute: Any, fetch: Any, driver: str, url: str, opened: list[Any], file: Path
):
    query = "select n, word from t order by n"
    assert call(fetch, query=query) == (1, "a")
    assert call(fetch, query=query, fetch="many", fetch_count=1) == [(1, "a")]
    assert call(fetch, query=query, fetch="all") == [(1, "a"), (2, "50 %")]
    assert call(fetch, query="select * from t where n > 5") is None
    call(fetch, query="insert into t values (3, 'c') returning n", commit=True)
    assert len(rows(file)) == 3
    assert type(call(fetch, query=query)) is tuple


@pytest.mark.parametrize("kind", [PostgresExecuteMany, SqlServerExecuteMany])
def test_a_statement_runs_for_each_row_of_data(kind: Any, opened: list[Any], file: Path):
    call(kind, query="insert into t values (?, ?)", data=[[3, "c"], (4, "d")], commit=True)
    assert rows(file)[2:] == [(3, "c"), (4, "d")]
    with pytest.raises(ValueError, match="A data list must be provided"):
        call(kind, query="insert into t values (?, ?)")


def test_data_fill_placeholders_and_columns_have_names(opened: list[Any]):
    one = PostgresFetch("tea", "me", "there", fetch="all", query="select n from t where n > ?", data=[1])
    assert one.run(col_names=True) == [("n",), (2,)]
    assert one.run(data=(5,), col_names=True) == [("n",)]
    assert one.run(fetch="one", col_names=True) == [("n",), (2,)]
    assert one.run(fetch="one", data=(5,), col_names=True) == [("n",)]
    assert call(SqlServerFetch, query="select n from t where n > :n", data={"n": 1}) == (2,)


def test_options_of_the_drivers_are_passed_on(opened: list[Any]):
    assert call(MySQLFetch, query="select n from t", cursor_type="DictCursor", ssl={"ca": "x"}) == {"n": 1}
    assert opened[-1][1] == {"connect_args": {"charset": "utf8mb4", "ssl": {"ca": "x"}}}
    many = SqlServerExecuteMany("tea", "me", "there", query="insert into t values (?, ?)", data=[(3, "c")])
    many.run(fast_executemany=True)
    assert opened[-1][1] == {"fast_executemany": True}


def test_they_are_tasks_of_flows(opened: list[Any]):
    with Flow("f") as flow:
        node = PostgresFetch(db_name="tea", user="me", host="there")(query="select n from t", password="pw")
    assert flow.run().result[node].result == (1,)


def test_what_is_missing_or_unknown_is_told(opened: list[Any]):
    for kind in (PostgresExecute, PostgresFetch):
        with pytest.raises(ValueError, match="A query string must be provided"):
            call(kind)
    with pytest.raises(ValueError, match="fetch: expected 'one', 'many' or 'all', found 'some'"):
        call(PostgresFetch, query="select 1", fetch="some")
    with pytest.raises(
        ValueError, match="cursor_type: expected one of cursor, dictcursor, sscursor, ssdictcursor, found 'fast'"
    ):
        call(MySQLFetch, query="select 1", cursor_type="fast")


def test_packages_that_are_not_there_are_named(opened: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    told = "MySQLFetch needs the packages SQLAlchemy and pymysql or MySQLdb: pip install SQLAlchemy pymysql"
    with refused(ExtraMissing, told, at=""):
        call(MySQLFetch, query="select 1")
    monkeypatch.undo()
    monkeypatch.setattr(MySQLFetch, "drivers", {"no_such_driver": "mysql"})
    with refused(ExtraMissing, "MySQLFetch needs the packages SQLAlchemy and no_such_driver", at=""):
        call(MySQLFetch, query="select 1")

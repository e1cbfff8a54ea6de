"""Tasks of Prefect 1 on databases that are servers, by SQLAlchemy; placeholders are those of the driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

from anabranch.base.errors import ExtraMissing
from anabranch.prefect.definitions import Task, defaults_from_attrs


class _Database(Task):
    """A task with a connection."""

    drivers: ClassVar[Mapping[str, str]] = {}
    """Packages that connect, the first one that is there, with the name that SQLAlchemy has for it."""

    @contextmanager
    def _connected(self, db_name: Any, *, engine_options: Mapping[str, Any] | None = None, **url: Any) -> Iterator[Any]:
        """A connection, which is closed without a commit."""
        name = next((name for package, name in self.drivers.items() if find_spec(package) is not None), None)
        if name is None or find_spec("sqlalchemy") is None:
            packages = " or ".join(self.drivers)
            raise ExtraMissing(
                f"{type(self).__name__} needs the packages SQLAlchemy and {packages}: "
                f"pip install SQLAlchemy {next(iter(self.drivers))}"
            )
        sql = import_module("sqlalchemy")
        address = sql.URL.create(name, database=db_name, **url)
        engine = sql.create_engine(address, poolclass=sql.NullPool, **(engine_options or {}))
        with engine.connect() as connection:
            # A query without data may have a percent sign in it.
            yield connection.execution_options(no_parameters=True)

    def _executed(self, connection: Any, query: str | None, data: Any, commit: bool | None, *, many: bool) -> int:
        """The number of rows that changed."""
        if not query:
            raise ValueError("A query string must be provided")
        if many and not data:
            raise ValueError("A data list must be provided")
        values = [_row(each) for each in data] if many else _row(data)
        count: int = connection.exec_driver_sql(query, values).rowcount
        if commit:
            connection.commit()
        return count

    def _fetched(
        self,
        connection: Any,
        query: str | None,
        data: Any,
        commit: bool | None,
        fetch: str | None,
        fetch_count: int | None,
        *,
        col_names: bool = False,
        as_dicts: bool = False,
    ) -> Any:
        """One row, or a list of rows; with `col_names`, a list that begins with the names of the columns."""
        if not query:
            raise ValueError("A query string must be provided")
        if fetch not in ("one", "many", "all"):
            raise ValueError(f"fetch: expected 'one', 'many' or 'all', found {fetch!r}")
        result = connection.exec_driver_sql(query, _row(data))
        names = tuple(result.keys())
        plain = dict if as_dicts else tuple
        rows = result.mappings() if as_dicts else result
        if fetch == "one":
            row = rows.fetchone()
            found: Any = None if row is None else plain(row)
        else:
            found = [plain(row) for row in (rows.fetchall() if fetch == "all" else rows.fetchmany(fetch_count))]
        if commit:
            connection.commit()
        if not col_names:
            return found
        return [names, *(found if isinstance(found, list) else [] if found is None else [found])]


def _row(data: Any) -> Any:
    return data if data is None or isinstance(data, Mapping) else tuple(data)


# PostgreSQL -----------------------------------------------------------------------------------------------------------


class _Postgres(_Database):
    drivers: ClassVar[Mapping[str, str]] = {"psycopg2": "postgresql+psycopg2", "psycopg": "postgresql+psycopg"}


class PostgresExecute(_Postgres):
    """Run a statement on a database of PostgreSQL. Without `commit`, what it changes is lost."""

    _many = False

    def __init__(
        self,
        db_name: str | None = None,
        user: str | None = None,
        host: str | None = None,
        port: int | None = 5432,
        query: str | None = None,
        data: Sequence[Any] | None = None,
        commit: bool = False,
        **options: Any,
    ) -> None:
        self.db_name, self.user, self.host, self.port = db_name, user, host, port
        self.query, self.data, self.commit = query, data, commit
        super().__init__(**options)

    @defaults_from_attrs("db_name", "user", "host", "port", "query", "data", "commit")
    def run(
        self,
        db_name: str | None = None,
        user: str | None = None,
        host: str | None = None,
        port: int | None = None,
        query: str | None = None,
        data: Sequence[Any] | None = None,
        commit: bool | None = None,
        password: str | None = None,
    ) -> None:
        """Run it."""
        with self._connected(db_name, username=user, password=password, host=host, port=port) as connection:
            self._executed(connection, query, data, commit, many=self._many)


class PostgresExecuteMany(PostgresExecute):
    """Run a statement once for each row of a list, on a database of PostgreSQL."""

    _many = True


class PostgresFetch(_Postgres):
    """Rows that a query gives on a database of PostgreSQL: one, ``"many"`` or ``"all"``."""

    def __init__(
        self,
        db_name: str | None = None,
        user: str | None = None,
        host: str | None = None,
        port: int | None = 5432,
        fetch: str = "one",
        fetch_count: int = 10,
        query: str | None = None,
        data: Sequence[Any] | None = None,
        commit: bool = False,
        **options: Any,
    ) -> None:
        self.db_name, self.user, self.host, self.port = db_name, user, host, port
        self.fetch, self.fetch_count, self.query, self.data, self.commit = fetch, fetch_count, query, data, commit
        super().__init__(**options)

    @defaults_from_attrs("db_name", "user", "host", "port", "fetch", "fetch_count", "query", "data", "commit")
    def run(
        self,
        db_name: str | None = None,
        user: str | None = None,
        host: str | None = None,
        port: int | None = None,
        fetch: str | None = None,
        fetch_count: int | None = None,
        query: str | None = None,
        data: Sequence[Any] | None = None,
        commit: bool | None = None,
        password: str | None = None,
        col_names: bool = False,
    ) -> Any:
        """The rows; with `col_names`, a list that begins with the names of the columns."""
        with self._connected(db_name, username=user, password=password, host=host, port=port) as connection:
            return self._fetched(connection, query, data, commit, fetch, fetch_count, col_names=col_names)


# MySQL ----------------------------------------------------------------------------------------------------------------


class _MySQL(_Database):
    drivers: ClassVar[Mapping[str, str]] = {"pymysql": "mysql+pymysql", "MySQLdb": "mysql+mysqldb"}


class MySQLExecute(_MySQL):
    """Run a statement on a database of MySQL; the value is the number of rows. Without `commit`, changes are lost."""

    def __init__(
        self,
        db_name: str | None = None,
        user: str | None = None,
        password: str | None = None,
        host: str | None = None,
        port: int | None = 3306,
        query: str | None = None,
        commit: bool = False,
        charset: str = "utf8mb4",
        ssl: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.db_name, self.user, self.password, self.host, self.port = db_name, user, password, host, port
        self.query, self.commit, self.charset, self.ssl = query, commit, charset, ssl
        super().__init__(**options)

    @defaults_from_attrs("db_name", "user", "password", "host", "port", "query", "commit", "charset", "ssl")
    def run(
        self,
        db_name: str | None = None,
        user: str | None = None,
        password: str | None = None,
        host: str | None = None,
        port: int | None = None,
        query: str | None = None,
        commit: bool | None = None,
        charset: str | None = None,
        ssl: Mapping[str, Any] | None = None,
    ) -> int:
        """The number of rows."""
        about = {"username": user, "password": password, "host": host, "port": port}
        with self._connected(db_name, **about, engine_options=_mysql(charset, ssl)) as connection:
            return self._executed(connection, query, None, commit, many=False)


class MySQLFetch(_MySQL):
    """Rows that a query gives on a database of MySQL: one, ``"many"`` or ``"all"``, as tuples or dicts."""

    def __init__(
        self,
        db_name: str | None = None,
        user: str | None = None,
        password: str | None = None,
        host: str | None = None,
        port: int | None = 3306,
        fetch: str = "one",
        fetch_count: int = 10,
        query: str | None = None,
        commit: bool = False,
        charset: str = "utf8mb4",
        cursor_type: str = "cursor",
        ssl: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.db_name, self.user, self.password, self.host, self.port = db_name, user, password, host, port
        self.fetch, self.fetch_count, self.query, self.commit = fetch, fetch_count, query, commit
        self.charset, self.cursor_type, self.ssl = charset, cursor_type, ssl
        super().__init__(**options)

    @defaults_from_attrs(
        *("db_name", "user", "password", "host", "port", "fetch", "fetch_count", "query", "commit", "charset"),
        *("cursor_type", "ssl"),
    )
    def run(
        self,
        db_name: str | None = None,
        user: str | None = None,
        password: str | None = None,
        host: str | None = None,
        port: int | None = None,
        fetch: str | None = None,
        fetch_count: int | None = None,
        query: str | None = None,
        commit: bool | None = None,
        charset: str | None = None,
        cursor_type: str | None = None,
        ssl: Mapping[str, Any] | None = None,
    ) -> Any:
        """The rows."""
        kind = str(cursor_type).lower()
        if kind not in _CURSORS:
            raise ValueError(f"cursor_type: expected one of {', '.join(_CURSORS)}, found {cursor_type!r}")
        about = {"username": user, "password": password, "host": host, "port": port}
        with self._connected(db_name, **about, engine_options=_mysql(charset, ssl)) as connection:
            return self._fetched(
                connection, query, None, commit, fetch, fetch_count, as_dicts=kind in ("dictcursor", "ssdictcursor")
            )


_CURSORS = ("cursor", "dictcursor", "sscursor", "ssdictcursor")


def _mysql(charset: str | None, ssl: Mapping[str, Any] | None) -> dict[str, Any]:
    given = {"charset": charset, "ssl": ssl}
    return {"connect_args": {name: value for name, value in given.items() if value is not None}}


# SQL Server -----------------------------------------------------------------------------------------------------------


class _SqlServer(_Database):
    drivers: ClassVar[Mapping[str, str]] = {"pyodbc": "mssql+pyodbc"}

    def __init__(
        self,
        db_name: str,
        user: str,
        host: str,
        port: int | None = 1433,
        driver: str = "ODBC Driver 17 for SQL Server",
        **options: Any,
    ) -> None:
        self.db_name, self.user, self.host, self.port, self.driver = db_name, user, host, port, driver
        super().__init__(**options)

    def _opened(self, password: str | None, **engine_options: Any) -> Any:
        about = {"username": self.user, "password": password, "host": self.host, "port": self.port}
        return self._connected(self.db_name, **about, query={"driver": self.driver}, engine_options=engine_options)


class SqlServerExecute(_SqlServer):
    """Run a statement on a database of SQL Server. Without `commit`, what it changes is lost."""

    def __init__(
        self,
        db_name: str,
        user: str,
        host: str,
        port: int | None = 1433,
        driver: str = "ODBC Driver 17 for SQL Server",
        query: str | None = None,
        data: Sequence[Any] | None = None,
        commit: bool = False,
        **options: Any,
    ) -> None:
        self.query, self.data, self.commit = query, data, commit
        super().__init__(db_name, user, host, port, driver, **options)

    @defaults_from_attrs("query", "data", "commit")
    def run(
        self,
        query: str | None = None,
        data: Sequence[Any] | None = None,
        commit: bool | None = None,
        password: str | None = None,
    ) -> None:
        """Run it."""
        with self._opened(password) as connection:
            self._executed(connection, query, data, commit, many=False)


class SqlServerExecuteMany(SqlServerExecute):
    """Run a statement once for each row of a list, on a database of SQL Server."""

    @defaults_from_attrs("query", "data", "commit")
    def run(
        self,
        query: str | None = None,
        data: Sequence[Any] | None = None,
        commit: bool | None = None,
        password: str | None = None,
        fast_executemany: bool = False,
    ) -> None:
        """Run them."""
        with self._opened(password, fast_executemany=fast_executemany) as connection:
            self._executed(connection, query, data, commit, many=True)


class SqlServerFetch(_SqlServer):
    """Rows that a query gives on a database of SQL Server: one, ``"many"`` or ``"all"``."""

    def __init__(
        self,
        db_name: str,
        user: str,
        host: str,
        port: int | None = 1433,
        driver: str = "ODBC Driver 17 for SQL Server",
        fetch: str = "one",
        fetch_count: int = 10,
        query: str | None = None,
        data: Sequence[Any] | None = None,
        commit: bool = False,
        **options: Any,
    ) -> None:
        self.fetch, self.fetch_count, self.query, self.data, self.commit = fetch, fetch_count, query, data, commit
        super().__init__(db_name, user, host, port, driver, **options)

    @defaults_from_attrs("fetch", "fetch_count", "query", "data", "commit")
    def run(
        self,
        fetch: str | None = None,
        fetch_count: int | None = None,
        query: str | None = None,
        data: Sequence[Any] | None = None,
        commit: bool | None = None,
        password: str | None = None,
    ) -> Any:
        """The rows."""
        with self._opened(password) as connection:
            return self._fetched(connection, query, data, commit, fetch, fetch_count)

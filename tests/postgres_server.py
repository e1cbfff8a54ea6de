"""A PostgreSQL server of the tests' own: loopback, a free port, in a temporary directory, gone when they are done."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil
import pytest
from tests.needs import miss, program

PASSWORD = "it's-a/secret@7%"
"""Has what URLs and shells must escape."""
QUOTED_PASSWORD = "it%27s-a%2Fsecret%407%25"
MAX_CONNECTIONS = 20


class PostgresServer:
    """A server with a superuser ``tester``, which asks for a password."""

    def __init__(self, programs: Path, home: Path, user: str | None) -> None:
        self._programs = programs
        self._user = user
        self._data = home / "data"
        self._log = home / "log"
        self._schemas = count()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        password = home / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        arguments = ["--username=tester", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
        self._run("initdb", f"--pgdata={self._data}", *arguments, "--encoding=UTF8", "--locale=C.UTF-8")

    def _run(self, program: str, *arguments: str) -> None:
        outcome = subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,  # the server would keep the pipe
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert outcome.returncode == 0, f"{program}: {outcome.stdout or self._log.read_text()}"

    def start(self, *, max_connections: int = MAX_CONNECTIONS) -> None:
        """Start it, and wait until it answers."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        settings += f" -c max_connections={max_connections}"
        self._run("pg_ctl", "start", "-w", f"--pgdata={self._data}", f"--log={self._log}", "-o", settings)

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``fast`` tells clients that it goes, ``immediate`` does not, as in a crash."""
        self._run("pg_ctl", "stop", "-w", f"--pgdata={self._data}", "-m", mode)

    def pause(self) -> None:
        """Let it hang: connections stay, and nothing is answered."""
        for process in self._processes():
            process.suspend()

    def go_on(self) -> None:
        """Let it answer again."""
        for process in reversed(self._processes()):
            process.resume()

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        return [postmaster, *postmaster.children()]

    def url(
        self, *, database: str = "postgres", password: str = QUOTED_PASSWORD, port: int = 0, query: str = ""
    ) -> str:
        """URL of a database."""
        return f"postgresql://tester:{password}@127.0.0.1:{port or self.port}/{database}{query}"

    def fresh_url(self, *, port: int = 0) -> str:
        """URL in which no table is yet."""
        schema = f"fresh_{next(self._schemas)}"
        self.execute(f"CREATE SCHEMA {schema}")
        return self.url(port=port, query=f"?options=-csearch_path%3D{schema}")

    def execute(self, *statements: str) -> None:
        """Run statements as the superuser, each by itself."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@contextmanager
def running_postgres(*, max_connections: int = MAX_CONNECTIONS) -> Iterator[PostgresServer]:
    """A server; where there is none to start the test cannot be."""
    if importlib.util.find_spec("psycopg") is None:
        miss("psycopg", 'pip install "psycopg[binary]"')
    programs = program("initdb").resolve().parent
    home = Path(tempfile.mkdtemp(prefix="anabranch-postgres-"))
    user = None
    if os.geteuid() == 0:  # whom the server refuses to serve
        import pwd

        user = "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"
        shutil.chown(home, user)
    try:
        server = PostgresServer(programs, home, user)
        server.start(max_connections=max_connections)
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server for the tests of a module."""
    with running_postgres() as server:
        yield server

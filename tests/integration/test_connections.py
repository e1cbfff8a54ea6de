"""Connections to a PostgreSQL server, which threads and forked processes share or do not."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from tests.postgres_server import PostgresServer, running_postgres

from anabranch.base.connections import _KEPT, _MOST, Connections


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as running:
        yield running


@pytest.fixture
def connections(server: PostgresServer) -> Iterator[Connections]:
    found = Connections(server.url(), wait_s=0.05)
    yield found
    found.close()


def pid(connections: Connections) -> int:
    """Of the server's process behind the next connection."""
    with connections.one() as connection:
        return connection.info.backend_pid


def test_a_connection_is_used_again_and_has_forgotten_what_was_not_committed(connections: Connections):
    first = pid(connections)
    with connections.one() as connection:
        connection.execute("CREATE TABLE forgotten (x int)")
    with connections.one() as connection:
        assert connection.info.backend_pid == first
        assert connection.execute("SELECT to_regclass('forgotten')").fetchone() == (None,)


def test_after_an_error_of_the_server_a_connection_is_used_again_and_after_ctrl_c_it_is_not(connections: Connections):
    import psycopg

    first = pid(connections)
    with pytest.raises(psycopg.errors.UndefinedTable), connections.one() as connection:
        connection.execute("SELECT * FROM nothing")
    assert pid(connections) == first
    with pytest.raises(KeyboardInterrupt), connections.one():
        raise KeyboardInterrupt
    assert pid(connections) != first


def test_a_connection_that_is_lost_is_replaced(server: PostgresServer, connections: Connections):
    import psycopg

    first = pid(connections)
    server.execute(f"SELECT pg_terminate_backend({first})")
    with pytest.raises(psycopg.OperationalError), connections.one() as connection:
        connection.execute("SELECT 1")
    assert pid(connections) != first


def test_there_are_no_more_than_a_few_and_fewer_stay_open(connections: Connections):
    with ExitStack() as others:
        used = [others.enter_context(connections.one()) for _ in range(_MOST)]
        with pytest.raises(TimeoutError, match=f"all {_MOST} connections were in use for 0.05 s"), connections.one():
            pass
    assert sum(not each.closed for each in used) == _KEPT


def test_threads_wait_for_each_other(server: PostgresServer):
    connections = Connections(server.url(), wait_s=30)
    used, started = [], threading.Barrier(_MOST)

    def use(number: int) -> None:
        with connections.one() as connection:
            used.append(connection.info.backend_pid)
            if number < _MOST:
                started.wait(30)

    with ThreadPoolExecutor(2 * _MOST) as threads:
        list(threads.map(use, range(2 * _MOST)))
    assert len(used) == 2 * _MOST
    connections.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own_and_leaves_those_of_its_parent(connections: Connections):
    first = pid(connections)
    if not (child := os.fork()):
        status = 1
        try:
            status = int(pid(connections) == first)
            connections.close()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert pid(connections) == first

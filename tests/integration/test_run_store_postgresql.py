"""The run store in PostgreSQL, of which the server or the connection does not do its part."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from tests.faults import CuttingProxy
from tests.postgres_server import MAX_CONNECTIONS, PASSWORD, QUOTED_PASSWORD, PostgresServer, running_postgres

from anabranch import Flow, config, task
from anabranch.errors import RunStoreError, RunStoreUnavailable
from anabranch.executors import LocalDaskExecutor
from anabranch.runs import Batch, ElementRow, LogRow, Ownership, RunRecord, TaskRunRow
from anabranch.runs.record.reports import codes_of
from anabranch.runs.store.postgresql import PostgreSQLRunStore
from anabranch.runs.view import FlowRunView

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as running:
        yield running


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.fresh_url()


@pytest.fixture
def store(url: str) -> Iterator[PostgreSQLRunStore]:
    with PostgreSQLRunStore(url) as opened:
        yield opened


def rows(n: int) -> Batch:
    return Batch([TaskRunRow(f"task-{n:04}", "task", "Success", 10)], logs=[LogRow(n, NOON, 20, f"line {n}")])


def refusal(url: str, *, kind: type[Exception] = RunStoreError, patience_s: float = 10.0) -> str:
    """What somebody is told who begins a run there."""
    with PostgreSQLRunStore(url, patience_s=patience_s) as store, pytest.raises(kind) as info:
        store.create_run(RunRecord("run-1", "etl", NOON))
    text = f"{info.value} {info.value.__cause__} {store!r}"
    assert PASSWORD not in text
    assert QUOTED_PASSWORD not in text
    return str(info.value)


# Opening --------------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_told_and_not_shown(server: PostgresServer):
    said = refusal(server.url(password="wr0ng-secret"))
    assert 'password authentication failed for user "tester"' in said
    assert "wr0ng-secret" not in said


def test_a_database_that_is_not_there_is_told(server: PostgresServer):
    assert 'database "nowhere" does not exist' in refusal(server.url(database="nowhere"))


def test_a_server_that_is_not_there_is_told(server: PostgresServer):
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        said = refusal(server.url(port=unheard.getsockname()[1]), kind=RunStoreUnavailable)
    assert "Connection refused" in said


def test_a_server_that_never_answers_is_told(server: PostgresServer):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        said = refusal(server.url(port=port, query="?connect_timeout=2"), kind=RunStoreUnavailable)
    assert "timeout" in said


def test_a_server_without_encryption_is_told_where_it_is_wanted(server: PostgresServer):
    assert "server does not support SSL, but SSL was required" in refusal(server.url(query="?sslmode=require"))


def test_a_replica_is_told(server: PostgresServer):
    read_only = server.fresh_url().replace("-csearch_path", "-cdefault_transaction_read_only%3Don%20-csearch_path")
    assert "the database is read-only; use the primary, not a replica" in refusal(read_only)


def test_a_user_without_the_right_to_make_tables_is_told(server: PostgresServer):
    server.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    url = server.url().replace(f"tester:{QUOTED_PASSWORD}", "reader:reader")
    assert "permission denied for schema public; this user may not do that" in refusal(url)


def test_a_database_that_cannot_hold_every_name_is_told(server: PostgresServer):
    server.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    assert "has the encoding SQL_ASCII, and names of tasks need UTF8" in refusal(server.url(database="ascii"))


def test_a_full_server_is_waited_for_and_then_told(server: PostgresServer):
    import psycopg

    with ExitStack() as others:
        for _ in range(MAX_CONNECTIONS):
            others.enter_context(psycopg.connect(server.url()))
        said = refusal(server.url(), kind=RunStoreUnavailable, patience_s=0.1)
    assert "did not answer within 0.1 s" in said
    assert "raise max_connections, or use a pooler" in said


def test_history_can_be_read_by_who_may_not_write(server: PostgresServer, url: str, store: PostgreSQLRunStore):
    store.create_run(RunRecord("run-1", "etl", NOON))
    with PostgreSQLRunStore(url, read_only=True) as reader:
        assert [found.run_id for found in reader.list_runs()] == ["run-1"]
        with pytest.raises(RunStoreError, match="opened for reading only"):
            reader.delete_run("run-1")
    empty = PostgreSQLRunStore(server.fresh_url(), read_only=True)
    with empty as reader, pytest.raises(RunStoreError, match="the first run makes it"):
        reader.list_runs()


# In the middle of a run -----------------------------------------------------------------------------------------------


def test_a_run_goes_on_over_restarts_of_the_server(server: PostgresServer, store: PostgreSQLRunStore):
    ownership = store.create_run(RunRecord("run-1", "etl", NOON))
    written, stop = threading.Semaphore(0), threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        n = 0
        try:
            while not stop.is_set():
                store.write(ownership, rows(n))
                n += 1
                written.release()
        except BaseException as error:
            failed.append(error)
        finally:
            counted.append(n)
            written.release(1_000)

    counted: list[int] = []
    writer = threading.Thread(target=write)
    writer.start()
    for mode in ("fast", "immediate", "fast"):
        for _ in range(20):
            assert written.acquire(timeout=30)
        server.stop(mode)
        server.start()
    for _ in range(20):
        assert written.acquire(timeout=30)
    stop.set()
    writer.join()
    assert failed == []
    assert [row.slug for row in store.task_runs("run-1")] == [f"task-{n:04}" for n in range(counted[0])]
    assert [line.serial for line in store.logs("run-1")] == list(range(counted[0]))
    assert store.check() == []


def test_a_server_that_stays_away_is_told_in_time(server: PostgresServer, store: PostgreSQLRunStore):
    ownership = store.create_run(RunRecord("run-1", "etl", NOON))
    store._database._patience_s = 0.1  # type: ignore[attr-defined]
    server.stop()
    try:
        with pytest.raises(RunStoreUnavailable, match=r"did not answer within 0\.1 s: .*Connection refused"):
            store.write(ownership, rows(0))
    finally:
        server.start()
    store.write(ownership, rows(1))
    assert [row.slug for row in store.task_runs("run-1")] == ["task-0001"]


def test_runs_go_on_while_the_server_hangs_and_are_on_record_when_it_is_back(
    server: PostgresServer, url: str, caplog: pytest.LogCaptureFixture
):
    # Given two runs at once: the server hangs when both have begun, and goes on when the last task of both runs
    began = threading.Barrier(2, action=server.pause)
    ended = threading.Barrier(2, action=server.go_on)

    @task
    def begin() -> list[int]:
        began.wait(60)
        return [1, 2, 3]

    @task(chunksize=1)
    def double(x: int) -> int:
        return 2 * x

    @task
    def end(xs: list[int]) -> int:
        ended.wait(60)
        return sum(xs)

    with Flow("hanging") as flow:
        end(double.map(begin()))
    views: list[FlowRunView] = []

    def run() -> None:
        views.append(flow.run(executor=LocalDaskExecutor(num_workers=2)))

    # When they run
    with config.set(backend=url, progress="never"):
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # Then both came to their ends, and all of that is on record
    assert [view.is_successful() for view in views] == [True, True]
    with PostgreSQLRunStore(url) as store:
        for view in views:
            assert store.get_run(view.run_id).state == "Success"
            told = {slug: state.name for slug, state in view.states().items()}
            assert {row.slug: row.state for row in store.task_runs(view.run_id)} == told
            assert bytes(codes_of(store.chunks(view.run_id, "double"))) == bytes([10] * 3)
    assert "the run store can be written to again; nothing is lost" in caplog.text


def test_what_was_committed_without_an_answer_is_there_once(server: PostgresServer):
    with CuttingProxy(server.port) as proxy, PostgreSQLRunStore(server.fresh_url(port=proxy.port)) as store:
        store.list_runs()  # makes no difference whether the tables were there
        cut = proxy.cut_next_commit.set
        cut()
        ownership = store.create_run(RunRecord("run-1", "etl", NOON), owner="here:1")
        assert ownership.epoch == 1
        cut()
        store.write(ownership, Batch(rows(0).task_runs, elements=[ElementRow("map", 3, 20)], logs=rows(0).logs))
        cut()
        store.heartbeat(ownership)
        cut()
        store.finish_run(ownership, "Failed", end=NOON, batch=rows(1))
        cut()
        taken = store.take_over("run-1", owner="here:2")
        assert proxy.cuts == 5
        assert taken == Ownership("run-1", "here:2", 2, taken.token)
        store.write(taken, rows(2))
        assert [row.slug for row in store.task_runs("run-1")] == ["task-0000", "task-0001", "task-0002"]
        assert [line.text for line in store.logs("run-1")] == ["line 0", "line 1", "line 2"]
        assert len(store.elements("run-1")) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_connects_for_itself(store: PostgreSQLRunStore):
    ownership = store.create_run(RunRecord("run-1", "etl", NOON))
    if not (pid := os.fork()):
        status = 1
        try:
            store.write(ownership, rows(1))
            store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    store.write(ownership, rows(2))
    assert [row.slug for row in store.task_runs("run-1")] == ["task-0001", "task-0002"]

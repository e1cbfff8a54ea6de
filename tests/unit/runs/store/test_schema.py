"""The run store's tables and columns: what steps make them, what bytes are in them, and what files are not ours."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.postgres_server import PostgresServer, postgres  # noqa: F401

from anabranch import config
from anabranch.base.files import network_filesystem
from anabranch.errors import (
    RunExists,
    RunHeld,
    RunNotFound,
    RunStoreDamaged,
    RunStoreError,
    RunStoreUnavailable,
    SettingError,
    StaleOwner,
)
from anabranch.runs import Batch, ChunkRow, ElementRow, LogRow, RunRecord, TaskRunRow, default_path, open_store
from anabranch.runs.store.codec import (
    decode_codes,
    decode_indices,
    encode_codes,
    encode_indices,
    from_microseconds,
    to_microseconds,
    to_text,
)
from anabranch.runs.store.postgresql import PostgreSQLRunStore
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.schema import (
    APPLICATION_ID,
    POSTGRESQL,
    SERVICE_TABLES,
    SQLITE,
    STEPS,
    TABLES,
    VERSION,
    statements,
)
from anabranch.runs.store.sqlite import SQLiteRunStore

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROWS = Batch(
    [TaskRunRow("load", "load", "Success", 10, start=NOON)],
    [ChunkRow("map", 0, range(3), b"\n\n\n")],
    [ElementRow("map", 1, 20)],
    [LogRow(0, NOON, 20, "line")],
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteRunStore]:
    """A store in a file, with one run that goes on."""
    with SQLiteRunStore(path) as opened:
        opened.write(opened.create_run(RunRecord("run-1", "etl", NOON)), ROWS)
        yield opened


def raw(path: Path, *commands: str) -> list[Any]:
    """What another program does to the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [connection.execute(command).fetchall() for command in commands]


# Steps ----------------------------------------------------------------------------------------------------------------


def sqlite_schema(path: Path) -> list[Any]:
    names = [name for (name,) in raw(path, "SELECT name FROM sqlite_master ORDER BY name")[0]]
    columns = [raw(path, f"PRAGMA table_xinfo({table.name})")[0] for table in (*TABLES, *SERVICE_TABLES)]
    return [names, columns, raw(path, "PRAGMA user_version", "PRAGMA application_id")]


@pytest.mark.parametrize("version", range(1, VERSION))
def test_an_upgraded_file_has_the_tables_of_a_new_one_and_its_rows(tmp_path: Path, version: int):
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    made = [statement.format_map(SQLITE) for step in STEPS[:version] for statement in step]
    columns = (TABLES[0].columns[:14], ("r", "etl", "", "Success", "", 1, 2, None, "{}", "here:1", 1, "t", 1, None))
    insert = f"INSERT INTO {TABLES[0].name} ({', '.join(columns[0])}) VALUES {columns[1]}".replace("None", "NULL")
    raw(old, *made, f"PRAGMA application_id={APPLICATION_ID}", f"PRAGMA user_version={version}", insert)
    with SQLiteRunStore(old) as store:
        ownership = store.take_over("r")
        store.write(ownership, ROWS)
        assert store.get_run("r").flow_name == "etl"
        assert [line.text for line in store.logs("r")] == ["line"]
        assert store.check() == []
    with SQLiteRunStore(new) as store:
        store.create_run(RunRecord("r", "etl", NOON))
    assert sqlite_schema(old) == sqlite_schema(new)
    copy = old.with_name(f"old.db.schema-{version}")
    assert raw(copy, "PRAGMA user_version", "SELECT state FROM anabranch_runs") == [[(version,)], [("Success",)]]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path):
    path = tmp_path / "runs.db"
    made = [statement.format_map(SQLITE) for statement in STEPS[0]]
    in_the_way = "CREATE TABLE anabranch_logs (x)"
    raw(path, *made, in_the_way, f"PRAGMA application_id={APPLICATION_ID}", "PRAGMA user_version=1")
    with SQLiteRunStore(path) as store, pytest.raises(RunStoreError, match="table anabranch_logs already exists"):
        store.create_run(RunRecord("r", "etl", NOON))
    assert raw(path, "PRAGMA user_version", "SELECT count(*) FROM anabranch_runs") == [[(1,)], [(0,)]]


def test_a_file_has_the_columns_that_the_statements_name(store: SQLiteRunStore, path: Path):
    for table in (*TABLES, *SERVICE_TABLES):
        found = raw(path, f"PRAGMA table_xinfo({table.name})")[0]
        assert sorted(column[1] for column in found) == sorted(table.columns)
        assert {column[1] for column in found if column[5]} == set(table.key)


def postgres_schema(server: PostgresServer, url: str) -> list[Any]:
    import psycopg

    columns = """SELECT table_name, column_name, data_type, is_nullable, collation_name FROM information_schema.columns
        WHERE table_schema = current_schema() ORDER BY 1, 2"""
    indexes = "SELECT replace(indexdef, current_schema(), '') FROM pg_indexes WHERE schemaname = current_schema()"
    version = "SELECT version FROM anabranch_schema"
    with psycopg.connect(url) as connection:
        return [sorted(connection.execute(query).fetchall()) for query in (columns, indexes, version)]


@pytest.mark.parametrize("version", range(1, VERSION))
def test_an_upgraded_database_has_the_tables_of_a_new_one_and_its_rows(postgres: PostgresServer, version: int):  # noqa: F811
    import psycopg

    old, new = postgres.fresh_url(), postgres.fresh_url()
    with psycopg.connect(old) as connection:
        for step in STEPS[:version]:
            for statement in step:
                connection.execute(statement.format_map(POSTGRESQL))
        connection.execute("CREATE TABLE anabranch_schema (version BIGINT NOT NULL)")
        connection.execute("INSERT INTO anabranch_schema VALUES (%s)", (version,))
        connection.execute(
            f"INSERT INTO {TABLES[0].name} ({', '.join(TABLES[0].columns[:14])}) VALUES ({', '.join(['%s'] * 14)})",
            ("r", "etl", "", "Success", "", 1, 2, None, "{}", "here:1", 1, "t", 1, None),
        )
    for url in (old, new):
        with PostgreSQLRunStore(url) as store:
            ownership = store.take_over("r") if url == old else store.create_run(RunRecord("r", "etl", NOON))
            store.write(ownership, ROWS)
            assert [line.text for line in store.logs("r")] == ["line"]
            assert store.check() == []
    assert postgres_schema(postgres, old) == postgres_schema(postgres, new)


def test_a_database_has_the_columns_that_the_statements_name(postgres: PostgresServer):  # noqa: F811
    url = postgres.fresh_url()
    with PostgreSQLRunStore(url) as store:
        store.create_run(RunRecord("r", "etl", NOON))
    columns, _, version = postgres_schema(postgres, url)
    expected = {(table.name, column) for table in (*TABLES, *SERVICE_TABLES) for column in table.columns}
    assert {(row[0], row[1]) for row in columns} - {("anabranch_schema", "version")} == expected
    assert version == [(VERSION,)]


def test_a_newer_database_is_refused(postgres: PostgresServer):  # noqa: F811
    import psycopg

    url = postgres.fresh_url()
    with PostgreSQLRunStore(url) as store:
        store.create_run(RunRecord("r", "etl", NOON))
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE anabranch_schema SET version = 99")
    with PostgreSQLRunStore(url) as store, pytest.raises(RunStoreError, match=r"newer anabranch \(schema 99"):
        store.list_runs()


def test_steps_differ_between_databases_in_the_names_of_types_only():
    for types in (SQLITE, POSTGRESQL):
        assert len(statements(types)) == sum(map(len, STEPS))
        assert not any("{" in statement for statement in statements(types))


# Columns --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_indices_come_back(indices: list[int]):
    assert decode_indices(encode_indices(indices)) == tuple(indices)


@given(st.integers(0, 2**40), st.integers(0, 10**9))
def test_ranges_come_back(start: int, width: int):
    data = encode_indices(range(start, start + width))
    assert decode_indices(data) == range(start, start + width)
    assert len(data) == 17


def test_a_range_with_a_step_comes_back_as_its_numbers():
    assert decode_indices(encode_indices(range(0, 10, 3))) == (0, 3, 6, 9)


@given(st.binary())
def test_codes_come_back(codes: bytes):
    assert decode_codes(encode_codes(codes), len(codes)) == codes


@given(st.binary(max_size=30), st.integers(0, 1_000))
def test_damaged_bytes_are_either_refused_or_of_the_right_width(data: bytes, width: int):
    with suppress(RunStoreDamaged):
        assert len(decode_codes(data, width)) == width
    with suppress(RunStoreDamaged):
        assert all(index >= 0 for index in decode_indices(data)[:1])


def test_bytes_that_would_unpack_to_more_than_a_chunk_are_refused():
    with pytest.raises(RunStoreDamaged, match="cannot be read as those of 10 elements"):
        decode_codes(encode_codes(bytes(range(256)) * 10_000), 10)


@given(st.datetimes(timezones=st.timezones()))
def test_times_come_back(time: datetime):
    try:
        moment = time.astimezone(UTC)
    except OverflowError:  # before the first year, or after the last
        return
    assert from_microseconds(to_microseconds(time)) == moment


@given(st.text(alphabet=st.characters()), st.integers(3, 20))
def test_every_text_is_made_one_that_databases_take(text: str, limit: int):
    kept = to_text(text, limit)
    assert "\0" not in kept
    assert len(kept.encode()) <= limit


# Files ----------------------------------------------------------------------------------------------------------------


def test_file_and_directory_are_for_their_owner_only(store: SQLiteRunStore, path: Path):
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {
        "runs.db": 0o600,
        "runs.db-wal": 0o600,
        "runs.db-shm": 0o600,
    }


def test_nothing_is_made_before_something_is_written(path: Path):
    with SQLiteRunStore(path, read_only=True) as store, pytest.raises(RunStoreError, match="the first run makes it"):
        store.list_runs()
    assert not path.parent.exists()


def test_an_empty_file_is_made_a_store(path: Path):
    path.parent.mkdir()
    path.touch(mode=0o600)
    with SQLiteRunStore(path) as store:
        store.create_run(RunRecord("run-1", "etl", NOON))
        assert store.get_run("run-1").flow_name == "etl"


def test_a_store_whose_maker_died_over_it_is_made(path: Path):
    path.parent.mkdir()
    raw(path, "PRAGMA auto_vacuum = INCREMENTAL")  # writes a first page, which has nothing of ours yet
    assert path.stat().st_size > 0
    with SQLiteRunStore(path) as store:
        store.create_run(RunRecord("run-1", "etl", NOON))
        assert store.get_run("run-1").flow_name == "etl"


def foreign(path: Path) -> None:
    raw(path, "CREATE TABLE precious (x)", "INSERT INTO precious VALUES (1)")


def newer(path: Path) -> None:
    with SQLiteRunStore(path) as store:
        store.create_run(RunRecord("run-1", "etl", NOON))
    raw(path, f"PRAGMA user_version = {VERSION + 1}")


def half(path: Path) -> None:
    with SQLiteRunStore(path) as store:
        ownership = store.create_run(RunRecord("run-1", "etl", NOON))
        store.write(ownership, Batch([TaskRunRow(str(n), "t", "Success", 10, message="x" * 99) for n in range(999)]))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda path: path.write_bytes(random.Random(1).randbytes(9_000)), RunStoreDamaged, "damaged or not a datab"),
        (lambda path: path.write_text("a text, and a long one\n" * 99), RunStoreDamaged, "damaged or not a database"),
        (lambda path: path.write_bytes(b"SQLite format 3\0"), RunStoreDamaged, "damaged or not a database"),
        (lambda path: path.mkdir(), RunStoreDamaged, "is a directory"),
        (foreign, RunStoreDamaged, "is the database of another program"),
        (newer, RunStoreError, "was written by a newer anabranch"),
        (half, RunStoreDamaged, "is damaged"),
    ],
    ids=["random", "text", "sixteen bytes", "directory", "foreign", "newer", "half"],
)
def test_what_is_not_a_store_is_refused_and_left_as_it_is(path: Path, make: Any, kind: type[Exception], words: str):
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for read_only in (False, True):
        with SQLiteRunStore(path, read_only=read_only) as store, pytest.raises(kind) as info:
            store.take_over("run-1") if not read_only else [store.task_runs("run-1"), store.check()].index([])
        assert words in str(info.value)
        assert str(path) in str(info.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_parent_that_is_a_file_is_told(tmp_path: Path):
    (tmp_path / "data").write_text("")
    with SQLiteRunStore(tmp_path / "data" / "runs.db") as store, pytest.raises(RunStoreError) as info:
        store.create_run(RunRecord("run-1", "etl", NOON))
    assert str(info.value) == f"cannot open the run store {store.path}: Not a directory"


def test_flipped_bytes_are_found(store: SQLiteRunStore, path: Path):
    ownership = store.create_run(RunRecord("run-2", "etl", NOON))
    store.write(ownership, Batch([TaskRunRow(f"{n:05}", "t", "Success", 10, message="x" * 99) for n in range(3_000)]))
    store.close()
    data = bytearray(path.read_bytes())
    draw = random.Random(7)
    for _ in range(200):
        data[draw.randrange(4096, len(data))] ^= 0xFF
    path.write_bytes(data)
    found = store.check()
    assert found
    assert all(str(path) in line or "run-" in line for line in found)


def test_a_full_disk_is_told_and_earlier_rows_are_whole(store: SQLiteRunStore):
    ownership = store.create_run(RunRecord("run-2", "etl", NOON))
    large = Batch([TaskRunRow("large", "t", "Success", 10, value=b"v" * 999_999)])
    store.write(ownership, ROWS)
    store._database._open().execute("PRAGMA max_page_count = 60")  # type: ignore[attr-defined]
    with pytest.raises(RunStoreError, match="no space left on device; what was written before is whole"):
        store.write(ownership, large)
    assert store.task_runs("run-2") == ROWS.task_runs
    assert store.check() == []
    store.write(ownership, large)  # the limit went with the connection
    assert len(store.task_runs("run-2")) == 2


def test_a_store_deleted_under_a_run_is_told_at_the_next_write(store: SQLiteRunStore, path: Path):
    ownership = store.create_run(RunRecord("run-2", "etl", NOON))
    path.unlink()
    for _ in range(2):
        with pytest.raises(RunStoreError, match=r"runs\.db was deleted or replaced while the run store was in use"):
            store.write(ownership, ROWS)
    store.close()
    with pytest.raises(RunStoreError, match="is not there any more: it was deleted or moved while it was in use"):
        store.write(ownership, ROWS)
    assert not path.exists()


def test_a_store_replaced_under_a_run_is_told_at_the_next_write(store: SQLiteRunStore, path: Path):
    ownership = store.create_run(RunRecord("run-2", "etl", NOON))
    with SQLiteRunStore(path.with_name("other.db")) as other:
        other.create_run(RunRecord("run-9", "etl", NOON))
    path.with_name("other.db").replace(path)
    with pytest.raises(RunStoreError, match="was deleted or replaced"):
        store.write(ownership, ROWS)


def test_a_log_deleted_under_a_run_costs_nothing(store: SQLiteRunStore, path: Path, caplog: pytest.LogCaptureFixture):
    ownership = store.create_run(RunRecord("run-2", "etl", NOON))
    store.write(ownership, ROWS)
    path.with_name("runs.db-wal").unlink()
    store.finish_run(ownership, "Success", end=NOON)
    store.close()
    assert "runs.db-wal was deleted while it was in use; nothing is lost" in caplog.text
    with SQLiteRunStore(path) as again:
        assert again.task_runs("run-2") == ROWS.task_runs
        assert again.get_run("run-2").state == "Success"
        assert again.check() == []


def test_a_log_replaced_under_a_run_is_told_at_the_next_write(store: SQLiteRunStore, path: Path):
    ownership = store.create_run(RunRecord("run-2", "etl", NOON))
    store.write(ownership, ROWS)
    log = path.with_name("runs.db-wal")
    log.with_name("other").write_bytes(b"")
    log.with_name("other").replace(log)
    with pytest.raises(RunStoreError, match=r"runs\.db-wal was deleted or replaced"):
        store.write(ownership, ROWS)


def test_a_store_without_its_index_of_the_log_is_whole(store: SQLiteRunStore, path: Path, tmp_path: Path):
    for name in ("runs.db", "runs.db-wal"):  # as after a crash, from which somebody copied two files of three
        (tmp_path / name).write_bytes(path.with_name(name).read_bytes())
    with SQLiteRunStore(tmp_path / "runs.db") as copied:
        assert copied.task_runs("run-1") == ROWS.task_runs
        assert copied.check() == []


def test_a_store_in_which_a_call_hangs_can_be_left(path: Path):
    store = SQLiteRunStore(path, patience_s=0.01)
    answers, hangs = threading.Event(), threading.Event()

    def hang(transaction: object) -> None:
        hangs.set()
        assert answers.wait(30)

    thread = threading.Thread(target=store.database.read, args=(hang,))
    thread.start()
    assert hangs.wait(30)
    store.close()
    answers.set()
    thread.join()
    store.close()


def test_a_store_that_is_locked_too_long_is_told(store: SQLiteRunStore, path: Path):
    ownership = store.create_run(RunRecord("run-2", "etl", NOON))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with SQLiteRunStore(path, patience_s=0.05) as hasty:
            assert hasty.task_runs("run-1") == ROWS.task_runs  # readers do not wait for writers
            with pytest.raises(RunStoreUnavailable, match=r"locked by another process for more than 0\.05 s"):
                hasty.write(ownership, ROWS)
        other.execute("ROLLBACK")
    store.write(ownership, ROWS)


def test_a_store_opened_for_reading_shows_history_and_refuses_to_write(store: SQLiteRunStore, path: Path):
    with SQLiteRunStore(path, read_only=True) as reader:
        assert [found.run_id for found in reader.list_runs()] == ["run-1"]
        assert reader.check() == []
        with pytest.raises(RunStoreError, match="opened for reading only"):
            reader.create_run(RunRecord("run-2", "etl", NOON))


READ_AS_NOBODY = """
import os, sys
from anabranch.errors import RunStoreError
from anabranch.runs import RunRecord
from anabranch.runs.store.sqlite import SQLiteRunStore
from datetime import UTC, datetime
if os.geteuid() == 0:
    os.setuid(65534)
with SQLiteRunStore(sys.argv[1]) as store:
    try:
        store.create_run(RunRecord("new", "etl", datetime.now(UTC)))
    except RunStoreError as error:
        print(error)
with SQLiteRunStore(sys.argv[1], read_only=True) as store:
    print(*(found.run_id for found in store.list_runs()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has other permissions")
def test_a_store_that_cannot_be_written_still_shows_history():
    with tempfile.TemporaryDirectory() as name:  # of pytest's own, nobody else can read
        folder = Path(name)
        with SQLiteRunStore(folder / "runs.db") as store:
            store.create_run(RunRecord("run-1", "etl", NOON))
        (folder / "runs.db").chmod(0o444)
        folder.chmod(0o555)
        command = [sys.executable, "-c", READ_AS_NOBODY, folder / "runs.db"]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        folder.chmod(0o755)
    assert outcome.returncode == 0, outcome.stderr
    refusal, history = outcome.stdout.splitlines()
    assert refusal.startswith("cannot write to the run store")
    assert refusal.endswith("read-only")
    assert history == "run-1"


def test_what_is_wrong_between_tables_is_found(store: SQLiteRunStore, path: Path):
    insert = "INSERT INTO anabranch_elements VALUES ('gone', 'map', 1, 20, 1, NULL, '', NULL)"
    raw(path, insert, "UPDATE anabranch_chunks SET codes = x'7a00'")
    assert store.check() == [
        "anabranch_elements: 1 rows of run gone, which is not in the store",
        "run run-1, map, chunk 0: a chunk in the run store has states that cannot be read as those of 3 elements",
    ]
    with pytest.raises(RunStoreDamaged, match="states that cannot be read"):
        store.chunks("run-1", "map")


def test_pruning_gives_space_back(store: SQLiteRunStore, path: Path):
    ownership = store.create_run(RunRecord("run-2", "etl", NOON))
    store.finish_run(ownership, "Success", end=NOON, batch=Batch([TaskRunRow("a", "a", "", 10, value=b"v" * 999_999)]))
    store.close()
    before = path.stat().st_size
    assert store.prune(older_than=NOON + timedelta(days=1)) == ["run-2"]
    store.close()
    assert path.stat().st_size < before / 2


SHARED = 0x4000_0002, 510  # offset and length of SQLite's shared lock on a database file
TRY_TO_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, int(sys.argv[3]), int(sys.argv[2]))
    except OSError:
        sys.exit(3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks of files are others there")
def test_a_second_store_in_the_process_does_not_drop_the_locks_of_the_first(path: Path):
    def is_locked() -> bool:
        command = [sys.executable, "-c", TRY_TO_LOCK, str(path), *map(str, SHARED)]
        return subprocess.run(command, check=False).returncode == 3

    with SQLiteRunStore(path) as first:
        first.create_run(RunRecord("r", "etl", NOON))
        assert is_locked()
        with SQLiteRunStore(path, read_only=True) as second:
            assert second.list_runs()
            assert is_locked()
        with SQLiteRunStore(path) as third:
            third.list_runs()
        assert is_locked()
    assert not is_locked()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_opens_the_file_for_itself(store: SQLiteRunStore):
    ownership = store.create_run(RunRecord("run-2", "etl", NOON))
    store.write(ownership, Batch(logs=[LogRow(0, NOON, 20, "parent")]))
    if not (pid := os.fork()):
        status = 1
        try:
            store.write(ownership, Batch(logs=[LogRow(1, NOON, 20, "child")]))
            store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    store.write(ownership, Batch(logs=[LogRow(2, NOON, 20, "parent again")]))
    assert [line.text for line in store.logs("run-2")] == ["parent", "child", "parent again"]
    assert store.check() == []


MOUNTS = """22 1 {device} / {path} rw,relatime shared:1 - {kind} {source} rw
23 22 0:99 / /proc rw shared:2 - proc proc rw"""


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "ext4", "tmpfs"])
def test_network_file_systems_are_known(tmp_path: Path, kind: str):
    device = tmp_path.stat().st_dev
    mounts = MOUNTS.format(device=f"{os.major(device)}:{os.minor(device)}", path=tmp_path, kind=kind, source="host:/x")
    assert network_filesystem(tmp_path, mounts=mounts) == ("" if kind in ("ext4", "tmpfs") else kind)


def test_a_store_on_a_network_drive_keeps_no_log_beside_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("anabranch.runs.store.sqlite.network_filesystem", lambda path: "nfs4")
    with caplog.at_level(logging.WARNING), SQLiteRunStore(path) as store:
        store.write(store.create_run(RunRecord("run-1", "etl", NOON)), ROWS)
        assert "network file system" in store.describe()["warning"]
    assert raw(path, "PRAGMA journal_mode") == [[("delete",)]]
    assert "is on a network file system (nfs4)" in caplog.text


# Which store ----------------------------------------------------------------------------------------------------------


def test_the_settings_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ANABRANCH_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert default_path() == tmp_path / "share" / "anabranch" / "runs.db"
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    assert default_path() == tmp_path / "home" / "runs.db"
    with config.set(runs__path=str(tmp_path / "elsewhere.db"), runs__lease_s=7.0):
        assert default_path() == tmp_path / "elsewhere.db"
        with open_store() as store:
            assert isinstance(store, SQLiteRunStore)
            assert (store.path, store.lease_s) == (tmp_path / "elsewhere.db", 7.0)


@pytest.mark.parametrize("setting", [{"runs.path": 3}, {"runs.path": "a\0b"}, {"runs.lease_s": 0}])
def test_settings_that_cannot_be_are_refused(setting: dict[str, Any]):
    with pytest.raises(SettingError, match=next(iter(setting))):
        config.set(setting)


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("mysql://ann:s3cret@db/x", "expected 'local', 'sqlite:///path' or 'postgresql://…', found 'mysql://ann:***@"),
        ("sqlite://", "expected 'sqlite:///' and the path of a file"),
        ("sqlite:///:memory:", "expected 'sqlite:///' and the path of a file"),
        ("nothing", "expected 'local', 'sqlite:///path' or 'postgresql://…', found 'nothing'"),
        ("postgresql://ann:s3cret@db:port/x", "'postgresql://ann:***@db:port/x' is not a database URL"),
        ("postgresql://ann:s3cret%@db/x", "'postgresql://ann:***@db/x' is not a database URL"),
        ("postgresql+pg8000://ann:s3cret@db/x", "'postgresql+pg8000://ann:***@db/x' is not a database URL"),
    ],
)
def test_a_backend_that_cannot_be_is_told_without_its_password(backend: str, words: str):
    with pytest.raises(RunStoreError) as info:
        open_store(backend)
    assert words in str(info.value)
    assert "s3cret" not in str(info.value) + str(info.value.__cause__)


def test_a_database_without_its_driver_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "anabranch.runs.store.postgresql")
    with pytest.raises(RunStoreError) as info:
        open_store("postgresql://ann:s3cret@db/x")
    assert str(info.value) == (
        'the run store postgresql://ann:***@db/x needs the package psycopg: pip install "anabranch[postgres]"'
    )


def test_what_is_embedded_needs_no_driver(tmp_path: Path):
    code = f"""
import sys
from datetime import UTC, datetime
sys.modules.update(psycopg=None, psycopg_pool=None, sqlalchemy=None)
import anabranch
from anabranch.results import SQLResult
from anabranch.runs.store.opening import open_store
from anabranch.runs.store.records import RunRecord
with open_store("sqlite:///{tmp_path}/runs.db") as store:
    store.create_run(RunRecord("run-1", "etl", datetime.now(UTC)))
    print(store.get_run("run-1").flow_name)
result = SQLResult("sqlite:///{tmp_path}/results.db")
print(result.read(result.write("x", 1)))
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == ["etl", "1"]


@pytest.mark.parametrize("error", [RunExists, RunHeld, RunNotFound, RunStoreDamaged, RunStoreUnavailable, StaleOwner])
def test_whoever_goes_on_without_history_catches_one_error(error: type[Exception]):
    assert issubclass(error, RunStoreError)


def test_sqlite_says_what_its_version_cannot(store: RelationalRunStore):
    facts = store.describe()
    assert facts["library"] == f"SQLite {sqlite3.sqlite_version}"
    assert ("warning" in facts) == (sqlite3.sqlite_version_info < (3, 51, 3))

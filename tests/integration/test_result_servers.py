"""Results in PostgreSQL and S3, on servers that the tests start."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import fsspec
import pandas
import polars
import pytest
from pyarrow import dataset
from tests.contracts.test_results import ResultContract
from tests.contracts.test_stored_runs import StoredRunContract, cluster, executor_named
from tests.postgres_server import QUOTED_PASSWORD, PostgresServer, running_postgres
from tests.refusals import refused
from tests.servers import S3Server, running_s3

from anabranch import Flow, task
from anabranch.errors import ResultStoreError
from anabranch.results import FileResult, Result, S3Result, SQLResult, sql

IDS = {"flow": "etl", "task": "parse"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


__all__ = ["cluster"]  # a fixture

ELSEWHERE = ["threads", pytest.param("dask", marks=pytest.mark.cluster)]


class TestStoredRunsInPostgreSQL(StoredRunContract):
    @pytest.fixture
    def result(self, postgres: PostgresServer) -> Iterator[Result]:
        result = SQLResult(postgres.fresh_url())
        yield result
        result.close()

    @pytest.fixture(params=ELSEWHERE)
    def executor(self, request: pytest.FixtureRequest) -> Any:
        return executor_named(request.param, request)


class TestStoredRunsInS3(StoredRunContract):
    @pytest.fixture
    def result(self, s3: S3Server) -> Iterator[Result]:
        result = S3Result(s3.fresh_bucket(), "results", **s3.options())
        yield result
        result.close()

    @pytest.fixture(params=ELSEWHERE)
    def executor(self, request: pytest.FixtureRequest) -> Any:
        return executor_named(request.param, request)


class TestSQLResultOfPostgreSQL(ResultContract):
    @pytest.fixture
    def result(self, postgres: PostgresServer) -> Iterator[Result]:
        result = SQLResult(postgres.fresh_url())
        yield result
        result.close()

    def test_its_password_is_shown_to_nobody(self, result: Result):
        assert QUOTED_PASSWORD not in repr(result)
        assert "tester" in repr(result)

    def test_a_server_that_restarts_is_waited_for(self, result: Result, postgres: PostgresServer):
        ref = result.write("x", 1, IDS)
        postgres.stop("immediate")  # connections are cut, and the next ones refused
        with ThreadPoolExecutor(2) as pool:
            reading = pool.submit(result.read, ref, IDS)
            writing = pool.submit(result.write, "y", 2, IDS)
            postgres.start()
            assert reading.result() == 1
            assert writing.result() == result.info("y")

    def test_a_server_that_does_not_come_back_is_an_error(
        self, result: Result, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ):
        result.write("x", 1)
        monkeypatch.setattr(sql, "RECONNECT_S", 0.0)
        postgres.stop()
        try:
            with refused(ResultStoreError, "result 'x' cannot be read in", "***", at="") as info:
                result.read("x")
            assert QUOTED_PASSWORD not in str(info.value)
        finally:
            postgres.start()

    def test_who_come_at_once_make_one_table(self, postgres: PostgresServer):
        url = postgres.fresh_url()
        results = [SQLResult(url) for _ in range(5)]
        with ThreadPoolExecutor(5) as pool:
            refs = set(pool.map(lambda result: result.write("x", 1, IDS), results))
        assert len(refs) == 1
        for result in results:
            result.close()


class TestS3Result(ResultContract):
    @pytest.fixture
    def result(self, s3: S3Server) -> Result:
        return S3Result(s3.fresh_bucket(), prefix="some/results/", **s3.options())

    def test_its_credentials_are_shown_to_nobody(self, result: Result):
        assert "secret" not in repr(result)

    def test_a_large_object_is_put_in_parts_and_still_once(self, result: Result, monkeypatch: pytest.MonkeyPatch):
        # s3fs uploads in parts what is twice its part size; parts of 5 MiB, S3's least, instead of its 50.
        part = 5 << 20
        s3fs = pytest.importorskip("s3fs")
        monkeypatch.setattr(s3fs.S3FileSystem._pipe_file, "__defaults__", (part, None, "overwrite"))
        value = os.urandom(1 << 10) * (2 * part // 1000)
        ref = result.write("large", value, IDS)
        assert result.write("large", b"other", IDS) == ref
        assert result.read(ref, IDS) == value

    def test_a_store_that_knows_no_conditions_keeps_the_first_too(
        self, result: Result, monkeypatch: pytest.MonkeyPatch
    ):
        s3fs = pytest.importorskip("s3fs")
        real = s3fs.S3FileSystem.pipe_file

        def pipe_file(self: Any, path: str, data: bytes, mode: str = "overwrite", **kwargs: Any) -> Any:
            if mode == "create":
                raise OSError("A header you provided implies functionality that is not implemented")
            return real(self, path, data, mode=mode, **kwargs)

        monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", pipe_file)
        ref = result.write("x", 1, IDS)
        assert result.write("x", 2, IDS) == ref
        assert result.read(ref) == 1

    def test_a_bucket_that_is_not_there_is_an_error_of_the_store(self, s3: S3Server):
        with refused(ResultStoreError, "result 'x' cannot be written in 's3://no-such-bucket'", at=""):
            S3Result("no-such-bucket", **s3.options()).write("x", 1)

    def test_a_server_that_does_not_answer_is_an_error_of_the_store(self):
        options = {
            "endpoint_url": "http://127.0.0.1:1",
            "key": "k",
            "secret": "s",
            "config_kwargs": {"retries": {"max_attempts": 1}},
        }
        with refused(ResultStoreError, "result 'x' cannot be written in 's3://bucket'", at=""):
            FileResult("s3://bucket", **options).write("x", 1)


@pytest.mark.parametrize("kind", ["postgresql", "s3"])
def test_another_process_reads_what_this_one_has_written(kind: str, request: pytest.FixtureRequest):
    if kind == "s3":
        server = request.getfixturevalue("s3")
        result: Result = S3Result(server.fresh_bucket(), **server.options())
    else:
        result = SQLResult(request.getfixturevalue("postgres").fresh_url())
    ref = result.write("a/x", [1, 2], IDS)
    code = "import pickle, sys; result, ref = pickle.load(sys.stdin.buffer); print(result.read(ref)); result.close()"
    outcome = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((result, ref)), capture_output=True, timeout=60
    )
    assert outcome.stdout.decode().strip() == "[1, 2]", outcome.stderr.decode()
    result.close()


def test_other_programs_read_what_a_map_has_written_to_s3(s3: S3Server):
    bucket, options = s3.fresh_bucket(), s3.options()

    @task(target="sales/month={month}/{map_index}.parquet")
    def sell(month: str, n: int) -> Any:
        return pandas.DataFrame({"n": [n, n + 1]})

    with Flow("sales", result=S3Result(bucket, serializer="parquet", **options)) as flow:
        sold = sell.map(["2026-01", "2026-02"], [1, 3])
    assert flow.run().is_successful()
    assert [each.is_cached() for each in flow.run()[sold].map_states] == [True, True]

    files = fsspec.filesystem("s3", **options, skip_instance_cache=True)
    wanted = [("2026-01", 1), ("2026-01", 2), ("2026-02", 3), ("2026-02", 4)]
    read = dataset.dataset(f"{bucket}/sales", filesystem=files, partitioning="hive").to_table().sort_by("n")
    assert list(zip(read["month"].to_pylist(), read["n"].to_pylist(), strict=True)) == wanted
    names = sorted(files.glob(f"{bucket}/sales/*/*.parquet"))
    assert [n for name in names for n in pandas.read_parquet(name, filesystem=files)["n"]] == [1, 2, 3, 4]
    assert [n for name in names for n in polars.read_parquet(files.open(name))["n"]] == [1, 2, 3, 4]
    with duckdb.connect() as database:
        database.register_filesystem(files)
        assert database.sql(f"SELECT sum(n) FROM 's3://{bucket}/sales/*/*.parquet'").fetchall() == [(10,)]

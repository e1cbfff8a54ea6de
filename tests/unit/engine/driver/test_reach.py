"""Stores that driver and workers do not share are refused before anything is sent."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, task
from anabranch.engine.driver.reach import check_reach
from anabranch.errors import PreflightError
from anabranch.executors import LocalExecutor
from anabranch.executors.base import Executor
from anabranch.executors.entry import Sourced
from anabranch.results import (
    CompressedSerializer,
    InMemoryResult,
    LocalResult,
    ParquetSerializer,
    Result,
    S3Result,
    SQLResult,
)
from anabranch.runs.stored_values import with_storing


def S3(serializer: Any) -> Result:
    return S3Result("bucket", serializer=serializer)


class Workers(LocalExecutor):
    """An executor with workers that look for a file, each in its own way."""

    is_elsewhere = True

    def __init__(self, *sights: Callable[[str], bool]) -> None:
        super().__init__()
        self.sights = sights

    def ask_workers(self, question: Any, timeout_s: float = 5.0) -> list[bool]:
        (path,) = question.bound
        return [sight(path) for sight in self.sights]


def check(result: Result, executor: Executor) -> None:
    with Flow("etl", result=result) as flow:
        task(lambda: 1, name="one")()
        task(lambda: 2, name="two")()
    graph = with_storing(flow.graph.freeze(), flow.result, checkpointing=False)
    check_reach(graph.nodes.values(), executor)


def test_a_directory_that_some_workers_do_not_share_is_refused(tmp_path: Path):
    with pytest.raises(PreflightError) as info:
        check(LocalResult(tmp_path / "out"), Workers(os.path.exists, lambda path: False))
    assert info.value.heading == "values would be stored where they cannot be found again:"
    (problem,) = info.value.problems
    assert problem.startswith(
        f"one, two: results would go to the directory {tmp_path}/out, which 1 of 2 workers do not"
    )
    assert "FileResult('s3://…') or SQLResult" in problem
    assert list((tmp_path / "out").iterdir()) == []


def test_a_directory_that_all_share_will_do(tmp_path: Path):
    check(LocalResult(tmp_path), Workers(os.path.exists, os.path.exists))


def test_workers_that_cannot_be_asked_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        check(LocalResult(tmp_path), Workers())
    assert "no worker could be asked whether it is the same there" in caplog.text


def test_workers_of_this_machine_are_not_asked(tmp_path: Path):
    check(LocalResult(tmp_path), LocalExecutor())


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match="results cannot be stored"):
        check(LocalResult(tmp_path / "file"), Workers(os.path.exists))


def test_memory_is_of_one_process():
    with pytest.raises(PreflightError, match="results in memory are those of one process"):
        check(InMemoryResult(), LocalExecutor())


class Lacking(LocalExecutor):
    """An executor with workers that lack some modules each."""

    is_elsewhere = True

    def __init__(self, *lacks: str) -> None:
        super().__init__()
        self.lacks = lacks
        self.questions = 0

    def ask_workers(self, question: Any, timeout_s: float = 5.0) -> list[list[str]]:
        self.questions += 1
        (modules,) = question.bound
        return [[each for each in modules if each in lacks.split()] for lacks in self.lacks]


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (S3("parquet"), "ParquetSerializer() needs the package pyarrow"),
        (S3("feather"), "FeatherSerializer() needs the package pyarrow"),
        (S3("csv"), "CSVSerializer() needs the package pandas"),
        (S3("npy"), "NumpySerializer() needs the package numpy"),
        (S3(CompressedSerializer(ParquetSerializer())), "needs the package pyarrow"),
        (S3("pickle"), "'s3://bucket' needs the package s3fs"),
        (SQLResult("postgresql://user@host/db"), "host/db' needs the package psycopg"),
    ],
)
def test_packages_that_workers_lack_are_told_once_with_the_cure(result: Result, what: str):
    lacks = "pyarrow pandas numpy psycopg" if "needs the package s3fs" not in what else "s3fs"
    executor = Lacking(lacks, lacks)

    with pytest.raises(PreflightError, match="workers lack what values are stored with") as info:
        check(result, executor)

    (problem,) = info.value.problems
    assert problem.startswith("one, two: ")
    assert what in problem
    assert "which 2 of 2 workers do not have; install it there: pip install " in problem
    assert executor.questions == 1


def test_workers_that_lack_nothing_that_is_needed_will_do():
    executor = Lacking("pyarrow", "")
    check(S3("npy"), executor)
    check(SQLResult("sqlite:///results.db"), executor)


@pytest.mark.parametrize(("lacks", "is_refused"), [(("pyarrow", ""), False), (("pyarrow", "pyarrow"), True)])
def test_tasks_that_need_resources_run_where_the_package_may_be(lacks: tuple[str, ...], is_refused: bool):
    with Flow("etl", result=S3("parquet")) as flow:
        task(lambda: 1, name="one", resources={"TABLES": 1})()
    nodes = with_storing(flow.graph.freeze(), flow.result, checkpointing=False).nodes.values()

    with pytest.raises(PreflightError, match="needs the package pyarrow") if is_refused else nullcontext():
        check_reach(nodes, Lacking(*lacks))


def test_a_worker_says_what_it_lacks():
    assert Sourced("lacking", (("json", "no_such_module"),))() == ["no_such_module"]


def test_a_database_is_everywhere(tmp_path: Path):
    check(SQLResult("postgresql://user@host/db"), Workers())

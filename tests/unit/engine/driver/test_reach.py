"""Stores that driver and workers do not share are refused before anything is sent."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, task
from anabranch.engine.driver.reach import check_reach
from anabranch.errors import PreflightError
from anabranch.executors import LocalExecutor
from anabranch.executors.base import Executor
from anabranch.results import InMemoryResult, LocalResult, Result, SQLResult
from anabranch.runs.stored_values import with_storing


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


def test_a_database_is_everywhere(tmp_path: Path):
    check(SQLResult("postgresql://user@host/db"), Workers())

"""``anabranch export``, and ``last`` where commands take a run."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from anabranch import Flow, config, runs, task
from anabranch.cli import anabranch as command
from anabranch.runs.history import COLUMNS


@task
def brew(x):
    if x == 2:
        raise ValueError('a "bad" cup,\nof two lines')
    return x


@pytest.fixture
def _runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with config.set({"backend": f"sqlite:///{tmp_path / 'runs.db'}"}):
        for name in ("tea", "coffee"):
            with Flow(name) as flow:
                brew.map([1, 2])
            flow.run()
        yield


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


@pytest.mark.usefixtures("_runs")
def test_a_run_is_printed_as_csv():
    table = runs.load("last").table()
    printed = call("export", "last")
    assert printed.exit_code == 0
    header, *rows = csv.reader(io.StringIO(printed.stdout_bytes.decode(), newline=""))
    assert tuple(header) == COLUMNS
    assert [row[3:6] for row in rows] == [["brew", "", "Failed"], ["brew", "0", "Success"], ["brew", "1", "Failed"]]
    assert [row[COLUMNS.index("message")] for row in rows] == table["message"]


@pytest.mark.usefixtures("_runs")
def test_several_runs_are_written_in_the_format_that_the_file_is_named_after():
    ids = [each.run_id for each in runs.find()]
    wanted = [id for id in ids for _ in range(3)]
    for name in ("runs.jsonl", "runs.parquet", "runs.CSV"):
        assert call("export", *ids, "-o", name).output == f"{name}\n"
    assert [json.loads(line)["run_id"] for line in Path("runs.jsonl").read_text().splitlines()] == wanted
    table = pyarrow.parquet.read_table("runs.parquet")
    assert table["run_id"].to_pylist() == wanted
    assert table["map_index"].to_pylist() == [None, 0, 1] * 2
    with open("runs.CSV", newline="") as file:
        assert [row["run_id"] for row in csv.DictReader(file)] == wanted


@pytest.mark.usefixtures("_runs")
def test_a_pipe_is_written_into(tmp_path: Path):
    os.mkfifo("pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(Path("pipe").read_text()))
    reader.start()
    assert call("export", "last", "-o", "pipe", "--format", "jsonl").exit_code == 0
    reader.join(10)
    assert len(found[0].splitlines()) == 3


@pytest.mark.usefixtures("_runs")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody"], "the run store has no run 'nobody'"),
        (["last", "-o", "runs.xlsx"], "what is runs.xlsx to be? Name it .csv, .jsonl or .parquet, or give --format"),
        (["last", "-o", "no/where.csv"], "no/where.csv cannot be written: No such file or directory"),
        ([], "Missing argument 'RUN…'"),
    ],
)
def test_what_cannot_be_exported_is_refused(arguments: list[str], told: str):
    refused = call("export", *arguments)
    assert refused.exit_code == 2
    assert told in refused.output


@pytest.mark.usefixtures("_runs")
def test_the_last_run_is_shown():
    assert call("show", "last").output.startswith("coffee: run")
    assert call("logs", "last").exit_code == 0


def test_there_is_no_last_run_where_there_is_none(tmp_path: Path):
    with config.set({"backend": f"sqlite:///{tmp_path / 'none.db'}"}):
        assert call("export", "last").exit_code == 2
        assert call("show", "last").exit_code == 2

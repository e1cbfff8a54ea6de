"""``anabranch ls``, ``show``, ``resume`` and ``prune``, in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch import config
from anabranch.cli import anabranch as command
from anabranch.runs import Batch, LogRow, RunRecord, open_store

ETL = """
import pathlib
from anabranch import *

@task
def extract(count: int, token: str) -> list:
    return list(range(count))

@task
def transform(n):
    print("transforming", n)
    if n == 3 and not pathlib.Path("mended").exists():
        raise ValueError(f"bad \\x1b[31m record {n}")
    return n * 2

@task(trigger=triggers.manual_only)
def publish(records):
    return sum(records)

@task
def load(records):
    return sum(records)

with Flow("etl") as flow:
    records = transform.map(extract(Parameter("count", default=5), Parameter("token", default="")))
    load(records)

with Flow("careful") as careful:
    publish([1, 2])
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test with a directory and a store of its own, without modules of others."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etl.py").write_text(ETL)
    before = set(sys.modules)
    with config.set(backend=f"sqlite:///{tmp_path / 'runs.db'}"):
        yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / "etl.py"):
            del sys.modules[name]


def anabranch(*words: str) -> Result:
    """The outcome of a command."""
    return CliRunner().invoke(command, list(words))


def run_once(target: str = "etl.py:flow", *words: str) -> str:
    """Run a flow; its id."""
    anabranch("run", target, "-q", *words)
    listed: list[dict[str, str]] = json.loads(anabranch("ls", "--json").stdout)
    return listed[0]["run_id"]


def test_ls_lists_runs_newest_first_and_filters_them():
    failed = run_once()
    Path("mended").touch()
    good = run_once()
    run_once("etl.py:careful")
    lines = anabranch("ls").stdout.splitlines()
    assert [line.split()[1:3] for line in lines] == [["Paused", "careful"], ["Success", "etl"], ["Failed", "etl"]]
    assert [line.split()[0] for line in anabranch("ls", "--flow", "etl").stdout.splitlines()] == [good, failed]
    assert [line.split()[0] for line in anabranch("ls", "--state", "failed").stdout.splitlines()] == [failed]
    assert len(anabranch("ls", "--limit", "1").stdout.splitlines()) == 1
    assert json.loads(anabranch("ls", "--limit", "1", "--json").stdout)[0]["flow"] == "careful"


def test_ls_without_any_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "nobody"))
    with config.set(backend="local"):
        outcome = anabranch("ls")
        assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, "", "no runs are recorded\n")
        assert anabranch("show", "a").exit_code == 2
    assert not (tmp_path / "nobody").exists()


def test_show_tells_states_counts_and_the_root_cause_with_inputs_and_traceback():
    run_id = run_once()
    outcome = anabranch("show", run_id[:5])
    assert outcome.exit_code == 0
    text = outcome.stdout
    assert text.startswith(f"etl: run {run_id}, Failed: transform[3] failed with ValueError")
    assert "5 elements: 4 successful, 1 failed" in text
    assert "✗ transform[3] Failed\n    n = 3\n" in text
    assert "ValueError: bad \\x1b[31m record 3" in text
    assert "\x1b" not in text
    data = json.loads(anabranch("show", run_id, "--json").stdout)
    assert list(data["tasks"]) == ["extract", "transform", "load"]
    assert data["tasks"]["transform"]["elements"] == {
        "total": 5,
        "successful": 4,
        "failed": 1,
        "skipped": 0,
        "cancelled": 0,
        "running": 0,
    }
    assert data["tasks"]["load"]["state"] == "TriggerFailed"
    assert data["failed"] == 1
    assert data["failures"][0]["inputs"] == {"n": "3"}
    assert data["parameters"] == {"count": 5, "token": "***"}
    assert data["failures"][0]["worker"] == "local"
    assert f"find out more: anabranch logs {run_id} 'transform[3]'; anabranch replay {run_id} 'transform[3]'" in text


def test_show_tells_which_elements_were_slow():
    Path("slow.py").write_text(
        "import time\n"
        "from anabranch import *\n"
        "@task(chunksize=1)\n"
        "def work(x):\n"
        "    time.sleep(x)\n"
        "with Flow('slow') as flow:\n"
        "    work.map([0, 0.1, 0])\n"
    )
    assert anabranch("run", "slow.py", "-q").exit_code == 0
    run_id = json.loads(anabranch("ls", "--json").stdout)[0]["run_id"]
    told = anabranch("show", run_id).stdout.splitlines()
    assert told[told.index("slowest elements, by the mean of their chunk:") + 1].startswith("  work[1] 1")
    slowest = json.loads(anabranch("show", run_id, "--json").stdout)["slowest"]
    assert (slowest[0]["elements"], slowest[0]["width"]) == ("work[1]", 1)


def test_a_run_that_is_not_recorded_is_a_usage_error():
    run_once()
    outcome = anabranch("show", "zzz")
    assert (outcome.exit_code, outcome.stderr) == (2, "Error: the run store has no run 'zzz'\n")
    assert anabranch("resume", "zzz").exit_code == 2


def test_resume_finds_the_flow_where_it_was_and_runs_what_is_left():
    run_id = run_once("etl.py:flow", "--token", "a-secret-token")
    Path("mended").touch()
    refused = anabranch("resume", run_id)
    assert refused.exit_code == 2
    assert "token: its value was not recorded, give it again" in refused.stderr
    outcome = anabranch("resume", run_id, "-p", "token=a-secret-token")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout.splitlines() == ["transforming 3", "load = 20"]
    (listed,) = json.loads(anabranch("ls", "--json").stdout)
    assert (listed["run_id"], listed["state"], listed["epoch"]) == (run_id, "Success", 2)


def test_a_secret_that_had_its_default_need_not_be_given_again():
    run_id = run_once()
    Path("mended").touch()
    assert anabranch("resume", run_id).stdout.splitlines() == ["transforming 3", "load = 20"]


def test_resume_takes_the_file_where_the_flow_has_moved():
    run_id = run_once("etl.py:flow", "--token", "a-secret-token")
    Path("mended").touch()
    Path("etl.py").rename("moved.py")
    lost = anabranch("resume", run_id)
    assert lost.exit_code == 2
    assert f"anabranch resume {run_id} FILE" in lost.stderr
    outcome = anabranch("resume", run_id, "moved.py:flow", "-p", "token=a-secret-token", "--element", "transform[1]")
    assert outcome.exit_code == 1, outcome.stderr  # element 3 stays as it was
    assert outcome.stdout.splitlines() == ["transforming 1"]


def test_a_run_that_waits_goes_on_when_it_is_approved():
    run_id = run_once("etl.py:careful")
    assert anabranch("resume", run_id).exit_code == 5
    outcome = anabranch("resume", run_id, "--approve", "publish")
    assert (outcome.exit_code, outcome.stdout) == (0, "publish = 3\n")


def test_a_task_that_the_flow_does_not_have_is_refused_before_anything_runs():
    run_id = run_once()
    outcome = anabranch("resume", run_id, "--from", "lod", "-p", "token=x")
    assert outcome.exit_code == 2
    assert "flow 'etl' has no task 'lod'; did you mean 'load'?" in outcome.stderr
    assert anabranch("resume", run_id, "--element", "transform[1]", "--from", "load").exit_code == 2


def test_a_run_that_is_held_is_not_resumed():
    with open_store() as store:
        store.create_run(RunRecord("held", "etl", datetime.now(UTC)), owner="elsewhere:77")
    outcome = anabranch("resume", "held", "etl.py:flow")
    assert outcome.exit_code == 1
    assert "is held by elsewhere:77" in outcome.stderr


def test_prune_deletes_what_is_old_and_says_what_it_would_delete():
    now = datetime.now(UTC)
    with open_store() as store:
        for days in (50, 40, 10):
            held = store.create_run(RunRecord(f"run-{days}", "etl", now - timedelta(days=days)))
            if days != 40:
                store.finish_run(held, "Success", end=now)
    words = ("prune", "--older-than", "30d")
    planned = anabranch(*words, "--dry-run")
    assert (planned.exit_code, planned.stdout) == (0, "run-50\n")
    assert anabranch(*words, "--keep-last", "3", "--dry-run").stdout == ""
    assert anabranch(*words).stdout == planned.stdout  # run-40 goes on
    left = {each["run_id"] for each in json.loads(anabranch("ls", "--json").stdout)}
    assert left == {"run-40", "run-10"}


@pytest.mark.parametrize("words", [("prune",), ("prune", "--older-than", "soon"), ("prune", "--keep-last", "-1")])
def test_prune_asks_which_runs(words: tuple[str, ...]):
    assert anabranch(*words).exit_code == 2


def test_prune_without_limits_goes_by_the_settings():
    now = datetime.now(UTC)
    with open_store() as store:
        for days in (50, 10):
            held = store.create_run(RunRecord(f"run-{days}", "etl", now - timedelta(days=days)))
            store.write(held, Batch(logs=[LogRow(0, now, 20, "line")]))
            store.finish_run(held, "Success", end=now)
    assert "or set retention.runs" in anabranch("prune").stderr
    with config.set(retention__runs="30d", retention__logs="5d"):
        planned = anabranch("prune", "--dry-run")
        done = anabranch("prune")
    assert planned.stdout == done.stdout == "run-50\n"
    words = "1 run, the log lines of 1 run, the values of 0 runs and 0 cached values"
    assert planned.stderr == f"{words} would be deleted\n"
    assert done.stderr == f"{words} were deleted\n"

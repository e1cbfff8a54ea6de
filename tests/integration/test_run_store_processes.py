"""The run store among processes that write at once, die, sleep past their lease, or have no space left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anabranch.runs import INTERRUPTED, RunQuery, RunRecord
from anabranch.runs.store.sqlite import SQLiteRunStore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has other signals")

PROGRAM = '''
import os, random, resource, signal, sys
from datetime import UTC, datetime, timedelta
from anabranch.errors import RunHeld, RunStoreError, StaleOwner
from anabranch.runs import Batch, Heart, RunRecord, TaskRunRow
from anabranch.runs.store.sqlite import SQLiteRunStore

NOW = datetime.now(UTC)


def say(*words):
    print(*words, flush=True)


def wait_for_word():
    say("ready")
    sys.stdin.readline()


def row(n, message=""):
    return Batch([TaskRunRow(f"task-{n:06}", "task", "Success", 10, start=NOW, message=message)])


def record_runs(store, name, count):
    """Many short runs."""
    wait_for_word()
    for n in range(int(count)):
        ownership = store.create_run(RunRecord(f"{name}-{n}", "etl", NOW))
        store.write(ownership, row(n))
        store.finish_run(ownership, "Success", end=NOW, batch=row(n + 1))
    say("done")


def take_over(store):
    wait_for_word()
    try:
        say("won", store.take_over("run-1", now=NOW + timedelta(days=1)).epoch)
    except RunHeld as error:
        say("lost", error)


def hold(store, lease_s):
    """Own a run with a beating heart, and write when told to."""
    store.lease_s = float(lease_s)
    ownership = store.create_run(RunRecord("run-1", "etl", NOW), now=datetime.now(UTC))
    with Heart(store, ownership) as heart:
        for n, _ in enumerate(iter(lambda: say("ready") or sys.stdin.readline(), "")):
            try:
                store.write(ownership, row(n))
            except StaleOwner as error:
                say("stale", error)
                heart.lost.wait(20)
                say("told", heart.lost.is_set())
                return
            say("wrote", n)


def be_killed(store, times):
    """Writers killed by SIGKILL at random moments, each telling what was acknowledged; what is missing afterwards."""
    draw, total, store_path = random.Random(1), 0, store.path
    for turn in range(int(times)):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            with SQLiteRunStore(store_path) as mine:
                ownership = mine.create_run(RunRecord(f"run-{turn}", "etl", NOW))
                for n in range(100_000):
                    mine.write(ownership, row(n, "x" * 200))
                    os.write(writer, b".")
        os.close(writer)
        acknowledged, wanted = 0, draw.randrange(1, 300)
        while acknowledged < wanted:
            acknowledged += len(os.read(reader, 16))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reader, 4096):
            acknowledged += len(more)
        os.close(reader)
        with SQLiteRunStore(store_path) as after:
            found = len(after.task_runs(f"run-{turn}"))
            if not acknowledged <= found <= acknowledged + 1:
                say("missing", turn, acknowledged, found)
            if turn % 8 == 0 and after.check():
                say("damaged", turn, *after.check())
        total += acknowledged
    say("acknowledged", total)


def fill_disk(store, nbytes):
    ownership = store.create_run(RunRecord("run-1", "etl", NOW))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(nbytes), resource.RLIM_INFINITY))
    written = 0
    try:
        while True:
            store.write(ownership, row(written, "x" * 4_000))
            written += 1
    except RunStoreError as error:
        say("refused", error)
    say("written", written)
    say("readable", len(store.task_runs("run-1")))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.finish_run(ownership, "Failed", end=NOW, message="no space")  # there is space again
    say("problems", store.check())


with SQLiteRunStore(sys.argv[2]) as opened:
    globals()[sys.argv[1]](opened, *sys.argv[3:])
'''


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@contextmanager
def programs(count: int, what: str, path: Path, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that run a function of `PROGRAM`; killed in the end, if they are still there."""
    command = [sys.executable, "-c", PROGRAM, what, str(path)]
    started = [
        subprocess.Popen(
            [*command, *(str(argument).format(n=n) for argument in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(count)
    ]
    try:
        yield started
    finally:
        for each in started:
            each.kill()
            each.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_four_processes_record_300_runs_each_in_one_new_file(path: Path):
    with programs(4, "record_runs", path, "process{n}", 300) as started:
        assert {line(each) for each in started} == {"ready"}
        for each in started:  # only now does each of them open the file, and one of them make it
            tell(each)
        assert [each.communicate()[0] for each in started] == ["done\n"] * 4
    with SQLiteRunStore(path) as store:
        runs = store.list_runs(RunQuery(limit=2_000))
        assert {found.run_id for found in runs} == {f"process{p}-{n}" for p in range(4) for n in range(300)}
        assert {(found.state, found.epoch) for found in runs} == {("Success", 1)}
        assert {len(store.task_runs(found.run_id)) for found in runs} == {2}
        assert store.check() == []


def test_one_of_six_processes_takes_a_run_over(path: Path):
    with SQLiteRunStore(path) as store:
        store.create_run(RunRecord("run-1", "etl", datetime.now(UTC)))
    with programs(6, "take_over", path) as started:
        assert {line(each) for each in started} == {"ready"}
        for each in started:
            tell(each)
        outcomes = [each.communicate()[0].strip() for each in started]
        (winner,) = [each.pid for each, said in zip(started, outcomes, strict=True) if said == "won 2"]
    lost = [said for said in outcomes if said != "won 2"]
    assert len(lost) == 5
    assert all(said.startswith("lost run run-1 is held by ") and f":{winner} since " in said for said in lost)
    with SQLiteRunStore(path) as store:
        assert store.get_run("run-1").epoch == 2


def test_nothing_acknowledged_is_lost_by_forty_sigkills(path: Path):
    with programs(1, "be_killed", path, 40) as (process,):
        said = process.communicate()[0].split()
    assert said[0] == "acknowledged", said
    assert int(said[1]) >= 40
    with SQLiteRunStore(path) as store:
        assert store.check() == []
        later = datetime.now(UTC) + timedelta(days=1)
        assert {found.state for found in store.list_runs(now=later)} == {INTERRUPTED}


def test_a_disk_that_takes_no_more_is_told_and_earlier_rows_are_whole(path: Path):
    with programs(1, "fill_disk", path, 400_000) as (process,):
        said = dict(each.split(" ", 1) for each in process.communicate()[0].splitlines())
    assert said["refused"].startswith(f"cannot write to the run store {path}: the disk takes no more"), said
    assert 10 < int(said["written"]) == int(said["readable"])
    assert said["problems"] == "[]"
    with SQLiteRunStore(path) as store:
        assert (store.get_run("run-1").state, len(store.task_runs("run-1"))) == ("Failed", int(said["written"]))


def test_an_owner_that_was_stopped_past_its_lease_is_shut_out(path: Path):
    with programs(1, "hold", path, 0.5) as (process,):
        assert line(process) == "ready"
        tell(process)
        assert [line(process), line(process)] == ["wrote 0", "ready"]
        os.kill(process.pid, signal.SIGSTOP)
        with SQLiteRunStore(path) as store:
            until = store.get_run("run-1").lease_until
            assert until is not None
            assert store.get_run("run-1", now=until).state == INTERRUPTED
            taken = store.take_over("run-1", owner="here:1", now=until)
            os.kill(process.pid, signal.SIGCONT)
            tell(process)
            said = line(process)
            assert said.startswith("stale run run-1 was taken over by here:1 at ")
            assert line(process) == "told True"
            assert len(store.task_runs("run-1")) == 1
            store.finish_run(taken, "Success", end=datetime.now(UTC))
            assert store.get_run("run-1").state == "Success"


def test_the_run_of_a_dead_owner_is_interrupted_within_its_lease(path: Path):
    with programs(1, "hold", path, 0.2) as (process,):
        assert line(process) == "ready"
        process.kill()
        process.wait()
        with SQLiteRunStore(path) as store:
            found = store.get_run("run-1", now=datetime.now(UTC) + timedelta(seconds=0.2))
            assert found.state == INTERRUPTED
            assert f":{process.pid} " in found.message

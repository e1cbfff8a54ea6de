"""Services as processes: runs in processes of their own, deaths of both, draining, and what the API does to them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from tests.postgres_server import PostgresServer, postgres  # noqa: F401
from tests.service_process import environment, serving

from anabranch.base.states import BY_CODE, Success
from anabranch.runs import open_store
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue

FLOWS = '''
"""Flows that leave marks in a file, so that a test sees what ran, and how often."""
import ctypes, os, signal, subprocess, time
from pathlib import Path
from anabranch import Flow, Parameter, context, task, triggers
from anabranch.schedules import IntervalSchedule

HOME = Path(__file__).parent

def mark(text):
    with (HOME / "marks").open("a") as file:
        file.write(text + "\\n")

@task
def note(name):
    mark(f"{name} {context.run_id} {context.date:%H:%M:%S}")
    return name

@task
def wait_for(before, name):
    mark(f"pid {os.getpid()}")
    while not (HOME / name).exists():
        time.sleep(0.01)
    return "after"

@task
def crash():
    print("before the crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)

@task(max_retries=1, retry_delay=6)
def flaky(before):
    mark(f"try {context.task_run_count}")
    if context.task_run_count == 1:
        raise OSError("the server is away")

with Flow("waiting") as waiting:
    flaky(note("before"))

@task
def hold():
    mark("hold")
    ctypes.PyDLL(None).sleep(5)  # the interpreter, too
    mark("held")

with Flow("holding") as holding:
    hold()

@task
def insist(holds):
    mark(f"insist {os.getpid()} {subprocess.Popen(['sleep', '600'], start_new_session=True).pid}")
    while True:
        try:
            ctypes.PyDLL(None).sleep(600) if holds else time.sleep(1)
        except:
            pass

with Flow("insisting", max_runs=1) as insisting:
    insist(Parameter("holds", type=bool))

with Flow("overdue", max_runs=1) as overdue:
    insist(False, task_args={"timeout": 1})

with Flow("hanging", timeout=1, max_runs=1) as hanging:
    insist(Parameter("holds", type=bool))

@task
def sleep():
    mark(f"sleep {os.getpid()} {subprocess.Popen(['sleep', '600'], start_new_session=True).pid}")
    subprocess.run(["sleep", "600"])

with Flow("late", timeout=1) as late:
    sleep()

with Flow("quick") as quick:
    note(Parameter("name", default="quick", type=str))

with Flow("long") as long:
    note(wait_for(note("before"), "go"))

with Flow("crashing") as crashing:
    crash()

@task(trigger=triggers.manual_only)
def deploy(before):
    mark("deployed")

with Flow("gated") as gated:
    deploy(note("before"))

@task
def work(number):
    mark(f"work {context.run_id} work {context.map_index} {context.task_run_count}")
    return number

@task
def add(numbers):
    mark(f"add {context.run_id} add - {context.task_run_count}")
    return sum(numbers)

with Flow("mapped", schedule=IntervalSchedule(1), max_runs=3) as mapped:
    add(work.map([1, 2, 3]))

with Flow("every", schedule=IntervalSchedule(1), max_runs=3) as every:
    note("every")
'''


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


def marks(home: Path) -> Counter[str]:
    file = home / "marks"
    return Counter(line.split()[0] for line in file.read_text().splitlines()) if file.exists() else Counter()


def until(claim: object, what: str) -> None:
    deadline = time.monotonic() + 90
    while not claim():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def register(home: Path, target: str) -> None:
    command = [sys.executable, "-m", "anabranch", "register", target]
    subprocess.run(command, cwd=home, env=environment(home), check=True, capture_output=True)


def test_a_run_that_is_asked_for_is_run_and_told_of(home: Path):
    with serving(home, "flows.py:quick") as service:
        run_id = service.start("quick", name="there")
        found = service.wait_for(run_id, "Success")
        assert found["tasks"]["note"]["state"] == "Success"
        assert found["parameters"] == {"name": "there"}
        assert marks(home) == {"there": 1}
        said = service.end()
        assert service.process.returncode == 0
        assert "SIGTERM: draining" in said


def test_a_crash_of_user_code_hurts_neither_the_service_nor_other_runs(home: Path):
    with serving(home, "flows.py:crashing", "flows.py:quick") as service:
        crashed, quick = service.start("crashing"), service.start("quick")
        assert service.wait_for(quick, "Success")["state"] == "Success"
        found = service.wait_for(crashed, "Crashed")
        assert found["state"] == "Crashed"
        assert "its process was killed by signal 11" in found["slot"]["message"]
        assert service.call("GET", "/healthz") == (200, {"status": "ok"})
        assert service.call("GET", "/readyz") == (200, {"status": "ok"})


def test_a_run_outlives_its_service(home: Path):
    with serving(home, "flows.py:long") as service:
        run_id = service.start("long")
        until(lambda: marks(home)["pid"], "the run begins")
        service.process.kill()
        service.process.wait()
    with serving(home) as service:
        (home / "go").touch()
        service.wait_for(run_id, "Success")
    assert marks(home) == {"before": 1, "pid": 1, "after": 1}


def test_a_run_that_dies_with_its_service_is_resumed_by_another(home: Path):
    with serving(home, "flows.py:long", ANABRANCH__RUNS__LEASE_S="2") as service:
        run_id = service.start("long")
        until(lambda: marks(home)["pid"], "the run begins")
        (pid,) = [int(line.split()[1]) for line in (home / "marks").read_text().splitlines() if line.startswith("pid")]
        service.process.kill()
        service.process.wait()
        os.kill(pid, signal.SIGKILL)
    (home / "go").touch()
    with serving(home, ANABRANCH__RUNS__LEASE_S="2") as service:
        found = service.wait_for(run_id, "Success")
        assert found["epoch"] == 2
    assert marks(home) == {"before": 1, "pid": 2, "after": 1}


def test_a_service_that_drains_hands_over_what_does_not_end(home: Path):
    with serving(home, "flows.py:long", "--drain", "0.1") as service:
        run_id = service.start("long")
        until(lambda: marks(home)["pid"], "the run begins")
        said = service.end()
        assert service.process.returncode == 0
        assert "handing over 1 runs" in said
    (home / "go").touch()
    with serving(home) as service:
        service.wait_for(run_id, "Success")
    assert marks(home) == {"before": 1, "pid": 2, "after": 1}


def test_a_run_can_be_cancelled_and_resumed(home: Path):
    with serving(home, "flows.py:long") as service:
        run_id = service.start("long")
        until(lambda: marks(home)["pid"], "the run begins")
        assert service.call("POST", f"/api/runs/{run_id}/cancel")[0] == 202
        assert service.wait_for(run_id, "Cancelled")["state"] == "Cancelled"
        (home / "go").touch()
        assert service.call("POST", f"/api/runs/{run_id}/resume")[0] == 202
        service.wait_for(run_id, "Success")
        assert service.call("POST", f"/api/runs/{run_id}/resume")[0] == 409
    assert marks(home)["before"] == 1


def test_a_run_that_only_waits_gives_its_place_to_others(home: Path):
    with serving(home, "flows.py:waiting", "flows.py:quick", "--max-runs", "1") as service:
        run_id = service.start("waiting")
        until(lambda: marks(home)["try"], "the run begins")
        resting = service.wait_for(run_id, "Waiting")
        assert (resting["state"], resting["tasks"]["flaky"]["state"]) == ("Paused", "Retrying")
        assert "UTC for a retry" in resting["slot"]["message"]
        service.wait_for(service.start("quick"), "Success")
        assert service.wait_for(run_id, "Success")["slot"]["tries"] == 1
        cancelled = service.start("waiting")
        until(lambda: marks(home)["try"] == 3, "another begins")
        service.wait_for(cancelled, "Waiting")
        assert service.call("POST", f"/api/runs/{cancelled}/cancel")[0] == 202
        assert service.wait_for(cancelled, "Cancelled")["state"] == "Cancelled"
    assert (marks(home)["before"], marks(home)["try"]) == (2, 3)


def test_a_run_that_takes_too_long_ends_with_its_process_and_all_that_it_has_started(home: Path):
    with serving(home, "flows.py", "--max-runs", "3", ANABRANCH__SERVICE__CANCEL_GRACE_S="1") as service:
        late = service.start("late")
        hanging = [service.start("hanging", holds=holds) for holds in (False, True)]  # one after the other: max_runs=1
        found = service.wait_for(late, "TimedOut")
        assert found["state"] == "TimedOut"
        assert found["message"] == "the run took longer than its timeout of 1 s; at work: 'sleep'"
        for run_id in hanging:
            found = service.wait_for(run_id, "TimedOut")
            assert (found["state"], found["slot"]["tries"]) == ("TimedOut", 1)
            assert found["message"].endswith("did not end; its process was killed")
        lines = [line.split() for line in (home / "marks").read_text().splitlines()]
        started = [int(pid) for name, *pids in lines if name in ("sleep", "insist") for pid in pids]
        assert len(started) == 6
        until(lambda: not any(map(is_running, started)), "all of them end")
        assert service.call("GET", "/api/flows/late")[1]["timeout_s"] == 1.0


def test_a_run_that_holds_the_interpreter_for_longer_than_its_lease_runs_once(home: Path):
    with serving(home, "flows.py:holding", ANABRANCH__RUNS__LEASE_S="1") as service:
        found = service.wait_for(service.start("holding"), "Success")
        assert (found["slot"]["tries"], found["epoch"]) == (1, 1)
    assert marks(home) == {"hold": 1, "held": 1}


@pytest.mark.parametrize("holds", [True, False])
def test_a_cancelled_run_that_does_not_end_is_ended_with_all_that_it_has_started(home: Path, holds: bool):
    with serving(home, "flows.py:insisting", ANABRANCH__SERVICE__CANCEL_GRACE_S="1") as service:
        run_id = service.start("insisting", holds=holds)
        until(lambda: marks(home)["insist"], "the run begins")
        pids = [int(each) for each in (home / "marks").read_text().split()[1:]]
        assert service.call("POST", f"/api/runs/{run_id}/cancel")[0] == 202
        found = service.wait_for(run_id, "Cancelled")
        assert "killed by signal 9" in found["slot"]["message"]
        until(lambda: not any(is_running(each) for each in pids), "its processes are gone")
        another = service.start("insisting", holds=holds)  # there is a place for it
        service.wait_for(another, "Running")
        service.call("POST", f"/api/runs/{another}/cancel")
        service.wait_for(another, "Cancelled")


def test_a_task_that_catches_its_timeout_is_ended_with_its_process(home: Path):
    with serving(home, "flows.py:overdue", ANABRANCH__SERVICE__CANCEL_GRACE_S="1") as service:
        found = service.wait_for(service.start("overdue"), "Failed")
        why = "insist ran longer than its timeout of 1 s and could not be stopped: its code catches everything"
        assert found["state"] == "Failed"
        assert found["slot"]["message"] == f"{why}; its process was killed"
        assert found["slot"]["tries"] == 1
        pids = [int(each) for each in (home / "marks").read_text().split()[1:]]
        until(lambda: not any(is_running(each) for each in pids), "its processes are gone")


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", ["with its service", "by its service's end"])
def test_a_cancelled_run_never_goes_on_whoever_dies(home: Path, how: str):
    with serving(home, "flows.py:long", "--drain", "0", ANABRANCH__RUNS__LEASE_S="2") as service:
        run_id = service.start("long")
        until(lambda: marks(home)["pid"], "the run begins")
        (pid,) = [int(line.split()[1]) for line in (home / "marks").read_text().splitlines() if line.startswith("pid")]
        if how == "with its service":
            os.kill(pid, signal.SIGSTOP)  # it does not hear of the wish
        service.call("POST", f"/api/runs/{run_id}/cancel")
        if how == "with its service":
            service.process.kill()
            os.kill(pid, signal.SIGKILL)
        else:
            service.process.terminate()
        service.process.wait()
    (home / "go").touch()
    with serving(home, ANABRANCH__RUNS__LEASE_S="2") as service:
        service.wait_for(run_id, "Cancelled")
        until(lambda: service.call("GET", f"/api/runs/{run_id}")[1]["state"] == "Cancelled", "its record ends, too")
    assert marks(home) == {"before": 1, "pid": 1}


def test_a_run_waits_for_an_approval_and_goes_on_with_it(home: Path):
    with serving(home, "flows.py:gated") as service:
        run_id = service.start("gated")
        assert service.wait_for(run_id, "Paused")["state"] == "Paused"
        assert service.call("POST", f"/api/runs/{run_id}/approve", {"tasks": ["deploy"]})[0] == 202
        service.wait_for(run_id, "Success")
    assert marks(home) == {"before": 1, "deployed": 1}


def test_a_file_that_has_gone_and_parameters_that_do_not_fit_fail_those_runs_alone(home: Path):
    (home / "other.py").write_text(FLOWS)
    register(home, "other.py:every")
    (home / "other.py").unlink()
    with serving(home, "flows.py:quick") as service:
        gone = service.start("every")
        wrong = service.start("quick", name=[1])
        quick = service.start("quick")
        assert "there is no file" in service.wait_for(gone, "Failed")["slot"]["message"]
        assert "name: expected str, found" in service.wait_for(wrong, "Failed")["slot"]["message"]
        service.wait_for(quick, "Success")
        status, answer = service.call("POST", "/api/flows/quick/runs", {"parameters": {"nam": 1}})
        assert (status, "there is no parameter 'nam'" in answer["error"]) == (422, True)


NEWS = """
import os, signal, time
from pathlib import Path
from anabranch import Flow, Parameter, task
from anabranch.notifiers import Notifier
from anabranch.schedules import IntervalSchedule

HEARD = Path(__file__).parent / "heard"

class Told(Notifier):
    def send(self, text):
        with HEARD.open("a") as file:
            file.write(text.splitlines()[0] + "\\n")

notify = Told()

def tell(flow, state):
    Told().send(f"{flow.name}: {state.name} to a function")

@task
def die():
    os.kill(os.getpid(), signal.SIGKILL)

@task
def insist():
    while True:
        try:
            time.sleep(1)
        except:
            pass

use = task(lambda number: number, name="use")

with Flow("dies", on_failure=notify, state_handlers=[notify]) as dies:
    die()
with Flow("asks", on_failure=tell) as asks:
    die()
with Flow("overdue", on_failure=notify) as overdue:
    insist(task_args={"timeout": 1})
with Flow("picky", on_failure=notify) as picky:
    use(Parameter("number", type=int, default=1))
with Flow("gone", on_failure=notify) as gone:
    use(1)

def is_open(moment):
    if (HEARD.parent / "closed").exists():
        raise LookupError("no calendar")
    return True

with Flow("resting", schedule=IntervalSchedule(2, filters=[is_open]), on_failure=notify) as resting:
    use(1)
"""


def test_whoever_asked_for_failures_is_told_once_of_every_way_in_which_a_run_fails(home: Path):
    (home / "news.py").write_text(NEWS)
    with serving(home, "news.py", "--max-runs", "2", ANABRANCH__SERVICE__CANCEL_GRACE_S="1") as service:
        ends = {"dies": "Crashed", "asks": "Crashed", "overdue": "Failed"}
        runs = {name: service.start(name) for name in ends}
        runs["picky"] = service.start("picky", number=[1])
        for name, run_id in runs.items():
            service.wait_for(run_id, ends.get(name, "Failed"))
        (home / "closed").touch()
        until(lambda: len((home / "heard").read_text().splitlines()) == 5, "all are told")
        (home / "news.py").write_text("import no_such_module")
        service.wait_for(service.start("gone"), "Failed")
        said = service.end()  # which waits for what is to be told
    heard = sorted((home / "heard").read_text().splitlines())
    expected = [
        *("asks: Crashed to a function", "dies: Crashed: given up", "gone: Failed: flow 'gone', registered from"),
        *("overdue: Failed: insist ran longer", "picky: Failed: the parameters", "resting: Failed: its schedule"),
    ]
    assert len(heard) == len(expected), (heard, said)
    assert [line[: len(each)] for line, each in zip(heard, expected, strict=True)] == expected


def test_what_the_service_logs_and_what_runs_print_is_on_standard_error(home: Path):
    with serving(home, "flows.py:crashing") as service:
        service.wait_for(service.start("crashing"), "Crashed")
        said = service.end()
    assert "killed by signal 11" in said
    assert "before the crash" in said


def test_three_services_on_one_database_of_which_one_is_killed_now_and_then_run_each_time_once(
    home: Path,
    postgres: PostgresServer,  # noqa: F811
):
    import psycopg

    url = postgres.fresh_url()
    names = {"ANABRANCH__BACKEND": url}
    command = [sys.executable, "-m", "anabranch", "register", "flows.py:every"]
    subprocess.run(command, cwd=home, env=environment(home, **names), check=True, capture_output=True)
    with ExitStack() as stack:
        services = [stack.enter_context(serving(home, **names)) for _ in range(3)]
        until(lambda: marks(home)["every"] >= 3, "the services run what is due")
        services[0].process.kill()
        services.append(stack.enter_context(serving(home, **names)))
        seen = marks(home)["every"]
        until(lambda: marks(home)["every"] >= seen + 4, "the others go on")
        for service in services[1:]:
            service.end()
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT run_id, due, state FROM anabranch_slots ORDER BY due").fetchall()
    ran = Counter(line.split()[1] for line in (home / "marks").read_text().splitlines())
    assert set(ran.values()) == {1}
    assert set(ran) == {run_id for run_id, _, state in rows if state == "Success"}
    assert {state for _, _, state in rows} <= {"Success", "Waiting"}
    times = [due for _, due, _ in rows]
    assert times == list(range(times[0], times[-1] + 1, 1_000_000))


def test_a_database_that_is_restarted_costs_no_run_doubles_no_attempt_and_leaves_every_row_right(
    home: Path,
    postgres: PostgresServer,  # noqa: F811
):
    """Row C28 of the fault matrix."""
    url = postgres.fresh_url()
    names = {"ANABRANCH__BACKEND": url}
    with serving(home, "flows.py:mapped", **names) as service:
        for _ in range(2):
            seen = marks(home)["add"]
            until(lambda seen=seen: marks(home)["add"] >= seen + 2, "the service runs what is due")
            postgres.stop("immediate")
            postgres.start()
        seen = marks(home)["add"]
        until(lambda: marks(home)["add"] >= seen + 2, "the service goes on")
        service.end()
    with open_store(url) as store:
        assert isinstance(store, RelationalRunStore)
        slots = SlotQueue(store.database).all()
        began = [slot for slot in slots if slot.state != "Waiting"]
        records = {record.run_id: record for record in store.list_runs()}
        rows = {run_id: {row.slug: row for row in store.task_runs(run_id)} for run_id in records}
        chunks = {run_id: store.chunks(run_id, "work") for run_id in records}
        assert store.check() == []
    times = [slot.due for slot in slots]
    assert times == [times[0] + timedelta(seconds=number) for number in range(len(times))]
    assert {slot.state for slot in began} == {"Success"}
    assert set(records) == {slot.run_id for slot in began}
    attempts = Counter(tuple(line.split()[1:]) for line in (home / "marks").read_text().splitlines())
    each = [("work", "0", "1"), ("work", "1", "1"), ("work", "2", "1"), ("add", "-", "1")]
    assert attempts == {(run_id, *attempt): 1 for run_id in records for attempt in each}
    for run_id, record in records.items():
        assert (record.state, record.lease_until, record.epoch) == ("Success", None, 1)
        assert record.end is not None
        assert record.start <= record.end
        assert {slug: (row.state, row.attempt) for slug, row in rows[run_id].items()} == {
            "work": ("Mapped", 1),
            "add": ("Success", 1),
        }
        assert rows[run_id]["work"].width == 3
        recorded = [index for chunk in chunks[run_id] for index in chunk.indices]
        assert sorted(recorded) == [0, 1, 2]
        assert {BY_CODE[code] for chunk in chunks[run_id] for code in chunk.codes} == {Success}


def test_two_services_on_one_sqlite_file_share_the_work(home: Path):
    with ExitStack() as stack:
        register(home, "flows.py:quick")
        services = [stack.enter_context(serving(home)) for _ in range(2)]
        runs = [services[number % 2].start("quick", name=f"n{number}") for number in range(12)]
        for run_id in runs:
            services[0].wait_for(run_id, "Success")
    assert set(marks(home).values()) == {1}
    assert len(marks(home)) == 12
    with closing(sqlite3.connect(home / "runs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

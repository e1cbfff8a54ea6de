"""What a look at a cluster finds, and whom it asks: judging by values, asking by a fake client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.protocol.pickle import dumps
from distributed.versions import get_versions

from anabranch.errors import ExecutorError, NoWorkersError, PreflightError, SchedulerUnreachable
from anabranch.executors import preflight
from anabranch.executors.fitness import Facts, Needs, PreflightReport, WorkerFacts, judge
from anabranch.executors.preflight import check, wait_for_workers

HERE = {
    "python": "3.11.7.final.0",
    "dask": "2026.8.0",
    "distributed": "2026.8.0",
    "cloudpickle": "3.1.2",
}


def worker(number: int = 1, **changes: Any) -> WorkerFacts:
    return replace(WorkerFacts(f"tcp://w:{number}", versions=HERE), **changes)


def cluster(*workers: WorkerFacts, scheduler: Mapping[str, str | None] = HERE) -> Facts:
    return Facts(HERE, scheduler, workers)


def only(lines: tuple[str, ...]) -> str:
    (line,) = lines
    return line


# Judging --------------------------------------------------------------------------------------------------------------


def test_nothing_is_found_where_nothing_is_wrong():
    report = judge(cluster(worker(1), worker(2)), Needs(resources={"t": {}}, payload_nbytes=1, directories=("/d",)))
    assert report == PreflightReport(good_workers=frozenset({"tcp://w:1", "tcp://w:2"}))
    assert str(report) == "nothing is wrong with 2 workers"


def test_another_minor_python_is_a_problem_and_its_worker_is_not_used():
    report = judge(cluster(worker(1), worker(2, versions={**HERE, "python": "3.10.13.final.0"})), Needs())
    assert only(report.problems).startswith("Python 3.10 on worker tcp://w:2, 3.11 here: ")
    assert "install Python 3.11 there, or run this from Python 3.10" in only(report.problems)
    assert report.good_workers == {"tcp://w:1"}


def test_another_patch_release_of_python_is_none():
    assert judge(cluster(worker(versions={**HERE, "python": "3.11.2.final.0"})), Needs()).problems == ()


@pytest.mark.parametrize("package", ["dask", "distributed"])
def test_another_dask_is_a_problem_wherever_it_is(package: str):
    other = {**HERE, package: "2025.1.0"}
    report = judge(cluster(worker(1, versions=other), worker(2, versions=other), scheduler=other), Needs())
    assert only(report.problems).startswith(
        f"{package} 2025.1.0 on the scheduler and workers tcp://w:1, tcp://w:2, 2026.8.0 here: "
    )


def test_another_cloudpickle_is_warned_about():
    report = judge(cluster(worker(versions={**HERE, "cloudpickle": "2.0"})), Needs())
    assert (report.problems, report.good_workers) == ((), {"tcp://w:1"})
    assert only(report.warnings).startswith("cloudpickle 2.0 on worker tcp://w:1, 3.1.2 here")


def test_a_package_that_is_not_there_is_left_to_the_probe():
    assert judge(cluster(worker(versions={**HERE, "anabranch": None})), Needs()) == judge(cluster(worker()), Needs())


def test_a_message_names_the_first_workers_and_counts_the_rest():
    old = {**HERE, "dask": "2025.1.0"}
    report = judge(cluster(*(worker(number, versions=old) for number in range(100))), Needs())
    assert "on workers tcp://w:0, tcp://w:1, tcp://w:2 (+97 others), " in only(report.problems)


def test_a_resource_that_nobody_offers_is_a_problem_that_names_the_task_and_the_command():
    facts = cluster(worker(1, resources={"GPU": 1}), worker(2, resources={"RAM": 9}))
    report = judge(facts, Needs(resources={"train": {"GPU": 2}, "load": {"RAM": 9}}))
    assert only(report.problems) == (
        "task 'train' wants GPU=2, and no worker offers that (GPU: at most 1); "
        'start one with `dask worker … --resources "GPU=2"`'
    )


def test_resources_must_be_offered_by_one_worker_together():
    facts = cluster(worker(1, resources={"GPU": 1}), worker(2, resources={"RAM": 9}))
    assert "wants GPU=1, RAM=9" in only(judge(facts, Needs(resources={"t": {"GPU": 1, "RAM": 9}})).problems)


def test_an_adaptive_cluster_may_yet_offer_a_resource():
    report = judge(cluster(), Needs(resources={"train": {"GPU": 1}}, may_grow=True))
    assert report.problems == ()
    assert "it waits until one comes" in only(report.warnings)


def test_a_large_payload_is_warned_about():
    assert only(judge(cluster(worker()), Needs(payload_nbytes=32 << 20)).warnings).startswith("32 MiB of code")
    assert judge(cluster(worker()), Needs(payload_nbytes=10 << 20)).warnings == ()


def test_workers_that_are_paused_silent_or_without_room_are_warned_about():
    facts = cluster(
        worker(1, is_paused=True), worker(2, versions=None), worker(3, trouble="only 3 MiB are free in /scratch")
    )
    assert judge(facts, Needs()).warnings == (
        "no answer from worker tcp://w:2: busy, or cut off; nothing is known of its versions",
        "paused for want of memory, and beginning nothing new: worker tcp://w:1",
        "worker tcp://w:3: only 3 MiB are free in /scratch",
    )


def test_a_directory_that_no_worker_sees_is_a_problem_and_one_that_some_see_a_warning():
    blind = worker(1, unseen=frozenset({"/results"}))
    needs = Needs(directories=("/results",))
    assert "/results of this machine is not there for worker tcp://w:1" in only(judge(cluster(blind), needs).problems)
    report = judge(cluster(blind, worker(2)), needs)
    assert (len(report.warnings), report.problems, report.good_workers) == (1, (), {"tcp://w:2"})


def test_code_that_loads_nowhere_is_a_problem_and_code_that_loads_somewhere_a_warning():
    deaf = worker(1, probe="ModuleNotFoundError: No module named 'helpers'")
    report = judge(cluster(deaf), Needs())
    assert only(report.problems) == (
        "the flow's code does not load on worker tcp://w:1: ModuleNotFoundError: No module named 'helpers'"
    )
    report = judge(cluster(deaf, worker(2)), Needs())
    assert (len(report.warnings), report.problems, report.good_workers) == (1, (), {"tcp://w:2"})


def test_all_problems_are_raised_at_once():
    facts = cluster(worker(versions={**HERE, "python": "3.10.1", "dask": "1", "cloudpickle": "1"}))
    report = judge(facts, Needs(resources={"t": {"GPU": 1}}))
    with pytest.raises(PreflightError, match="cluster at tcp://s:1 cannot run this flow:") as refusal:
        report.raise_problems("tcp://s:1")
    assert isinstance(refusal.value, ExecutorError)
    assert refusal.value.problems == report.problems
    assert [line[4:10] for line in str(refusal.value).splitlines()[1:]] == ["Python", "dask 1", "task '"]
    assert [line.partition(":")[0] for line in str(report).splitlines()] == ["problem"] * 3 + ["warning"]
    PreflightReport(warnings=("w",)).raise_problems("tcp://s:1")


# Asking ---------------------------------------------------------------------------------------------------------------


class FakeWorker:
    def __init__(self, directory: Path, **versions: str) -> None:
        self.local_directory = str(directory)
        self.versions = {**get_versions()["packages"], **versions}
        self.is_hung = False


class FakeClient:
    """A client of a scheduler with some workers; counts what is asked of whom."""

    def __init__(self, scheduler_id: str, **workers: FakeWorker) -> None:
        self.workers = workers
        self.scheduler_id = scheduler_id
        self.asked: list[tuple[str, list[str]]] = []
        self.scheduler = self
        self.address = "tcp://s:1"
        self.status = "running"

    def sync(self, function: Any, *args: Any) -> Any:
        return asyncio.run(function(*args))

    async def identity(self, n_workers: int) -> dict[str, Any]:
        each = {
            name: {"status": self.status, "resources": {}, "local_directory": worker.local_directory}
            for name, worker in self.workers.items()
        }
        return {"id": self.scheduler_id, "workers": each}

    async def versions(self) -> dict[str, Any]:
        self.asked.append(("scheduler", []))
        return dict(get_versions())

    async def broadcast(self, msg: dict[str, Any], workers: list[str], on_error: str) -> dict[str, Any]:
        self.asked.append((msg["op"], workers))
        await self._hang(workers)
        return {name: {"packages": self.workers[name].versions} for name in workers}

    async def run(self, function: Any, *args: Any, workers: list[str], on_error: str) -> dict[str, Any]:
        self.asked.append(("run", workers))
        await self._hang(workers)
        return {name: await function(*args, dask_worker=self.workers[name]) for name in workers}

    async def _hang(self, workers: list[str]) -> None:
        if any(self.workers[name].is_hung for name in workers):
            await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    preflight.forget()
    yield
    preflight.forget()


def load(data: bytes) -> str | None:
    return None if data == b"good" else f"cannot load {data.decode()}"


def test_workers_are_asked_once_while_they_live(tmp_path: Path):
    client = FakeClient("s", a=FakeWorker(tmp_path), b=FakeWorker(tmp_path))
    assert check(client).good_workers == {"a", "b"}
    assert client.asked == [("scheduler", []), ("versions", ["a", "b"]), ("run", ["a", "b"])]
    client.asked.clear()
    assert check(client).good_workers == {"a", "b"}
    assert client.asked == []


def test_a_worker_that_comes_later_is_asked_alone_and_so_is_one_that_came_back(tmp_path: Path):
    client = FakeClient("s", a=FakeWorker(tmp_path))
    check(client)
    (tmp_path / "new").mkdir()
    client.workers["b"] = FakeWorker(tmp_path)
    client.asked.clear()
    check(client)
    assert client.asked == [("versions", ["b"]), ("run", ["b"])]
    client.workers["a"] = FakeWorker(tmp_path / "new")  # another process at the same address
    client.asked.clear()
    check(client)
    assert client.asked == [("versions", ["a"]), ("run", ["a"])]


def test_another_scheduler_is_another_cluster(tmp_path: Path):
    check(FakeClient("s", a=FakeWorker(tmp_path)))
    client = FakeClient("t", a=FakeWorker(tmp_path))
    check(client)
    assert [asked for asked, _ in client.asked] == ["scheduler", "versions", "run"]


def test_no_code_is_sent_to_a_worker_of_another_python(tmp_path: Path):
    client = FakeClient("s", a=FakeWorker(tmp_path), b=FakeWorker(tmp_path, python="3.9.1.final.0"))
    report = check(client, Needs(probe=load, probe_data=b"good"))
    assert ("run", ["a"]) in client.asked
    assert "Python 3.9 on worker b" in only(report.problems)
    client.asked.clear()
    assert check(client).problems == report.problems  # and that is remembered
    assert client.asked == []


def test_the_probe_is_run_each_time_as_every_run_has_its_own_code(tmp_path: Path):
    client = FakeClient("s", a=FakeWorker(tmp_path))
    assert check(client, Needs(probe=load, probe_data=b"good")).problems == ()
    assert only(check(client, Needs(probe=load, probe_data=b"bad")).problems).endswith("worker a: cannot load bad")


def test_a_probe_that_fails_is_an_answer(tmp_path: Path):
    client = FakeClient("s", a=FakeWorker(tmp_path))
    assert only(check(client, Needs(probe=int, probe_data=b"x")).problems).endswith(  # type: ignore[arg-type]
        "ValueError: invalid literal for int() with base 10: b'x'"
    )


def test_a_worker_that_hangs_does_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "ANSWER_S", 0.05)
    monkeypatch.setattr(preflight, "EACH_S", 0.05)
    client = FakeClient("s", a=FakeWorker(tmp_path), b=FakeWorker(tmp_path))
    client.workers["b"].is_hung = True
    report = check(client)
    assert only(report.warnings) == "no answer from worker b: busy, or cut off; nothing is known of its versions"
    assert report.good_workers == {"a", "b"}  # being busy is no fault


def test_a_local_directory_that_is_gone_is_warned_about_until_it_is_back(tmp_path: Path):
    client = FakeClient("s", a=FakeWorker(tmp_path / "scratch"))
    assert "its local directory" in only(check(client).warnings)
    (tmp_path / "scratch").mkdir()
    assert check(client).warnings == ()


def test_a_full_disk_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "ROOM_NBYTES", 1 << 60)
    assert " MiB are free in its local directory" in only(check(FakeClient("s", a=FakeWorker(tmp_path))).warnings)


def test_a_result_directory_is_made_looked_for_and_left_clean(tmp_path: Path):
    results = tmp_path / "deep" / "results"
    client = FakeClient("s", a=FakeWorker(tmp_path))
    assert check(client, Needs(directories=[str(results)])).problems == ()
    assert os.listdir(results) == []
    client.asked.clear()
    check(client, Needs(directories=[str(results)]))
    assert client.asked == []  # where it has been seen it is not looked for again


def test_a_worker_elsewhere_does_not_see_a_directory_of_this_machine(tmp_path: Path):
    elsewhere = SimpleNamespace(local_directory=str(tmp_path))
    markers = {"/results": str(tmp_path / "not-on-that-machine")}
    look = asyncio.run(preflight._look(markers, None, b"", 0, dask_worker=elsewhere))
    assert look == {"trouble": None, "unseen": ["/results"], "probe": None}


def test_a_result_directory_that_cannot_be_made_is_a_problem(tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="ascii")
    report = check(FakeClient("s", a=FakeWorker(tmp_path)), Needs(directories=[str(tmp_path / "file" / "results")]))
    assert only(report.problems).startswith(f"cannot write in {tmp_path / 'file' / 'results'}: ")


ELSEWHERE = """
import asyncio, pickle, sys, types
sys.modules["anabranch"] = None  # as if it were not installed
look = pickle.load(sys.stdin.buffer)
worker = types.SimpleNamespace(local_directory=".")
print(asyncio.run(look({}, None, b"", 0, dask_worker=worker)))
"""


def test_the_look_needs_no_anabranch_where_it_is_run(tmp_path: Path):
    outcome = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], input=dumps(preflight._look), capture_output=True, cwd=tmp_path, timeout=60
    )
    assert outcome.stdout.decode().strip() == str({"trouble": None, "unseen": [], "probe": None}), (
        outcome.stderr.decode()
    )


def test_a_scheduler_that_is_gone_is_said_to_be():
    client = FakeClient("s")

    async def gone(n_workers: int) -> None:
        raise ConnectionResetError("reset by peer")

    client.identity = gone  # type: ignore[assignment,method-assign]
    with pytest.raises(SchedulerUnreachable, match="does not answer any more: reset by peer"):
        check(client)
    with pytest.raises(SchedulerUnreachable, match="scheduler at tcp://s:1 does not answer any more"):
        wait_for_workers(client, 1.0, pytest.fail)


# Waiting --------------------------------------------------------------------------------------------------------------


def test_where_a_worker_runs_there_is_no_waiting(tmp_path: Path):
    wait_for_workers(FakeClient("s", a=FakeWorker(tmp_path)), 60.0, pytest.fail)


def test_waiting_is_told_once_and_ends_at_the_limit():
    said: list[str] = []
    with pytest.raises(NoWorkersError, match=r"no workers at tcp://s:1, and none came within 0.05 s; start one with"):
        wait_for_workers(FakeClient("s"), 0.05, said.append, patience_s=0.01)
    assert said == ["no workers yet at tcp://s:1, waiting up to 0.05 s; start one with `dask worker tcp://s:1`"]


def test_a_wait_shorter_than_ones_patience_is_not_spoken_of():
    with pytest.raises(NoWorkersError, match=r"within 0\.01 s"):
        wait_for_workers(FakeClient("s"), 0.01, pytest.fail)


def test_paused_workers_are_waited_for_as_such(tmp_path: Path):
    client = FakeClient("s", a=FakeWorker(tmp_path))
    client.status = "paused"

    def resume(message: str) -> None:
        assert message.startswith(
            "all workers at KubeCluster (1) are paused for want of memory, waiting up to 60 s; look"
        )
        client.status = "running"

    wait_for_workers(client, 60.0, resume, address="KubeCluster", how="look at its pods", patience_s=0.01)
    assert client.status == "running"

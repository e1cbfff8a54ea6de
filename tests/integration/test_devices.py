"""GPUs of stock workers: which of them a task has, and that they are free again however it ends. No GPU is needed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Nanny, Scheduler, SpecCluster

from anabranch import Flow, context, task, unmapped
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    """A worker with two slots that was shown a GPU and a part of one, and a worker with one slot."""
    common = {"host": "127.0.0.1"}
    pair = {**common, "nthreads": 2, "resources": {"GPU": 2, "pair": 2}, "env": {"CUDA_VISIBLE_DEVICES": "GPU-a,MIG-b"}}
    single = {**common, "nthreads": 1, "resources": {"GPU": 3, "single": 1}}
    workers = {name: {"cls": Nanny, "options": options} for name, options in (("pair", pair), ("single", single))}
    scheduler = {"cls": Scheduler, "options": {**common, "port": 0, "dashboard_address": "127.0.0.1:0"}}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
            patch.delenv(name, raising=False)
        with SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50) as made:
            yield made


def seen() -> tuple[tuple[str, ...], str | None, str | None]:
    """What task code can know of its devices."""
    return context.devices, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("HIP_VISIBLE_DEVICES")


def meet(x: int, folder: Path, count: int) -> Any:
    """What is seen while so many elements run at the same time."""
    (folder / str(x)).touch()
    end = time.monotonic() + 60
    while sum(1 for _ in folder.iterdir()) < count:
        assert time.monotonic() < end, "the others do not run at the same time"
        time.sleep(0.01)
    return seen()


def run(cluster: SpecCluster, function: Any, elements: list[int], *args: Any, **options: Any) -> Any:
    mapped = task(function, name="train", chunksize=1, **options)
    with Flow("gpus") as flow:
        node = mapped.map(elements, *map(unmapped, args))
    return flow.run(executor=DaskExecutor(cluster.scheduler_address)).result[node]


def test_tasks_that_run_at_the_same_time_have_devices_of_their_own(cluster: SpecCluster, tmp_path: Path):
    wants: dict[str, Any] = {"resources": {"GPU": 1, "pair": 1}}

    (tmp_path / "child").mkdir()
    children = run(cluster, meet, [0, 1], tmp_path / "child", 2, isolation="process", **wants)
    (tmp_path / "thread").mkdir()
    threads = run(cluster, meet, [0, 1], tmp_path / "thread", 2, **wants)

    assert sorted(children.result) == [(("GPU-a",), "GPU-a", "GPU-a"), (("MIG-b",), "MIG-b", "MIG-b")]
    # Two threads have one environment: it is as the worker was given it.
    assert sorted(threads.result) == [(("GPU-a",), "GPU-a,MIG-b", None), (("MIG-b",), "GPU-a,MIG-b", None)]


def test_halves_share_a_device(cluster: SpecCluster, tmp_path: Path):
    state = run(cluster, meet, [0, 1], tmp_path, 2, isolation="process", resources={"GPU": 0.5, "pair": 1})

    assert set(state.result) == {(("GPU-a",), "GPU-a", "GPU-a")}


def test_devices_are_free_again_however_a_task_ends(cluster: SpecCluster):
    def end(x: int) -> None:
        match x:
            case 0:
                raise ValueError(seen())
            case 1:
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                time.sleep(600)

    ways: dict[str, Any] = {"isolation": "process", "timeout": 4, "max_retries": 1, "retry_on": ValueError}
    ended = run(cluster, end, [0, 1, 2], resources={"GPU": 2, "pair": 1}, **ways)
    state = run(cluster, lambda x: seen(), [0], isolation="process", resources={"GPU": 2, "pair": 1})

    assert [each.name for each in ended.map_states] == ["Failed", "Crashed", "TimedOut"]
    assert "GPU-a,MIG-b" in ended.map_states[0].message
    assert ended.map_states[0].worker.endswith(" GPU GPU-a,MIG-b")
    assert state.result == [(("GPU-a", "MIG-b"), "GPU-a,MIG-b", "GPU-a,MIG-b")]


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_where_one_task_runs_at_a_time_its_environment_shows_its_devices(cluster: SpecCluster, isolation: str):
    def look(x: int) -> Any:
        return seen()

    def look_bare(x: int) -> Any:
        return seen()

    state = run(cluster, look, [0, 1], isolation=isolation, resources={"GPU": 1.5, "single": 1})
    bare = run(cluster, look_bare, [0], isolation=isolation, resources={"single": 1})

    assert state.result == [(("0", "1"), "0,1", "0,1")] * 2
    assert bare.result == [((), None, None)]


def test_awaited_elements_have_the_devices_of_their_chunk(cluster: SpecCluster):
    async def look(x: int) -> Any:
        return seen()

    state = run(cluster, look, [0, 1], resources={"GPU": 1, "single": 1})

    assert state.result == [(("0",), None, None)] * 2


@pytest.mark.parametrize("executor", [LocalExecutor(), LocalDaskExecutor(num_workers=1)])
def test_without_workers_that_offer_devices_all_of_them_are_seen(executor: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    with Flow("gpus") as flow:
        node = task(seen, name="train", resources={"GPU": 1})()

    assert flow.run(executor=executor).result[node].result == ((), "4,5", None)

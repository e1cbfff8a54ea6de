"""Executors, run configurations and environments of Prefect 1."""

from __future__ import annotations

from typing import Any

import pytest
from tests.refusals import refused

from anabranch import executors
from anabranch.errors import PrefectNameError
from anabranch.prefect import machines
from anabranch.prefect.machines import (
    DaskExecutor,
    DaskKubernetesEnvironment,
    KubernetesRun,
    LocalDaskExecutor,
    LocalEnvironment,
    RemoteDaskEnvironment,
    RunConfig,
)


def test_a_dask_executor_takes_what_it_took():
    there = DaskExecutor("host:8786", debug=True, disable_cancellation_event=True, watch_worker_status=False)
    assert there.address == "tcp://host:8786"
    made = DaskExecutor(n_workers=2, local_processes=False, performance_report_path="r.html")
    assert made.cluster_kwargs == {"processes": False, "n_workers": 2}
    assert made.performance_report == "r.html"
    assert DaskExecutor(address="local", cluster_kwargs={"n_workers": 1}).address is None


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({}, "LocalDaskExecutor(scheduler='threads'"),
        ({"scheduler": "sync"}, "LocalDaskExecutor(scheduler='synchronous'"),
        ({"scheduler": "single-threaded", "debug": True}, "LocalDaskExecutor(scheduler='synchronous'"),
        ({"num_workers": 3}, "LocalDaskExecutor(scheduler='threads', num_workers=3)"),
        ({"scheduler": "processes"}, "DaskExecutor()"),
    ],
)
def test_a_local_dask_executor_takes_the_names_of_dasks_schedulers(arguments: dict[str, Any], shown: str):
    assert repr(LocalDaskExecutor(**arguments)).startswith(shown)


def test_processes_are_a_cluster_of_this_machine():
    executor: Any = LocalDaskExecutor(scheduler="processes", num_workers=3)
    assert executor.cluster_kwargs == {"threads_per_worker": 1, "n_workers": 3}


def test_a_kubernetes_run_is_a_cluster_with_its_image_variables_and_resources():
    config = KubernetesRun(
        image="team/image", env={"A": "1"}, cpu_limit=2, cpu_request="500m", memory_limit="4Gi", labels=["x"]
    )
    executor: Any = config.executor()
    assert executor.cluster_class == "dask_kubernetes.operator.KubeCluster"
    assert executor.cluster_kwargs == {
        "image": "team/image",
        "env": {"A": "1"},
        "resources": {"limits": {"cpu": "2", "memory": "4Gi"}, "requests": {"cpu": "500m"}},
    }
    assert config.labels == ["x"]
    with refused(PrefectNameError, "KubernetesRun(job_template=) has no meaning here", "KubeCluster"):
        KubernetesRun(job_template={"x": 1})


def test_environments_of_0_x_are_executors():
    mine = executors.LocalExecutor()
    assert LocalEnvironment(executor=mine).executor() is mine
    cluster: Any = DaskKubernetesEnvironment(min_workers=2, max_workers=5, image="i").executor()
    assert (cluster.cluster_kwargs, cluster.adapt_kwargs) == ({"image": "i"}, {"minimum": 2, "maximum": 5})
    there: Any = RemoteDaskEnvironment("tcp://host:1").executor()
    assert there.address == "tcp://host:1"


def test_others_run_here_and_are_refused_by_services():
    assert RunConfig().executor() is None
    RunConfig().check()
    for name in (*("DockerRun", "ECSRun", "VertexRun"), *("RemoteEnvironment", "KubernetesJobEnvironment")):
        kind = getattr(machines, name)
        assert kind(image="x", labels=["a"]).executor() is None
        with refused(PrefectNameError, f"services do not start runs as {name} says", "start anabranch serve"):
            kind().check()
    with refused(PrefectNameError, "cluster_class="):
        machines.DaskCloudProviderEnvironment(provider_class="x").check()

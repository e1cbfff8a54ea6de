"""Executors, run configurations and environments of Prefect 1: which executor each of them means."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from anabranch import executors
from anabranch.base.errors import PrefectNameError
from anabranch.base.prefect1 import row_of
from anabranch.base.where import caller
from anabranch.executors.base import Executor

KUBE_CLUSTER = "dask_kubernetes.operator.KubeCluster"


def DaskExecutor(  # noqa: N802  # a class there
    address: str | None = None,
    cluster_class: Any = None,
    cluster_kwargs: Mapping[str, Any] | None = None,
    adapt_kwargs: Mapping[str, Any] | None = None,
    client_kwargs: Mapping[str, Any] | None = None,
    debug: bool | None = None,
    performance_report_path: str | None = None,
    disable_cancellation_event: bool = False,
    watch_worker_status: bool | None = None,
    local_processes: bool | None = None,
    **options: Any,
) -> executors.DaskExecutor:
    """As `anabranch.executors.DaskExecutor`. Further options, and `local_processes`, are of the cluster, as in 0.x."""
    own = {**({"processes": local_processes} if local_processes is not None else {}), **options}
    return executors.DaskExecutor(
        None if address == "local" else address,
        cluster_class=cluster_class,
        cluster_kwargs={**own, **(cluster_kwargs or {})} or None,
        adapt_kwargs=adapt_kwargs,
        client_kwargs=client_kwargs,
        performance_report=performance_report_path,
    )


def LocalDaskExecutor(  # noqa: N802  # a class there
    scheduler: str = "threads", num_workers: int | None = None, debug: bool | None = None, **options: Any
) -> Executor:
    """As `anabranch.executors.LocalDaskExecutor`; for processes, a cluster of this machine."""
    if scheduler in ("processes", "multiprocessing"):
        workers = {} if num_workers is None else {"n_workers": num_workers}
        return executors.DaskExecutor(cluster_kwargs={"threads_per_worker": 1, **workers})
    is_one = scheduler in ("sync", "synchronous", "single-threaded")
    return executors.LocalDaskExecutor("synchronous" if is_one else "threads", num_workers, **options)


class RunConfig:
    """Where runs of a flow are executed; here, an executor and variables of the environment.

    Parameters
    ----------
    env
        Variables of the processes that run the flow and its tasks.
    labels
        For the registry.
    """

    def __init__(self, env: Mapping[str, str] | None = None, labels: Iterable[str] | None = None) -> None:
        self.env = dict(env or {})
        self.labels = sorted(labels or ())

    def executor(self) -> Executor | None:
        """The executor that it means; None for this process."""
        return None

    def check(self) -> None:
        """Refuse to be registered, if a service cannot do it."""

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within it, this process has the variables."""
        before = {name: os.environ.get(name) for name in self.env}
        os.environ.update({name: str(value) for name, value in self.env.items()})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class UniversalRun(RunConfig):
    """Runs wherever the service is."""


class LocalRun(RunConfig):
    """Runs on the machine of the service.

    Parameters
    ----------
    working_dir
        Directory that the run is in.
    """

    def __init__(self, *, working_dir: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.working_dir = working_dir

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within it, this process has the variables, and is in the directory."""
        before = os.getcwd()
        with super().entered():
            if self.working_dir is not None:
                os.chdir(self.working_dir)
            try:
                yield
            finally:
                os.chdir(before)


class KubernetesRun(RunConfig):
    """Runs on a Dask cluster that is made for the run in Kubernetes, by the operator of dask-kubernetes.

    Parameters
    ----------
    image, env
        Of the pods of scheduler and workers.
    cpu_limit, cpu_request, memory_limit, memory_request
        Resources of each worker.
    **options
        Of Prefect's jobs; they are refused, but for labels.
    """

    def __init__(
        self,
        *,
        image: str | None = None,
        env: Mapping[str, str] | None = None,
        cpu_limit: float | str | None = None,
        cpu_request: float | str | None = None,
        memory_limit: str | None = None,
        memory_request: str | None = None,
        labels: Iterable[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(env, labels)
        given = sorted(name for name, value in options.items() if value is not None)
        if given:
            row = row_of(f"KubernetesRun({given[0]}=)", "KubernetesRun")
            raise PrefectNameError(f"KubernetesRun({given[0]}=) has no meaning here ({caller()}); {row}")
        self.image = image
        self.resources: dict[str, dict[str, str]] = {}
        for kind, cpu, memory in (("limits", cpu_limit, memory_limit), ("requests", cpu_request, memory_request)):
            known = {"cpu": cpu, "memory": memory}
            if found := {name: str(value) for name, value in known.items() if value is not None}:
                self.resources[kind] = found

    def executor(self) -> Executor:
        """The cluster."""
        known = {"image": self.image, "env": self.env, "resources": self.resources}
        options = {name: value for name, value in known.items() if value}
        return executors.DaskExecutor(cluster_class=KUBE_CLUSTER, cluster_kwargs=options)


class _Elsewhere(RunConfig):
    """One that no service here carries out: runs that are started by hand are executed here, as in Prefect 1."""

    def __init__(self, **options: Any) -> None:
        super().__init__(options.get("env"), options.get("labels"))
        self.options = options

    def check(self) -> None:
        """Refuse to be registered."""
        name = type(self).__name__
        raise PrefectNameError(f"services do not start runs as {name} says ({caller()}); {row_of(name)}")


class DockerRun(_Elsewhere):
    """Runs in a container."""


class ECSRun(_Elsewhere):
    """Runs as a task of ECS."""


class VertexRun(_Elsewhere):
    """Runs as a job of Vertex."""


class LocalEnvironment(RunConfig):
    """Runs in the process of the service, with an executor."""

    def __init__(self, executor: Executor | None = None, labels: Iterable[str] | None = None, **options: Any) -> None:
        super().__init__(labels=labels)
        self._executor = executor

    def executor(self) -> Executor | None:
        """The one that was given."""
        return self._executor


class Environment(LocalEnvironment):
    """As `LocalEnvironment`."""


class DaskKubernetesEnvironment(RunConfig):
    """Runs on a Dask cluster in Kubernetes that grows and shrinks."""

    def __init__(
        self,
        min_workers: int = 1,
        max_workers: int = 2,
        labels: Iterable[str] | None = None,
        image: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(labels=labels)
        self.image = image
        self.adapt_kwargs = {"minimum": min_workers, "maximum": max_workers}

    def executor(self) -> Executor:
        """The cluster."""
        options = {} if self.image is None else {"image": self.image}
        return executors.DaskExecutor(
            cluster_class=KUBE_CLUSTER, cluster_kwargs=options, adapt_kwargs=self.adapt_kwargs
        )


class RemoteDaskEnvironment(RunConfig):
    """Runs on the Dask cluster at an address."""

    def __init__(self, address: str, labels: Iterable[str] | None = None, **options: Any) -> None:
        super().__init__(labels=labels)
        self.address = address

    def executor(self) -> Executor:
        """The cluster."""
        return executors.DaskExecutor(self.address)


class RemoteEnvironment(_Elsewhere):
    """Runs with an executor that is named as text."""


class DaskCloudProviderEnvironment(_Elsewhere):
    """Runs on a cluster of dask-cloudprovider."""


class FargateTaskEnvironment(_Elsewhere):
    """Runs as a task of Fargate."""


class KubernetesJobEnvironment(_Elsewhere):
    """Runs as a job of Kubernetes."""

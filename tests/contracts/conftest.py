"""Where most contracts hold: the executors, each as `executor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a scheduler with two one-thread worker processes."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(params=["local", "threads", pytest.param("dask", marks=pytest.mark.cluster)])
def executor(request: pytest.FixtureRequest) -> Any:
    """Each executor; a module says by THREADS how many threads there are, if two are not enough."""
    if request.param == "local":
        return LocalExecutor()
    if request.param == "threads":
        return LocalDaskExecutor(num_workers=getattr(request.module, "THREADS", 2))
    return DaskExecutor(request.getfixturevalue("address"))

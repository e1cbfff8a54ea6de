"""Rates on real executors, measured by a server that is slow, fails, and turns away at times."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from benchmarks.rates import flow_of, served, summary_of

from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.executors.base import Executor


@pytest.mark.parametrize(
    "executor",
    [
        pytest.param(LocalExecutor, id="local"),
        pytest.param(lambda: LocalDaskExecutor(num_workers=2), id="threads"),
        pytest.param(
            lambda: DaskExecutor(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1}),
            id="dask",
            marks=pytest.mark.cluster,
        ),
    ],
)
def test_a_server_never_sees_more_than_the_rate(executor: Callable[[], Executor]) -> None:
    flow, total = flow_of(300, 150)

    with served() as port:
        state = flow.run(port=port, executor=executor())
        seen = summary_of(port)

    assert state.result[total].result == 300 * 299
    assert (seen["200"], seen["early"]) == (300, 0)
    assert seen["requests"] == sum(seen.get(status, 0) for status in ("200", "429", "500", ""))
    assert seen["429"] > 0
    assert seen["500"] > 0
    assert seen["most"] <= 150

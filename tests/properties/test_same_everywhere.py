"""A flow gives the same states and values whatever runs it: as the reference interpreter says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.descriptions import Seen, Statement, approved, build, seen_in, shown
from tests.properties.strategies import engine_settings, flows
from tests.reference import Run, interpret

from anabranch import config
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.executors.base import Executor

pytestmark = pytest.mark.timeout(400)  # when one fails, Hypothesis takes its time to find out why

ANY_EXECUTOR = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def seen_from(run: Run, *, is_map: bool) -> Seen:
    """A run of the reference in the form that runs of the engine are compared in."""
    elements = tuple(seen_from(each, is_map=False) for each in run.elements or ()) if is_map else ()
    return Seen(run.state, None if run.state == "Skipped" and not is_map else shown(run.value), elements)


def expected_of(statements: Sequence[Statement]) -> dict[str, Seen]:
    """What the reference says of a description."""
    flow = build(statements)
    graph = flow.graph.freeze()
    parameters = {node.slug: node.default_value for node in flow.parameters()}
    runs = interpret(graph, parameters, approved=frozenset(node.slug for node in approved(flow)))
    return {slug: seen_from(run, is_map=graph.nodes[slug].is_map) for slug, run in runs.items()}


def check(statements: Sequence[Statement], engine: Mapping[str, Any], executor: Executor) -> None:
    """Run a description and compare."""
    flow = build(statements)
    with config.set({f"engine.{name}": value for name, value in engine.items()}):
        view = flow.run(executor=executor, keep="all", approve=approved(flow))
    expected = expected_of(statements)
    found = seen_in(view)
    differing = {
        slug: {"expected": expected[slug], "found": found[slug]} for slug in expected if found[slug] != expected[slug]
    }
    assert not differing, "\n".join(f"{slug}: {each}" for slug, each in differing.items())
    assert list(found) == list(expected)


@settings(ANY_EXECUTOR, max_examples=1000)
@given(flows(delays=(0.0, 0.0, 0.001)), engine_settings)
def test_in_this_thread_flows_give_what_the_reference_gives(
    statements: list[Statement], engine: dict[str, Any]
) -> None:
    check(statements, engine, LocalExecutor())


@settings(ANY_EXECUTOR, max_examples=400)
@given(flows(), engine_settings)
def test_in_threads_flows_give_what_the_reference_gives(statements: list[Statement], engine: dict[str, Any]) -> None:
    check(statements, engine, LocalDaskExecutor(num_workers=3))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two one-thread worker processes."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        yield cluster.scheduler_address


@pytest.mark.cluster
@settings(ANY_EXECUTOR, max_examples=40)
@given(statements=flows(), engine=engine_settings)
def test_on_a_cluster_flows_give_what_the_reference_gives(
    address: str, statements: list[Statement], engine: dict[str, Any]
) -> None:
    check(statements, engine, DaskExecutor(address))

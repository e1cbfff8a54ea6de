"""What states, handlers, signals and resources mean, the same on every executor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, Task, context, resource_manager, task, triggers, unmapped
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.signals import LOOP, RETRY, SKIP
from anabranch.states import Failed, Mapped, Skipped, Success, TriggerFailed


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as made:
        yield made


@pytest.fixture(params=["local", "threads", pytest.param("dask", marks=pytest.mark.cluster)])
def executor(request: pytest.FixtureRequest) -> Any:
    if request.param == "dask":
        return DaskExecutor(request.getfixturevalue("cluster").scheduler_address)
    return LocalExecutor() if request.param == "local" else LocalDaskExecutor(num_workers=2)


@pytest.fixture(params=["thread", "process"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def too_few(node: Any, old: Any, new: Any) -> Any:
    """A handler that takes a small value for a failure, and a failure that says so for a value."""
    if new.is_failed() and isinstance(new.result, KeyError):
        return Success(result=new.result.args[0])
    return Failed("too few") if new.is_successful() and new.result < 3 else None


def test_handlers_decide_about_values_and_failures(executor: Any, isolation: str) -> None:
    def rows(x: int) -> int:
        if x == 7:
            raise KeyError(x)
        return int(context.task_run_count)

    counts = task(rows, max_retries=2, isolation=isolation, state_handlers=[too_few])
    with Flow("rows") as flow:
        single, mapped, replaced = counts(1), counts.map([2, 3]), counts(7)

    run = flow.run(executor=executor)

    assert [run.result[each].result for each in (single, mapped, replaced)] == [3, [3, 3], 7]
    assert [each.attempt for each in run.result[mapped].map_states] == [3, 3]


def test_budgets_of_retries_are_of_failures_and_of_each_round(executor: Any, isolation: str) -> None:
    def climb(x: int) -> tuple[int, int]:
        count = context.task_run_count
        if count <= 2:
            raise RETRY("busy")
        if count <= 4:
            raise ConnectionError(count)
        if context.task_loop_count < 3:
            raise LOOP(result=count)
        return context.task_loop_count, count

    climbs = task(climb, max_retries=2, isolation=isolation)
    with Flow("stairs") as flow:
        single, mapped = climbs(1), climbs.map([1, 2])

    run = flow.run(executor=executor)

    assert run.result[single].result == (3, 5)
    assert run.result[mapped].result == [(3, 5)] * 2


def test_what_a_skip_gives_is_kept_and_classes_of_states_hold(executor: Any, isolation: str) -> None:
    def skip(x: int) -> int:
        if x == 2:
            raise ValueError("broken")
        raise SKIP(result=x)

    skips = task(skip, isolation=isolation)
    take = task(lambda x: x, name="take", trigger=triggers.all_finished, skip_on_upstream_skip=False)
    with Flow("skips") as flow:
        single, mapped = skips(1), skips.map([1, 3])
        taken, failed = take([single, mapped]), task(lambda x: x)(skips(2))

    run = flow.run(executor=executor)

    assert isinstance(run, Failed)
    assert isinstance(run.result[single], Skipped)
    assert isinstance(run.result[mapped], Success)
    assert not isinstance(run.result[mapped], Mapped)  # all of it was skipped
    assert isinstance(run.result[failed], TriggerFailed)
    assert [run.result[single].result, run.result[mapped].result] == [1, [1, 3]]
    assert run.result[taken].result == [1, [1, 3]]


def test_a_trigger_of_the_users_sees_the_values_that_its_edges_carry(executor: Any, isolation: str) -> None:
    def fits(upstreams: Any) -> bool:
        values = {edge.key: state.result for edge, state in upstreams.items() if edge.kind == "data"}
        many = values["many"]
        return bool(values["rows"] > 2 and isinstance(many[1], ZeroDivisionError) and many[0] == 1.0)

    divide = task(lambda x: 1 / x, name="divide", isolation=isolation)
    take = task(lambda rows, many: rows, name="take", trigger=fits)
    failing = task(lambda x: x, name="told", trigger=lambda ups: "zero" in str(next(iter(ups.values())).result))
    with Flow("custom") as flow:
        count, many = task(lambda: 3, name="count"), divide.map([1, 0])
        nodes = take(count(), many), take(task(lambda: 2, name="two")(), many), failing(divide(0))
        mapped = take.map(task(lambda: [1, 3], name="numbers")(), unmapped(many))

    run = flow.run(executor=executor)

    assert [run.result[node].name for node in nodes] == ["Success", "TriggerFailed", "Success"]
    assert [each.name for each in run.result[mapped].map_states] == ["TriggerFailed", "Success"]


def test_cleanup_finds_what_setup_has_put_on_self(executor: Any, isolation: str, tmp_path: Path) -> None:
    @resource_manager(name="database", cleanup_task_kwargs={"isolation": isolation})
    class Database:
        def __init__(self, name: str) -> None:
            self.name = name

        def setup(self) -> str:
            self.connection = f"connection to {self.name}"
            return "cursor"

        def cleanup(self, cursor: str) -> None:
            (tmp_path / self.name).write_text(f"{cursor}, {self.connection}")

    use = task(lambda cursor, x=None: cursor, name="use")
    with Flow("databases") as flow:
        with Database("a task") as cursor:
            use(use(cursor))
        with Database("a map") as cursor:
            use(use.map(unmapped(cursor), [1, 2]))
        with Database("nothing"):
            pass

    run = flow.run(executor=executor)

    assert run.is_successful()
    names = ("a map", "a task", "nothing")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        name: f"cursor, connection to {name}" for name in names
    }


class Kettle(Task[..., Any]):
    def run(self, x: int) -> tuple[Any, ...]:
        self.logger.warning("boiling %s", x)
        names = ("map_index", "task_loop_result")
        return (*(context.get(name, "none") for name in names), context["task_name"], self.logger is context.logger)


def test_the_context_and_loggers_are_there_for_task_code(executor: Any, isolation: str, caplog: Any) -> None:
    kettle = Kettle(name="kettle", isolation=isolation)
    with Flow("kitchen") as flow:
        single, mapped = kettle(7), kettle.map([1, 2])

    run = flow.run(executor=executor)

    assert run.result[single].result == ("none", "none", "kettle", True)
    assert run.result[mapped].result == [(index, "none", "kettle", True) for index in (0, 1)]
    assert {f"boiling {x}" for x in (7, 1, 2)} <= {record.getMessage() for record in caplog.records}

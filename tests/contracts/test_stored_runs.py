"""What runs store and find again, whatever store is named and whichever executor runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, Parameter, config, task, unmapped
from anabranch.definition.caching import code, inputs
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.results import InMemoryResult, LocalResult, Result, SQLResult

LARGE = 40_000  # bytes: more than what travels with a report


class Ledger:
    """Counts what really ran, in whichever process; it travels by its path."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        path.touch()

    def note(self, name: object) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(file, f"{name}\n".encode())
        os.close(file)

    def names(self) -> list[str]:
        return sorted(Path(self.path).read_text(encoding="utf-8").split())

    def clear(self) -> None:
        os.truncate(self.path, 0)


class StoredRunContract:
    """The tests; a subclass gives the fixtures `result`, an empty store, and `executor`."""

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        return Ledger(tmp_path / "ledger")

    def test_values_are_stored_and_read_back_when_they_are_asked_for(self, result: Result, executor: Any):
        with Flow("etl", result=result) as flow:
            numbers = task(lambda n: list(range(n)), name="numbers")(50)
            large = task(lambda x: bytes([x]) * LARGE, name="large").map(numbers)
            nothing = task(lambda: None, name="nothing")()
            total = task(lambda parts: sum(map(len, parts)), name="total")(large)

        view = flow.run(executor=executor)

        assert view.is_successful(), view.state
        assert view.result[total].result == 50 * LARGE
        assert view.result[large].result == [bytes([i]) * LARGE for i in range(50)]
        assert view.result[large].map_states[7].result == bytes([7]) * LARGE
        assert result.read(view.result[numbers].ref) == list(range(50))
        assert result.read(view.result[nothing].ref) is None
        element = view.result[large].map_states[7]
        assert result.read_elements(element.ref, [7]) == {7: bytes([7]) * LARGE}
        assert element.ref.location.startswith(f"etl/{view.run_id}/large/")

    def test_a_template_that_tells_elements_apart_gives_each_its_object(self, result: Result, executor: Any):
        with Flow("etl", result=result) as flow:
            each = task(lambda x: x + 1, name="each", location="parts/{map_index:03d}").map([10, 20])
            named = task(lambda x: x + 2, name="named", location="named/{x}").map([10, 20])

        view = flow.run(executor=executor)

        assert view.is_successful(), view.state
        assert [result.read(f"parts/{i:03d}") for i in range(2)] == [11, 21]
        assert [state.ref.location for state in view.result[named].map_states] == ["named/10", "named/20"]
        assert view.result[each].result == [11, 21]

    def test_what_is_at_the_target_will_do(self, result: Result, executor: Any, ledger: Ledger):
        def double(x: int) -> int:
            ledger.note(x)
            return 2 * x

        def run(xs: list[int]) -> Any:
            with Flow("etl", result=result) as flow:
                task(double, target="doubled/{x}").map(xs)
            view = flow.run(executor=executor)
            assert view.is_successful(), view.state
            assert view.result["double"].result == [2 * x for x in xs]
            return [state.name for state in view.result["double"].map_states]

        assert run([1, 2]) == ["Success", "Success"]
        assert run([3, 2, 1]) == ["Success", "Cached", "Cached"]
        assert ledger.names() == ["1", "2", "3"]

    def test_values_with_the_same_key_are_found_by_other_flows(self, result: Result, executor: Any, ledger: Ledger):
        def add(x: int, y: int) -> int:
            ledger.note(f"{x}+{y}")
            return x + y

        def run(name: str, y: int, key: Any = None) -> list[str]:
            with Flow(name, result=result) as flow:
                task(add, cache_for=600, cache_key=key).map([1, 2, 1], unmapped(y))
            view = flow.run(executor=executor)
            assert view.is_successful(), view.state
            assert view.result["add"].result == [1 + y, 2 + y, 1 + y]
            return [state.name for state in view.result["add"].map_states]

        run("first", 10)
        assert sorted(ledger.names()) == ["1+10", "2+10"]  # the third element wanted what the first had computed
        assert run("second", 10) == ["Cached"] * 3
        run("second", 11)
        assert len(ledger.names()) == 4
        assert "Success" in run("third", 11, key=inputs)  # another key than inputs and code together
        assert run("fourth", 11, key=inputs) == ["Cached"] * 3
        assert run("fifth", 11, key=inputs("x", "y") + code) == ["Cached"] * 3

    def test_what_cannot_be_stored_is_the_failure_of_its_task_run_alone(self, result: Result, executor: Any):
        def make(x: int) -> Any:
            return (i for i in ()) if x < 0 else __import__("threading").Lock() if x == 1 else x

        with Flow("etl", result=result) as flow:
            made = task(make).map([0, 1, 2])
            alone = task(make, name="alone")(1)
            after = task(lambda x: x, name="after").map(made)

        view = flow.run(executor=executor)

        assert [state.name for state in view.result[made].map_states] == ["Success", "Failed", "Success"]
        assert [state.is_failed() for state in view.result[after].map_states] == [False, True, False]
        for state in (view.result[made].map_states[1], view.result[alone]):
            assert state.is_failed()
            assert "lock" in state.message
        assert view.result[made].map_states[2].result == 2

    def test_what_finished_is_read_back_by_the_run_that_goes_on(
        self, result: Result, executor: Any, ledger: Ledger, tmp_path: Path
    ):
        flag = tmp_path / "fixed"

        def large(x: int) -> bytes:
            ledger.note(f"large{x}")
            return bytes([x]) * LARGE

        def check(x: bytes) -> int:
            ledger.note(f"check{x[0]}")
            if x[0] == 3 and not flag.exists():
                raise ValueError("not fixed")
            return len(x)

        def source() -> list[int]:
            ledger.note("source")
            return list(range(8))

        with Flow("etl", result=result) as flow:
            made = task(large).map(task(source)())
            checked = task(check).map(made)
            joined = task(lambda parts, sizes: (len(b"".join(parts)), sum(sizes)), name="joined")(made, checked)
        first = flow.run(executor=executor)
        assert first.is_failed()
        ledger.clear()
        flag.touch()

        second = flow.run(executor=executor, resume=first.run_id)

        assert second.is_successful(), second.state
        assert ledger.names() == ["check3"]
        assert second.result[joined].result == (8 * LARGE, 8 * LARGE)
        assert second.result[made].result == [bytes([i]) * LARGE for i in range(8)]

    def test_a_parameter_and_the_date_are_fields_of_templates(self, result: Result, executor: Any):
        with Flow("etl", result=result) as flow:
            day = Parameter("day")
            task(lambda day: day, name="load", target="{task_name}-{date:%Y}-{day}.pkl")(day)

        view = flow.run(day="monday/../x", executor=executor)

        assert view.is_successful(), view.state
        location = view.result["load"].ref.location
        assert location.startswith("load-20")
        assert "/" not in location
        assert result.read(location) == "monday/../x"

    def test_none_that_was_stored_will_do_as_well(self, result: Result, executor: Any, ledger: Ledger):
        with Flow("etl", result=result) as flow:
            task(lambda: ledger.note("ran"), name="noting", target="none")()
        flow.run(executor=executor)

        view = flow.run(executor=executor)

        assert view.result["noting"].is_cached()
        assert view.result["noting"].result is None
        assert ledger.names() == ["ran"]


# Stores and executors -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two one-thread worker processes with their nannies."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as made:
        yield made


def executor_named(name: str, request: pytest.FixtureRequest) -> Any:
    """An executor; the cluster is started when it is first needed."""
    if name == "local":
        return LocalExecutor()
    if name == "threads":
        return LocalDaskExecutor(num_workers=2)
    return DaskExecutor(request.getfixturevalue("cluster").scheduler_address)


EVERYWHERE = ["local", "threads", pytest.param("dask", marks=pytest.mark.cluster)]


class TestLocalResult(StoredRunContract):
    @pytest.fixture
    def result(self, tmp_path: Path) -> Result:
        return LocalResult(tmp_path / "results")

    @pytest.fixture(params=EVERYWHERE)
    def executor(self, request: pytest.FixtureRequest) -> Any:
        return executor_named(request.param, request)


class TestSQLResultOfSQLite(StoredRunContract):
    @pytest.fixture
    def result(self, tmp_path: Path) -> Result:
        return SQLResult(f"sqlite:///{tmp_path}/results.db")

    @pytest.fixture(params=EVERYWHERE)
    def executor(self, request: pytest.FixtureRequest) -> Any:
        return executor_named(request.param, request)


class TestInMemoryResult(StoredRunContract):
    @pytest.fixture
    def result(self) -> Result:
        return InMemoryResult()

    @pytest.fixture(params=["local", "threads"])
    def executor(self, request: pytest.FixtureRequest) -> Any:
        return executor_named(request.param, request)


class TestSignedResult(StoredRunContract):
    """With a key, workers of this process sign, and nothing else is read."""

    @pytest.fixture
    def result(self, tmp_path: Path) -> Iterator[Result]:
        with config.set({"results.key": "correct horse battery staple"}):
            yield LocalResult(tmp_path / "results")

    @pytest.fixture(params=["threads"])
    def executor(self, request: pytest.FixtureRequest) -> Any:
        return executor_named(request.param, request)

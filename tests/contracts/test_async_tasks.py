"""What must hold of async tasks wherever they run: side by side, and each with a state of its own."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, Task, context, resource_manager, signals, task, unmapped
from anabranch.engine.units import loops
from anabranch.executors import DaskExecutor, LocalExecutor
from anabranch.results import LocalResult
from anabranch.runs.store.opening import current_store

_PARTIES: dict[Any, asyncio.Barrier] = {}
_UNDER_WAY: dict[Any, int] = {}
_LINGERING: set[Any] = set()


@pytest.fixture(autouse=True)
def _nothing_that_cannot_travel() -> None:
    for each in (_PARTIES, _UNDER_WAY, _LINGERING):
        each.clear()  # type: ignore[attr-defined]  # each has it


def kinds(states: Any) -> list[str]:
    return [state.name for state in states]


async def never() -> None:
    await asyncio.Event().wait()


# Values ---------------------------------------------------------------------------------------------------------------


@task
async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


@task
async def several(n: int) -> AsyncIterator[int]:
    for number in range(n):
        await asyncio.sleep(0)
        yield number


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@pytest.mark.parametrize("width", [0, 1, 7, 1_000])
def test_async_and_plain_maps_take_each_others_values_in_order(executor: Any, width: int) -> None:
    @task
    def increment(x: int) -> int:
        return x + 1

    with Flow("values") as flow:
        doubled = double.map(increment.map(double.map(range(width))))
        joined = total(doubled)

    view = flow.run(executor=executor, keep="all")

    assert view.is_successful(), view.message
    assert list(view.result[doubled].result) == [2 * (2 * x + 1) for x in range(width)]
    assert view.result[joined].result == sum(2 * (2 * x + 1) for x in range(width))


def test_single_tasks_and_generators_give_values(executor: Any) -> None:
    with Flow("singles") as flow:
        joined = total(double.map(several(double(2))))

    assert flow.run(executor=executor).result[joined].result == 2 * (0 + 1 + 2 + 3)


class Adder(Task[..., Any]):
    async def run(self, x: int, y: int) -> int:
        await asyncio.sleep(0)
        return x + y


def test_classes_of_tasks_may_have_an_async_run(executor: Any) -> None:
    with Flow("classes") as flow:
        added = Adder().map(range(4), unmapped(10))

    assert flow.run(executor=executor).result[added].result == [10, 11, 12, 13]


# Side by side ---------------------------------------------------------------------------------------------------------


def test_elements_of_a_chunk_wait_side_by_side(executor: Any) -> None:
    @task(chunksize=8)
    async def meet(x: int) -> int:
        barrier = _PARTIES.setdefault(asyncio.get_running_loop(), asyncio.Barrier(8))
        await barrier.wait()
        return x

    with Flow("meeting") as flow:
        met = meet.map(range(16))

    assert flow.run(executor=executor).result[met].result == list(range(16))


def beside(number: int, folder: Path) -> int:
    """Be under way; how many others are."""
    (folder / str(number)).touch()
    return len(list(folder.iterdir()))


@pytest.mark.cluster
def test_single_tasks_share_the_slots_of_a_cluster(address: str, tmp_path: Path) -> None:
    @task
    async def meet(number: int) -> int:
        while beside(number, tmp_path) < 20:
            await asyncio.sleep(0.01)
        return number

    with Flow("singles") as flow:
        nodes = [meet(number, task_args={"name": f"meet {number}"}) for number in range(20)]
    view = flow.run(executor=DaskExecutor(address))

    assert [view.result[node].result for node in nodes] == list(range(20))


@pytest.mark.cluster
@pytest.mark.parametrize(("lanes", "most"), [(1, 2), (3, 6)])
def test_no_more_single_tasks_share_a_slot_than_is_allowed(address: str, tmp_path: Path, lanes: int, most: int) -> None:
    @task(concurrency_per_slot=lanes)
    async def count(number: int) -> int:
        most = 0
        for _ in range(10):
            most = max(most, beside(number, tmp_path))
            await asyncio.sleep(0.01)
        (tmp_path / str(number)).unlink()
        return most

    with Flow("singles") as flow:
        nodes = [count(number) for number in range(20)]
    view = flow.run(executor=DaskExecutor(address))

    assert max(view.result[node].result for node in nodes) <= most


def test_no_more_run_side_by_side_than_is_allowed(executor: Any) -> None:
    @task(chunksize=20, concurrency_per_slot=3)
    async def count(x: int) -> int:
        loop = asyncio.get_running_loop()
        _UNDER_WAY[loop] = _UNDER_WAY.get(loop, 0) + 1
        seen = _UNDER_WAY[loop]
        for _ in range(5):
            await asyncio.sleep(0)
            seen = max(seen, _UNDER_WAY[loop])
        _UNDER_WAY[loop] -= 1
        return seen

    with Flow("bounds") as flow:
        seen = count.map(range(40))

    assert max(flow.run(executor=executor).result[seen].result) == 3


def test_a_named_limit_holds(executor: Any) -> None:
    @task(chunksize=10, concurrency={"api": 1})
    async def count(x: int) -> int:
        loop = asyncio.get_running_loop()
        _UNDER_WAY[loop] = _UNDER_WAY.get(loop, 0) + 1
        await asyncio.sleep(0)
        seen = _UNDER_WAY[loop]
        _UNDER_WAY[loop] -= 1
        return seen

    with Flow("limits") as flow:
        seen = count.map(range(30))

    assert set(flow.run(executor=executor).result[seen].result) == {1}


def test_each_element_has_a_context_of_its_own(executor: Any) -> None:
    @task(max_retries=1)
    async def who(x: int) -> tuple[int, Any, int, str]:
        before = decimal.getcontext().prec if context.task_run_count == 1 else 28
        decimal.setcontext(decimal.Context(prec=x + 1))  # a context variable
        await asyncio.sleep(0)
        await asyncio.to_thread(lambda: None)
        if x % 3 == 0 and context.task_run_count == 1:
            raise OSError(x)
        return before, context.map_index, decimal.getcontext().prec, context.task_full_name

    with Flow("contexts") as flow:
        found = who.map(range(20))

    values = flow.run(executor=executor).result[found].result
    assert values == [(28, x, x + 1, f"who[{x}]") for x in range(20)]


def test_each_element_has_logs_of_its_own(executor: Any) -> None:
    @task(log_stdout=True)
    async def speak(x: int) -> None:
        await asyncio.sleep(0)
        context.logger.warning("I am %d", x)
        print(f"I print {x}")

    with Flow("logs") as flow:
        speak.map(range(5))
    view = flow.run(executor=executor)

    store = current_store()
    assert store is not None
    said = {row.text.split(": ")[-1]: row.index for row in store.logs(view.run_id)}
    assert {text: said.get(text) for x in range(5) for text in (f"I am {x}", f"I print {x}")} == {
        text: x for x in range(5) for text in (f"I am {x}", f"I print {x}")
    }


# States ---------------------------------------------------------------------------------------------------------------


def test_a_failure_is_one_elements(executor: Any) -> None:
    @task
    async def invert(x: int) -> float:
        await asyncio.sleep(0)
        return 1 / x

    with Flow("failures") as flow:
        inverted = invert.map([2, 0, 4])
    state = flow.run(executor=executor, keep="all").result[inverted]

    assert kinds(state.map_states) == ["Success", "Failed", "Success"]
    assert state.result[::2] == [0.5, 0.25]
    assert "ZeroDivisionError" in state.map_states[1].message
    assert "invert" in state.map_states[1].failure.traceback
    assert "asyncio" not in state.map_states[1].failure.traceback


@pytest.mark.parametrize(
    "error", [SystemExit(3), asyncio.CancelledError("mine"), StopAsyncIteration(), StopIteration(), KeyError("x")]
)
def test_whatever_is_raised_is_the_elements_failure(executor: Any, error: BaseException) -> None:
    @task
    async def fail(x: int) -> int:
        await asyncio.sleep(0)
        if x == 1:
            raise error
        return x

    with Flow("errors") as flow:
        found = fail.map(range(3))
    view = flow.run(executor=executor, keep="all")

    assert kinds(view.result[found].map_states) == ["Success", "Failed", "Success"]


@pytest.mark.parametrize("delay", [0, 0.01])
def test_attempts_are_counted_by_element(executor: Any, delay: float) -> None:
    @task(max_retries=3, retry_delay=delay)
    async def flaky(x: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        if context.task_run_count <= x % 4:
            raise OSError(x)
        return x, context.task_run_count

    with Flow("attempts") as flow:
        found = flaky.map(range(40))
        alone = flaky(2)
    view = flow.run(executor=executor, keep="all")

    assert view.result[found].result == [(x, x % 4 + 1) for x in range(40)]
    assert view.result[alone].result == (2, 3)
    states = view.result[found].map_states
    assert [len(state.attempts) for state in states] == [x % 4 for x in range(40)]


@pytest.mark.parametrize("options", [{}, {"max_retries": 1, "retry_delay": 0}])
def test_what_an_attempt_changes_of_its_arguments_no_other_sees(executor: Any, options: dict[str, Any]) -> None:
    @task(**options)
    async def change(own: list[int], common: dict[str, int]) -> tuple[int, int]:
        seen = len(own), len(common)
        own.append(1)
        common[str(own)] = 1
        await asyncio.sleep(0)
        if options and context.task_run_count == 1 and own[0] % 2:
            raise OSError(own)
        return seen

    with Flow("changes") as flow:
        found = change.map([[x] for x in range(40)], unmapped({"a": 1}))

    assert flow.run(executor=executor, keep="all").result[found].result == [(1, 1)] * 40


@pytest.mark.parametrize("error", [None, OSError])
def test_elements_behind_a_failed_one_of_another_map_do_not_run(executor: Any, error: Any) -> None:
    @task
    async def fetch(x: int) -> int:
        await asyncio.sleep(0)
        if error is not None and x == 1:
            raise error(x)
        if x == 3:
            raise signals.SKIP
        return x

    with Flow("behind") as flow:
        again = fetch.map(fetch.map(range(5)))
    states = flow.run(executor=executor, keep="all").result[again].map_states

    behind = "TriggerFailed" if error is not None else "Success"
    assert kinds(states) == ["Success", behind, "Success", "Skipped", "Success"]


def test_a_retry_delay_holds_no_lane(executor: Any) -> None:
    """While one element waits for its next attempt, the one that frees it has the only lane."""

    @task(max_retries=1, retry_delay=0.05, concurrency_per_slot=1, chunksize=2)
    async def turn(x: int) -> int:
        if x == 0 and context.task_run_count == 1:
            raise OSError("not yet")
        return x

    with Flow("lanes") as flow:
        found = turn.map(range(2))
    view = flow.run(executor=executor, keep="all")

    first, second = view.result[found].map_states
    assert first.attempt == 2
    assert second.name == "Success"


def test_a_timeout_cancels(executor: Any, tmp_path: Path) -> None:
    @task(timeout=0.1)
    async def hang(x: int) -> int:
        try:
            if x == 1:
                await never()
        finally:
            (tmp_path / f"{x}").touch()
        return x

    with Flow("timeouts") as flow:
        found = hang.map(range(3))
        alone = hang(1)
    view = flow.run(executor=executor, keep="all")

    assert kinds(view.result[found].map_states) == ["Success", "TimedOut", "Success"]
    assert "ran longer than its timeout of 0.1 s and was cancelled" in view.result[found].map_states[1].message
    assert view.result[alone].name == "TimedOut"
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2"}


def test_a_coroutine_that_does_not_let_itself_be_cancelled_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "GRACE_S", 0.01)

    @task(timeout=0.01)
    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await never()

    with Flow("stubborn") as flow:
        node = stubborn()

    assert "does not end when it is cancelled and goes on in the background" in flow.run().result[node].message


def test_loops_and_signals_are_each_elements(executor: Any) -> None:
    @task
    async def signal(x: int) -> int:
        await asyncio.sleep(0)
        if x == 0:
            raise signals.SKIP("none")
        if x == 1 and context.task_loop_count < 4:
            raise signals.LOOP(result=context.task_loop_count)
        if x == 2:
            raise signals.FAIL("no")
        return context.task_loop_count

    with Flow("signals") as flow:
        found = signal.map(range(4))
    state = flow.run(executor=executor, keep="all").result[found]

    assert kinds(state.map_states) == ["Skipped", "Success", "Failed", "Success"]
    assert [state.result[1], state.result[3]] == [4, 1]


def test_handlers_see_the_states_of_async_tasks(executor: Any, tmp_path: Path) -> None:
    def note(task: Any, old: Any, new: Any) -> None:
        with (tmp_path / str(context.map_index)).open("a") as file:
            file.write(f"{type(old).__name__}>{type(new).__name__} ")

    @task(state_handlers=[note], max_retries=1)
    async def flaky(x: int) -> int:
        if x == 1 and context.task_run_count == 1:
            raise OSError(x)
        return x

    with Flow("handlers") as flow:
        flaky.map(range(2))
    flow.run(executor=executor)

    assert (tmp_path / "0").read_text() == "Pending>Running Running>Success "
    seen = (tmp_path / "1").read_text()
    assert seen.count("Running>Failed Failed>Retrying ") == 1
    assert seen.endswith("Running>Success ")


# The end of a map -----------------------------------------------------------------------------------------------------


def test_the_rest_of_a_map_is_cancelled_when_a_value_is_enough(executor: Any) -> None:
    @task(stop_when=lambda value: value == 3, chunksize=6)
    async def race(x: int) -> int:
        if x != 3:
            await never()
        return x

    with Flow("race") as flow:
        found = race.map(range(6))
    state = flow.run(executor=executor, keep="all").result[found]

    assert kinds(state.map_states) == ["Skipped"] * 3 + ["Success"] + ["Skipped"] * 2


@pytest.mark.parametrize(("options", "others"), [({"first_n": 1}, "Skipped"), ({"min_success": 1.0}, "Cancelled")])
def test_what_hangs_is_cancelled_when_the_map_has_ended(executor: Any, options: dict[str, Any], others: str) -> None:
    @task(chunksize=6, **options)
    async def race(x: int) -> int:
        if x != 3:
            await never()
        if others == "Cancelled":
            raise OSError("enough of it")
        return x

    if others == "Cancelled" and isinstance(executor, LocalExecutor):
        pytest.skip("its driver hears of failures when the chunk has ended")
    with Flow("race") as flow:
        found = race.map(range(6))
    state = flow.run(executor=executor, keep="all").result[found]

    assert kinds(state.map_states[:3]) == [others] * 3


def test_what_ends_late_is_told_of_early(executor: Any, tmp_path: Path) -> None:
    """An element is on record although one before it in its chunk hangs."""

    @task(first_n=5, chunksize=6)
    async def hang(x: int) -> int:
        if x == 0:
            await never()
        return x

    with Flow("records") as flow:
        found = hang.map(range(6))
    state = flow.run(executor=executor, keep="all").result[found]

    assert kinds(state.map_states) == ["Skipped"] + ["Success"] * 5


# With the rest of the library -----------------------------------------------------------------------------------------


def test_async_tasks_make_deferred_calls_and_are_called(executor: Any) -> None:
    @task
    async def crawl(n: int) -> Any:
        await asyncio.sleep(0)
        return double.map(range(n)) if n else double(21)

    with Flow("calls") as flow:
        found = crawl.map(range(4))
    values = flow.run(executor=executor).result[found].result

    assert values == [42, [0], [0, 2], [0, 2, 4]]


def test_elements_that_want_the_same_value_wait_for_each_other(executor: Any, tmp_path: Path) -> None:
    @task(cache_for=60, result=LocalResult(tmp_path / "store"), chunksize=5)
    async def load(x: int) -> int:
        (tmp_path / f"{x}-{asyncio.current_task().get_name()}").touch()  # type: ignore[union-attr]
        await asyncio.sleep(0.01)
        return x

    with Flow("cache") as flow:
        found = load.map([1, 2, 1, 2, 1, 1, 2, 1, 2, 1])
    state = flow.run(executor=executor, keep="all").result[found]

    assert list(state.result) == [1, 2, 1, 2, 1, 1, 2, 1, 2, 1]
    assert sum(each.name == "Cached" for each in state.map_states) == 8
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) == 2


def test_values_are_stored_and_found_by_a_resumed_run(executor: Any, tmp_path: Path) -> None:
    @task(result=LocalResult(tmp_path), checkpoint=True)
    async def load(x: int) -> int:
        await asyncio.sleep(0)
        return x

    with Flow("stored") as flow:
        found = load.map(range(10))
        joined = total(found)

    assert flow.run(executor=executor).result[joined].result == 45
    assert any(path.is_file() for path in tmp_path.rglob("*"))


def test_async_tasks_have_processes_of_their_own(executor: Any) -> None:
    @task(isolation="process", timeout=30)
    async def where(x: int) -> tuple[int, int]:
        import os

        await asyncio.sleep(0)
        return x, os.getpid()

    @task(isolation="process")
    async def listed(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    with Flow("processes") as flow:
        found, numbers = where.map(range(3)), listed(3)
    view = flow.run(executor=executor, keep="all")

    assert view.is_successful(), view.message
    assert [x for x, _ in view.result[found].result] == [0, 1, 2]
    assert view.result[numbers].result == [0, 1, 2]


def test_resources_may_be_set_up_and_cleaned_up_by_coroutines(executor: Any, tmp_path: Path) -> None:
    @resource_manager
    class Folder:
        def __init__(self, path: Path) -> None:
            self.path = path

        async def setup(self) -> Path:
            await asyncio.sleep(0)
            (self.path / "open").touch()
            return self.path

        async def cleanup(self, path: Path) -> None:
            await asyncio.sleep(0)
            (path / "open").rename(path / "closed")

    @task
    async def names(path: Path) -> list[str]:
        return [each.name for each in path.iterdir()]

    with Flow("resources") as flow, Folder(tmp_path) as path:
        found = names(path)

    assert flow.run(executor=executor, keep="all").result[found].result == ["open"]
    assert [each.name for each in tmp_path.iterdir()] == ["closed"]


# Where a loop runs already --------------------------------------------------------------------------------------------


def test_a_flow_runs_where_a_loop_runs_already(executor: Any) -> None:
    async def cell() -> Any:
        with Flow("cell") as flow:
            found = double.map(range(5)), double(21)
        view = flow.run(executor=executor, keep="all")
        return [view.result[node].result for node in found]

    assert asyncio.run(cell()) == [[0, 2, 4, 6, 8], 42]


def test_a_run_is_awaited_while_the_loop_goes_on() -> None:
    told = threading.Event()

    @task
    def listen() -> bool:
        return told.wait(30)

    with Flow("awaited") as flow:
        heard = listen()

    async def main() -> Any:
        run = asyncio.create_task(flow.arun())
        asyncio.get_running_loop().call_soon(told.set)
        return (await run).result[heard].result

    assert asyncio.run(main()) is True


@pytest.mark.parametrize("is_map", [False, True])
def test_who_cancels_the_await_cancels_the_run(is_map: bool) -> None:
    begun, ended = threading.Event(), []

    @task
    async def hang(x: int) -> None:
        begun.set()
        try:
            await never()
        finally:
            ended.append(x)

    with Flow("awaited") as flow:
        hang.map([1]) if is_map else hang(1)

    async def main() -> None:
        run = asyncio.create_task(flow.arun())
        await asyncio.to_thread(begun.wait, 30)
        run.cancel()
        await run

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert ended == [1]


def test_what_a_task_leaves_running_ends_with_its_loop(executor: Any, tmp_path: Path) -> None:
    @task
    async def leave(path: Path) -> None:
        async def linger() -> None:
            try:
                await never()
            finally:
                (path / "ended").touch()

        _LINGERING.add(asyncio.create_task(linger()))
        await asyncio.sleep(0)

    with Flow("leaves") as flow:
        leave(tmp_path)

    assert flow.run(executor=executor).is_successful()
    assert (tmp_path / "ended").exists()

"""What every executor must do, tried on each of them: whatever a task does is that task's state, and nothing else's."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cells import run_cell
from tests.contracts.misbehaviour import RAISES, RETURNS, HoldsLock
from tests.shuffled_executor import ShuffledExecutor

from anabranch import Flow, FlowRunner, Parameter, config, context, signals, task, triggers, unmapped
from anabranch.base.events import MapAdvanced, TaskChanged
from anabranch.errors import AnabranchError, OptionError, ResultReleased, SchedulerUnreachable
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.results import LocalResult
from anabranch.runs import open_store
from anabranch.states import Retrying

SECONDS = 8.0
"""Longest that a run of a few tasks may take, on a busy machine; what hangs takes for ever."""


@task
def fine(x: int = 7) -> int:
    return x


@task(trigger=triggers.all_finished, skip_on_upstream_skip=False)
def kinds(xs: Any) -> Any:
    """What a task sees, with the names of exceptions in their place."""
    seen = [type(x).__name__ if isinstance(x, BaseException) else x for x in (xs if isinstance(xs, list) else [xs])]
    return seen if isinstance(xs, list) else seen[0]


class Misbehaving:
    """Does something for one element, and is the identity for the others."""

    def __init__(self, act: Callable[[], Any], at: int) -> None:
        self.act = act
        self.at = at

    def __call__(self, x: int) -> Any:
        return self.act() if x == self.at else x


# Where ----------------------------------------------------------------------------------------------------------------


class Place:
    """An executor, and what a test may ask of where it runs."""

    def __init__(self, kind: str, executor: Any, cluster: Any = None) -> None:
        self.kind = kind
        self.executor = executor
        self.cluster = cluster

    @property
    def is_cluster(self) -> bool:
        """Whether tasks run in other processes."""
        return self.cluster is not None

    def workers(self) -> Any:
        """What must be the same before and after."""
        return {name: worker.pid for name, worker in self.cluster.workers.items()} if self.is_cluster else os.getpid()

    def scheduler_keys(self) -> list[str]:
        """Keys that the scheduler knows, once it has had the time to forget."""
        from distributed import Client

        with Client(self.cluster, set_as_default=False) as client:
            end = time.monotonic() + 3
            while True:
                keys: list[str] = client.run_on_scheduler(lambda dask_scheduler: list(map(str, dask_scheduler.tasks)))
                if not keys or time.monotonic() > end:
                    return keys
                time.sleep(0.02)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two one-thread worker processes with their nannies."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as made:
        yield made


@pytest.fixture(
    params=[
        pytest.param("local", id="local"),
        pytest.param("threads", id="threads"),
        pytest.param("shuffled", id="shuffled"),
        pytest.param("dask", id="dask", marks=pytest.mark.cluster),
    ]
)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Each executor; the same workers must live on after each test."""
    if request.param == "local":
        found = Place("local", LocalExecutor())
    elif request.param == "threads":
        found = Place("threads", LocalDaskExecutor(num_workers=2))
    elif request.param == "shuffled":
        found = Place("shuffled", ShuffledExecutor())
    else:
        cluster = request.getfixturevalue("cluster")
        found = Place("dask", DaskExecutor(cluster.scheduler_address), cluster)
    before = found.workers()
    yield found
    assert found.workers() == before


@pytest.fixture
def on_cluster(cluster: Any) -> Place:
    """The cluster only."""
    return Place("dask", DaskExecutor(cluster.scheduler_address), cluster)


# What tasks raise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RAISES)
def test_whatever_a_task_raises_is_its_failure_and_nothing_else(place: Place, name: str) -> None:
    act, type_name, text = RAISES[name]
    with Flow("raises") as flow:
        bad = task(act, name="bad")()
        seen = kinds(bad)
        good = fine(1)
        elements = task(Misbehaving(act, at=1), name="each").map([0, 1, 2])
        values = kinds(elements)
    began = time.monotonic()

    view = flow.run(executor=place.executor)

    assert time.monotonic() - began < SECONDS
    for state in (view.result[bad].state, view.result[elements].map_states[1].state):
        assert state.name == "Failed"
        assert state.failure is not None
        assert state.failure.type_name.rpartition(".")[2] == type_name
        assert text in state.failure.message
        assert text.split("\n")[0] in state.message
        assert len(state.failure.message) < 10_000
        assert len(state.failure.traceback) < 50_000
        assert "misbehaviour.py" in state.failure.traceback
        assert isinstance(view.result[bad].result, BaseException)
    assert view.result[good].result == 1
    assert [each.state.name for each in view.result[elements].map_states] == ["Success", "Failed", "Success"]
    assert view.result[values].result[::2] == [0, 2]
    assert isinstance(view.result[values].result[1], str)
    assert view.result[seen].state.name == "Success"


def test_an_exception_that_travels_is_the_same_for_tasks_and_for_the_caller(place: Place) -> None:
    with Flow("same") as flow:
        bad = task(RAISES["ExceptionGroup"][0], name="bad")()
        seen = kinds(bad)
    flow.set_reference_tasks([bad])

    view = flow.run(executor=place.executor)

    assert view.result[seen].result == "ExceptionGroup"
    assert [type(each) for each in view.result[bad].result.exceptions] == [ValueError, KeyError]
    with pytest.raises(ExceptionGroup, match="several"):
        view.raise_failure()


CELL = """
    def ratio(x):
        return 1 / (x - 1)  # of a function that the task calls


    def nested(x):
        return [ratio(each) for each in [x]]  # of the task


    fails = lambda x: 1 / (x - 1)  # of a lambda
"""


def test_a_failure_names_file_line_and_source_whatever_the_code_is_of(place: Place) -> None:
    # Code of a file, which workers can read; and of a notebook, which knows its lines alone.
    cell = run_cell(CELL)
    with Flow("places") as flow:
        of_file = task(lambda x: 1 / (x - 1), name="of_file")(1)  # of a file
        of_cell = task(cell["nested"])(1)
        apart = task(cell["nested"], name="apart", isolation="process")(1)
        elements = task(cell["fails"], name="each").map([3, 1, 2])
        passed = task(lambda function: function(1), name="passed").map([cell["fails"]])

    view = flow.run(executor=place.executor)

    here, there = f'File "{__file__}", line ', f'File "{cell["__file__"]}", line '
    for state, file, *lines in (
        (view.result[of_file], here, 'name="of_file")(1)  # of a file'),
        (view.result[of_cell], there, "# of the task", "# of a function that the task calls"),
        (view.result[apart], there, "# of the task", "# of a function that the task calls"),
        (view.result[elements].map_states[1], there, "# of a lambda"),
        (view.result[passed].map_states[0], there, "# of a lambda"),
    ):
        text = state.failure.traceback
        assert file in text
        assert all(line in text for line in lines), text
        assert state.failure.line.startswith(file.split('"')[1])
        # and the exception has these frames itself
        shown = "".join(traceback.format_exception(state.result))
        assert file in shown
        assert all(line in shown for line in lines), shown


def test_the_exception_that_is_raised_for_a_failure_has_its_frames_and_says_what_failed(place: Place) -> None:
    def parse(number: int) -> int:
        if number % 10 == 7:
            try:
                return int("seven")
            except ValueError as error:
                raise KeyError(number) from error  # the line of the task
        return number

    with Flow("raised") as flow:
        task(parse, max_retries=1, retry_delay=0).map(list(range(100)))

    with pytest.raises(KeyError) as raised:
        flow.run(executor=place.executor, raise_on_failure=True)

    assert raised.value.args == (7,)
    last = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert (last.filename, last.name) == (__file__, "parse")
    assert last.line == "raise KeyError(number) from error  # the line of the task"
    assert raised.value.__notes__ == [
        "caused by ValueError: invalid literal for int() with base 10: 'seven'",
        "task run parse[7], attempt 2",
    ]


def test_failures_of_two_files_at_the_same_line_are_two_kinds(place: Place) -> None:
    cells = [run_cell("def fails():\n    raise ValueError('no')") for _ in range(2)]
    with Flow("kinds") as flow:
        node = task(lambda function: function(), name="each").map([cell["fails"] for cell in cells])

    view = flow.run(executor=place.executor)

    failures = [state.failure for state in view.result[node].map_states]
    assert [each.line for each in failures if each] == [f"{cell['__file__']}:2 in fails" for cell in cells]
    assert all(each and each.traceback for each in failures)


def test_an_exception_that_cannot_travel_is_told_in_its_words(place: Place) -> None:
    with Flow("told") as flow:
        bad = task(RAISES["pickles, does not unpickle"][0], name="bad")()
        seen = kinds(bad)

    view = flow.run(executor=place.executor)

    # where distributed was imported after the class, pickle has been taught to do without its constructor
    assert view.result[seen].result in ("TaskFailure", "ThreeArguments")
    assert "fire at home: matches" in str(view.result[bad].result)


# In the thread of the caller it is the user's: see the next test.
@pytest.mark.parametrize("place", ["threads", pytest.param("dask", marks=pytest.mark.cluster)], indirect=True)
def test_a_keyboard_interrupt_in_a_task_on_a_worker_is_its_failure(place: Place) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt("by the task")

    with Flow("interrupt") as flow:
        bad = task(interrupt)()
        good = fine(1)
        elements = task(Misbehaving(interrupt, at=1), name="each").map([0, 1, 2])

    view = flow.run(executor=place.executor)

    assert view.result[bad].state.name == "Failed"
    assert view.result[bad].state.failure.type_name == "KeyboardInterrupt"
    assert view.result[good].result == 1
    assert [each.state.name for each in view.result[elements].map_states] == ["Success", "Failed", "Success"]
    assert not view.was_interrupted


@pytest.mark.parametrize("mapped", [False, True], ids=["single", "map"])
def test_a_keyboard_interrupt_in_this_thread_is_the_users_and_cancels_the_run(mapped: bool) -> None:
    def interrupt(x: int) -> int:
        if x == 1:
            raise KeyboardInterrupt
        return x

    with Flow("interrupt") as flow:
        before = fine(1)
        bad = task(interrupt).map([0, 1, 2], upstream_tasks=[before]) if mapped else task(interrupt)(before)
        after = fine(bad)

    view = flow.run(executor=LocalExecutor())

    assert view.was_interrupted
    assert view.state.name == "Cancelled"
    assert view.result[before].state.name == "Success"
    assert view.result[bad].state.name == "Cancelled"
    assert view.result[after].state.name == "Cancelled"


def test_a_task_that_is_retried_after_what_it_raised_runs_again(place: Place) -> None:
    def second() -> int:
        if context.task_run_count == 1:
            raise SystemExit(1)
        return context.task_run_count

    with Flow("retried") as flow:
        node = task(second, max_retries=1)()

    view = flow.run(executor=place.executor)

    assert view.result[node].result == 2


# Wishes of others -----------------------------------------------------------------------------------------------------


class Asking:
    """Has somebody else ask that a run end, once a map is under way or a task waits for its second attempt."""

    def __init__(self, store: Any, run_id: str) -> None:
        self.store = store
        self.run_id = run_id

    def __call__(self, event: Any) -> None:
        if isinstance(event, MapAdvanced) or (isinstance(event, TaskChanged) and type(event.state) is Retrying):
            self.store.ask_end(self.run_id, "cancelled by ann@there")


@task
def slow(x: int, marker: str) -> int:
    if not os.path.exists(marker):
        time.sleep(0.05)
    return x


@task(max_retries=1, retry_delay=timedelta(hours=1))
def late(marker: str) -> int:
    if not os.path.exists(marker):
        raise ValueError("not yet")
    return 7


@pytest.mark.parametrize("kind", ["busy", "waiting"])
def test_a_wish_in_the_run_store_cancels_a_run_and_is_forgotten_when_it_goes_on(
    place: Place, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anabranch.runs.store.heart._LOOK_S", 0.01)
    marker = tmp_path / "resumed"
    with Flow("wished") as flow:
        slow.map(list(range(1_000)), unmapped(str(marker))) if kind == "busy" else late(str(marker))
    with config.set(backend=f"sqlite:///{tmp_path}/runs.db"):
        store = open_store()
        began = time.monotonic()

        view = flow.run(executor=place.executor, run_id="r", observers=[Asking(store, "r")])

        assert (view.state.name, view.state.message) == ("Cancelled", "cancelled by ann@there")
        assert time.monotonic() - began < SECONDS
        recorded = store.get_run("r")
        assert (recorded.state, recorded.message) == ("Cancelled", "cancelled by ann@there")

        marker.touch()
        assert flow.run(executor=place.executor, resume="r").state.name == "Success"
        store.close()


# What tasks return ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RETURNS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the file and the socket that the tasks leave open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_value_that_cannot_be_kept_is_the_failure_of_its_task(place: Place, name: str) -> None:
    act, type_name, text = RETURNS[name]
    with Flow("returns") as flow:
        bad = task(act, name="bad")()
        seen = kinds(bad)
        good = fine(1)
        elements = task(Misbehaving(act, at=1), name="each").map([0, 1, 2])
        joined = kinds(elements)
    began = time.monotonic()

    view = flow.run(executor=place.executor)

    assert time.monotonic() - began < SECONDS
    for state in (view.result[bad].state, view.result[elements].map_states[1].state):
        assert state.name == "Failed"
        assert state.failure is not None
        assert state.failure.type_name == type_name
        assert text in state.message
    assert view.result[seen].state.name == "Success"
    assert view.result[good].result == 1
    assert [each.state.name for each in view.result[elements].map_states] == ["Success", "Failed", "Success"]
    assert view.result[joined].result[::2] == [0, 2]


def test_a_generator_that_is_returned_becomes_a_list(place: Place) -> None:
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    with Flow("generators") as flow:
        single = task(count)(3)
        mapped = fine.map(task(count, name="source")(2))
        elements = task(count, name="each").map([1, 2])

    view = flow.run(executor=place.executor)

    assert view.result[single].result == [0, 1, 2]
    assert view.result[mapped].result == [0, 1]
    assert view.result[elements].result == [[0], [0, 1]]


def test_a_class_of_main_travels_by_value(place: Place) -> None:
    point = type("Point", (), {"__module__": "__main__", "x": 3})

    with Flow("main") as flow:
        made = task(lambda: point(), name="make")()
        read = task(lambda p: p.x, name="read")(made)
        elements = task(lambda _: point(), name="each").map([0, 1])
        reads = task(lambda p: p.x, name="reads").map(elements)

    view = flow.run(executor=place.executor)

    assert view.result[read].result == 3
    assert view.result[reads].result == [3, 3]
    assert view.result[made].result.x == 3


def test_an_exception_may_be_a_value(place: Place) -> None:
    with Flow("value") as flow:
        node = task(lambda: KeyError("found"), name="value")()
        seen = kinds(node)

    view = flow.run(executor=place.executor)

    assert view.result[node].state.name == "Success"
    assert isinstance(view.result[node].result, KeyError)
    assert view.result[seen].result == "KeyError"


def test_a_list_may_hold_itself(place: Place) -> None:
    def ring() -> list[Any]:
        value: list[Any] = []
        value.append(value)
        return value

    with Flow("ring") as flow:
        node = task(ring)()

    view = flow.run(executor=place.executor)

    found = view.result[node].result
    assert found[0] is found


# Time -----------------------------------------------------------------------------------------------------------------


def test_a_task_that_runs_too_long_has_timed_out_and_its_slot_is_free(place: Place) -> None:
    def spin() -> None:
        while True:
            pass

    with Flow("timeout") as flow:
        slow = [task(spin, timeout=0.1)() for _ in range(3)]
        elements = task(Misbehaving(spin, at=1), name="each", timeout=0.1).map([0, 1, 2])
        after = fine(5)
    began = time.monotonic()

    view = flow.run(executor=place.executor)

    assert time.monotonic() - began < SECONDS
    assert [view.result[node].state.name for node in slow] == ["TimedOut"] * 3
    assert "longer than its timeout of 0.1 s" in view.result[slow[0]].message
    assert [each.state.name for each in view.result[elements].map_states] == ["Success", "TimedOut", "Success"]
    assert view.result[after].result == 5


def test_a_task_that_sleeps_too_long_has_timed_out_at_its_deadline(place: Place) -> None:
    with Flow("timeout") as flow:
        slow = task(time.sleep, name="sleep", timeout=0.1)(1.5)
        caught = task(stubborn, timeout=0.1)()
    began = time.monotonic()

    view = flow.run(executor=place.executor)

    assert time.monotonic() - began < 1.4
    assert view.result[slow].state.name == "TimedOut"
    assert view.result[caught].state.name == "TimedOut"


def stubborn() -> None:
    """Catches everything that is an Exception."""
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def test_a_task_that_timed_out_may_be_tried_again(place: Place) -> None:
    def slow_first() -> int:
        if context.task_run_count == 1:
            time.sleep(1)
        return context.task_run_count

    with Flow("timeout") as flow:
        node = task(slow_first, timeout=0.1, max_retries=1)()

    view = flow.run(executor=place.executor)

    assert view.result[node].result == 2
    assert view.result[node].state.attempt == 2


@pytest.mark.parametrize("inplace_s", [0.5, 0.0], ids=["in place", "by the driver"])
def test_retries_count_their_attempts_wherever_the_wait_is(place: Place, inplace_s: float) -> None:
    def third(x: int) -> tuple[int, int]:
        if context.task_run_count < 3 and x % 2:
            raise ValueError(f"attempt {context.task_run_count}")
        return x, context.task_run_count

    with Flow("retries") as flow:
        options: dict[str, Any] = {"max_retries": 2, "retry_delay": 0.02}
        single = task(third, **options)(1)
        elements = task(third, name="each", **options).map(list(range(6)))
        too_few = task(third, name="too-few", max_retries=1, retry_delay=0.02)(1)
        after = fine.map(task(lambda pair: pair[1], name="count").map(elements))
    with config.set(engine__inplace_retry_delay_s=inplace_s):
        view = flow.run(executor=place.executor)

    assert view.result[single].result == (1, 3)
    assert view.result[single].state.attempt == 3
    assert view.result[elements].result == [(x, 3 if x % 2 else 1) for x in range(6)]
    assert view.result[after].result == [1, 3] * 3
    assert view.result[too_few].state.name == "Failed"
    assert "attempt 2" in view.result[too_few].message


def test_a_retry_is_not_tried_before_it_is_due(place: Place) -> None:
    times: list[float] = []

    def second(began: float) -> float:
        if context.task_run_count == 1:
            raise ValueError("not yet")
        return time.time() - began

    with Flow("due") as flow:
        node = task(second, max_retries=1, retry_delay=0.3)(time.time())
    with config.set(engine__inplace_retry_delay_s=0.1):
        view = flow.run(executor=place.executor)

    assert 0.3 <= view.result[node].result < 0.3 + SECONDS
    assert times == []


# Context --------------------------------------------------------------------------------------------------------------


def test_task_code_knows_where_it_is(place: Place) -> None:
    def look(x: int = 0) -> dict[str, Any]:
        names = ("flow_name", "run_id", "task_name", "task_full_name", "map_index", "task_run_count", "idempotency_key")
        return {name: getattr(context, name) for name in names}

    from anabranch import Parameter

    with Flow("context") as flow:
        Parameter("p", default=1)
        single = task(look, name="look")()
        elements = task(look, name="each", chunksize=2).map([0, 1, 2])
        given = task(lambda: dict(context.parameters), name="given")()
        date = task(lambda: context.today, name="date")()

    view = flow.run(executor=place.executor, p=5)

    found = view.result[single].result
    assert found["flow_name"] == "context"
    assert found["run_id"] == view.run_id
    assert found["task_full_name"] == "look"
    assert found["map_index"] is None
    assert found["idempotency_key"] == f"{view.run_id}/look"
    assert [each["map_index"] for each in view.result[elements].result] == [0, 1, 2]
    assert [each["task_full_name"] for each in view.result[elements].result] == ["each[0]", "each[1]", "each[2]"]
    assert view.result[given].result == {"p": 5}
    assert len(view.result[date].result) == len("2026-11-20")


def test_loops_count_their_rounds_and_pass_on_what_they_gave(place: Place) -> None:
    def grow(x: int) -> list[int]:
        so_far = [*(context.task_loop_result or []), x * context.task_loop_count]
        if len(so_far) < 3:
            raise signals.LOOP(result=so_far)
        return so_far

    with Flow("loops") as flow:
        single = task(grow)(1)
        elements = task(grow, name="each").map([1, 10])

    view = flow.run(executor=place.executor)

    assert view.result[single].result == [1, 2, 3]
    assert view.result[elements].result == [[1, 2, 3], [10, 20, 30]]


def test_a_thread_that_a_task_starts_knows_the_task_if_it_is_told(place: Place) -> None:
    import contextvars

    def ask() -> str:
        box: list[str] = []
        copied = contextvars.copy_context()
        thread = threading.Thread(target=copied.run, args=(lambda: box.append(context.task_name),))
        thread.start()
        thread.join()
        return box[0]

    with Flow("threads") as flow:
        node = task(ask)()

    assert flow.run(executor=place.executor).result[node].result == "ask"


# What tasks print and change ------------------------------------------------------------------------------------------


def test_what_a_task_prints_reaches_the_terminal_of_the_driver(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    with Flow("print") as flow:
        task(lambda: print("hello from a task"), name="speak")()
        task(lambda x: print(f"element {x}"), name="speak-each").map([0, 1])

    flow.run(executor=place.executor)

    printed = capfd.readouterr().out
    assert "hello from a task" in printed
    assert "element 1" in printed


def test_with_log_stdout_prints_are_log_records(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="anabranch")
    with Flow("print") as flow:
        task(lambda: print("hello from a task"), name="speak", log_stdout=True)()

    flow.run(executor=place.executor)

    assert any(record.message == "hello from a task" for record in caplog.records)


def test_a_task_that_changes_its_input_changes_it_for_nobody_else(place: Place) -> None:
    def spoil(xs: list[int]) -> int:
        xs.append(99)
        return len(xs)

    constant = [1, 2]
    with Flow("changes") as flow:
        first = task(spoil, name="first")(constant)
        retried = task(
            lambda xs: spoil(xs) if context.task_run_count == 2 else _fail(spoil(xs)), name="again", max_retries=1
        )
        second = retried(constant)

    views = [flow.run(executor=place.executor) for _ in range(2)]

    assert [view.result[first].result for view in views] == [3, 3]
    assert views[0].result[second].result in (3, 4)  # the two may share the copy of this run, and no other
    assert constant == [1, 2]


def _fail(value: object) -> Any:
    raise ValueError(value)


def test_a_handler_that_raises_fails_its_task_only(place: Place) -> None:
    def handler(node: Any, old: Any, new: Any) -> Any:
        raise SystemExit("from the handler")

    with Flow("handler") as flow:
        bad = task(lambda: 1, name="bad", state_handlers=[handler])()
        good = fine(2)

    view = flow.run(executor=place.executor)

    assert view.result[bad].state.name == "Failed"
    assert "state handler handler raised SystemExit" in view.result[bad].message
    assert view.result[good].result == 2


def test_a_trigger_that_raises_fails_its_task_only(place: Place) -> None:
    def trigger(upstreams: Any) -> bool:
        raise KeyError("in the trigger")

    with Flow("trigger") as flow:
        bad = task(lambda x: x, name="bad", trigger=trigger)(fine(1))
        good = fine(2)

    view = flow.run(executor=place.executor)

    assert view.result[bad].state.name == "TriggerFailed"
    assert "trigger trigger raised KeyError" in view.result[bad].message
    assert view.result[good].result == 2


# Values ---------------------------------------------------------------------------------------------------------------


def test_large_values_go_through_joins_and_back(place: Place) -> None:
    def block(n: int) -> bytearray:
        return bytearray([n]) * 1_000_000

    with Flow("large") as flow:
        blocks = task(block, chunksize=2).map(list(range(6)))
        sizes = task(lambda xs: [len(x) for x in xs], name="sizes")(blocks)
        joined = task(lambda xs: b"".join(bytes(x[:1]) for x in xs), name="join")(blocks)
        single = task(lambda x, y: len(x) + len(y), name="add").map(blocks, unmapped(task(block, name="one")(9)))
        last = task(lambda xs: bytearray(b"z") * 2_000_000, name="last")(blocks)

    view = flow.run(executor=place.executor, keep=[blocks])

    assert view.result[sizes].result == [1_000_000] * 6
    assert view.result[joined].result == bytes(range(6))
    assert view.result[single].result == [2_000_000] * 6
    assert len(view.result[last].result) == 2_000_000
    assert [x[0] for x in view.result[blocks].result] == list(range(6))
    assert view.result[blocks].map_states[4].result[0] == 4


def test_a_task_may_need_a_value_that_is_on_its_way_and_one_that_is_there(place: Place) -> None:
    """A region refers to keys of earlier regions, computed or not."""
    told = threading.Event()

    def watch(event: Any) -> None:
        if isinstance(event, TaskChanged) and event.slug == "each":
            told.set()

    with Flow("regions") as flow:
        slow = task(lambda: time.sleep(0.2) or 1, name="slow")()
        quick = task(lambda x: x, name="each").map([1, 2])
        node = task(lambda x, ys: [x, *ys], name="both")(slow, quick)

    view = flow.run(executor=place.executor, observers=[watch])

    assert told.is_set()
    assert view.result[node].result == [1, 1, 2]


def test_nothing_is_copied_to_the_caller_that_was_not_asked_for(place: Place) -> None:
    with Flow("released") as flow:
        large = task(lambda: b"x" * 100_000, name="large")()
        node = task(len, name="size")(large)

    view = flow.run(executor=place.executor)

    assert view.result[node].result == 100_000
    with pytest.raises(ResultReleased, match=r"keep=\[…\]"):
        _ = view.result[large].result


def test_an_executor_can_be_used_again_and_pickled(place: Place) -> None:
    with Flow("again") as flow:
        node = fine(3)

    views = [FlowRunner(flow).run(executor=place.executor) for _ in range(2)]
    twin = pickle.loads(pickle.dumps(place.executor))

    assert [view.result[node].result for view in views] == [3, 3]
    assert views[0].run_id != views[1].run_id
    assert flow.run(executor=twin).result[node].result == 3
    assert repr(twin) == repr(place.executor)


def test_one_flow_with_its_executor_and_its_result_is_run_by_many_threads_at_once(place: Place, tmp_path: Any) -> None:
    all_begin = threading.Barrier(3)

    def meet(flow: Flow, old: Any, new: Any) -> None:
        if new.is_running():
            all_begin.wait(SECONDS)

    options: dict[str, Any] = {"executor": place.executor, "result": LocalResult(tmp_path), "state_handlers": [meet]}
    with Flow("shared", **options) as flow:
        x = Parameter("x")
        node = task(lambda xs, x: [*xs, x], name="both")(fine.map([0, 1, 2]), x)

    def run(x: int) -> Any:
        return flow.run(x=x, executor=None).result[node].result

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, (1, 2, 3))) == [[0, 1, 2, x] for x in (1, 2, 3)]


# A cluster ------------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.parametrize("end", ["success", "failure", "pause"])
def test_no_key_of_a_run_stays_on_a_cluster(on_cluster: Place, end: str) -> None:
    def last(xs: list[Any]) -> Any:
        if end == "failure":
            raise ValueError("at the end")
        if end == "pause":
            raise signals.PAUSE("at the end")
        return b"x" * 100_000

    with Flow("keys") as flow:
        task(last)(fine.map(task(lambda x: b"x" * 50_000, name="large").map(list(range(20)))))

    view = flow.run(executor=on_cluster.executor, keep="all")

    assert view.state.name == {"success": "Success", "failure": "Failed", "pause": "Paused"}[end]
    assert on_cluster.scheduler_keys() == []


@pytest.mark.cluster
def test_a_program_too_large_to_travel_with_each_unit_leaves_no_key_either(on_cluster: Place) -> None:
    ballast = os.urandom(300_000)

    with Flow("program") as flow:
        node = task(lambda x: len(ballast) + x, name="heavy").map([1, 2, 3])

    view = flow.run(executor=on_cluster.executor)

    assert view.result[node].result == [300_001, 300_002, 300_003]
    assert on_cluster.scheduler_keys() == []


@pytest.mark.cluster
def test_keys_are_ascii_and_group_by_task(on_cluster: Place) -> None:
    from distributed import Client, get_client

    def keys() -> list[Any]:
        return get_client().run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))

    with Flow("größe [1]") as flow:
        node = task(keys, name="zähle: <b>")()
    with Client(on_cluster.cluster, set_as_default=False):
        view = flow.run(executor=on_cluster.executor)

    found = [key for key in view.result[node].result if view.run_id in str(key)]
    assert found
    assert all(isinstance(key, tuple) and key[0].isascii() for key in found)


@pytest.mark.cluster
def test_code_that_cannot_be_sent_is_refused_before_anything_runs(on_cluster: Place) -> None:
    lock = threading.Lock()

    def uses_lock() -> None:
        with lock:
            pass

    with Flow("closure") as flow:
        task(uses_lock)()

    with pytest.raises(AnabranchError, match=r"(?s)uses_lock.*lock"):
        flow.run(executor=on_cluster.executor)
    assert on_cluster.scheduler_keys() == []


@pytest.mark.cluster
def test_a_constant_that_cannot_be_sent_is_refused_before_anything_runs(on_cluster: Place) -> None:
    with Flow("constant") as flow:
        fine(threading.Lock())  # type: ignore[arg-type]

    with pytest.raises(AnabranchError, match=r"(?s)fine.*lock"):
        flow.run(executor=on_cluster.executor)


@pytest.mark.cluster
def test_a_value_of_a_class_that_only_one_worker_has_hangs_nothing() -> None:
    def only_here() -> Any:
        import sys
        import types

        time.sleep(2)  # a second worker may come later than the first: it has time to come, and to take the other task
        module = types.ModuleType("only_here")
        module.Thing = type("Thing", (), {"__module__": "only_here"})  # type: ignore[attr-defined]
        sys.modules["only_here"] = module
        return [module.Thing(), b"x" * 50_000]  # too large to travel with the report

    def elsewhere() -> bytes:
        time.sleep(0.2)  # so that the other worker takes it
        return b"y" * 1_000_000

    with Flow("missing") as flow:
        bad = task(only_here, name="bad")()
        large = task(elsewhere, name="large")()
        both = task(lambda x, y: len(y), name="both")(bad, large)
        good = fine(1)
    views: list[Any] = []
    executor = DaskExecutor(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})  # its own: it may not survive
    run = threading.Thread(target=lambda: views.append(flow.run(executor=executor)), daemon=True)

    run.start()
    run.join(20)

    assert views, "the run hangs"
    assert views[0].result[good].result == 1
    assert views[0].result[both].state.name == "Failed"
    assert "only_here" in views[0].result[both].message


def test_tasks_run_loops_of_their_own_wherever_their_flow_is_run(place: Place) -> None:
    async def fetch(x: int) -> int:
        await asyncio.sleep(0)
        if context.task_run_count == 1 and x == 3:
            raise OSError("once")
        return 2 * x

    def load(x: int) -> int:
        return asyncio.run(fetch(x))

    async def cell() -> Any:
        with Flow("notebook") as flow:
            nodes = (
                task(load, name="plain")(1),
                task(load, name="each").map([1, 2]),
                task(load, name="timed", timeout=20)(2),
                task(load, name="again", max_retries=1, retry_delay=0)(3),
            )
        state = flow.run(executor=place.executor)
        await asyncio.sleep(0)  # the notebook's own loop is there as before
        assert asyncio.get_event_loop() is asyncio.get_running_loop()
        return [state[node].result for node in nodes]

    assert asyncio.run(cell()) == [2, [2, 4], 4, 6]


@pytest.mark.cluster
@pytest.mark.parametrize("act", ["asyncio", "fork", "threads", "chdir", "stdout"])
def test_tasks_that_leave_traces_harm_nobody(on_cluster: Place, act: str, tmp_path: Any) -> None:
    def misbehave() -> str:
        import sys

        if act == "asyncio":
            asyncio.run(asyncio.sleep(0))
        elif act == "fork":
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        elif act == "threads":
            threading.Thread(target=time.sleep, args=(1.0,), daemon=True).start()
        elif act == "chdir":
            os.chdir(tmp_path)
        else:
            sys.stdout = None  # type: ignore[assignment]
        return act

    with Flow("traces") as flow:
        node = task(misbehave)()
        after = task(lambda _: print("still here") or 1, name="after")(node)

    view = flow.run(executor=on_cluster.executor)

    assert view.result[node].result == act
    assert view.result[after].state.name == "Success"


@pytest.mark.cluster
def test_a_cluster_is_made_for_a_run_and_closed_after_it() -> None:
    executor = DaskExecutor(cluster_kwargs={"n_workers": 1, "threads_per_worker": 2})
    links: list[str | None] = []
    with Flow("own cluster") as flow:
        pids = task(lambda _: os.getpid(), name="pid").map([0, 1])
        bad = task(RAISES["does not pickle"][0], name="bad")()
        large = task(lambda: b"x" * 100_000, name="large")()

    view = flow.run(executor=executor, observers=[lambda event: links.append(executor.dashboard_link)])

    assert str(links[0]).startswith("http://127.0.0.1:")
    assert os.getpid() not in view.result[pids].result
    assert view.result[bad].state.failure.type_name.endswith(HoldsLock.__name__)
    assert len(view.result[large].result) == 100_000
    assert executor.dashboard_link is None
    for pid in set(view.result[pids].result):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_address_where_nobody_answers_is_named_within_the_time_that_was_set() -> None:
    with Flow("nowhere") as flow:
        fine(1)
    began = time.monotonic()

    with config.set(engine__connect_timeout_s=0.5), pytest.raises(SchedulerUnreachable, match=r"tcp://127\.0\.0\.1:9"):
        flow.run(executor=DaskExecutor("tcp://127.0.0.1:9"))

    assert time.monotonic() - began < 5


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", ":8786", "host:x", "a b:1", 8786])
def test_what_is_no_address_is_refused_when_it_is_written(address: Any) -> None:
    with pytest.raises(OptionError, match="expected an address such as 'tcp://host:8786'"):
        DaskExecutor(address)


def test_an_address_and_a_cluster_class_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="not both"):
        DaskExecutor("tcp://127.0.0.1:8786", cluster_class="distributed.LocalCluster")


@pytest.mark.parametrize("scheduler", ["processes", "distributed", None])
def test_local_schedulers_that_there_are_not_are_refused(scheduler: Any) -> None:
    with pytest.raises(OptionError, match="'threads' or 'synchronous'"):
        LocalDaskExecutor(scheduler=scheduler)


@pytest.mark.parametrize("num_workers", [0, -1, True, 1.5])
def test_a_number_of_threads_that_cannot_be_is_refused(num_workers: Any) -> None:
    with pytest.raises(OptionError, match="num_workers of 1 or more"):
        LocalDaskExecutor(num_workers=num_workers)


def test_only_small_values_are_fetched_where_no_others_are_wanted(place: Place) -> None:
    @task
    def make(n: int) -> bytes:
        return b"x" * n

    @task
    def measure(data: bytes) -> int:
        return len(data)

    with Flow("large") as flow:
        large, small, parts = make(100_000), make(3), make.map([50_000, 60_000])
        measured = measure(large)
    view = flow.run(executor=place.executor, keep="small")
    assert view.is_successful()
    assert (view[measured].result, view[small].result) == (100_000, b"xxx")
    assert [state.is_successful() for state in view[parts].map_states] == [True, True]
    for read in (lambda: view[large].result, lambda: view[parts].result, lambda: view[parts].map_states[0].result):
        with pytest.raises(ResultReleased, match="or only small ones were to be kept"):
            read()
    assert view._whole.outcomes == {}

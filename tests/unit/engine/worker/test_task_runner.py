"""What becomes of a task run: what handlers are shown, what is tried again, and what states keep."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, Task, config, context, task, triggers
from anabranch.errors import TaskFailure, TaskTimeout, UpstreamFailure
from anabranch.results import LocalResult
from anabranch.signals import CANCEL, ENDRUN, FAIL, LOOP, RETRY, SKIP, VALIDATIONFAIL
from anabranch.states import Failed, Retrying, Success, TriggerFailed


@pytest.fixture(params=["at once", "later"], autouse=True)
def wait(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whether a retry follows in place, or by way of the driver."""
    with config.set(engine__inplace_retry_delay_s=0.0) if request.param == "later" else nullcontext():
        yield str(request.param)


@pytest.fixture
def delay_s(wait: str) -> float:
    return 0.0 if wait == "at once" else 0.02


def summary(view: Any) -> tuple[str, int]:
    """The state of a task run, and its attempt."""
    return view.name, view.attempt


# What handlers are shown ----------------------------------------------------------------------------------------------


def spill() -> Any:
    raise ValueError("wet")


def hang() -> Any:
    time.sleep(60)


def signalled(signal: Exception) -> Any:
    def end() -> Any:
        raise signal

    return end


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        (spill, {}, ValueError),
        (spill, {"isolation": "process"}, ValueError),
        (hang, {"timeout": 0.05}, TaskTimeout),
        (signalled(FAIL("no")), {}, FAIL),
        (signalled(VALIDATIONFAIL("no")), {}, VALIDATIONFAIL),
        (signalled(CANCEL("no")), {}, CANCEL),
        (signalled(ENDRUN(Failed("no"))), {}, ENDRUN),
        (lambda: 1, {"trigger": lambda upstreams: False}, UpstreamFailure),
    ],
    ids=["raises", "in a process", "hangs", "FAIL", "VALIDATIONFAIL", "CANCEL", "ENDRUN", "trigger"],
)
def test_the_result_of_a_failure_is_its_exception_for_handlers_and_afterwards(
    function: Any, options: Any, expected: type[BaseException]
) -> None:
    seen: list[tuple[str, Any]] = []

    def handler(node: Any, old: Any, new: Any) -> Any:
        if new.is_failed() or new.is_cancelled():
            seen.append(("handler", new.result))
        return new

    with Flow("shown") as flow:
        node = task(
            function,
            name="spill",
            state_handlers=[handler],
            on_failure=lambda node, state: seen.append(("on_failure", state.result)),
            **options,
        )()

    view = flow.run().result[node]

    assert [(who, type(result)) for who, result in seen] == [("handler", expected), ("on_failure", expected)]
    assert type(view.result) is expected
    assert [str(result) for _, result in seen] == [str(view.result)] * 2


def test_handlers_of_elements_and_of_attempts_that_are_repeated_see_exceptions(delay_s: float) -> None:
    seen: list[Any] = []

    def handler(node: Any, old: Any, new: Any) -> None:
        if new.is_failed():
            seen.append((context.map_index, context.task_run_count, str(new.result)))

    def odd(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    with Flow("shown") as flow:
        task(odd, max_retries=1, retry_delay=delay_s, state_handlers=[handler]).map([1, 2, 3])

    flow.run()

    assert sorted(seen) == [(0, 1, "1"), (0, 2, "1"), (2, 1, "3"), (2, 2, "3")]


def test_a_handler_may_put_a_value_in_the_place_of_a_failure(delay_s: float) -> None:
    def handler(node: Any, old: Any, new: Any) -> Any:
        return Success(result=len(new.result.args[0])) if new.is_failed() else None

    with Flow("replaced") as flow:
        nodes = [
            task(
                spill, name=f"spill-{n}", max_retries=n, retry_delay=delay_s if n else None, state_handlers=[handler]
            )()
            for n in (0, 2)
        ]

    run = flow.run()

    assert [run.result[node].result for node in nodes] == [3, 3]


def test_a_failure_of_a_handlers_own_is_a_cause_and_its_exception_is_kept() -> None:
    def silent(node: Any, old: Any, new: Any) -> Any:
        return Failed("too few rows") if new.is_successful() else None

    def told(node: Any, old: Any, new: Any) -> Any:
        return Failed("too few rows", result=LookupError("eu")) if new.is_successful() else None

    with Flow("own") as flow:
        nodes = [task(lambda: 1, name="rows", state_handlers=[handler])() for handler in (silent, told)]

    run = flow.run()
    errors = [run.result[node].result for node in nodes]

    assert [(type(error), str(error)) for error in errors] == [(TaskFailure, "too few rows"), (LookupError, "eu")]
    assert [name for name, _ in run.failures()] == ["rows", "rows-1"]


# What is tried again --------------------------------------------------------------------------------------------------


def at_least(rows: int, answer: Any) -> Any:
    """A handler for which fewer rows are a failure; `answer` makes its state, or raises."""

    def check(node: Any, old: Any, new: Any) -> Any:
        return answer() if new.is_successful() and new.result < rows else None

    return check


def raises(error: Exception) -> Any:
    def answer() -> Any:
        raise error

    return answer


ANSWERS: dict[str, Any] = {
    "Failed": lambda: Failed("too few rows"),
    "FAIL": raises(FAIL("too few rows")),
    "an exception": raises(LookupError("too few rows")),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("retries", [5, 2, 1])
def test_what_a_handler_takes_for_a_failure_is_tried_again(answer: Any, retries: int, delay_s: float) -> None:
    rows = task(
        lambda *, region="": context.task_run_count,
        name="rows",
        max_retries=retries,
        retry_delay=delay_s,
        state_handlers=[at_least(3, answer)],
    )
    with Flow("rows") as flow:
        single, mapped = rows(), rows.map(region=["eu", "us"])

    run = flow.run()

    expected = ("Success", 3) if retries >= 2 else ("Failed", 2)
    assert summary(run.result[single]) == expected
    assert [summary(each) for each in run.result[mapped].map_states] == [expected] * 2
    if not delay_s:  # others are in the run store
        assert "too few rows" in run.result[single].attempts[0].reason


@pytest.mark.parametrize(
    ("retry_on", "answer", "attempts"),
    [
        (LookupError, ANSWERS["an exception"], 2),
        (LookupError, ANSWERS["Failed"], 1),
        (OSError, ANSWERS["an exception"], 1),
        (TaskFailure, ANSWERS["Failed"], 2),
        (lambda error: "rows" in str(error), ANSWERS["Failed"], 2),
        (lambda error: 1 / 0, ANSWERS["Failed"], 1),
    ],
)
def test_retry_on_decides_about_the_failures_of_handlers_too(retry_on: Any, answer: Any, attempts: int) -> None:
    with Flow("rows") as flow:
        node = task(lambda: 0, max_retries=1, retry_on=retry_on, state_handlers=[at_least(3, answer)])()

    assert summary(flow.run().result[node]) == ("Failed", attempts)


@pytest.mark.parametrize("state", [TriggerFailed("no"), Failed])
def test_what_is_no_failure_of_the_attempt_is_not_tried_again(state: Any) -> None:
    """A state that is never retried; and one that a handler gives before the attempt has begun."""

    def handler(node: Any, old: Any, new: Any) -> Any:
        if state is Failed:
            return Failed("not today") if new.is_running() else None
        return state if new.is_successful() else None

    with Flow("rows") as flow:
        node = task(lambda: 0, max_retries=3, state_handlers=[handler])()

    assert flow.run().result[node].attempt == 1


@pytest.mark.parametrize("ask", [lambda: Retrying("busy"), raises(RETRY("busy"))], ids=["Retrying", "RETRY"])
def test_a_handler_may_ask_for_another_attempt(ask: Any) -> None:
    counts = task(lambda *, x=0: context.task_run_count, name="rows", state_handlers=[at_least(3, ask)])
    with Flow("asked") as flow:
        single, mapped = counts(), counts.map(x=[1, 2])

    run = flow.run()

    assert summary(run.result[single]) == ("Success", 3)
    assert run.result[mapped].result == [3, 3]


def test_a_value_that_a_handler_refuses_is_not_stored(tmp_path: Path, delay_s: float) -> None:
    options: dict[str, Any] = {
        "max_retries": 3,
        "retry_delay": delay_s,
        "result": LocalResult(str(tmp_path)),
        "state_handlers": [at_least(3, ANSWERS["Failed"])],
    }
    with Flow("stored") as flow:
        single = task(lambda: context.task_run_count, name="one", target="one", **options)()
        mapped = task(lambda x: context.task_run_count, name="each", target="{map_index}", **options).map([1, 2])
        refused = task(lambda: 0, name="never", target="never", **options)()

    first, again = flow.run(), flow.run()

    assert first.result[single].result == 3
    assert first.result[mapped].result == [3, 3]
    assert [again.result[single].name, again.result[single].result] == ["Cached", 3]
    assert [each.name for each in again.result[mapped].map_states] == ["Cached", "Cached"]
    assert first.result[refused].attempt == again.result[refused].attempt == 4
    assert not (tmp_path / "never").exists()


# Budgets --------------------------------------------------------------------------------------------------------------


class Busy(Task):
    """Asks three times for another attempt, then fails as often as it is told, in as many rounds."""

    def __init__(self, failures: int, rounds: int = 1, **options: Any) -> None:
        self.failures, self.rounds = failures, rounds
        self.calls: Counter[Any] = Counter()
        super().__init__(**options)

    def run(self, x: int = 0) -> int:
        turn = x, context.task_loop_count
        self.calls[turn] += 1
        if self.calls[turn] <= 3:
            raise RETRY("busy", start_time=datetime.now(UTC) + timedelta(seconds=0.01))
        if self.calls[turn] <= 3 + self.failures:
            raise ConnectionError("once")
        if context.task_loop_count < self.rounds:
            raise LOOP(result=context.task_loop_count)
        return context.task_loop_count


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(("failures", "expected"), [(2, "Success"), (3, "Failed")])
def test_asking_for_another_attempt_uses_up_no_retries(
    failures: int, expected: str, rounds: int, delay_s: float
) -> None:
    options: dict[str, Any] = {"max_retries": 2, "retry_delay": delay_s}
    with Flow("budget") as flow:
        single = Busy(failures, rounds, name="single", **options)()
        mapped = Busy(failures, rounds, name="mapped", **options).map([1, 2])

    run = flow.run()

    assert summary(run.result[single]) == (expected, 6)
    assert [summary(each) for each in run.result[mapped].map_states] == [(expected, 6)] * 2


@pytest.mark.parametrize("handlers", [[], [lambda node, old, new: None]], ids=["plain", "with a handler"])
@pytest.mark.parametrize("first", ["fails", "asks"])
def test_each_round_of_a_loop_has_its_own_retries(first: str, handlers: list[Any], delay_s: float) -> None:
    def climb(x: int = 0) -> int:
        if context.task_run_count == 1:
            raise ValueError("slips") if first == "fails" else RETRY("waits")
        if context.task_loop_count < 4:
            raise LOOP(result=context.task_loop_count)
        if context.task_run_count == 2:
            raise ValueError("slips at the top")
        return context.task_run_count

    options: dict[str, Any] = {"max_retries": 2, "retry_delay": delay_s, "state_handlers": handlers}
    with Flow("stairs") as flow:
        single, mapped = task(climb, name="one", **options)(), task(climb, name="each", **options).map([1, 2])

    run = flow.run()

    assert summary(run.result[single]) == ("Success", 3)
    assert run.result[mapped].result == [3, 3]


def test_the_delay_grows_with_failures_only() -> None:
    asked: list[int] = []

    def delay(failures: int) -> float:
        asked.append(failures)
        return 0.0

    with Flow("delays") as flow:
        Busy(2, max_retries=2, retry_delay=delay)()

    assert flow.run().is_successful()
    assert asked == [1, 2]


# What is skipped ------------------------------------------------------------------------------------------------------


def skips(x: int = 1) -> int:
    if x % 2:
        raise SKIP("odd", result={"x": x})
    return x


def test_a_skipped_task_keeps_the_result_that_it_gave() -> None:
    seen: list[Any] = []
    skipping = task(skips, name="skips", state_handlers=[lambda node, old, new: seen.append(new.result)])
    take = task(lambda x: x, name="take", trigger=triggers.all_finished, skip_on_upstream_skip=False)
    with Flow("skips") as flow:
        single, mapped, plain = skipping(), task(skips, name="each").map([1, 2, 3]), task(lambda x: x)(skipping())
        taken, joined = take(single), take(mapped)

    run = flow.run()

    assert (run.result[single].name, run.result[single].result) == ("Skipped", {"x": 1})
    assert [each.result for each in run.result[mapped].map_states] == [{"x": 1}, 2, {"x": 3}]
    assert run.result[mapped].result == [{"x": 1}, 2, {"x": 3}]
    assert run.result[taken].result == {"x": 1}
    assert run.result[joined].result == [{"x": 1}, 2, {"x": 3}]
    assert run.result[plain].name == "Skipped"
    assert {"x": 1} in seen
    assert flow.run(resume=run.run_id).result[single].result == {"x": 1}


def test_a_result_of_a_skip_that_cannot_travel_is_the_tasks_failure() -> None:
    def skip(x: int = 0) -> None:
        raise SKIP(result=(each for each in range(3)))

    with Flow("skips") as flow:
        single, mapped = task(skip, name="one")(), task(skip, name="each").map([1])

    run = flow.run()

    assert "generator" in run.result[single].message
    assert [each.name for each in run.result[mapped].map_states] == ["Failed"]

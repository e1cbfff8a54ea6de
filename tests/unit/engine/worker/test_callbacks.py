"""Functions of the user's that are asked about a task run, and raise themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, Task, states, task
from anabranch.base.texts import headline_of
from anabranch.results import LocalResult
from anabranch.runs.view import FlowRunView


class Quota(Exception):
    code = 7


class Untold(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def use_up(*args: Any) -> Any:
    raise Quota("the quota is used up")


def raising(error: BaseException) -> Any:
    def ask(*args: Any) -> Any:
        raise error

    return ask


def run(made: Task[..., Any], *, is_map: bool) -> tuple[FlowRunView, Any]:
    with Flow("asked") as flow:
        node = made.map([1]) if is_map else made(1)
    view = flow.run()
    return view, view.result[node]


ERRORS = [AttributeError("no status"), IndexError(), SystemExit(3), GeneratorExit(), Untold()]


@pytest.mark.parametrize("is_map", [False, True], ids=["single", "map"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("option", "others"),
    [("retry_on", {}), ("retry_on", {"retry_delay": 1}), ("retry_delay", {})],
    ids=["retry_on", "retry_on with delay", "retry_delay"],
)
def test_who_is_asked_about_a_retry_and_raises_does_not_hide_the_tasks_own_error(
    option: str, others: dict[str, Any], error: BaseException, is_map: bool
) -> None:
    made = task(use_up, max_retries=3, **{option: raising(error)}, **others)

    _, seen = run(made, is_map=is_map)

    assert "Quota: the quota is used up (not tried again: " in seen.message
    assert f"{option} raised {headline_of(error)}" in seen.message
    (run_of,) = seen.map_states if is_map else (seen,)
    assert type(run_of.result) is Quota
    assert "in use_up" in run_of.state.failure.line


@pytest.mark.parametrize("is_map", [False, True], ids=["single", "map"])
def test_a_predicate_that_raises_later_is_told_of_the_last_attempt(is_map: bool) -> None:
    asked: list[BaseException] = []

    def twice(error: BaseException) -> bool:
        asked.append(error)
        if len(asked) > 1:
            raise LookupError("no more")
        return True

    _, seen = run(task(use_up, max_retries=3, retry_on=twice), is_map=is_map)

    assert "the quota is used up (not tried again: retry_on raised LookupError: no more)" in seen.message


@pytest.mark.parametrize("is_map", [False, True], ids=["single", "map"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_handler_that_raises_at_a_failure_does_not_hide_it(error: BaseException, is_map: bool) -> None:
    def picky(obj: Any, old: Any, new: Any) -> None:
        if new.is_failed():
            raise error

    _, seen = run(task(use_up, state_handlers=[picky]), is_map=is_map)

    assert "Quota: the quota is used up (state handler " in seen.message
    assert f"picky raised {headline_of(error)}" in seen.message


def test_a_handler_that_raises_at_a_retry_ends_it_with_the_attempts_own_error() -> None:
    def picky(obj: Any, old: Any, new: Any) -> None:
        if isinstance(new, states.Retrying):
            raise LookupError("no retries here")

    _, seen = run(task(use_up, max_retries=3, state_handlers=[picky]), is_map=False)

    assert seen.is_failed()
    assert "Quota: the quota is used up (state handler " in seen.message
    assert "picky raised LookupError: no retries here" in seen.message


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_predicate_that_ends_a_map_is_named_when_it_raises(error: BaseException) -> None:
    _, seen = run(task(lambda x: x, name="good", stop_when=raising(error)), is_map=True)

    assert "good[0]: " in seen.message
    assert headline_of(error) in seen.message
    assert "(raised by stop_when)" in seen.message


@pytest.mark.parametrize("is_map", [False, True], ids=["single", "map"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_key_that_raises_is_named(error: BaseException, is_map: bool, tmp_path: Path) -> None:
    made = task(lambda x: x, name="good", cache_for=60, cache_key=raising(error), result=LocalResult(str(tmp_path)))

    _, seen = run(made, is_map=is_map)

    assert headline_of(error) in seen.message
    assert "(raised by cache_key)" in seen.message


@pytest.mark.parametrize("is_map", [False, True], ids=["single", "map"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_validator_that_raises_is_named(error: BaseException, is_map: bool, tmp_path: Path) -> None:
    made = task(
        lambda x: x,
        name="good",
        cache_for=60,
        cache_validator=raising(error),
        result=LocalResult(str(tmp_path)),
    )
    run(made, is_map=is_map)

    _, seen = run(made, is_map=is_map)

    assert headline_of(error) in seen.message
    assert "(raised by cache_validator)" in seen.message


class Undecided:
    def __bool__(self) -> bool:
        raise SystemExit("neither nor")

    def __repr__(self) -> str:
        raise SystemExit("no repr")


class Closed:
    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        raise SystemExit("no repr")


def test_a_trigger_whose_answer_cannot_be_understood_is_named() -> None:
    def undecided(upstreams: Any) -> Any:
        return Undecided()

    def closed(upstreams: Any) -> Any:
        return Closed()

    _, seen = run(task(lambda x: x, name="good", trigger=undecided), is_map=False)
    assert seen.message == "trigger undecided raised SystemExit: neither nor"

    _, seen = run(task(lambda x: x, name="good", trigger=closed), is_map=False)
    assert seen.message == "trigger closed gave Closed"

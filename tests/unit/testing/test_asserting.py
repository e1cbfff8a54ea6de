"""What assertions on states let pass, and what they say where they do not."""

from __future__ import annotations

from typing import Any

import pytest
from tests.refusals import refused

from anabranch import Flow, task
from anabranch.errors import OptionError, UnknownNodeError
from anabranch.runs.view import FlowRunView
from anabranch.states import Failed, Skipped, Success, TriggerFailed
from anabranch.testing import FlowTester, assert_failed, assert_skipped, assert_states, assert_success, states


@task
def parse(line: str) -> int:
    return int(line)


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def unrelated() -> None: ...


with Flow("lines") as flow:
    numbers = parse.map(["1", "b", "3"])
    summed = total(numbers)
    other = unrelated()


@pytest.fixture(scope="module")
def run() -> FlowRunView:
    return FlowTester().run(flow)


def test_states_are_told_by_element(run: FlowRunView) -> None:
    assert states(run, parse) == ["Success", "Failed", "Success"]
    assert states(run, summed) == ["TriggerFailed"]
    assert states(run, "unrelated") == ["Success"]


def test_a_success_passes(run: FlowRunView) -> None:
    assert_success(run, other)
    assert_success(run.result[other])
    assert_success(run.result[parse].map_states[0])
    assert_success(Success())


def test_a_run_that_is_no_success_is_told_with_its_cause(run: FlowRunView) -> None:
    with pytest.raises(AssertionError) as info:
        assert_success(run)

    text = str(info.value)
    assert text.startswith(f"flow run {run.run_id} is Failed")
    assert "expected Success" in text
    assert "parse[1]" in text
    assert "invalid literal for int()" in text
    assert "return int(line)" in text  # the line that raised


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda run: assert_success(run, total), "total is TriggerFailed"),
        (lambda run: assert_success(run.result[parse].map_states[1]), "parse[1] is Failed: ValueError"),
        (lambda run: assert_success(Failed(message="so it is")), "the state is Failed: so it is, expected Success"),
        (lambda run: assert_skipped(run, other), "unrelated is Success: done, expected Skipped"),
        (lambda run: assert_failed(run, other), "unrelated is Success: done, expected Failed"),
        (lambda run: assert_failed(run, parse, index=0), "parse[0] is Success: done, expected Failed"),
        (lambda run: assert_failed(run, parse, index=3), "parse has 3 elements, and none with index 3"),
        (lambda run: assert_failed(run, with_=OSError), "expected with OSError, found ValueError: invalid literal"),
        (lambda run: assert_failed(run, parse, match="nought"), "expected with matching 'nought', found ValueError"),
    ],
)
def test_what_is_not_so_is_told(run: FlowRunView, check: Any, words: str) -> None:
    with pytest.raises(AssertionError) as info:
        check(run)
    assert words in str(info.value)


def test_a_failure_is_asserted_with_its_exception(run: FlowRunView) -> None:
    assert_failed(run)
    assert_failed(run, with_=ValueError, match="invalid literal")
    assert_failed(run, parse, with_=ValueError)
    assert_failed(run, parse, index=1, match="'b'")
    assert_failed(run.result[summed])
    assert_failed(run.result[parse].map_states[1], with_=ValueError)


def test_several_states_are_asserted_at_once(run: FlowRunView) -> None:
    assert_states(run, {parse: ["Success", "Failed", Success], total: "Failed", other: Success})
    assert_states(run, {"total": TriggerFailed})

    with pytest.raises(AssertionError) as info:
        assert_states(run, {parse: ["Success", "Success"], total: Skipped, other: "Success"})

    text = str(info.value)
    assert "parse has 3 elements, expected 2" in text
    assert "parse[1] is Failed: ValueError" in text
    assert "total is TriggerFailed" in text
    assert "unrelated" not in text.split("\n\n")[0]


def test_mistakes_of_the_test_are_no_failed_assertions(run: FlowRunView) -> None:
    with refused(OptionError, "what flow.run(…) returned", "found True", at=""):
        assert_success(True)  # type: ignore[arg-type]  # that is the mistake
    with refused(OptionError, "give the run", at=""):
        assert_success(Success(), parse)
    with refused(OptionError, "index=1", "no task is given", at=""):
        assert_failed(run, index=1)
    with refused(OptionError, "found 'Sucess'", "'Success'", at=""):
        assert_states(run, {parse: "Sucess"})
    with refused(UnknownNodeError, "'prase'", "did you mean 'parse'", at=""):
        assert_success(run, "prase")

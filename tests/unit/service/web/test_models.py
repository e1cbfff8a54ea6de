"""What is asked of the API is checked by its model, with all its problems at once, but no more than one can read."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch.service.web.models import ApproveAsked, Asked, Refused, RunsAsked, StartAsked, check_asked


@pytest.mark.parametrize(
    ("model", "value", "status", "text"),
    [
        (StartAsked, None, 400, "the body: expected an object, found None"),
        (StartAsked, {"due": 5}, 422, "due: expected a time with its zone, such as 2026-11-21T06:00:00Z, found 5"),
        (StartAsked, {"due": "2026-01-01T00:00:00"}, 422, "due: expected a time with its zone"),
        (StartAsked, {"due": "0476-03-17T18:30:48Z"}, 422, "due: expected a time with its zone"),
        (
            StartAsked,
            {"due": 5, "idempotency_key": ""},
            400,
            "idempotency_key: must have at least 1 character, found ''",
        ),
        (ApproveAsked, {}, 400, "tasks is missing"),
        (ApproveAsked, {"tasks": ["a", 1, ""]}, 400, "tasks[1]: must be a valid string, found 1; tasks[2]: must have"),
        (Asked, {"a": 1}, 400, "there is no 'a'; there are: none"),
    ],
)
def test_what_does_not_fit_a_model_is_told(model: type[Asked], value: Any, status: int, text: str):
    with pytest.raises(Refused) as refused:
        check_asked(model, value)
    assert refused.value.status == status
    assert text in str(refused.value)


def test_a_request_with_very_many_problems_is_refused_in_few_words():
    for value in ({str(number): 0 for number in range(100_000)}, {"tasks": [1] * 1_000}, {"tasks": [1] * 100_000}):
        with pytest.raises(Refused) as refused:
            check_asked(ApproveAsked, value)
        assert len(str(refused.value)) < 1_000


def test_numbers_of_a_query_are_texts():
    assert check_asked(RunsAsked, {"limit": "7", "flow": "8"}, is_query=True) == RunsAsked(limit=7, flow="8")
    with pytest.raises(Refused, match="limit: must be a valid integer"):
        check_asked(RunsAsked, {"limit": "7"})

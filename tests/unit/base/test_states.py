"""States of maps, and the numbers in them."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.base.states import (
    BY_CODE,
    FIRST_FINAL_CODE,
    Cancelled,
    Counts,
    Crashed,
    Failed,
    Failure,
    Mapped,
    Skipped,
    Success,
    TriggerFailed,
    counts_of,
    map_state,
    tally,
)

FINAL = [code for code in BY_CODE if code >= FIRST_FINAL_CODE]


@given(st.lists(st.sampled_from(FINAL)).map(bytes))
def test_each_element_is_counted_under_one_word(codes):
    words = counts_of(codes).by_word()
    classes = [BY_CODE[code] for code in codes]
    assert sum(words.values()) == len(codes)
    assert words["cancelled"] == classes.count(Cancelled)
    assert words["failed"] == sum(issubclass(each, Failed) for each in classes)
    assert tally([each() for each in classes]) == counts_of(codes)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (Counts(), "0 elements: 0 successful"),
        (Counts(3, 3), "3 elements: 3 successful"),
        (Counts(9, 2, 3, 4), "9 elements: 2 successful, 4 failed, 3 skipped"),
        (Counts(9, 2, 3, 4, 1), "9 elements: 2 successful, 3 failed, 1 cancelled, 3 skipped"),
        (Counts(9, 5, 0, 4, 4), "9 elements: 5 successful, 4 cancelled"),
        (Counts(2_000, 1, 0, 1_998, 1_900), "2,000 elements: 1 successful, 98 failed, 1,900 cancelled"),
    ],
)
def test_what_was_cancelled_has_a_word_of_its_own(counts, text):
    assert str(counts) == text


def test_counts_travel_and_those_of_earlier_records_had_none_cancelled():
    counts = Counts(9, 2, 3, 4, 1)
    assert pickle.loads(pickle.dumps(counts)) == counts
    make, arguments, state = counts.__reduce_ex__(5)[:3]
    earlier = make(*arguments)
    earlier.__setstate__(list(state)[:4])
    assert earlier == Counts(9, 2, 3, 4)


FAILS = Failed(failure=Failure("ValueError", "no"))
STOPPED = Cancelled(message="not run")


@pytest.mark.parametrize(
    ("states", "cls", "message"),
    [
        ([FAILS, STOPPED, STOPPED], Failed, "m[0]: ValueError: no; 3 elements: 0 successful, 1 failed, 2 cancelled"),
        ([STOPPED, FAILS], Failed, "m[1]: ValueError: no; 2 elements: 0 successful, 1 failed, 1 cancelled"),
        ([Success(), STOPPED], Failed, "m[1]: not run; 2 elements: 1 successful, 1 cancelled"),
        ([STOPPED, STOPPED], Failed, "m[0]: not run (+1 others); 2 elements: 0 successful, 2 cancelled"),
        ([Crashed(message="x"), TriggerFailed()], Failed, "m[0]: x (+1 others); 2 elements: 0 successful, 2 failed"),
        ([Success(), Skipped()], Mapped, "2 elements: 1 successful, 1 skipped"),
    ],
)  # fmt: skip
def test_a_map_names_an_element_that_failed_before_one_that_was_cancelled(states, cls, message):
    state = map_state("m", bytes(each.code for each in states), dict(enumerate(states)))
    assert (type(state), state.message) == (cls, message)


def test_cancelled_elements_of_a_map_that_is_a_success_do_not_count_against_it():
    mapped = Mapped(counts=Counts(10, 7, 0, 3, 2))
    assert tally([mapped, Cancelled(), Failed()]) == Counts(12, 7, 3, 2, 1)

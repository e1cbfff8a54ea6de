"""What a task's options mean, and what they cannot be: told when they are written, never at run time."""

import pickle
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch.definition.policies import MAX_SECONDS, Policies, Retry, retry_from, to_seconds
from anabranch.errors import OptionError, TaskTimeout
from anabranch.signals import FAIL

# Delays ---------------------------------------------------------------------------------------------------------------


def test_seconds_are_numbers_or_timedeltas():
    assert to_seconds(5, "timeout") == 5.0
    assert to_seconds(timedelta(minutes=2), "timeout") == 120.0


@pytest.mark.parametrize("value", ["5", None, True, -1, float("nan"), float("inf"), 1e300, [1]])
def test_anything_else_is_no_number_of_seconds(value):
    with refused(OptionError, "timeout: expected", at=""):
        to_seconds(value, "timeout")


def test_a_delay_is_multiplied_by_the_backoff():
    retry = Retry(max_retries=5, delay=1.0, backoff=2.0)
    assert [retry.delay_s(attempt) for attempt in (1, 2, 3, 4)] == [1, 2, 4, 8]


def test_a_delay_has_a_bound():
    retry = Retry(max_retries=5, delay=1.0, backoff=10.0, max_delay_s=30.0)
    assert [retry.delay_s(attempt) for attempt in (1, 2, 3, 4)] == [1, 10, 30, 30]


def test_jitter_varies_a_delay_around_its_middle():
    retry = Retry(max_retries=1, delay=10.0, jitter=0.2)
    assert [retry.delay_s(1, randomness) for randomness in (0.0, 0.5, 1.0)] == [8, 10, 12]


def test_the_last_delay_of_a_list_repeats():
    retry = Retry(max_retries=5, delay=[1, timedelta(seconds=2)])
    assert [retry.delay_s(attempt) for attempt in (1, 2, 3)] == [1, 2, 2]


def test_a_delay_may_be_a_function_of_the_attempt():
    assert Retry(max_retries=2, delay=lambda attempt: attempt * 10).delay_s(2) == 20


@given(st.integers(1, 10**9), st.floats(1, 1e6), st.floats(0, MAX_SECONDS))
def test_no_delay_is_too_long_for_a_datetime(attempt, backoff, delay):
    wait = Retry(max_retries=1, delay=delay, backoff=backoff, jitter=1.0).delay_s(attempt, 1.0)
    assert timedelta(seconds=wait) <= timedelta(seconds=MAX_SECONDS)


# When to retry --------------------------------------------------------------------------------------------------------


def test_there_are_as_many_attempts_after_the_first_as_max_retries_says():
    retry = Retry(max_retries=2)
    assert [retry.wants(ValueError(), attempt) for attempt in (1, 2, 3)] == [True, True, False]


def test_retry_on_takes_types_and_their_subclasses():
    retry = Retry(max_retries=1, on=(OSError, KeyError))
    assert [retry.wants(error, 1) for error in (FileNotFoundError(), KeyError(), ValueError())] == [True, True, False]


def test_retry_on_may_name_signals_and_timeouts():
    retry = Retry(max_retries=1, on=(FAIL, TimeoutError))
    assert retry.wants(FAIL("no"), 1)
    assert retry.wants(TaskTimeout("late"), 1)
    assert not retry.wants(ValueError(), 1)


def test_retry_on_may_be_a_predicate():
    retry = Retry(max_retries=1, on=lambda error: "busy" in str(error))
    assert retry.wants(ValueError("busy"), 1)
    assert not retry.wants(ValueError("gone"), 1)


# Spellings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": 3, "retry_delay": 2, "retry_backoff": 2, "retry_on": [OSError]},
        {"retry_kwargs": {"max_retries": 3, "retry_delay": 2, "retry_backoff": 2, "retry_on": OSError}},
        {"retry_kwargs": {"max_retries": 3, "delay": 2, "backoff": 2, "on": (OSError,)}},
        {"max_retries": 3, "retry_kwargs": {"delay": timedelta(seconds=2), "backoff": 2, "on": OSError}},
    ],
)
def test_all_spellings_of_retries_mean_the_same(options):
    retry = retry_from(options)
    assert (retry.max_retries, retry.delay, retry.backoff) == (3, 2.0, 2)
    assert retry.wants(OSError(), 1)
    assert not retry.wants(KeyError(), 1)


def test_options_change_what_there_was_before_and_leave_the_rest():
    base = Policies.from_options({"max_retries": 3, "retry_delay": 2, "tags": ["io"], "timeout": 60})
    changed = Policies.from_options({"max_retries": 5}, base)
    assert (changed.retry.max_retries, changed.retry.delay) == (5, 2.0)
    assert (changed.tags, changed.timeout_s) == ({"io"}, 60.0)


def test_an_option_that_is_none_is_not_given():
    assert Policies.from_options({"timeout": None, "max_retries": None, "tags": None}) == Policies()


def test_policies_travel():
    policies = Policies.from_options({"max_retries": 1, "retry_on": OSError, "timeout": 1, "resources": {"GPU": 1}})
    assert pickle.loads(pickle.dumps(policies)) == policies


# Refusals -------------------------------------------------------------------------------------------------------------

WRONG = [
    ({"max_retries": -1}, "max_retries: expected a whole number from 0 to 1,000,000, found -1"),
    ({"max_retries": True}, "max_retries: expected a whole number from 0 to 1,000,000, found True"),
    ({"max_retries": "3"}, "max_retries: expected a whole number from 0 to 1,000,000, found '3'"),
    ({"max_retries": 10**9}, "max_retries: expected a whole number from 0 to 1,000,000, found 1000000000"),
    ({"retry_delay": 5}, "retry_delay given without max_retries: nothing would be retried"),
    ({"max_retries": 0, "retry_on": OSError}, "retry_on given without max_retries"),
    ({"max_retries": 1, "retry_delay": -1}, "retry_delay: expected 0 to 316,224,000 seconds, found -1"),
    ({"max_retries": 1, "retry_delay": "5"}, "retry_delay: expected seconds as a number or a timedelta, found '5'"),
    ({"max_retries": 1, "retry_delay": []}, "retry_delay: the list of delays is empty"),
    ({"max_retries": 1, "retry_delay": [1, "2"]}, "retry_delay: expected seconds"),
    ({"max_retries": 1, "retry_backoff": 0.5}, "retry_backoff: expected a number of at least 1, found 0.5"),
    ({"max_retries": 1, "retry_backoff": float("inf")}, "retry_backoff: expected a number"),
    ({"max_retries": 1, "retry_jitter": 2}, "retry_jitter: expected a part of the delay from 0 to 1, found 2"),
    ({"max_retries": 1, "retry_max_delay": -1}, "retry_max_delay: expected 0 to"),
    ({"max_retries": 1, "retry_on": 5}, "retry_on: expected exception types or a predicate of the exception, found 5"),
    ({"max_retries": 1, "retry_on": [OSError, "x"]}, "retry_on: expected exception types"),
    ({"max_retries": 1, "retry_on": []}, "retry_on: expected exception types"),
    ({"retry_kwargs": 5}, "retry_kwargs: expected a dict such as {'max_retries': 3}, found 5"),
    ({"retry_kwargs": {"tries": 5}}, "retry_kwargs: unknown key 'tries'; it takes: max_retries, retry_delay"),
    ({"max_retries": 1, "retry_kwargs": {"max_retries": 2}}, "max_retries is given twice"),
    ({"timeout": 0}, "timeout: expected more than 0"),
    ({"timeout": -1}, "timeout: expected more than 0"),
    ({"timeout": float("inf")}, "timeout: expected more than 0"),
    ({"timeout": "5"}, "timeout: expected seconds as a number or a timedelta, found '5'"),
    ({"timeout": 1e-9}, "timeout: expected at least a millisecond"),
    ({"isolation": "container"}, "isolation: expected 'thread' or 'process', found 'container'"),
    ({"memory_limit": 10**9}, "memory_limit needs isolation='process'"),
    ({"trigger": "all_failed"}, "trigger: expected a function of the upstream states, found 'all_failed'"),
    ({"skip_on_upstream_skip": "no"}, "skip_on_upstream_skip: expected True or False, found 'no'"),
    ({"tags": "abc"}, "tags: expected a collection of strings, found 'abc'"),
    ({"tags": 5}, "tags: expected a collection of strings, found 5"),
    ({"tags": ["a", 5]}, "tags: expected a collection of strings"),
    ({"tags": ["a" * 10_000_000]}, "tags: expected words of at most 200 characters"),
    ({"nout": -1}, "nout: expected a whole number of outputs, found -1"),
    ({"nout": True}, "nout: expected a whole number of outputs, found True"),
    ({"log_stdout": 1}, "log_stdout: expected True or False, found 1"),
    ({"state_handlers": print}, "state_handlers: expected a list of functions"),
    ({"state_handlers": "abc"}, "state_handlers: expected a list of functions"),
    ({"state_handlers": [5]}, "expected a function, found 5"),
    ({"on_failure": 5}, "expected a function, found 5"),
    ({"chunksize": 0}, "chunksize: expected 'auto' or a whole number from 1, found 0"),
    ({"chunksize": "big"}, "chunksize: expected 'auto' or a whole number from 1, found 'big'"),
    ({"resources": {"GPU": 0}}, "resources: expected names with amounts above 0, found {'GPU': 0}"),
    ({"resources": ["GPU"]}, "resources: expected names with amounts above 0, found ['GPU']"),
    ({"priority": 1.5}, "priority: expected a whole number, found 1.5"),
    ({"max_retry": 3}, "unknown task option 'max_retry'; there are: max_retries"),
    ({"max_retry": 3}, "did you mean 'max_retries'"),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=[f"{options}"[:50] for options, _ in WRONG])
def test_an_option_that_cannot_be_is_refused_with_what_was_expected(options, words):
    with refused(OptionError, words, at=""):
        Policies.from_options(options)

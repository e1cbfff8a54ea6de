"""Which upstream states let a node run: the triggers, and the skip rule that comes before them."""

import pickle

import pytest
from tests.refusals import refused

from anabranch import triggers
from anabranch.base.triggers import EdgeName, Upstreams, verdict
from anabranch.errors import OptionError
from anabranch.signals import FAIL, SKIP, TRIGGERFAIL
from anabranch.states import Cancelled, Counts, Failed, Mapped, Paused, Pending, Skipped, Success, TriggerFailed

S, F, K, C = Success(), Failed(), Skipped(), Cancelled()


def upstreams(*states, kind="data"):
    return Upstreams({EdgeName(f"up{i}", kind): state for i, state in enumerate(states)})


def says(trigger, *states, skips=False, kind="data"):
    """What becomes of a node: "run", or the name of its state."""
    state = verdict(upstreams(*states, kind=kind), trigger=trigger, skip_on_upstream_skip=skips)
    return "run" if state is None else state.name


# One line for each trigger: with nothing upstream, one success, one failure, one of each, a skip, all skipped.
COLUMNS = [(), (S,), (F,), (S, F), (S, K), (K, K)]
TABLE = {
    "all_successful": "run run TriggerFailed TriggerFailed run run",
    "none_failed": "run run TriggerFailed TriggerFailed run run",
    "all_failed": "run TriggerFailed run TriggerFailed TriggerFailed TriggerFailed",
    "any_successful": "run run TriggerFailed run run run",
    "any_failed": "run TriggerFailed run run TriggerFailed TriggerFailed",
    "all_finished": "run run run run run run",
    "always_run": "run run run run run run",
    "not_all_skipped": "Skipped run TriggerFailed TriggerFailed run Skipped",
    "manual_only": "Paused Paused Paused Paused Paused Paused",
}


@pytest.mark.parametrize(
    ("name", "states", "expected"),
    [
        (name, states, expected)
        for name, row in TABLE.items()
        for states, expected in zip(COLUMNS, row.split(), strict=True)
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(state.name for state in value) or "nothing",
)
def test_each_trigger_decides_as_its_row_of_the_table_says(name, states, expected):
    assert says(getattr(triggers, name), *states) == expected


def test_cancelled_counts_as_failed():
    assert says(triggers.all_successful, S, C) == "TriggerFailed"
    assert says(triggers.any_failed, S, C) == "run"
    with pytest.raises(TRIGGERFAIL, match="2 of 3 upstream task runs failed or were cancelled"):
        triggers.all_successful(upstreams(S, F, C))


# Counting -------------------------------------------------------------------------------------------------------------


def mapped(successful=0, failed=0, skipped=0):
    counts = Counts(successful + failed + skipped, successful, skipped, failed)
    return Failed(counts=counts) if failed else Mapped(counts=counts)


def test_a_map_counts_as_its_elements():
    states = upstreams(mapped(successful=900_000, failed=100_000), S)
    assert states.counts == Counts(1_000_001, 900_001, 0, 100_000)


def test_a_node_with_two_edges_counts_once():
    both = Upstreams({EdgeName("a", "data", "x"): F, EdgeName("a", "data", "y"): F, EdgeName("b", "order"): S})
    assert both.counts == Counts(2, 1, 0, 1)


@pytest.mark.parametrize(
    ("bounds", "failed", "expected"),
    [
        ({"at_least": 2}, 1, "TriggerFailed"),
        ({"at_least": 2}, 2, "run"),
        ({"at_most": 2}, 2, "run"),
        ({"at_most": 2}, 3, "TriggerFailed"),
        ({"at_least": 0.5}, 5, "run"),
        ({"at_least": 0.5}, 4, "TriggerFailed"),
        ({"at_most": 0.3}, 3, "run"),
        ({"at_most": 0.3}, 4, "TriggerFailed"),
        ({"at_least": 1, "at_most": 0.3}, 0, "TriggerFailed"),
        ({}, 10, "run"),
        ({"at_most": 0}, 1, "TriggerFailed"),
    ],
)
def test_bounds_are_counts_from_one_and_parts_below_and_both_inclusive(bounds, failed, expected):
    assert says(triggers.some_failed(**bounds), mapped(successful=10 - failed, failed=failed)) == expected


def test_some_successful_counts_skips_as_successes():
    assert says(triggers.some_successful(at_least=2), S, K, F) == "run"
    assert says(triggers.some_successful(at_least=3), S, K, F) == "TriggerFailed"


@pytest.mark.parametrize("bounds", [{"at_least": 1}, {"at_least": 0.5}, {"at_most": 0}, {"at_least": 3, "at_most": 4}])
@pytest.mark.parametrize("trigger", [triggers.some_failed, triggers.some_successful])
def test_bounds_ask_nothing_of_a_node_that_has_nothing_upstream(trigger, bounds):
    assert says(trigger(**bounds)) == "run"


@pytest.mark.parametrize("bound", ["1", -1, True, float("nan")])
def test_a_bound_that_is_no_count_is_refused(bound):
    with refused(OptionError, "some_failed: expected a count or a part of all, 0 or more", at=""):
        triggers.some_failed(at_least=bound)


def test_triggers_travel():
    trigger = triggers.some_failed(at_least=0.5)
    with_lambda = pickle.loads(__import__("cloudpickle").dumps(trigger))
    assert says(with_lambda, S, F) == "run"
    assert pickle.loads(pickle.dumps(triggers.all_finished)) is triggers.all_finished


# Users' own -----------------------------------------------------------------------------------------------------------


def test_a_trigger_may_be_any_predicate_of_the_states_by_edge():
    def only_if_the_order_upstream_is_there(states):
        return any(edge.kind == "order" for edge in states)

    assert says(only_if_the_order_upstream_is_there, S, kind="order") == "run"
    assert says(only_if_the_order_upstream_is_there, S) == "TriggerFailed"


def test_what_a_trigger_raises_is_its_nodes_state():
    def broken(states):
        raise KeyError("x")

    state = verdict(upstreams(S), trigger=broken, skip_on_upstream_skip=True)
    assert isinstance(state, TriggerFailed)
    assert state.message == "trigger broken raised KeyError: 'x'"


@pytest.mark.parametrize(("signal", "expected"), [(SKIP("no"), "Skipped"), (FAIL("no"), "Failed")])
def test_a_trigger_may_answer_with_a_signal(signal, expected):
    def answers(states):
        raise signal

    assert says(answers, S) == expected


def test_an_approval_passes_manual_only_and_nothing_else():
    given = {"skip_on_upstream_skip": True, "is_approved": True}
    assert verdict(upstreams(S), trigger=triggers.manual_only, **given) is None
    assert isinstance(verdict(upstreams(F), trigger=triggers.all_successful, **given), TriggerFailed)
    assert isinstance(verdict(upstreams(K), trigger=triggers.manual_only, **given), Skipped)
    assert isinstance(verdict(upstreams(S), trigger=triggers.manual_only, skip_on_upstream_skip=True), Paused)


# The skip rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "states", "expected"),
    [
        ("data", (S, K), "Skipped"),
        ("data", (S, S), "run"),
        ("order", (S, K), "run"),
        ("order", (K, K), "Skipped"),
        ("gate", (S, S), "run"),
        ("gate", (S, K), "Skipped"),
        ("data", (K, F), "TriggerFailed"),
        ("order", (K, F), "TriggerFailed"),
        ("gate", (K, F), "Skipped"),
    ],
)
def test_a_closed_gate_skips_then_failure_counts_then_skips_spread(kind, states, expected):
    assert says(triggers.all_successful, *states, skips=True, kind=kind) == expected


def test_a_closed_gate_skips_whoever_does_not_mind_skips():
    assert says(triggers.all_finished, K, skips=False, kind="gate") == "Skipped"


def test_order_upstreams_that_were_skipped_do_not_matter_beside_data():
    states = Upstreams({EdgeName("a", "order"): S, EdgeName("b", "order"): K, EdgeName("c", "data", "x"): S})
    assert verdict(states, trigger=triggers.all_successful, skip_on_upstream_skip=True) is None


def test_states_that_are_not_final_are_no_failures():
    assert says(triggers.all_successful, Pending(), S) == "run"

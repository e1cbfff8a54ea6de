"""Conditions: which branch runs, what is skipped with the others, and what a merge gives."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch import Flow, Parameter, Switch, case, flatten, ifelse, merge, switch, tags, task, when
from anabranch.definition import scope
from anabranch.definition.gates import Equals
from anabranch.errors import DefinitionError, FlowValidationError, OutsideFlowError, UnknownNodeError
from anabranch.triggers import all_finished


@task
def value(x):
    return x


@task
def after(x=None, *rest):
    return "ran"


@task(skip_on_upstream_skip=False, trigger=all_finished)
def anyway(x=None):
    return "ran"


def outcome(flow, *nodes, **parameters):
    """For each node its value, or "-" where it was skipped."""
    view = flow.run(parameters)
    return ["-" if view.result[node].is_skipped() else view.result[node].result for node in nodes]


# case, when, with -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 3), st.integers(0, 3))
def test_a_case_runs_if_the_values_are_equal(found, wanted):
    with Flow("f") as flow, case(value(found), wanted):
        a = value("a")
    assert outcome(flow, a) == (["a"] if found == wanted else ["-"])


@pytest.mark.parametrize(
    ("found", "taken"), [(1, True), ("x", True), ([0], True), (0, False), ("", False), (None, False)]
)
def test_with_a_node_reads_as_if(found, taken):
    with Flow("f") as flow:
        condition = value(found)
        with condition as given_back:
            a = value("a")
        with when(condition):
            b = value("b")
        with when(found):
            c = value("c")
    assert given_back is condition
    assert outcome(flow, a, b, c) == (["a", "b", "c"] if taken else ["-", "-", "-"])


def test_a_case_may_be_asked_of_anything():
    decide = task(name="decide")(lambda: 3)
    with Flow("f") as flow:
        p = Parameter("p", default=3)
        nodes = []
        for condition in (decide, p, 3, value(3)):
            with case(condition, 3):
                nodes.append(value("yes"))
            with case(condition, lambda x: x > 5):
                nodes.append(value("large"))
    assert outcome(flow, *nodes) == ["yes", "-"] * 4


def test_blocks_nest():
    with Flow("f") as flow:
        yes, no = value(True), value(False)
        with yes:
            a = value("a")
            with no:
                b = value("b")
            with yes:
                c = value("c")
        with no, yes:
            d = value("d")
    assert outcome(flow, a, b, c, d) == ["a", "-", "c", "-"]


def test_a_block_that_is_opened_inside_another_than_it_was_made_in_is_under_both():
    with Flow("f") as flow:
        yes, no = value(True), value(False)
        gate = case(yes, True)
        with no, gate:
            a = value("a")
        with gate:
            b = value("b")
    assert outcome(flow, a, b) == ["-", "b"]


def test_a_closed_gate_skips_whatever_does_not_mind_skips():
    with Flow("f") as flow, case(value(1), 2):
        a = anyway()
        b = anyway(value("x"))
        m = merge(value(1), value(2))
    assert outcome(flow, a, b, m) == ["-", "-", "-"]


def test_skips_spread_along_values_and_if_all_that_is_followed_was_skipped():
    with Flow("f") as flow:
        with case(value(1), 2):
            a = value("a")
        with case(value(1), 1):
            b = value("b")
        nodes = (
            after(a),
            after(upstream_tasks=[a, b]),
            after(upstream_tasks=[a]),
            anyway(a),
            after(b, upstream_tasks=[a]),
        )
    assert outcome(flow, *nodes) == ["-", "ran", "-", "ran", "-"]


def test_blocks_can_be_opened_once_the_flow_has_closed():
    with Flow("f") as flow:
        condition = value(1)
    with condition.case(1):
        a = value("a")
    with condition.default():
        b = value("b")
    with condition:
        c = value("c")
    assert outcome(flow, a, b, c) == ["a", "-", "c"]


def test_a_block_of_another_flow_is_refused():
    with Flow("one"):
        gate = case(value(1), 1)
    with Flow("two"), refused(UnknownNodeError, "belongs to flow 'one', not to flow 'two'"), gate:
        value(2)


def test_a_block_that_raises_leaves_nothing_open():
    def write():
        with Flow("f"):
            condition = value(1)
            with tags("t"), condition, Switch(condition) as s, s.case(1):
                raise KeyError

    with pytest.raises(KeyError):
        write()
    assert scope.current() == scope.Scope()


def test_a_plain_value_needs_a_flow():
    with refused(OutsideFlowError, "case() was called with no flow open"):
        case(3, 3)


def test_two_nodes_are_compared_by_a_node():
    with Flow("f"), refused(DefinitionError, "write case(node.is_equal(other), True) instead"):
        case(value(1), value(1))


@pytest.mark.parametrize(
    "make", [lambda: case(value(1), 1), lambda: when(value(1)), lambda: value(1), lambda: case(1, 2)]
)
def test_an_empty_block_is_no_error(make):
    with Flow("f") as flow:
        with make():
            pass
        a = value("a")
    assert outcome(flow, a) == ["a"]


@task
def is_even(x):
    return x % 2 == 0


def by_case():
    with case(is_even.map([1, 2]), True):
        return value("a")


def by_switch():
    node = value("a")
    switch(is_even.map([1, 2]), {True: node})
    return node


def by_ifelse():
    node = value("a")
    ifelse(is_even.map([1, 2]), None, node)
    return node


def by_with():
    with is_even.map([1, 2]).not_():
        return value("a")


def by_comparison():
    with value.map([1, 2]) > 1:
        return value("a")


def by_merge():
    with when(value.map(flatten([[1], [0]]))):
        return merge(value("a"), value("b"))


def by_inner_case():
    with case(is_even.map([1, 2]), True), case(value(3), 3):
        return value.map([1, 2])


@pytest.mark.parametrize("make", [by_case, by_switch, by_ifelse, by_with, by_comparison, by_merge, by_inner_case])
def test_a_map_is_no_condition_of_what_runs_once(make):
    with Flow("f") as flow:
        make()
    with refused(FlowValidationError, "runs once, but its condition", "is a map", ".map(…)", at=__file__):
        flow.run()


def test_a_map_is_a_condition_of_maps_whose_lists_hold_nodes():
    with Flow("f") as flow:
        first = value("a")
        with case(is_even.map([1, 2]), True):
            a = value.map([first, "b"])
            b = value.map(flatten([["c"], ["d"]]))
    view = flow.run()
    for node, found in ((a, "b"), (b, "d")):
        assert [each.result for each in view.result[node].map_states if not each.is_skipped()] == [found]


# Switch ---------------------------------------------------------------------------------------------------------------


@given(st.integers(-1, 3))
def test_a_switch_takes_the_first_case_that_holds_else_the_default(found):
    with Flow("f") as flow:
        condition = value(found)
        with Switch(condition) as s:
            with s.case(0):
                a = value("zero")
            with s.case(lambda x: x >= 0):
                b = value("more")
            with s.case(1):
                c = value("never")
            with s.default():
                d = value("less")
        last = after(upstream_tasks=[a, b, c, d])
        m = merge(a, b, c, d)
    expected = "zero" if found == 0 else "more" if found > 0 else "less"
    assert outcome(flow, a, b, c, d, last, m) == [
        *(name if name == expected else "-" for name in ("zero", "more", "never", "less")), "ran", expected,
    ]  # fmt: skip


@pytest.mark.parametrize("found", ["a", "b", "c"])
def test_inside_a_switch_the_condition_has_its_cases(found):
    decide = task(name="decide")(lambda: found)
    with Flow("f") as flow:
        for condition in (value(found), Parameter("p", default=found), decide):
            with Switch(condition):
                with condition.case("a"):
                    a = value("a")
                with condition.case("b"):
                    b = value("b")
                with condition.default():
                    c = value("c")
            assert outcome_later(flow, a, b, c)
    assert outcome(flow, a, b, c) == [name if name == found else "-" for name in "abc"]


def outcome_later(flow, *nodes):
    """Whether nodes are there: a flow is not run inside its block."""
    return all(node in flow for node in nodes)


def test_switches_do_not_count_each_others_cases():
    with Flow("f") as flow:
        condition = value(1)
        with Switch(condition), condition.case(1):
            a = value("a")
        with Switch(condition) as second:
            with second.case(2):
                b = value("b")
            with condition.default():
                c = value("c")
    assert outcome(flow, a, b, c) == ["a", "-", "c"]


def test_without_a_switch_the_default_is_that_of_all_cases_so_far():
    with Flow("f") as flow:
        condition = value(3)
        with condition.case(1):
            a = value("a")
        with case(condition, 2):
            b = value("b")
        with condition.default():
            c = value("c")
    assert outcome(flow, a, b, c) == ["-", "-", "c"]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda node: node.default(), "default() of 'value' without a case before it"),
        (lambda node: Switch(node).default(), "Switch(value): default() without a case before it"),
        (lambda node: switch(node, {}), "switch() needs at least one case"),
        (lambda node: switch(node, {1: 5}), "expected a node or a task, found 5"),
        (lambda node: ifelse(node, "x"), "expected a node or a task, found 'x'"),
        (lambda node: merge(), "merge() needs at least one branch"),
    ],
)
def test_what_cannot_be_a_condition_is_refused(write, words):
    with Flow("f"):
        node = value(1)
        with refused(DefinitionError, words):
            write(node)


def test_a_switch_has_cases_and_one_default_at_its_end():
    with Flow("f"):
        condition = value(1)
        with refused(DefinitionError, "Switch(value) has no case"), Switch(condition):
            pass
        with Switch(condition) as s:
            with s.case(1), s.case(2):
                value(2)
            with s.default():
                value(3)
            with refused(DefinitionError, "Switch(value): a second default()"):
                s.default()
            with refused(DefinitionError, "Switch(value): case(3) after default()"):
                s.case(3)


# switch, ifelse -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", ["a", "b", "c"])
def test_switch_takes_nodes_tasks_and_lists(found):
    never = task(name="never")(lambda: "b")
    with Flow("f") as flow:
        a, c, d = value("a"), value("c"), value("d")
        switch(value(found), {"a": a, "b": never}, default=[c, d])
    assert outcome(flow, a, never, c, d) == [
        "a" if found == "a" else "-", "b" if found == "b" else "-", *(["c", "d"] if found == "c" else ["-", "-"]),
    ]  # fmt: skip


@pytest.mark.parametrize(("found", "expected"), [(5, ["yes", "-"]), (0, ["-", "no"])])
def test_ifelse_casts_to_truth(found, expected):
    with Flow("f") as flow:
        yes, no = value("yes"), value("no")
        ifelse(value(found), yes, no)
    assert outcome(flow, yes, no) == expected


def test_ifelse_takes_the_names_that_prefect_1_has_for_its_branches():
    with Flow("f") as flow:
        yes, no = value("yes"), value("no")
        ifelse(condition=value(0), true_task=yes, false_task=no)
    assert outcome(flow, yes, no) == ["-", "no"]


def test_either_branch_may_be_missing():
    with Flow("f") as flow:
        yes, no = value("yes"), value("no")
        ifelse(value(1), if_false=no)
        ifelse(value(1), yes)
    assert outcome(flow, yes, no) == ["yes", "-"]


def test_branches_can_be_chosen_once_the_flow_has_closed():
    with Flow("f") as flow:
        condition, a, b = value("a"), value("a"), value("b")
    switch(condition, {"a": a, "b": b})
    assert outcome(flow, a, b) == ["a", "-"]


# merge ----------------------------------------------------------------------------------------------------------------


def test_a_merge_gives_the_first_value_that_is_not_none():
    with Flow("f") as flow:
        nodes = [
            merge(value(None), value(0), value(1)),
            merge(value(None), value(None)),
            merge(value([]), value(1)),
            merge(value(2)),
        ]
    assert outcome(flow, *nodes) == [0, None, [], 2]


def test_a_merge_is_skipped_with_all_its_branches_and_fails_with_one():
    fail = task(name="fail")(lambda: 1 / 0)
    with Flow("f") as flow:
        with case(value(1), 2):
            a, b = value("a"), value("b")
        both, one = merge(a, b), merge(a, value("c"))
        failed = merge(fail(), value("c"))
    view = flow.run()
    assert view.result[both].is_skipped()
    assert view.result[one].result == "c"
    assert view.result[failed].state.name == "TriggerFailed"


def test_a_plain_value_in_a_merge_is_what_is_left():
    with Flow("f") as flow:
        with case(value(1), 2):
            a = value("a")
        nodes = merge(a, "otherwise"), merge(value("b"), "otherwise")
    assert outcome(flow, *nodes) == ["otherwise", "b"]


def test_a_merge_never_compares_values():
    np = pytest.importorskip("numpy")
    with Flow("f") as flow:
        node = merge(value(None), value(np.array([1, 2])))
    assert list(flow.run().result[node].result) == [1, 2]


def test_a_merge_has_options_as_tasks_have_and_may_name_its_flow():
    with Flow("f") as flow:
        a, b = value("a"), value("b")
    node = merge(a, b, flow=flow, checkpoint=False, name="either", tags=["t"])
    assert (node.name, node.policies.tags, node.policies.storing.checkpoint) == ("either", {"t"}, False)
    assert outcome(flow, node) == ["a"]


# Elements -------------------------------------------------------------------------------------------------------------


def test_conditions_on_a_map_hold_per_element():
    with Flow("f") as flow:
        xs = value.map([0, 1, 2])
        with case(xs, 1):
            a = value.map(xs)
        with Switch(xs) as s:
            with s.case(0):
                b = value.map(["zero"] * 3)
            with s.default():
                c = value.map(["other"] * 3)
        with xs:
            d = value.map(xs)
        m = merge(b, c)
    assert outcome(flow, a, b, c, d, m) == [
        [None, 1, None], ["zero", None, None], [None, "other", "other"], [None, 1, 2], ["zero", "other", "other"],
    ]  # fmt: skip


# Comparison -----------------------------------------------------------------------------------------------------------


class Riddle:
    def __eq__(self, other):
        raise RuntimeError("no answer")

    __hash__ = None


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        (1, 1, True), (1, True, True), (1, 2, False), ("a", "a", True), (None, None, True),
        (float("nan"), float("nan"), True), (float("nan"), 1.0, False), ([1, 2], [1, 2], True), (int, int, True),
    ],
)  # fmt: skip
def test_a_case_compares_as_python_does_except_that_nan_is_nan(wanted, found, expected):
    assert Equals(wanted)(found) is expected


def test_arrays_are_equal_in_all_their_elements():
    np = pytest.importorskip("numpy")
    assert Equals(np.array([1, 2]))(np.array([1, 2])) is True
    assert Equals(np.array([1, 2]))(np.array([1, 3])) is False


def test_a_value_is_equal_to_itself_whatever_it_says():
    riddle = Riddle()
    assert Equals(riddle)(riddle)


# Threads --------------------------------------------------------------------------------------------------------------


def test_two_threads_write_two_flows_without_mixing_them():
    # given
    shared = task(name="shared")(lambda: 1)
    barrier = threading.Barrier(4)
    built, errors = [], []

    def write(i):
        try:
            for _ in range(20):
                barrier.wait(10)
                with Flow(f"f{i}") as flow, tags(f"t{i}"):
                    condition = shared()
                    barrier.wait(10)
                    with shared:
                        a = value(i)
                        barrier.wait(10)
                    with Switch(condition), shared.case(1):
                        barrier.wait(10)
                        b = value(a)
                built.append((i, flow, b))
        except BaseException as error:
            barrier.abort()
            errors.append(error)

    # when
    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # then
    assert errors == []
    for i, flow, b in built:
        assert [node.name for node in flow.tasks] == ["shared", "if shared", "value", "case(1)", "value"]
        assert all(node.policies.tags == {f"t{i}"} for node in flow.tasks)
        assert [edge.kind for edge in flow.edges_to(b)] == ["data", "gate"]

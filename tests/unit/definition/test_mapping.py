"""Running tasks once per element: what can be mapped over, what is paired with what, and what is refused."""

import itertools
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch import Flow, Parameter, apply_map, case, flatten, mapped, merge, task, tasks, unmapped
from anabranch.errors import DefinitionError, MappingError, WidthError


@task
def numbers(n):
    return list(range(n))


@task
def double(x):
    return 2 * x


@task
def add(x, y=1):
    return x + y


@task
def total(xs):
    return sum(xs)


@task
def same(x):
    return x


@task
def one():
    return 1


def results(flow, *nodes, **parameters):
    view = flow.run(parameters)
    return [view.result[node].result for node in nodes]


# Spellings ------------------------------------------------------------------------------------------------------------


def test_all_spellings_of_a_map_mean_the_same():
    with Flow("f") as flow:
        nodes = [
            double.map([1, 2, 3]),
            double.map(x=[1, 2, 3]),
            tasks.map(double)([1, 2, 3]),
            double([1, 2, 3], mapped=True),
            double(mapped([1, 2, 3])),
            apply_map(double, [1, 2, 3]),
            apply_map(double, x=[1, 2, 3]),
        ]
        nodes.append(flow.add_task(task(name="late")(double.run)))
        nodes[-1].set_dependencies(keyword_tasks={"x": [1, 2, 3]}, mapped=True)
    assert results(flow, *nodes) == [[2, 4, 6]] * len(nodes)


@pytest.mark.parametrize("elements", [[1, 2], (1, 2), range(1, 3), deque([1, 2])], ids=lambda each: type(each).__name__)
def test_anything_with_elements_in_order_can_be_mapped_over(elements):
    with Flow("f") as flow:
        node = double.map(elements)
    assert results(flow, node) == [[2, 4]]


def test_arrays_can_be_mapped_over():
    np = pytest.importorskip("numpy")
    with Flow("f") as flow:
        node = double.map(np.array([1, 2]))
    assert results(flow, node) == [[2, 4]]


def test_an_upstream_value_is_mapped_over_once_it_is_known():
    with Flow("f") as flow:
        p = Parameter("p", default=[1, 2])
        nodes = double.map(numbers(3)), double.map(p), double.map(numbers.map([1, 2])[0])
    assert results(flow, *nodes) == [[0, 2, 4], [2, 4], [0, 0]]


def test_a_task_that_is_named_is_mapped_over_as_its_call_is():
    three = task(name="three")(lambda: [1, 2, 3])
    with Flow("f") as flow:
        node = double.map(three)
    assert results(flow, node) == [[2, 4, 6]]


def test_a_list_may_hold_nodes():
    with Flow("f") as flow:
        node = double.map([one(), 5, one()])
    assert results(flow, node) == [[2, 10, 2]]


def test_no_elements_are_a_success():
    with Flow("f") as flow:
        a = double.map([])
        b = double.map(a)
        n = total(b)
    view = flow.run()
    assert view.result[a].is_mapped()
    assert [view.result[node].result for node in (a, b, n)] == [[], [], 0]


def test_a_list_is_mapped_over_as_it_was_when_the_call_was_written():
    elements = [1, 2]
    with Flow("f") as flow:
        node = double.map(elements)
        elements.append(3)
    assert results(flow, node) == [[2, 4]]


# Pairs and wholes -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(), st.integers()), max_size=5), st.booleans())
def test_arguments_pair_up_however_they_are_written(pairs, is_swapped):
    # given
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    subtract = task(name="subtract")(lambda x, y: x - y)

    # when
    with Flow("f") as flow:
        node = subtract.map(y=ys, x=xs) if is_swapped else subtract.map(xs, y=ys)

    # then
    assert results(flow, node) == [[x - y for x, y in pairs]]


def test_an_unmapped_value_goes_whole_to_each_element():
    with Flow("f") as flow:
        a = add.map([1, 2], y=unmapped(10))
        b = add.map([[1], [2]], unmapped(numbers(2)))
        c = add.map([[1], [2]], unmapped([one(), 5]))
        d = total(unmapped(a))
    assert results(flow, a, b, c, d) == [[11, 12], [[1, 0, 1], [2, 0, 1]], [[1, 1, 5], [2, 1, 5]], 23]


def test_only_what_is_marked_is_mapped_over_in_a_call():
    with Flow("f") as flow:
        a = add(mapped([[1], [2]]), [3])
    assert results(flow, a) == [[[1, 3], [2, 3]]]


@task
def variadic(*args, **kwargs):
    return args, kwargs


def test_star_arguments_pair_up_too():
    with Flow("f") as flow:
        a = variadic.map([1, 2], [3, 4])
        b = variadic.map([1, 2], unmapped(5), k=[8, 9])
        c = variadic(mapped([1, 2]), 7)
        d = variadic.bind(0).map([1, 2])
        e = task(max).map([1, 5], [3, 4])
    assert results(flow, a, b, c, d, e) == [
        [((1, 3), {}), ((2, 4), {})],
        [((1, 5), {"k": 8}), ((2, 5), {"k": 9})],
        [((1, 7), {}), ((2, 7), {})],
        [((0, 1), {}), ((0, 2), {})],
        [3, 5],
    ]


def test_chains_go_element_by_element_and_joins_take_the_list():
    with Flow("f") as flow:
        a = double.map(numbers(4))
        b = add.map(a, double.map(a))
        n = total(b)
    assert results(flow, n) == [sum(3 * 2 * x for x in range(4))]
    assert [edge.mapped for edge in flow.edges_to(n)] == [False]


def test_order_upstreams_are_not_zipped():
    setup = task(name="setup")(lambda: "abc")
    with Flow("f") as flow:
        node = double.map(range(6), upstream_tasks=[setup])
        node.set_upstream(one, mapped=True)
    assert results(flow, node) == [[0, 2, 4, 6, 8, 10]]


def test_flatten_takes_one_level_away():
    with Flow("f") as flow:
        nested = same.map([[1, 2], [], [3]])
        nodes = [
            double.map(flatten(nested)),
            total(flatten(nested)),
            double.map(flatten([[1, 2], [3]])),
            double.map(flatten([numbers(2), [5]])),
            same(flatten(flatten([[[1], [2]], [[3]]]))),
            double.map(x=flatten(nested)),
        ]
    assert results(flow, *nodes) == [[2, 4, 6], 6, [2, 4, 6], [0, 2, 10], [1, 2, 3], [2, 4, 6]]


# apply_map ------------------------------------------------------------------------------------------------------------


def test_the_function_of_apply_map_is_written_once_and_run_for_every_element():
    # given
    calls = []

    def body(x, y):
        calls.append(x)
        return add(double(x), y), same(x)

    # when
    with Flow("f") as flow:
        sums, xs = apply_map(body, numbers(3), y=[10, 20, 30])

    # then
    assert len(calls) == 1
    assert results(flow, sums, xs) == [[10, 22, 34], [0, 1, 2]]


def test_an_element_may_stand_in_a_collection():
    with Flow("f") as flow:
        a = apply_map(lambda x, y: same({"x": x, "rest": [y, one(), 3]}), [1, 2], unmapped("y"))
    assert results(flow, a) == [[{"x": 1, "rest": ["y", 1, 3]}, {"x": 2, "rest": ["y", 1, 3]}]]


def test_conditions_may_stand_in_the_function():
    def body(x):
        is_even = (x % 2).is_equal(0)
        with case(is_even, True):
            half = same(x // 2)
        with case(is_even, False):
            triple = same(3 * x + 1)
        return merge(half, triple)

    with Flow("f") as flow:
        node = apply_map(body, [1, 2, 3, 4])
    assert results(flow, node) == [[4, 1, 10, 2]]


def test_apply_map_may_stand_in_a_condition():
    with Flow("f") as flow:
        with case(one(), 2):
            a = apply_map(double, [1, 2])
        with case(one(), 1):
            b = apply_map(double, [1, 2])
    view = flow.run()
    assert view.result[a].is_skipped()
    assert view.result[b].result == [2, 4]


def test_a_task_that_takes_nothing_runs_for_every_element_too():
    with Flow("f") as flow:
        node = apply_map(lambda x: one(), [1, 2, 3])
    assert results(flow, node) == [[1, 1, 1]]


def test_a_map_goes_on_element_by_element_in_apply_map():
    with Flow("f") as flow:
        a = double.map([1, 2])
        b = apply_map(lambda x: add(x, 1), a)
    assert results(flow, b) == [[3, 5]]
    assert "element" not in [node.name for node in flow.tasks]


def test_a_group_may_stand_in_the_function():
    def body(x):
        with Flow("inner"):
            return double(x), one()

    with Flow("f") as flow:
        a, b = apply_map(body, [1, 2])
    assert results(flow, a, b) == [[2, 4], [1, 1]]


# Refusals while the flow is written -----------------------------------------------------------------------------------


class Lying:
    def __len__(self):
        raise RuntimeError("not today")

    def __getitem__(self, index):
        return index


class DataFrame(list):
    """Known by its name, as pandas is none of our dependencies."""


UNMAPPABLE = [
    (5, "over 5 of type int: it has no elements; unmapped(…) gives it whole to each element"),
    (None, "over None of type NoneType: it has no elements; unmapped(…) gives it whole to each element"),
    (
        len,
        "over len of type builtin_function_or_method: it has no elements; unmapped(…) gives it whole to each element",
    ),
    (list, "over list of type type: it has no elements; unmapped(…) gives it whole to each element"),
    ("abc", "over a str: that would be one run per character; wrap it in a list"),
    (b"abc", "over a bytes: that would be one run per character; wrap it in a list"),
    ({"a": 1}, "over a dict: use .items(), .keys() or .values() in a list"),
    ({1, 2}, "over a set: its order is not stable; use sorted(…)"),
    ((x for x in [1]), "over a generator while the flow is written: make it a list"),
    (map(str, [1]), "over a map while the flow is written: make it a list"),
    (itertools.count(), "over a count while the flow is written: make it a list"),
    (Lying(), "over a Lying whose len() fails with RuntimeError: not today"),
    (DataFrame([1]), "over a DataFrame: say what its elements are, such as list(frame.itertuples())"),
]


@pytest.mark.parametrize(("elements", "words"), UNMAPPABLE, ids=[type(each).__name__ for each, _ in UNMAPPABLE])
@pytest.mark.parametrize("write", [double.map, lambda x: double(mapped(x)), lambda x: double(x, mapped=True)])
def test_what_has_no_elements_in_order_is_refused_with_the_cure(elements, words, write):
    with Flow("f") as flow, refused(MappingError, "double.map(): cannot map 'x'", words):
        write(elements)
    assert flow.tasks == []


def test_what_cannot_be_flattened_is_refused_too():
    with Flow("f"), refused(MappingError, "total: cannot flatten 5 of type int"):
        total(flatten(5))


def test_widths_that_differ_are_an_error_that_names_both():
    with Flow("f") as flow, refused(WidthError, "add.map(): mapped arguments have different widths: x has 3, y has 5"):
        add.map([1, 2, 3], y=range(5))
    assert flow.tasks == []


def test_no_elements_do_not_pair_with_some():
    with Flow("f"), refused(WidthError, "x has 0, y has 5"):
        add.map([], range(5))


def test_a_map_needs_something_to_map_over():
    with Flow("f"), refused(MappingError, "double.map() has no argument to map over", "call double() for a single run"):
        double.map(unmapped([1, 2]))
    with Flow("f"), refused(MappingError, "one.map() has no argument to map over"):
        one.map()


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: apply_map(3, [1]), "apply_map(): expected a function that calls tasks, found 3"),
        (
            lambda: apply_map([1], double),
            "apply_map(): expected a function that calls tasks, found [1]",
        ),
        (
            lambda: apply_map(None, [1]),
            "apply_map(): expected a function that calls tasks, found None",
        ),
        (lambda: apply_map(double), "apply_map() has no argument to map over"),
        (lambda: apply_map(double, unmapped([1])), "apply_map() has no argument to map over"),
        (lambda: apply_map(double, 5), "apply_map(): cannot map 'argument 0' over 5"),
        (lambda: apply_map(add, [1], y=[1, 2]), "different widths: argument 0 has 1, y has 2"),
        (lambda: apply_map(lambda x: double.map(x), [[1]]), "double.map() inside the function of apply_map"),
        (lambda: apply_map(lambda x: apply_map(double, x), [[1]]), "use flatten between two maps"),
    ],
)
def test_what_apply_map_cannot_do_is_refused(write, words):
    with Flow("f"), refused(MappingError, words):
        write()


def test_map_takes_a_task():
    with refused(DefinitionError, "map() takes a task, found len", "decorate the function with @task"):
        tasks.map(len)


# What only a run can find out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["abc", {"a": 1}, 5, None, {1}])
def test_a_value_that_cannot_be_mapped_over_fails_the_map_and_nothing_else(value):
    give = task(name="give")(lambda: value)
    with Flow("f") as flow:
        a = give()
        b = double.map(a)
        c = one()
    view = flow.run()
    assert view.is_failed()
    assert view.result[b].is_failed()
    assert "cannot map over" in view.result[b].message
    assert f"{__file__}:" in view.result[b].message
    assert view.result[a].is_successful()
    assert view.result[c].is_successful()


def test_widths_that_differ_at_run_time_fail_the_map_and_name_both():
    with Flow("f") as flow:
        node = add.map(numbers(3), [1, 2, 3, 4, 5])
    state = flow.run().result[node]
    assert state.is_failed()
    assert "numbers has 3, y has 5" in state.message


def test_a_failed_element_does_not_stop_its_neighbours():
    invert = task(name="invert")(lambda x: 1 / x)
    with Flow("f") as flow:
        node = invert.map([1, 0, 2])
        after = double.map(node)
    view = flow.run()
    assert [state.name for state in view.result[node].map_states] == ["Success", "Failed", "Success"]
    assert [state.name for state in view.result[after].map_states] == ["Success", "TriggerFailed", "Success"]
    assert isinstance(view.result[node].map_states[1].result, ZeroDivisionError)


def test_marks_have_one_line_for_people():
    assert repr(unmapped(list(range(100)))) == "unmapped([0, 1, 2, 3, 4, 5, ...])"
    assert repr(flatten("x")) == "flatten('x')"

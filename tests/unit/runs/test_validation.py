"""Every problem of a flow at once, each with the place where it was written."""

import pytest
from tests.refusals import refused

from anabranch import Flow, Parameter, case, flatten, merge, task
from anabranch.definition.frozen import Edge
from anabranch.definition.validation import problems_of
from anabranch.errors import FlowValidationError


@task
def value(x=1):
    return x


@task
def needs(x, y):
    return x


def problems(flow):
    with pytest.raises(FlowValidationError) as info:
        flow.validate()
    return info.value.problems


def test_a_flow_that_is_well_formed_has_no_problems():
    with Flow("f") as flow:
        p = Parameter("p")
        xs = value.map(flatten([value([1]), [2]]))
        with case(p, 1):
            a = value(xs)
        merge(a, needs(1, y=p))
    flow.validate()
    assert problems_of(flow.graph) == []


def test_a_cycle_is_shown_with_its_path_and_its_places():
    # given
    with Flow("f") as flow:
        a, b, c = value(1), value.map([1]), value(3)
        b.set_dependencies(upstream_tasks=[a])
        c.set_upstream(b)
    a.set_upstream(c)

    # then
    (problem,) = problems(flow)
    assert "cycle: value → value-1 → value-2 → value; remove one of these edges" in problem
    assert all(str(node.where) in problem for node in (a, b, c))


def test_two_cycles_are_two_problems():
    with Flow("f") as flow:
        a, b, c, d = (value(i) for i in range(4))
    for up, down in ((a, b), (b, a), (c, d), (d, c), (b, c)):
        down.set_upstream(up)
    assert len(problems(flow)) == 2


def test_a_cycle_through_a_value_is_a_cycle():
    with Flow("f") as flow:
        a = flow.add_task(needs)
        b = value(a)
    a.set_dependencies(keyword_tasks={"x": b, "y": 1})
    (problem,) = problems(flow)
    assert "cycle: needs → value → needs" in problem


def test_everything_is_told_at_once():
    # given
    waits = task(name="waits", depends_on=[needs])(lambda: 1)
    flow, other = Flow("f"), Flow("other")
    stranger = value(0, flow=other)
    with refused(Exception, "task 'needs' is named as a dependency", at=""), flow:
        waits()
        with case(value.map([1]), 1):
            value(2)
        value([Parameter("p"), Parameter("p")])
    incomplete = flow.add_task(task(name="incomplete")(lambda x, y: x))
    a, b = value(1, flow=flow), value(2, flow=flow)
    a.set_upstream(b)
    b.set_upstream(a)
    flow._reference = (stranger,)

    # when
    with refused(FlowValidationError, f"flow 'f' ({flow.where}) has 6 problems:", at="") as info:
        flow.run()

    # then
    told = "\n".join(info.value.problems)
    for words in (
        "waits (written at ",
        "cycle: ",
        f"incomplete ({incomplete.where}): argument 'x', 'y' is not bound; pass a value or an upstream node",
        "runs once, but its condition case(1) (",
        "parameter 'p' is there 2 times (",
        f"reference task 'value' ({stranger.where}) is not in flow 'f'",
    ):
        assert words in told
    assert str(info.value).count("\n  - ") == 6


def test_a_map_that_lost_what_it_mapped_over_is_a_problem():
    with Flow("f") as flow:
        node = flow.add_task(value)
    flow.graph.bind(node, {}, is_map=True)
    assert problems(flow) == (f"value ({node.where}): a map with nothing to map over",)


def test_a_problem_is_told_every_time_until_it_is_mended():
    with Flow("f") as flow:
        node = flow.add_task(needs)
    assert problems(flow) == problems(flow)
    node.set_dependencies(keyword_tasks={"x": 1, "y": 2})
    flow.validate()


def test_one_problem_is_one_problem():
    flow = Flow("f")
    flow.add_task(needs)
    with refused(FlowValidationError, f"flow 'f' ({flow.where}) has a problem:", at=""):
        flow.validate()


class CountingGraph:
    """A graph that counts what is asked of it."""

    def __init__(self, graph):
        self.graph = graph
        self.asked = 0

    def __getattr__(self, name):
        self.asked += 1
        return getattr(self.graph, name)

    def __iter__(self):
        for node in self.graph:
            self.asked += 1
            yield node

    def __contains__(self, node):
        self.asked += 1
        return node in self.graph


def chain_of(count):
    with Flow("f") as flow:
        node = value(0)
        for _ in range(count - 1):
            node = value(node)
    return flow


def test_what_validation_asks_grows_with_the_flow_and_no_faster():
    asked = {}
    for count in (1000, 2000):
        graph = CountingGraph(chain_of(count).graph)
        assert problems_of(graph) == []
        asked[count] = graph.asked
    assert asked[2000] <= 2 * asked[1000]
    assert asked[1000] <= 20 * 1000


def test_twenty_thousand_nodes_in_a_row_are_written_validated_and_frozen():
    flow = chain_of(20_000)
    flow.validate()
    frozen = flow.graph.freeze()
    assert len(frozen.nodes) == 20_000
    assert frozen.terminal == ("value-19999",)
    assert frozen.nodes["value-19999"].edges == (Edge("value-19998", "value-19999", "data", "x"),)

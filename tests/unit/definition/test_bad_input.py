"""The bad inputs of flows, parameters and maps, and what each of them gets: one row each, numbered for reference.

What is refused while the flow is written names the user's line; what only a run can find out is a state of that run.
"""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Callable
from typing import Any

import pytest
from tests.refusals import refused

from anabranch import Flow, Parameter, case, config, flatten, merge, task, unmapped
from anabranch.definition import scope
from anabranch.errors import (
    AnabranchError,
    CallError,
    DefinitionError,
    FlowValidationError,
    MappingError,
    NodeAttributeError,
    NodeValueError,
    OptionError,
    OutsideFlowError,
    ParameterError,
    UnknownNodeError,
    WidthError,
)
from anabranch.triggers import all_finished


@task
def value(x: Any = 1) -> Any:
    return x


@task
def needs(x: Any) -> Any:
    return x


@task
def total(xs: Any) -> Any:
    return sum(xs)


def in_flow(write: Callable[..., Any]) -> Callable[[], Any]:
    """Write inside an open flow."""

    def written() -> Any:
        with Flow("f") as flow:
            return write(flow)

    return written


def run(write: Callable[[], Any], **parameters: Any) -> Callable[[], Any]:
    """Write a flow and run it."""

    def ran() -> Any:
        with Flow("f") as flow:
            write()
        return flow.run(parameters)

    return ran


def cycle(mapped: bool = False) -> None:
    with Flow("f") as flow:
        a = value(1)
        b = value.map(upstream_tasks=[a], x=[1]) if mapped else value(2)
    b.set_upstream(a)
    a.set_upstream(b)
    flow.validate()


with Flow("other"):
    stranger = value(1)


def twice(make: Callable[[str], Any]) -> None:
    make("p")
    make("p")


def asynchronous() -> None:
    async def load() -> int:
        return 1

    task(len, state_handlers=[load])


def reserved() -> None:
    @task
    def load(upstream_tasks: Any) -> None: ...


def by_name_only_by_position() -> None:
    def load(path: Any, /) -> None: ...

    with Flow("f"):
        task(load)(path=1)


REFUSED_WHILE_WRITING = [
    # Group A: flow and graph
    ("1 a cycle", cycle, FlowValidationError, "cycle: value → value-1 → value"),
    ("2 an edge to itself", in_flow(lambda f: (a := value(), a.set_upstream(a))), DefinitionError, "depend on itself"),
    ("3 a cycle through a map", lambda: cycle(mapped=True), FlowValidationError, "cycle: value → value-1 → value"),
    ("4 a node of another flow", in_flow(lambda f: needs(stranger)), UnknownNodeError, "belongs to flow"),
    ("8 no name", lambda: Flow(None), OptionError, "flow name: expected a name as a string, found None"),
    ("8 an empty name", lambda: Flow(""), OptionError, "flow name: expected a name of 1 to 200 characters, found 0"),
    ("8 a number for a name", lambda: Flow(5), OptionError, "flow name: expected a name as a string, found 5"),
    ("9 a name of 10 MB", lambda: Flow("a" * 10_000_000), OptionError, "1 to 200 characters, found 10000000"),
    ("10 a newline in a name", lambda: Flow("a\nb"), OptionError, r"'a\nb' has a character that cannot be shown"),
    ("10 a NUL in a name", lambda: task(name="\0")(len), OptionError, "has a character that cannot be shown"),
    ("10 an escape in a name", lambda: Flow("\x1b[31m"), OptionError, r"cannot be shown: '\x1b'"),
    ("10 reversed text in a name", lambda: Flow("a\u202eb"), OptionError, r"cannot be shown: '\u202e'"),
    ("11 half a surrogate pair", lambda: Parameter("\ud800"), OptionError, r"cannot be shown: '\ud800'"),
    ("18 no flow", lambda: value(1), OutsideFlowError, "use value.run(…) to call the function itself"),
    ("19 if node", in_flow(lambda f: 1 if value() else 2), NodeValueError, "use `with node:` or case(node, value)"),
    ("19 for in node", in_flow(lambda f: [x for x in value()]), NodeValueError, "cannot be unpacked"),  # noqa: C416
    ("19 node == 3", in_flow(lambda f: value() == 3), NodeValueError, "use node.is_equal(…)"),
    ("19 len(node)", in_flow(lambda f: len(value())), NodeValueError, "has no length"),
    ("20 node.attribute", in_flow(lambda f: value().shape), NodeAttributeError, "take 'shape' from the value inside"),
    ("23 an async state handler", asynchronous, OptionError, "state_handlers: expected a plain function"),
    ("26 too many arguments", in_flow(lambda f: needs(1, 2)), CallError, "takes 1 arguments by position (x), found 2"),
    ("26 too few arguments", in_flow(lambda f: needs()), CallError, "needs() is missing 'x'"),
    ("26 an unknown argument", in_flow(lambda f: needs(y=1)), CallError, "no parameter 'y'; it has: 'x'"),
    ("26 by name, not by position", by_name_only_by_position, CallError, "takes 'path' by position only"),
    ("27 no node upstream", in_flow(lambda f: value(upstream_tasks=[5])), DefinitionError, "a node or a task, found 5"),
    ("28 a name of ours", reserved, DefinitionError, "cannot be named 'upstream_tasks'"),
    ("29 no function", lambda: task(5), DefinitionError, "@task needs a function, found 5"),
    ("29 a task already", lambda: task(value), DefinitionError, "@task was applied twice"),
    ("30 run while writing", in_flow(lambda f: f.run()), DefinitionError, "run it after the block"),
    # Group B: parameters
    ("34 a name twice", in_flow(lambda f: twice(Parameter) or f.validate()), FlowValidationError, "is there 2 times"),
    ("45 a dunder", lambda: Parameter("__class__"), OptionError, "'__class__' has another meaning; use a name such as"),
    ("45 an equals sign", lambda: Parameter("a=b"), OptionError, "expected a name without '=', and without blanks"),
    ("45 a space", lambda: Parameter("a b "), OptionError, "such as 'a_b', found 'a b '"),
    ("45 nothing", lambda: Parameter(""), OptionError, "expected a name of 1 to 200 characters"),
    ("47 a node as default", in_flow(lambda f: Parameter("p", default=value())), OptionError, "cannot be a node"),
    ("47 a task as default", lambda: Parameter("p", default=value), OptionError, "cannot be a node or task"),
    # Group C: mapping
    ("52 over a number", in_flow(lambda f: value.map(5)), MappingError, "'x' over 5 of type int"),
    ("52 over None", in_flow(lambda f: value.map(None)), MappingError, "'x' over None of type NoneType"),
    ("52 over a function", in_flow(lambda f: value.map(len)), MappingError, "over len of type builtin_function"),
    ("53 over a string", in_flow(lambda f: value.map("abc")), MappingError, "wrap it in a list"),
    ("53 over bytes", in_flow(lambda f: value.map(b"abc")), MappingError, "wrap it in a list"),
    ("54 over a dict", in_flow(lambda f: value.map({})), MappingError, "use .items(), .keys() or .values()"),
    ("55 over a set", in_flow(lambda f: value.map({1})), MappingError, "use sorted(…)"),
    ("56 over a generator", in_flow(lambda f: value.map(x for x in "ab")), MappingError, "make it a list"),
    ("60 widths 3 and 5", in_flow(lambda f: both.map(range(3), range(5))), WidthError, "a has 3, b has 5"),
    ("61 widths 0 and 5", in_flow(lambda f: both.map([], range(5))), WidthError, "a has 0, b has 5"),
    ("62 all unmapped", in_flow(lambda f: value.map(unmapped([1]))), MappingError, "all are unmapped"),
    ("66 over a frame", in_flow(lambda f: value.map(DataFrame())), MappingError, "list(frame.itertuples())"),
    ("67 a length that raises", in_flow(lambda f: value.map(Lying(OSError("no")))), MappingError, "with OSError: no"),
    ("67 a length below zero", in_flow(lambda f: value.map(Lying(-1))), MappingError, "len() fails with ValueError"),
]  # fmt: skip


@task
def both(a: Any, b: Any) -> Any:
    return a, b


class DataFrame(list[Any]):
    """Known by its name: pandas is none of our dependencies."""


class Lying:
    """Something with elements, whose length is not to be trusted."""

    def __init__(self, length: Any) -> None:
        self.length = length

    def __len__(self) -> int:
        if isinstance(self.length, Exception):
            raise self.length
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("write", "kind", "words"),
    [row[1:] for row in REFUSED_WHILE_WRITING],
    ids=[row[0] for row in REFUSED_WHILE_WRITING],
)
def test_refused_while_the_flow_is_written(write: Any, kind: type[AnabranchError], words: str) -> None:
    with refused(kind, words, at=__file__):
        write()
    assert scope.current() == scope.Scope()


REFUSED_BEFORE_RUNNING = [
    ("35 several missing", [Parameter("a"), Parameter("b")], {}, ["a: a value is required", "b: a value is required"]),
    ("36 an unknown name", [Parameter("date", default=1)], {"dat": 1}, ["no parameter 'dat'; did you mean 'date'?"]),
    ("37 words for a number", [Parameter("n", type=int)], {"n": "five"}, ["n: expected int, found 'five' of type str"]),
    ("38 True for a number", [Parameter("n", type=int)], {"n": True}, ["n: expected int, found True of type bool"]),
    ("38 a number for True", [Parameter("n", type=bool)], {"n": 1}, ["n: expected bool, found 1 of type int"]),
    ("39 None where it matters", [Parameter("n")], {"n": None}, ["n: a value is required, found None"]),
    ("41 a million digits", [Parameter("n")], {"n": 10**1_000_000}, ["n: an int of 3,321,929 bits is too large"]),
    ("42 30 February", [Parameter("d", type=datetime.date)], {"d": "2026-02-30"}, ["d: expected"]),
    ("44 100 MB", [Parameter("n")], {"n": bytes(100_000_000)}, ["n: 95 MiB are more than the 64 that fit"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "given", "words"),
    [row[1:] for row in REFUSED_BEFORE_RUNNING],
    ids=[row[0] for row in REFUSED_BEFORE_RUNNING],
)
def test_refused_before_anything_runs(parameters: list[Parameter], given: dict[str, Any], words: list[str]) -> None:
    ran: list[int] = []
    with Flow("f") as flow:
        task(name="work")(lambda xs: ran.append(1))(parameters)
    with refused(ParameterError, "the parameters do not fit flow 'f'", *words, at=""):
        flow.run(given)
    assert ran == []


def give(result: Any) -> Any:
    """A call of a task with that result."""
    return task(name="give")(lambda: result)()


FAILED_IN_THE_RUN = [
    ("52 over None", lambda: needs.map(give(None)), "cannot map over None: the upstream task returned nothing"),
    ("52 over a number", lambda: needs.map(give(5)), "cannot map over a int"),
    ("53 over a string", lambda: needs.map(give("abc")), "wrap it in a list"),
    ("54 over a dict", lambda: needs.map(give({"a": 1})), "return list(value.items()) instead"),
    ("55 over a set", lambda: needs.map(give({1})), "return sorted(value) instead"),
    ("60 widths 3 and 5", lambda: both.map(give([1, 2, 3]), range(5)), "give has 3, b has 5"),
    ("61 widths 0 and 5", lambda: both.map(give([]), range(5)), "give has 0, b has 5"),
    ("64 flatten of a number", lambda: needs.map(flatten(give(5))), "cannot map over a int"),
    ("66 over a frame", lambda: needs.map(give(DataFrame())), "list(frame.itertuples())"),
    ("67 a length that raises", lambda: needs.map(give(Lying(OSError("no")))), "len() failed with OSError: no"),
    ("71 a string for a list", lambda: needs.map(Parameter("p")), "wrap it in a list"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("write", "words"), [row[1:] for row in FAILED_IN_THE_RUN], ids=[row[0] for row in FAILED_IN_THE_RUN]
)
def test_failed_in_the_run_and_alone(write: Any, words: str) -> None:
    # given
    with Flow("f") as flow:
        node = write()
        beside = value("beside")
        after = task(name="after", trigger=all_finished)(lambda xs: "ran")(node)

    # when
    view = flow.run({"p": "abc"} if flow.parameters() else {})

    # then
    assert view.result[node].is_failed()
    assert words in view.result[node].message
    assert view.result[beside].result == "beside"
    assert view.result[after].result == "ran"


# What works -----------------------------------------------------------------------------------------------------------


def test_5_one_task_called_twice_is_two_nodes_with_stable_names() -> None:
    def build() -> list[str]:
        with Flow("f") as flow:
            value(1), value(2)
        return [node.slug for node in flow.tasks]

    assert build() == build() == ["value", "value-1"]


def test_7_a_flow_without_tasks_succeeds() -> None:
    view = Flow("f").run()
    assert view.is_successful()
    assert view.message == "the flow has no tasks"


def test_10_names_may_be_in_any_script() -> None:
    with Flow("daglig – 日次 🌊") as flow:
        value(1, task_args={"name": "Größe"})
    assert flow.run().result["Größe"].result == 1


def test_13_ten_thousand_calls_are_written_and_validated() -> None:
    with Flow("f") as flow:
        for i in range(10_000):
            value(i)
    flow.validate()
    assert len(flow.tasks) == 10_000


def test_14_two_thousand_tasks_in_a_row_run() -> None:
    with Flow("f") as flow:
        node = value(0)
        for _ in range(2000):
            node = value(node) + 1
    assert flow.run().result[node].result == 2000


def test_16_a_flow_that_raised_leaves_the_next_one_clean() -> None:
    with pytest.raises(ZeroDivisionError), Flow("f"), case(value(1), 1):
        _ = 1 / 0
    with Flow("g") as flow:
        value(1)
    assert flow.edges == []


def test_24_a_generator_function_gives_a_list() -> None:
    @task
    def numbers() -> Any:
        yield from range(3)

    with Flow("f") as flow:
        xs = numbers()
        doubled = needs.map(xs)
        n = total(xs)
    view = flow.run()
    assert [view.result[node].result for node in (xs, doubled, n)] == [[0, 1, 2], [0, 1, 2], 3]


def test_31_a_flow_runs_inside_a_running_event_loop() -> None:
    async def main() -> Any:
        with Flow("f") as flow:
            node = value(1)
        return flow.run().result[node].result

    assert asyncio.run(main()) == 1


def test_40_infinity_and_nan_are_floats() -> None:
    with Flow("f") as flow:
        node = needs(Parameter("n", type=float))
    assert flow.run(n="inf").result[node].result == math.inf
    assert math.isnan(flow.run(n=math.nan).result[node].result)


def test_57_an_endless_iterator_stops_at_the_widest_map_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Any:
        n = 0
        while True:
            yield n
            n += 1

    with Flow("f") as flow:
        node = needs.map(task(endless)())
    before = config.engine.max_width
    config.engine.max_width = 1000
    try:
        view = flow.run()
    finally:
        config.engine.max_width = before
    assert view.result[node].state.name == "TriggerFailed"
    assert "yielded more than 1,000 elements (engine.max_width)" in view.message


def test_58_a_generator_that_raises_in_its_middle_runs_no_element() -> None:
    ran = []

    def breaks() -> Any:
        yield from range(500)
        raise ConnectionError("gone")

    with Flow("f") as flow:
        node = task(name="note")(ran.append).map(task(breaks)())
    view = flow.run()
    assert view.result["breaks"].is_failed()
    assert view.result[node].state.name == "TriggerFailed"
    assert ran == []


def test_63_an_unmapped_list_of_nodes_is_resolved_once_and_passed_whole() -> None:
    with Flow("f") as flow:
        node = both.map([1, 2], unmapped([value("a"), value("b")]))
    assert flow.run().result[node].result == [(1, ["a", "b"]), (2, ["a", "b"])]


def test_66_arrays_are_never_asked_for_their_truth() -> None:
    np = pytest.importorskip("numpy")
    with Flow("f") as flow:
        xs = value(np.arange(3))
        with case(xs, np.arange(3)):
            a = needs(xs)
        b = needs.map(xs)
        c = total(b)
        d = needs([xs, {"k": np.eye(2)}])
        e = merge(a, xs)
    view = flow.run()
    assert view.is_successful()
    assert view.result[a].is_successful()
    assert not view.result[a].is_skipped()
    assert view.result[b].result == [0, 1, 2]
    assert view.result[c].result == 3
    assert view.result[d].result[1]["k"].shape == (2, 2)
    assert list(view.result[e].result) == [0, 1, 2]


def test_68_a_list_that_changes_later_is_mapped_over_as_it_was() -> None:
    xs = [1, 2]
    with Flow("f") as flow:
        node = needs.map(xs)
        xs.append(3)
    xs.clear()
    assert flow.run().result[node].result == [1, 2]


def test_69_elements_need_not_be_hashable_nor_equal_to_themselves() -> None:
    with Flow("f") as flow:
        node = needs.map([[], {}, math.nan, math.nan, [[]]])
    assert str(flow.run().result[node].result) == "[[], {}, nan, nan, [[]]]"


def test_70_a_map_over_a_failed_task_has_no_elements_and_says_why() -> None:
    with Flow("f") as flow:
        node = needs.map(task(name="fail")(lambda: 1 / 0)())
    state = flow.run().result[node]
    assert state.state.name == "TriggerFailed"
    assert "fail failed with ZeroDivisionError" in state.message
    assert len(state.map_states) == 0


def test_72_one_failed_element_is_named_and_the_others_are_done() -> None:
    invert = task(name="invert")(lambda x: 1 / x)
    with Flow("f") as flow:
        node = invert.map([*range(1, 500), 0, *range(1, 500)])
    view = flow.run()
    counts = view.result[node].counts
    assert (counts.total, counts.successful, counts.failed) == (999, 998, 1)
    assert view.message == "invert[499] failed with ZeroDivisionError: division by zero"

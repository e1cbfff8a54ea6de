"""Recorded runs, loaded: they answer as what ``flow.run`` returned."""

import pickle
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch import Flow, Parameter, config, runs, task
from anabranch.definition.mapping import flatten
from anabranch.errors import OptionError, ResultReleased, ResumeError, RunNotFound
from anabranch.results import LocalResult
from anabranch.runs.history import COLUMNS
from anabranch.signals import CANCEL, LOOP, SKIP
from anabranch.states import Cancelled, Failed, Paused, Running
from anabranch.triggers import manual_only


@task(max_retries=1, retry_delay=0)
def pour(x):
    if x == 2:
        raise ValueError("broken")
    if x == 3:
        raise SKIP("enough", result="cold")
    if x == 4:
        raise CANCEL("no")
    return {"cups": [x]}


@task
def count():
    from anabranch import context

    if context.task_loop_count < 3:
        raise LOOP(result=context.task_loop_count)
    return context.task_loop_count


@task
def take(xs):
    return [pour(x) for x in xs]


def _tea() -> Flow:
    with Flow("tea") as flow:
        n = Parameter("n", default=[0, 1, 2, 3])
        cups = pour.map(n)
        pour.map(cups), pour.map([]), pour(n), pour(2), pour(3), pour(4), count()
        pour.map(flatten([[5], [6, 7]]))
        take([0, 1]), take.map([[0], [1, 5]])
    return flow


@pytest.fixture(scope="module")
def done():
    return _tea().run()


def _value(state):
    try:
        found = state.result
    except ResultReleased:
        return ResultReleased
    return repr(found)


def _facts(state):
    return type(state.state), state.message, state.attempt, state.attempts, state.failure, state.counts, _value(state)


def test_a_loaded_run_says_what_the_run_said(done):
    loaded = runs.load(done.run_id)

    assert (loaded.run_id, type(loaded.state), loaded.message) == (done.run_id, type(done.state), done.message)
    assert loaded.parameters == done.parameters == {"n": [0, 1, 2, 3]}
    assert loaded.states().keys() == done.states().keys()
    for slug in done.states():
        mine, its = loaded[slug], done[slug]
        assert _facts(mine) == _facts(its), slug
        assert [_facts(each) for each in mine.map_states] == [_facts(each) for each in its.map_states], slug
    assert [name for name, _ in loaded.failures()] == [name for name, _ in done.failures()]
    with pytest.raises(ValueError, match="broken"):
        loaded.raise_failure()


def test_with_its_flow_nodes_and_tasks_are_keys():
    flow = _tea()
    state = flow.run()
    loaded = runs.load(state.run_id[:8], flow=flow)
    assert [_facts(loaded[node]) for node in state.result] == [_facts(each) for each in state.result.values()]
    assert list(loaded.result) == list(state.result)


def test_the_last_run_is_the_one_that_began_last_and_is_no_part_of_another(tmp_path):
    with Flow("inner") as inner:
        count()
    with Flow("outer") as outer:
        inner.as_task()()
    with config.set({"backend": f"sqlite:///{tmp_path / 'runs.db'}"}):
        with pytest.raises(RunNotFound):
            runs.load()
        assert runs.find() == []
        state = outer.run()
        assert runs.load("last").run_id == state.run_id
        assert {each.flow_name for each in runs.find()} == {"inner", "outer"}
        assert inner.run(resume="last").is_successful()


def test_values_are_read_from_where_the_flow_stores_them(tmp_path):
    @task
    def brew(x):
        return x * 100_000

    with Flow("stored", result=LocalResult(tmp_path)) as flow:
        brew("ab"), brew.map(["c", "d"])
    state = flow.run()
    loaded = runs.load(state.run_id, flow=flow)
    assert loaded["brew"].result == "ab" * 100_000
    assert loaded["brew-1"].result == ["c" * 100_000, "d" * 100_000]
    assert loaded["brew"].ref == state["brew"].ref

    without = runs.load(state.run_id)
    assert without["brew"].is_successful()
    for read in (lambda: without["brew"].result, lambda: without["brew-1"].map_states[1].result):
        with pytest.raises(ResultReleased, match=r"where its flow stores it: runs\.load\(…, flow=flow\)"):
            read()


def test_a_large_value_that_was_not_stored_is_said_to_be_gone():
    @task
    def brew():
        return "a" * 100_000

    with Flow("large") as flow:
        brew()
    state = flow.run()
    with pytest.raises(ResultReleased, match="was not kept"):
        _ = runs.load(state.run_id)["brew"].result


def test_a_run_that_waits_or_goes_on_is_loaded_as_it_stands():
    ask = task(lambda: 1, name="ask", trigger=manual_only)
    with Flow("waiting") as flow:
        pour.map([0, 1], upstream_tasks=[ask()])
    state = flow.run()
    loaded = runs.load(state.run_id)
    assert isinstance(state, Paused)
    assert isinstance(loaded, Paused)
    assert {
        slug: each.state for slug, each in zip(loaded.states(), loaded.result.values(), strict=True)
    } == state.states()

    @task
    def look():
        from anabranch import context

        inside = runs.load(context.flow_run_id)
        return isinstance(inside, Running), inside.is_finished(), inside["look"].result

    with Flow("looking") as flow:
        look()
    assert flow.run()["look"].result == (True, False, None)


def test_secret_parameters_stay_secret():
    with Flow("secret") as flow:
        pour(Parameter("token", secret=True))
    state = flow.run(parameters={"token": "hunter22"})
    loaded = runs.load(state.run_id)
    assert loaded.parameters["token"] != "hunter22"
    assert "hunter22" not in repr(loaded.table())


def test_runs_are_found_by_flow_state_time_and_parameters(tmp_path):
    with Flow("by") as flow:
        pour(Parameter("x", default=0))
    with config.set({"backend": f"sqlite:///{tmp_path / 'runs.db'}"}):
        first, second, third = (flow.run(parameters={"x": x}) for x in (0, 2, 0))

        def found(**query):
            return [each.run_id for each in runs.find(**query)]

        assert found() == [third.run_id, second.run_id, first.run_id]
        assert found(state="failed") == found(state=Failed) == found(parameters={"x": 2}) == [second.run_id]
        assert found(state=Cancelled) == found(flow="other") == found(parameters={"y": 2}) == []
        assert found(parameters={"x": 0}, limit=1) == [third.run_id]
        assert found(since=timedelta(hours=1)) == found()
        assert found(since=datetime.now(UTC)) == found(since=datetime.now()) == []  # noqa: DTZ005
        with pytest.raises(OptionError, match=r"there is no state 'Faild'; did you mean 'Failed'"):
            runs.find(state="Faild")


def test_a_run_of_another_flow_is_refused(done):
    with Flow("coffee") as other:
        pour(1)
    with pytest.raises(ResumeError, match=rf"run {done.run_id} is one of flow 'tea', found flow 'coffee'"):
        runs.load(done.run_id, flow=other)
    with config.set({"backend": "none"}):
        assert runs.find() == []
        with pytest.raises(ResumeError, match="no runs are recorded"):
            runs.load()


def test_the_table_has_a_row_for_each_task_run_and_element(done):
    table = runs.load(done.run_id).table()
    assert tuple(table) == COLUMNS
    assert len({len(column) for column in table.values()}) == 1
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    assert {(row["run_id"], row["flow"]) for row in rows} == {(done.run_id, "tea")}
    named = {(row["slug"], row["map_index"]): row for row in rows}
    assert len(named) == len(rows)
    for slug, state in done.states().items():
        if slug == "n":
            continue
        assert named[slug, None]["state"] == state.name
        for index, element in enumerate(done[slug].map_states):
            row = named[slug, index]
            assert (row["state"], row["attempt"]) == (element.name, element.attempt)
            assert row["error"] == (element.failure.type_name if element.failure is not None else None)
    assert named["pour", 2]["attempt"] == 2
    assert named["pour", 2]["error"] == "ValueError"
    assert all(row["seconds"] >= 0 for row in rows if row["seconds"] is not None)


def test_tables_of_pandas_and_arrow_have_types(done):
    loaded = runs.load(done.run_id)
    frame, table = loaded.to_pandas(), loaded.to_arrow()
    assert tuple(frame.columns) == tuple(table.column_names) == COLUMNS
    assert len(frame) == table.num_rows == len(loaded.table()["slug"])
    assert str(frame["map_index"].dtype) == "Int64"
    assert str(table.schema.field("start").type) == "timestamp[us, tz=UTC]"
    assert table["slug"].to_pylist() == list(frame["slug"])


def test_logs_are_those_of_the_run_a_task_or_an_element():
    @task
    def speak(x):
        from anabranch import context

        context.logger.warning("x is %s", x)

    with Flow("speaking") as flow:
        speak(7), speak.map(range(3))
    loaded = runs.load(flow.run().run_id)
    assert [row.text for row in loaded.logs("speak-1", 2, level=30)] == ["x is 2"]
    assert [row.text for row in loaded.logs("speak", level=30)] == ["x is 7"]
    assert len(list(loaded.logs(level=30))) == 4


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4]), max_size=12))
def test_whatever_the_elements_come_to_they_are_loaded(values):
    with Flow("any") as flow:
        pour.map(values)
    state = flow.run()
    loaded = runs.load(state.run_id)
    assert _facts(loaded["pour"]) == _facts(state["pour"])
    assert list(map(_facts, loaded["pour"].map_states)) == list(map(_facts, state["pour"].map_states))


def test_a_loaded_run_is_not_changed_by_what_is_asked_of_it(done):
    before = runs.find(flow="tea")
    loaded = runs.load(done.run_id)
    loaded.table(), list(loaded.logs()), repr(loaded), loaded._repr_html_()
    assert runs.find(flow="tea") == before
    assert pickle.dumps(loaded.states())

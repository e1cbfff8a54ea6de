"""What is recorded of runs, and what holds of it when they are resumed."""

from __future__ import annotations

import logging
import pickle
import socket
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.dying import Dying, Killed

from anabranch import PAUSE, SKIP, Flow, Parameter, config, context, task
from anabranch.base.events import RunFinished, TaskChanged
from anabranch.base.states import (
    BY_CODE,
    FIRST_FINAL_CODE,
    Cancelled,
    Counts,
    Deferred,
    Failed,
    Failure,
    Mapped,
    Skipped,
    State,
    Success,
)
from anabranch.definition.fingerprints import changes, fingerprints
from anabranch.engine.driver.handlers import FlowHandlers
from anabranch.engine.units.units import ColumnReport, Report, SingleReport
from anabranch.errors import OptionError, ParameterError, ResultReleased, ResumeError, RunHeld, RunStoreError
from anabranch.executors import LocalExecutor
from anabranch.flows.running import recorded_plan, run_plan
from anabranch.runs import Batch, RunQuery, RunRecord
from anabranch.runs.read.lookup import date_of
from anabranch.runs.record.recorder import Recorder
from anabranch.runs.record.reports import batch_of, codes_of, columns_of
from anabranch.runs.resume.choice import Choice, Recorded, held
from anabranch.runs.resume.recorded import load
from anabranch.runs.resume.takeover import Request, take
from anabranch.runs.store.heart import Heart
from anabranch.runs.store.opening import current_store
from anabranch.runs.store.sqlite import InMemoryRunStore
from anabranch.runs.view import FlowRunView


class Calls(Counter[str]):
    """Counts that are no part of the code that counts."""

    def __dask_tokenize__(self) -> str:
        return "calls"


CALLS = Calls()
"""How often each task run was begun."""
BROKEN: set[str] = set()
"""Task runs that fail."""


@pytest.fixture(autouse=True)
def _store_of_its_own(tmp_path: Path) -> Iterator[None]:
    CALLS.clear()
    BROKEN.clear()
    with config.set(backend=f"sqlite:///{tmp_path / 'runs.db'}"):
        yield


def begin(name: str) -> None:
    """Count a task run, and fail if it is to."""
    CALLS[name] += 1
    if name in BROKEN:
        raise ValueError(f"{name} is broken")


@task
def extract(width: int) -> list[int]:
    begin("extract")
    return list(range(width))


@task(chunksize=2)
def clean(x: int) -> int:
    begin(f"clean[{x}]")
    return x + 1


@task(chunksize=2)
def parse(x: int) -> int:
    begin(f"parse[{x - 1}]")
    if x == 3:
        raise SKIP("three")
    return 10 * x


@task
def total(xs: list[int | None]) -> int:
    begin("total")
    return sum(x for x in xs if x is not None)


@task
def aside() -> str:
    begin("aside")
    return "aside"


def corpus(width: int = 12) -> Flow:
    """A list, two maps in a row, a reduction, and a task beside them."""
    with Flow("corpus") as flow:
        total(parse.map(clean.map(extract(width))))
        aside()
    return flow


def reruns(before: Counter[str]) -> dict[str, int]:
    """Task runs begun since."""
    return dict(CALLS - before)


# Rows -----------------------------------------------------------------------------------------------------------------


@st.composite
def chunks(draw: st.DrawFn) -> list[Report]:
    """Reports of chunks of one map, some of them about the same elements."""
    reports = []
    for serial in range(1, draw(st.integers(1, 5)) + 1):
        if draw(st.booleans()):
            start = draw(st.integers(0, 6))
            indices: Any = range(start, start + draw(st.integers(1, 6)))
        else:
            indices = tuple(sorted(draw(st.sets(st.integers(0, 11), min_size=1, max_size=6))))
        codes = bytes(draw(st.sampled_from([2, 10, 10, 10, 11, 13, 20, 24])) for _ in indices)
        records = {
            index: BY_CODE[code](
                map_index=index, message=f"{serial}", failure=Failure("ValueError", "x") if code >= 20 else None
            )
            for index, code in zip(indices, codes, strict=True)
            if code != Success.code
        }
        final = [f"{serial}.{i}" for i, code in zip(indices, codes, strict=True) if code >= FIRST_FINAL_CODE]
        values = pickle.dumps(final) if draw(st.booleans()) else None
        reports.append(
            Report(("m", serial), columns=(ColumnReport("m", codes, records, values),), indices=indices, seconds=0.5)
        )
    return reports


@settings(max_examples=150, deadline=None)
@given(chunks())
def test_rows_of_chunks_give_reports_in_which_the_latest_holds_and_whose_rows_give_them_again(reports: list[Report]):
    # given what the reports say of each element, one after the other
    graph = _graph_of_one_map()
    expected: dict[int, tuple[int, Any]] = {}
    for report in reports:
        column = report.columns[0]
        values = iter(pickle.loads(column.values) if column.values else ())
        for index, code in zip(report.indices or (), column.codes, strict=True):
            value = next(values, None) if code >= FIRST_FINAL_CODE else None
            expected[index] = (code, value)
    # when they are made rows, and these reports
    rows = [batch_of(report, graph) for report in reports]
    store = InMemoryRunStore()
    ownership = store.create_run(_record("r"))
    for batch in rows:
        store.write(ownership, batch)
    found = columns_of(store.chunks("r", "m"), store.elements("r", "m"))
    # then each element is once in them, with what was said last
    seen: dict[int, tuple[int, Any]] = {}
    for report in found:
        column = report.columns[0]
        values = iter(pickle.loads(column.values) if column.values else ())
        for index, code in zip(report.indices or (), column.codes, strict=True):
            assert index not in seen
            seen[index] = (code, next(values, None) if code >= FIRST_FINAL_CODE else None)
            assert code == Success.code or column.records[index].code == code
    assert seen == expected
    assert all(codes_of(store.chunks("r", "m"))[index] == code for index, (code, _) in expected.items())
    # and these reports are rows of the same reports
    again = InMemoryRunStore()
    ownership = again.create_run(_record("r"))
    for report in found:
        again.write(ownership, batch_of(report, graph))
    assert columns_of(again.chunks("r", "m"), again.elements("r", "m")) == found


def _record(run_id: str) -> Any:
    return RunRecord(run_id, "flow", datetime(2026, 11, 21, tzinfo=UTC))


def _graph_of_one_map() -> Any:
    @task(name="m")
    def m(x: int) -> int:
        return x

    with Flow("one") as flow:
        m.map([1, 2])
    return flow.graph.freeze()


# A run, recorded ------------------------------------------------------------------------------------------------------


def test_a_run_is_recorded_with_its_tasks_chunks_and_failed_elements():
    BROKEN.add("clean[4]")
    state = corpus().run()
    store = current_store()
    assert store is not None
    record = store.get_run(state.run_id)
    assert (record.state, record.message, record.lease_until) == ("Failed", state.state.message, None)
    assert record.details is not None
    assert set(record.details.code) == {"extract", "clean", "parse", "total", "aside"}
    rows = {row.slug: row for row in store.task_runs(state.run_id)}
    assert {slug: row.state for slug, row in rows.items()} == {
        "extract": "Success",
        "clean": "Failed",
        "parse": "Failed",
        "total": "TriggerFailed",
        "aside": "Success",
    }
    assert rows["clean"].width == 12
    assert bytes(codes_of(store.chunks(state.run_id, "clean"))) == bytes([10, 10, 10, 10, 20, *[10] * 7])
    assert [(row.index, row.code) for row in store.elements(state.run_id, "clean")] == [(4, 20)]


def test_elements_that_waited_for_an_attempt_are_recorded_as_cancelled_with_their_run():
    # given
    @task(max_retries=1, retry_delay=3_600)
    def late(x: int) -> None:
        raise ValueError(x)

    @task
    def stop(x: int) -> None:
        raise KeyboardInterrupt

    with Flow("stopped") as flow:
        late.map([0, 1])
        stop.map([0])
    first = flow.run()
    # when
    view = flow.run(resume=first.run_id)
    # then
    assert first.is_cancelled()
    assert view.is_cancelled()
    store = current_store()
    assert store is not None
    assert codes_of(store.chunks(view.run_id, "late")) == bytes([Cancelled.code] * 2)


def test_nothing_is_recorded_where_the_backend_is_none():
    with config.set(backend="none"):
        state = corpus().run()
        assert state
        assert current_store() is None
        with pytest.raises(ResumeError, match="no runs are recorded"):
            corpus().run(resume=state.run_id)


def test_a_default_store_that_cannot_be_opened_is_a_warning(tmp_path: Path, monkeypatch, caplog):
    (tmp_path / "runs.db").mkdir()
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    with config.set(backend="local"), caplog.at_level(logging.WARNING, "anabranch"):
        assert corpus().run()
    assert "the run is not recorded" in caplog.text


def test_a_store_that_the_user_named_and_that_cannot_be_opened_is_an_error(tmp_path: Path):
    (tmp_path / "named.db").mkdir()
    with config.set(backend=f"sqlite:///{tmp_path / 'named.db'}"), pytest.raises(RunStoreError, match="directory"):
        corpus().run()
    assert not CALLS


@task
def connect(password: str, host: str) -> str:
    begin("connect")
    return f"{host}: connected with {password}"


@task
def refuse(password: str, line: str) -> None:
    raise ValueError(f"{password} is wrong: {line}")


def secret_flow() -> Flow:
    with Flow("secretive") as flow:
        password = Parameter("password")
        refuse(password, connect(password, Parameter("host", default="db")))
    return flow


def test_the_value_of_a_secret_parameter_is_nowhere_in_the_store(tmp_path: Path):
    state = secret_flow().run(password="hunter2-hunter2")
    assert state.is_failed()
    store = current_store()
    assert store is not None
    record = store.get_run(state.run_id)
    assert record.details is not None
    assert record.details.parameters == {"password": "***", "host": "db"}
    store.close()
    data = b"".join(file.read_bytes() for file in tmp_path.glob("runs.db*"))
    assert b"is wrong" in data
    assert b"hunter2" not in data


def test_a_secret_parameter_has_to_be_given_again_and_the_others_cannot_be_changed():
    run_id = secret_flow().run(password="hunter2-hunter2").run_id
    with pytest.raises(ParameterError, match="password: its value was not recorded, give it again"):
        secret_flow().run(resume=run_id)
    with pytest.raises(ParameterError, match="host: was 'db' and cannot be changed, found 'other'"):
        secret_flow().run(resume=run_id, password="hunter2-hunter2", host="other")
    assert secret_flow().run(resume=run_id, password="hunter2-hunter2").is_failed()


# Resuming -------------------------------------------------------------------------------------------------------------


def test_what_failed_runs_again_with_all_that_saw_it_fail_and_nothing_else():
    BROKEN.update(["clean[4]", "parse[7]"])
    first = corpus().run()
    before = CALLS.copy()
    BROKEN.clear()
    second = corpus().run(resume=first.run_id[:6])
    assert second
    assert second.run_id == first.run_id
    assert reruns(before) == {"clean[4]": 1, "parse[4]": 1, "parse[7]": 1, "total": 1}
    assert second["total"].result == sum(10 * x for x in range(1, 13) if x != 3)
    assert [state.name for state in second["parse"].map_states][:4] == ["Success", "Success", "Skipped", "Success"]


def test_a_run_that_succeeded_gives_its_states_and_values_without_running_anything():
    first = corpus().run()
    before = CALLS.copy()
    second = corpus().run(resume=first.run_id)
    assert not reruns(before)
    assert {slug: (s.name, s.message) for slug, s in second.states().items()} == {
        slug: (s.name, s.message) for slug, s in first.states().items()
    }
    assert second["parse"].result == first["parse"].result
    assert second["total"].result == first["total"].result


def rows_of(database: Path) -> dict[str, list[Any]]:
    """What is on record of runs, but for who had them when."""
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        owners = {"epoch", "token", "owner", "held_since", "heard", "rests"}
        return {
            table: [
                {key: row[key] for key in row.keys() if key not in owners}  # noqa: SIM118
                for row in connection.execute(f"SELECT * FROM {table}")
            ]
            for table in tables
        }


@pytest.mark.parametrize("flow", [corpus(), corpus(0), corpus(4), Flow("nothing")], ids=str)
def test_a_run_that_is_only_looked_at_stays_as_it_was(flow: Flow, tmp_path: Path):
    first = flow.run()
    before = rows_of(tmp_path / "runs.db")
    for _ in range(2):
        assert flow.run(resume=first.run_id).is_successful()
    assert rows_of(tmp_path / "runs.db") == before


def test_a_map_that_ends_otherwise_in_a_run_in_which_nothing_runs_is_recorded_so():
    store, nobody = InMemoryRunStore(), Failed("for another reason", end_time=datetime(2026, 11, 21, tzinfo=UTC))
    recorder = Recorder(store, store.create_run(_record("r")), _graph_of_one_map())
    recorder.observe(TaskChanged(0.0, "m", Failed("not enough", counts=Counts(2, failed=2))))
    recorder.finish(nobody, {})
    before = store.get_run("r")

    later = Recorder(store, store.take_over("r"), _graph_of_one_map(), before=before)
    later.observe(TaskChanged(1.0, "m", Mapped("enough", counts=Counts(2, successful=1, skipped=1))))
    later.finish(nobody, {})

    assert [row.state for row in store.task_runs("r")] == ["Mapped"]


def test_a_run_in_which_something_runs_again_ends_later():
    first = corpus().run()
    end = current_store().get_run(first.run_id).end
    corpus().run(resume=first.run_id, resume_from="total")
    assert current_store().get_run(first.run_id).end > end


@pytest.mark.parametrize(
    "date",
    [
        datetime(2026, 5, 1, tzinfo=ZoneInfo("Asia/Tokyo")),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2026, 5, 1, 23, 30, tzinfo=timezone(timedelta(hours=-11))),
        datetime(2026, 5, 1, tzinfo=UTC),
    ],
)
def test_a_resumed_run_is_for_the_same_day(date: datetime):
    days = []

    @task
    def ask() -> None:
        days.append((context.date, context.date.isoformat(), context.yesterday, context.today, context.tomorrow))
        if len(days) == 1:
            raise ValueError

    with Flow("daily") as flow:
        ask()
    first = flow.run(run_date=date)
    assert flow.run(resume=first.run_id).is_successful()
    assert days[0] == days[1]
    assert days[0][:2] == (date, date.isoformat())
    assert days[0][2:] == tuple(f"{date + timedelta(days=by):%Y-%m-%d}" for by in (-1, 0, 1))


def test_a_run_that_was_given_no_date_is_for_its_start():
    first = corpus().run()
    assert date_of(current_store().get_run(first.run_id)) == current_store().get_run(first.run_id).start


def run_until(k: int, *, is_after: bool) -> tuple[str, bool]:
    """Run the corpus until its k-th report; the run's id, and whether it came so far."""
    flow = corpus()
    plan, recorder = recorded_plan(flow.graph, flow.reference_tasks(), (), {}, source="")
    assert recorder is not None
    dying = Dying(recorder.store, recorder.ownership, plan.graph)
    dying.left, dying.is_after = k, is_after
    try:
        run_plan(plan, flow.graph, LocalExecutor(), handlers=FlowHandlers(), recorder=dying)
    except Killed:
        return plan.run_id, True
    return plan.run_id, False


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_a_run_that_dies_at_any_report_is_resumed_to_the_same_end(is_after: bool):
    expected = corpus().run()
    k, died = 0, True
    while died:
        k += 1
        CALLS.clear()
        run_id, died = run_until(k, is_after=is_after)
        store = current_store()
        assert store is not None
        finished = _finished(store, run_id)
        before = CALLS.copy()
        state = corpus().run(resume=run_id)
        names = {slug: each.name for slug, each in state.states().items()}
        assert names == {slug: each.name for slug, each in expected.states().items()}
        assert state["total"].result == expected["total"].result
        assert state["parse"].result == expected["parse"].result
        assert not finished.intersection(reruns(before)), f"after report {k}"
    assert k == 10  # nine reports: six of chunks, and one of each of the others


def _finished(store: Any, run_id: str) -> set[str]:
    found = {row.slug for row in store.task_runs(run_id) if row.code >= FIRST_FINAL_CODE and row.width is None}
    for slug in ("clean", "parse"):
        codes = codes_of(store.chunks(run_id, slug))
        found |= {f"{slug}[{index}]" for index, code in enumerate(codes) if code >= FIRST_FINAL_CODE}
    return found


def test_retries_that_waited_keep_their_attempts_and_times():
    @task(max_retries=2, retry_delay=3600.0)
    def fetch() -> None:
        raise OSError("not yet")

    @task(max_retries=2, retry_delay=3600.0)
    def fetch_each(x: int) -> int:
        if x == 2:
            raise OSError("not yet")
        return x

    with Flow("patient") as flow:
        fetch()
        fetch_each.map([2, 1])
    plan, recorder = recorded_plan(flow.graph, flow.reference_tasks(), (), {}, source="")
    assert recorder is not None
    dying = Dying(recorder.store, recorder.ownership, plan.graph)
    dying.left, dying.is_after = 2, True
    with pytest.raises(Killed):
        run_plan(plan, flow.graph, LocalExecutor(), handlers=FlowHandlers(), recorder=dying)
    kept = held(plan.graph, load(recorder.store, plan.run_id, plan.graph), Choice())
    (report,) = kept.columns["fetch_each"]
    for state in (kept.singles["fetch"].state, report.columns[0].records[0]):
        assert (state.name, state.attempt) == ("Retrying", 1)
        assert state.start_time is not None
        assert state.start_time > dying.store.get_run(plan.run_id).start + timedelta(minutes=59)


def test_what_was_skipped_below_elements_that_have_not_ended_may_end_otherwise():
    def reported(slug: str, codes: dict[int, State]) -> list[Report]:
        return [
            Report((slug, index), columns=(ColumnReport(slug, bytes([state.code]), {index: state}),), indices=(index,))
            for index, state in codes.items()
        ]

    unseen, seen = Skipped("upstream some was skipped"), Skipped("SKIP", start_time=datetime(2026, 11, 21, tzinfo=UTC))
    with Flow("enough") as flow:
        some = task(lambda x: x, name="some", first_n=2).map([0, 1, 2, 3])
        task(lambda x, y: x, name="below").map(some, y=some)
    recorded = Recorded(
        columns={
            "some": reported("some", {0: Success(), 2: unseen}),
            "below": reported("below", {0: unseen, 1: unseen, 2: unseen, 3: seen}),
        },
        widths={"some": 4, "below": 4},
    )

    kept = held(flow.graph.freeze(), recorded, Choice())

    assert [list(each.indices or ()) for each in kept.columns["below"]] == [[0], [2], [3]]


def test_a_task_that_had_made_calls_keeps_the_number_of_its_attempt():
    with Flow("again") as flow:
        task(lambda: 1, name="caller")()
    plan, recorder = recorded_plan(flow.graph, flow.reference_tasks(), (), {}, source="")
    assert recorder is not None
    recorder.write(Report(("caller", 1), singles=(SingleReport("caller", Deferred(attempt=2)),)))

    before = load(recorder.store, plan.run_id, plan.graph).singles["caller"].state

    assert (before.name, before.attempt) == ("Retrying", 1)


def test_a_list_of_which_only_the_state_is_on_record_is_made_again():
    with Flow("listed") as flow:
        task(lambda x: x, name="each").map(task(lambda: [1, 2], name="rows")())
    plan, recorder = recorded_plan(flow.graph, flow.reference_tasks(), (), {}, source="")
    assert recorder is not None
    recorder.observe(TaskChanged(0.0, "rows", Success()))  # as it had ended, when the run is cancelled meanwhile
    recorder.put_down(Cancelled())

    assert load(recorder.store, plan.run_id, plan.graph).singles == {}
    assert flow.run(resume=plan.run_id).result["each"].result == [1, 2]


def test_rows_that_are_damaged_are_told_of_and_their_map_runs_again(tmp_path: Path, caplog):
    first = corpus().run()
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database, database:
        database.execute("UPDATE anabranch_chunks SET codes = 'zz' WHERE slug = 'parse'")
    before = CALLS.copy()
    with caplog.at_level(logging.WARNING, "anabranch"):
        state = corpus().run(resume=first.run_id)
    assert "parse runs again, because what is recorded of it cannot be used" in caplog.text
    assert state["parse"].result == first["parse"].result
    assert set(reruns(before)) == {f"parse[{i}]" for i in range(12)}


def test_only_what_failed_runs_where_that_is_asked_for():
    BROKEN.add("clean[4]")
    run_id, _ = run_until(5, is_after=True)  # three of six chunks were begun
    before = CALLS.copy()
    assert sum(name.startswith("clean") for name in before) == 6
    BROKEN.clear()
    state = corpus().run(resume=run_id, resume_only="failed")
    assert reruns(before) == {"clean[4]": 1, "parse[4]": 1}
    names = [each.name for each in state["clean"].map_states]
    assert names == ["Success"] * 6 + ["Cancelled"] * 6
    again = corpus().run(resume=run_id)
    assert again["total"].result == sum(10 * x for x in range(1, 13) if x != 3)


def test_a_node_that_is_named_runs_again_with_all_below():
    first = corpus().run()
    before = CALLS.copy()
    corpus().run(resume=first.run_id, resume_from="parse")
    assert set(reruns(before)) == {"total", *(f"parse[{i}]" for i in range(12))}


def test_an_element_that_is_named_runs_again_with_all_below():
    first = corpus().run()
    before = CALLS.copy()
    corpus().run(resume=first.run_id, resume_element="clean[5]")
    assert set(reruns(before)) == {"clean[5]", "parse[5]", "total"}


def test_an_element_that_is_none_is_refused_and_the_run_stays_as_it_was():
    first = corpus().run()
    with pytest.raises(ResumeError, match=r"clean\[12\] is no element of the run: it has 12 elements"):
        corpus().run(resume=first.run_id, resume_element="clean[12]")
    store = current_store()
    assert store is not None
    assert store.get_run(first.run_id).state == "Success"
    with pytest.raises(OptionError, match="expected an element of a map"):
        corpus().run(resume=first.run_id, resume_element="total[1]")


def test_a_paused_task_waits_until_it_is_approved():
    @task
    def publish() -> str:
        begin("publish")
        if CALLS["publish"] == 1:
            raise PAUSE("look at it first")
        return "published"

    with Flow("careful") as flow:
        publish(upstream_tasks=[aside()])
    first = flow.run()
    assert first.is_paused()
    assert flow.run(resume=first.run_id).is_paused()
    assert CALLS["publish"] == 1
    state = flow.run(resume=first.run_id, approve=["publish"])
    assert state["publish"].result == "published"
    assert CALLS["aside"] == 1


@task
def large(x: int) -> bytes:
    begin(f"large[{x}]")
    return bytes([x]) * 20_000


def test_values_that_are_not_recorded_are_not_made_again_where_nobody_takes_them():
    with Flow("large") as flow:
        values = large.map([1, 2, 3, 4])
    BROKEN.add("large[3]")
    first = flow.run()
    before = CALLS.copy()
    BROKEN.clear()
    state = flow.run(resume=first.run_id)
    assert state
    assert reruns(before) == {"large[3]": 1}
    assert state[values].message == "4 elements: 4 successful"
    assert state[values].map_states[2].result == bytes([3]) * 20_000
    with pytest.raises(ResultReleased, match="large was not run again when the run was resumed"):
        _ = state[values].result


def test_values_that_are_not_recorded_are_made_again_for_who_takes_them():
    @task
    def lengths(values: list[bytes]) -> int:
        begin("lengths")
        return sum(map(len, values))

    with Flow("large") as flow:
        lengths(large.map([1, 2, 3]))
    BROKEN.add("lengths")
    first = flow.run()
    before = CALLS.copy()
    BROKEN.clear()
    assert flow.run(resume=first.run_id)["lengths"].result == 60_000
    assert set(reruns(before)) == {"large[1]", "large[2]", "large[3]", "lengths"}


def _flow_with(function: Callable[..., Any]) -> Flow:
    with Flow("code") as flow:
        total(task(function, name="double").map([1, 2, 3]))
        aside()
    return flow


def test_changed_code_is_told_of_and_runs_again_only_if_asked_for(caplog):
    def before(x: int) -> int:
        return 2 * x

    def after(x: int) -> int:
        return 3 * x

    first = _flow_with(before).run()
    with caplog.at_level(logging.WARNING, "anabranch"):
        kept = _flow_with(after).run(resume=first.run_id)
    assert "the code of 'double' has changed" in caplog.text
    assert kept["total"].result == 12
    caplog.clear()
    calls = CALLS.copy()
    with caplog.at_level(logging.WARNING, "anabranch"):
        state = _flow_with(after).run(resume=first.run_id, rerun_changed=True)
    assert not caplog.text
    assert state["total"].result == 18
    assert reruns(calls) == {"total": 1}


@pytest.mark.parametrize("rerun", [False, True])
def test_code_that_may_have_changed_runs_again_if_changed_code_is_to(caplog, rerun):
    held = object()

    def first_of(x: int, marks: object = (held,)) -> int:
        return x

    first = _flow_with(first_of).run()
    calls = CALLS.copy()
    with caplog.at_level(logging.WARNING, "anabranch"):
        again = _flow_with(first_of).run(resume=first.run_id, rerun_changed=rerun)
    assert again.is_successful()
    assert reruns(calls) == ({"total": 1} if rerun else {})
    assert ("whether the code of 'double' has changed since run" in caplog.text) == rerun


def test_comments_docstrings_and_lines_are_no_code_and_helpers_are():
    def compiled(text: str) -> Flow:
        names: dict[str, Any] = {}
        exec(compile(text, "etl_of_a_user.py", "exec"), names)
        return _flow_with(names["f"])

    one = fingerprints(compiled("def g(x): return x\ndef f(x): return g(x) + 1").graph.freeze())
    same = fingerprints(
        compiled('# new\ndef g(x): return x\n\ndef f(x):\n    "Add."\n    return g(x) + 1  # one').graph.freeze()
    )
    other = fingerprints(compiled("def g(x): return -x\ndef f(x): return g(x) + 1").graph.freeze())
    assert changes(one, same) == []
    assert changes(one, other) == ["double"]
    assert changes({slug: f"2.7-{text}" for slug, text in one.items()}, other) == []


def test_a_run_of_another_flow_is_not_gone_on_with():
    first = corpus().run()
    with Flow("other") as other:
        aside()
    with pytest.raises(ResumeError, match="is one of flow 'corpus', found flow 'other'"):
        other.run(resume=first.run_id)


def test_a_run_that_is_held_is_not_taken():
    first = corpus().run()
    take(Request(run_id=first.run_id), "corpus")
    with pytest.raises(RunHeld):
        corpus().run(resume=first.run_id)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume_only": "failed"}, "resume_only= goes with resume=RUN"),
        ({"rerun_changed": True}, "rerun_changed= goes with resume=RUN"),
        ({"resume": "a", "resume_only": "all"}, "expected 'failed', found 'all'"),
        ({"resume": 5}, "expected the id of a run, found 5"),
        ({"resume": "a", "run_id": "b"}, "run_id= is for a new run"),
        ({"resume": "a", "resume_element": "clean[1]", "rerun_changed": True}, "no other choice"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(OptionError, match=message):
        corpus().run(**options)


# Stores that fail -----------------------------------------------------------------------------------------------------


class Faulty(InMemoryRunStore):
    """A store that fails at some of its writes."""

    def __init__(self, fails: Callable[[int], bool]) -> None:
        super().__init__()
        self.writes = 0
        self._fails = fails

    def write(self, ownership: Any, batch: Batch) -> None:
        self.writes += 1
        if self._fails(self.writes):
            raise RunStoreError("no space left")
        super().write(ownership, batch)


def run_with(store: Any, told: list[str] | None = None) -> FlowRunView:
    """Run the corpus, recorded in a store, with a handler that notes of which states it is `told`."""
    flow = corpus()
    with config.set(backend="none"):
        plan, nobody = recorded_plan(flow.graph, flow.reference_tasks(), (), {}, source="", run_id="r")
    assert nobody is None
    recorder = Recorder(store, store.create_run(_record("r")), plan.graph)
    return run_plan(plan, flow.graph, LocalExecutor(), handlers=noting([] if told is None else told), recorder=recorder)


def noting(told: list[str]) -> FlowHandlers:
    """Handlers that note the states of which they are told."""
    return FlowHandlers(state_handlers=[lambda flow, old, new: told.append(new.name)])


def test_a_store_that_fails_at_any_one_write_loses_nothing(caplog):
    whole = Faulty(lambda n: False)
    run_with(whole)
    for k in range(1, whole.writes + 1):
        store = Faulty(lambda n, k=k: n == k)
        state = run_with(store)
        assert state
        assert "no space left" in caplog.text
        assert store.get_run("r").state == "Success"
        assert _finished(store, "r") == _finished(whole, "r")


def test_a_store_that_never_comes_back_ends_the_run(monkeypatch, caplog):
    monkeypatch.setattr("anabranch.runs.record.backlog.MAX_ROWS", 5)
    told: list[str] = []
    state = run_with(Faulty(lambda n: True), told)
    assert state.state.is_crashed()
    assert told == ["Running", "Crashed"]
    assert "run store: no space left" in state.state.message
    assert state["extract"].is_successful()
    assert state["total"].is_cancelled()


@pytest.mark.parametrize("moment", ["while it runs", "when nothing is left to do"])
def test_a_run_that_is_taken_over_stops_names_the_new_owner_and_tells_no_handler(
    monkeypatch: pytest.MonkeyPatch, moment: str
):
    flow = corpus()
    plan, recorder = recorded_plan(flow.graph, flow.reference_tasks(), (), {}, source="")
    assert recorder is not None
    store, later = recorder.store, _record("x").start.replace(year=2999)
    taken: list[Any] = []
    told: list[str] = []
    monkeypatch.setattr("anabranch.flows.running.Heart", partial(Heart, clock=lambda: 1e9 * len(taken)))

    def take_once(event: object) -> None:
        is_time = isinstance(event, RunFinished) if moment != "while it runs" else CALLS["clean[2]"]
        if is_time and not taken:
            taken.append(store.take_over(plan.run_id, owner="elsewhere:1", now=later))

    state = run_plan(plan, flow.graph, LocalExecutor(), handlers=noting(told), observers=[take_once], recorder=recorder)
    assert state.is_cancelled()
    assert "was taken over by elsewhere:1" in state.state.message
    assert told == ["Running"]
    record = store.get_run(plan.run_id)
    assert (record.state, record.epoch) == ("Running", 2)


def test_runs_are_listed_with_their_states():
    corpus().run()
    BROKEN.add("aside")
    corpus().run()
    store = current_store()
    assert store is not None
    assert [record.state for record in store.list_runs(RunQuery(flow_name="corpus"))] == ["Failed", "Success"]


def test_what_a_map_left_out_that_had_enough_does_not_run_again_because_it_had_failed_before():
    @task(first_n=1, chunksize=1)
    def first(x: int) -> int:
        begin(f"first[{x}]")
        return x

    @task
    def after(xs: list[int | None]) -> int:
        begin("after")
        return len(xs)

    with Flow("enough") as flow:
        after(first.map([0, 1]))
    BROKEN.update(("first[0]", "first[1]"))
    run_id = flow.run().run_id
    BROKEN.clear()
    assert flow.run(resume=run_id).is_successful()
    before = CALLS.copy()

    state = flow.run(resume=run_id)

    assert [each.name for each in state["first"].map_states] == ["Success", "Skipped"]
    assert not reruns(before)


def test_a_run_whose_driver_was_lost_stays_interrupted_when_it_cannot_be_gone_on_with():
    with Flow("lost") as flow:
        clean.map(extract(1))
    store = current_store()
    assert store is not None
    gone = f"{socket.gethostname()}:{2**22 + 1}"
    store.create_run(RunRecord("run-1", "lost", datetime.now(UTC)), owner=gone)
    with pytest.raises(ResumeError, match="no elements of it are recorded"):
        flow.run(resume="run-1", resume_element="clean[0]")
    assert store.get_run("run-1").state == "Interrupted"
    assert flow.run(resume="run-1").state.is_successful()

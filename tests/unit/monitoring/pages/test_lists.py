"""Lists of runs and flows, and a flow's page: found, paged, and quick where there are many."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from bokeh.document import Document
from bokeh.models import Button, Div
from tests.hostile_names import CORPUS

from anabranch import Flow, Parameter, signals, task
from anabranch.base.events import Noticed
from anabranch.errors import PagesError, RunNotFound
from anabranch.monitoring.pages.diff_page import DiffPage, diff_address, difference_tables
from anabranch.monitoring.pages.documents import applications
from anabranch.monitoring.pages.flow_page import FlowPage, registration, version_table
from anabranch.monitoring.pages.flows_page import FlowsPage, duration_trend
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.lists import PAGE, Search, read_search
from anabranch.monitoring.pages.logs_box import LogsBox
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.reasons import ReasonsBox
from anabranch.monitoring.pages.recorded_run import LOG_LINES, read_model
from anabranch.monitoring.pages.runs_page import RunsPage
from anabranch.runs import Batch, LogQuery, LogRow, RunRecord
from anabranch.runs.read.compare import Difference
from anabranch.runs.registry.seal import pack_schedule
from anabranch.runs.store.database import Transaction
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.opening import current_store
from anabranch.runs.store.sqlite import InMemoryRunStore
from anabranch.schedules import CronSchedule

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def many() -> Iterator[InMemoryRunStore]:
    """Ten thousand runs of ten flows."""
    with InMemoryRunStore() as store:
        record = RunRecord("run-00000", "flow-0", NOON)
        store.finish_run(store.create_run(record), "Success", end=NOON + timedelta(seconds=5))

        def act(transaction: Transaction) -> None:
            transaction.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) "
                "INSERT INTO anabranch_runs SELECT printf('run-%05d', i), 'flow-' || (i % 10), 'v' || (i / 5000), "
                "CASE WHEN i % 100 = 7 THEN 'Failed' ELSE 'Success' END, "
                "CASE WHEN i % 100 = 7 THEN 'boom ' || i ELSE '' END, started + i * 1000000, ended + i * 1000000, "
                "parent_run_id, labels, owner, epoch, token, held_since, lease_until, born, heard, rests "
                "FROM anabranch_runs, n"
            )

        store.database.write(act)
        yield store


def ids(text: str) -> list[str]:
    return re.findall(r'href="run\?id=([^"]+)"', text)


def test_ten_thousand_runs_are_paged_and_found(many: InMemoryRunStore):
    # given
    library = Library(lambda: many)
    page = RunsPage(library)
    assert ids(page._table.text) == [f"run-{number:05}" for number in range(9_999, 9_999 - PAGE, -1)]
    # when its link is followed
    assert 'href="./?page=2" rel="next"' in page._table.text
    page = RunsPage(library, read_search({"page": "2"}))
    # then
    assert ids(page._table.text)[0] == f"run-{9_999 - PAGE:05}"
    assert 'href="./" rel="prev"' in page._table.text
    # when
    page = RunsPage(library, read_search({"text": "boom 4", "state": "Failed"}))
    # then
    assert ids(page._table.text)[0] == "run-04907"
    assert len(ids(page._table.text)) == 11
    assert 'value="boom 4"' in page._form.text
    assert '<option value="Failed" selected>' in page._form.text
    # when
    page = RunsPage(library, read_search({"text": "no such run"}))
    assert "no such runs" in page._table.text


@pytest.mark.parametrize("page", ["", "0", "-1", "x", "²", "9" * 30, "1.5"])
def test_what_is_no_number_of_a_page_is_the_first(page: str):
    assert read_search({"page": page}) == Search()


def test_an_interrupted_run_is_found_as_such_and_not_as_one_that_runs():
    # given a run whose driver is gone, though its lease has not run out, and one that goes on
    with InMemoryRunStore() as store:
        store.create_run(RunRecord("gone", "f", NOON), owner=f"{socket.gethostname()}:{2**22 + 1}")
        store.create_run(RunRecord("on", "f", NOON))
        library = Library(lambda: store)
        # then
        assert ids(RunsPage(library, Search(state="Interrupted"))._table.text) == ["gone"]
        assert ids(RunsPage(library, Search(state="Running"))._table.text) == ["on"]


def test_a_page_of_ten_thousand_runs_costs_one_question_and_its_own_rows(
    many: InMemoryRunStore, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []
    fetch = many.list_runs
    monkeypatch.setattr(many, "list_runs", lambda query: asked.append(query.limit) or fetch(query))
    page = RunsPage(Library(lambda: many), Search(page=400))
    assert asked == [PAGE + 1]
    assert ids(page._table.text)[-1] == "run-00000"
    plan = many.database.read(
        lambda transaction: transaction.fetch(
            "EXPLAIN QUERY PLAN SELECT run_id FROM anabranch_runs ORDER BY started DESC LIMIT 26"
        )
    )
    assert "anabranch_runs_started" in str(plan)


def test_the_page_of_a_flow_has_its_last_runs_by_duration_outcome_and_code(many: InMemoryRunStore):
    page = FlowPage(Library(lambda: many), "flow-7")
    bars = page._bars.text
    assert (bars.count("height:100%"), bars.count("Failed, 5.0 s")) == (100, 10)
    assert 'href="flow?name=flow-7&amp;page=2"' in page._table.text
    assert "<code>v1</code>" in page._versions.text
    assert ids(page._table.text)[0] == "run-09997"


def boxes(page: FlowPage) -> set[str]:
    found = "".join(each.text for each in page._graph.select({"type": Div}))
    return {name for name in ("extract", "load") if name in found}


def test_the_page_of_a_flow_has_the_graph_that_ran_last_or_else_was_registered():
    with InMemoryRunStore() as store, Flow("etl") as flow:

        @task
        def extract() -> int:
            return 1

        @task
        def load(x: int) -> int:
            return x

        load(extract())
        # given a flow that is registered
        flows = FlowTable(store.database)
        drawn = {
            "nodes": [{"slug": slug, "name": slug, "kind": "task", "is_map": False} for slug in ("extract", "load")],
            "edges": [["extract", "load", "data"], ["gone", "load", "data"]],
        }
        flows.put(FlowRecord("etl", "code", graph=drawn), now=NOON)
        page = FlowPage(Library(lambda: store), "etl")
        # then
        assert boxes(page) == {"extract", "load"}
        # and one that another version has written otherwise has none
        flows.put(FlowRecord("etl", "code", graph={"nodes": [["extract"]], "edges": 3}), now=NOON)
        page.update()
        assert boxes(FlowPage(Library(lambda: store), "etl")) == set()
    # and of one that has run, registered or not, it is that of its last run
    run = flow.run()
    assert run.is_successful()
    page = FlowPage(Library(current_store), "etl")
    assert boxes(page) == {"extract", "load"}
    # with links to what there is about each task of it
    drawn = "".join(each.text for each in page._graph.select({"type": Div}))
    assert f'href="run?id={run.run_id}&amp;task=load"' in drawn


def test_the_registered_code_is_read_again_only_when_something_has_changed(monkeypatch: pytest.MonkeyPatch):
    with InMemoryRunStore() as store:
        flows = FlowTable(store.database)
        flows.put(FlowRecord("etl", "code", max_runs=3), now=NOON)
        read: list[str] = []
        get = FlowTable.get
        monkeypatch.setattr(FlowTable, "get", lambda self, name: read.append(name) or get(self, name))
        page = FlowPage(Library(lambda: store), "etl")
        page.update()
        assert read == ["etl"]
        flows.put(FlowRecord("etl", "code", max_runs=4), now=NOON)
        page.update()
        assert read == ["etl", "etl"]
        assert "<td>4</td>" in page._registered.text
        flows.remove("etl")
        page.update()
        assert page._registered.text == ""


def test_flows_are_listed_with_their_next_run_and_how_long_the_last_ones_took(many: InMemoryRunStore):
    with InMemoryRunStore() as store:
        schedule = CronSchedule("0 6 * * *", timezone="Asia/Tokyo")
        packed = {"schedule": pack_schedule(schedule), "schedule_text": "daily"}
        flows = FlowTable(store.database)
        flows.put(FlowRecord("on", "code", **packed), now=NOON)
        flows.put(FlowRecord("resting", "code", **packed, paused=True), now=NOON)
        flows.put(FlowRecord("code", "code", schedule=b"pickle", schedule_text="of code"), now=NOON)
        flows.put(FlowRecord("by hand", "code"), now=NOON)
        for number, state in enumerate(["Success", "Failed", "Success"]):
            end = NOON + timedelta(hours=number, seconds=5 * (number + 1))
            record = RunRecord(f"r{number}", "on", NOON + timedelta(hours=number))
            store.finish_run(store.create_run(record), state, end=end)
        page = FlowsPage(Library(lambda: store))
        rows = {row.split("<")[0]: row for row in page._table.text.split('">')}
        text = page._table.text
        assert rows.keys() >= {"on", "resting", "code", "by hand"}
    assert re.search(r"<td>\d{4}-\d\d-\d\d 06:00:00 JST</td>", text)
    assert text.count("JST") == 1
    assert "<td>paused</td>" in text
    assert "only code knows the times of this schedule" in text
    assert "<td>2 of 3</td>" in text
    told = "2 successful runs took 5.0 s to 15.0 s, half of them at most 10.0 s; the last took 15.0 s"
    assert f'role="img" aria-label="{told}"' in text


def test_a_trend_is_a_line_of_successful_runs_from_the_oldest_to_the_newest():
    def record(number: int, state: str, took: float) -> RunRecord:
        start = NOON + timedelta(hours=number)
        return RunRecord(f"{number}", "etl", start, state=state, end=start + timedelta(seconds=took))

    assert duration_trend([]) == ""
    assert duration_trend([record(1, "Failed", 3)]) == ""
    assert "polyline" not in duration_trend([record(1, "Success", 3)])
    line = duration_trend([record(3, "Success", 2), record(2, "Failed", 9), record(1, "Success", 4)])
    assert 'points="0.0,1.0 80.0,10.0"' in line
    assert "polyline" in duration_trend([record(2, "Success", 0), record(1, "Success", 0)])


def test_code_is_told_apart_by_when_it_ran_and_how_that_went():
    def record(number: int, version: str, state: str) -> RunRecord:
        return RunRecord(f"{number}", "etl", NOON + timedelta(days=number), version, state)

    text = version_table([record(3, "new", "Failed"), record(2, "old", "Success"), record(1, "old", "Success")])
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", text)]
    assert [(row[0], row[3], row[4]) for row in rows] == [
        ("<code>new</code>", "1", "0"),
        ("<code>old</code>", "2", "2"),
    ]
    assert version_table([record(1, "", "Success")]) == ""


def test_runs_of_changed_code_have_another_version():
    def run(value: int) -> str:
        with Flow("versioned") as flow:
            task(lambda x: x + value, name="add")(Parameter("x", default=1))
        store = current_store()
        assert store is not None
        return store.get_run(flow.run().run_id).flow_version

    assert len({run(1), run(1), run(2)}) == 2


def test_what_is_registered_of_a_flow_is_told_with_its_next_times():
    schedule = CronSchedule("0 6 * * *", timezone="Europe/Berlin", overlap="queue")
    record = FlowRecord(
        "etl", "code", source="etl.py:flow", schedule=pack_schedule(schedule), max_runs=3, version=12,
        changed=NOON, schedule_text=f"{schedule.describe()} [0123abcd]", overlap="queue",
        labels=("eu",), project="<b>sales</b>",
    )  # fmt: skip
    text = registration(record, NOON)
    assert "12 (registered 2026-01-01 12:00:00 UTC)" in text
    assert "2026-01-02 06:00:00 CET, 2026-01-03 06:00:00 CET" in text
    assert "[0123abcd]" not in text
    assert "&lt;b&gt;sales&lt;/b&gt;" in text
    assert "queue" in text
    assert "none while the schedule is paused" in registration(
        FlowRecord("etl", "code", schedule_text="daily", paused=True), NOON
    )


def test_registered_flows_are_found_and_paged():
    with InMemoryRunStore() as store:
        flows = FlowTable(store.database)
        names = [*(f"flow-{number:03}" for number in range(60)), *CORPUS]
        for name in names:
            flows.put(FlowRecord(name, "code", project="p<i>"), now=NOON)
        page = FlowsPage(Library(lambda: store))
        assert f"{len(set(names)):,} flows" in page._table.text
        library = Library(lambda: store)
        found = FlowsPage(library, Search("FLOW-0"))
        assert found._table.text.count("<tr>") == 26
        found = FlowsPage(library, Search("FLOW-0", page=9))  # the last there is
        assert 'rel="next"' not in found._table.text
        assert found._table.text.count("<tr>") == 11
        for number in range(1, 10):
            assert "<script" not in FlowsPage(library, Search(page=number))._table.text
        flows.remove("flow-000")
        page.update()
        assert f"{len(set(names)) - 1:,} flows" in page._table.text


def test_a_file_that_cannot_be_registered_is_told_of_as_long_as_that_is_so():
    with InMemoryRunStore() as store:
        broken = {"/srv/etl.py": "SyntaxError: <no>"}
        page = FlowsPage(Library(lambda: store, broken=lambda: broken))
        told = "/srv/etl.py cannot be registered, and its flows stay registered as they were: SyntaxError: &lt;no&gt;"
        assert told in page._table.text
        broken.clear()
        page.update()
        assert "etl.py" not in page._table.text


# Why ------------------------------------------------------------------------------------------------------------------


@task
def fails() -> None:
    raise ValueError("<b>no</b>")


@task
def left_out(x: object) -> None:
    raise signals.SKIP("not today")


@task
def waits(x: object) -> None:
    pass


def test_why_tasks_have_not_ended_well_is_told_unasked():
    # given
    with Flow("why") as flow:
        waits(fails())
        left_out(Parameter("x", default=1))
    run = flow.run()
    store = current_store()
    assert store is not None
    library = Library(current_store)
    _, model = read_model(store, run.run_id)
    model.take(Noticed(0.0, "no worker has room for <i>parse</i>"))
    box = ReasonsBox(lambda: model, lambda name: library.explain(run.run_id, name))
    # when
    box.answer()
    # then
    text = box._told.text
    assert "it ended as Failed" in text
    assert "it did not run, as its trigger did not allow it" in text
    assert "it was skipped: not today" in text
    assert "no worker has room for &lt;i&gt;parse&lt;/i&gt;" in text
    assert "<b>no</b>" not in text
    assert "has no task" not in text
    # when
    box._name.value = "nosuch"
    # then
    assert f"run {run.run_id} has no task &#x27;nosuch&#x27;" in box._told.text


def test_why_is_told_to_be_unknown_where_nothing_is_recorded():
    library = Library(lambda: None)
    model = PageModel()
    box = ReasonsBox(lambda: model, lambda name: library.explain("run", name))
    box.answer()
    assert "every task has ended well" in box._told.text
    box._name.value = "one"
    assert "no runs are recorded, so the state of a task cannot be explained" in box._told.text


# What a service lets people do ----------------------------------------------------------------------------------------


class Desk:
    """A service's, with a form for everything."""

    def standing(self, run_id: str) -> str | None:
        return "it waits for <its> turn" if run_id == "later" else None

    def run_links(self, run_id: str, state: str, role: str) -> list[tuple[str, str]]:
        return [(f"do/{state}/{role}", f"{role} of {state}")]

    def flow_links(self, name: str, role: str, *, paused: bool | None) -> list[tuple[str, str]]:
        return [(f"do/{name}", f"{role} of {paused}")]

    def counts(self) -> str:
        return "3 wait to begin"


def document(store: InMemoryRunStore, path: str, role: str = "operator", **arguments: str) -> Document:
    """A page as a browser gets it from a service."""
    doc = Document()
    given = {name: [value.encode()] for name, value in arguments.items()}
    session = SimpleNamespace(connection_count=1, with_document_locked=lambda update: update())
    context = SimpleNamespace(request=SimpleNamespace(arguments=given), token_payload={"role": role}, session=session)
    doc._session_context = lambda: context
    applications(Library(lambda: store, desk=Desk()))[path].initialize_document(doc)
    return doc


def texts(doc: Document) -> str:
    return "".join(each.text for each in doc.select({"type": Div}))


def test_a_page_of_a_service_has_no_button_that_does_anything_to_a_run(many: InMemoryRunStore):
    # given: whoever sees a page can click its buttons, hidden ones too, by a message of his own
    doc = document(many, "/run", "viewer", id="run-00007", said="resume")
    # They choose what is shown, in the browser.
    views = {"Overview", "Workers", "Tasks", "Artifacts", "Logs", "Parameters"}
    assert {each.label for each in doc.select({"type": Button})} - views == {"Why?"}
    assert {each.label for each in doc.select({"type": Button}) if each._event_callbacks} == {"Why?"}
    assert "viewer of Failed" in texts(doc)
    assert "The run waits to go on." in texts(doc)
    # and a page without a service has them
    doc = Document()
    given = SimpleNamespace(arguments={"id": [b"run-00007"]})
    doc._session_context = lambda: SimpleNamespace(request=given, token_payload={})
    applications(Library(lambda: many))["/run"].initialize_document(doc)
    assert {each.label for each in doc.select({"type": Button})} - views == {"Why?", "Cancel the run", "Resume"}


def test_a_word_in_the_address_puts_no_text_of_somebody_elses_on_a_page(many: InMemoryRunStore):
    assert "<script" not in texts(document(many, "/run", id="run-00001", said="<script>"))


def test_a_run_that_has_not_begun_is_told_of_and_turns_into_its_page():
    with InMemoryRunStore() as store:
        # given
        doc = document(store, "/run", id="later")
        assert "it waits for &lt;its&gt; turn" in texts(doc)
        assert "operator of Waiting" in texts(doc)
        assert "there is no run" not in texts(doc)
        # when
        store.create_run(RunRecord("later", "etl", NOON))
        (callback,) = doc.session_callbacks
        asyncio.run(callback.callback())
        # then
        assert "operator of Running" in texts(doc)
        assert "it waits" not in texts(doc)
        # and one that nobody knows is said to be none
        assert "no run" in texts(document(store, "/run", id="nosuch"))


def test_lists_tell_what_waits_and_what_can_be_done(many: InMemoryRunStore):
    assert "3 wait to begin" in texts(document(many, "/"))
    FlowTable(many.database).put(FlowRecord("flow-1", "code", schedule_text="daily", paused=True), now=NOON)
    assert "viewer of True" in texts(document(many, "/flow", "viewer", name="flow-1"))
    assert "viewer of" not in texts(document(many, "/flow", "viewer", name="flow-2"))


# Log lines ------------------------------------------------------------------------------------------------------------


def test_log_lines_are_asked_for_by_level_task_and_text():
    # given
    asked, shown = [], []

    def ask(query: LogQuery) -> list[LogRow]:
        asked.append(query)
        return [LogRow(0, NOON, 30, "boom", "parse", 7)] if query.after is None else []

    box = LogsBox("r/1", ask, lambda: shown.append(box.rows()))
    assert [row.text for row in box.rows()] == ["boom"]
    # when
    box._task.value = "parse[7]"
    box._level.value = "warning"
    box._words.value = " boom "
    # then
    every = LogQuery()
    assert asked == [
        every,
        every,
        LogQuery("parse", 7),
        every,
        LogQuery("parse", 7, 30),
        every,
        LogQuery("parse", 7, 30, "boom"),
    ]
    assert [[row.text for row in rows] for rows in shown] == [["boom"]] * 3
    assert 'href="log?id=r%2F1"' in box.root.children[1].text


def test_lines_that_have_been_looked_through_are_not_looked_through_again():
    # given a run with two lines
    store = InMemoryRunStore()
    ownership = store.create_run(RunRecord("r", "flow", NOON), now=NOON)
    asked: list[LogQuery] = []

    def log(*texts: str) -> None:
        rows = [LogRow(len(store.logs("r")) + i, NOON, 20, text) for i, text in enumerate(texts)]
        store.write(ownership, Batch(logs=rows))

    def ask(query: LogQuery) -> list[LogRow]:
        asked.append(query)
        return store.last_logs("r", query, limit=LOG_LINES)

    log("a needle", "hay")
    box = LogsBox("r", ask, lambda: None)
    box._words.value = "needle"
    assert [row.text for row in box.rows()] == ["a needle"]
    # when more comes, and after that nothing
    log("hay", "needle two", "hay")
    found = box.rows()
    asked.clear()
    assert box.rows() == found
    # then what was found stays, what has come is found, and only what would have come is asked for
    assert [row.text for row in found] == ["a needle", "needle two"]
    assert asked == [LogQuery(after=(1, 4))]
    # and no more lines are kept than are shown
    log(*["needle"] * (LOG_LINES + 7))
    assert len(box.rows()) == LOG_LINES


# Two runs -------------------------------------------------------------------------------------------------------------


def test_two_runs_are_compared_and_a_run_knows_the_one_before_it():
    # given
    with Flow("compared") as flow:
        fails()
    first, second = flow.run(), flow.run()
    library = Library(current_store)
    # when
    page = DiffPage(library, first.run_id, second.run_id)
    # then
    (div,) = page.root.children
    assert ids(div.text) == [first.run_id, second.run_id]
    store = current_store()
    assert store is not None
    _, model = read_model(store, second.run_id)
    assert library.before(model) == first.run_id
    _, model = read_model(store, first.run_id)
    assert library.before(model) == ""
    with pytest.raises(RunNotFound):
        DiffPage(library, first.run_id, "nosuch")
    with pytest.raises(PagesError, match="no runs are recorded, so none can be compared"):
        DiffPage(Library(lambda: None), "a", "b")


def test_differences_are_tables_by_kind_and_text():
    found = [Difference("code", "a", "1", "2"), *(Difference("states", f"<b>{i}", "", "x") for i in range(103))]
    html = difference_tables(found)
    assert re.findall("<h2>(.*?)</h2>", html) == ["code", "states"]
    assert html.count("<tr><td>") == 101
    assert "and 3 more" in html
    assert "<b>" not in html
    assert "nothing that is recorded differs" in difference_tables([])
    assert diff_address("a/b", "c&d") == "diff?a=a%2Fb&b=c%26d"

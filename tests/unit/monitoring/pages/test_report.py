"""The report: one file that needs nothing else, of a size to be sent, in which names are nothing but names."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.hostile_names import CONTROL, CORPUS

from anabranch import Flow, Parameter, task
from anabranch.base.events import RunFinished, RunStarted, UnitEnded
from anabranch.base.states import Attempt
from anabranch.errors import ReportError
from anabranch.executors import LocalExecutor
from anabranch.monitoring.pages.failure_groups import FailureGroups
from anabranch.monitoring.pages.page_model import MAX_RETRIED, PageModel, PageNode
from anabranch.monitoring.pages.recorded_run import read_model
from anabranch.monitoring.pages.report import report_html, write_report
from anabranch.monitoring.pages.tasks_table import task_table
from anabranch.monitoring.pages.texts import (
    attempt_table,
    failure_body,
    further,
    log_table,
    parameter_table,
    status,
    title,
)
from anabranch.monitoring.pages.verdict import verdict
from anabranch.monitoring.pages.workers_figure import render_workers
from anabranch.runs import LogRow, RunStore
from anabranch.runs.store.opening import current_store
from anabranch.states import Failed, Failure, Running

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@task
def numbers(n: int) -> range:
    return range(n)


@task
def parse(x: int) -> int:
    if x % 300_000 == 7:
        raise ValueError(f"<script>window.hacked=1</script> {x}")
    return x


def store() -> RunStore:
    found = current_store()
    assert found is not None
    return found


def test_the_report_of_a_million_elements_is_below_five_megabytes(tmp_path: Path):
    # given
    with Flow("wide") as flow:
        parse.map(numbers(Parameter("n")))
    run = flow.run(n=1_000_000, executor=LocalExecutor())
    # when
    file = write_report(store(), run.run_id, tmp_path / "run.html")
    # then
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < 5_000_000
    assert "999,996 Success" in text
    assert "4 Failed" in text
    assert (file.stat().st_mode & 0o777) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["run.html"]


def test_a_report_asks_for_nothing_from_elsewhere(tmp_path: Path):
    # given
    with Flow("small") as flow:
        parse.map(numbers(Parameter("n", default=3)))
    run = flow.run()
    # when
    text = write_report(store(), run.run_id, tmp_path / "run.html").read_text(encoding="utf-8")
    # then
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*[\"']?(?:https?:)?//", text)
    assert not re.findall(r"@import|url\(\s*[\"']?https?:", text.replace("http://www.w3.org", ""))


def test_a_run_that_is_not_there_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(Exception, match="'nosuchrun'"):
        write_report(store(), "nosuchrun", tmp_path / "run.html")
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    with Flow("small") as flow:
        numbers(3)
    run = flow.run()
    with pytest.raises(ReportError, match=r"cannot be written to .*nowhere"):
        write_report(store(), run.run_id, tmp_path / "nowhere" / "run.html")
    (tmp_path / "there").mkdir()
    with pytest.raises(ReportError, match="cannot be written"):
        write_report(store(), run.run_id, tmp_path / "there")
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("text", [*CORPUS, *CONTROL])
def test_texts_of_users_are_text_in_every_part_of_a_page(text: str):
    # given
    model = PageModel()
    model.flow_name, model.run_id = text, text
    model.parameters = {text: text}
    model.nodes[text] = PageNode(text)
    model.nodes[text].change(Running(start_time=NOON, worker=text), 0.0)
    model.attempts = {text: (Attempt(1, text, text, text, NOON, NOON),)}
    line = LogRow(0, datetime.now(UTC), 40, text, slug=text, index=1, worker=text)
    # when
    parts = [
        title(model, [("http://127.0.0.1/", text)]),
        status(model),
        log_table([line]),
        parameter_table(model.parameters),
    ]
    parts += [task_table(model), attempt_table(model), verdict(model)]
    parts += [render_workers(model)]
    model.take(RunFinished(1.0, Failed()))
    model.failures.note(text, 1, Failed(failure=Failure(text, text, inputs={text: text}, line=text)), worker=text)
    parts += [verdict(model, lines_of=lambda slug, index: [line]), further(model)]
    # then
    for part in parts:
        assert not re.findall(r"<(?:script|img|svg|iframe|style|b>bold|!--)", part)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\u202e]", part)


def test_a_run_that_has_ended_has_the_commands_to_look_further():
    # given
    model = PageModel()
    model.take(RunStarted(1.0, "etl", "r1", {"parse": "task"}))
    assert further(model) == ""
    # when
    failed = Failed(failure=Failure("ValueError", "no"), map_index=3)
    model.take(UnitEnded(2.0, "w", 1.0, 1.0, indices=(3,), codes={"parse": b"\x14"}, records={"parse": {3: failed}}))
    model.take(RunFinished(3.0, Failed()))
    # then
    commands = re.findall("<code>(.*?)</code>", further(model))
    assert commands == [
        "anabranch show r1",
        "anabranch report r1",
        "anabranch resume r1",
    ]


def test_each_attempt_is_a_row_with_its_worker_times_and_reason():
    # given
    model = PageModel()
    assert attempt_table(model) == ""
    model.attempts = {"parse[7]": (Attempt(2, "TimedOut", "too long", "w1", NOON, NOON + timedelta(seconds=1.5)),)}
    # when
    cells = re.findall(r"<td[^>]*>(.*?)</td>", attempt_table(model))
    # then
    times = [f"{time.astimezone():%H:%M:%S}" for time in (NOON, NOON + timedelta(seconds=1))]
    assert cells == ["parse[7]", "2", "TimedOut", "w1", f"{times[0]}.000", f"{times[1]}.500", "too long"]
    assert "of the first" not in attempt_table(model)
    model.attempts = {f"parse[{i}]": (Attempt(1, "Failed", "no"),) for i in range(MAX_RETRIED)}
    assert f"of the first {MAX_RETRIED} task runs" in attempt_table(model)


def test_a_failure_tells_its_times_and_the_attempts_before_it():
    # given
    groups = FailureGroups()
    before = Attempt(1, "Failed", "OSError: down", "w1", NOON, NOON + timedelta(seconds=2))
    state = Failed(
        failure=Failure("OSError", "down"), attempt=2, worker="w2", start_time=NOON, end_time=NOON, attempts=(before,)
    )
    groups.note("parse", 7, state)
    # when
    body = failure_body(groups.ordered()[0])
    # then
    at = f"{NOON.astimezone():%H:%M:%S}.000"
    assert f"<b>parse[7]</b> Failed, attempt 2 on w2, {at} to {at}<br>{before}</div>" in body


@pytest.mark.parametrize("text", CORPUS)
def test_hostile_names_do_not_leave_the_json_of_a_report(text: str):
    # given
    @task(name=text)
    def hostile(x: str) -> str:
        raise ValueError(text)

    with Flow(text) as flow:
        hostile(Parameter("p", default=text))
    run = flow.run()
    _, model = read_model(store(), run.run_id)
    # when
    page = report_html(model)
    # then what is outside of scripts has the name in the title at the most, and escaped
    outside = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    assert "hacked=1<" not in outside
    assert "<img" not in outside
    assert "<svg" not in outside
    assert "<b>bold" not in outside
    assert len(re.findall(r"<script\b", page)) == len(re.findall(r"</script>", page))
    assert len(page) < 2_500_000  # with what draws formulas it would be 1.8 MB more


def test_a_traceback_is_told_once_for_all_that_failed_on_the_same_way() -> None:
    # given
    groups = FailureGroups()
    for index in range(3):
        text = (
            f'Traceback (most recent call last):\n  File "a.py", line {7 + index // 2}, in parse\nValueError: {index}'
        )
        failure = Failure(
            "ValueError", f"bad {index}", inputs={"x": str(index)}, traceback=text, line="a.py:7 in parse"
        )
        groups.note("parse", index, Failed(failure=failure))
    # when
    body = failure_body(groups.ordered()[0])
    # then the second has its inputs and message only, and the third, which came by another line, all of it
    assert body.count("Traceback") == 2
    assert "x = 1\nbad 1" in body
    assert "line 8, in parse" in body

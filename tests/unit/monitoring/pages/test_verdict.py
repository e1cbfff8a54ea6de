"""The first words of a run's page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from anabranch.base.events import MapAdvanced, RunFinished, RunStarted, TaskChanged, UnitEnded
from anabranch.base.states import Attempt
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.verdict import MAX_RUNNING, left_text, verdict
from anabranch.runs import LogRow
from anabranch.states import Crashed, Failed, Failure, Retrying, Running, Success, TriggerFailed

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TRACEBACK = """Traceback (most recent call last):
  File "/srv/etl.py", line 7, in parse
    return int(text)
ValueError: bad record 3
"""


def begun(*slugs: str) -> PageModel:
    model = PageModel()
    model.take(RunStarted(1_000.0, "etl", "r1", dict.fromkeys(slugs, "task")))
    return model


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html)).strip()


def test_a_run_that_failed_begins_with_what_failed_first_and_how_to_go_there():
    # given a map of which an element failed at its second attempt, others alike, and what was held up
    model = begun("parse", "total")
    model.take(MapAdvanced(1_001.0, "parse", 9, 0, 0, 0))
    for index in (3, 5):
        failure = Failure("ValueError", f"bad record {index}", traceback=TRACEBACK, line="/srv/etl.py:7 in parse",
                          inputs={"text": f"'x{index}'"})  # fmt: skip
        state = Failed(
            failure=failure, map_index=index, attempt=2, attempts=(Attempt(1, "Failed", "OSError: away", "w1"),)
        )
        codes = {"parse": bytes([Failed.code])}
        model.take(
            UnitEnded(1_002.0, "w2", 1_001.0, 1.0, indices=(index,), codes=codes, records={"parse": {index: state}})
        )
    model.take(TaskChanged(1_003.0, "total", TriggerFailed(message="parse failed")))
    model.take(RunFinished(1_004.0, Failed()))
    asked = []

    def lines_of(slug: str, index: int | None) -> list[LogRow]:
        asked.append((slug, index))
        return [LogRow(0, NOON, 20, "reading x3")]

    # when
    html = verdict(model, lines_of=lines_of)
    # then
    told = plain(html)
    assert asked == [("parse", 3)]
    assert "✗ parse[3] failed after 2 attempts on w2 ValueError : bad record 3" in told
    assert "/srv/etl.py:7 in parse return int(text)" in told
    assert "text = &#x27;x3&#x27;" in told
    assert "attempt 1 ended as Failed on w1: OSError: away" in told
    assert "it logged reading x3" in told
    assert "<code>anabranch replay r1 &#x27;parse[3]&#x27; --pdb</code>" in html
    assert "1 more failed alike; held up: total" in told


def test_what_runs_is_listed_until_the_run_has_ended():
    # given more tasks that run than are listed
    model = begun(*(f"t{i}" for i in range(MAX_RUNNING + 2)))
    assert verdict(model) == ""
    for i in range(MAX_RUNNING + 2):
        model.take(TaskChanged(1.0, f"t{i}", Running(worker=f"w{i}")))
    # then
    assert verdict(model).count(" on w") == MAX_RUNNING
    assert "and 2 more tasks" in verdict(model)
    # and a run that ended in the middle has nothing that runs
    model.take(RunFinished(2.0, Crashed()))
    assert verdict(model) == ""


def test_what_is_tried_again_is_told_with_its_time_and_reason():
    model = begun("fetch", "parse")
    due = datetime.now(UTC) + timedelta(seconds=90)
    model.take(TaskChanged(1.0, "fetch", Retrying(message="ConnectionError: away", start_time=due)))
    model.take(MapAdvanced(1.0, "parse", 100, 40, 0, 7))
    assert f"fetch is tried again at {due.astimezone():%H:%M:%S}: ConnectionError: away" in plain(verdict(model))
    assert "parse 7 elements wait for another attempt" in plain(verdict(model))


def test_the_time_left_is_told_by_pace_and_by_earlier_runs():
    # given a map that has done 50 of 100 elements in ten seconds
    model = begun("parse")
    assert left_text(model, ()) == ""
    for second in range(11):
        model.take(MapAdvanced(1_000.0 + second, "parse", 100, 5 * second, 0, 0))
    # then
    assert left_text(model, ()) == "about 10 s for what its maps have left"
    assert left_text(model, (25.0, 30.0, 600.0)).endswith("it usually takes 30 s, so about 20 s left")
    assert left_text(model, (4.0,)).endswith("it usually takes 4 s, so it is 6 s late")


@pytest.mark.parametrize(
    ("earlier", "told"),
    [
        ((), ""),
        ((10.2,), "it took as long as the successful run before"),
        (
            (5.0, 5.0, 6.0),
            "it took 100% longer than the last 3 successful runs (half of them within 5.0 s, longest 6.0 s)",
        ),
        ((20.0, 20.0), "it took 50% shorter than the last 2 successful runs"),
    ],
)
def test_a_run_that_succeeded_is_compared_with_those_before_it(earlier: tuple[float, ...], told: str):
    model = begun("parse")
    model.take(RunFinished(1_010.0, Success()))
    assert plain(verdict(model, earlier=earlier)).startswith(told)

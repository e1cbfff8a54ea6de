"""Log lines on their way from a worker to the driver: in order, in batches, and never more than can be borne."""

from __future__ import annotations

import json
import logging
import pickle
import stat
from pathlib import Path

import pytest

from anabranch.base import known_secrets
from anabranch.base.context import RunInfo, TaskContext
from anabranch.engine.logs.book import LogBook
from anabranch.engine.logs.lines import MAX_LINE, Batch, LogLine, line_of, loads, this_process
from anabranch.engine.logs.outbox import (
    BURST_LINES,
    BURST_NBYTES,
    LINES_PER_S,
    MAX_BATCH_NBYTES,
    Outbox,
    Throttle,
    whole_log_path,
)

TASK = TaskContext(RunInfo("etl", "r1"), "parse", "parse-2", map_index=7, task_run_count=3)


class Clock:
    """A time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def line(text: str, level: int = logging.INFO, slug: str = "parse", index: int | None = None) -> LogLine:
    return LogLine(1.0, level, f"anabranch.task.{slug}", text, slug, index, 1, "w")


def record(text: str, *args: object, **more: object) -> logging.LogRecord:
    return logging.LogRecord("mylib", logging.INFO, "f.py", 1, text, args, None, **more)  # type: ignore[arg-type]


@pytest.fixture
def sent() -> list[Batch]:
    return []


def outbox_to(sent: list[Batch], clock: Clock, whole: Path | None = None) -> Outbox:
    return Outbox(logging.INFO, lambda data: sent.append(loads(data)), worker="w", whole=whole, clock=clock)


# Lines ----------------------------------------------------------------------------------------------------------------


def test_a_line_knows_which_attempt_of_what_it_is_from() -> None:
    found = line_of(record("%s files", 3), TASK, "tcp://w:1")
    assert (found.text, found.logger, found.level) == ("3 files", "mylib", logging.INFO)
    assert (found.slug, found.map_index, found.attempt, found.worker) == ("parse-2", 7, 3, "tcp://w:1")
    assert found.task_run == "parse-2[7]"
    assert loads(Batch(("h", 1), (found,), {"a": 2}).dumps()) == Batch(("h", 1), (found,), {"a": 2})


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (record("%d files", "three"), "its arguments do not fit: TypeError"),
        (record("%s", Unprintable()), "its arguments do not fit: RuntimeError: no"),
        (record("\ud800"), r"\ud800"),
        (record("x" * 100_000), "(100,000 characters)"),
    ],
    ids=["format", "str", "surrogate", "long"],
)
def test_a_record_that_cannot_be_formatted_or_encoded_is_a_line_all_the_same(
    made: logging.LogRecord, text: str
) -> None:
    found = line_of(made, TASK, "w")
    assert text in found.text
    assert len(found.text) <= MAX_LINE
    assert found.text.encode()


def test_lines_have_no_secrets() -> None:
    known_secrets.learn("r1", ["sw0rdfish"])
    try:
        assert line_of(record("token=%s", "sw0rdfish"), TASK, "w").text == "token=***"
    finally:
        known_secrets.forget("r1")


# Batches --------------------------------------------------------------------------------------------------------------


def test_lines_are_sent_in_order_and_together(sent: list[Batch]) -> None:
    outbox = outbox_to(sent, Clock())
    for number in range(100):
        outbox.take(line(str(number)))
    outbox.flush()
    outbox.flush()
    assert len(sent) == 1
    assert [each.text for each in sent[0].lines] == [str(number) for number in range(100)]
    assert sent[0].process == this_process()


def test_a_message_is_never_large(sent: list[Batch]) -> None:
    outbox = outbox_to(sent, Clock())
    for number in range(60):
        outbox.take(line(f"{number}{'x' * 1_900}"))
    outbox.flush()
    assert max(len(batch.dumps()) for batch in sent) < 2 * MAX_BATCH_NBYTES
    assert [each.text.split("x")[0] for batch in sent for each in batch.lines] == [str(n) for n in range(60)]


def test_a_million_lines_are_counted_and_not_sent(sent: list[Batch]) -> None:
    clock = Clock()
    outbox = outbox_to(sent, clock)
    loud = line("working")
    for _ in range(10):
        for _ in range(100_000):
            outbox.take(loud)
        clock.now += 1.0
    outbox.flush()
    lines = sum(len(batch.lines) for batch in sent)
    dropped = sum(sum(batch.dropped.values()) for batch in sent)
    assert lines + dropped == 1_000_000
    assert lines == BURST_LINES + 9 * LINES_PER_S
    assert sum(len(pickle.dumps(batch)) for batch in sent) < 1_000_000


def test_long_lines_are_limited_by_their_size(sent: list[Batch]) -> None:
    outbox = outbox_to(sent, Clock())
    for _ in range(900):
        outbox.take(line("x" * 2_000))
    outbox.flush()
    assert sum(len(each.text) for batch in sent for each in batch.lines) <= BURST_NBYTES
    assert sum(batch.dropped.get("parse", 0) for batch in sent) == 900 - BURST_NBYTES // 2_000


def test_a_warning_gets_through_a_flood(sent: list[Batch]) -> None:
    outbox = outbox_to(sent, Clock())
    for _ in range(50_000):
        outbox.take(line("step"))
    outbox.take(line("disk full", logging.WARNING))
    outbox.flush()
    assert [each.text for batch in sent for each in batch.lines if each.level == logging.WARNING] == ["disk full"]


def test_a_connection_that_has_gone_is_no_error_of_the_task() -> None:
    def fail(data: bytes) -> None:
        raise OSError("gone")

    outbox = Outbox(logging.INFO, fail, worker="w", clock=Clock())
    outbox.take(line("text"))
    outbox.close()


def test_a_throttle_fills_up_again() -> None:
    throttle = Throttle(burst=2, per_s=1)
    assert [throttle.take(1, 0.0) for _ in range(3)] == [True, True, False]
    assert [throttle.take(1, 1.5), throttle.take(1, 1.5)] == [True, False]
    assert [throttle.take(1, 0.0), throttle.take(1, 60.0)] == [False, True]
    assert throttle.take(3, 600.0) is False


# The whole log --------------------------------------------------------------------------------------------------------


def test_the_whole_log_has_every_line_and_none_can_pass_for_two(sent: list[Batch], tmp_path: Path) -> None:
    path = whole_log_path(str(tmp_path), "../r 1")
    assert path is not None
    assert path.parent == tmp_path / "_r_1"
    outbox = outbox_to(sent, Clock(), whole=path)
    for number in range(3_000):
        outbox.take(line(f"{number}\n2026 forged \x1b[31m"))
    outbox.close()
    lines = path.read_text().split("\n")[:-1]
    assert [json.loads(each)["text"].split("\n")[0] for each in lines] == [str(n) for n in range(3_000)]
    assert "\x1b" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert whole_log_path("", "r1") is None


def test_a_file_that_cannot_be_written_is_told_of_once(
    sent: list[Batch], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    outbox = outbox_to(sent, Clock(), whole=tmp_path / "file" / "r.jsonl")
    for _ in range(3):
        outbox.take(line("text"))
    outbox.close()
    assert caplog.text.count("no more lines are written") == 1
    assert len(sent[0].lines) == 3


# The driver's end -----------------------------------------------------------------------------------------------------


def test_a_driver_shows_so_much_a_second_and_says_how_much_more_there_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anabranch.engine.logs.book.BURST_LINES", 5)
    caplog.set_level("INFO")
    book = LogBook(clock=Clock())
    book.take_batch(Batch(("elsewhere", 1), tuple(line(str(n)) for n in range(12))))
    book.take_batch(Batch(("elsewhere", 1), (), {"parse": 1_000}))
    book.close()
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.INFO] == list("01234")
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING] == [
        "(7 more lines came too fast and are not shown; logging.directory keeps them all)",
        "(1,000 more lines came too fast and are not shown; logging.directory keeps them all)",
    ]


def test_a_record_shown_here_has_the_task_run_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    found = line_of(record("text"), TASK, "tcp://w:1")
    LogBook().take_batch(Batch(("elsewhere", 1), (found,)))
    (shown,) = caplog.records
    assert (shown.name, shown.task_run, shown.map_index, shown.attempt, shown.worker) == (  # type: ignore[attr-defined]
        "mylib",
        "parse-2[7]",
        7,
        3,
        "tcp://w:1",
    )


def test_a_link_in_the_place_of_the_whole_log_is_not_followed(sent: list[Batch], tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("")
    (tmp_path / "r.jsonl").symlink_to(tmp_path / "theirs")
    outbox = outbox_to(sent, Clock(), whole=tmp_path / "r.jsonl")
    outbox.take(line("one"))
    outbox.close()
    assert (tmp_path / "theirs").read_text() == ""
    assert [each.text for batch in sent for each in batch.lines] == ["one"]

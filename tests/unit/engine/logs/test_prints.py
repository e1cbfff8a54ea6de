"""What a unit prints, to either stream, also in threads: it goes where its run wants it, and nothing else does."""

from __future__ import annotations

import contextvars
import io
import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from anabranch.base import context
from anabranch.base.context import RunInfo, TaskContext
from anabranch.engine.logs import capture
from anabranch.engine.logs.lines import PRINTED, STDERR, LogLine
from anabranch.engine.logs.prints import captured

TASK = TaskContext(RunInfo("flow", "run-1", {}, datetime.now(UTC)), "speak", "speak", frozenset())


class Told:
    """A sink that keeps lines."""

    level = logging.INFO
    worker = "w"

    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    def take(self, line: LogLine) -> None:
        self.lines.append(line)

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def printed(self, stream: str = "") -> list[str]:
        return [line.text for line in self.lines if line.level == PRINTED and line.logger == stream]

    def logged(self) -> list[str]:
        return [line.text for line in self.lines if line.level != PRINTED]


@pytest.fixture
def told() -> Iterator[Told]:
    sink = Told()
    capture.open_sink("run-1", lambda: sink)
    yield sink
    capture.close_sink("run-1")


def in_threads(*targets) -> None:
    for target in targets:
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()


def test_both_streams_travel(told, capsys):
    with captured([]), context.entered(TASK):
        print("out")
        print("err", file=sys.stderr)
    print("mine")
    assert told.printed() == ["out"]
    assert told.printed(STDERR) == ["err"]
    assert capsys.readouterr().out == "mine\n"


def test_threads_that_a_task_starts_are_heard_as_it_is(told):
    log = logging.getLogger("vendor")

    def speaks():
        print("one", end="")
        in_threads(lambda: (print("two"), log.warning("three")))

    with captured([]), context.entered(TASK):
        in_threads(speaks)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(print, ["four"]))
    assert sorted(told.printed()) == ["four", "one", "two"]
    assert told.logged() == ["three"]
    assert {line.slug for line in told.lines} == {"speak"}


def test_a_thread_may_run_what_is_in_no_module(told):
    with captured([]), context.entered(TASK):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(print, "five"))
        thread.start()
        thread.join()
    assert told.printed() == ["five"]


def test_a_thread_of_nobodys_and_one_of_dasks_pool_are_not_heard(told, capsys):
    from distributed.threadpoolexecutor import ThreadPoolExecutor as DasksPool

    pool = DasksPool(1)
    with captured([]):
        in_threads(lambda: print("nobody's"))
        with context.entered(TASK):
            pool.submit(lambda: print("another task's")).result(timeout=20)
    pool.shutdown()
    assert told.lines == []
    assert capsys.readouterr().out == "nobody's\nanother task's\n"


def test_prints_are_log_records_in_threads_too(told):
    with captured(["speak"]), context.entered(TASK):
        print("here")
        in_threads(lambda: print("there"))
    assert told.logged() == ["here", "there"]


def test_what_a_handler_writes_was_taken_as_a_record(told):
    logger = logging.getLogger("handled")
    with captured([]), context.entered(TASK):
        handler = logging.StreamHandler(sys.stderr)
        logger.addHandler(handler)
        logger.warning("once")
        logger.removeHandler(handler)
    assert (told.logged(), told.printed(STDERR)) == (["once"], [])


def test_of_a_progress_bar_only_how_it_looks_in_the_end_is_shown(told):
    with captured([]), context.entered(TASK):
        for percent in range(0, 101, 10):
            sys.stderr.write(f"\r{percent} %")
        sys.stderr.write("\n")
    assert told.printed(STDERR) == ["100 %"]


def test_the_streams_and_threads_are_given_back_to_the_main_thread():
    before = sys.stdout, sys.stderr, threading.Thread.start
    with captured([]):
        assert not isinstance(sys.stdout, io.StringIO)
    assert (sys.stdout, sys.stderr, threading.Thread.start) == before

"""What tasks log reaches the driver and the run store from every executor, alike."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from anabranch import Flow, config, context, task
from anabranch.cli import anabranch
from anabranch.engine.logs import capture
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.runs import LogRow
from anabranch.runs.store.opening import current_store


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two one-thread worker processes."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as made:
        yield made


@pytest.fixture(
    params=[
        pytest.param("local", id="local"),
        pytest.param("threads", id="threads"),
        pytest.param("dask", id="dask", marks=pytest.mark.cluster),
    ]
)
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each executor."""
    if request.param == "local":
        yield LocalExecutor()
    elif request.param == "threads":
        yield LocalDaskExecutor(num_workers=2)
    else:
        yield DaskExecutor(request.getfixturevalue("cluster").scheduler_address)
    assert not [each for each in logging.root.handlers if type(each).__module__ == capture.__name__]
    assert logging.getLogRecordFactory() is logging.LogRecord


def rows_of(run_id: str) -> list[LogRow]:
    store = current_store()
    assert store is not None
    return store.logs(run_id)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_lines_have_their_task_element_attempt_and_worker_and_are_in_order(
    executor: Any, isolation: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def speak(x: int) -> int:
        for step in range(5):
            context.logger.info("%d: step %d of attempt %d", x, step, context.task_run_count)
        print("printed", x)
        logging.getLogger("some.library").warning("library %d", x)
        context.logger.debug("too much")
        if context.task_run_count == 1 and x == 1:
            raise ConnectionError("again")
        return x

    with Flow("logs") as flow:
        task(speak, name="speak", max_retries=1, isolation=isolation, log_stdout=True).map([0, 1, 2])

    view = flow.run(executor=executor)

    rows = rows_of(view.run_id)
    for index, attempts in ((0, [1]), (1, [1, 2]), (2, [1])):
        own = [row for row in rows if row.index == index]
        assert [row.text for row in own] == [
            text
            for attempt in attempts
            for text in (
                *(f"{index}: step {step} of attempt {attempt}" for step in range(5)),
                f"printed {index}",
                f"some.library: library {index}",
            )
        ]
        assert [row.attempt for row in own] == [attempt for attempt in attempts for _ in range(7)]
    assert {row.slug for row in rows} == {"speak"}
    assert {row.worker.startswith("tcp://") for row in rows} == {isinstance(executor, DaskExecutor)}
    shown = [record.getMessage() for record in caplog.records]
    assert shown.count("1: step 4 of attempt 2") == 1
    assert shown.count("library 2") == 1


def test_lines_come_while_the_task_runs(executor: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    flag = str(tmp_path / "seen")

    def wait() -> bool:
        context.logger.info("I have begun")
        end = time.monotonic() + 20
        while not os.path.exists(flag):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    with Flow("live") as flow:
        node = task(wait, name="wait")()

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "I have begun":
                Path(flag).touch()

    handler = Seen()
    logging.root.addHandler(handler)
    try:
        view = flow.run(executor=executor)
    finally:
        logging.root.removeHandler(handler)

    assert view.result[node].result is True


def test_prints_are_lines_where_the_task_says_so(executor: Any, capfd: pytest.CaptureFixture[str]) -> None:
    def speak(x: int) -> None:
        print("printed", x)
        print("and no end", end="")

    with Flow("prints") as flow:
        task(speak, name="logged", log_stdout=True).map([0, 1])
        task(speak, name="shown")(5)

    view = flow.run(executor=executor)

    rows = rows_of(view.run_id)
    assert sorted(row.text for row in rows if row.text.startswith("printed")) == ["printed 0", "printed 1"]
    assert {(row.slug, row.level) for row in rows} == {("logged", logging.INFO)}
    assert "printed 5\nand no end" in capfd.readouterr().out


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("log_stdout", [False, True])
def test_whatever_a_task_says_is_heard_here(
    executor: Any,
    isolation: str,
    log_stdout: bool,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def speak() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *about: print(message, file=sys.stderr)  # in the place of pytest's
            warnings.warn("swan", stacklevel=1)
        print("heron", file=sys.stderr)
        thread = threading.Thread(target=lambda: (print("robin"), logging.getLogger("vendor").warning("eagle")))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(print, ["raven"]))

    with Flow("voices") as flow:
        task(speak, name="speak", isolation=isolation, log_stdout=log_stdout)()

    view = flow.run(executor=executor)

    out, err = capfd.readouterr()
    said = f"{out}{err}{caplog.text}{rows_of(view.run_id)}"
    assert [bird for bird in ("swan", "heron", "robin", "eagle", "raven") if bird not in said] == []


def test_the_level_is_chosen_where_the_run_begins(executor: Any) -> None:
    def speak() -> None:
        context.logger.debug("small")
        context.logger.info("usual")
        context.logger.error("large")

    with Flow("levels") as flow:
        task(speak, name="speak")()

    texts = {}
    for level in ("DEBUG", "ERROR"):
        with config.set(logging__level=level):
            texts[level] = [row.text for row in rows_of(flow.run(executor=executor).run_id)]

    assert texts == {"DEBUG": ["small", "usual", "large"], "ERROR": ["large"]}


def test_a_flood_is_counted_kept_in_a_file_and_hurts_nobody(
    executor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, few in (("BURST_LINES", 2_000), ("LINES_PER_S", 10)):
        monkeypatch.setattr(f"anabranch.engine.logs.book.{name}", few)
    count = 30_000

    def flood() -> str:
        for number in range(count):
            context.logger.info("line %d", number)
        return "done"

    with Flow("flood") as flow:
        node = task(flood, name="flood")()
        task(lambda: context.logger.info("I am here, too"), name="quiet")(upstream_tasks=[node])

    with config.set(logging__directory=str(tmp_path)):
        view = flow.run(executor=executor)

    assert view.result[node].result == "done"
    rows = rows_of(view.run_id)
    counts = [row for row in rows if "more lines came too fast" in row.text]
    dropped = sum(int(row.text.split()[0].strip("(").replace(",", "")) for row in counts)
    lines = [row for row in rows if row.text.startswith("line ")]
    assert len(lines) + dropped in (count, count + 1)  # the one of the quiet task may have come too soon after it
    assert 0 < len(lines) < 15_000
    assert [row.text for row in lines[:3]] == ["line 0", "line 1", "line 2"]
    assert {row.level for row in counts} == {logging.WARNING}
    files = list((tmp_path / view.run_id).glob("*.jsonl"))
    kept = [json.loads(text)["text"] for each in files for text in each.read_text().splitlines()]
    assert [text for text in kept if text.startswith("line")] == [f"line {n}" for n in range(count)]


@pytest.mark.cluster
def test_a_scheduler_keeps_little_of_a_flood_and_nothing_after_the_run(cluster: Any) -> None:
    from distributed import Client
    from distributed.sizeof import sizeof

    def flood(x: int) -> int:
        for _ in range(20_000):
            context.logger.info("a line of some length that says what a task is doing at the moment")
        return x

    with Flow("flood") as flow:
        node = task(flood, name="flood").map(range(4))
    seen: dict[str, int] = {}

    with Client(cluster, set_as_default=False) as client:

        def look(event: object) -> None:
            topics = client.run_on_scheduler(
                lambda dask_scheduler: {
                    name: sum(len(event[1]) for event in topic.events if isinstance(event[1], bytes))
                    for name, topic in dask_scheduler._broker._topics.items()
                    if name.endswith("-logs")
                }
            )
            seen.update(topics)

        view = flow.run(executor=DaskExecutor(cluster.scheduler_address), observers=[look])
        left = client.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler._broker._topics])

    assert view.result[node].result == [0, 1, 2, 3]
    assert seen
    assert max(seen.values()) < 2_000_000
    assert not [name for name in left if name.startswith(view.run_id)]
    assert sizeof(rows_of(view.run_id)) < 10_000_000


def test_the_terminal_shows_who_says_it_and_no_text_can_forge_a_line(tmp_path: Path) -> None:
    script = tmp_path / "hostile.py"
    script.write_text(
        "from anabranch import *\n"
        "import logging\n"
        "@task(max_retries=1)\n"
        "def speak(x):\n"
        "    context.logger.info('red \\x1b[31m\\x07 bell\\n2026-01-01 00:00:00,000 INFO  parse: forged\\rover')\n"
        "    logging.getLogger('lib').info('from below')\n"
        "    if context.task_run_count == 1: raise ValueError\n"
        "with Flow('hostile') as flow:\n"
        "    speak.map([0])\n"
        "flow.run()\n"
    )

    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)

    lines = done.stderr.splitlines()
    assert done.returncode == 0
    assert len(lines) == 6
    assert lines[0].endswith(r"INFO     speak[0]: red \x1b[31m\x07 bell")
    assert lines[1] == r"    2026-01-01 00:00:00,000 INFO  parse: forged\rover"
    assert lines[2].endswith("INFO     speak[0] lib: from below")
    assert lines[3].endswith(r"INFO     speak[0] (attempt 2): red \x1b[31m\x07 bell")
    assert "\x1b" not in done.stderr


def test_logging_is_left_as_it_was_and_other_records_go_where_they_went(caplog: pytest.LogCaptureFixture) -> None:
    levels = logging.root.level, logging.getLogger("anabranch.task").level
    elsewhere = threading.Thread(target=lambda: logging.getLogger("elsewhere").error("not of a task"))

    def speak() -> None:
        elsewhere.start()
        elsewhere.join()
        context.logger.info("of a task")

    with Flow("logs") as flow:
        task(speak, name="speak")()
    view = flow.run()

    assert [row.text for row in rows_of(view.run_id)] == ["of a task"]
    assert "not of a task" in caplog.text
    assert (logging.root.level, logging.getLogger("anabranch.task").level) == levels


# The command line -----------------------------------------------------------------------------------------------------


def cli(*arguments: str) -> Any:
    return CliRunner().invoke(anabranch, list(arguments))


def test_logs_are_shown_by_task_element_and_level() -> None:
    def speak(x: int) -> None:
        context.logger.info("usual %d", x)
        context.logger.warning("odd %d\nsecond line \x1b[0m", x)

    with Flow("shown") as flow:
        task(speak, name="speak").map([0, 1])
        task(speak, name="other")(5)
    run = flow.run().run_id

    assert cli("logs", run).stdout.count("usual") == 3
    assert cli("logs", run[:8], "speak").stdout.count("usual") == 2
    own = cli("logs", run, "speak[1]", "--level", "warning").stdout.splitlines()
    assert len(own) == 2
    assert own[0].endswith("WARNING  speak[1]: odd 1")
    assert own[1] == r"    second line \x1b[0m"
    data = [json.loads(text) for text in cli("logs", run, "other", "--json").stdout.splitlines()]
    assert [(each["task"], each["element"], each["level"]) for each in data] == [
        ("other", None, "INFO"),
        ("other", None, "WARNING"),
    ]
    wrong = cli("logs", run, "speek")
    assert wrong.exit_code == 2
    assert "has no task 'speek'; it has: 'speak', 'other'; did you mean 'speak'?" in wrong.stderr
    silent = cli("logs", run, "--level", "critical")
    assert (silent.exit_code, silent.stdout) == (0, "")
    assert "logged nothing at this level" in silent.stderr
    assert cli("logs", "nosuchrun").exit_code == 2


def test_follow_shows_lines_as_they_come_and_ends_with_the_run(tmp_path: Path) -> None:
    flag = tmp_path / "go"

    def speak() -> None:
        context.logger.info("first")
        end = time.monotonic() + 60
        while not flag.exists() and time.monotonic() < end:
            time.sleep(0.01)
        context.logger.info("last")

    with Flow("followed") as flow:
        task(speak, name="speak")()
    run_id = f"followed-{os.getpid()}-{id(flow)}"
    run = threading.Thread(target=flow.run, kwargs={"run_id": run_id})
    run.start()
    store = current_store()
    assert store is not None
    while not store.list_runs() or store.list_runs()[0].run_id != run_id:
        time.sleep(0.01)
    follow = [sys.executable, "-m", "anabranch", "logs", run_id, "--follow"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        first = follower.stdout.readline()
        flag.touch()
        rest = follower.stdout.read()
    run.join()

    assert follower.returncode == 0
    assert first.endswith("INFO     speak: first\n")
    assert rest.endswith("INFO     speak: last\n")


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_what_packages_say_by_the_way_is_not_heard_unless_somebody_asked(
    executor: Any, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a script, which has no logging of its own

    def call() -> None:
        lines = "logger.info('%s by the way', name); logger.warning('%s warns', name)"
        say = compile(lines, "/x/site-packages/library.py", "exec")
        logging.getLogger("asked").setLevel(logging.INFO)
        for name in ("library", "library.part", "asked", "asked.part"):
            exec(say, {"logger": logging.getLogger(name), "name": name})
        logging.getLogger("my.own").info("my own")
        logging.getLogger().info("by the root")

    with Flow("chatter") as flow:
        task(call, name="call", isolation=isolation)()
    try:
        view = flow.run(executor=executor)
    finally:
        logging.getLogger("asked").setLevel(logging.NOTSET)
    assert view.is_successful()
    assert [row.text for row in rows_of(view.run_id)] == [
        "library: library warns",
        "library.part: library.part warns",
        "asked: asked by the way",
        "asked: asked warns",
        "asked.part: asked.part by the way",
        "asked.part: asked.part warns",
        "my.own: my own",
        "root: by the root",
    ]


def test_what_tasks_show_is_on_record_by_attempt_from_wherever_they_run(executor: Any) -> None:
    # given elements of which one is tried again, and a task in a process of its own
    @task(max_retries=1, retry_delay=0)
    def train(n: int) -> int:
        for step in range(1_000):
            context.artifact.metric("loss", n + 1 / (step + 1), step)
        context.artifact.progress(n, 10)
        if n == 2 and context.task_run_count == 1:
            raise ValueError("again")
        return n

    @task(isolation="process")
    def apart(ns: list[int]) -> None:
        for n in range(500):
            context.artifact.metric("rows", n)
        context.artifact.markdown("# done")

    with Flow("showing") as flow:
        apart(train.map([0, 1, 2, 3]))
    # when
    run_id = flow.run(executor=executor).run_id
    # then
    store = current_store()
    assert store is not None
    rows = store.artifacts(run_id)
    assert [(row.slug, row.index, row.attempt, row.kind) for row in rows] == [
        ("apart", None, 1, "metric"),
        ("apart", None, 1, "markdown"),
        *(("train", n, attempt, kind) for n, attempt in [(0, 1), (1, 1), (2, 1), (2, 2), (3, 1)] for kind in KINDS),
    ]
    last = {
        (row.slug, row.index, row.attempt): json.loads(row.body)["points"][-1] for row in rows if row.kind == "metric"
    }
    assert last["train", 2, 2] == [999.0, 2.001]
    assert last["apart", None, 1] == [499.0, 499.0]
    # and show tells it
    shown = CliRunner().invoke(anabranch, ["show", run_id]).output
    assert "train: loss of 4 elements: 0.001 to 3.001, half at most 1.001" in shown
    assert "train: progress 6 of 40 of 4 elements" in shown


KINDS = ("metric", "progress")

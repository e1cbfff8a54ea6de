"""Calls in child processes: whatever a task does there, the call ends, says why, and leaves nothing behind."""

from __future__ import annotations

import bz2
import ctypes
import logging
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from tests.cells import run_cell

import anabranch
from anabranch import LOOP, RETRY, SKIP, config, context
from anabranch.base.context import RunInfo, TaskContext
from anabranch.engine.isolation import calling
from anabranch.engine.isolation.calling import call_in_process, kill_all
from anabranch.engine.isolation.devices import NOTHING, WHOLE, Share
from anabranch.engine.isolation.pool import Pool
from anabranch.engine.units.failures import describe
from anabranch.errors import CodeNotLoadable, ProcessDied, TaskFailure, TaskTimeout, UnstorableValueError
from anabranch.signals import CANCEL

RUN = RunInfo("etl", "run-1", {"limit": 3})
HANGS_S = 600  # what hangs, hangs longer than any test


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[psutil.Process]]]:
    """Each test leaves no process; gives a function that finds those of the test."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("ANABRANCH_TEST_MARK", mark)

    def found() -> list[psutil.Process]:
        ours = []
        for each in psutil.process_iter():
            try:
                if each.environ().get("ANABRANCH_TEST_MARK") == mark and each.pid != os.getpid():
                    ours.append(each)
            except (psutil.Error, OSError):
                continue
        return ours

    yield found
    calling._POOL.close()
    assert not left_of(found())


def left_of(those: list[psutil.Process], timeout_s: float = 10) -> list[psutil.Process]:
    """Processes that do not end in time; one whose parent does not care that it has ended has ended."""
    end, left = time.monotonic() + timeout_s, []
    for each in those:
        try:
            descriptor = os.pidfd_open(each.pid)
        except ProcessLookupError:
            continue
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            left.append(each)
        os.close(descriptor)
    return left


def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return call_in_process(function, args, {}, context=TaskContext(RUN, "parse", "parse"), **options)


def pid() -> int:
    return os.getpid()


def constant(n: int) -> Callable[[], int]:
    return lambda: n


# Values ---------------------------------------------------------------------------------------------------------------


def test_arguments_go_over_and_the_value_comes_back():
    def add(x: int, *, y: list[int]) -> list[int]:
        return [x, *y]

    about = TaskContext(RUN, "add", "add")

    assert call_in_process(add, [1], {"y": [2, 3]}, context=about) == [1, 2, 3]


def test_large_arrays_come_back_writable():
    values = np.arange(1_000_000)

    def negative(x: Any) -> Any:
        x *= -1
        return x

    result = call(negative, values)

    assert result.flags.writeable
    assert np.array_equal(result, -values)
    assert values[1] == 1


def test_an_iterator_is_read_where_it_was_made():
    def numbers() -> Iterator[int]:
        yield from range(3)

    assert call(numbers) == [0, 1, 2]


def test_attempts_see_their_context():
    def seen() -> tuple[Any, ...]:
        return (context.map_index, context.task_run_count, context.parameters, context.flow_name, context.run_id,
                context.task_loop_result, context.tags, context.logger.name)  # fmt: skip

    about = TaskContext(RUN, "parse", "parse-2", frozenset({"io"}), map_index=7, task_run_count=2)
    about.task_loop_result = [1]

    assert call_in_process(seen, [], {}, context=about) == (
        7, 2, {"limit": 3}, "etl", "run-1", [1], frozenset({"io"}), "anabranch.task.parse",
    )  # fmt: skip


def test_a_parameter_that_does_not_pickle_is_missing_there_and_the_others_are_not():
    run = RunInfo("etl", "run-2", {"limit": 3, "lock": threading.Lock()})

    there = call_in_process(lambda: dict(context.parameters), [], {}, context=TaskContext(run, "t", "t"))

    assert there == {"limit": 3}


# Children -------------------------------------------------------------------------------------------------------------


def test_a_child_is_used_again_and_keeps_what_it_has_loaded():
    def count(state: list[int] = []) -> int:  # noqa: B006  # what it is there to show
        state.append(1)
        return len(state)

    assert call(pid) == call(pid) != os.getpid()
    assert [call(count), call(count)] == [1, 2]


def test_threads_that_ask_at_once_get_a_child_each():
    meeting = threading.Barrier(2)

    def both(_: int) -> int:
        meeting.wait()
        return int(call(lambda: (time.sleep(0.2), os.getpid())[1]))

    with ThreadPoolExecutor(2) as threads:
        pids = set(threads.map(both, range(2)))

    assert len(pids) == 2
    assert call(pid) in pids


def test_a_child_outlives_the_thread_that_asked_for_it():
    pids = []
    thread = threading.Thread(target=lambda: pids.append(call(pid)))
    thread.start()
    thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):  # Linux tells children of this end, not of a join
        os.sched_yield()

    assert call(pid) == pids[0]


def test_a_child_that_was_killed_while_idle_is_replaced():
    first = call(pid)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)

    assert call(pid) != first


def test_idle_children_are_ended():
    pool = Pool(lambda: sys.path, idle_s=0.05)
    child = pool.lease(RUN)
    process = psutil.Process(child.pid)

    assert not pool.give_back(child)

    assert not left_of([process])
    pool.close()


def test_each_attempt_finds_the_surroundings_of_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def seen() -> tuple[str, str | None, bool, str]:
        return os.getcwd(), os.environ.get("COLOUR"), "there" in sys.path, config.results.key

    def spoil() -> int:
        os.chdir("/")
        os.environ["COLOUR"] = "black"
        sys.stdout = None  # type: ignore[assignment]
        return os.getpid()

    first = call(spoil)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLOUR", "red")
    monkeypatch.syspath_prepend("there")

    with config.set(results__key="a key that is in no environment"):
        assert call(seen) == (str(tmp_path), "red", True, config.results.key)
        assert call(spoil) == first
        assert call(seen) == (str(tmp_path), "red", True, config.results.key)


def test_a_child_sees_the_devices_of_its_calls_from_its_start_and_has_no_others_afterwards(
    monkeypatch: pytest.MonkeyPatch,
):
    def seen() -> tuple[int, str | None]:
        with open("/proc/self/environ", "rb") as file:  # as it was at the start
            first = dict(each.split(b"=", 1) for each in file.read().split(b"\0") if each)
        assert first.get(b"CUDA_VISIBLE_DEVICES", b"").decode() == os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    whole, half, both = Share((("1", WHOLE),)), Share((("1", WHOLE // 2),)), Share((("0", WHOLE), ("1", WHOLE)))

    first, second, third = call(seen, share=whole), call(seen), call(seen, share=half)

    assert [devices for _, devices in (first, second, third)] == ["1", None, "1"]
    assert len({first[0], second[0], third[0]}) == 3
    assert (call(seen, share=whole), call(seen, share=NOTHING), call(seen, share=half)) == (first, second, third)

    processes = [psutil.Process(pid) for pid, _ in (first, second, third)]
    calling.clear(both, [half, both])  # who has a half now needs its process again

    assert [each.is_running() for each in processes] == [False, True, True]
    assert call(seen, share=half) == third
    assert call(seen, share=both)[1] == "0,1"


def test_what_a_child_remembers_is_bounded_and_nothing_is_lost_by_that():
    functions = [constant(n) for n in range(calling.KEPT_PARTS + 5)]

    assert [call(each) for each in functions] == list(range(len(functions)))
    assert call(functions[0]) == 0


def test_the_child_may_import_the_library_from_an_archive(monkeypatch: pytest.MonkeyPatch):
    package = Path(anabranch.__file__).parent
    data = BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for file in package.rglob("*"):
            if file.suffix in (".py", ".yaml"):
                archive.write(file, file.relative_to(package.parent))
    monkeypatch.setattr(anabranch, "__archive__", bz2.compress(data.getvalue()), raising=False)
    calling._POOL.close()

    def where() -> str:
        import anabranch

        return anabranch.__file__

    assert "anabranch-code-" in call(where)
    calling._POOL.close()


# Failures -------------------------------------------------------------------------------------------------------------


class ThreeArguments(Exception):
    def __init__(self, what: str, where: str, why: str) -> None:
        super().__init__(f"{what} at {where}: {why}")
        self.where = where


class HoldsLock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()
        self.code = 7


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def test_an_exception_has_the_traceback_it_had_there():
    def inner(x: int) -> float:
        return x / 0

    def outer() -> float:
        return inner(1)

    with pytest.raises(ZeroDivisionError, match="division by zero") as raised:
        call(outer)
    failure = describe(raised.value)

    assert re.search(r"in outer\n    return inner\(1\)\n.* in inner\n    return x / 0\n", failure.traceback)
    assert "child.py" not in failure.traceback
    assert failure.line.endswith("in inner")


def test_an_exception_brings_its_cause_and_notes():
    def chained() -> None:
        try:
            {}["key"]
        except KeyError as error:
            problem = ValueError("no such thing")
            problem.add_note("look elsewhere")
            raise problem from error

    with pytest.raises(ValueError, match="no such thing") as raised:
        call(chained)

    assert isinstance(raised.value.__cause__, KeyError)
    assert "KeyError: 'key'\n(which led to)" in describe(raised.value).traceback
    assert "look elsewhere" in describe(raised.value).traceback


@pytest.mark.parametrize(
    ("make", "attributes"),
    [
        (lambda: ThreeArguments("a", "b", "c"), {"where": "b"}),
        (lambda: HoldsLock("locked"), {"code": 7}),
        (lambda: BadText("x"), {}),
        (lambda: ExceptionGroup("two", [ValueError("a"), KeyError("b")]), {}),
        (lambda: SystemExit(3), {"code": 3}),
        (lambda: GeneratorExit(), {}),
    ],
    ids=["three arguments", "lock", "text", "group", "exit", "generator"],
)
def test_exceptions_that_are_hard_to_carry_keep_their_class(make: Callable[[], BaseException], attributes: Any):
    def fail() -> None:
        raise make()

    expected = make()
    with pytest.raises(type(expected)) as raised:
        call(fail)

    assert raised.value.args == expected.args or isinstance(expected, ExceptionGroup)
    assert {name: getattr(raised.value, name) for name in attributes} == attributes


def test_something_stands_for_an_exception_that_cannot_cross():
    def fail() -> None:
        lock = threading.Lock()

        class Held(Exception):
            held = lock

        raise Held("and held")

    with pytest.raises(TaskFailure, match="and held") as raised:
        call(fail)
    failure = describe(raised.value)

    assert failure.type_name.endswith("Held")
    assert failure.exception is None
    assert "raise Held" in failure.traceback


def test_a_deep_recursion_crosses_in_parts():
    def deep(n: int) -> int:
        return 1 + deep(n + 1)

    with pytest.raises(RecursionError) as raised:
        call(deep, 0)

    assert "…" in describe(raised.value).traceback


@pytest.mark.parametrize("signal_class", [RETRY, SKIP, LOOP])
def test_signals_come_through(signal_class: Any):
    def give() -> None:
        raise signal_class("because", result=[1, 2])

    with pytest.raises(signal_class, match="because") as raised:
        call(give)

    assert raised.value.result == [1, 2]


def test_a_value_that_does_not_pickle_is_said_to_be_so():
    with pytest.raises(UnstorableValueError, match=r"a result of type _thread\.lock cannot leave the process"):
        call(threading.Lock)


def test_an_argument_that_does_not_pickle_is_said_to_be_so():
    with pytest.raises(
        UnstorableValueError, match="arguments cannot be sent to a process of the task's own: TypeError"
    ):
        call(print, threading.Lock())


def test_an_argument_that_does_not_load_is_said_to_be_so():
    with pytest.raises(CodeNotLoadable, match=r"cannot be loaded in the task's process: ZeroDivisionError"):
        call(print, DoesNotLoad())
    assert call(pid)


class DoesNotLoad:
    def __reduce__(self) -> Any:
        return divmod, (1, 0)


# Ends -----------------------------------------------------------------------------------------------------------------


def sleep_in_c() -> None:
    time.sleep(HANGS_S)


def loop_for_ever() -> None:
    while True:
        pass


def keep_the_interpreter() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def start_others() -> None:
    sleep = ["sleep", str(HANGS_S)]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True)
    subprocess.Popen(["sh", "-c", f"setsid sleep {HANGS_S} & exit"]).wait()  # one that has lost its parent
    time.sleep(HANGS_S)


def start_ever_more() -> None:
    while True:
        subprocess.Popen(["sleep", str(HANGS_S)], start_new_session=True)


def ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(HANGS_S)


HANGS = [
    sleep_in_c,
    loop_for_ever,
    keep_the_interpreter,
    wait_for_a_lock,
    start_others,
    start_ever_more,
    ignore_signals,
]


@pytest.mark.parametrize("hang", HANGS)
def test_at_the_deadline_the_whole_tree_is_killed(hang: Callable[[], None], nothing_is_left: Any):
    with pytest.raises(TaskTimeout, match=r"^ran longer than its timeout of 0\.3 s; its process was killed$"):
        call(hang, timeout_s=0.3)

    assert not left_of(nothing_is_left())


def test_loading_the_function_does_not_count():
    class Slow:
        def __reduce__(self) -> Any:
            return time.sleep, (0.5,)

    assert call(lambda _: 1, Slow(), timeout_s=0.2) == 1


def test_over_the_memory_limit_the_process_is_killed():
    def hog() -> None:
        held = []
        while True:
            held.append(b"x" * 10_000_000)
            time.sleep(0.005)

    with pytest.raises(ProcessDied) as raised:
        call(hog, memory_limit=200 * 2**20)

    used = re.fullmatch(r"killed: used ([\d,]+) MiB, more than memory_limit 200 MiB", str(raised.value))
    assert used
    assert int(used[1].replace(",", "")) >= 200


def test_memory_of_what_the_task_starts_counts():
    def hog() -> None:
        code = "held = b'x' * 300_000_000; input()"
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True).wait()

    with pytest.raises(ProcessDied, match="more than memory_limit 200 MiB"):
        call(hog, memory_limit=200 * 2**20)


def exit_quietly() -> None:
    print("the last words", file=sys.stderr)
    os._exit(3)


def crash() -> None:
    ctypes.string_at(0)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("die", "message"),
    [
        (exit_quietly, r"its process ended with exit code 3\nlast lines of stderr:\nthe last words$"),
        (crash, r"(?s)its process was killed by SIGSEGV\nlast lines of stderr:\n.*Segmentation fault.* in crash$"),
        (kill_itself, r"its process was killed by SIGKILL \(as the kernel does where memory runs out\)$"),
    ],
)
def test_a_process_that_dies_says_how(die: Callable[[], None], message: str):
    with pytest.raises(ProcessDied, match=message):
        call(die)
    assert call(pid)


def test_a_process_that_dies_leaves_none_of_those_it_started(nothing_is_left: Any):
    def die() -> None:
        subprocess.Popen(["sleep", str(HANGS_S)])
        subprocess.Popen(["sleep", str(HANGS_S)], start_new_session=True)
        os._exit(1)

    with pytest.raises(ProcessDied):
        call(die)

    assert not left_of(nothing_is_left())


def test_a_task_that_closes_its_connection_ends_its_process():
    with pytest.raises(ProcessDied, match="its process ended with exit code 0"):
        call(os.closerange, 3, 65_536)


def test_a_task_that_forks_answers_once():
    def fork() -> str:
        return "copy" if os.fork() == 0 else "original"

    assert call(fork) == "original"
    assert call(pid)


def test_a_cancelled_run_has_its_children_killed_and_gets_no_more(nothing_is_left: Any):
    run, begun = RunInfo("etl", "cancelled"), threading.Event()
    about = TaskContext(run, "t", "t")

    def hang() -> None:
        print("begun", flush=True)
        time.sleep(HANGS_S)

    class Watched:
        def write(self, text: str) -> None:
            begun.set()

    def attempt() -> Any:
        with pytest.raises(CANCEL) as raised:
            call_in_process(hang, [], {}, context=about)
        return raised.value.message

    before, sys.stdout = sys.stdout, Watched()  # type: ignore[assignment]
    try:
        with ThreadPoolExecutor(1) as threads:
            message = threads.submit(attempt)
            assert begun.wait(30)
            assert kill_all("another run") == 0
            assert kill_all("cancelled") == 1
            assert message.result(30) == "its run was cancelled; its process was killed"
    finally:
        sys.stdout = before

    assert not left_of(nothing_is_left())
    with pytest.raises(CANCEL):
        call_in_process(pid, [], {}, context=about)
    assert call_in_process(pid, [], {}, context=TaskContext(RunInfo("etl", "cancelled"), "t", "t"))


# Prints and logs ------------------------------------------------------------------------------------------------------


def test_prints_come_back(capsys: pytest.CaptureFixture[str]):
    def talk() -> None:
        print("one")
        print("zwei, drüben", end="")
        sys.stderr.write("three\n")
        os.system("echo four")

    call(talk)
    shown = capsys.readouterr()

    assert "one\n" in shown.out
    assert "zwei, drüben" in shown.out
    assert "four\n" in shown.out
    assert shown.err == "three\n"


def test_prints_come_back_while_the_task_runs():
    lines: list[tuple[float, str]] = []

    class Timed:
        def write(self, text: str) -> None:
            lines.append((time.monotonic(), text))
            if text == "begun\n":
                os.write(begin, b"x")

    waits, begin = os.pipe()

    def talk(path: str) -> str:
        print("begun")
        with open(path, "rb") as pipe:
            return pipe.read(1).decode()

    before, sys.stdout = sys.stdout, Timed()  # type: ignore[assignment]
    try:
        assert call(talk, f"/proc/{os.getpid()}/fd/{waits}", timeout_s=30) == "x"
    finally:
        sys.stdout = before
        os.close(waits)
        os.close(begin)

    assert [text for _, text in lines] == ["begun\n"]


def test_a_flood_of_prints_arrives_whole(capsys: pytest.CaptureFixture[str]):
    def flood() -> int:
        for number in range(20_000):
            print(f"line {number} {'x' * 50}")
        return 1

    assert call(flood) == 1

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20_000
    assert lines[-1].startswith("line 19999 ")


def test_a_flood_without_end_meets_the_deadline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=len))

    def flood() -> None:
        while True:
            os.write(1, b"x" * 60_000 + b"\n")

    with pytest.raises(TaskTimeout):
        call(flood, timeout_s=0.5)


def test_log_records_come_back_by_the_levels_that_are_set_here(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def talk() -> None:
        context.logger.info("parsed %d", 7, extra={"lock": threading.Lock(), "rows": 3})
        logging.getLogger("quiet").info("not asked for")
        try:
            divmod(1, 0)
        except ZeroDivisionError:
            logging.getLogger("etl.parse").exception("failed")

    monkeypatch.setattr(logging.getLogger("quiet"), "level", logging.WARNING)
    with caplog.at_level(logging.INFO):
        call(talk)

    parsed, failed = caplog.records
    assert (parsed.name, parsed.getMessage(), parsed.rows) == ("anabranch.task.parse", "parsed 7", 3)  # type: ignore[attr-defined]
    assert (failed.name, failed.levelname) == ("etl.parse", "ERROR")
    assert "ZeroDivisionError" in (failed.exc_text or "")


def test_tracebacks_that_are_logged_show_lines_that_only_this_process_knows(caplog: pytest.LogCaptureFixture):
    cell = run_cell(
        """
        import logging

        def talk():
            try:
                divmod(1, 0)  # of the cell
            except ZeroDivisionError:
                logging.getLogger("etl.parse").exception("failed")
        """
    )
    call(cell["talk"])

    assert f'File "{cell["__file__"]}", line 5, in talk\n    divmod(1, 0)  # of the cell\n' in caplog.text


# The end of the worker ------------------------------------------------------------------------------------------------

PARENT = """
import subprocess, sys, threading, time
from anabranch.base.context import RunInfo, TaskContext
from anabranch.engine.isolation.calling import call_in_process
from {module} import {hang} as hang

def begin(hang):
    print("begun", flush=True)
    hang()

call = lambda function, *args: call_in_process(function, args, {{}}, context=TaskContext(RunInfo("f", "r"), "t", "t"))
threading.Thread(target=call, args=(begin, hang), daemon=True).start()
print("idle" if call(int) == 0 else "", flush=True)
{then}
"""


def parent(tmp_path: Path, hang: Callable[[], None], then: str) -> subprocess.Popen[str]:
    (tmp_path / "hangs.py").write_text(
        f"import re, signal, subprocess, threading, time\nHANGS_S = {HANGS_S}\n"
        + "".join(textwrap.dedent(_source(each)) for each in HANGS)
    )
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(module="hangs", hang=hang.__name__, then=then))
    return subprocess.Popen(
        [sys.executable, "-W", "error", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _source(function: Callable[[], None]) -> str:
    import inspect

    return inspect.getsource(function) + "\n"


@pytest.mark.parametrize("hang", [sleep_in_c, loop_for_ever, keep_the_interpreter, start_others, start_ever_more])
def test_nothing_outlives_a_parent_that_is_killed(hang: Callable[[], None], tmp_path: Path, nothing_is_left: Any):
    with parent(tmp_path, hang, f"time.sleep({HANGS_S})") as process:
        assert process.stdout is not None
        assert {process.stdout.readline(), process.stdout.readline()} == {"begun\n", "idle\n"}
        before = nothing_is_left()
        process.kill()

        assert not left_of(before)

    assert len(before) >= 3  # itself, the child at work, the idle one
    assert not nothing_is_left()


def test_a_parent_that_ends_takes_its_children_along_and_says_nothing(tmp_path: Path, nothing_is_left: Any):
    with parent(tmp_path, sleep_in_c, "") as process:
        _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (0, "")
    assert not left_of(nothing_is_left())


def test_a_copy_of_the_parent_has_children_of_its_own():
    first = call(pid)
    read, write = os.pipe()
    copy = os.fork()
    if copy == 0:
        with os.fdopen(write, "w") as answers:
            answers.write(str(call(pid)))
        calling._POOL.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        second = int(answers.read())
    os.waitpid(copy, 0)

    assert second != first == call(pid)

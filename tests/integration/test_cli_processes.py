"""The command line as a shell sees it: real processes, signals, terminals, workers elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SLOW = """
import time
from anabranch import *

@task
def names(count):
    return list(range(count))

@task
def wait(index, seconds):
    if index == 3:
        open("begun", "w").close()
    time.sleep(seconds)
    return index

@task
def total(values):
    return sum(values)

with Flow("slow") as flow:
    count = Parameter("count", default=100, type=int)
    seconds = Parameter("seconds", default=0.1, type=float)
    total(wait.map(names(count), seconds=unmapped(seconds)))
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    return {**kept, "PYTHONUNBUFFERED": "1", "TERM": "xterm-256color", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "anabranch", *arguments]


def call(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    return tmp_path


def wait_for(path: Path, *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.01)


# Ways in --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        [sys.executable, "-m", "anabranch"],
        [str(Path(sys.executable).with_name("anabranch"))],
        [str(Path(sys.executable).with_name("dask")), "anabranch"],
    ],
    ids=["python -m", "anabranch", "dask anabranch"],
)
def test_every_way_in_has_the_same_exit_codes(here: Path, way: list[str]) -> None:
    if not Path(way[0]).exists():
        pytest.skip("scripts are not installed beside this Python")
    for arguments, code in ((["--version"], 0), (["run", "slow.py", "--count", "x"], 2), (["validate", "no.py"], 3)):
        outcome = subprocess.run([*way, *arguments], cwd=here, env=environment(), capture_output=True, timeout=60)
        assert outcome.returncode == code, outcome.stderr.decode()


def test_python_m_says_its_own_name(here: Path) -> None:
    assert "Usage: anabranch run slow.py [OPTIONS]" in call("run", "slow.py", "--nothing", cwd=here).stderr


def test_help_loads_neither_distributed_nor_rich_and_no_engine() -> None:
    heavy = {
        "distributed",
        "rich",
        "pydantic",
        "networkx",
        "bokeh",
        "anabranch.engine.driver.driver",
        "anabranch.monitoring.pictures.draw",
    }
    code = (
        "import sys; sys.argv = ['anabranch', '--help']\n"
        "from anabranch.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(sorted({heavy} & set(sys.modules)))\n"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert outcome.stdout.splitlines()[-1] == "[]", outcome.stderr


# Streams --------------------------------------------------------------------------------------------------------------


def test_there_are_no_escapes_where_there_is_no_terminal(here: Path) -> None:
    (here / "bad.py").write_text(SLOW.replace("return sum(values)", "raise ValueError('\x1b[31mred')"))
    outcome = call("run", "bad.py", "--count", "2", "--seconds", "0", cwd=here)
    assert outcome.returncode == 1
    assert "\x1b" not in outcome.stdout + outcome.stderr
    assert r"ValueError: \x1b[31mred" in outcome.stderr


def test_a_stream_that_lacks_a_character_gets_an_escape_instead_of_an_error(here: Path) -> None:
    (here / "bad.py").write_text(SLOW.replace("return sum(values)", "raise ValueError('λ')"), encoding="utf-8")
    outcome = call("run", "bad.py", "--count", "2", "--seconds", "0", cwd=here, PYTHONIOENCODING="latin-1")
    assert outcome.returncode == 1
    assert r"\u2717 total failed" in outcome.stderr
    assert r"ValueError: \u03bb" in outcome.stderr


def test_a_reader_that_goes_away_is_no_error_of_ours(here: Path) -> None:
    (here / "wide.py").write_text(SLOW.replace("return sum(values)", "return 'x' * 1_000_000"))
    with subprocess.Popen(
        command("run", "wide.py", "--count", "1", "--seconds", "0", "--json"),
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors
    assert process.returncode == 1  # as Click has it


# Signals --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def begun(here: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run whose fourth element has begun, in a process group of its own."""
    process = subprocess.Popen(
        command("run", "slow.py", *arguments),
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What starts us may ignore Ctrl-C, as shells do for background jobs, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_for(here / "begun")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


PLACES = [
    pytest.param(["--executor", "local"], id="local"),
    pytest.param(["--executor", "threads", "--workers", "2"], id="threads"),
    pytest.param(["--executor", "dask", "--workers", "2"], id="dask", marks=pytest.mark.cluster),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_in_order(here: Path, place: list[str], number: signal.Signals, code: int) -> None:
    with begun(here, *place) as process:
        start = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        took = time.monotonic() - start
    assert process.returncode == code, err
    assert took < 10
    assert out == ""
    lines = err.splitlines()
    assert f"{number.name}: cancelling; repeat to end at once" in lines
    assert any(line.startswith("  finished: 1 of 3 tasks (names)") for line in lines)
    assert lines[-1].startswith(f"slow: Cancelled ({number.name}) after ")
    assert "Traceback" not in err


@pytest.mark.parametrize("place", PLACES)
def test_a_second_signal_leaves_at_once(here: Path, place: list[str]) -> None:
    """The first one would have to wait for a task that takes no notice of it."""
    text = SLOW.replace("    time.sleep(seconds)", "    deaf(seconds)") + textwrap.dedent("""
        def deaf(seconds):
            end = time.time() + seconds
            while time.time() < end:
                try:
                    time.sleep(1)
                except KeyboardInterrupt:
                    pass
        """)
    (here / "slow.py").write_text(text)
    with begun(here, *place, "--seconds", "0.2", "--count", "10000") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_thread_that_goes_on_does_not_keep_the_process(here: Path) -> None:
    with begun(here, "--executor", "threads", "--workers", "4", "--seconds", "60") as process:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)  # half of what the threads go on for
    assert process.returncode == 130


@pytest.mark.cluster
def test_no_worker_outlives_a_run_that_was_left_at_once(here: Path) -> None:
    with begun(here, "--executor", "dask", "--workers", "2", "--seconds", "5") as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        end = time.monotonic() + 15
        while time.monotonic() < end:
            try:
                os.killpg(process.pid, 0)  # is there anybody in its group?
            except ProcessLookupError:
                return
            time.sleep(0.1)
    pytest.fail("a worker goes on")


def test_ctrl_c_while_the_file_is_loaded(here: Path) -> None:
    (here / "slow.py").write_text("import time\nopen('begun', 'w').close()\ntime.sleep(60)\n")
    with begun(here) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted\n"


# Terminals ------------------------------------------------------------------------------------------------------------


def on_a_terminal(here: Path, *arguments: str, interrupt: bool = False, **more: str) -> tuple[int, str]:
    """Exit code and all that a terminal of 100 columns gets to see."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    def take_the_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that ^C is a signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would inherit that it is ignored

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        command(*arguments),
        cwd=here,
        env=environment(**more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_the_terminal,
    )
    os.close(theirs)
    seen, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if interrupt and (here / "begun").exists():
            os.write(ours, b"\x03")
            interrupt = False
        if select.select([ours], [], [], 0.05)[0]:
            try:
                data = os.read(ours, 65_536)
            except OSError:  # Linux: nobody has the other end any more
                break
            if not data:
                break
            seen += data
    os.close(ours)
    return process.wait(timeout=30), seen.decode()


def test_a_terminal_has_one_live_block_and_colours(here: Path) -> None:
    code, text = on_a_terminal(here, "run", "slow.py", "--count", "20")
    assert code == 0
    assert "━━" in text
    assert re.search(r"\x1b\[\d+m✓\x1b\[0m wait ", text)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.rstrip().splitlines()[-1].startswith("slow: Success after ")
    assert "total = 190" in text


def test_no_color_is_honoured(here: Path) -> None:
    (here / "bad.py").write_text(SLOW.replace("return sum(values)", "raise ValueError"))
    code, text = on_a_terminal(here, "run", "bad.py", "--count", "5", NO_COLOR="1")
    assert code == 1
    assert "✗ total failed" in text
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", text)
    _, coloured = on_a_terminal(here, "run", "bad.py", "--count", "5")
    assert "\x1b[31m✗ total failed" in coloured


def test_a_dumb_terminal_gets_lines(here: Path) -> None:
    code, text = on_a_terminal(here, "run", "slow.py", "--count", "5", TERM="dumb", NO_COLOR="1")
    assert code == 0
    assert "wait: 5 elements in " in text
    assert "\x1b" not in text


def test_what_tasks_print_appears_above_the_block_and_whole(here: Path) -> None:
    (here / "loud.py").write_text(SLOW.replace("    return index", "    print(f'<{index}>')\n    return index"))
    code, text = on_a_terminal(here, "run", "loud.py", "--count", "20", "--seconds", "0.05")
    assert code == 0
    assert [f"<{index}>" for index in range(20) if f"<{index}>" not in text] == []


def test_ctrl_c_at_a_terminal_leaves_it_in_order(here: Path) -> None:
    code, text = on_a_terminal(here, "run", "slow.py", interrupt=True)
    assert code == 130
    assert text.rstrip().splitlines()[-1].startswith("slow: Cancelled (SIGINT) after ")
    assert text.index("\x1b[?25l") < text.index("\x1b[?25h")
    assert "Traceback" not in text


# Clusters -------------------------------------------------------------------------------------------------------------

PIPE = """
import helper
from helper import Thing, double
from anabranch import *

class Local:
    def __init__(self, thing):
        self.thing = thing

@task
def make(count):
    return list(range(count))

@task
def work(number):
    assert isinstance(double(number), Thing)
    return Local(helper.double(number))

@task
def total(locals_):
    assert all(isinstance(each, Local) and isinstance(each.thing, Thing) for each in locals_)
    return Thing(sum(each.thing.value for each in locals_))

with Flow("pipe") as flow:
    total(work.map(make(Parameter("count", default=7, type=int))))
"""
HELPER = """
from dataclasses import dataclass

@dataclass
class Thing:
    value: int

def double(value):
    return Thing(2 * value)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "pipe.py").write_text(PIPE, encoding="utf-8")
    (directory / "helper.py").write_text(HELPER, encoding="utf-8")
    return directory


@pytest.mark.cluster
def test_a_file_runs_on_a_cluster_of_its_own(project: Path) -> None:
    outcome = call("run", "project/pipe.py", "--executor", "dask", "--workers", "2", cwd=project.parent)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == "total = Thing(value=42)\n"
    page = r"http://127\.0\.0\.1:\d+/status"
    assert re.search(
        rf"^pipe: run \w+ in a cluster on this machine; Dask's page: {page}$", outcome.stderr, re.MULTILINE
    )


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """Address of a scheduler without workers, started in a directory where nothing of the flow is."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = elsewhere / "scheduler.json"
    arguments = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    with background("scheduler", *arguments, "--scheduler-file", str(file), cwd=elsewhere):
        wait_for(file)
        yield json.loads(file.read_text())["address"]


@contextlib.contextmanager
def background(*arguments: str, cwd: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.cluster
def test_workers_elsewhere_need_neither_the_file_nor_its_neighbours(project: Path, scheduler: str) -> None:
    alone = call(
        "run", str(project / "pipe.py"), "--executor", scheduler, cwd=project.parent,
        ANABRANCH__ENGINE__NO_WORKERS_TIMEOUT_S="1",
    )  # fmt: skip
    assert alone.returncode == 4
    assert f"Error: no workers at {scheduler}, and none came within 1 s" in alone.stderr

    with background("worker", scheduler, "--nthreads", "1", "--no-dashboard", cwd=project.parent / "elsewhere"):
        outcome = call("run", str(project / "pipe.py"), "--executor", scheduler, "--json", cwd=project.parent)
        assert outcome.returncode == 0, outcome.stderr
        assert json.loads(outcome.stdout)["results"] == {"total": {"value": 42}}
        assert "pipe: run " in outcome.stderr
        assert f" in the cluster at {scheduler}" in outcome.stderr


@pytest.mark.cluster
def test_the_demo_makes_a_cluster_of_two_workers(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(20):
        (tmp_path / "source" / f"m{number}.py").write_text(f"def f{number}(x):\n    return x or {number}\n")
    outcome = call("demo", "--root", "source", "--output", "out", cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "20 of 20 files measured in source" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == f"report: {tmp_path / 'out' / 'run.html'}"
    assert "in a cluster on this machine; Dask's page: " in outcome.stderr

"""What the package does where Python lacks names that only Linux and macOS have, as on Windows.

A guise, and no Windows: those names, and the modules, are taken away in a process that has loaded all dependencies.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GUISE = """
import importlib, os, pkgutil, select, signal, socket, sys, tempfile, webbrowser
import bokeh.plotting, bokeh.server.server, click.testing, dask.dataframe, distributed, fsspec.implementations.local
import jinja2, networkx, psutil, pydantic, rich.live, rich.progress, sqlite3, subprocess, tornado.httpserver, yaml

MODULES = "fcntl grp posix pty pwd resource syslog termios tty"
NAMES = {
    os: "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK WNOHANG chown fchmod fork getegid geteuid getgid getloadavg "
    "getpgid getpgrp getuid killpg lchown mkfifo nice pidfd_open posix_spawn pread register_at_fork "
    "sched_getaffinity setpgid setsid statvfs sync uname wait",
    signal: "ITIMER_PROF ITIMER_REAL ITIMER_VIRTUAL SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGPROF SIGQUIT "
    "SIGSTOP SIGURG SIGUSR1 SIGUSR2 SIGVTALRM SIG_BLOCK SIG_SETMASK SIG_UNBLOCK alarm pthread_kill pthread_sigmask "
    "setitimer sigwait",
    select: "epoll kqueue poll",
    socket: "SO_REUSEPORT",
}
for name in MODULES.split():
    sys.modules[name] = None
for module, names in NAMES.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
os.supports_dir_fd, os.supports_follow_symlinks, sys.platform = set(), set(), "win32"
"""

MODULES = """
import anabranch, pytest_anabranch
for found in pkgutil.walk_packages(anabranch.__path__, "anabranch."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
"""

FLOWS = """
import asyncio, time
from anabranch import Flow, LocalDaskExecutor, LocalExecutor, task, unmapped
from anabranch.results import LocalResult

@task
def numbers():
    return list(range(20))

@task(max_retries=1, retry_delay=0.01, timeout=60)
def halve(number, by):
    return number // by

@task
async def nap(number):
    await asyncio.sleep(0)
    return number

@task(result=LocalResult("values"))
def add(numbers):
    return sum(numbers)

@task(timeout=0.2)
def hang():
    until = time.monotonic() + 60
    while time.monotonic() < until:
        pass

@task(isolation="process")
def alone():
    return 1

with Flow("halves") as flow:
    total = add(nap.map(halve.map(numbers(), unmapped(2))))

with Flow("hangs") as hangs:
    hang()

with Flow("isolated") as isolated:
    one = alone()

for executor in (LocalExecutor(), LocalDaskExecutor(num_workers=2)):
    state = flow.run(executor=executor)
    assert state.result[total].result == 90, state
    state = hangs.run(executor=executor)
    assert state.is_failed(), state
    assert "ran longer than its timeout" in state.message, state.message
    state = isolated.run(executor=executor)
    assert 'isolation="process" needs' in state.message, state.message
"""

COMMANDS = """
from click.testing import CliRunner
from anabranch.cli import anabranch as command

with open("words.py", "w") as file:
    file.write("from anabranch import Flow, Parameter\\nwith Flow('words') as flow:\\n    Parameter('n', 1)\\n")
os.environ.pop("ANABRANCH_HOME", None)
os.environ["XDG_DATA_HOME"] = os.getcwd()
for words, text in {
    "run words.py": "Success", "ls": "words", "show last": "Success", "report last -o r.html": "r.html",
    "doctor": "settings", "serve": "a service needs a system with fork()",
}.items():
    done = CliRunner().invoke(command, words.split())
    assert text in done.output, (words, done.output, done.exception)
"""


def test_what_only_some_systems_have_is_done_without_or_refused(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", GUISE + MODULES + FLOWS + COMMANDS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

"""What a run leaves in its process is put back, or ends the process."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch import config
from anabranch.service.work import leftovers
from anabranch.service.work.leftovers import Leftovers


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leftovers]:
    """As the process is now; whatever a test does, it is so again afterwards."""
    monkeypatch.setattr(leftovers, "MOST_NBYTES", 1 << 50)  # the tests before these may have had any memory
    found = Leftovers()
    yield found
    assert found.clear(took_s=0.0) == ""


def variables() -> dict[str, str]:
    """Of the environment, but the one that pytest changes while a test goes on."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def handler(number: int, frame: object) -> None: ...


def test_environment_directory_signals_and_settings_are_as_they_were(before: Leftovers, tmp_path: Path):
    directory, environment, path = os.getcwd(), variables(), list(sys.path)
    signals, level, filters = signal.getsignal(signal.SIGUSR1), logging.getLogger().level, list(warnings.filters)
    os.environ["LEFT"] = "1"
    del os.environ["PATH"]
    os.chdir(tmp_path)
    mask = os.umask(0)
    sys.path.insert(0, str(tmp_path))
    sys.argv = ["other"]
    signal.signal(signal.SIGUSR1, handler)
    signal.setitimer(signal.ITIMER_REAL, 1_000)
    config.checkpointing = True
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger().addHandler(added := logging.NullHandler())
    warnings.simplefilter("ignore")
    socket.setdefaulttimeout(5)
    random.seed(1)
    seeded = random.random()
    random.seed(1)
    assert before.clear(took_s=0.1) == ""
    assert (os.getcwd(), variables(), sys.path) == (directory, environment, path)
    assert sys.argv != ["other"]
    assert os.umask(mask) == mask
    assert signal.getsignal(signal.SIGUSR1) is signals
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert config.checkpointing is False
    assert logging.getLogger().level == level
    assert added not in logging.getLogger().handlers
    assert list(warnings.filters) == filters
    assert socket.getdefaulttimeout() is None
    assert random.random() != seeded


def test_modules_of_users_are_forgotten_and_installed_ones_stay(before: Leftovers, tmp_path: Path):
    (tmp_path / "helper_of_user.py").write_text("value = 1\n")
    (tmp_path / "package_of_user").mkdir()
    (tmp_path / "package_of_user" / "part.py").write_text("")
    sys.path.insert(0, str(tmp_path))
    __import__("helper_of_user")
    __import__("package_of_user.part")
    sys.modules["made_up"] = types.ModuleType("made_up")
    __import__("colorsys")
    assert before.clear(took_s=0.1) == ""
    assert not {"helper_of_user", "package_of_user", "package_of_user.part", "made_up"} & set(sys.modules)
    assert "colorsys" in sys.modules


@pytest.mark.parametrize(
    ("leave", "undo", "why"),
    [
        (lambda: thread(), lambda left: (left[0].set(), left[1].join()), "the run left threads: a-run's"),
        (lambda: child(), lambda left: left.communicate(), "the run left processes"),
        (lambda: files(), lambda left: [each.close() for each in left], "the run left files open"),
        (lambda: limit(), lambda left: resource.setrlimit(resource.RLIMIT_NOFILE, left), "the run set limits"),
    ],
    ids=["threads", "processes", "files", "limits"],
)
def test_what_cannot_be_put_back_ends_the_process(
    before: Leftovers, leave: Callable[[], Any], undo: Callable[[Any], object], why: str
):
    left = leave()
    try:
        assert before.clear(took_s=0.1).startswith(why)
    finally:
        undo(left)


def thread() -> tuple[threading.Event, threading.Thread]:
    over = threading.Event()
    begun = threading.Thread(target=over.wait, name="a-run's", daemon=True)
    begun.start()
    return over, begun


def child() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def files() -> list[Any]:
    return [open(os.devnull, "rb") for _ in range(leftovers.MOST_FILES + 1)]


def limit() -> tuple[int, int]:
    found = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (found[0] - 1, found[1]))
    return found


def test_long_runs_old_processes_and_much_memory_end_it(monkeypatch: pytest.MonkeyPatch):
    assert Leftovers().clear(took_s=leftovers.MOST_S + 1) == "the run took 6.0 s"
    with monkeypatch.context() as patched:
        patched.setattr(leftovers, "OLDEST_S", -1.0)
        assert Leftovers().clear(took_s=0.1) == "it is old"
    monkeypatch.setattr(leftovers, "MOST_NBYTES", 1)
    assert "MiB of memory" in Leftovers().clear(took_s=0.1)


def test_a_directory_that_is_gone_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leftovers, "MOST_NBYTES", 1 << 50)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    before = Leftovers()
    (tmp_path / "gone").rmdir()
    os.chdir(tmp_path)
    assert "could not be put back: FileNotFoundError" in before.clear(took_s=0.1)


def test_a_module_that_cannot_be_loaded_twice_ends_it(before: Leftovers, tmp_path: Path):
    module = types.ModuleType("compiled_of_user")
    module.__file__ = str(tmp_path / "compiled_of_user.so")
    sys.modules["compiled_of_user"] = module
    try:
        assert before.clear(took_s=0.1) == "the run loaded compiled_of_user, which cannot be loaded twice"
    finally:
        del sys.modules["compiled_of_user"]

"""What holds for every test, doctests in ``src`` among them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from tests.needs import closing_line

# How long an example takes is a matter of what else this machine does.
settings.register_profile("anabranch", deadline=None)
settings.load_profile("anabranch")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say at the very end what to install for the tests that could not be."""
    yield
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    if line := closing_line(each[2] for each in skipped if isinstance(each, tuple)):
        terminalreporter.write_line(line, yellow=True)


collect_ignore_glob = ["tests/prefect1_flows/*"]  # flow files that tests run

pytest_plugins = ["pytest_anabranch"]  # whether or not this checkout was installed since it has a plugin


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and every child inherits that."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs are recorded, by child processes too, in a store of these tests and never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANABRANCH_HOME", str(tmp_path_factory.mktemp("anabranch-home")))
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_modules_of_other_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As below, for what the fixtures of a whole file import."""
    yield from _forgetting_modules(tmp_path_factory)


@pytest.fixture(autouse=True)
def _no_modules_of_others(_no_modules_of_other_files: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test imports from its own directory is forgotten: the next one's file may have the same name."""
    yield from _forgetting_modules(tmp_path_factory)


def _forgetting_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = set(sys.modules)
    yield
    base = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(base):
            del sys.modules[name]

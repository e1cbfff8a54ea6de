"""The pytest plugin of anabranch: fixtures for tests of flows.

A package of its own, so that pytest, which loads it in every project, does not load anabranch with it: fixtures import
what they need when they are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from distributed import LocalCluster

    from anabranch.testing import FakeClock, FlowTester


@pytest.fixture
def anabranch_home(tmp_path: Path) -> Iterator[Path]:
    """A directory of the test's own for history and results, and every setting as it is by default."""
    from anabranch.testing import isolated_home

    with isolated_home(tmp_path / "anabranch") as home:
        yield home


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that shows 1 January 2026, and moves where something sleeps on it."""
    from anabranch.testing import FakeClock

    return FakeClock()


@pytest.fixture
def flow_tester(anabranch_home: Path, fake_clock: FakeClock) -> FlowTester:
    """Runs flows on the fake clock, with failures and replacements; records them in the test's home."""
    from anabranch.testing import FlowTester

    return FlowTester(clock=fake_clock, recorded=True)


@pytest.fixture(scope="session")
def anabranch_cluster() -> Iterator[LocalCluster]:
    """A Dask cluster of two workers on this machine, for all tests that ask for it: ``DaskExecutor(address=…)``."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster:
        yield cluster

"""A service that keeps house; what it deletes is tested with `anabranch.runs.retention`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from anabranch import config
from anabranch.runs import RunRecord
from anabranch.runs.store.sqlite import InMemoryRunStore
from anabranch.service.work import sweeper as module
from anabranch.service.work.sweeper import Sweeper


def with_old_runs() -> InMemoryRunStore:
    store = InMemoryRunStore()
    for days in (1, 50):
        began = datetime.now(UTC) - timedelta(days=days)
        store.finish_run(store.create_run(RunRecord(f"run-{days}", "etl", began)), "Success", end=began)
    return store


def test_of_several_services_one_sweeps_by_the_settings(monkeypatch: pytest.MonkeyPatch):
    store = with_old_runs()
    sweeps: list[Sweeper] = []
    first, second = Sweeper(store), Sweeper(store)
    sweep = Sweeper._sweep

    def noting(self: Sweeper) -> None:
        sweeps.append(self)
        sweep(self)
        self._over.set()

    monkeypatch.setattr(Sweeper, "_sweep", noting)
    monkeypatch.setattr(module, "FIRST_S", 0.0)
    with config.set(retention__runs="30d"):
        first.open()
        first._thread.join(60)
        second.open()
        second.close()
    assert sweeps == [first]
    assert [each.run_id for each in store.list_runs()] == ["run-1"]


def test_a_service_that_ends_leaves_the_rest_for_another():
    store = with_old_runs()
    sweeper = Sweeper(store)
    sweeper.close()
    with config.set(retention__runs="30d"):
        sweeper._sweep()
    assert len(store.list_runs()) + len(store.removal.leaving()) == 2

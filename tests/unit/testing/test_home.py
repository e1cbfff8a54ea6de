"""A home for tests: nothing of the user's in it, and nothing left of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anabranch import Flow, config, task
from anabranch.errors import SettingError
from anabranch.runs import default_path
from anabranch.testing import isolated_home


def one_task() -> Flow:
    with Flow("recorded") as flow:
        task(lambda: 1, name="one")()
    return flow


def test_runs_are_recorded_there_and_the_directory_is_gone_afterwards() -> None:
    before = default_path()

    with isolated_home() as home:
        one_task().run()
        assert default_path() == home / "runs.db"
        assert default_path().exists()

    assert not home.exists()
    assert default_path() == before


def test_a_home_that_is_used_again_has_what_was_recorded(tmp_path: Path) -> None:
    from anabranch.runs import open_store

    for number in (1, 2):
        with isolated_home(tmp_path / "home"):
            one_task().run()
            with open_store(read_only=True) as store:
                assert len(store.list_runs()) == number


def test_settings_are_as_by_default_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH__ENGINE__MAX_LOSSES", "7")
    with config.set(engine__max_losses=5, checkpointing=True):
        with isolated_home():
            assert config.engine.max_losses == 3
            assert config.checkpointing is False
            assert "ANABRANCH__ENGINE__MAX_LOSSES" not in os.environ
            config.engine.max_losses = 9

        assert config.engine.max_losses == 5
        assert config.checkpointing is True
        assert os.environ["ANABRANCH__ENGINE__MAX_LOSSES"] == "7"


def test_settings_that_cannot_be_do_not_keep_tests_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH__ENGINE__MAX_LOSES", "7")
    with pytest.raises(SettingError):
        config.refresh()
    try:
        with isolated_home():
            assert config.engine.max_losses == 3
        with pytest.raises(SettingError):
            config.snapshot()
    finally:
        monkeypatch.undo()
        config.refresh()

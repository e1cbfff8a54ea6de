"""A home for tests: nothing of the user's in it, and nothing left of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from anabranch import Flow, config, task
from anabranch.errors import SettingError
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.results import FileResult, InMemoryResult, LocalResult, Result, SQLResult
from anabranch.results.local import LocalStore
from anabranch.runs import default_path
from anabranch.testing import FlowTester, isolated_home


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


# Values ---------------------------------------------------------------------------------------------------------------


class OwnResult(Result):
    """A result as users of Prefect 1 wrote them."""

    def __init__(self, root: Path) -> None:
        super().__init__(LocalStore(root / "own"))


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that is not below the temporary one, with one value in it."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    path = tmp_path / "production"
    path.mkdir()
    _stored(path).run(executor=LocalExecutor())
    before = _content(path)
    assert len(before) >= 5
    yield path
    assert _content(path) == before


def _content(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _stored(root: Path, marks: str = "") -> Flow:
    """A flow whose tasks name places of production in each way that there is."""

    def mark(x: object) -> str:
        return f"{x}{marks}"

    deferred = task(mark, name="deferred", result=LocalResult(root / "calls", location="{x}"))
    with Flow("stored", result=LocalResult(root / "flow", location="{task_name}")) as flow:
        task(mark, name="plain")(1)
        task(mark, name="target", target="{task_name}.json", result=LocalResult(root, serializer="json"))(2)
        task(mark, name="own", result=OwnResult(root))(3)
        task(mark, name="url", result=FileResult(f"file://{root}/url"))(4)
        task(mark, name="table", result=SQLResult(f"sqlite:///{root}/values.db"))(5)
        task(mark, name="cached", cache_for=3600)(6)
        task(mark, name="mapped", result=LocalResult(root / "mapped")).map([7, 8])
        task(lambda: [deferred(9), deferred(10)], name="calls")()
        task(lambda: deferred.map([11, 12]), name="mapped calls")()
    return flow


@pytest.mark.parametrize("executor", [LocalExecutor, LocalDaskExecutor], ids=["local", "threads"])
def test_values_of_tests_stay_in_their_home(production: Path, executor: type) -> None:
    with isolated_home() as home:
        state = _stored(production, "!").run(executor=executor())
        assert state.is_successful()
        assert state["target"].result == "2!"  # and not what production has there
        assert state["mapped"].result == ["7!", "8!"]
        assert state["mapped calls"].result == ["11!", "12!"]
        again = _stored(production, "?").run(executor=executor())
        assert again["target"].is_cached()
        assert again["target"].result == "2!"
        assert any((home / "results").rglob("target.json"))


def test_values_of_tests_stay_in_their_home_on_a_cluster(production: Path) -> None:
    with isolated_home() as home:
        state = _stored(production, "!").run(executor=DaskExecutor(cluster_kwargs={"n_workers": 1}))
        assert state.is_successful()
        assert state["target"].result == "2!"
        assert state["calls"].result == ["9!", "10!"]
        assert any((home / "results").rglob("target.json"))


def test_values_of_a_tester_stay_with_it(production: Path) -> None:
    first, second = FlowTester(), FlowTester()
    assert first.run(_stored(production, "!"))["target"].result == "2!"
    assert first.run(_stored(production, "?"))["target"].result == "2!"
    assert second.run(_stored(production, "?"))["target"].result == "2?"
    assert config.results.only_in == ""


def test_what_a_process_of_a_test_stores_is_in_its_home() -> None:
    with isolated_home() as home:
        assert os.environ["ANABRANCH__RESULTS__ONLY_IN"] == str(home / "results")
    assert "ANABRANCH__RESULTS__ONLY_IN" not in os.environ


def test_what_a_test_keeps_in_memory_or_in_a_temporary_directory_is_there(tmp_path: Path) -> None:
    memory = InMemoryResult(location="a")
    with Flow("kept", result=LocalResult(tmp_path, location="b")) as flow:
        task(lambda: 1, name="a", result=memory)(), task(lambda: 2, name="b")()
    with isolated_home():
        assert flow.run().is_successful()
    assert memory.store.exists("a")
    assert (tmp_path / "b").exists()

"""What a `DaskExecutor` is told of a scheduler and its client."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed.comm.registry import backends

from anabranch import config
from anabranch.errors import OptionError, SchedulerUnreachable
from anabranch.executors import DaskExecutor
from anabranch.executors.connection import connect, host_and_port

HERE = "tcp://127.0.0.1:8786"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"address": HERE, "workers": {}}))
    return path


@pytest.mark.parametrize(
    "give", [lambda file: {"scheduler_file": file}, lambda file: {"client_kwargs": {"scheduler_file": str(file)}}]
)
def test_a_scheduler_file_tells_the_address_of_each_run(file: Path, give: Callable[[Path], Any]) -> None:
    executor = DaskExecutor(**give(file))
    assert executor.address is None
    assert str(file) in executor.place
    assert repr(pickle.loads(pickle.dumps(executor))) == repr(executor) == f"DaskExecutor(scheduler_file={str(file)!r})"
    assert executor.for_run().address == HERE
    file.write_text(json.dumps({"address": "tls://127.0.0.1:1"}))  # the next scheduler
    assert executor.for_run().address == "tls://127.0.0.1:1"
    assert executor.is_elsewhere
    assert "scheduler_file" not in executor.client_kwargs


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"address": 3}', '{"address": "nonsense"}'])
def test_a_scheduler_file_without_an_address_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "scheduler.json"
    if text is not None:
        path.write_text(text)
    with (
        config.set(engine__connect_timeout_s=0.01),
        pytest.raises(
            SchedulerUnreachable, match=r"scheduler_file='.*scheduler\.json' has no scheduler's address after"
        ),
    ):
        DaskExecutor(scheduler_file=path).for_run()


def test_dasks_own_setting_tells_the_address_where_nothing_else_is_given(file: Path) -> None:
    with dask.config.set({"scheduler-address": "127.0.0.1:1"}):
        assert DaskExecutor().for_run().address == "tcp://127.0.0.1:1"
        assert DaskExecutor(security={}).for_run().address == "tls://127.0.0.1:1"
        assert DaskExecutor(HERE).for_run().address == HERE
        assert DaskExecutor(scheduler_file=file).for_run().address == HERE
        assert DaskExecutor(cluster_kwargs={"n_workers": 1}).for_run().address is None
        assert DaskExecutor(adapt_kwargs={}).for_run().address is None
    assert DaskExecutor().for_run().address is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": HERE, "client_kwargs": {"scheduler_file": "a.json"}}, "an address, or a scheduler_file, not both"),
        ({"scheduler_file": "a.json", "cluster_class": "a.B"}, "cluster_class and its arguments, not both"),
        ({"scheduler_file": "a.json", "security": True}, "security=True is for a new cluster"),
        (
            {"client_kwargs": {"heartbeat": 5}},
            "client_kwargs: Dask's Client has no argument 'heartbeat' to give; did you",
        ),
        ({"client_kwargs": {"address": HERE}}, "client_kwargs: Dask's Client has no argument 'address' to give"),
        ({"client_kwargs": {"timeout": "never"}}, "client_kwargs: expected timeout as seconds, or as a text.*'never'"),
        ({"client_kwargs": {"heartbeat_interval": []}}, r"client_kwargs: expected heartbeat_interval as seconds.*\[\]"),
    ],
)
def test_arguments_that_cannot_work_are_refused_when_they_are_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DaskExecutor(**options)


def test_an_argument_that_the_client_chokes_on_is_named() -> None:
    with pytest.raises(OptionError, match="client_kwargs: Dask's Client cannot be made with 'extensions': "):
        connect("inproc://127.0.0.1/1/1", None, timeout_s=0.2, client_kwargs={"extensions": 3})


def test_protocols_that_packages_bring_to_dask_are_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "gateway://proxy:8786/run-of-somebody"
    assert DaskExecutor(address).for_run().address == address
    with pytest.raises(SchedulerUnreachable, match="unknown protocol"):
        host_and_port(address)
    monkeypatch.setitem(backends, "gateway", object())
    assert host_and_port(address) == ("", 0)

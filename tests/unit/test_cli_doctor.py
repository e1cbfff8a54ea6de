"""What ``anabranch doctor`` sees."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch import Flow, config, task
from anabranch.cli import anabranch as command


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own for each test."""
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["doctor", *arguments])


def record_a_run() -> None:
    with Flow("recorded") as flow:
        task(lambda: 1, name="one")()
    flow.run()


def test_all_is_well_where_nothing_has_run_yet(home: Path) -> None:
    result = doctor()

    assert result.exit_code == 0
    assert "✗" not in result.output
    assert f"{home / 'runs.db'} is made by the first run" in result.output
    assert not home.exists()  # looking leaves nothing behind


def test_the_run_store_is_named_with_the_version_of_its_library(home: Path) -> None:
    record_a_run()

    result = doctor()

    assert result.exit_code == 0
    assert f"location {home / 'runs.db'}, library SQLite " in result.output
    assert "whole, as far as its own check tells" in result.output


def test_a_damaged_run_store_is_a_problem(home: Path) -> None:
    record_a_run()
    (home / "runs.db").write_bytes(b"no database" * 100)

    result = doctor()

    assert result.exit_code == 1
    assert "✗ run store" in result.output
    assert "damaged" in result.output


def test_a_setting_that_cannot_be_ends_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH__ENGINE__MAX_LOSES", "5")
    try:
        result = doctor()
    finally:
        monkeypatch.delenv("ANABRANCH__ENGINE__MAX_LOSES")
        config.refresh()

    assert result.exit_code == 1
    assert result.output.count("did you mean 'engine.max_losses'") == 1
    assert "nothing else was looked at" in result.output


def test_an_address_where_nobody_listens_is_a_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with config.set(engine__connect_timeout_s=0.5):
        result = doctor("--executor", f"tcp://127.0.0.1:{port}")

    assert result.exit_code == 1
    assert f"nothing listens on port {port}" in result.output


def test_findings_are_json_if_asked_for() -> None:
    findings = json.loads(doctor("--json").output)

    assert {"topic": "settings", "text": "in order; backend = local", "verdict": "ok"} in findings

"""What ``anabranch doctor`` sees."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch import Flow, config, task
from anabranch.cli import anabranch as command
from anabranch.runs import RunRecord, open_store


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
    assert f"the first run will create {home / 'runs.db'}" in result.output
    assert not home.exists()  # looking leaves nothing behind


def test_the_run_store_is_named_with_the_version_of_its_library(home: Path) -> None:
    record_a_run()

    result = doctor()

    assert result.exit_code == 0
    assert f"location {home / 'runs.db'}, library SQLite " in result.output
    assert "the database's own check found no damage" in result.output


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
    assert "nothing else was checked" in result.output


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


def test_settings_that_somebody_chose_are_shown_with_where_they_are_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH__ENGINE__MAX_LOSSES", "5")
    monkeypatch.setenv("ANABRANCH__RESULTS__KEY", "a secret of thirty-two characters")
    try:
        result = doctor()
    finally:
        monkeypatch.undo()
        config.refresh()

    assert "engine.max_losses = 5 (from ANABRANCH__ENGINE__MAX_LOSSES)" in result.output
    assert "results.key = '***'" in result.output
    assert "thirty-two" not in result.output


def test_settings_that_are_not_read_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("anabranch.yaml").write_text("anabranch: {engine: {max_losses: 5}}")
    Path("anabranch.yaml").chmod(0o666)

    result = doctor()

    assert result.exit_code == 0
    assert "is not read, because others can write to it; chmod o-w" in result.output
    assert "max_losses" not in result.output


def test_a_key_that_everybody_can_read_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("")
    key.chmod(0o644)

    monkeypatch.setenv("ANABRANCH__SERVICE__TLS_KEY", str(key))
    try:
        found = doctor().output
        key.chmod(0o640)
        again = doctor().output
    finally:
        monkeypatch.undo()
        config.refresh()

    assert f"everybody can read service.tls_key; chmod o-r {key}" in found
    assert "everybody can read" not in again


def test_a_home_that_cannot_be_made_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "file" / "home"))

    result = doctor()

    assert result.exit_code == 1
    assert "runs.db cannot be created, so runs cannot be recorded; set ANABRANCH_HOME" in result.output


def test_runs_whose_driver_died_are_named(home: Path) -> None:
    with open_store() as store:
        store.create_run(RunRecord("died-1", "f", datetime.now(UTC)), now=datetime.now(UTC) - timedelta(days=1))

    result = doctor()

    assert result.exit_code == 0
    assert "! run store  runs whose driver died: died-1; continue one with: anabranch resume RUN" in result.output


def test_flows_whose_file_has_gone_are_named(tmp_path: Path) -> None:
    file = tmp_path / "etl.py"
    file.write_text('from anabranch import Flow, task\nwith Flow("etl") as flow:\n    task(len, name="one")([])\n')
    assert CliRunner().invoke(command, ["register", str(file)]).exit_code == 0
    assert "flows      1 registered" in doctor().output
    file.unlink()

    result = doctor()

    assert f"this machine does not have: etl ({file}); register them" in result.output

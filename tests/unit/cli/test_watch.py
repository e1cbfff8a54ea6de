"""``anabranch show --watch``: a run that goes on, until it ends."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from anabranch.cli import anabranch, history
from anabranch.runs import Batch, RunRecord, TaskRunRow
from anabranch.runs.store.opening import current_store


def test_a_run_is_printed_whenever_it_changes_until_it_ends(monkeypatch: pytest.MonkeyPatch):
    # given a run of which a task ends while it is watched, then nothing happens, then it ends
    store = current_store()
    assert store is not None
    now = datetime.now(UTC)
    run = store.create_run(RunRecord("watched", "etl", now))
    row = TaskRunRow("parse", "parse", "Success", 10, start=now, end=now)
    steps = [
        lambda: store.write(run, Batch([row])),
        lambda: None,
        lambda: store.finish_run(run, "Success", end=now),
    ]
    monkeypatch.setattr(history.time, "sleep", lambda seconds: steps.pop(0)())
    # when
    outcome = CliRunner().invoke(anabranch, ["show", "watched", "--watch"])
    # then
    assert outcome.exit_code == 0
    assert steps == []
    heads = [line for line in outcome.output.splitlines() if line.startswith("etl: run watched")]
    assert [head.rpartition(", ")[2] for head in heads] == ["Running", "Running", "Success"]
    assert outcome.output.count("parse") == 2


def test_json_is_not_watched():
    outcome = CliRunner().invoke(anabranch, ["show", "last", "--watch", "--json"])
    assert outcome.exit_code == 2
    assert "--json is printed once, so it cannot be combined with --watch" in outcome.output

"""What tasks have shown, as it is read for people who want words."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from anabranch.runs import ArtifactRow, Batch, RunRecord
from anabranch.runs.read import artifacts
from anabranch.runs.read.artifacts import artifact_data, artifact_lines, short_artifacts
from anabranch.runs.store.sqlite import InMemoryRunStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BODIES = {
    "image": {"name": "plot", "media": "image/png", "data": "A" * 500_000},
    "html": {"name": "page", "html": "<p>" * 100_000},
    "table": {"name": "rows", "columns": ["a"], "rows": [[1]] * 100, "total": 1_000},
    "metric": {"name": "loss", "points": [[0, 0.5], [1, 0.25]], "count": 2},
    "progress": {"name": "progress", "done": 3, "of": 10},
    "markdown": {"name": "", "text": "first line\nsecond"},
}


@pytest.mark.parametrize("page", [1, 4, 100])
def test_words_are_the_same_without_what_is_large(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "PAGE", page)
    store = InMemoryRunStore()
    held = store.create_run(RunRecord("r", "etl", NOON))
    rows = [
        ArtifactRow(slug, index, 1, number, kind, NOON, json.dumps(body))
        for slug, indices in (("train", [None]), ("tune", [0, 1, 2]))
        for index in indices
        for number, (kind, body) in enumerate(BODIES.items())
    ]
    rows.append(replace(rows[0], number=99, body="{damaged"))
    store.write(held, Batch(artifacts=rows))
    whole, short = store.artifacts("r"), list(short_artifacts(store, "r"))
    assert artifact_lines(short) == artifact_lines(whole)
    assert [*map(artifact_data, short)] == [*map(artifact_data, whole)]
    assert sum(len(row.body) for row in short) < 3_000

"""The examples of dynamic tasks do what they say."""

from __future__ import annotations

from pathlib import Path

from examples import collatz, crawl


def test_the_crawler_finds_every_file_of_a_tree(tmp_path: Path) -> None:
    for name, text in {"a/b/c/deep": "1234", "a/x": "12", "top": "1", "a/b/y": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()

    state = crawl.flow.run(root=str(tmp_path), raise_on_failure=True)

    assert state.result[crawl.totals].result == {"directories": 4, "files": 4, "bytes": 7}
    assert state["crawl"].result["a"]["b"] == {"c": {"deep": 4}, "y": 0}
    assert len(state["crawl/measure"].map_states) == 1


def test_each_number_loops_for_as_long_as_it_takes() -> None:
    state = collatz.flow.run(limit=30, raise_on_failure=True)

    assert state.result[collatz.found].result == (27, 111)

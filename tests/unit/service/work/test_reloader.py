"""Files of flows that change while a service goes on: what is registered again, when, and what is told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from anabranch import config
from anabranch.flows.registered import register_target
from anabranch.runs.registry.registration import registry
from anabranch.runs.store.flows import FlowTable
from anabranch.service.work.reloader import AGAIN, Reloader, register_apart

FILE = """
from anabranch import Flow, task
from helper import VALUE

with Flow("etl") as etl:
    task(lambda: {value}, name="one")()
with Flow("other") as other:
    task(lambda: VALUE, name="two")()
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    with config.set(backend=f"sqlite:///{tmp_path}/runs.db"):
        (tmp_path / "flows").mkdir()
        write(tmp_path, "helper", "VALUE = 1")
        write(tmp_path, "jobs", FILE.format(value=1))
        yield tmp_path


def write(home: Path, name: str, text: str) -> None:
    """A file with a time of its own, as on a clock that is coarse two writes may have one."""
    path = home / "flows" / f"{name}.py"
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


class Asked:
    """Registers nothing, and keeps what was asked for."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.answer = ""

    def __call__(self, arguments: Sequence[str]) -> str:
        self.calls.append(list(arguments))
        return self.answer


def flows() -> FlowTable:
    return registry()[1]


def versions() -> dict[str, int]:
    return {each.name: each.version for each in flows().all()}


def test_a_flow_that_changes_gets_a_version_one_that_does_not_none_and_a_broken_file_keeps_them(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    # given
    monkeypatch.setenv("ANABRANCH__BACKEND", f"sqlite:///{home}/runs.db")
    file = f"{home}/flows/jobs.py"
    register_target(file)
    reloader = Reloader(flows(), [file])
    # when
    write(home, "jobs", FILE.format(value=2) + "\nnew = Flow('new')\n")
    reloader.look()
    assert versions() == {"etl": 1, "other": 1}
    reloader.look()
    # then
    assert versions() == {"etl": 2, "new": 1, "other": 1}
    assert reloader.problems == {}
    # when
    write(home, "jobs", "1 +")
    for _ in range(3):
        reloader.look()
    # then
    assert versions() == {"etl": 2, "new": 1, "other": 1}
    assert list(reloader.problems) == [file]
    assert "SyntaxError" in reloader.problems[file]
    assert caplog.text.count("cannot be registered, and its flows stay registered as they were: ") == 1
    # when
    write(home, "jobs", FILE.format(value=2))
    for _ in range(3):
        reloader.look()
    # then
    assert reloader.problems == {}
    assert f"{file} is registered again" in caplog.text


def test_nothing_is_registered_while_nothing_changes(home: Path):
    register_target(f"{home}/flows/jobs.py")
    asked = Asked()
    reloader = Reloader(flows(), register=asked)
    for _ in range(2 * AGAIN):
        reloader.look()
    assert asked.calls == []


def test_of_a_file_that_was_not_given_the_flows_are_registered_that_are_known_with_their_project_and_labels(home: Path):
    file = f"{home}/flows/jobs.py"
    register_target(f"{file}:etl", project="team", labels=("a", "-b"))
    asked = Asked()
    reloader = Reloader(flows(), register=asked)
    reloader.look()
    write(home, "helper", "VALUE = 2")
    reloader.look()
    reloader.look()
    assert asked.calls == [["--project=team", "--label=a", "--label=-b", "--", f"{file}:etl"]]


def test_a_file_that_still_changes_is_left_alone_until_it_does_not(home: Path):
    asked = Asked()
    reloader = Reloader(flows(), [f"{home}/flows/jobs.py"], register=asked)
    for number in range(5):
        write(home, "jobs", FILE.format(value=number))
        reloader.look()
    assert asked.calls == []
    reloader.look()
    assert asked.calls == [["--", f"{home}/flows/jobs.py"]]


def test_a_file_that_is_gone_is_told_of_until_it_is_back_and_no_longer_than_its_flows_are_registered(home: Path):
    file = home / "flows" / "jobs.py"
    register_target(str(file))
    asked = Asked()
    reloader = Reloader(flows(), register=asked)
    reloader.look()
    text = file.read_text()
    file.unlink()
    reloader.look()
    reloader.look()
    assert (reloader.problems, asked.calls) == ({str(file): "it is gone"}, [])
    write(home, "jobs", text)
    reloader.look()
    reloader.look()
    assert (reloader.problems, len(asked.calls)) == ({}, 1)
    file.unlink()
    reloader.look()
    reloader.look()
    for name in versions():
        flows().remove(name)
    reloader.look()
    assert reloader.problems == {}


def test_a_file_that_cannot_be_registered_is_tried_again_after_a_while(home: Path):
    asked = Asked()
    reloader = Reloader(flows(), [f"{home}/flows/jobs.py"], register=asked)
    asked.answer = "no module"
    write(home, "jobs", "import what_is_elsewhere")
    for _ in range(AGAIN - 1):
        reloader.look()
    assert len(asked.calls) == 1
    asked.answer = ""
    reloader.look()
    assert len(asked.calls) == 2
    assert reloader.problems == {}


def test_flows_whose_code_is_in_the_registry_have_no_file_to_look_at(home: Path):
    register_target(f"{home}/flows/jobs.py", storage="database")
    asked = Asked()
    reloader = Reloader(flows(), register=asked)
    reloader.look()
    write(home, "jobs", "1 +")
    reloader.look()
    reloader.look()
    assert (asked.calls, reloader.problems) == ([], {})


def test_what_ends_without_a_word_is_told_of_by_its_code(home: Path):
    write(home, "jobs", "import os; os._exit(3)")
    assert register_apart(["--", f"{home}/flows/jobs.py"]) == "the process that registers it ended with 3"

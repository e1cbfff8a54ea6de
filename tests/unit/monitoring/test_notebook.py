"""What notebooks show: progress that is redrawn, flows, states, runs and maps; and never a name as markup."""

from __future__ import annotations

import io
import sys
from html.parser import HTMLParser
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from anabranch import Flow, config, task
from anabranch.base.events import ElementBegan, MapAdvanced, RunFinished, RunStarted, TaskChanged
from anabranch.errors import GraphvizMissing
from anabranch.monitoring.notebook import EVERY_S, NotebookProgress, shell
from anabranch.monitoring.progress import progress_of_settings
from anabranch.monitoring.terminal import LiveProgress, Progress, can_be_live
from anabranch.states import Counts, Failed, Failure, Mapped, Running, Skipped, State, Success

NAME = "<script>alert(1)</script>'\"&"
HOSTILE = f"{NAME}\x1b[31m\u202e"


class Elements(HTMLParser):
    """Names of the elements in a piece of HTML, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


class Display:
    """What IPython gives for something that is shown."""

    def __init__(self, thing: Any) -> None:
        self.shown = [thing._repr_html_()]

    def update(self, thing: Any) -> None:
        self.shown.append(thing._repr_html_())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[Display]:
    """As if this process were the kernel of one. Everything that is shown there."""
    shown: list[Display] = []

    def display(thing: Any, *, display_id: bool) -> Display:
        assert display_id
        shown.append(Display(thing))
        return shown[-1]

    ipython, with_display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    with_display.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", with_display)
    return shown


# Progress -------------------------------------------------------------------------------------------------------------


def test_one_table_is_redrawn_and_not_too_often() -> None:
    clock, displays = Clock(), []
    progress = NotebookProgress(lambda thing: displays.append(Display(thing)) or displays[-1], clock=clock)
    progress(RunStarted(100.0, "etl", "r1", {"parse": "task", "total": "task"}))
    for done in range(1, 101):
        clock.now += EVERY_S / 10
        progress(MapAdvanced(clock.now, "parse", 100, done, 3, 2))
    progress(TaskChanged(clock.now, "parse", Mapped(counts=Counts(100, 97, 0, 3))))
    progress(RunFinished(clock.now, Success()))
    (display,) = displays
    assert 10 <= len(display.shown) <= 13
    assert "3 failed 2 retrying" in " ".join(Elements(display.shown[5]).text.split())
    assert "Success" in display.shown[-1]


def test_the_table_names_what_runs() -> None:
    progress = NotebookProgress(lambda thing: Display(thing), clock=Clock())
    progress(RunStarted(100.0, "etl", "r1", {"parse": "task", "load": "task"}))
    progress(MapAdvanced(101.0, "parse", 100, 0, 0, 0))
    progress(ElementBegan(101.0, "parse", Running(map_index=7, worker=HOSTILE)))
    progress(TaskChanged(101.0, "load", Running(worker="w2")))
    found = Elements(progress.html())
    assert r"0/100; running: [7] on <script>alert(1)</script>" in found.text
    assert "Runningon w2" in found.text
    assert found.names <= {"div", "span", "table", "tr", "td"}


def test_a_run_in_a_notebook_shows_its_table(notebook: list[Display]) -> None:
    with Flow(NAME) as flow:
        task(lambda x: x, name="each").map([1, 2, 3])
    view = flow.run()
    (display,) = notebook
    last = Elements(display.shown[-1])
    assert "Success" in last.text
    assert f"run {view.run_id}, 1 of 1 tasks have ended" in last.text
    assert last.names <= {"div", "span", "table", "tr", "td"}


def test_elsewhere_a_run_shows_what_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell() is None
    with Flow("quiet") as flow:
        task(lambda: 1, name="one")()
    flow.run()
    assert capsys.readouterr().err == ""
    with config.set(progress="always"):
        flow.run()
    assert "one: Success in" in capsys.readouterr().err
    with config.set(progress="never"):
        assert type(progress_of_settings()) is Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "is_live"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm", "CI": "true"}, False),
        ({"CI": "0"}, True),
    ],
)
def test_a_terminal_nobody_looks_at_gets_lines(environ: dict[str, str], is_live: bool) -> None:
    assert can_be_live(Terminal(), environ) is is_live
    assert can_be_live(io.StringIO(), environ) is False


def test_breakpoint_in_a_task_gets_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    calls: list[bool] = []
    monkeypatch.setattr(sys, "breakpointhook", lambda *args: calls.append(progress.is_live))
    before = sys.breakpointhook
    progress = LiveProgress(Console(file=Terminal(), force_terminal=True, _environ={}))
    progress(RunStarted(100.0, "etl", "r1", {"parse": "task"}))
    assert progress.is_live
    breakpoint()
    assert calls == [False]
    assert sys.breakpointhook is before


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state", [Success(), Running(), Skipped(), Failed(message=HOSTILE, failure=Failure("E", HOSTILE))], ids=str
)
def test_a_state_is_its_word_and_its_message(state: State) -> None:
    found = Elements(state._repr_html_())
    assert state.name in found.text
    assert "script" not in found.names
    assert "\x1b" not in found.text
    assert ("alert(1)" in found.text) is bool(state.message)


def test_a_run_and_a_map_show_what_they_consist_of() -> None:
    def odd(x: int) -> int:
        if x % 100 == 7:
            raise ValueError(HOSTILE)
        return x

    with Flow("etl") as flow:
        node = task(odd, name=NAME, slug="odd").map(range(1_000))
        task(lambda: 1, name="one")()
    view = flow.run()

    run, many = Elements(view._repr_html_()), Elements(view.result[node]._repr_html_())

    assert "Failed" in run.text
    assert "one" in run.text
    assert "[7]" in many.text
    assert "[907]" in many.text
    assert "… and 990 more" in many.text
    assert many.text == Elements(view.result[node].map_states._repr_html_()).text
    assert {"script"}.isdisjoint(run.names | many.names)


def test_a_flow_is_its_picture_or_else_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    with Flow("pictured") as flow:
        task(lambda: 1, name=NAME)()

    def missing(dot: str, format: str) -> bytes:
        raise GraphvizMissing("no dot")

    monkeypatch.setattr("anabranch.monitoring.pictures.draw._graphviz", missing)
    text = Elements(flow._repr_html_())
    assert {"script"}.isdisjoint(text.names)
    assert "flowchart" in text.text or "graph" in text.text
    monkeypatch.setattr(
        "anabranch.monitoring.pictures.draw._graphviz", lambda dot, format: b"<?xml?><svg><g></g></svg>"
    )
    assert "<svg>" in flow._repr_html_()

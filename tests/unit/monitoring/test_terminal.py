"""Progress, from events that no run has sent."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from anabranch.base.events import ElementBegan, Event, MapAdvanced, RunFinished, RunStarted, TaskChanged
from anabranch.base.run_model import NodeModel, RunModel
from anabranch.base.running_elements import since_text
from anabranch.monitoring.terminal import (
    LINE_EVERY_S,
    MAX_ROWS,
    LiveProgress,
    PlainProgress,
    Progress,
    ended_text,
    observer,
    outcome_text,
    rows_of,
)
from anabranch.states import (
    Cancelled,
    Counts,
    Failed,
    Failure,
    Mapped,
    Paused,
    Pending,
    Retrying,
    Running,
    Skipped,
    State,
    Submitted,
    Success,
    TriggerFailed,
)

HOSTILE = "na\x1b[31mme\r\n\x07\u202e[red]:smile:[/]\ud800"
ESCAPED = r"na\x1b[31mme\r\n\x07\u202e[red]:smile:[/]\ud800"
START = datetime(2026, 11, 20, tzinfo=UTC)


def started(*slugs: str, **kinds: str) -> RunStarted:
    nodes: Mapping[str, str] = {**dict.fromkeys(slugs, "task"), **kinds}
    return RunStarted(100.0, "etl", "r1", nodes)


def took(state: State, seconds: float) -> State:
    return replace(state, start_time=START, end_time=START + timedelta(seconds=seconds))


def lines_for(*events: Event) -> list[str]:
    lines: list[str] = []
    progress = PlainProgress(lines.append)
    for event in events:
        progress(event)
    return lines


# What is shown --------------------------------------------------------------------------------------------------------


def test_tasks_are_counted_and_steps_left_out() -> None:
    model = RunModel(NodeModel)
    model.take(started("a", "b", date="parameter", case="condition"))
    for slug in ("date", "case", "a", "a"):
        model.take(TaskChanged(101.0, slug, Success()))
    assert ended_text(model) == "1 of 2 tasks have ended"
    assert [row.slug for row in rows_of(model, MAX_ROWS)[0]] == ["a"]


def test_a_step_that_failed_is_shown() -> None:
    model = RunModel(NodeModel)
    model.take(started("a", case="condition"))
    model.take(TaskChanged(101.0, "case", Failed(message="no")))
    assert [row.slug for row in rows_of(model, MAX_ROWS)[0]] == ["case"]


def test_what_goes_on_and_what_failed_is_shown_before_what_is_done() -> None:
    model = RunModel(NodeModel)
    slugs = [f"t{number}" for number in range(100)]
    model.take(started(*slugs))
    for number, slug in enumerate(slugs[:-1]):
        model.take(TaskChanged(101.0 + number, slug, Failed() if number == 3 else Success()))
    model.take(MapAdvanced(300.0, "t99", 10, 1, 0, 0))
    rows, hidden = rows_of(model, 4)
    assert [row.slug for row in rows] == ["t3", "t97", "t98", "t99"]
    assert len(hidden) == 96


def test_tasks_that_wait_for_a_slot_leave_room_for_what_has_ended(console: Console) -> None:
    # given thirty tasks, handed over at once, of which ten have ended
    slugs = [f"t{number}" for number in range(30)]
    events: list[Event] = [started(*slugs), *(TaskChanged(101.0, slug, Running()) for slug in slugs)]
    events += [TaskChanged(102.0 + i, slug, Failed() if i == 2 else Success()) for i, slug in enumerate(slugs[:10])]
    # when
    lines = block_of(console, *events)
    # then half of the lines are theirs; the failure has its line
    assert [line[:4] for line in lines[:7]] == ["✗ t2", "✓ t4", "✓ t5", "✓ t6", "✓ t7", "✓ t8", "✓ t9"]
    assert [line[:5] for line in lines[7:15]] == [f"► t{i}" for i in range(10, 18)]
    assert lines[15] == "  … and 12 that run or wait, 3 that have ended"


def test_a_map_that_failed_by_others_names_them_and_not_the_class_of_that() -> None:
    failure = Failure("UpstreamFailure", "upstream parse[7] failed with ValueError: 7")
    assert (
        outcome_text(Failed(counts=Counts(10, 9, 0, 1), failure=failure))
        == "1 of 10 elements failed: upstream parse[7] failed with ValueError: 7"
    )


def test_a_node_that_nobody_announced_is_no_reason_to_fail() -> None:
    assert lines_for(TaskChanged(1.0, "new", Success())) == ["new: Success"]
    assert lines_for(MapAdvanced(1.0, "new", 10, 1, 0, 0)) == []


# Plain lines ----------------------------------------------------------------------------------------------------------


def test_a_line_for_each_task_that_ends() -> None:
    lines = lines_for(
        started("a", "b", "c", "d", "e", "f", date="parameter"),
        TaskChanged(100.0, "date", Success(message="given")),
        TaskChanged(100.0, "a", Running()),
        TaskChanged(101.5, "a", took(Success(message="done"), 1.5)),
        TaskChanged(102.0, "b", Retrying(message="attempt 1 of 3 failed with OSError: no")),
        TaskChanged(103.0, "b", took(Failed(message="OSError: no"), 0.25)),
        TaskChanged(103.0, "c", Skipped(message="the condition was false")),
        TaskChanged(103.0, "d", Paused(message="waits for an approval")),
        TaskChanged(103.0, "e", TriggerFailed(message="upstream b failed")),
        TaskChanged(103.0, "f", Cancelled(message="interrupted")),
        RunFinished(103.0, Failed()),
    )
    assert lines == [
        "a: Success in 1.5 s",
        "b: Retrying: attempt 1 of 3 failed with OSError: no",
        "b: Failed in 250 ms: OSError: no",
        "c: Skipped: the condition was false",
        "d: Paused: waits for an approval",
        "e: TriggerFailed: upstream b failed",
        "f: Cancelled: interrupted",
    ]


def test_what_is_on_its_way_has_no_line_of_its_own() -> None:
    states = [Submitted(), Pending(), Submitted(), Running()]
    assert lines_for(started("a"), *(TaskChanged(100.0, "a", state) for state in states)) == []


def test_the_line_of_a_map_that_goes_on_names_what_runs() -> None:
    element = ElementBegan(101.0, "parse", Running(map_index=3, worker="w\x1b1"))
    events = [MapAdvanced(now, "parse", 10, 0, 0, 0) for now in (100.0, 130.0)]
    assert lines_for(started("parse"), element, *events) == [r"parse: 0/10  0.0/s; running: [3] on w\x1b1"]


def test_a_map_has_a_line_every_thirty_seconds_and_one_at_its_end() -> None:
    width, counts = 1000, Counts(1000, 990, 0, 10)
    events: list[Event] = [started("parse")]
    events += [MapAdvanced(100.0 + second, "parse", width, 10 * second, second // 10, 2) for second in range(100)]
    failure = Failure("ValueError", "bad\nrecord", root="parse[3]")
    events += [TaskChanged(200.0, "parse", Failed(counts=counts, failure=failure, message="long"))]

    lines = lines_for(*events)

    assert LINE_EVERY_S == 30
    assert lines == [
        "parse: 300/1,000  3 failed  2 retrying  10/s  1:10 min left",
        "parse: 600/1,000  6 failed  2 retrying  10/s  39.8 s left",
        "parse: 900/1,000  9 failed  2 retrying  10/s  9.8 s left",
        "parse: 10 of 1,000 elements failed in 1:40 min: ValueError: bad",
    ]


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (Mapped(message="x", counts=Counts(3, 3)), "m: 3 elements"),
        (Mapped(message="x", counts=Counts(3, 1, 2)), "m: 3 elements, 2 skipped"),
        (Mapped(message="no elements", counts=Counts()), "m: Mapped: no elements"),
        (Cancelled(message="x", counts=Counts(3, 1, 0, 2, 2)), "m: 2 of 3 elements cancelled"),
    ],
)
def test_a_map_is_told_by_its_counts(state: State, line: str) -> None:
    assert lines_for(TaskChanged(1.0, "m", state)) == [line]


def test_names_and_messages_cannot_reach_the_terminal() -> None:
    lines = lines_for(
        started(HOSTILE),
        *(MapAdvanced(100.0 + 31 * number, HOSTILE, 10, number, 0, 0) for number in range(2)),
        TaskChanged(180.0, HOSTILE, Failed(message=HOSTILE * 100)),
    )
    assert len(lines) == 2
    assert all(line.isprintable() and line.startswith(ESCAPED) for line in lines)
    assert len(lines[1]) < 500


# The live block -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal that can be read."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def console() -> Console:
    return Console(
        file=Terminal(), force_terminal=True, width=80, height=24, highlight=False, color_system=None, _environ={}
    )


def block_of(console: Console, *events: Event, now: float = 110.0, notice: str = "") -> list[str]:
    progress = LiveProgress(console, clock=lambda: now)
    for event in events:
        progress._model.take(event)
    progress.notice = notice
    with console.capture() as capture:
        console.print(progress.block())
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]


def test_the_block_has_a_bar_for_what_goes_on_and_a_line_for_what_has_ended(console: Console) -> None:
    lines = block_of(
        console,
        started("files", "parse", "load", "later", root="parameter"),
        TaskChanged(100.0, "root", Success()),
        TaskChanged(101.0, "files", took(Success(message="done"), 1.0)),
        MapAdvanced(102.0, "parse", 1000, 0, 0, 0),
        MapAdvanced(104.0, "parse", 1000, 500, 9, 3),
        TaskChanged(105.0, "load", Running()),
        notice="SIGINT: cancelling",
    )
    assert lines == [
        "✓ files     1.0 s",
        "► parse  ━━━━━━━━────────  500/1,000  9 failed  3 retrying  250/s  2.0 s left",
        "► load      5.0 s",
        "  1 of 4 tasks have ended, 10.0 s",
        "  SIGINT: cancelling",
    ]


def test_the_block_names_elements_that_run_and_where_single_tasks_do(console: Console) -> None:
    # given
    began = datetime.fromtimestamp(100.0, UTC)
    day = since_text(Running(start_time=began))
    elements = [
        ElementBegan(104.0, "parse", Running(map_index=index, start_time=began, worker="w1")) for index in range(15)
    ]
    # when
    lines = block_of(
        console,
        started("parse", "load", "late", "last"),
        MapAdvanced(102.0, "parse", 1000, 0, 0, 0),
        *elements,
        TaskChanged(100.0, "load", Running(start_time=began, worker="w2", attempt=2)),
        TaskChanged(100.0, "late", Submitted()),
        TaskChanged(100.0, "last", Submitted()),
        TaskChanged(101.0, "last", Pending()),
    )
    # then
    assert lines[0].startswith("► parse  ────────────────  0/1,000")
    assert lines[1].startswith(f"  running: [0] {day} on w1, [1] {day}")
    assert lines[2:5] == [
        f"► load     10.0 s  {day} on w2, attempt 2",
        "… late             Submitted",
        "… last             Pending",
    ]


def test_what_runs_is_named_as_far_as_the_terminal_has_room(console: Console) -> None:
    # given more maps that go on than a block has lines
    events: list[Event] = [started(*(f"m{number:02}" for number in range(40)))]
    for number in range(40):
        events.append(MapAdvanced(101.0, f"m{number:02}", 10, 0, 0, 0))
        events.append(ElementBegan(102.0, f"m{number:02}", Running(map_index=1)))
    # when
    lines = block_of(console, *events)
    # then
    assert len(lines) == MAX_ROWS + 2
    assert sum(line == "  running: [1]" for line in lines) == MAX_ROWS // 3


def test_what_runs_is_shown_before_what_waits_for_a_slot(console: Console) -> None:
    slugs = [f"t{number:02}" for number in range(30)]
    events: list[Event] = [started(*slugs), *(TaskChanged(101.0, slug, Submitted()) for slug in slugs)]
    events.append(TaskChanged(102.0, "t29", Running()))
    assert block_of(console, *events)[MAX_ROWS - 1].startswith("► t29")


def test_a_line_is_never_longer_than_the_terminal_is_wide(console: Console) -> None:
    events: list[Event] = [started("x" * 300, "y")]
    events += [TaskChanged(101.0, "x" * 300, Failed(message="m" * 1000)), TaskChanged(101.0, "y", Success())]
    lines = block_of(console, *events)
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("✗ " + "x" * 25 + "…")  # a third of the terminal is for names
    assert lines[1] == "✓ y"


def test_the_block_is_never_higher_than_the_terminal(console: Console) -> None:
    slugs = [f"t{number}" for number in range(100)]
    events: list[Event] = [started(*slugs), *(TaskChanged(101.0, slug, Success()) for slug in slugs)]
    assert len(block_of(console, *events)) == MAX_ROWS + 2
    assert "  … and 85 that have ended" in block_of(console, *events)


def test_the_block_shows_hostile_names_escaped_and_takes_no_markup(console: Console) -> None:
    lines = block_of(
        console,
        started(HOSTILE, "[bold]m"),
        TaskChanged(101.0, HOSTILE, Failed(message=HOSTILE)),
        MapAdvanced(101.0, "[bold]m", 2, 1, 0, 0),
    )
    assert all(line.isprintable() for line in lines)
    assert r"na\x1b[31mme\r\n\x07" in lines[0]
    assert lines[1].startswith("► [bold]m")


def test_a_terminal_without_these_symbols_gets_others() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=file, force_terminal=True, width=80, color_system=None, _environ={})
    assert console.encoding == "ascii"
    progress = LiveProgress(console)
    for event in (started("a", "b"), TaskChanged(1.0, "a", Success()), MapAdvanced(1.0, "b", 2, 1, 0, 0)):
        progress._model.take(event)
    console.print(progress.block())
    file.seek(0)
    assert "+ a" in file.read()


def test_the_block_is_drawn_while_the_run_goes_on_and_stays_at_its_end(console: Console) -> None:
    terminal = console.file
    assert isinstance(terminal, Terminal)
    with LiveProgress(console) as progress:
        progress(started("a"))
        assert progress.is_live
        progress(TaskChanged(101.0, "a", took(Success(message="done"), 1.0)))
        progress(RunFinished(101.0, Success()))
        assert not progress.is_live
    text = terminal.getvalue()
    assert text.startswith("\x1b[?25l")  # the cursor is hidden
    assert text.rstrip().endswith("\x1b[?25h")  # and shown again
    assert "✓ a     1.0 s" in text


def test_a_run_that_dies_leaves_the_terminal_as_it_was(console: Console) -> None:
    progress = LiveProgress(console)
    progress(started("a"))
    with pytest.raises(ZeroDivisionError), progress:
        1 / 0  # noqa: B018  # anything that raises
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")  # type: ignore[attr-defined]


def test_the_block_can_be_drawn_while_events_come(console: Console) -> None:
    """The block is drawn by a thread of its own, which must not trip over rows that are added meanwhile."""
    import threading

    progress = LiveProgress(console)
    progress._model.take(started())
    errors: list[Exception] = []
    over = threading.Event()

    def draw() -> None:
        while not over.is_set():
            try:
                progress.block()
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=draw)
    thread.start()
    end = time.monotonic() + 0.5
    number = 0
    while time.monotonic() < end:
        number += 1
        progress._model.take(MapAdvanced(100.0 + number, f"t{number % 500}", 100, number % 100, 0, 0))
    over.set()
    thread.join()
    assert errors == []


# Which one ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_a_live_block_on_a_terminal_and_lines_elsewhere(terminal: Terminal) -> None:
    assert isinstance(observer("auto", terminal, environ={"TERM": "xterm"}), LiveProgress)
    assert isinstance(observer("auto", terminal, environ={"TERM": "dumb"}), PlainProgress)
    assert isinstance(observer("auto", io.StringIO(), environ={"TERM": "xterm"}), PlainProgress)
    assert isinstance(observer("always", io.StringIO(), environ={}), PlainProgress)
    assert type(observer("never", terminal)) is Progress


def test_plain_lines_have_no_escapes_and_are_written_at_once() -> None:
    stream = io.StringIO()
    progress = observer("auto", stream)
    progress(started("a"))
    progress(TaskChanged(101.0, "a", Success()))
    assert stream.getvalue() == "a: Success\n"


def test_no_color_takes_the_colours_and_leaves_the_block(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with observer("auto", terminal) as progress:
        progress(started("a"))
        progress(TaskChanged(101.0, "a", Failed(message="no")))
        progress(RunFinished(102.0, Failed()))
    assert "✗ a" in terminal.getvalue()
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", terminal.getvalue())

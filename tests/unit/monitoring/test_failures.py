"""What a failed run has to say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, case, task
from anabranch.monitoring.failures import FURTHER_LINES, failure_lines, grouped, own_place, shown_path, tolerated_lines
from anabranch.runs.view import FlowRunView
from anabranch.states import Failed, Failure
from anabranch.triggers import all_finished


@task
def numbers(count: int) -> list[int]:
    return list(range(count))


@task
def half(number: int) -> int:
    if number % 10 == 7:
        raise ValueError(f"{number} is odd")  # the line that is shown
    if number % 50 == 3:
        raise KeyError(number)
    return number // 2


@task
def total(halves: list[int]) -> int:
    return sum(halves)


@task(trigger=all_finished)
def count_all(halves: list[Any]) -> int:
    return len(halves)


def run(build: Callable[[], object]) -> FlowRunView:
    with Flow("f") as flow:
        build()
    return flow.run()


def line_of(text: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def steps(folder: Path, text: str) -> FlowRunView:
    """A run whose task failed in the second line of ``steps.py``."""
    file = folder / "steps.py"
    file.write_text(text, encoding="utf-8")
    names: dict[str, Any] = {"__name__": "steps"}
    exec(compile(text, str(file), "exec"), names)
    return run(lambda: task(names["ratio"])(0))


def excerpt(view: FlowRunView) -> list[str]:
    return [line for line in failure_lines(view) if line.lstrip(" ❱").partition(" ")[0].isdigit()]


# Whole reports --------------------------------------------------------------------------------------------------------


def test_the_root_cause_is_shown_once_and_the_others_are_counted() -> None:
    view = run(lambda: total(half.map(numbers(100))))
    here, odd = shown_path(__file__), line_of("the line that is shown")

    assert failure_lines(view) == [
        "✗ half[7] failed",
        "    inputs   number=7",
        f"  {here}:{odd} in half",
        f"    {odd - 3}  @task",
        f"    {odd - 2}  def half(number: int) -> int:",
        f"    {odd - 1}      if number % 10 == 7:",
        f'  ❱ {odd}          raise ValueError(f"{{number}} is odd")  # the line that is shown',
        f"    {odd + 1}      if number % 50 == 3:",
        "  ValueError: 7 is odd",
        "  12 of 100 elements failed: "
        f"10 × ValueError {here}:{odd} (7, 17, 27, …), 2 × KeyError {here}:{odd + 2} (3, 53)",
        "",
        "  held up by that: total",
    ]


def test_maps_that_fail_one_after_the_other_are_shown_one_after_the_other() -> None:
    lines = failure_lines(run(lambda: half.map(half.map(numbers(20)))))
    assert [line for line in lines if line.startswith("✗")] == ["✗ half[7] failed", "✗ half-1[14] failed"]


def test_a_single_task_is_shown_without_counts() -> None:
    @task(max_retries=1, retry_delay=0)
    def load(path: str, limit: int) -> None:
        open(path + "x").close()

    view = run(lambda: load("/no/such/file", 3))
    lines = failure_lines(view)

    assert lines[0] == "✗ load failed after 2 tries"
    assert lines[1] == "    inputs   path='/no/such/file'  limit=3"
    assert lines[-1] == "  FileNotFoundError: [Errno 2] No such file or directory: '/no/such/filex'"
    assert sum("❱" in line for line in lines) == 1


def test_the_users_own_line_is_shown_where_a_library_raised() -> None:
    @task
    def parse(text: str) -> Any:
        import json

        return json.loads(text)  # our own line

    view = run(lambda: parse("{"))
    lines = failure_lines(view)

    assert f"  ❱ {line_of('# our own line')}          return json.loads(text)  # our own line" in lines
    assert any(line.startswith("  raised in ") and "decoder.py" in line for line in lines)


def test_the_lines_around_are_shown(tmp_path: Path) -> None:
    view = steps(tmp_path, "def ratio(x):\n    return 1 / x  # here\n")
    assert excerpt(view) == ["    1  def ratio(x):", "  ❱ 2      return 1 / x  # here"]


@pytest.mark.parametrize("now", [None, "", "# new\ndef ratio(x):\n    return 1 / x  # here\n"])
def test_the_line_that_failed_is_shown_where_its_file_is_another_or_gone(tmp_path: Path, now: str | None) -> None:
    view = steps(tmp_path, "def ratio(x):\n    return 1 / x  # here\n")
    if now is None:
        (tmp_path / "steps.py").unlink()
    else:
        (tmp_path / "steps.py").write_text(now, encoding="utf-8")
    assert excerpt(view) == ["  ❱ 2  return 1 / x  # here"]


def test_what_looks_like_frames_in_a_message_is_none() -> None:
    @task
    def fail() -> None:
        raise RuntimeError('Traceback (most recent call last):\n  File "/remote/x.py", line 1, in y\n')  # ours

    lines = failure_lines(run(fail))
    assert lines[1] == f"  {shown_path(__file__)}:{line_of('# ours')} in fail"
    assert not any("raised in" in line for line in lines)


def test_notes_causes_and_long_messages() -> None:
    @task
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            problem = RuntimeError("\n".join(f"line {number}" for number in range(30)) + "\n" + "x" * 1000)
            problem.add_note("a hint")
            raise problem from error

    @task
    def noted() -> None:
        problem = ValueError("short")
        problem.add_note("a hint")
        raise problem

    lines = failure_lines(run(fail))
    assert "  RuntimeError: line 0" in lines
    assert "  line 11" in lines
    assert "  … 20 more lines" in lines
    assert lines[-1] == "  caused by KeyError: 'first'"

    assert failure_lines(run(noted))[-2:] == ["  ValueError: short", "  a hint"]


def test_in_full_there_is_the_traceback() -> None:
    view = run(lambda: half(7))
    lines = failure_lines(view, in_full=True)
    assert lines[2] == "  Traceback (most recent call last):"
    assert lines[-1] == "  ValueError: 7 is odd"


def test_three_tasks_are_shown_and_the_others_listed() -> None:
    view = run(lambda: [half(7) for _ in range(12)])
    lines = failure_lines(view)
    assert sum(line.startswith("✗ half") for line in lines) == 3
    assert "✗ 9 more tasks failed" in lines
    assert f"    half-3: ValueError: 7 is odd {shown_path(__file__)}:{line_of('the line that is shown')}" in lines
    assert lines[-1] == "    … and 3 more"


def test_what_does_not_fit_on_the_screen_beside_the_first_cause_is_told_in_a_line() -> None:
    view = run(lambda: [half(7) for _ in range(3)])
    lines = failure_lines(view, height=24)
    assert sum(line.startswith("✗ half") for line in lines) == 1
    assert "✗ 2 more tasks failed" in lines
    assert len(lines) + FURTHER_LINES <= 24
    assert failure_lines(view, height=60) == failure_lines(view)


def test_what_a_run_tolerates_is_a_line_for_each_task() -> None:
    view = run(lambda: count_all(half.map(numbers(10))))
    number = line_of("the line that is shown")
    assert view.state.is_successful()
    (line,) = tolerated_lines(view)
    assert line.startswith("half: 2 of 10 elements failed: 1 × ")
    assert f"1 × ValueError {shown_path(__file__)}:{number} (7)" in line


def test_a_run_that_ended_well_has_nothing_to_say() -> None:
    view = run(lambda: total(half.map(numbers(3))))
    assert failure_lines(view) == []
    assert tolerated_lines(view) == []


def test_a_run_that_a_handler_failed_is_shown_with_its_message() -> None:
    with Flow("f", state_handlers=[lambda flow, old, new: Failed(message="not today")]) as flow:
        numbers(1)
    view = flow.run()
    assert failure_lines(view) == ["✗ the flow run failed", "  Failed: not today"]


def test_a_condition_that_failed_is_shown_too() -> None:
    @task
    def broken() -> bool:
        raise OSError("no")

    def build() -> None:
        with case(broken(), True):
            numbers(1)

    lines = failure_lines(run(build))
    assert lines[0] == "✗ broken failed"
    assert lines[-1].startswith("  held up by that: ")


# Hostile texts --------------------------------------------------------------------------------------------------------


def test_nothing_of_the_users_can_move_the_cursor() -> None:
    hostile = "\x1b[2J\x07\u202e\r\n\x9b1m\ud800"

    class Input:
        def __repr__(self) -> str:
            return hostile

    @task
    def fail(value: Any) -> None:
        raise ValueError(hostile)

    for in_full in (False, True):
        lines = failure_lines(run(lambda: fail(Input())), in_full=in_full)
        assert all(line.isprintable() for line in lines)
        assert any(r"\x1b[2J\x07\u202e" in line for line in lines)


@pytest.mark.parametrize("text", ["\x1b[2J\nx", "a" * 100_000, "", "(which led to)", 'File "x", line 1, in y'])
def test_no_failure_is_too_odd_to_be_shown(text: str) -> None:
    for failure in (
        Failure(text, text, traceback=text, line=text, inputs={text: text}, root=text),
        Failure(text, text, traceback=f'  File "{text}", line 3, in {text}\n', line=f"{text}:3 in {text}"),
    ):
        groups = grouped([(text, Failed(failure=failure)), (f"{text}[3]", Failed(failure=failure, map_index=3))])
        assert list(groups) == [text]
        assert sum(group.count for group in groups[text]) == 2


# Places ---------------------------------------------------------------------------------------------------------------


def test_the_innermost_line_of_the_users_own_is_preferred() -> None:
    trace = (
        "Traceback (most recent call last):\n"
        '  File "/app/etl.py", line 3, in outer\n    inner()\n'
        '  File "/app/etl.py", line 9, in inner\n    json.loads(x)\n'
        '  File "/usr/lib/python3.12/json/__init__.py", line 346, in loads\n    return 1\n'
        '  File "/app/.venv/lib/python3.12/site-packages/x/y.py", line 1, in z\n    return 1\n'
    )
    place = own_place(Failure("E", "m", traceback=trace, line="/app/.venv/lib/x.py:1 in z"))
    assert place is not None
    assert (place.file, place.line, place.function) == ("/app/etl.py", 9, "inner")


def test_without_a_traceback_the_line_is_what_there_is() -> None:
    place = own_place(Failure("E", "m", line="C:\\etl.py:9 in inner"))
    assert place is not None
    assert (place.file, place.line) == ("C:\\etl.py", 9)
    assert own_place(Failure("E", "m")) is None


def test_a_line_of_our_own_is_not_shown() -> None:
    import anabranch.engine.driver.driver as engine

    assert own_place(Failure("TaskTimeout", "too slow", line=f"{engine.__file__}:9 in f")) is None


def test_a_path_is_shown_from_here_if_it_is_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(str(tmp_path / "sub" / "etl.py")) == str(Path("sub", "etl.py"))
    assert shown_path(str(tmp_path.parent / "etl.py")) == str(tmp_path.parent / "etl.py")

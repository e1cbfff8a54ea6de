"""An attempt of a recorded run, run again with the inputs that it had."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from anabranch import Flow, Parameter, case, context, executors, replay, task
from anabranch.cli import anabranch
from anabranch.errors import ReplayError
from anabranch.triggers import all_finished

FLOW = """
from anabranch import Flow, Parameter, context, task, unmapped
from anabranch.triggers import all_finished

@task
def numbers(limit):
    return list(range(limit))

@task(max_retries=1)
def parse(x, encoding, token):
    if x == 7:
        raise ValueError(f"cannot read {x} as {encoding}")
    return x * 10

@task(trigger=all_finished)
def total(xs, large):
    context.logger.warning("adding %d", len(xs))
    return sum(x for x in xs if isinstance(x, int)) + len(large)

@task
def big():
    return b"x" * 100_000

with Flow("replayed") as flow:
    limit = Parameter("limit", default=10)
    token = Parameter("token", default=None)
    total(parse.map(numbers(limit), unmapped({"name": "utf-8"}), unmapped(token)), big())
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    path = tmp_path / "replayed.py"
    path.write_text(FLOW)
    return path


def loaded(path: Path) -> Flow:
    from anabranch.flows.loading import load_flow

    return load_flow(str(path)).flow


def cli(*arguments: str, **more: Any) -> Result:
    return CliRunner().invoke(anabranch, list(arguments), **more)


def test_an_element_has_the_inputs_that_it_had(file: Path) -> None:
    run = loaded(file).run(limit=12, token="sw0rdfish").run_id

    assert replay(run, "parse", 3, parameters={"token": "sw0rdfish"}) == 30
    with pytest.raises(ValueError, match=r"cannot read 7 as \{'name': 'utf-8'\}"):
        replay(run, "parse[7]", parameters={"token": "sw0rdfish"})
    with pytest.raises(ValueError, match="cannot read 7"):  # the first that failed
        replay(run[:6], "parse", parameters={"token": "sw0rdfish"})


def test_an_input_that_cannot_be_had_is_named_with_the_reason_and_can_be_given(file: Path) -> None:
    run = loaded(file).run(token="sw0rdfish").run_id

    with pytest.raises(ReplayError, match=r"token: parameter token was not recorded; give it again \(parameters="):
        replay(run, "parse[3]")
    with pytest.raises(ReplayError, match=r"large: the value of big was not recorded: larger than"):
        replay(run, "total")

    assert replay(run, "total", inputs={"large": b"123"}) == 10 * (45 - 7) + 3


def test_what_a_task_sees_of_its_run_is_what_it_was() -> None:
    @task(max_retries=2)
    def look(x: int) -> Any:
        seen = (context.run_id, context.map_index, context.task_run_count, context.parameters["p"])
        if context.task_run_count < 3:
            raise ValueError(seen)
        raise KeyError(seen)

    with Flow("looked") as flow:
        Parameter("p", default=5)
        look.map([4])
    view = flow.run()

    with pytest.raises(KeyError) as caught:
        replay(view.run_id, look, 0, flow=flow)

    assert caught.value.args[0] == (view.run_id, 0, 3, 5)
    assert str(caught.value) == str(view["look"].map_states[0].result)


def test_values_of_every_kind_of_node_upstream_are_found() -> None:
    @task
    def odd(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    with Flow("kinds") as flow:
        xs = odd.map([0, 1, 2])
        all_of = task(lambda xs: [str(x) for x in xs], name="strings", trigger=all_finished)(xs)
        n = task(lambda: {"a": [1, 2]}, name="mapping")()
        parts = task(lambda a, b: (a, b), name="parts")(n["a"], [n, 5])
        same = task(lambda x, k: (x, k), name="pairs").map([1, 2], n["a"])
        with case(task(lambda: True, name="yes")(), True):
            task(lambda: "taken", name="branch")()
    view = flow.run()

    assert replay(view.run_id, all_of, flow=flow) == ["0", "1", "2"]
    assert replay(view.run_id, parts, flow=flow) == ([1, 2], [{"a": [1, 2]}, 5])
    assert replay(view.run_id, same, 1, flow=flow) == (2, 2)
    assert replay(view.run_id, "branch", flow=flow) == "taken"
    assert replay(view.run_id, odd, 2, flow=flow) == 2


@pytest.mark.parametrize(
    ("task", "index", "message"),
    [
        ("parse[99]", None, r"parse\[99\] is no element of run .*: it has 10 elements"),
        ("pars", None, "has no task 'pars'; it has: .*; did you mean 'parse'"),
        ("total", 3, "total is no map, found element 3"),
        ("parse[1]", 2, "which element: parse"),
        ("limit", None, "limit is a parameter of the flow, not a task"),
        ("numbers", None, None),
    ],
)
def test_mistakes_are_told(file: Path, task: str, index: int | None, message: str | None) -> None:
    run = loaded(file).run().run_id
    if message is None:
        assert replay(run, task, index) == list(range(10))
        return
    with pytest.raises(ReplayError, match=message):
        replay(run, task, index)


def test_a_flow_that_is_not_where_it_was_must_be_given(file: Path) -> None:
    flow = loaded(file)
    run = flow.run().run_id
    file.unlink()
    with pytest.raises(ReplayError, match="has moved since run"):
        replay(run, "numbers")
    assert replay(run, "numbers", flow=flow) == list(range(10))


def test_nothing_is_recorded_and_code_that_has_changed_is_told_of(file: Path) -> None:
    run = loaded(file).run().run_id
    file.write_text(FLOW.replace("x * 10", "x * 11").replace("x == 7", "False"))

    told = cli("replay", run, "parse[7]")

    assert told.exit_code == 0
    assert "parse[7] = 77" in told.stdout
    assert "its code has changed since" in told.stderr
    assert "was Failed, attempt 2" in told.stderr
    assert "ValueError: cannot read 7" in told.stderr
    assert "x = 7" in told.stderr
    assert cli("ls", "--json").stdout.count('"run_id"') == 1


def test_the_command_line_shows_the_traceback_of_the_task_alone(file: Path) -> None:
    run = loaded(file).run().run_id

    told = cli("replay", run, "parse")

    assert told.exit_code == 1
    assert "replayed.py" in told.stderr
    assert "ValueError: cannot read 7" in told.stderr
    assert "replaying.py" not in told.stderr


def test_what_is_missing_is_shown_before_anything_is_run(file: Path) -> None:
    run = loaded(file).run(token="sw0rdfish").run_id

    told = cli("replay", run, "parse[3]")
    assert (told.exit_code, told.stdout) == (2, "")
    assert "token: missing: parameter token was not recorded" in told.stderr
    assert "lacks inputs; give them with -i NAME=JSON" in told.stderr
    shown = cli("replay", run, "parse[3]", "--dry-run", "-p", "token=sw0rdfish")
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "token = '***'" in shown.stderr
    assert cli("replay", run, "parse[3]", "-p", "token=sw0rdfish").stdout == "parse[3] = 30\n"
    assert cli("replay", run, "total", "-i", "large=[1, 2]").stdout == "total = 382\n"
    assert cli("replay", run, "no").exit_code == 2
    assert cli("replay", "nosuchrun", "parse").exit_code == 2


def test_pdb_stops_at_the_first_line_and_where_it_raises(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = loaded(file).run().run_id
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("p 'here', x\ncontinue\np 'there', encoding\nquit\n"))
    monkeypatch.setattr(sys, "stdout", screen)

    with pytest.raises(ValueError, match="cannot read 7"):
        replay(run, "parse[7]", pdb=True)

    assert "('here', 7)" in screen.getvalue()
    assert "('there', {'name': 'utf-8'})" in screen.getvalue()


def test_who_quits_the_debugger_is_given_no_value(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = loaded(file).run().run_id
    monkeypatch.setattr(sys, "stdin", io.StringIO("quit\n"))
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    with pytest.raises(ReplayError, match="the debugger was quit, so the attempt did not end"):
        replay(run, "parse[3]", pdb=True)


def test_elements_of_a_run_on_threads_are_found_too(file: Path) -> None:
    run = loaded(file).run(limit=200, executor=executors.LocalDaskExecutor(num_workers=2)).run_id
    assert replay(run, "parse", 150) == 1500

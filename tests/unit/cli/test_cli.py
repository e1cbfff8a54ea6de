"""Commands, their messages and exit codes, in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import anabranch
from anabranch.base.settings import config
from anabranch.cli import anabranch as command

ETL = """
from datetime import date
from anabranch import *

@task
def extract(count: int) -> list:
    print("extracting")
    return list(range(count))

@task
def transform(n, factor=2):
    if n % 50 == 37:
        raise ValueError(f"bad record {n}")
    return n * factor

@task
def load(records, day) -> str:
    return f"{sum(records)} on {day}"

with Flow("etl") as flow:
    count = Parameter("count", default=10, type=int)
    day = Parameter("day", default=date(2026, 11, 20), type=date)
    load(transform.map(extract(count)), day)
"""

ECHO = """
from anabranch import *

@task
def show(**values):
    return values

with Flow("echo") as flow:
    show({parameters})
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test in a directory of its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def call(*arguments: str, **kwargs: str) -> Result:
    result = CliRunner().invoke(command, list(arguments), prog_name="anabranch", **kwargs)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def echo(parameters: str, *arguments: str, **kwargs: str) -> Result:
    """Run a flow that gives its parameters back."""
    write("echo.py", ECHO.replace("{parameters}", parameters))
    return call("run", "echo.py", "--json", *arguments, **kwargs)


def echoed(parameters: str, *arguments: str, **kwargs: str) -> object:
    result = echo(parameters, *arguments, **kwargs)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["results"]["show"]


# The group ------------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for name in ("run", "validate", "visualize", "demo"):
        assert f"\n  {name} " in result.stdout
    assert "Exit codes: 0 success" in result.stdout


def test_version() -> None:
    assert call("--version").stdout == f"anabranch {anabranch.__version__}\n"


def test_an_unknown_command_is_a_usage_error() -> None:
    result = call("rum")
    assert result.exit_code == 2
    assert "No such command 'rum'" in result.stderr


# Running --------------------------------------------------------------------------------------------------------------


def test_a_run_tells_of_itself_on_stderr_and_gives_values_on_stdout() -> None:
    write("etl.py", ETL)
    result = call("run", "etl.py", "--count", "5", "--day", "2026-11-21")
    assert result.exit_code == 0
    assert result.stdout == "extracting\nload = '20 on 2026-11-21'\n"
    first, *progress, last = result.stderr.splitlines()
    assert first.startswith("etl: run ")
    assert first.endswith(" in this process, one task at a time")
    assert [line.partition(":")[0] for line in progress] == ["extract", "transform", "load"]
    assert last.startswith("etl: Success after ")
    assert last.endswith("; 3 tasks: 3 successful; 5 elements: 5 successful")
    assert "\x1b" not in result.output


def test_a_failed_run_shows_why_and_exits_1() -> None:
    write("etl.py", ETL)
    result = call("run", "etl.py", "--count", "100")
    assert result.exit_code == 1
    assert result.stdout == "extracting\n"
    assert "✗ transform[37] failed\n    inputs   n=37\n  etl.py:13 in transform\n" in result.stderr
    assert "  ❱ 13          raise ValueError(" in result.stderr
    assert "  2 of 100 elements failed: 2 × ValueError etl.py:13 (37, 87)\n\n  held up by that: load\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].endswith(
        "; 3 tasks: 1 successful, 1 failed, 1 held up; 100 elements: 98 successful, 2 failed"
    )


def test_verbose_has_the_traceback_and_quiet_only_what_went_wrong() -> None:
    write("etl.py", ETL)
    assert "Traceback (most recent call last)" in call("run", "etl.py", "--count", "100", "-v").stderr
    assert call("run", "etl.py", "-q").stderr == ""
    assert call("run", "etl.py", "-q", "--count", "100").stderr.startswith("\n✗ transform[37] failed")
    both = call("run", "etl.py", "-q", "-v")
    assert both.exit_code == 2
    assert "--quiet and --verbose exclude each other" in both.stderr


def test_progress_is_shown_or_not_as_asked_for() -> None:
    write("etl.py", ETL)
    assert "transform: 10 elements" in call("run", "etl.py").stderr
    assert "transform: 10 elements" not in call("run", "etl.py", "--no-progress").stderr
    assert "transform: 10 elements" in call("run", "etl.py", "--progress", "-q").stderr
    with anabranch.config.set(progress="never"):
        assert "transform: 10 elements" not in call("run", "etl.py").stderr


def test_json_has_standard_output_for_itself() -> None:
    write("etl.py", ETL)
    result = call("run", "etl.py", "--json")
    outcome = json.loads(result.stdout)
    assert "extracting\n" in result.stderr
    assert {name: outcome[name] for name in ("flow", "state", "results", "failures", "failures_total")} == {
        "flow": "etl",
        "state": "Success",
        "results": {"load": "90 on 2026-11-20"},
        "failures": [],
        "failures_total": 0,
    }
    counts = {"total": 10, "successful": 10, "failed": 0, "cancelled": 0, "skipped": 0}
    assert outcome["tasks"]["transform"]["elements"] == counts
    assert outcome["duration_s"] > 0


def test_json_of_a_failed_run_has_the_failures() -> None:
    write("etl.py", ETL)
    result = call("run", "etl.py", "--json", "--count", "100")
    outcome = json.loads(result.stdout)
    assert result.exit_code == 1
    assert outcome["state"] == "Failed"
    assert outcome["failures_total"] == 2
    assert outcome["failures"][0]["task_run"] == "transform[37]"
    assert outcome["failures"][0]["exception"] == "ValueError"
    assert outcome["failures"][0]["inputs"] == {"n": "37"}
    assert outcome["results"] == {}


def test_json_holds_what_json_has_no_word_for() -> None:
    write(
        "odd.py",
        "from anabranch import *\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
        "@dataclass\nclass Record:\n    path: Path\n    tags: set\n"
        "class Odd:\n    def __repr__(self): raise OSError\n"
        "@task\ndef record(): return Record(Path('a'), {1})\n"
        "@task\ndef odd(): return Odd()\n"
        "@task\ndef numbers(): return [float('nan'), float('inf'), b'\\xff', '\\ud800']\n"
        "@task\ndef loop():\n    x = []\n    x.append(x)\n    return x\n"
        "with Flow('odd') as flow:\n    record(); odd(); numbers(); loop()\n",
    )
    result = call("run", "odd.py", "--json")
    assert result.exit_code == 0, result.stderr
    results = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))["results"]
    assert results["record"] == {"path": "a", "tags": [1]}
    assert results["odd"].startswith("<Odd instance at")
    assert "[...]" in results["loop"] or "..." in results["loop"]
    assert call("run", "odd.py").exit_code == 0


def test_values_are_shortened_and_cannot_reach_the_terminal() -> None:
    write(
        "etl.py",
        "from anabranch import *\n@task\ndef wide(): return ['\\x1b[2J' * 50] * 100_000\n"
        "@task\ndef nothing(): pass\nwith Flow('f') as flow:\n    wide(); nothing()\n",
    )
    result = call("run", "etl.py")
    (line,) = result.stdout.splitlines()
    assert line.isprintable()
    assert line.startswith(r"wide = ['\x1b[2J")
    assert len(line) < 600


def test_values_of_other_tasks_are_shown_if_they_are_to_be_kept() -> None:
    write("etl.py", ETL)
    assert "transform = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]\n" in call("run", "etl.py", "--keep", "transform").stdout
    assert call("run", "etl.py", "--keep", "all").stdout.count(" = ") == 3
    refused = call("run", "etl.py", "--keep", "transfrom")
    assert refused.exit_code == 2
    assert "flow 'etl' has no task 'transfrom'; did you mean 'transform'?" in refused.stderr


def test_what_a_run_tolerates_is_told_and_the_exit_code_is_0() -> None:
    write("etl.py", ETL.replace("@task\ndef load", "@task(trigger=triggers.all_finished)\ndef load").replace(
        "{sum(records)}", "{len(records)}"
    ))  # fmt: skip
    result = call("run", "etl.py", "--count", "100")
    assert result.exit_code == 0
    assert "  transform: 2 of 100 elements failed: 2 × ValueError etl.py:13 (37, 87)\n" in result.stderr
    assert "etl: Success after" in result.stderr


def test_a_paused_run_exits_5_and_says_how_to_go_on() -> None:
    write(
        "etl.py",
        "from anabranch import *\n@task(trigger=triggers.manual_only)\ndef publish(): return 1\n"
        "with Flow('f') as flow: publish()\n",
    )
    result = call("run", "etl.py")
    assert result.exit_code == 5
    assert "f: Paused (waits for an approval: publish) after" in result.stderr
    assert "run it again with --approve TASK" in result.stderr
    approved = call("run", "etl.py", "--approve", "publish")
    assert (approved.exit_code, approved.stdout) == (0, "publish = 1\n")


def test_a_cancelled_run_exits_5() -> None:
    write(
        "etl.py",
        "from anabranch import *\n@task\ndef stop(): raise CANCEL('enough')\nwith Flow('f') as flow: stop()\n",
    )
    result = call("run", "etl.py")
    assert result.exit_code == 5
    assert "f: Cancelled" in result.stderr


def test_a_handler_of_the_flow_that_raises_is_shown_with_its_line() -> None:
    write(
        "etl.py",
        "from anabranch import *\ndef handler(flow, old, new):\n    1 / 0  # here\n"
        "with Flow('f', state_handlers=[handler]) as flow: Parameter('x', default=1)\n",
    )
    result = call("run", "etl.py")
    assert result.exit_code == 1
    assert "1 / 0  # here" in result.stderr
    assert "ZeroDivisionError" in result.stderr


def test_a_script_is_loaded_up_to_the_line_that_runs_its_flow() -> None:
    write("etl.py", f"{ETL}\nprint(flow.run().result)\n")
    result = call("run", "etl.py")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"note: {Path.cwd() / 'etl.py'}:25: this line runs a flow")


def test_what_a_file_prints_while_it_is_loaded_is_not_on_standard_output() -> None:
    write("etl.py", f"print('loading')\n{ETL}")
    assert call("visualize", "etl.py").stdout.startswith("digraph")


# Parameters -----------------------------------------------------------------------------------------------------------


def test_parameters_are_options_that_help_lists() -> None:
    write(
        "etl.py", ETL.replace("type=int)", 'type=int)\n    Parameter("executor")\n    Parameter("kind", choices=["a"])')
    )
    result = call("run", "etl.py", "--help")
    assert result.exit_code == 0
    assert "Usage: anabranch run etl.py [OPTIONS]" in result.stdout
    assert "Parameters of flow 'etl':" in result.stdout
    for words in (
        ["--count int", "default: 10"],
        ["--day date", "default: datetime.date(2026, 11, 20)"],
        ["--kind a", "required"],
        ["-p executor=VALUE", "(the option is ours)"],
    ):
        assert any(all(word in line for word in words) for line in result.stdout.splitlines()), words


def test_help_without_a_file_needs_none() -> None:
    result = call("run", "--help")
    assert result.exit_code == 0
    assert "come after the file" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--x", "3"], 3),
        (["--x=3"], 3),
        (["-p", "x=3"], 3),
        (["--param", 'x="3"'], "3"),
        (["--x", "2026-11-20"], "2026-11-20"),
        (["--x", ""], ""),
        (["--x", "--y"], "--y"),
        (["--x", '{"a": [1]}'], {"a": [1]}),
        (["--x", "-3"], -3),
    ],
)
def test_an_untyped_parameter_is_json_or_text(arguments: list[str], value: object) -> None:
    assert echoed('x=Parameter("x")', *arguments) == {"x": value}


@pytest.mark.parametrize(
    ("kind", "arguments", "value"),
    [
        ("int", ["--x", "3"], 3),
        ("str", ["--x", "3"], "3"),
        ("bool", ["--x"], True),
        ("bool", ["--no-x"], False),
        ("bool", ["-p", "x=no"], False),
        ("list[int]", ["--x", "1", "--x", "2"], [1, 2]),
        ("list[int]", ["--x", "1"], [1]),
        ("list[int]", ["--x", "[1, 2]"], [1, 2]),
        ("list[str]", ["-p", "x=a", "-p", "x=b"], ["a", "b"]),
        ("list[int] | None", ["--x", "null"], None),
        ("dict[str, int]", ["--x", '{"a": 1}'], {"a": 1}),
        ("float | None", ["--x", "1e3"], 1000.0),
    ],
)
def test_a_typed_parameter_is_what_its_type_says(kind: str, arguments: list[str], value: object) -> None:
    assert echoed(f'x=Parameter("x", type={kind})', *arguments) == {"x": value}


def test_values_come_from_a_file_and_the_command_line_wins() -> None:
    write("p.yaml", "x: [1, 2]\ny: from file\n")
    two = 'x=Parameter("x"), y=Parameter("y")'
    assert echoed(two, "--params", "p.yaml", "--y", "given") == {"x": [1, 2], "y": "given"}
    assert echoed(two, "--params", "-", input='{"x": 1, "y": 2}') == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-p", "x"], "expected NAME=VALUE, found 'x'"),
        (["-p", "x="], "expected a value after 'x='"),
        (["-p", "=1"], "expected NAME=VALUE, found '=1'"),
        (["-p", "x=1", "-p", "x=2"], "'x' is given 2 times"),
        (["--x", "1", "--x", "2"], "'x' is given 2 times"),
        (["--x", "1", "-p", "x=2"], "given twice, as --x and as -p"),
        (["--x", '{"a": 1,]'], "at column 9"),
        (["--x", '{"a": 1, "a": 2}'], "the key 'a' twice"),
        (["-p", "x=" + "[" * 1_000_000], "nested too deeply"),
        (["--x"], "requires an argument"),
        (["-p", "xx=1"], "there is no parameter 'xx'"),
        ([], "x: a value is required"),
        (["--z", "1"], "No such option"),
        (["--x", "1", "more"], "unexpected extra argument (more)"),
        (["--x", "1", "--n", "many"], "n: expected int, found 'many'"),
        (["--x", "1", "--params", "nothing.yaml"], "nothing.yaml cannot be read: No such file"),
    ],
)
def test_what_is_wrong_with_parameters_is_told_and_exits_2(arguments: list[str], complaint: str) -> None:
    result = echo('x=Parameter("x"), n=Parameter("n", default=1, type=int)', *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 1000


def test_all_that_is_wrong_with_parameters_is_told_at_once() -> None:
    result = echo('x=Parameter("x"), n=Parameter("n", type=int)', "-p", "nn=3", "--n", "many")
    assert result.exit_code == 2
    assert "it has: 'x', 'n'" in result.stderr
    assert result.stderr.count("\n  - ") == 3


def test_options_of_a_flow_come_after_its_file() -> None:
    write("etl.py", ETL)
    result = call("run", "--count", "5", "etl.py")
    assert result.exit_code == 2
    assert "run has no option --count; put parameters of a flow after its file" in result.stderr
    assert call("run", "--no-progress", "etl.py", "--count", "5").exit_code == 0


# Places ---------------------------------------------------------------------------------------------------------------


def test_executors_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    write("etl.py", ETL)
    result = call("run", "etl.py", "--executor", "threads", "--workers", "3", "--no-progress")
    assert result.exit_code == 0
    assert " in this process, 3 threads\n" in result.stderr


def test_a_flows_own_executor_is_used_unless_another_is_named() -> None:
    write("etl.py", ETL.replace('Flow("etl")', 'Flow("etl", executor=executors.LocalDaskExecutor(num_workers=2))'))
    assert " in this process, 2 threads" in call("run", "etl.py").stderr
    assert " in this process, one task at a time" in call("run", "etl.py", "--executor", "local").stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--executor", "cloud"], "expected local, threads, dask, or a scheduler's address such as tcp://host:8786"),
        (["--executor", "localhost:port"], "found 'localhost:port'"),
        (["--workers", "2"], "--workers goes with --executor threads or --executor dask, found no --executor"),
        (["--executor", "local", "--workers", "2"], "found --executor local"),
        (["--executor", "tcp://x:1", "--workers", "2"], "found --executor tcp://x:1"),
        (["--executor", "dask", "--workers", "0"], "0 is not in the range"),
    ],
)
def test_a_place_that_there_is_not_exits_2(arguments: list[str], complaint: str) -> None:
    write("etl.py", ETL)
    result = call("run", "etl.py", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_no_scheduler_exits_4_and_names_the_address() -> None:
    write("etl.py", ETL)
    with anabranch.config.set(engine__connect_timeout_s=0.3):
        result = call("run", "etl.py", "--executor", "tcp://127.0.0.1:9")
    assert result.exit_code == 4
    assert "Error: no Dask scheduler could be reached at tcp://127.0.0.1:9: nothing listens on port 9" in result.stderr
    assert "Traceback" not in result.stderr


# Loading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "validate", "visualize"])
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import no_such_thing\n", "No module named 'no_such_thing'"),
        ("def f(:\n", "SyntaxError: invalid syntax"),
        ("x = 1\n", "has no flow among its variables"),
        ("from anabranch import *\nFlow('')\n", "flow name"),
        ("from anabranch import *\na, b = Flow('a'), Flow('b')\n", "etl.py has 2 flows; say which: etl.py:a, etl.py:b"),
        (
            "from anabranch import *\n@task\ndef f(x=0): pass\n"
            "with Flow('f') as flow:\n    a = f(); b = f(a); a.set_upstream(b)\n",
            "cycle: f → f-1 → f",
        ),
        ("raise RuntimeError('\\x1b[31m')\n", "RuntimeError: \\x1b[31m"),
    ],
)
def test_a_flow_that_cannot_be_loaded_or_built_exits_3(verb: str, text: str, complaint: str) -> None:
    write("etl.py", text)
    result = call(verb, "etl.py")
    assert result.exit_code == 3
    assert result.stderr.startswith("Error: ")
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_file_that_is_not_there_exits_3() -> None:
    result = call("run", "etl.py", "--x", "1")
    assert result.exit_code == 3
    assert result.stderr == "Error: there is no file etl.py\n"


def test_no_file_at_all_exits_2() -> None:
    result = call("run")
    assert result.exit_code == 2
    assert "Missing argument" in result.stderr


def test_a_bad_setting_exits_2(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask.config

    write("etl.py", ETL)
    with dask.config.set({"anabranch.engine.max-losses": "many"}):
        for arguments in ([], ["--no-progress"], ["-q"]):
            result = call("run", "etl.py", *arguments)
            assert result.exit_code == 2
            assert "setting 'engine.max_losses': expected a whole number" in result.stderr


# Looking --------------------------------------------------------------------------------------------------------------


def test_validate_counts_what_the_flow_has() -> None:
    write("etl.py", ETL)
    result = call("validate", "etl.py")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "etl.py: flow 'etl' is well formed: 3 tasks, 2 parameters\n"


def test_visualize_writes_to_standard_output_or_a_file() -> None:
    write("etl.py", ETL)
    assert call("visualize", "etl.py").stdout.startswith("digraph")
    assert "flowchart" in call("visualize", "etl.py", "--format", "mermaid").stdout
    assert call("visualize", "etl.py", "-o", "etl.mmd").stdout == "etl.mmd\n"
    assert "flowchart" in Path("etl.mmd").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-o", "etl.pdf"], "expected --format, or one of the suffixes"),
        (["-f", "gif"], "'gif' is not one of 'dot', 'mermaid', 'svg', 'png'"),
        (["-f", "svg", "-o", "etl.png"], "png"),
        (["-o", "no/such/dir/etl.dot"], "No such file or directory"),
    ],
)
def test_what_cannot_be_drawn_like_that_exits_2(arguments: list[str], complaint: str) -> None:
    write("etl.py", ETL)
    result = call("visualize", "etl.py", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


# The demo -------------------------------------------------------------------------------------------------------------


def test_the_demo_shows_a_table_and_says_where_the_report_lies() -> None:
    write("good.py", "def f(x):\n    return x or 1\n")
    write("bad.py", "def f(:\n")
    result = call("demo", "--root", ".", "--output", "out", "--executor", "local")
    assert result.exit_code == 0, result.stderr
    assert "1 of 2 files measured in ." in result.stdout
    assert f"\ndata: {Path('out', 'corpus.json').resolve()}\n" in result.stdout
    assert result.stdout.endswith(f"\nreport: {Path('out', 'run.html').resolve()}\n")
    assert "measure: 1 of 2 elements failed" in result.stderr
    assert "1 Failed" in Path("out", "run.html").read_text()


def test_the_demo_without_history_has_no_page_to_show() -> None:
    write("good.py", "x = 1\n")
    with config.set({"backend": "none"}):
        result = call("demo", "--root", ".", "--output", "out", "--executor", "local")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith(f"\ndata: {Path('out', 'corpus.json').resolve()}\n")


def test_the_demo_without_a_report() -> None:
    write("good.py", "x = 1\n")
    result = call("demo", "--root", ".", "--output", "out", "--executor", "threads", "--no-report", "--limit", "1")
    assert result.exit_code == 0, result.stderr
    assert "1 of 1 files measured" in result.stdout
    assert "report:" not in result.stdout
    assert not Path("out").exists()


def test_the_demo_over_a_directory_that_is_not_there_fails() -> None:
    result = call("demo", "--root", "nowhere", "--executor", "local")
    assert result.exit_code == 1
    assert "✗ list_files failed" in result.stderr
    assert result.stdout == ""

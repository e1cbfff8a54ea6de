"""What is said of files for Prefect 1 without running them."""
# ruff: noqa: E501  # each program in a line

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from anabranch.cli import anabranch as command
from anabranch.errors import DefinitionError
from anabranch.prefect.migration import read, rewritten

CORPUS = sorted((Path(__file__).parents[2] / "prefect1_flows").glob("*.py"))
FLOW = """
from prefect import Flow, task

@task
def one(x=1):
    return x

with Flow("f") as flow:
    one()
"""

FAILING = {
    "prefect.Client": "import prefect\nprefect.Client()",
    "prefect.client.client.Client": "from prefect.client.client import Client as C\nC().graphql('x')",
    "prefect.tasks.aws.S3Upload": "from prefect.tasks.aws import S3Upload\nS3Upload(bucket='x')",
    "prefect.tasks.gcp.storage.GCSDownload": "from prefect.tasks import gcp\nimport prefect.tasks.gcp.storage as s\ns.GCSDownload()",
    "prefect.backend.FlowView": "import prefect.backend\nprefect.backend.FlowView.from_id('x')",
    "prefect.schedules.RRuleSchedule": "from prefect import schedules\nschedules.RRuleSchedule(None)",
    "pause_task(duration=)": "from prefect.utilities.tasks import pause_task\npause_task(duration=1)",
    "prefect.engine.TaskRunner": "from prefect.engine import TaskRunner\n\nclass Mine(TaskRunner):\n    pass",
    "KubernetesRun(job_template=)": "from prefect.run_configs import KubernetesRun\nKubernetesRun(image='x', job_template={'a': 1})",
    "flow.diagnostics": f"{FLOW}\nflow.diagnostics()",
    "flow.serialized_hash": f"{FLOW}\nflow.serialized_hash()",
    "flow.run(run_on_schedule=)": f"{FLOW}\nflow.run(run_on_schedule=True)",
    "flow.run(task_states=)": f"{FLOW}\nflow.run(task_states={{}})",
    "flow.run(context=)": f"{FLOW}\nflow.run(context=dict(x=1))",
    "prefect.storage.GitHub": f"from prefect.storage import GitHub\n{FLOW}\nflow.storage = GitHub(repo='x', path='y')\nflow.register('p')",
    "prefect.run_configs.ECSRun": f"import prefect\n{FLOW}\nflow.run_config = prefect.run_configs.ECSRun()\nflow.register('p')",
}


def hands(source: str) -> set[str]:
    return {each.name for each in read(source) if each.kind == "hand"}


@pytest.mark.parametrize("name", FAILING)
def test_what_fails_when_it_is_run_needs_a_hand(name: str):
    with pytest.raises(DefinitionError) as info:
        exec(compile(rewritten(FAILING[name]), "mine.py", "exec"), {})
    assert hands(FAILING[name]) == {name}
    (finding,) = {each.text for each in read(FAILING[name]) if each.kind == "hand"}
    assert finding in str(info.value)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from prefect import nothing_of_the_kind", "prefect.nothing_of_the_kind"),
        ("import prefect\nprefect.engine.nothing", "prefect.engine.nothing"),
        ("import prefect\nprefect.context.get('flow_run_version')", "context.flow_run_version"),
        ("import prefect\nprefect.context['today_nodash']", "context.today_nodash"),
        ("from prefect import context\ndef f():\n    return context.config", "context.config"),
        ("import prefect\nwith prefect.context(x=1):\n    pass", "with context(…)"),
        ("from prefect.engine.results import LocalResult\nLocalResult(nothing=1)", ""),
    ],
)
def test_what_would_fail_in_a_task_needs_a_hand_too(source: str, name: str):
    assert hands(source) == ({name} if name else set())


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_files_that_run_need_a_hand_only_for_what_they_do_not_use(file: Path):
    unused = {
        "client_unused", "library_of_other_systems", "github_and_kubernetes", "docker_run", "everything_at_once",
        "s3_storage_and_script",
    }  # fmt: skip
    found = read(file.read_text(encoding="utf-8"))
    assert (file.stem in unused) == any(each.kind == "hand" for each in found)
    assert any(each.kind == "works" for each in found)
    assert all(each.text for each in found if each.kind != "works")


def test_what_is_otherwise_is_told_with_its_row():
    source = "from prefect.run_configs import KubernetesRun\nx = KubernetesRun(image='i')\n"
    (finding,) = read(source)
    assert (finding.line, finding.kind) == (2, "changed")
    assert "dask_kubernetes.operator.KubeCluster" in finding.text
    named = "from prefect import task\n@task(task_run_name='x')\ndef f(): ...\n"
    assert [each.name for each in read(named) if each.kind == "changed"] == ["task(task_run_name=)"]


def test_names_that_mean_something_else_are_none_of_prefects():
    assert hands("from prefect.engine import state\ndef handle(task, old, state):\n    return state.message") == set()
    assert hands("from prefect.engine import state\nstate = run()\nstate.message") == set()
    assert hands("import prefect\nprefect.__version__, prefect.engine.signals.SKIP") == set()
    assert read("x = 1\nimport prefects, other.prefect\n") == []


# Changed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import prefect", "import anabranch.prefect as prefect"),
        ("import os, prefect as p", "import os, anabranch.prefect as p"),
        ("import prefect.engine", "import anabranch.prefect as prefect, anabranch.prefect.engine"),
        ("import prefect.engine.state as s", "import anabranch.prefect.engine.state as s"),
        ("import prefect, prefect.core", "import anabranch.prefect as prefect, anabranch.prefect.core"),
        ("from prefect import Flow  # prefect", "from anabranch.prefect import Flow  # prefect"),
        (
            "from prefect.core import (\n    Flow,  # a\n)\n",
            "from anabranch.prefect.core import (\n    Flow,  # a\n)\n",
        ),
        ("é = 'prefect'; import prefect; y = 2", "é = 'prefect'; import anabranch.prefect as prefect; y = 2"),
        (
            "import prefect; from prefect import x",
            "import anabranch.prefect as prefect; from anabranch.prefect import x",
        ),
        ("if x:\r\n    import prefect\r\n", "if x:\r\n    import anabranch.prefect as prefect\r\n"),
        ("'''\x0c\u2028'''\nimport prefect", "'''\x0c\u2028'''\nimport anabranch.prefect as prefect"),
        ("from .prefect import x\nimport prefects", "from .prefect import x\nimport prefects"),
    ],
)
def test_imports_are_changed_and_nothing_else(before: str, after: str):
    assert rewritten(before) == after
    assert rewritten(after) == after


@given(
    st.lists(st.sampled_from(["import prefect", "x = 'import prefect'", "# é", "from prefect import a as b, c", ""]))
)
def test_changed_text_is_python_with_as_many_statements(lines: list[str]):
    before = "\n".join(lines)
    after = rewritten(before)
    assert len(ast.parse(after).body) == len(ast.parse(before).body)
    assert not hands(after)


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_a_changed_file_needs_no_prefect(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    source = rewritten(file.read_text(encoding="utf-8")).replace("flow.register(", "(lambda *a, **k: None)(")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exec(compile(source, str(file), "exec"), {"__name__": "mine", "__file__": str(file)})


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_lists_by_file_and_line_and_its_code_says_whether_a_hand_is_needed(tmp_path: Path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(FLOW, encoding="utf-8")
    bad.write_text("import prefect\nprefect.Client()\n", encoding="utf-8")
    fine = CliRunner().invoke(command, ["migrate", str(good)])
    assert (fine.exit_code, fine.stdout) == (0, f"{good}: 2 names work as they are, nothing needs a hand\n")
    both = CliRunner().invoke(command, ["migrate", str(good), str(bad)])
    assert both.exit_code == 1
    assert f"{bad}:2: prefect.Client needs a hand: here: anabranch ls --json" in both.stdout
    assert f"{bad}: 0 names work as they are, 1 need a hand" in both.stdout
    as_json = CliRunner().invoke(command, ["migrate", str(bad), "--json"])
    assert '"kind": "hand"' in as_json.stdout


def test_the_command_changes_files_where_it_is_asked_to_and_shows_how(tmp_path: Path):
    file = tmp_path / "etl.py"
    file.write_bytes(b"\xef\xbb\xbfimport prefect\r\nx = 1\r\n")
    outcome = CliRunner().invoke(command, ["migrate", "--write", str(file)])
    assert "-import prefect\n+import anabranch.prefect as prefect\n" in outcome.stdout
    assert file.read_bytes() == b"\xef\xbb\xbfimport anabranch.prefect as prefect\r\nx = 1\r\n"
    again = CliRunner().invoke(command, ["migrate", "--write", str(file)])
    assert "import" not in again.stdout


def test_what_cannot_be_read_is_said(tmp_path: Path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("print 'x'", encoding="utf-8")
    outcome = CliRunner().invoke(command, ["migrate", str(wrong)])
    assert (outcome.exit_code, "cannot be read as Python" in outcome.output) == (3, True)
    outcome = CliRunner().invoke(command, ["migrate", str(tmp_path / "none.py")])
    assert (outcome.exit_code, "is not a file that can be read: No such" in outcome.output) == (2, True)

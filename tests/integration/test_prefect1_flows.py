"""Files that are written for Prefect 1, in the style of its users, run unchanged with ``anabranch run --prefect``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.postgres_server import PASSWORD, PostgresServer, postgres  # noqa: F401

from anabranch.cli import anabranch as command
from anabranch.flows.registered import register_target
from anabranch.prefect import Flow
from anabranch.prefect.databases import PostgresExecute, PostgresExecuteMany, PostgresFetch

FLOWS = sorted((Path(__file__).parents[1] / "prefect1_flows").glob("*.py"))
CHILD = """
from anabranch import Flow, Parameter, task

@task
def double(n):
    return 2 * n

with Flow("child") as flow:
    double(Parameter("n", default=1.5))
"""


def said(file: Path, what: str, otherwise: str = "") -> str:
    """What a comment at the head of a file says."""
    found = re.search(rf"^# {what}: (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1] if found else otherwise


@pytest.mark.parametrize("file", FLOWS, ids=lambda file: file.stem)
@pytest.mark.filterwarnings("ignore:task_run_name=:UserWarning", "ignore:flow .* is not registered:UserWarning")
def test_a_file_of_prefect_1_runs_unchanged(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # given
    monkeypatch.chdir(tmp_path)
    for pair in said(file, "environment").split():
        monkeypatch.setenv(*pair.split("=", 1))
    if said(file, "registers"):
        (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
        register_target("child.py", project="family")
    # when
    executor = said(file, "executor")
    words = ["run", str(file), "--prefect", "--json", "--keep", "all", *(["--executor", executor] if executor else [])]
    outcome = CliRunner().invoke(command, words)
    # then
    assert outcome.exit_code == 0, outcome.output
    values = json.loads(outcome.stdout)["results"]
    assert {name: values.get(name) for name in gives(file)} == gives(file)


def gives(file: Path) -> dict[str, Any]:
    """Values of tasks that a file says it gives."""
    found: dict[str, Any] = json.loads(said(file, "gives"))
    return found


BY_PREFECT = """
import json, runpy, sys
flow = runpy.run_path(sys.argv[1])["flow"]
state = flow.run(run_on_schedule=False)
print(json.dumps({task.name: each.result for task, each in state.result.items()}, default=str))
"""


@pytest.mark.skipif(find_spec("prefect") is None or find_spec("prefect.core") is None, reason="Prefect 1 is not there")
def test_prefect_1_gives_the_same_values(tmp_path: Path):
    for file in FLOWS:
        if "register(" not in file.read_text(encoding="utf-8") and not said(file, "environment"):
            outcome = subprocess.run([sys.executable, "-c", BY_PREFECT, str(file)], capture_output=True, cwd=tmp_path)
            values = json.loads(outcome.stdout.splitlines()[-1])
            assert {name: values.get(name) for name in gives(file)} == gives(file), file


KUBERNETES = """
from distributed import LocalCluster

class KubeCluster(LocalCluster):
    def __init__(self, image, env, resources):
        assert (image, env, resources) == ("team/image", {"TEA": "green"}, {"limits": {"memory": "1Gi"}})
        super().__init__(n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", env=env)
"""
FLOW = """
import os
import prefect
from prefect import Flow, task
from prefect.run_configs import KubernetesRun

@task
def tea():
    import prefect
    return os.environ["TEA"] + prefect.context.get("task_name")

with Flow("tea", run_config=KubernetesRun(image="team/image", env={"TEA": "green"}, memory_limit="1Gi")) as flow:
    tea()
"""


@pytest.mark.cluster
def test_a_kubernetes_run_runs_on_a_cluster_of_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # given, in place of dask-kubernetes
    (tmp_path / "dask_kubernetes").mkdir()
    (tmp_path / "dask_kubernetes" / "__init__.py").touch()
    (tmp_path / "dask_kubernetes" / "operator.py").write_text(KUBERNETES, encoding="utf-8")
    (tmp_path / "tea.py").write_text(FLOW, encoding="utf-8")
    # when
    words = [sys.executable, "-m", "anabranch", "run", "--prefect", "tea.py", "--json"]
    outcome = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    # then
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["results"] == {"tea": "greentea"}


def test_tasks_speak_to_postgresql(postgres: PostgresServer):  # noqa: F811
    account: dict[str, Any] = {"db_name": "postgres", "user": "tester", "host": "127.0.0.1", "port": postgres.port}
    with Flow("tea") as flow:
        table = PostgresExecute(**account, query="create table tea (n int, word text)", commit=True)(password=PASSWORD)
        rows = PostgresExecuteMany(**account, query="insert into tea values (%s, %s)", commit=True)(
            data=[(1, "a"), (2, "50 %")], password=PASSWORD, upstream_tasks=[table]
        )
        lost = PostgresExecute(**account, query="delete from tea")(password=PASSWORD, upstream_tasks=[rows])
        found = PostgresFetch(**account, query="select * from tea where n > %s order by n", data=(0,), fetch="all")(
            password=PASSWORD, col_names=True, upstream_tasks=[lost]
        )
        like = PostgresFetch(**account, query="select n from tea where word like '%5%'")(
            password=PASSWORD, upstream_tasks=[lost]
        )
    state = flow.run()
    assert state.is_successful(), state.message
    assert state.result[found].result == [("n", "word"), (1, "a"), (2, "50 %")]
    assert state.result[like].result == (2,)

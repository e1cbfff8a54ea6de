"""The dashboard and the alerts of `docs/grafana`, asked of a real Prometheus that scrapes a real service and driver."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.needs import program
from tests.prometheus_server import PrometheusServer, prometheus
from tests.service_process import ServiceProcess, serving

from anabranch.base.events import MapAdvanced, Noticed, RunStarted, UnitLost
from anabranch.monitoring.metrics import Metrics, MetricsServer

GRAFANA = Path(__file__).parents[2] / "docs" / "grafana"
DASHBOARD = json.loads((GRAFANA / "anabranch.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((GRAFANA / "anabranch.rules.yml").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TOKEN = "a-token-of-the-tests"
FLOWS = """
import time
from pathlib import Path
from anabranch import Flow, task

@task(max_retries=1, retry_delay=0.0)
def part(x):
    if x == 7:
        raise ValueError("seven")
    return x

@task
def total(xs):
    return sum(xs)

@task
def hold():
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)

with Flow("works") as works:
    total(part.map(list(range(5))))

with Flow("fails") as fails:
    total(part.map(list(range(50))))

with Flow("one-at-a-time", max_runs=1) as one_at_a_time:
    hold()
"""


@dataclass(frozen=True)
class World:
    """A service that has run flows, and a driver, both scraped."""

    prometheus: PrometheusServer
    service: ServiceProcess
    metrics: Metrics


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    program("prometheus")
    home = tmp_path_factory.mktemp("grafana")
    (home / "flows.py").write_text(FLOWS, encoding="utf-8")
    (home / "token").write_text(TOKEN, encoding="utf-8")
    metrics = Metrics()
    with serving(home, "flows.py", token=TOKEN) as service, MetricsServer(metrics) as server:
        targets = {"anabranch": service.port, "anabranch-driver": server.port}
        rules = GRAFANA / "anabranch.rules.yml"
        with prometheus(home, targets, token_file=home / "token", rules=rules) as found:
            found.wait_for('sum(up) == 2 and sum(anabranch_flow_runs_total{state="Failed"}) == 0')  # seen at zero
            runs = [service.start("works"), service.start("fails")]
            # A driver in trouble: its workers die, and nothing is heard of the rest.
            metrics(RunStarted(1.0, "in trouble", "r", {"parse": "task"}))
            metrics(UnitLost(1.0, ["parse"], 500, "worker tcp://10.0.0.7:1 was lost"))
            metrics(MapAdvanced(1.0, "parse", width=1_000, done=400, failed=0, retrying=80))
            metrics(Noticed(2.0, "no report for 30 s", {"parse": 20}))
            for run_id in runs:
                service.wait_for(run_id, "Success", "Failed")
            service.wait_for(service.start("one-at-a-time"), "Running")
            service.start("one-at-a-time")  # waits for the one before it
            found.wait_for('anabranch_flow_runs_total{flow="fails",state="Failed"} == 1')
            service.wait_for(service.start("fails"), "Failed")  # its tasks are known, and seen to rise
            found.wait_for('rate(anabranch_task_run_duration_seconds_count{flow="fails"}[1m]) > 0')
            found.wait_for('rate(anabranch_flow_run_duration_seconds_count{flow="fails"}[1m]) > 0')
            found.wait_for('anabranch_service_queue_runs{flow="one-at-a-time"} == 1')
            yield World(found, service, metrics)
            (home / "go").touch()


def filled(expression: str) -> str:
    """An expression with values for Grafana's variables."""
    for name, value in {"$__rate_interval": "1m", "$__range": "1h", "$flow": ".*"}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression.replace(".*$", ""), f"{expression}: nothing is known of this variable"
    return expression


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"anabranch_\w+", expression))


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_every_panel_of_the_dashboard_has_data(world: World, panel: dict[str, Any]):
    for target in panel["targets"]:
        found = [each["value"][1] for each in world.prometheus.query(filled(target["expr"]))]
        assert [value for value in found if value != "NaN"], (target["expr"], found)


def test_what_panels_and_alerts_ask_for_is_what_the_code_shows(world: World):
    # given
    asked = {name for panel in PANELS for target in panel["targets"] for name in metrics_in(target["expr"])}
    asked |= {name for group in RULES["groups"] for rule in group["rules"] for name in metrics_in(rule["expr"])}
    # when
    shown = {name for name in world.prometheus.get("label/__name__/values") if name.startswith("anabranch_")}
    # then
    assert asked - shown == set()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    text = (GRAFANA.parent / "pages.md").read_text(encoding="utf-8")
    told = set(re.findall(r"anabranch_\w+", text))
    assert families - told == set(), "docs/pages.md has all metrics"
    assert told - families == set(), "docs/pages.md has no others"


def test_alerts_fire_for_what_they_are_for(world: World):
    # given
    world.prometheus.wait_for('ALERTS{alertname="AnabranchFlowRunFailed"}')
    world.prometheus.wait_for('ALERTS{alertname="AnabranchTaskRunsStuck"}')
    # when
    rules = [rule for group in world.prometheus.get("rules")["groups"] for rule in group["rules"]]
    # then
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
    on = {rule["name"] for rule in rules if rule["state"] != "inactive"}
    assert on == {"AnabranchFlowRunFailed", "AnabranchTaskRunsStuck"}
    assert [each["labels"]["flow"] for rule in rules if rule["name"] == "AnabranchFlowRunFailed"
            for each in rule["alerts"]] == ["fails"]  # fmt: skip


def test_promtool_finds_nothing_wrong_with_what_a_service_shows(world: World):
    # given
    request = world.service.scrape()
    # when
    outcome = subprocess.run([program("promtool"), "check", "metrics"], input=request, text=True, capture_output=True)
    # then
    assert (outcome.returncode, outcome.stdout + outcome.stderr) == (0, "")


@pytest.mark.parametrize(("kind", "file"), [("rules", "anabranch.rules.yml"), ("config", "prometheus.yml")])
def test_promtool_takes_the_files(kind: str, file: str):
    outcome = subprocess.run([program("promtool"), "check", kind, file], cwd=GRAFANA, text=True, capture_output=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_dashboard_can_be_provisioned_anywhere():
    assert DASHBOARD["id"] is None
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"]
        assert panel["description"]

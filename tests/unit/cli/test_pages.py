"""Commands about pages, reports and metrics: what they print, what they refuse, and how they end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch.cli import anabranch as command
from anabranch.monitoring.pages import live_page

FLOW = """
from anabranch import Flow, task

@task
def one():
    return 1

with Flow("small") as flow:
    one()
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "small.py"
    path.write_text(FLOW, encoding="utf-8")
    yield str(path)
    live_page.stop_serving()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def last_run() -> str:
    return invoke("ls", "--limit", "1").stdout.split()[0]


def test_a_report_is_written_and_its_path_printed(file: str, tmp_path: Path):
    invoke("run", file)
    outcome = invoke("report", last_run()[:8], "-o", str(tmp_path / "run.html"))
    assert (outcome.exit_code, outcome.stdout) == (0, f"{tmp_path / 'run.html'}\n")
    assert (tmp_path / "run.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuchrun"], "nosuchrun"),
        (["@last", "-o", "/proc/nowhere/run.html"], "the report cannot be written to '/proc/nowhere/run.html'"),
    ],
)
def test_a_report_that_cannot_be_written_says_why(file: str, arguments: list[str], words: str):
    invoke("run", file)
    outcome = invoke("report", *(last_run() if each == "@last" else each for each in arguments))
    assert outcome.exit_code != 0
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_run_with_a_page_prints_its_address(file: str):
    outcome = invoke("run", file, "--dashboard", "--no-progress")
    assert outcome.exit_code == 0
    assert "live page: http://127.0.0.1:" in outcome.stderr
    assert f"anabranch report {last_run()}" in outcome.stderr
    assert "live page" not in outcome.stdout


@pytest.mark.parametrize(
    "option", [["--dashboard"], ["--metrics-file", "x"], ["--pushgateway", "x"], ["--metrics-port", "0"]]
)
def test_what_shows_runs_of_this_process_is_not_for_detached_ones(file: str, option: list[str]):
    outcome = invoke("run", file, "--detach", "--executor", "tcp://127.0.0.1:1", *option)
    assert outcome.exit_code == 2
    assert "--pushgateway cannot be combined with --detach" in outcome.stderr


def test_metrics_of_a_run_are_written_at_its_end(file: str, tmp_path: Path):
    outcome = invoke("run", file, "--metrics-file", str(tmp_path / "small.prom"))
    assert outcome.exit_code == 0
    text = (tmp_path / "small.prom").read_text(encoding="utf-8")
    assert 'anabranch_flow_runs_total{flow="small",state="Success"} 1.0\n' in text


@pytest.mark.parametrize("option", ["--metrics-file", "--pushgateway", "--metrics-port"])
def test_metrics_without_prometheus_client_are_refused_before_the_run(
    file: str, option: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    outcome = invoke("run", file, option, "0")
    assert outcome.exit_code != 0
    assert 'pip install "anabranch[metrics]"' in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert invoke("run", file).exit_code == 0


def test_metrics_of_a_run_are_served_while_it_goes_on(file: str):
    outcome = invoke("run", file, "--metrics-port", "0")
    assert outcome.exit_code == 0
    assert re.search(r"metrics: http://127\.0\.0\.1:\d+/metrics\n", outcome.stderr)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = invoke("run", file, "--metrics-port", str(port))
    assert outcome.exit_code != 0
    assert f"metrics on port {port}:" in outcome.stderr
    assert "name another port, or 0 for any free port" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_metrics_that_nobody_takes_are_a_warning_and_change_nothing(file: str, tmp_path: Path):
    place = str(tmp_path / "nowhere" / "small.prom")
    outcome = invoke("run", file, "--metrics-file", place)
    assert outcome.exit_code == 0
    assert f"warning: metrics cannot be written to '{place}'" in outcome.stderr
    outcome = invoke("run", file, "--pushgateway", "127.0.0.1:1")
    assert outcome.exit_code == 0
    assert "warning: the pushgateway at 127.0.0.1:1 did not take the metrics" in outcome.stderr


def test_the_pages_are_served_until_they_are_ended(tmp_path: Path):
    # given
    process = subprocess.Popen(
        [sys.executable, "-m", "anabranch", "ui"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "ANABRANCH_HOME": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        # when / then
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(address.partition("?")[0], timeout=20)
        refused.value.close()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(address, timeout=20) as answer:
            assert answer.status == 200
        request = urllib.request.Request(address.partition("?")[0] + "metrics")
        request.add_header("Authorization", f"Bearer {address.partition('token=')[2]}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.read().startswith(b"# HELP anabranch_info")
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"Traceback" not in errors

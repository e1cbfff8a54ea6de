"""The examples as programs: on one cluster that they share, or with the processes that they start themselves."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a scheduler with two workers; they are in this process, as what needs others starts them itself."""
    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "processes": False,
        "protocol": "tcp",
        "dashboard_address": "127.0.0.1:0",
        "host": "127.0.0.1",
    }
    with LocalCluster(**options) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of runs goes there. (Workers stay in the directory where they were started.)"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        pytest.param(
            "team",
            ["--letters", "8"],
            r"(Run \w+ read 8 letters; while both were reading, it had -?\d+% of the cluster\.\n){2}"
            r"The archive had 16 requests, at most 1 at a time\.",
            id="team",
        ),
        pytest.param(
            "cache",
            ["--files", "5"],
            r"The first run +5 files counted, +0 found .*\n"
            r"The second run +0 files counted, +5 found .*\n"
            r"After a change +1 files counted, +4 found ",
            id="cache",
        ),
        pytest.param(
            "collatz", ["--limit", "30"], r"Of the numbers up to 30, 27 takes longest: 111 steps", id="collatz"
        ),
        pytest.param("crawl", ["--root", "{here}/tree"], r"1 files in 0 directories, 5 bytes", id="crawl"),
        pytest.param(
            "daylight",
            ["--day", "2026-12-21", "--out", "{here}/table"],
            r"(?s)Antarctica/Palmer +02:21 +00:09 +21\.79.* and 17 without .*See \S+/table/daylight-2026-12-21\.csv",
            id="daylight",
        ),
        pytest.param(
            "stations",
            ["--stations", "100"],
            r"99 of 100 stations answered\. The warmest: .* degrees\.\n  measure\[13\]: .*answers 404",
            id="stations",
        ),
        pytest.param(
            "orders",
            ["--days", "105"],
            r"The first run +104 days loaded, +0 were there\n  day 99: json\.decoder\.JSONDecodeError: .*\n"
            r"The second run +0 days loaded, +104 were there\n(?s:.*)2026-04  oolong +\d+ orders",
            id="orders",
        ),
        pytest.param(
            "scans",
            ["--pages", "32"],
            r"29 of 32 pages could be read; .*\n"
            r"  page 7: Crashed: ProcessDied: its process was killed by SIGSEGV\n"
            r"  page 23: Crashed: ProcessDied: killed: used .* more than memory_limit .*\n"
            r"  page 31: TimedOut: TaskTimeout: ran longer than its timeout of 3 s; its process was killed\n",
            id="scans",
        ),
        pytest.param(
            "climate",
            ["--years", "5"],
            r"year  3: ValueError: 30 circles of latitude have no values\n"
            r"year  4:  10\.13 °C, -51 to 36\n\n\+3\.0 °C a century",
            id="climate",
        ),
        pytest.param(
            "sweep", ["--enough", "4.3"], r"(?s) bits\n.*\d of 72 settings were tried\. The best: [34]", id="sweep"
        ),
        pytest.param(
            "tiles", ["--size", "256", "--out", "{here}"], r"4 tiles .*\n  \S+-256\.png\n  \S+-128\.png\n", id="tiles"
        ),
        pytest.param(
            "crash",
            ["--limit", "40"],
            r"(?s)was killed\. \d+ files .*resumed: 40 files in all, \d+ of them .* of source become",
            id="crash",
        ),
    ],
)
def test_an_example_says_what_it_found(
    name: str, arguments: list[str], said: str, address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("12345")
    given = [each.format(here=tmp_path) for each in arguments]

    problem = importlib.import_module(f"examples.{name}").main([*given, "--address", address])

    assert problem is None
    assert re.search(said, capfd.readouterr().out)


def test_an_example_returns_what_went_wrong(address: str) -> None:
    problem = importlib.import_module("examples.tiles").main(["--size", "1000", "--address", address])

    assert problem == "corners failed with ValueError: size must be a power of two and at least 128, found 1000"


def test_the_remote_example_starts_a_cluster_and_leaves_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    problem = importlib.import_module("examples.remote").main(["--limit", "1000"])

    assert problem is None
    said = capfd.readouterr().out
    assert "168 primes up to 1,000" in said
    assert "It has ended: 95 primes up to 500." in said


def test_the_schedule_example_registers_backfills_and_serves(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    problem = importlib.import_module("examples.schedule").main(["--from", "2026-03-23", "--to", "2026-04-06"])

    assert problem is None
    said = capfd.readouterr().out
    assert "clock-changes: version 1" in said
    assert "clock-changes: 2 runs, 2 of them new" in said
    assert "2 Success\n" in said
    assert "Sun 2026-03-29 01:00 UTC:  56 zones +60 min" in said
    assert not (tmp_path / "home").exists()  # its registry is its own


def test_the_nightly_example_tells_of_the_night_that_failed_and_of_the_next(capfd: pytest.CaptureFixture[str]) -> None:
    problem = importlib.import_module("examples.nightly").main([])

    assert problem is None
    said = capfd.readouterr().out
    failed = re.search(
        r"chat room: takings: Failed: .*JSONDecodeError.*\n  run (\w+)\n  task read_till\[2\]\n  (.*)\n", said
    )
    assert failed is not None
    assert failed[2].startswith(importlib.import_module("examples.nightly").__file__)
    assert said.count(f"https://flows.example.com/run?id={failed[1]}") == said.count(": Failed: ") == 1
    assert said.count("chat room: takings: Recovered: ") == 1
    assert "takings-2026-03-01.csv: all,9620.34\n" in said
    assert "takings-2026-03-02.csv" not in said

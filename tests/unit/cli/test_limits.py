"""``anabranch limits``: who holds permits, who waits, sizes that are set, and permits taken away by force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch import config
from anabranch.cli import anabranch as command
from anabranch.engine.machine.permits import Claim, rate_limit
from anabranch.runs.registry.registration import registry
from anabranch.runs.store.permit_table import Holder, PermitTable


@pytest.fixture
def table(tmp_path: Path) -> Iterator[PermitTable]:
    with config.set(backend=f"sqlite:///{tmp_path / 'runs.db'}"):
        yield PermitTable(registry()[0].database)


@pytest.fixture
def busy(table: PermitTable) -> PermitTable:
    """One run holds the two permits of db, another one waits for one, with one of api."""
    for name, bundle, count in (("abc1", ("db",), 2), ("xyz2", ("api", "db"), 1)):
        holder = Holder(f"token-{name}", name, f"flow \x1b[31m{name}", "host:1")
        table.settle(holder, Claim({"db": 2, "api": 1}, {}, ((bundle, count),)), bundle, lease_s=30.0)
    return table


def call(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(command, ["limits", *arguments], input=answer)


def test_it_shows_who_holds_and_who_waits(busy: PermitTable):
    lines = call().stdout.splitlines()

    assert lines[0] == "api: 0 of 1 held"
    assert lines[1].startswith(r"  waits 1    run xyz2 of flow \x1b[31mxyz2 (host:1), for ")
    assert lines[1].endswith(", with db")
    assert lines[2] == "db: 2 of 2 held"
    assert lines[3].startswith("  holds 2    run abc1 of ")
    assert len(lines) == 5
    assert call("db").stdout.splitlines()[0] == lines[2]


def test_it_says_so_if_there_is_nothing_to_show(table: PermitTable):
    assert call().stderr == "no run uses a named limit at the moment\n"
    assert call("db").stderr == "no run uses the limit 'db' at the moment\n"


def test_it_speaks_json(busy: PermitTable):
    api, db = json.loads(call("--json").stdout)

    assert (db["name"], db["size"], db["held"], db["is_set"]) == ("db", 2, 2, False)
    assert [each["run_id"] for each in db["holders"]] == ["abc1"]
    assert [(each["run_id"], each["names"]) for each in api["waiters"]] == [("xyz2", ["api", "db"])]


def test_a_size_is_set_and_unset(table: PermitTable):
    assert call("db", "--set", "3").stderr == "size of db: 3, whatever runs ask for\n"
    assert call().stdout == "db: 0 of 3 held, set here\n"
    assert call("db", "--unset").stderr == "size of db: as runs ask for\n"
    assert call().stdout == ""


def test_rates_are_shown_set_and_unset_with_their_windows(table: PermitTable):
    rate = rate_limit("api", 60.0)
    for name, count in (("abc1", 3), ("xyz2", 5)):
        holder = Holder(f"token-{name}", name, f"flow {name}", "host:1")
        table.settle(holder, Claim({rate: 100}, {}, (((rate,), count),)), [rate], lease_s=30.0)
    table.drop("token-abc1", [(rate, 2, 60.0)])

    lines = call("api").stdout.splitlines()
    (data,) = json.loads(call("api per min", "--json").stdout)

    assert lines[:2] == ["api per min: 7 of 100 held", "  spent 2    by runs that have ended"]
    assert lines[2].startswith("  holds 5    run xyz2 of flow xyz2 (host:1), for ")
    assert len(lines) == 3
    assert (data["name"], data["window_s"], data["spent"], data["held"]) == ("api per min", 60.0, 2, 7)
    assert call("api", "--set", "50/min").stderr == "size of api per min: 50, whatever runs ask for\n"
    assert call("api").stdout.splitlines()[0] == "api per min: 7 of 50 held, set here"
    assert call("api", "--unset").stderr == "size of api: as runs ask for\n"
    assert call("api").stdout.splitlines()[0] == "api per min: 7 of 100 held"


def test_permits_are_taken_away_once_it_is_confirmed(busy: PermitTable):
    refused = call("--release", "ab", answer="n\n")
    assert refused.exit_code == 1
    assert r"run abc1 of flow \x1b[31mabc1 (host:1) holds 2 of db." in refused.stderr
    assert len(busy.all()[1].holders) == 1

    assert "2 permits taken away" in call("--release", "ab", answer="y\n").stderr
    assert busy.all()[1].holders == ()


def test_it_does_not_ask_if_told_so(busy: PermitTable):
    assert call("db", "--release", "abc1", "--yes").exit_code == 0
    assert busy.all()[1].holders == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "2"], "name the limit"),
        (["db", "--set", "2", "--unset"], "exclude each other"),
        (["db", "--set", "two"], "'two' is not a valid integer"),
        (["db", "--set", "2/fortnight"], "--set: rate: expected 1 to 1,000,000 in a millisecond to a year"),
        (["db", "--set", "0"], "0 is not in the range x>=1"),
        (["--release", "nobody"], "run 'nobody' holds no permits; anabranch limits shows which runs do"),
        (["api", "--release", "abc1"], "run 'abc1' holds no permits of limit 'api'"),
        (["--release", ""], "run '' holds no permits"),
    ],
)
def test_mistakes_are_told(busy: PermitTable, arguments: list[str], message: str):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(busy.all()[1].holders) == 1


def test_without_a_run_store_there_are_no_limits_to_show():
    with config.set(backend="none"):
        result = call()
    assert result.exit_code == 2
    assert "backend is 'none', so runs share no limits" in result.stderr

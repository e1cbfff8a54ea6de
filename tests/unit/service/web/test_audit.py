"""Who did what, by the API, by pages and by the command line, and where that is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner
from tests.web_server import NOON, Server, serving

from anabranch import config
from anabranch.base.actors import acting, name_user
from anabranch.cli import anabranch
from anabranch.runs import RunRecord
from anabranch.runs.registry.registration import registry
from anabranch.runs.retention import Retention, sweep
from anabranch.runs.store.deeds import KEPT_S, deeds, note
from anabranch.runs.store.schema import DEEDS
from anabranch.runs.store.sqlite import InMemoryRunStore
from anabranch.web.proxies import Proxies

TOKEN = "the-operators-token-of-this-test"
JSON = {"Content_Type": "application/json"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(TOKEN) as found:
        yield found


def done(server: Server) -> list[tuple[str, str]]:
    return [(each.verb, each.subject) for each in reversed(deeds(server.store.database))]


def ask(server: Server, method: str, path: str, body: Any = None, **headers: str) -> Any:
    data = json.dumps(body).encode() if method == "POST" else None
    status, _, answer = server.call(method, path, data, Authorization=f"Bearer {TOKEN}", **JSON, **headers)
    assert status < 300, answer
    return json.loads(answer)


def test_what_is_done_by_the_api_is_noted_with_the_role(server: Server):
    run_id = ask(server, "POST", "/api/flows/etl/runs", {"parameters": {"x": 1}, "idempotency_key": "k"})["run_id"]
    ask(server, "POST", "/api/flows/etl/runs", {"parameters": {"x": 1}, "idempotency_key": "k"})  # is the same
    ask(server, "POST", "/api/flows/etl/pause", {"paused": True})
    ask(server, "POST", "/api/flows/etl/pause", {"paused": False})
    ask(server, "POST", f"/api/runs/{run_id}/cancel", {})
    ask(server, "POST", "/api/runs/run-1/resume", {})
    ask(server, "DELETE", "/api/flows/etl")
    assert done(server) == [
        ("run", run_id),
        ("pause", "etl"),
        ("continue", "etl"),
        ("cancel", run_id),
        ("resume", "run-1"),
        ("unregister", "etl"),
    ]
    assert {each.who for each in deeds(server.store.database)} == {"operator at 127.0.0.1"}
    listed = ask(server, "GET", f"/api/audit?subject={run_id}")["deeds"]
    assert [each["verb"] for each in listed] == ["cancel", "run"]


def test_what_is_refused_is_not_noted(server: Server):
    for path in ("/api/runs/none/cancel", "/api/runs/none/resume", "/api/groups/none/cancel"):
        assert server.call("POST", path, b"{}", Authorization=f"Bearer {TOKEN}", **JSON)[0] == 404
    assert server.call("POST", "/api/runs/run-2/cancel", b"{}", Authorization="Bearer wrong", **JSON)[0] == 401
    assert done(server) == []


@pytest.mark.parametrize(
    ("proxies", "who"), [(("127.0.0.0/8",), "ann (operator, by the proxy 127.0.0.1)"), ((), "operator at 127.0.0.1")]
)
def test_the_name_that_a_proxy_gives_counts_if_the_proxy_is_trusted(proxies: tuple[str, ...], who: str):
    with serving(TOKEN, proxies=Proxies(proxies)) as server:
        ask(server, "POST", "/api/flows/etl/pause", {"paused": True}, Remote_User="ann")
        assert [each.who for each in deeds(server.store.database)] == [who]


def test_what_is_done_by_a_form_is_noted_and_shown_on_a_page():
    with serving() as server:
        path = f"/do/cancel?{urlencode({'run': 'run-2'})}"
        _, _, form = server.call("GET", path)
        (token,) = re.findall(rb'name="form" value="([^"]+)"', form)
        body = urlencode({"form": token.decode()}).encode()
        assert server.call("POST", path, body, Content_Type="application/x-www-form-urlencoded")[0] == 303
        assert done(server) == [("cancel", "run-2")]
        with acting("<b>"):
            note(server.store.database, "run", "other")
        status, _, page = server.call("GET", "/audit")
        assert status == 200
        assert b"&lt;b&gt;" in page
        assert b"run-2" in page
        assert b"run-2" not in server.call("GET", "/audit?of=other")[2]
        assert b"Nothing yet" in server.call("GET", "/audit?of=nobody")[2]


FILE = """
from anabranch import Flow, task, triggers
from anabranch.schedules import IntervalSchedule

@task
def work():
    return 1

@task(trigger=triggers.manual_only)
def publish(x):
    return x

with Flow("etl", schedule=IntervalSchedule(3600)) as flow:
    publish(work())
"""


def test_what_is_done_by_the_command_line_is_noted_with_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("audited.py").write_text(FILE)

    def run(*words: str) -> None:
        outcome = CliRunner().invoke(anabranch, words)
        assert outcome.exit_code in (0, 5), outcome.output

    with config.set(backend=f"sqlite:///{tmp_path}/runs.db"):
        run("register", "audited.py")
        run("run", "audited.py", "--quiet")
        store, _, _ = registry()
        (run_id,) = [each.run_id for each in store.list_runs()]
        run("resume", run_id, "--approve", "publish", "--quiet")
        run("schedule", "etl", "--pause")
        run("schedule", "etl", "--go-on")
        run("backfill", "etl", "--from", "2026-01-01", "--to", "2026-01-02", "--every", "12h")
        group = deeds(store.database)[0].subject
        run("cancel", group, "--reason", "wrong days")
        run("prune", "--keep-last", "0")
        run("unregister", "etl")
        found = deeds(store.database)
    assert [(each.verb, each.subject) for each in reversed(found)] == [
        ("register", "etl"),
        ("run", run_id),
        ("approve", run_id),
        ("pause", "etl"),
        ("continue", "etl"),
        ("backfill", group),
        ("cancel", group),
        ("prune", ""),
        ("unregister", "etl"),
    ]
    assert {each.who for each in found} == {name_user()}
    assert "wrong days" in [each.detail for each in found]


def test_what_was_done_long_ago_is_forgotten():
    store = InMemoryRunStore()
    note(store.database, "run", "new")
    row = ("0" * 17, 0, "ann", "run", "old", "")
    store.database.write(lambda transaction: transaction.execute(DEEDS.insert(), row))
    assert timedelta(days=365).total_seconds() < KEPT_S
    sweep(store, Retention(), now=NOON)
    assert [each.subject for each in deeds(store.database)] == ["new"]


def test_a_deleted_run_keeps_its_deeds():
    store = InMemoryRunStore()
    store.finish_run(store.create_run(RunRecord("run-1", "etl", NOON)), "Success", end=NOON)
    note(store.database, "run", "run-1", "flow etl")
    store.delete_run("run-1")
    assert [each.subject for each in deeds(store.database, subject="run-1")] == ["run-1"]

"""What the API of a service answers."""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.web_server import NOON, Server, serving

from anabranch.runs import RunRecord
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot
from anabranch.runs.store.sqlite import InMemoryRunStore
from anabranch.schedules import IntervalSchedule
from anabranch.service.web import actions, openapi
from anabranch.service.web.actions import Actions
from anabranch.service.web.api import api_routes
from anabranch.web.guard import Guard


@pytest.fixture(scope="module")
def open_one() -> Iterator[Server]:
    with serving() as server:
        yield server


def test_every_route_of_the_api_is_in_the_list():
    served = {pattern for pattern, _, _ in api_routes(Actions(InMemoryRunStore()), lambda: True, Guard())}
    documented = {re.sub(r"{\w+}", "([^/]+)", path) for path in openapi.build_document()["paths"]}
    assert served == documented | {r"/healthz", r"/readyz", r"/api/openapi\.json"}


def test_the_health_of_a_service_has_the_number_of_files_that_cannot_be_registered():
    broken = 0
    with serving(broken=lambda: broken) as server:
        assert server.call("GET", "/healthz")[2] == b'{"status": "ok"}'
        broken = 2
        assert server.call("GET", "/healthz")[2] == b'{"status": "ok", "broken_files": 2}'


def test_a_schedule_that_cannot_be_followed_is_told_of_where_its_times_are():
    store = InMemoryRunStore()
    schedule = pickle.dumps(IntervalSchedule(60, filters=[refuses]))
    FlowTable(store.database).put(FlowRecord("etl", "code", schedule=schedule, schedule_text="x"), now=NOON)
    found = Actions(store).flow("etl")
    assert found["next"] == []
    assert "a filter raised LookupError" in found["problem"]


def refuses(moment: datetime) -> bool:
    raise LookupError("no such calendar")


def test_a_backfill_is_cancelled_by_its_group():
    store = InMemoryRunStore()
    queue = SlotQueue(store.database)
    queue.add([Slot(f"day-{number}", "etl", NOON, group="days") for number in range(3)], now=NOON)
    queue.claim("host:1", 1, now=NOON, lease_s=60)
    assert Actions(store).cancel_group("days") == {"group": "days", "cancelled": 2, "cancelling": 1}
    assert queue.counts() == {"Running": 1, "Cancelled": 2}


def test_a_run_that_no_service_drives_is_cancelled_by_its_driver():
    store = InMemoryRunStore()
    ownership = store.create_run(RunRecord("mine", "etl", NOON), owner="other-host:7")
    assert Actions(store).cancel("mine") == {"run_id": "mine", "flow": "etl", "state": "Cancelling"}
    assert store.find_wish(ownership) == f"cancelled from the service on {socket.gethostname()}"


# What it answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/api/flows/none", None, 404, "the registry has no flow 'none'; it has: 'etl'"),
        ("GET", "/api/runs/none", None, 404, "the run store has no run 'none'"),
        ("GET", "/api/runs?limit=0", None, 400, "limit: must be greater than or equal to 1, found '0'"),
        (
            "GET",
            "/api/runs?limit=x",
            None,
            400,
            "limit: must be a valid integer",
        ),
        ("GET", "/api/runs?limit=1&limit=2", None, 400, "limit: given twice"),
        ("GET", "/api/runs?stat=x", None, 400, "there is no 'stat'; there are: limit, offset, flow, state"),
        ("POST", "/api/flows/etl/runs", b"", 400, "the body is not JSON"),
        ("POST", "/api/flows/etl/runs", b"{", 400, "the body is not JSON"),
        ("POST", "/api/flows/etl/runs", b"[" * 100_000, 400, "the body is not JSON"),
        ("POST", "/api/flows/etl/runs", b"[]", 400, "the body: expected an object, found []"),
        (
            "POST",
            "/api/flows/etl/runs",
            b'{"parameter": {}}',
            400,
            "there is no 'parameter'; there are: parameters, due",
        ),
        ("POST", "/api/flows/etl/runs", b'{"parameters": NaN}', 400, "NaN is no number of JSON"),
        (
            "POST",
            "/api/flows/etl/runs",
            b'{"parameters": {"y": 1}}',
            422,
            "there is no parameter 'y'; x: a value is required",
        ),
        (
            "POST",
            "/api/flows/etl/runs",
            b'{"parameters": {"x": 1}, "due": "soon"}',
            422,
            "due: expected a time with its zone",
        ),
        ("POST", "/api/flows/etl/pause", b"{}", 400, "paused is missing"),
        ("POST", "/api/runs/none/cancel", b"{}", 404, "no run 'none'"),
        ("POST", "/api/runs/run-1/cancel", b"{}", 409, "run run-1 has ended: Failed"),
        ("POST", "/api/groups/none/cancel", b"{}", 404, "no run of group 'none' waits or runs"),
        ("POST", "/api/runs/run/resume", b"{}", 404, ""),
        (
            "POST",
            "/api/runs/run-1/approve",
            b'{"tasks": []}',
            400,
            "tasks: must have at least 1 item",
        ),
        ("POST", "/api/runs/run-1/approve", b'{"tasks": [1]}', 400, "tasks[0]: must be a valid string, found 1"),
        (
            "POST",
            "/api/flows/etl/runs",
            b'{"parameters": 1, "due": "soon", "key": 1}',
            400,
            "parameters: expected an object, found 1; due: expected a time with its zone",
        ),
        ("POST", "/api/runs", b"{}", 405, ""),
        ("GET", "/<script>", None, 404, "there is nothing here"),
    ],
)
def test_what_cannot_be_done_is_said(open_one: Server, method: str, path: str, body: bytes, status: int, text: str):
    found, headers, answer = open_one.call(method, path, body, Content_Type="application/json")
    assert (found, headers["content-type"]) == (status, "application/json")
    assert text in json.loads(answer)["error"]


def test_an_idempotency_key_starts_one_run(open_one: Server):
    body = b'{"parameters": {"x": 1}, "idempotency_key": "k"}'
    answers = [
        json.loads(open_one.call("POST", "/api/flows/etl/runs", body, Content_Type="application/json")[2])
        for _ in range(2)
    ]
    assert [each["is_new"] for each in answers] == [True, False]
    assert answers[0]["run_id"] == answers[1]["run_id"]


def test_a_failed_run_resumes_with_what_was_approved(open_one: Server):
    body = b'{"tasks": ["deploy"]}'
    assert open_one.call("POST", "/api/runs/run-1/approve", body, Content_Type="application/json")[0] == 202
    slot = SlotQueue(open_one.store.database).get("run-1")
    assert slot is not None
    assert (slot.state, slot.approve, slot.origin) == ("Waiting", ("deploy",), "resume")


def test_a_run_whose_process_is_just_letting_go_of_it_is_resumed(monkeypatch: pytest.MonkeyPatch):
    # given: the run has ended, and its slot has not
    with InMemoryRunStore() as store:
        FlowTable(store.database).put(FlowRecord("etl", "code"), now=NOON)
        queue = SlotQueue(store.database)
        queue.add([Slot("r", "etl", NOON)], now=NOON)
        (slot,) = queue.claim("here", 1, now=NOON, lease_s=30)
        store.finish_run(store.create_run(RunRecord("r", "etl", NOON)), "Cancelled", end=NOON)
        monkeypatch.setattr(actions.time, "sleep", lambda s: queue.finish(slot, "Cancelled", "", now=NOON))
        # when
        Actions(store).resume("r")
        # then
        again = queue.get("r")
        assert again is not None
        assert (again.state, again.origin) == ("Waiting", "resume")


def test_names_are_data_in_answers(open_one: Server):
    name = "<script>alert(1)</script>"
    FlowTable(open_one.store.database).put(FlowRecord(name, "code"), now=NOON)
    try:
        _, _, body = open_one.call("GET", "/api/flows")
        assert b"<" not in body
        assert name in [each["name"] for each in json.loads(body)["flows"]]
    finally:
        FlowTable(open_one.store.database).remove(name)


def test_the_document_is_valid_openapi():
    from openapi_spec_validator import validate

    validate(openapi.build_document())


@pytest.mark.timeout(600)  # ANABRANCH_FUZZ=1000 asks for minutes of other requests than last time
def test_a_fuzzer_finds_nothing_that_the_document_does_not_say(open_one: Server):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    base = f"http://127.0.0.1:{open_one.web.port}"
    schema = schemathesis.openapi.from_dict(openapi.build_document())
    tried: list[str] = []
    for operation in schema.get_all_operations():

        @settings(
            max_examples=int(os.environ.get("ANABRANCH_FUZZ", "15")),
            deadline=None,
            database=None,
            derandomize="ANABRANCH_FUZZ" not in os.environ,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.ok().as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(base_url=base)

        check()
        tried.append(operation.ok().label)
    assert len(tried) == 13


@pytest.mark.timeout(600)  # as above
def test_what_the_document_does_not_allow_is_refused_and_breaks_nothing(open_one: Server):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode

    base = f"http://127.0.0.1:{open_one.web.port}"
    schema = schemathesis.openapi.from_dict(openapi.build_document())
    statuses: set[int] = set()
    for operation in schema.get_all_operations():
        if operation.ok().method.lower() == "get" and "{" not in operation.ok().path:
            continue  # nothing of it is required, and what is unknown in a query has tests above

        @settings(
            max_examples=int(os.environ.get("ANABRANCH_FUZZ", "15")),
            deadline=None,
            database=None,
            derandomize="ANABRANCH_FUZZ" not in os.environ,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.ok().as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def check(case: Any) -> None:
            answer = case.call(base_url=base)
            statuses.add(answer.status_code)
            assert 400 <= answer.status_code < 500, (case.method, case.path, case.body, answer.text)

        check()
    assert {400, 404} <= statuses


def test_nothing_that_is_sent_to_forms_and_to_the_login_breaks_them(open_one: Server):
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    texts = st.one_of(st.sampled_from(["etl", "run-1", "run-2", ""]), st.text(max_size=30))
    names = st.one_of(st.sampled_from(["flow", "run", "form", "once", "p:x", "task", "token", "next"]), texts)

    @settings(
        max_examples=int(os.environ.get("ANABRANCH_FUZZ", "60")),
        deadline=None,
        database=None,
        derandomize="ANABRANCH_FUZZ" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(["/do/run", "/do/pause", "/do/cancel", "/do/resume", "/do/approve", "/login", "/run", "/flow"]),
        st.lists(st.tuples(names, texts), max_size=4),
        st.one_of(st.none(), st.binary(max_size=60), st.lists(st.tuples(names, texts), max_size=4)),
    )
    def check(path: str, query: list[tuple[str, str]], body: Any) -> None:
        ours = [("form", open_one.guard.form_token("operator"))]
        data = body if isinstance(body, bytes) else urlencode([*ours, *(body or [])], errors="surrogatepass").encode()
        kind = {"Content_Type": "application/x-www-form-urlencoded"}
        method = "GET" if body is None else "POST"
        uri = f"{path}?{urlencode(query, errors='surrogatepass')}"
        status, _, text = open_one.call(method, uri, data, **kind)
        assert status < 500, (method, uri, data, text)
        assert b"Traceback" not in text

    check()

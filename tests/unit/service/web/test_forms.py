"""Forms of the service's pages: made from the parameters' schema, sent by POST, and refused if they are not ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.hostile_names import CORPUS
from tests.web_server import NOON, Server, serving

from anabranch.runs import Batch, RunRecord, TaskRunRow
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.service.web.inputs import BadInput, read_values, render_fields
from anabranch.states import Paused

TOKEN = "a-token-of-some-length"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "share": {"type": "number", "default": 0.5},
        "is_full": {"type": "boolean", "default": False},
        "region": {"enum": ["eu", "us"], "default": "eu"},
        "level": {"enum": [1, 2]},
        "day": {"type": "string", "format": "date", "default": "2026-01-01"},
        "names": {"type": "array", "items": {"type": "string"}, "default": ["a"]},
        "options": {"type": "object"},
        "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "any": {},
        "api_key": {"type": "string", "writeOnly": True},
    },
    "required": ["n"],
}


# Fields and values ----------------------------------------------------------------------------------------------------


def test_each_kind_of_parameter_has_its_kind_of_field():
    text = render_fields(SCHEMA)
    assert '<input type="number" step="1" id="p:n" name="p:n" required value="">' in text
    assert '<input type="number" step="any" id="p:share" name="p:share" value="0.5">' in text
    assert '<option value="true">true</option><option value="false" selected>false</option>' in text
    assert '<option value="eu" selected>eu</option><option value="us">us</option>' in text
    assert '<input type="date" id="p:day" name="p:day" value="2026-01-01">' in text
    assert '<textarea id="p:names" name="p:names">[&quot;a&quot;]</textarea>' in text
    assert '<input type="number" step="1" id="p:limit" name="p:limit" value="">' in text
    assert "a whole number; required" in text
    assert "<b>api_key</b> is secret" in text
    assert 'name="p:api_key"' not in text


def test_texts_become_the_values_that_the_schema_wants():
    given = {
        "n": "12", "share": "1e-3", "is_full": "true", "region": "us", "level": "2", "day": "2026-02-03",
        "names": '["a", "b"]', "options": '{"deep": [1, null]}', "limit": "7", "any": "some text",
    }  # fmt: skip
    assert read_values(SCHEMA, given) == {
        "n": 12, "share": 0.001, "is_full": True, "region": "us", "level": 2, "day": "2026-02-03",
        "names": ["a", "b"], "options": {"deep": [1, None]}, "limit": 7, "any": "some text",
    }  # fmt: skip
    assert read_values(SCHEMA, {"any": "[1, 2]", "n": ""}) == {"any": [1, 2]}


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("n", "x", "n: expected a whole number, found 'x'"),
        ("n", "1.5", "n: expected a whole number"),
        ("n", "true", "n: expected a whole number"),
        ("share", '"a"', "share: expected a number"),
        ("is_full", "maybe", "is_full: expected true or false"),
        ("region", "asia", "region: expected one of eu, us, found 'asia'"),
        ("names", "a, b", r"names: expected a list such as \[1, 2\]"),
        ("options", "[1]", 'options: expected an object such as {"a": 1}'),
        ("options", "[" * 5_000, "options: expected an object"),
        ("other", "1", "there is no parameter 'other'"),
    ],
)
def test_texts_that_cannot_be_read_are_told(name: str, text: str, problem: str):
    with pytest.raises(BadInput, match=problem):
        read_values(SCHEMA, {name: text})


@pytest.mark.parametrize("name", CORPUS)
def test_names_and_defaults_are_nothing_but_text(name: str):
    text = render_fields({"properties": {name: {"default": name}, f"{name}2": {"enum": [name]}}})
    assert set(re.findall(r"<(/?[a-z]+)", text)) <= {
        "label", "/label", "small", "/small", "input", "select", "/select", "option", "/option", "textarea", "/textarea"
    }  # fmt: skip


# Over HTTP ------------------------------------------------------------------------------------------------------------


class Browser:
    """Somebody who has logged in, and fills in forms."""

    def __init__(self, server: Server) -> None:
        self.server = server
        _, headers, _ = server.call("GET", f"/login?token={TOKEN}")
        self.cookie = headers["set-cookie"].partition(";")[0]

    def get(self, path: str) -> tuple[int, str]:
        status, _, body = self.server.call("GET", path, Cookie=self.cookie, Accept="text/html")
        return status, body.decode()

    def post(self, path: str, **more: Any) -> tuple[int, str, str]:
        """Fill in the form at a path and send it: status, where it leads to, and the text."""
        _, text = self.get(path)
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))
        return self.send(path, {**hidden, **more})

    def send(self, path: str, data: dict[str, Any], **headers: str) -> tuple[int, str, str]:
        sent = {
            "Cookie": self.cookie,
            "Content_Type": "application/x-www-form-urlencoded",
            "Origin": f"http://127.0.0.1:{self.server.web.port}",
            "Sec_Fetch_Site": "same-origin",
            **headers,
        }
        status, found, body = self.server.call("POST", path, urlencode(data, doseq=True).encode(), **sent)
        return status, found.get("location", ""), body.decode()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with serving(TOKEN) as server:
        flows = FlowTable(server.store.database)
        flows.put(FlowRecord("full", "code", parameters=SCHEMA, schedule_text="daily"), now=NOON)
        yield Browser(server)


def test_a_run_is_asked_for_once_however_often_its_form_is_sent(browser: Browser):
    # given
    path = "/do/run?flow=full"
    _, text = browser.get(path)
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))
    # when
    answers = {browser.send(path, {**hidden, "p:n": "3", "p:region": "us"}) for _ in range(3)}
    # then
    assert len(answers) == 1
    status, place, _ = answers.pop()
    assert status == 303
    found = re.fullmatch(r"\.\./run\?id=(\w+)&said=run", place)
    assert found is not None
    slot = SlotQueue(browser.server.store.database).get(found[1])
    assert slot is not None
    assert slot.parameters == {"n": 3, "region": "us"}


def test_a_form_that_does_not_fit_comes_back_with_what_was_entered(browser: Browser):
    status, _, text = browser.post("/do/run?flow=full", **{"p:n": "<many>", "p:any": "kept"})
    assert status == 422
    assert "n: expected a whole number, found &#x27;&lt;many&gt;&#x27;" in text
    assert 'value="&lt;many&gt;"' in text
    assert 'value="kept"' in text
    status, _, text = browser.post("/do/run?flow=full", **{"p:n": ""})
    assert status == 422
    assert "n: a value is required" in text


def test_a_form_of_somebody_elses_does_nothing(browser: Browser):
    path, data = "/do/cancel?run=run-2", {"form": "0" * 64}
    assert browser.send(path, data)[0] == 403
    assert browser.send(path, {})[0] == 403
    assert browser.send(path, data, Origin="http://evil.example")[0] == 403
    assert browser.send(path, data, Origin="null")[0] == 403
    assert browser.send(path, data, Sec_Fetch_Site="cross-site")[0] == 403
    assert browser.send(path, data, Cookie="")[0] == 401
    assert browser.send(path, data, Content_Type="text/plain")[0] == 415
    assert browser.send("/api/runs/run-2/cancel", data)[0] == 415
    slot = SlotQueue(browser.server.store.database).get("run-2")
    assert slot is not None
    assert slot.state == "Waiting"


def test_a_waiting_run_is_cancelled(browser: Browser):
    status, place, _ = browser.post("/do/cancel?run=run-2")
    assert (status, place) == (303, "../run?id=run-2&said=cancel")
    assert browser.post("/do/cancel?run=run-2")[0] == 409


def test_a_failed_run_waits_to_go_on(browser: Browser):
    assert browser.post("/do/resume?run=run-1")[:2] == (303, "../run?id=run-1&said=resume")
    status, _, text = browser.post("/do/resume?run=run-1")
    assert status == 409
    assert "waits or runs already" in text


def test_only_tasks_that_were_chosen_are_approved(browser: Browser):
    # given
    store = browser.server.store
    owner = store.create_run(RunRecord("run-3", "full", NOON))
    rows = [TaskRunRow(slug, slug, "Paused", Paused.code) for slug in ("deploy", "tell")]
    store.finish_run(owner, "Paused", end=None, batch=Batch(task_runs=rows))
    path = "/do/approve?run=run-3"
    _, text = browser.get(path)
    assert re.findall(r'name="task" value="(\w+)"', text) == ["deploy", "tell"]
    # when
    assert browser.post(path)[0] == 422
    assert browser.post(path, task=["tell"])[:2] == (303, "../run?id=run-3&said=approve")
    # then
    slot = SlotQueue(store.database).get("run-3")
    assert slot is not None
    assert slot.approve == ("tell",)
    assert browser.get("/do/approve?run=run-1")[0] == 409


def test_a_schedule_rests_and_goes_on(browser: Browser):
    flows = FlowTable(browser.server.store.database)
    assert browser.post("/do/pause?flow=full")[:2] == (303, "../flow?name=full")
    assert flows.get("full").paused
    assert browser.post("/do/pause?flow=full")[0] == 303
    assert not flows.get("full").paused


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/do/run?flow=none", 404, "the registry has no flow"),
        ("/do/run", 400, "flow: expected one name"),
        ("/do/run?flow=a&flow=b", 400, "flow: expected one name"),
        ("/do/cancel?run=none", 404, "no run"),
        ("/do/cancel?run=%3Cscript%3E", 404, "&lt;script&gt;"),
        ("/do/other", 404, "nothing here"),
    ],
)
def test_what_cannot_be_asked_is_said(browser: Browser, path: str, status: int, text: str):
    found, body = browser.get(path)
    assert (found, text in body) == (status, True)
    assert "<script" not in body

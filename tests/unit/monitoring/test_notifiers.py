"""Notifiers: what they send and to whom, how often, and that no run is hurt by one that fails."""

from __future__ import annotations

import json
import pickle
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch import Flow, config, task
from anabranch.base.known_secrets import forget, learn
from anabranch.errors import OptionError
from anabranch.monitoring.bulletins import bulletin_of, fill, telling_of
from anabranch.notifiers import Bulletin, EmailNotifier, Notifier, WebhookNotifier
from anabranch.runs import open_store
from anabranch.runs.store.notices import admit
from anabranch.runs.store.opening import current_store
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.states import Crashed, Failed, Running, Success


class Kept(Notifier):
    """Keeps what it would send."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.texts: list[str] = []

    def send(self, text: str) -> None:
        self.texts.append(text)


class Broken(Notifier):
    def send(self, text: str) -> None:
        raise ConnectionError("https://hooks.example/secret does not answer")


@task
def fails() -> None:
    raise ValueError("no such <table> & more")


@task
def works() -> int:
    return 1


def flow_of(one: Any, **options: Any) -> Flow:
    with Flow("etl", **options) as flow:
        one()
    return flow


def test_a_notifier_that_is_a_handler_twice_tells_once():
    notify = Kept()
    flow = flow_of(fails, state_handlers=[notify], on_failure=notify)
    flow.run()
    flow.run()
    assert len(notify.texts) == 2


def test_a_limit_holds_over_runs_whatever_process_has_them(tmp_path: Path):
    """Each of these is made anew, as each process of a run loads a flow."""
    texts: list[str] = []

    class Told(Notifier):
        def send(self, text: str) -> None:
            texts.append(text)

    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        for _ in range(5):
            Told(most=2, per_s=3_600)(SimpleNamespace(name="etl"), Failed(message="x"))
        assert len(texts) == 2
        Told(most=2, per_s=3_600)(SimpleNamespace(name="other"), Failed(message="x"))
        Told(most=2, per_s=7_200)(SimpleNamespace(name="etl"), Failed(message="x"))
        assert len(texts) == 4
        store = current_store()
        assert isinstance(store, RelationalRunStore)
        database = store.database
        assert [admit(database, "a", most=1, per_s=3_600) for _ in range(3)] == [0, None, None]
        assert admit(database, "a", most=1, per_s=1e-6) == 2  # what was left out is said by the next one
    with config.set({"backend": "none"}):
        for _ in range(3):
            Told(most=2, per_s=3_600)(SimpleNamespace(name="etl"), Failed(message="x"))
        assert len(texts) == 7


def test_a_limit_holds_if_who_looked_at_the_clock_first_comes_last(monkeypatch: pytest.MonkeyPatch):
    with open_store("memory://") as store:
        assert isinstance(store, RelationalRunStore)
        times = iter([100_000_000, 99_999_000, 160_000_000])
        monkeypatch.setattr(store.database, "now", lambda: next(times))
        assert [admit(store.database, "a", most=1, per_s=60) for _ in range(3)] == [0, None, 1]


def test_a_flow_tells_of_its_failure_and_not_of_its_success():
    notify = Kept()
    flow_of(fails, state_handlers=[notify]).run()
    flow_of(works, state_handlers=[notify]).run()
    assert len(notify.texts) == 1
    assert notify.texts[0].startswith("etl: Failed: ")


def test_it_is_an_on_failure_and_tells_of_the_states_that_are_wanted():
    notify, of_success = Kept(), Kept(states=["Success"])
    flow_of(fails, on_failure=notify).run()
    flow_of(works, state_handlers=[of_success]).run()
    assert len(notify.texts) == 1
    assert of_success.texts == ["etl: Success: all reference tasks succeeded"]


def test_a_notifier_that_fails_fails_no_run_and_its_address_is_not_logged(caplog: pytest.LogCaptureFixture):
    state = flow_of(works, state_handlers=[Broken(states=["Success"])]).run()
    assert state.is_successful()
    assert "Broken could not tell of" in caplog.text
    assert "ConnectionError" in caplog.text
    assert "secret" not in caplog.text


def test_too_many_messages_are_left_out_and_counted():
    now = [0.0]
    notify = Kept(most=2, per_s=10, clock=lambda: now[0])
    for _ in range(5):
        notify("etl", Running(), Failed(message="x"))
    assert len(notify.texts) == 2
    now[0] = 10.0
    notify("etl", Running(), Failed(message="x"))
    assert notify.texts[2].endswith("(3 messages before this one were left out)")


def test_long_messages_are_shortened():
    notify = Kept()
    notify("etl", Failed(message="x" * 100_000))
    assert len(notify.texts[0]) == 2_000


class Hook(BaseHTTPRequestHandler):
    bodies: list[bytes] = []  # noqa: RUF012  # one server at a time
    status = 200

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.bodies, Hook.status = [], 200
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/services/secret"
        server.shutdown()
        thread.join()


def test_a_webhook_gets_text_as_slack_wants_it(hook: str):
    flow_of(fails, state_handlers=[WebhookNotifier(hook)]).run()
    (body,) = Hook.bodies
    text = json.loads(body)["text"]
    assert text.startswith("etl: Failed")
    assert "<" not in text


def raises_deep() -> Flow:
    parse = task(lambda n: 1 // (n - 2), name="parse")
    with Flow("etl") as flow:
        task(sum, name="total")(parse.map([1, 2, 3]))
    return flow


def test_a_webhook_tells_the_run_what_failed_first_and_where_and_the_page(hook: str):
    flow = raises_deep()
    flow.state_handlers = [WebhookNotifier(hook)]
    with config.set(service__url="https://etl.example.com/flows/"):
        view = flow.run()
    text = json.loads(Hook.bodies[0])["text"]
    line = raises_deep.__code__.co_firstlineno + 1
    assert text.splitlines()[1:] == [
        f"run {view.run_id}",
        "task parse[1]",
        f"{__file__}:{line}",
        f"https://etl.example.com/flows/run?id={view.run_id}",
    ]
    assert text.startswith("etl: Failed: parse[1] failed with ZeroDivisionError")


def test_what_failed_first_is_found_on_record_where_the_process_is_gone(tmp_path: Path):
    with config.set(backend=f"sqlite:///{tmp_path}/runs.db"):
        run_id = raises_deep().run().run_id
        with telling_of(run_id):
            news = bulletin_of("etl", Crashed(message="given up"))
    assert (news.run_id, news.task, news.url) == (run_id, "parse[1]", "")
    assert news.error.startswith("ZeroDivisionError")
    assert news.line.startswith(f"{__file__}:")


BODIES = [
    ({"a": "{state}", "b": ["{task}", 1, {"{flow}": None}]}, {"a": "Failed", "b": ["boom", 1, {"etl": None}]}),
    ('{"a": "{message}", "b": {"c": 1}}', {"a": 'boom failed with ValueError: "<no>"', "b": {"c": 1}}),
    (["{title}"], ['etl: Failed: boom failed with ValueError: "<no>"']),
    (lambda news: {"run": news.what, "error": news.error}, {"run": "etl", "error": 'ValueError: "<no>"'}),
    (lambda news: json.dumps(news.state), "Failed"),
    (lambda news: b"[]", []),
]


@pytest.mark.parametrize(("body", "sent"), BODIES)
def test_the_body_of_a_webhook_is_a_template_or_a_function(hook: str, body: Any, sent: Any):
    @task
    def boom() -> None:
        raise ValueError('"<no>"')

    flow_of(boom, state_handlers=[WebhookNotifier(hook, body=body)]).run()
    assert json.loads(Hook.bodies[0]) == sent


def test_a_body_that_is_plain_text_is_sent_as_it_is(hook: str):
    WebhookNotifier(hook, body="{what} is {state}")("etl", Failed(message="x"))
    assert Hook.bodies == [b"etl is Failed"]


def test_a_body_that_raises_fails_no_run_and_is_told_of(hook: str, caplog: pytest.LogCaptureFixture):
    WebhookNotifier(hook, body=lambda news: 1 / 0)("etl", Failed(message="x"))
    assert Hook.bodies == []
    assert "could not tell of 'etl': ZeroDivisionError" in caplog.text


@given(st.text(), st.text())
def test_whatever_is_in_a_message_a_json_template_stays_json(message: str, flow: str):
    news = Bulletin(what=flow, state="Failed", message=message, flow=flow)
    found = json.loads(fill('{"m": "{message}", "f": ["{flow}"], "n": {}}', news))
    assert found == {"m": message, "f": [flow], "n": {}}


def test_secrets_are_in_no_part_of_a_body(hook: str):
    learn("test", ["correct horse battery"])
    try:
        state = Failed(message="no correct horse battery")
        WebhookNotifier(hook, body=lambda news: news.fields)("correct horse battery", state)
    finally:
        forget("test")
    assert b"correct" not in Hook.bodies[0]
    assert json.loads(Hook.bodies[0])["title"] == "***: Failed: no ***"


@pytest.mark.parametrize(
    ("states", "told"), [(None, ["Late", "Recovered"]), (["Recovered"], ["Recovered"]), (["Failed"], [])]
)
def test_news_of_services_are_told_of_if_they_are_wanted(states: Any, told: list[str]):
    notify = Kept(states=states)
    for kind in ("Late", "Recovered"):
        notify.tell(Bulletin(what="etl", flow="etl", state=kind, message="x", left_out=2))
    assert notify.texts == [f"etl: {kind}: x\n(2 messages before this one were left out)" for kind in told]


def test_a_webhook_is_found_in_the_environment_where_it_is_used(hook: str, monkeypatch: pytest.MonkeyPatch):
    notify = pickle.loads(pickle.dumps(WebhookNotifier(env="HOOK")))
    monkeypatch.setenv("HOOK", hook)
    notify("etl", Failed(message="x"))
    assert len(Hook.bodies) == 1
    assert repr(notify) == "WebhookNotifier(env='HOOK')"


@pytest.mark.parametrize(("status", "told"), [(500, "HTTP 500"), (302, "HTTP 302"), (404, "HTTP 404")])
def test_a_webhook_that_refuses_or_leads_elsewhere_is_told_of(
    hook: str, status: int, told: str, caplog: pytest.LogCaptureFixture
):
    Hook.status = status
    WebhookNotifier(hook)("etl", Failed(message="x"))
    assert told in caplog.text
    assert "secret" not in caplog.text
    assert len(Hook.bodies) == 1


class Mailbox(threading.Thread):
    """A mail server for one message."""

    def __init__(self) -> None:
        super().__init__()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.lines: list[str] = []

    def run(self) -> None:
        connection, _ = self.socket.accept()
        with self.socket, connection, connection.makefile("rw", encoding="utf-8", newline="\r\n") as stream:

            def say(text: str) -> None:
                stream.write(f"{text}\r\n".replace("\r\r", "\r"))
                stream.flush()

            say("220 here")
            for line in stream:
                word = line.split()[0].upper()
                if word == "DATA":
                    say("354 go on")
                    for text in stream:
                        if text.strip() == ".":
                            break
                        self.lines.append(text.rstrip("\r\n"))
                say("221 bye" if word == "QUIT" else "250 fine")
                if word == "QUIT":
                    return


def test_an_e_mail_is_sent_and_no_line_of_a_message_becomes_a_header():
    mailbox = Mailbox()
    mailbox.start()
    notify = EmailNotifier("team@example.com", sender="etl@example.com", host="127.0.0.1", port=mailbox.port)
    notify("etl", Failed(message="first\r\nBcc: all@example.com"))
    mailbox.join(10)
    headers = mailbox.lines[: mailbox.lines.index("")]
    assert "Subject: etl: Failed: first" in headers
    assert "To: team@example.com" in headers
    assert not any(line.startswith("Bcc") for line in headers)
    assert "Bcc: all@example.com" in mailbox.lines


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WebhookNotifier(), "either url= or env="),
        (lambda: WebhookNotifier("file:///etc/passwd"), "begins with https://"),
        (lambda: WebhookNotifier("hooks.example"), "begins with https://"),
        (lambda: EmailNotifier("nobody", sender="a@b"), "expected an address such as team@example.com, found 'nobody'"),
        (lambda: EmailNotifier("a@b\r\nBcc: c@d", sender="a@b"), "expected an address"),
        (lambda: EmailNotifier([], sender="a@b"), "one address or more"),
        (lambda: EmailNotifier("a@b", sender="a@b", username="u"), "in the clear; use starttls=True"),
        (lambda: Kept(most=0), "most=1 or more"),
        (lambda: WebhookNotifier(env="A", body=3), "expected a text, a dict, a list or a function, found 3"),
        (
            lambda: WebhookNotifier(env="A", body={"a": ["{taks}"]}),
            "a bulletin has no {taks}; did you mean 'task'",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str):
    with pytest.raises(OptionError, match=message):
        make()


def test_an_address_is_a_secret():
    assert "secret" not in repr(WebhookNotifier("https://hooks.example/secret"))


def test_success_is_silent_by_default():
    notify = Kept()
    notify("etl", Running(), Success())
    notify("etl", Running())
    assert notify.texts == []


def test_secrets_are_masked_before_a_message_is_shortened():
    notify = Kept()
    learn("test", ["correct horse battery"])
    try:
        notify("etl", Failed(message="the key correct horse battery is refused"))
        notify("etl", Failed(message="x" * 1_980 + "correct horse battery"))
    finally:
        forget("test")
    assert notify.texts[0] == "etl: Failed: the key *** is refused"
    assert "correct" not in notify.texts[1]


def test_a_notifier_that_is_stuck_holds_a_run_up_once_and_counts_what_it_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # given
    monkeypatch.setattr("anabranch.monitoring.notifiers.TIMEOUT_S", 0.05)
    released, sent = threading.Event(), []

    class Stuck(Notifier):
        def send(self, text: str) -> None:
            released.wait(60)
            sent.append(text)

    notify = Stuck()
    # when
    for _ in range(3):
        notify(None, Failed(message="again"))
    released.set()
    for thread in threading.enumerate():
        if thread.name == "anabranch-notifier":
            thread.join(60)
    monkeypatch.setattr("anabranch.monitoring.notifiers.TIMEOUT_S", 60.0)
    notify(None, Failed(message="last"))
    # then
    assert caplog.text.count("has not come back") == 1
    assert len(sent) == 2
    assert "2 messages before this one were left out" in sent[1]

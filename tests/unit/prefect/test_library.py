"""Ready-made tasks of Prefect 1, key-value pairs, artifacts and messages to people."""

from __future__ import annotations

import json
import smtplib
import urllib.request
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from anabranch.prefect import Flow, notices, records, task
from anabranch.prefect import library as lib
from anabranch.prefect.notices import EmailTask, SlackTask, callback_factory, gmail_notifier, slack_notifier
from anabranch.runs.store.opening import current_store
from anabranch.signals import FAIL
from anabranch.states import Failed, Running, Success


def test_a_command_gives_its_last_line_or_all(caplog: pytest.LogCaptureFixture):
    assert lib.ShellTask().run(command="echo a; echo b") == "b"
    assert lib.ShellTask(command="echo a; echo $B", env={"B": "c"}, return_all=True).run() == ["a", "c"]
    assert lib.ShellTask(helper_script="X=3", stream_output=True).run(command="echo $X") == "3"
    assert lib.ShellTask(command="true").run() is None
    assert "3" in caplog.text
    with pytest.raises(TypeError, match="missing required argument: 'command'"):
        lib.ShellTask().run()


def test_a_command_that_fails_fails_its_task(caplog: pytest.LogCaptureFixture):
    with pytest.raises(FAIL, match="Command failed with exit code 3: no"):
        lib.ShellTask(log_stderr=True).run(command="echo no >&2; exit 3")
    assert "no" in caplog.text
    with Flow("f") as flow:
        node = lib.ShellTask(command="exit 1", max_retries=1, retry_delay=0)()
    assert "exit code 1" in flow.run().result[node].message


def test_texts_are_filled_in():
    assert lib.StringFormatter(template="{x}!").run(x=1) == lib.StringFormatter().run("{x}!", x=1) == "1!"
    assert lib.JinjaTemplate(template="{{ x }}!").run(x=1) == "1!"


def test_files(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    assert lib.Copy(str(tmp_path / "a"), str(tmp_path / "b")).run() == tmp_path / "b"
    assert lib.Copy().run(str(tmp_path / "a" / "x.txt"), str(tmp_path / "y.txt")).read_text() == "x"
    assert lib.Move(str(tmp_path / "y.txt"), str(tmp_path / "z.txt")).run() == tmp_path / "z.txt"
    assert lib.Glob(str(tmp_path), "*.txt").run() == [tmp_path / "z.txt"]
    packed = lib.Zip([str(tmp_path / "a"), str(tmp_path / "z.txt")], str(tmp_path / "c.zip")).run()
    assert sorted(zipfile.ZipFile(packed).namelist()) == ["a/", "a/x.txt", "z.txt"]
    assert (lib.Unzip(str(packed), str(tmp_path / "d")).run() / "a" / "x.txt").read_text() == "x"
    lib.Remove(str(tmp_path / "a")).run()
    lib.Remove().run(str(tmp_path / "z.txt"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b", "c.zip", "d"]


def test_databases_of_sqlite(tmp_path: Path):
    db = str(tmp_path / "x.db")
    lib.SQLiteScript(db=db, script="create table t (n int); insert into t values (1), (2);").run()
    assert lib.SQLiteQuery(db=db).run(query="select n from t where n > ?", data=(1,)) == [(2,)]


def test_values():
    assert lib.Constant(3).run() == 3
    assert lib.GetItem().run({"a": 1}, "a") == lib.GetItem(default=1).run({}, "a") == 1
    assert lib.GetAttr().run(1, "real.imag") == lib.GetAttr(default=0).run(1, "nothing") == 0
    with pytest.raises(KeyError):
        lib.GetItem().run({}, "a")
    with pytest.raises(AttributeError):
        lib.GetAttr().run(1, "nothing")
    assert (lib.List().run(1, 2), lib.Tuple().run(1), lib.Set().run(1, 1)) == ([1, 2], (1,), {1})
    assert lib.Dict().run(["a"], [1]) == {"a": 1}
    with pytest.raises(ValueError, match="1 keys, and 2 values"):
        lib.Dict().run(["a"], [1, 2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Add", 9), ("Sub", 5), ("Mul", 14), ("Div", 3.5), ("FloorDiv", 3), ("Mod", 1), ("Pow", 49), ("Equal", False),
        ("NotEqual", True), ("GreaterThan", True), ("GreaterThanOrEqual", True), ("LessThan", False),
        ("LessThanOrEqual", False), ("And", True), ("Or", True),
    ],
)  # fmt: skip
def test_operators(name: str, value: Any):
    with Flow("f") as flow:
        node = getattr(lib, name)()(7, 2)
    assert (flow.run().result[node].result, node.name) == (value, name)


def test_not():
    assert lib.Not().run(0)


# Key-value pairs and artifacts ----------------------------------------------------------------------------------------


def test_values_are_kept_under_keys():
    assert records.list_keys() == []
    assert records.set_key_value("a/b c", {"n": 1}) == "a/b c"
    records.set_key_value(key="a/b c", value=[2])
    assert (records.get_key_value("a/b c"), records.list_keys()) == ([2], ["a/b c"])
    assert (records.delete_key("a/b c"), records.delete_key("a/b c")) == (True, False)
    with pytest.raises(ValueError, match="no value is kept under 'a/b c' on this machine"):
        records.get_key_value("a/b c")


def test_artifacts_are_those_of_the_context():
    @task
    def show() -> None:
        key, link = records.create_markdown_artifact("# title"), records.create_link("https://example.com")
        records.update_markdown_artifact(key, "# another title")
        records.delete_artifact(link)

    with Flow("showing") as flow:
        show()
    run_id = flow.run().run_id
    store = current_store()
    assert store is not None
    shown = [json.loads(row.body) for row in store.artifacts(run_id)]
    assert [each.get("url") or each["text"] for each in shown] == ["# another title", "https://example.com"]


# Messages -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is posted, in place of posting it."""
    sent: list[Any] = []

    class Answer:
        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    def urlopen(request: urllib.request.Request, timeout: float) -> Answer:
        sent.append((request.full_url, json.loads(request.data)))  # type: ignore[arg-type]  # bytes
        return Answer()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "https://hooks.example.com/1")
    return sent


def test_slack_is_told_by_its_webhook(posted: list[Any]):
    SlackTask(message="tea").run()
    SlackTask().run({"blocks": []}, webhook_url="https://other.example.com")
    assert posted == [("https://hooks.example.com/1", {"text": "tea"}), ("https://other.example.com", {"blocks": []})]
    with pytest.raises(ValueError, match="begins with https"):
        SlackTask("x").run(webhook_url="file:///etc/passwd")


def test_notifiers_tell_of_the_states_that_are_wanted(monkeypatch: pytest.MonkeyPatch):
    told: list[tuple[str, str]] = []

    class Told:
        def __init__(self, *args: Any, states: list[str]) -> None:
            assert args in ((), ("https://hooks.example.com/1",))

        def __call__(self, subject: Any, state: Any) -> None:
            told.append((subject.name, state.name))

    monkeypatch.setattr(notices, "WebhookNotifier", Told)
    monkeypatch.setattr(notices, "_Gmail", Told)
    monkeypatch.setenv("HOOK", "https://hooks.example.com/1")
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "https://hooks.example.com/1")
    for notifier in (slack_notifier, gmail_notifier):
        only = notifier(only_states=[Failed])
        assert isinstance(only(task(lambda: 1), Running(), Failed()), Failed)
        only(task(lambda: 1), Running(), Success())
        notifier(ignore_states=[Success])(task(lambda: 1), Running(), Success())
        notifier(task(lambda: 1), Running(), Success())
    slack_notifier(webhook_secret="HOOK")(task(lambda: 1), Running(), Running())
    assert told == [("lambda", "Failed"), ("lambda", "Success")] * 2 + [("lambda", "Running")]


def test_a_callback_is_called_for_the_states_that_pass():
    seen: list[Any] = []
    handler = callback_factory(lambda subject, state: seen.append((subject, state.name)), lambda each: each.is_failed())
    assert handler("x", Running(), Success()).is_successful()
    handler("x", Running(), Failed())
    assert seen == [("x", "Failed")]


def test_mail_is_sent_as_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    sent: list[Any] = []

    class Server:
        def __init__(self, host: str, port: int, context: Any = None) -> None:
            self.at = [host, port, context is not None]

        def __enter__(self) -> Server:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def starttls(self, context: Any) -> None:
            self.at.append("tls")

        def login(self, user: str, password: str) -> None:
            self.at.append(user)

        def send_message(self, message: EmailMessage) -> None:
            sent.append((self.at, message))

    monkeypatch.setattr(smtplib, "SMTP", Server)
    monkeypatch.setattr(smtplib, "SMTP_SSL", Server)
    monkeypatch.setenv("EMAIL_USERNAME", "me@example.com")
    monkeypatch.setenv("EMAIL_PASSWORD", "p")
    (tmp_path / "a.txt").write_text("a")
    EmailTask("hello\nBcc: x", msg="<b>", email_to="a@example.com, b@example.com").run()
    EmailTask().run(
        "s", msg_plain="t", email_to="a@example.com", email_to_cc="c@example.com", smtp_server="host", smtp_port=25,
        smtp_type="STARTTLS", attachments=[str(tmp_path / "a.txt")],
    )  # fmt: skip
    EmailTask("s", "m", "a@example.com", smtp_type="INSECURE").run()
    notices._Gmail(states=["Failed"]).send("first\nsecond")
    assert [at for at, _ in sent] == [
        ["smtp.gmail.com", 465, True, "me@example.com"],
        ["host", 25, False, "tls", "me@example.com"],
        ["smtp.gmail.com", 465, False],
        ["smtp.gmail.com", 465, True, "me@example.com"],
    ]
    assert (sent[0][1]["Subject"], sent[0][1]["To"]) == ("hello Bcc: x", "a@example.com, b@example.com")
    assert (sent[1][1]["Cc"], [each.get_filename() for each in sent[1][1].iter_attachments()]) == (
        "c@example.com",
        ["a.txt"],
    )
    assert (sent[3][1]["Subject"], sent[3][1]["To"]) == ("first", "me@example.com")
    with pytest.raises(ValueError, match="expected SSL, STARTTLS or INSECURE, found 'x'"):
        EmailTask("s", "m", "a@example.com", smtp_type="x").run()

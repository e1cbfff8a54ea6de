"""Who is told of runs that cannot tell themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, config, task
from anabranch.base import known_secrets
from anabranch.errors import SealError
from anabranch.flows.news import pack_notifiers, tell, tell_notifiers
from anabranch.flows.registered import load_registered, register_target
from anabranch.notifiers import Bulletin, EmailNotifier, Notifier, WebhookNotifier
from anabranch.runs.registry.registration import registry
from anabranch.runs.store.flows import FlowTable
from anabranch.states import Cancelled, Crashed, Failed

FILE = """
from pathlib import Path
from anabranch import Flow
from anabranch.notifiers import Notifier

def write(text):
    with open("heard", "a") as file:
        file.write(f"{text}\\n")

class Told(Notifier):
    def __init__(self, name, **options):
        super().__init__(**options)
        self.name = name
    def send(self, text):
        with open("heard", "a") as file:
            file.write(f"{self.name}: {text}\\n")

class Unkept(Told):
    def __reduce__(self):
        raise TypeError("never pickled")

both = Told("both")

def on_failure(flow, state):
    write(f"function: {flow.name}: {state.name}")

def handler(flow, old, new):
    write(f"handler: {flow.name}: {old.name} {new.name}")

etl = Flow("etl", on_failure=both, state_handlers=[both, Told("other"), handler])
own = Flow("own", on_failure=on_failure, state_handlers=[Unkept("unkept")])
asked = Flow("asked", on_failure=Told("failure", states="TimedOut"), state_handlers=[Told("ends", states="Cancelled")])
raising = Flow("raising", on_failure=lambda flow, state: 1 / 0, state_handlers=[lambda *states: 1 / 0, Told("last")])
silent = Flow("silent")
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        Path("jobs.py").write_text(FILE)
        register_target("jobs.py")
        yield tmp_path


def flows() -> FlowTable:
    return registry()[1]


def heard() -> list[str]:
    return Path("heard").read_text().splitlines() if Path("heard").exists() else []


ENDS = [
    (
        "etl",
        Crashed("gone"),
        ["both: etl: Crashed: gone", "other: etl: Crashed: gone", "handler: etl: Running Crashed"],
    ),
    ("etl", Cancelled(), ["both: etl: Cancelled", "other: etl: Cancelled", "handler: etl: Running Cancelled"]),
    ("own", Failed(), ["unkept: own: Failed", "function: own: Failed"]),
    ("asked", Failed(), []),
    ("asked", Cancelled(), ["ends: asked: Cancelled"]),
    ("raising", Failed("x"), ["last: raising: Failed: x"]),
    ("silent", Failed(), []),
]


@pytest.mark.parametrize(("name", "state", "told"), ENDS)
def test_each_is_told_once_of_what_it_asked_for(name: str, state: Any, told: list[str]):
    tell(flows(), name, state)
    assert heard() == told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("etl", ["both: etl: Late: due", "other: etl: Late: due"]),
        ("own", ["unkept: own: Late: due"]),
        ("asked", []),
        ("raising", ["last: raising: Late: due"]),
        ("silent", []),
    ],
)
def test_notifiers_are_told_of_what_is_no_state_and_other_handlers_are_not(name: str, told: list[str]):
    tell_notifiers(flows(), Bulletin(what=name, flow=name, state="Late", message="due"))
    assert heard() == told


def test_notifiers_that_the_registry_keeps_are_told_such_news_where_the_file_does_not_load(
    caplog: pytest.LogCaptureFixture,
):
    Path("jobs.py").write_text("1 +")
    tell_notifiers(flows(), Bulletin(what="etl", flow="etl", state="Late"))
    assert heard() == ["both: etl: Late", "other: etl: Late"]
    assert "not all notifiers of flow etl are told that it is Late" in caplog.text


@pytest.mark.parametrize("broken", ["import no_such_module", "1 +", "", None])
def test_notifiers_are_told_where_the_file_does_not_load(broken: str | None):
    Path("jobs.py").unlink()
    if broken is not None:
        Path("jobs.py").write_text(broken)
    tell(flows(), "etl", Failed("not loaded"))
    assert heard() == ["both: etl: Failed: not loaded", "other: etl: Failed: not loaded"]


def test_nothing_is_loaded_that_need_not_be():
    Path("jobs.py").write_text("open('loaded', 'w')")
    tell(flows(), "etl", Failed(), loads=False)
    assert len(heard()) == 2
    assert not Path("loaded").exists()


def test_a_flow_that_nobody_knows_any_more_tells_nobody(caplog: pytest.LogCaptureFixture):
    flows().remove("etl")
    tell(flows(), "etl", Failed())
    assert heard() == []
    assert "not all handlers of flow etl are told of a run that is Failed" in caplog.text


def test_notifiers_that_do_not_load_are_told_with_the_flow(caplog: pytest.LogCaptureFixture):
    record = flows().get("etl")
    flows().put(replace(record, notifiers=b"damaged"), now=record.changed)  # type: ignore[arg-type]  # it has been put
    tell(flows(), "etl", Failed())
    assert heard() == ["both: etl: Failed", "other: etl: Failed", "handler: etl: Running Failed"]
    assert "the notifiers of flow etl do not load" in caplog.text


def test_notifiers_are_loaded_by_their_seal_only():
    with config.set({"service.key": "a key that nobody else has"}):
        register_target("jobs.py")
        record = flows().get("etl")
        load_registered(record)
        other = flows().get("asked").notifiers
        for changed in (other, None):
            with pytest.raises(SealError, match="changed since"):
                load_registered(replace(record, notifiers=changed))
        flows().put(replace(record, notifiers=other), now=record.changed)  # type: ignore[arg-type]  # it has been put
        tell(flows(), "etl", Failed())
    assert heard() == []


# What the registry keeps ----------------------------------------------------------------------------------------------


class Pager(Notifier):
    def __init__(self, **held: Any) -> None:
        super().__init__()
        self.__dict__.update(held)


@task
def one() -> int:
    return 1


def packed(handler: Any) -> bytes | None:
    with Flow("etl", on_failure=handler) as flow:
        one()
    return pack_notifiers(flow)


@pytest.mark.parametrize(
    "handler",
    [
        WebhookNotifier(env="HOOK_URL"),
        EmailNotifier("a@b.c", sender="d@e.f", starttls=True, username="ann", password_env="MAIL_PASSWORD"),
        Pager(pager="17", token="", api_key_env="PAGER_KEY"),
    ],
)
def test_notifiers_are_kept(handler: Notifier):
    assert packed(handler)


@pytest.mark.parametrize(
    "handler",
    [
        WebhookNotifier("https://hooks.example.com/swordfish"),
        Pager(token="swordfish"),
        Pager(webhook_url="swordfish"),
        WebhookNotifier(env="HOOK", body={"payload": {"api_key": "whatever"}}),
        Pager(within=["swordfish"]),
        Pager(within={"variable": "a-variable-of-the-environment"}),
        lambda flow, state: None,
        None,
    ],
)
def test_secrets_and_functions_are_not_kept(handler: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAGER_TOKEN", "a-variable-of-the-environment")
    known_secrets.learn("test", ["swordfish"])
    try:
        assert packed(handler) is None
    finally:
        known_secrets.forget("test")

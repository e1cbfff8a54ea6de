"""What is told of runs that ended with their processes, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from anabranch import config
from anabranch.flows.registered import register_target
from anabranch.notifiers import Bulletin
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.store.slots import Slot
from anabranch.service.work.courier import Courier

FILE = """
from pathlib import Path
from anabranch import Flow
from anabranch.notifiers import Notifier

HEARD = Path(__file__).parent / "heard"

class Told(Notifier):
    def send(self, text):
        with HEARD.open("a") as file:
            file.write(text + "\\n")

def handler(flow, old, new):
    with HEARD.open("a") as file:
        file.write(f"handler: {new.name}\\n")

etl = Flow("etl", on_failure=Told(), state_handlers=[handler])
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        (tmp_path / "jobs.py").write_text(FILE)
        register_target(f"{tmp_path}/jobs.py")
        yield tmp_path


def told(*run_ids: str) -> None:
    """Tell of runs, as of such that crashed."""
    store, _, queue = registry()
    now = read_clock(store)
    queue.add([Slot(run_id, "etl", now) for run_id in run_ids], now=now)
    for slot in queue.claim("me:1", len(run_ids), now=now, lease_s=30):
        queue.finish(slot, "Crashed", "gone", now=now)
    courier = Courier()
    for run_id in run_ids:
        courier.tell(run_id)
    courier.close(most_s=120)


def test_runs_are_told_of_one_after_another(home: Path):
    told("a", "b")
    assert (home / "heard").read_text().splitlines() == ["etl: Crashed: gone", "handler: Crashed"] * 2


def test_a_flow_that_kills_who_loads_it_is_told_of_by_what_the_registry_keeps(
    home: Path, caplog: pytest.LogCaptureFixture
):
    (home / "jobs.py").write_text("import os; os._exit(3)")
    told("a", "b")
    assert (home / "heard").read_text().splitlines() == ["etl: Crashed: gone"] * 2
    assert "not all who asked for it may have been told of run a: its process ended with 3" in caplog.text


def test_a_schedule_that_cannot_be_followed_is_told_of_once_whichever_services_find_that(home: Path):
    for _ in range(2):
        courier = Courier()
        courier.tell_of_schedule("etl", "KeyError: 'calendar'")
        courier.close(most_s=120)
    why = "its schedule cannot be followed, and is tried again: KeyError: 'calendar'"
    assert (home / "heard").read_text().splitlines() == [f"etl: Failed: {why}", "handler: Failed"]


def test_a_courier_with_nothing_to_tell_ends_at_once():
    Courier().close()


OURS = """
from pathlib import Path
from anabranch.notifiers import Notifier

class Told(Notifier):
    def send_bulletin(self, news):
        with (Path(__file__).parent / "ours").open("a") as file:
            file.write(f"{news.details}\\n")

class Hanging(Notifier):
    def send(self, text):
        raise ConnectionError("https://hooks.example/secret")

notify, broken, other = Told(), Hanging(), 7
"""


def test_the_services_own_notifiers_are_told_of_runs_and_news_and_one_that_fails_is_logged(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    # given
    (home / "ours_of_this_test.py").write_text(OURS)
    monkeypatch.setenv("PYTHONPATH", f"{home}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    store, _, queue = registry()
    now = read_clock(store)
    queue.add([Slot("a", "etl", now)], now=now)
    (slot,) = queue.claim("me:1", 1, now=now, lease_s=30)
    queue.finish(slot, "Failed", "gone", now=now)
    names = (
        "missing_module:notify",
        "NO_SUCH_VARIABLE",
        *(f"ours_of_this_test:{n}" for n in ("broken", "other", "notify")),
    )
    # when
    with config.set(service__notifiers=" ".join(names), service__url="https://etl.example.com"):
        courier = Courier()
        courier.tell_of_runs({"a": 3})
        courier.tell_news(Bulletin(what="etl", flow="etl", state="Late", message="due"))
        courier.close(most_s=120)
    # then
    link = "https://etl.example.com/run?id=a"
    left_out = "(3 messages before this one were left out)"
    assert (home / "ours").read_text().splitlines() == ["etl: Failed: gone", "run a", link, left_out, "etl: Late: due"]
    assert (home / "heard").read_text() == "etl: Late: due\n"  # a handler that is no notifier is told of states only
    logged = capfd.readouterr().err
    assert "service.notifiers: missing_module:notify cannot be imported: ModuleNotFoundError" in logged
    assert "service.notifiers: ours_of_this_test:other is no notifier of anabranch.notifiers, but a int" in logged
    assert "WebhookNotifier could not tell of 'etl': the environment has no NO_SUCH_VARIABLE" in logged
    assert "could not tell of 'etl': ConnectionError" in logged
    assert "secret" not in logged
